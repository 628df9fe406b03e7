"""Loyalty: how far a changed run answers as the plain run of the same prompt does (*Label Words are Anchors*, 2.2 and 3.2).

Label loyalty is the share of prompts whose predicted label stays the same; word loyalty the mean Jaccard overlap of the two
sets of k likeliest tokens. Kept apart from :mod:`icl_lens.statistics`, so that an edit there reruns no study.
"""

from __future__ import annotations

import numpy as np


def label_loyalty(predictions: np.ndarray, plain: np.ndarray) -> float:
    """Share of prompts whose predicted class, shape (N,), is that of the plain run, shape (N,)."""
    return float(np.mean(np.asarray(predictions) == np.asarray(plain)))


def jaccard(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Overlap of two sets of tokens a row: |intersection| / |union|.

    Args:
        first: Token ids, no id twice in a row, shape (N, k).
        second: The same of another run, shape (N, k').

    Returns:
        Shape (N,), between 0 and 1.
    """
    first, second = np.asarray(first), np.asarray(second)
    common = (first[:, :, None] == second[:, None, :]).any(-1).sum(-1)  # (N,)
    return common / (first.shape[1] + second.shape[1] - common)


def word_loyalty(top_tokens: np.ndarray, plain: np.ndarray, k: int) -> float:
    """Mean overlap of the k likeliest tokens with those of the plain run.

    Args:
        top_tokens: Token ids, likeliest first, shape (N, at least k).
        plain: The same of the plain run, shape (N, at least k).
        k: 5 in the paper, 10 in the released notebook for section 2.2.
    """
    return float(jaccard(np.asarray(top_tokens)[:, :k], np.asarray(plain)[:, :k]).mean())
