"""Attention to demonstrations and what it reconstructs, from the definitions (Han et al., TMLR 2025, sections 5.2 and 5.5).

It shares nothing with the package: one prompt at a time, transformers' own eager attention and returned matrices, and spans
found token by token from the prompts table's own characters.
"""

from __future__ import annotations

import math

import torch


def demonstration_tokens(row, ids_and_offsets, before, drop_first):
    """For each demonstration: its tokens, and those of its label word among them, as lists of positions.

    Args:
        row: A row of a prompts table; its demonstrations begin with a template's piece.
        ids_and_offsets: (id, (start, end)) of each token of the text.
        before: How many tokens the model reads before the text.
        drop_first: Whether position 0 is left out.
    """
    count = len(row["demo_labels"])
    pieces = len(row["prefix_spans"]) // (count + 1)
    found = []
    for number in range(count):
        start = row["prefix_spans"][number * pieces][0]
        label_start, label_end = row["label_spans"][number]
        tokens, label = [], []
        for place, (_, (_, end)) in enumerate(ids_and_offsets):
            if start < end <= label_end and not (drop_first and place + before == 0):
                tokens.append(place + before)
                if end > label_start:
                    label.append(place + before)
        found.append((tokens, label))
    return found


def last_rows(model, ids):
    """The last position's attention, as [layer][head][position], and the logits there."""
    model.set_attn_implementation("eager")
    with torch.inference_mode():
        output = model(input_ids=torch.tensor([ids]), output_attentions=True, use_cache=False)
    return [[head[-1].tolist() for head in layer[0]] for layer in output.attentions], output.logits[0, -1]


def pooled(row_weights, demonstrations):
    """By pooling, one number a demonstration, of one head's row."""
    return {
        "max": [max(row_weights[t] for t in tokens) for tokens, _ in demonstrations],
        "mean": [sum(row_weights[t] for t in tokens) / len(tokens) for tokens, _ in demonstrations],
        "label": [sum(row_weights[t] for t in label) for _, label in demonstrations],
    }


def reconstruction(weights, labels, classes):
    """Each class's share of the weights, as a list."""
    total = sum(weights)
    return [sum(a for a, y in zip(weights, labels, strict=True) if y == c) / total for c in range(classes)]


def resampled(values, bins):
    """Values at equally many places between the first and the last, by linear interpolation."""
    result = []
    for number in range(bins):
        at = number * (len(values) - 1) / (bins - 1)
        below = min(math.floor(at), len(values) - 1)
        above = min(below + 1, len(values) - 1)
        result.append(values[below] + (at - below) * (values[above] - values[below]))
    return result


def kernel_regression(cosines, labels, classes, tau):
    """Each class's share under K = exp(cos / tau) (eq. 6)."""
    return reconstruction([math.exp(cosine / tau) for cosine in cosines], labels, classes)
