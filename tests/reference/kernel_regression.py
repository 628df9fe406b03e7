"""Reference implementation of attention to demonstrations and of reconstruction.

It follows the definitions (Han et al., TMLR 2025, sections 5.2 and 5.5). It shares no code with the package: it uses one prompt
at a time, the attention matrices that transformers' own eager attention returns, and spans that are found token by token from
the characters in the prompts table.
"""

from __future__ import annotations

import math

import torch


def demonstration_tokens(row, ids_and_offsets, before, drop_first):
    """Find the tokens of each demonstration and those of its label word, as lists of positions.

    Args:
        row: Row of a prompts table. Its demonstrations begin with a piece of the template.
        ids_and_offsets: (id, (start, end)) of each token of the text.
        before: Number of tokens that the model reads before the text.
        drop_first: Whether to leave out position 0.
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
    """Return the attention of the last position, as [layer][head][position], and its logits."""
    model.set_attn_implementation("eager")
    with torch.inference_mode():
        output = model(input_ids=torch.tensor([ids]), output_attentions=True, use_cache=False)
    return [[head[-1].tolist() for head in layer[0]] for layer in output.attentions], output.logits[0, -1]


def pooled(row_weights, demonstrations):
    """Pool one head's row into one number per demonstration, for each pooling."""
    return {
        "max": [max(row_weights[t] for t in tokens) for tokens, _ in demonstrations],
        "mean": [sum(row_weights[t] for t in tokens) / len(tokens) for tokens, _ in demonstrations],
        "label": [sum(row_weights[t] for t in label) for _, label in demonstrations],
    }


def reconstruction(weights, labels, classes):
    """Compute each class's share of the weights, as a list."""
    total = sum(weights)
    return [sum(a for a, y in zip(weights, labels, strict=True) if y == c) / total for c in range(classes)]


def resampled(values, bins):
    """Interpolate values linearly at equally spaced points between the first and the last."""
    result = []
    for number in range(bins):
        at = number * (len(values) - 1) / (bins - 1)
        below = min(math.floor(at), len(values) - 1)
        above = min(below + 1, len(values) - 1)
        result.append(values[below] + (at - below) * (values[above] - values[below]))
    return result


def kernel_regression(cosines, labels, classes, tau):
    """Compute each class's share with K = exp(cos / tau) (eq. 6)."""
    return reconstruction([math.exp(cosine / tau) for cosine in cosines], labels, classes)
