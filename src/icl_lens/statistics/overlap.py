"""Overlap of two sets of tokens."""

from __future__ import annotations

import numpy as np


def jaccard(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Jaccard index of two sets of tokens per row: |intersection| / |union|.

    Args:
        first: Token ids, no id twice in a row, shape (N, k).
        second: The same of another run, shape (N, k').

    Returns:
        Shape (N,), between 0 and 1.
    """
    first, second = np.asarray(first), np.asarray(second)
    common = (first[:, :, None] == second[:, None, :]).any(-1).sum(-1)  # (N,)
    return common / (first.shape[1] + second.shape[1] - common)
