"""Reference implementation of the contributions of demonstrations, from the equations. It shares no code with the package.

It processes one prompt at a time with transformers' own eager attention. The prompt of each subset is written from the template
and tokenized as a whole. A Shapley value is the mean over all orders of the players.
"""

from __future__ import annotations

import math
from itertools import combinations, permutations

import numpy as np
import torch

from . import label_words
from .edge_cuts import cut_logits, gold_margin
from .saliency import head_products

CONTENT_FREE = ("N/A", "", "[MASK]")


def prompt_ids(tokenizer, template, names, demonstrations, query) -> list[int]:
    """Write and tokenize a prompt.

    Args:
        tokenizer: The tokenizer, which adds its BOS token if it has one.
        template: Template with ``{text}`` and ``{label}``.
        names: The label words.
        demonstrations: Pairs of a text and a class index.
        query: Text of the query.
    """
    parts = [template.replace("{text}", text).replace("{label}", names[label]) for text, label in demonstrations]
    parts.append(template.replace("{text}", query).replace("{label}", ""))
    return tokenizer("\n".join(parts)).input_ids


@torch.no_grad()
def last_logits(model, ids) -> torch.Tensor:
    """Compute the logits at the last position, shape (V,)."""
    model.set_attn_implementation("eager")
    return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]


def first_tokens(words) -> list[int]:
    return [word[0] for word in words]


def subsets(players):
    return [s for size in range(players + 1) for s in combinations(range(players), size)]


def scores(model, ids, words, whole) -> np.ndarray:
    """Compute the scores of the classes, shape (C,).

    Args:
        model: A causal language model.
        ids: Token ids of a prompt.
        words: Token ids of each label word.
        whole: Whether the score is the log-probability of the whole label word, instead of the logit of its first token.
    """
    if not whole:
        return last_logits(model, ids)[first_tokens(words)].double().numpy()
    with torch.no_grad():
        return label_words.scores(model, ids, words).double().numpy()


def deleted(model, tokenizer, template, names, words, whole, demonstrations, query) -> dict[tuple, np.ndarray]:
    """Compute the scores of the classes for each subset of the demonstrations, shape (C,) each."""
    found = {}
    for s in subsets(len(demonstrations)):
        ids = prompt_ids(tokenizer, template, names, [demonstrations[i] for i in s], query)
        found[s] = scores(model, ids, words, whole)
    return found


def calibrated(model, tokenizer, template, names, words, whole, demonstrations, of_subsets) -> dict[tuple, np.ndarray]:
    """Compute the calibrated scores of each subset, up to a constant, from the probabilities of the label words."""
    found = {}
    for s in subsets(len(demonstrations)):
        total = np.zeros(len(words))
        for query in CONTENT_FREE:
            ids = prompt_ids(tokenizer, template, names, [demonstrations[i] for i in s], query)
            if whole:
                total += np.exp(scores(model, ids, words, True)) / len(CONTENT_FREE)
            else:
                total += last_logits(model, ids).double().softmax(-1)[first_tokens(words)].numpy() / len(CONTENT_FREE)
        prior = total / total.sum()
        found[s] = of_subsets[s] - np.log(prior)
    return found


def masked(model, ids, words, whole, owners) -> dict[tuple, np.ndarray]:
    """Compute the scores of the classes where no later demonstration and no token of the query sees the missing ones.

    Args:
        model: A causal language model.
        ids: Token ids of the prompt with all demonstrations.
        words: Token ids of each label word.
        whole: See :func:`scores`.
        owners: Demonstration of each token; None for the tokens before the first one; the number of demonstrations for a token
            of the query.
    """
    players = max(owner for owner in owners if owner is not None)
    layers = range(model.config.get_text_config().num_hidden_layers)

    def edges(s, length):
        """Return the edges to cut, shape (length, length). Appended tokens belong to the query."""
        of_all = [*owners, *[players] * (length - len(owners))]
        cut = np.zeros((length, length), dtype=bool)
        for t in range(length):
            for j in range(t):
                owner = of_all[j]
                cut[t, j] = owner is not None and owner < players and owner not in s and of_all[t] != owner
        return cut

    found = {}
    for s in subsets(players):
        if not whole:
            found[s] = cut_logits(model, ids, edges(s, len(ids)), layers)[0][first_tokens(words)].double().numpy()
            continue

        def edited(layer, weights, s=s):
            kept = weights * ~torch.as_tensor(edges(s, weights.shape[-1]))
            return kept / kept.sum(-1, keepdim=True)

        with torch.no_grad():
            found[s] = label_words.scores(model, ids, words, edited).double().numpy()
    return found


@torch.no_grad()
def unlabelled(model, ids, words, whole, label_tokens) -> dict[tuple, np.ndarray]:
    """Compute the scores of the classes where the label words of the missing demonstrations are neutral.

    Args:
        model: A causal language model.
        ids: Token ids of the prompt with all demonstrations.
        words: Token ids of each label word.
        whole: See :func:`scores`. If it is set, a token becomes the mean of the tokens at its place in those label words that
            are long enough; otherwise it becomes the mean of the first tokens.
        label_tokens: Positions of the label word of each demonstration.
    """
    model.set_attn_implementation("eager")
    embed = model.get_input_embeddings()

    def mean(tokens):
        return sum(embed(torch.tensor([int(i)]))[0] for i in tokens) / len(tokens)

    found = {}
    for s in subsets(len(label_tokens)):
        values = []
        for word in words:
            embeddings = embed(torch.tensor([[*ids, *(word[:-1] if whole else [])]])).clone()
            for i, positions in enumerate(label_tokens):
                if i not in s:
                    for n, position in enumerate(positions):
                        place = n if whole else 0
                        embeddings[0, position] = mean([each[place] for each in words if len(each) > place])
            logits = model(inputs_embeds=embeddings, use_cache=False).logits[0, len(ids) - 1 :].double()
            if whole:
                values.append(sum(logits[n].log_softmax(-1)[token].item() for n, token in enumerate(word)))
            else:
                values.append(logits[0, word[0]].item())
        found[s] = np.array(values)
    return found


def margins(scores, gold) -> dict[tuple, float]:
    return {s: gold_margin(values, gold) for s, values in scores.items()}


def shapley(values, players) -> np.ndarray:
    """Compute the mean, over all orders, of what each player adds to those before it."""
    phi = np.zeros(players)
    for order in permutations(range(players)):
        for place, player in enumerate(order):
            phi[player] += values[tuple(sorted(order[: place + 1]))] - values[tuple(sorted(order[:place]))]
    return phi / math.factorial(players)


def measures(model, ids, words, whole, gold, anchors, spans, texts) -> dict[str, list[float]]:
    """Compute what saliency, attention and kernel regression say about each demonstration.

    Args:
        model: A causal language model.
        ids: Token ids of the prompt.
        words: Token ids of each label word.
        whole: See :func:`scores`.
        gold: Class of the query.
        anchors: The anchors of each demonstration.
        spans: The [start, stop) tokens of each demonstration.
        texts: The tokens of each demonstration's text.
    """
    layers = head_products(model, ids, first_tokens(words), gold)
    q = len(ids) - 1
    names = ("saliency_label", "saliency_text", "saliency_forecast", "attention", "kernel")
    found = {name: [0.0] * len(anchors) for name in names}
    flows = label_words.signed_flow(model, ids, words, gold) if whole else [_edges(products) for products, _ in layers]
    for flow, (_, weights) in zip(flows, layers, strict=True):
        largest = [[weights[h, q, start:stop].max() for start, stop in spans] for h in range(len(weights))]
        for i, group in enumerate(anchors):
            for (row, column), value in flow.items():
                if column in group and (row == q or isinstance(row, tuple)):
                    found["saliency_label"][i] += abs(value)
                    found["saliency_forecast"][i] -= value
                if row in group and column in texts[i]:
                    found["saliency_text"][i] += abs(value)
            found["attention"][i] += sum(weights[:, q, anchor].mean() for anchor in group) / len(layers)
            # A head with a sliding window may attend to no demonstration.
            shares = [row[i] / sum(row) if sum(row) else 1 / len(row) for row in largest]
            found["kernel"][i] += float(np.mean(shares)) / len(layers)
    return found


def _edges(products) -> dict[tuple, float]:
    """Return the sum over heads along each edge: (position, earlier position) -> value."""
    summed = products.sum(0)
    return {(t, j): summed[t, j] for t in range(len(summed)) for j in range(t)}


@torch.no_grad()
def detail(model, ids, starts, labels, classes, gold) -> list[float]:
    """Compute the influence scores of DETAIL with an explicit Hessian.

    Args:
        model: A causal language model.
        ids: Token ids of the prompt.
        starts: Position of the first token of each label word.
        labels: Class of each demonstration.
        classes: Number of classes.
        gold: Class of the query.
    """
    layers = model.config.get_text_config().num_hidden_layers
    depth = max(1, round(15 * layers / 32))
    model.set_attn_implementation("eager")
    output = model(input_ids=torch.tensor([ids]), use_cache=False, output_hidden_states=True)
    states = output.hidden_states[depth][0].double().numpy()
    x = np.stack([states[start - 1] for start in starts])
    y = np.eye(classes)[labels]
    hessian = x.T @ x + np.eye(x.shape[1])
    w = np.linalg.inv(hessian) @ x.T @ y
    target = np.eye(classes)[gold]
    found = []
    for state, label in zip(x, y, strict=True):
        own = np.outer(state, state @ w - label) + w
        of_query = np.outer(states[-1], states[-1] @ w - target) + w
        found.append(float(np.trace(of_query.T @ np.linalg.inv(hessian) @ own)))
    return found
