"""Attention of a prompt's last position to each class's label words, from the definition (section 2.3, appendix E).

It shares nothing with the package: one prompt at a time, transformers' own eager attention and returned matrices.
"""

from __future__ import annotations

import numpy as np
import torch


def class_attention(model, ids, anchors, demo_labels, classes) -> np.ndarray:
    """Sum over heads, and over the demonstrations of a class, of A_l(q, p), shape (L, C)."""
    model.set_attn_implementation("eager")
    with torch.inference_mode():
        attentions = model(
            input_ids=torch.tensor([ids], device=model.device), output_attentions=True, use_cache=False
        ).attentions
    q = len(ids) - 1
    result = np.zeros((len(attentions), classes))
    for layer, matrix in enumerate(attentions):
        for p, label in zip(anchors, demo_labels, strict=True):
            for head in matrix[0]:
                result[layer, label] += float(head[q, p])
    return result


def auc_by_counting(scores, positive) -> float:
    """The share of (positive, negative) pairs that are in the right order, ties one half."""
    pairs = [(s, t) for s, p in zip(scores, positive, strict=True) if p for t, n in zip(scores, positive, strict=True) if not n]
    return sum(1.0 if s > t else 0.5 if s == t else 0.0 for s, t in pairs) / len(pairs)


def one_versus_one(scores, predicted, raw=False) -> float:
    """Macro average over pairs of predicted classes of the two one-sided AUCs, rows divided by their sums."""
    kept = sorted(set(predicted))
    if len(kept) == 2 and raw:
        return auc_by_counting([row[kept[1]] for row in scores], [y == kept[1] for y in predicted])
    rows = [[row[c] / sum(row[k] for k in kept) for c in kept] for row in scores]
    values = []
    for i, a in enumerate(kept):
        for j, b in enumerate(kept):
            if i != j:
                pair = [(row[i], y == a) for row, y in zip(rows, predicted, strict=True) if y in (a, b)]
                values.append(auc_by_counting([s for s, _ in pair], [p for _, p in pair]))
    return sum(values) / len(values)
