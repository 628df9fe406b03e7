"""Ranks in which rounding errors do not break ties, and Spearman's rank correlation of many pairs at once."""

from __future__ import annotations

import warnings

import numpy as np
from scipy.stats import ConstantInputWarning, pearsonr, rankdata

# Values that differ by about this share of the largest value, or less, count as equal.
_PRECISION = 2.0**-40


def without_rounding_errors(values: np.ndarray) -> np.ndarray:
    """Round values so that equal numbers that were computed in different ways are equal.

    For example, 7 / 36 as the mean of 1/12, 2/12 and 4/12 differs in its last bit from 7 / 36 as the mean of 7/12, 0 and 0. A
    comparison of such values, and their ranks, would otherwise depend on the order of a sum.

    Args:
        values: Values, shape (..., N).

    Returns:
        Multiples of a power of two near 1e-12 of the largest absolute value along the last axis, shape (..., N). NaN stays NaN.
    """
    values = np.asarray(values, dtype=float)
    if not values.size:
        return values
    largest = np.max(np.abs(values), axis=-1, keepdims=True, initial=0, where=np.isfinite(values))  # (..., 1)
    step = np.ldexp(_PRECISION, np.frexp(largest)[1])  # (..., 1)
    return np.round(values / step) * step


def rank(values: np.ndarray) -> np.ndarray:
    """Return ranks from 1 along the last axis, shape (..., N). Ties, up to rounding errors, get the mean of their ranks."""
    return rankdata(without_rounding_errors(values), axis=-1)


def spearman(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Compute Spearman's rank correlation along the last axis; see :func:`rank` for ties.

    ``scipy.stats.spearmanr`` correlates all columns with each other and does not broadcast. This function therefore computes
    ``scipy.stats.pearsonr`` of the ranks. A constant input gives NaN without a warning.

    Args:
        first: Values, shape (..., N).
        second: Values, of a shape that broadcasts with ``first``.

    Returns:
        Correlations, shape (...); NaN where either input is constant or contains NaN, or if N is 1.
    """
    ranks = np.broadcast_arrays(*(rank(values) for values in (first, second)))
    if ranks[0].shape[-1] < 2:
        return np.full(ranks[0].shape[:-1], np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConstantInputWarning)
        return pearsonr(*ranks, axis=-1).statistic
