"""Reference implementation of attention to each class's label words (section 2.3, appendix E).

The attention is that of a prompt's last position. The module shares no code with the package: it uses one prompt at a time, and
the attention matrices that transformers' own eager attention returns.
"""

from __future__ import annotations

import numpy as np
import torch


def class_attention(model, ids, anchors, demo_labels, classes) -> np.ndarray:
    """Sum A_l(q, p) over heads and over the demonstrations of each class, shape (L, C)."""
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
    """Compute the share of (positive, negative) pairs in the correct order; a tie counts one half."""
    pairs = [(s, t) for s, p in zip(scores, positive, strict=True) if p for t, n in zip(scores, positive, strict=True) if not n]
    return sum(1.0 if s > t else 0.5 if s == t else 0.0 for s, t in pairs) / len(pairs)


def one_versus_one(scores, predicted, raw=False) -> float:
    """Compute the macro average, over pairs of predicted classes, of the two one-sided AUCs.

    Rows are divided by their sums.
    """
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
