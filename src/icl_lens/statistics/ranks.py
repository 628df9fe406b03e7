"""Ranks with ties, and Spearman's rank correlation."""

from __future__ import annotations

import numpy as np


def midranks(values: np.ndarray) -> np.ndarray:
    """Return ranks from 1 along the last axis, of the same shape as ``values``; ties get the mean of their ranks."""
    order = np.argsort(values, axis=-1, kind="stable")
    ordered = np.take_along_axis(values, order, -1)
    place = np.arange(values.shape[-1])
    new = np.concatenate([np.ones_like(ordered[..., :1], dtype=bool), ordered[..., 1:] != ordered[..., :-1]], axis=-1)
    end = np.concatenate([new[..., 1:], np.ones_like(new[..., :1])], axis=-1)
    first = np.maximum.accumulate(np.where(new, place, 0), axis=-1)
    last = np.minimum.accumulate(np.where(end, place, values.shape[-1])[..., ::-1], axis=-1)[..., ::-1]
    ranks = np.empty(values.shape)
    np.put_along_axis(ranks, order, (first + last) / 2 + 1, -1)
    return ranks


def spearman(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Compute Spearman's rank correlation along the last axis; ties get the mean of their ranks.

    Args:
        first: Values, shape (..., N).
        second: Values, of a shape that broadcasts with ``first``.

    Returns:
        Correlations, shape (...); NaN where either input is constant or N is 1.
    """
    ranks = [midranks(np.asarray(values, dtype=float)) for values in (first, second)]
    centred = [r - r.mean(-1, keepdims=True) for r in ranks]  # (..., N) each
    spread = np.sqrt((centred[0] ** 2).sum(-1) * (centred[1] ** 2).sum(-1))
    shared = (centred[0] * centred[1]).sum(-1)
    return np.divide(shared, spread, out=np.full(np.shape(shared), np.nan), where=spread > 0)
