"""Weighted votes of labelled examples for their classes, and how often they select the target class.

With weight a_i and label y_i of example i, the share of class c is

    sum_i a_i 1[y_i = c] / sum_i a_i
"""

from __future__ import annotations

import numpy as np


def votes(weights: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Compute the share of the weights that each class receives, as in the module's equation.

    Args:
        weights: Non-negative weights a_i, shape (N, H, D).
        labels: Class of each demonstration, shape (N, D); -1 counts for no class.
        classes: Number of classes, C.

    Returns:
        Shape (N, H, C); equal shares where all weights are 0.
    """
    one_hot = (labels[..., None] == np.arange(classes)).astype(float)  # (N, D, C)
    summed = weights @ one_hot  # (N, H, C)
    total = summed.sum(-1, keepdims=True)
    return np.divide(summed, total, out=np.full_like(summed, 1 / classes), where=total > 0)


def agreement(shares: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Compute whether the class with the largest share is the target class.

    A tie between k classes that include the target counts as 1 / k.

    Args:
        shares: Share of each class, shape (N, H, C).
        target: Target class of each prompt, shape (N,).

    Returns:
        Values between 0 and 1, shape (N, H).
    """
    best = shares == shares.max(-1, keepdims=True)  # (N, H, C)
    return best[np.arange(len(target)), :, target] / best.sum(-1)
