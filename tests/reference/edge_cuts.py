"""Reference implementation of cut attention edges, from the equations. It shares no code with the package.

It processes one prompt at a time with transformers' own eager attention. After the softmax, the weights of the cut edges are
set to 0 and the other weights of each row are divided by their sum. This equals masking the scores before the softmax.
"""

from __future__ import annotations

import math
import re

import torch

from .isolation import _edited_attention


def cut_logits(model, ids, edges, layers, positions=None) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Compute the logits at the last position, shape (V,), and each layer's attention weights before the cut, (H, T, T) each.

    Args:
        model: A causal language model. It is switched to eager attention.
        ids: Token ids of the prompt.
        edges: True for an edge to cut, shape (T, T).
        layers: Layers in which the edges are cut.
        positions: Position ids; 0, 1, ... by default.
    """

    def edited(layer, weights):
        seen.append(weights[0])
        if layer not in layers:
            return weights
        kept = weights * ~cut
        return kept / kept.sum(-1, keepdim=True)

    seen: list[torch.Tensor] = []
    cut = torch.as_tensor(edges)
    # With a mask, transformers does not take a gap between two position ids as the beginning of another text.
    arguments = {"attention_mask": torch.ones(1, len(ids), dtype=torch.int64)}
    if positions is not None:
        arguments["position_ids"] = torch.tensor([positions])
    model.set_attn_implementation("eager")
    with torch.inference_mode(), _edited_attention(model, edited):
        logits = model(input_ids=torch.tensor([list(ids)]), use_cache=False, **arguments).logits[0, -1]
    return logits, seen


def gold_margin(scores, gold: int) -> float:
    """Compute s_gold - log(sum of exp(s_c) over the other classes c)."""
    return float(scores[gold]) - math.log(sum(math.exp(float(s)) for c, s in enumerate(scores) if c != gold))


def classes_of(text, spans, stop_words, row) -> list[str]:
    """Classify each token of a prompt by its characters.

    Args:
        text: The prompt's text.
        spans: [start, end) characters of each token.
        stop_words: The stop words.
        row: The row of the prompts table: label_spans, text_spans, query_span and prefix_spans.
    """
    kinds = [""] * len(text)
    for character in range(len(text)):
        kinds[character] = " " if text[character].isspace() else "template"
    for start, end in row["text_spans"]:
        for word in re.finditer(r"\w+|[^\w\s]", text[start:end]):
            kind = "stop" if word.group().lower() in stop_words or not word.group().isalnum() else "content"
            for character in range(start + word.start(), start + word.end()):
                kinds[character] = kind
    for start, end in row["label_spans"]:
        for character in range(start, end):
            kinds[character] = " " if text[character].isspace() else "label"
    pieces = len(row["prefix_spans"]) // (len(row["text_spans"]) + 1)
    query = min(row["prefix_spans"][-pieces][0], row["query_span"][0])
    found = []
    for position, (start, end) in enumerate(spans):
        inside = {kinds[character] for character in range(start, end)} - {" "}
        if position == 0:
            found.append("first")
        elif end > query:
            found.append("query")
        elif "label" in inside:
            found.append("label")
        elif found[-1] == "label":
            found.append("after")
        else:
            found.append(next((kind for kind in ("template", "stop", "content") if kind in inside), "template"))
    return found


def edges_of(classes, label_ends, spans, rows, columns):
    """Return the edges of a set, by its definition for each pair of positions: a list of T rows with T booleans.

    Args:
        classes: The class of each token, see :func:`classes_of`.
        label_ends: The end of each demonstration's label word in the text.
        spans: [start, end) characters of each token.
        rows: last, query, label or demonstration.
        columns: A class, all, text, others or earlier.
    """
    length = len(classes)
    demonstration = []
    for t in range(length):
        number = sum(end <= spans[t][0] for end in label_ends)
        demonstration.append(demonstration[-1] if classes[t] == "after" else number)
    found = [[False] * length for _ in range(length)]
    for t in range(length):
        in_query = classes[t] == "query"
        is_row = {
            "last": t == length - 1,
            "query": in_query,
            "label": classes[t] == "label",
            "demonstration": not in_query and classes[t] != "first",
        }[rows]
        for j in range(t):
            inside = classes[j] not in ("query", "first")
            if columns == "first":
                chosen = j == 0
            elif columns == "all":
                chosen = inside
            elif columns == "text":
                chosen = demonstration[j] == demonstration[t] and classes[j] in ("stop", "content")
            elif columns in ("others", "earlier"):
                chosen = inside and demonstration[j] < demonstration[t]
            else:
                chosen = classes[j] == columns
            found[t][j] = is_row and chosen
    return found
