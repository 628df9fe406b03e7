"""Weighted votes of labelled examples for their classes, and how often the class with the largest share is the target.

With a weight a_i of example i and its label y_i, the share of class c is

    sum_i a_i 1[y_i = c] / sum_i a_i
"""

from __future__ import annotations

import numpy as np


def votes(weights: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Each class's share of the weights, the quotient of the equation above.

    Args:
        weights: a_i, shape (N, H, D), none below 0.
        labels: Class of each demonstration, shape (N, D); -1 counts for none.
        classes: How many there are, C.

    Returns:
        Shape (N, H, C); equal shares where all weights are 0.
    """
    one_hot = (labels[..., None] == np.arange(classes)).astype(float)  # (N, D, C)
    summed = weights @ one_hot  # (N, H, C)
    total = summed.sum(-1, keepdims=True)
    return np.divide(summed, total, out=np.full_like(summed, 1 / classes), where=total > 0)


def agreement(shares: np.ndarray, target: np.ndarray) -> np.ndarray:
    """How often the class with the largest share is the target; a tie counts by the chance of a fair draw.

    Args:
        shares: Shape (N, H, C).
        target: Shape (N,).

    Returns:
        Shape (N, H).
    """
    best = shares == shares.max(-1, keepdims=True)  # (N, H, C)
    return best[np.arange(len(target)), :, target] / best.sum(-1)
