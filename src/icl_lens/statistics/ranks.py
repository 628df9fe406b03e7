"""Spearman's rank correlation of many pairs at once."""

from __future__ import annotations

import warnings

import numpy as np
from scipy.stats import ConstantInputWarning, pearsonr, rankdata


def spearman(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Compute Spearman's rank correlation along the last axis; ties get the mean of their ranks.

    ``scipy.stats.spearmanr`` correlates all columns with each other and does not broadcast. This function therefore computes
    ``scipy.stats.pearsonr`` of the ranks. A constant input gives NaN without a warning.

    Args:
        first: Values, shape (..., N).
        second: Values, of a shape that broadcasts with ``first``.

    Returns:
        Correlations, shape (...); NaN where either input is constant or contains NaN, or if N is 1.
    """
    ranks = np.broadcast_arrays(*(rankdata(values, axis=-1) for values in (first, second)))
    if ranks[0].shape[-1] < 2:
        return np.full(ranks[0].shape[:-1], np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConstantInputWarning)
        return pearsonr(*ranks, axis=-1).statistic
