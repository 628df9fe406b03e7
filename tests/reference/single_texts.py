"""Reference implementation of prediction similarity and its correlation with attention (eq. 9, Figure 4).

It shares no code with the package: it uses one text at a time, all logits, and sums in loops.
"""

from __future__ import annotations

import numpy as np
import torch


def next_token(model, ids) -> np.ndarray:
    """Compute P(o | x) after the tokens of a text, shape (V,)."""
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].double().numpy()
    exponents = np.exp(logits - logits.max())
    return exponents / exponents.sum()


def similarity(model, first, second) -> float:
    """Compute sum_o P(o | x_1) P(o | x_2)."""
    return float(sum(a * b for a, b in zip(next_token(model, first), next_token(model, second), strict=True)))


def pearson(pairs) -> float:
    """Compute Pearson's correlation of (s, a) pairs."""
    n = len(pairs)
    s, a = sum(x for x, _ in pairs) / n, sum(y for _, y in pairs) / n
    shared = sum((x - s) * (y - a) for x, y in pairs)
    return shared / (sum((x - s) ** 2 for x, _ in pairs) * sum((y - a) ** 2 for _, y in pairs)) ** 0.5


def reconstruction(attention, labels) -> int:
    """Return the class with the most attention to its demonstrations in total."""
    votes = {c: sum(a for a, y in zip(attention, labels, strict=True) if y == c) for c in sorted(set(labels))}
    return max(votes, key=votes.get)
