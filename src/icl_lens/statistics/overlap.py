"""Overlap of two sets of tokens."""

from __future__ import annotations

import numpy as np


def jaccard(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Compute the Jaccard index of two sets of tokens in each row: |intersection| / |union|.

    Args:
        first: Token ids, without duplicates within a row, shape (N, k).
        second: Token ids of another run, without duplicates within a row, shape (N, k').

    Returns:
        The index of each row, between 0 and 1, shape (N,).
    """
    first, second = np.asarray(first), np.asarray(second)
    common = (first[:, :, None] == second[:, None, :]).any(-1).sum(-1)  # (N,)
    return common / (first.shape[1] + second.shape[1] - common)
