"""Reference implementation of the study ch_labels for one prompt, from the definitions. It shares no code with the package.

The prompt is written from the task's template, and each quantity comes from a forward pass of the whole prompt in transformers'
eager attention.
"""

from __future__ import annotations

import math

import torch

from . import label_words
from .isolation import isolated_logits, jaccard
from .saliency import saliency


def write(template, texts, words, query) -> tuple[str, list[tuple[int, int]]]:
    """Write a prompt, and return it with the [start, end) characters of its label words.

    Args:
        template: Template with {text} and {label}.
        texts: Texts of the demonstrations.
        words: Label word of each demonstration.
        query: Text of the query.
    """
    before, between = template.split("{text}")[0], template.split("{text}")[1].split("{label}")[0]
    written, spans = "", []
    for text, word in zip(texts, words, strict=True):
        written += before + text + between
        spans.append((len(written), len(written) + len(word)))
        written += word + "\n"
    return written + before + query + between, spans


def tokens(tokenizer, text, spans, words) -> tuple[list[int], list[int], list[int]]:
    """Return the ids of a prompt, the first token of each label span, and the id with which each label word would go on."""
    encoded = tokenizer(text, return_offsets_mapping=True)
    ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
    anchors = [next(t for t, (a, b) in enumerate(offsets) if a < b and start < b <= end) for start, end in spans]
    return ids, anchors, [tokenizer(text + word)["input_ids"][len(ids)] for word in words]


def whole_tokens(tokenizer, text, spans, words, anchor) -> tuple[list[int], list[list[int]], list[list[int]]]:
    """Return the ids of a prompt, the anchors of each label span, and the ids of each label word after the prompt.

    Args:
        tokenizer: A fast tokenizer.
        text: The prompt.
        spans: [start, end) characters of its label words.
        words: The label word of each class.
        anchor: Anchors of a label word: ``first``, ``last`` or ``all`` of its tokens.
    """
    encoded = tokenizer(text, return_offsets_mapping=True)
    ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
    groups = [[t for t, (a, b) in enumerate(offsets) if a < b and start < b <= end] for start, end in spans]
    chosen = {"first": slice(0, 1), "last": slice(-1, None), "all": slice(None)}[anchor]
    return ids, [group[chosen] for group in groups], [tokenizer(text + word)["input_ids"][len(ids) :] for word in words]


def whole_log_probs(model, ids, words) -> list[float]:
    """Return the log-probability of each label word after a prompt, the sum over its tokens."""
    with torch.inference_mode():
        return label_words.scores(model, ids, words).cpu().tolist()


def log_probs(model, ids, label_ids) -> list[float]:
    """Return the log-probability of each label id as the next token."""
    model.set_attn_implementation("eager")
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([ids], device=model.device), use_cache=False).logits[0, -1].cpu().double()
    return [float(logits[i] - logits.logsumexp(0)) for i in label_ids]


def new_labels(name, labels, classes, draw) -> list[int] | None:
    """Return the labels of the demonstrations in a condition; None if they are drawn at random."""
    if name == "inverted":
        return [(label + 1) % classes for label in labels]
    if name == "one":
        return [draw for _ in labels]
    return list(labels) if name in ("gold", "words", "letters", "strings") else [] if name == "none" else None


def mapped(true, labels, gold) -> int:
    """Return the most frequent label of the demonstrations of the gold class, and -1 if there is no unique one."""
    found = [label for own, label in zip(true, labels, strict=True) if own == gold]
    best = [label for label in set(found) if all(found.count(label) > found.count(o) for o in set(found) - {label})]
    return best[0] if best else -1


def calibrated(scores, free) -> tuple[int, list[float]]:
    """Return the calibrated prediction and the probabilities of the classes for content-free queries.

    Args:
        scores: Log-probability of each class.
        free: The same for each content-free query.
    """
    mean = [sum(math.exp(each[c]) for each in free) / len(free) for c in range(len(scores))]
    share = [value / sum(mean) for value in mean]
    ratios = [math.exp(score) / of_class for score, of_class in zip(scores, share, strict=True)]
    return ratios.index(max(ratios)), share


def flow(model, ids, anchors, label_ids, target):
    """Return S_wp, S_pq and S_ww of each layer for the loss of a class, shape (3, L)."""
    return saliency(model, ids, anchors, label_ids, target)


def whole_flow(model, ids, groups, words, target):
    """Return S_wp, S_pq and S_ww of each layer for the loss of a class that whole label words define, shape (3, L)."""
    return label_words.saliency(model, ids, groups, words, target)


def whole_isolated(model, ids, groups, layers, words) -> tuple[bool, float, float]:
    """Return the results of :func:`isolated` for label words of several tokens.

    Args:
        model: A causal language model.
        ids: Token ids of the prompt.
        groups: Isolated positions. They are blocked from all positions before the first one of their group.
        layers: Layers in which they are isolated.
        words: Token ids of each label word.
    """
    edited = label_words.isolating(groups, layers)
    with torch.inference_mode():
        scores = [label_words.scores(model, ids, words, edit) for edit in (None, edited)]
    tops = [label_words.next_token_logits(model, ids, edit) for edit in (None, edited)]
    gaps = [float(each.sort().values.diff()[-5:].min()) for each in tops]
    gaps += [float(each.sort().values.diff()[-1]) for each in scores]
    same = int(scores[0].argmax()) == int(scores[1].argmax())
    return same, jaccard(*(each.topk(5).indices.tolist() for each in tops)), min(gaps)


def isolated(model, ids, positions, layers, label_ids) -> tuple[bool, float, float]:
    """Return whether the prediction stays, the overlap of the top five tokens, and the smallest gap that decides these."""
    before, _ = isolated_logits(model, ids, [], (), "before_softmax")
    after, _ = isolated_logits(model, ids, positions, layers, "before_softmax")
    gaps = [float(each.sort().values.diff()[-5:].min()) for each in (before, after)]
    gaps += [float(each[label_ids].sort().values.diff()[-1]) for each in (before, after)]
    same = int(before[label_ids].argmax()) == int(after[label_ids].argmax())
    return same, jaccard(before.topk(5).indices.tolist(), after.topk(5).indices.tolist()), min(gaps)
