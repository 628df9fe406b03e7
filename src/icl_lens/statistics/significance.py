"""Tests for paired measurements, and control of the false-discovery rate over many tests.

The study of representation change used paired t-tests (reviews of its first version say so); Wilcoxon's signed-rank test, which
does not assume normal differences, is computed, too.
"""

from __future__ import annotations

import math

import numpy as np

from icl_lens.statistics.ranks import midranks, spearman


def benjamini_hochberg(p: np.ndarray) -> np.ndarray:
    """p values adjusted so that those below q have a false-discovery rate of at most q (Benjamini and Hochberg, 1995).

    Args:
        p: Shape (N,); NaN entries are not tests and remain NaN.
    """
    p = np.asarray(p, dtype=float)
    adjusted = np.full_like(p, np.nan)
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    scaled = p[order] * len(order) / (1 + np.arange(len(order)))
    adjusted[order] = np.minimum(1, np.minimum.accumulate(scaled[::-1])[::-1])
    return adjusted


def paired_t(differences: np.ndarray) -> tuple[float, float]:
    """The paired t-test of a mean difference of 0: t, and its two-sided p; NaN for fewer than two or equal differences."""
    differences = np.asarray(differences, dtype=float)
    count = len(differences)
    if count < 2 or not differences.std(ddof=1) > 0:
        return math.nan, math.nan
    t = differences.mean() / (differences.std(ddof=1) / math.sqrt(count))
    freedom = count - 1
    return float(t), incomplete_beta(freedom / 2, 0.5, freedom / (freedom + t * t))


def incomplete_beta(a: float, b: float, x: float) -> float:
    """The regularised incomplete beta function I_x(a, b), by its continued fraction (Lentz)."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - incomplete_beta(b, a, 1 - x)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)) / a
    tiny, value, c, d = 1e-300, 1.0, 1.0, 0.0
    for step in range(500):
        m = step // 2
        if step == 0:
            term = 1.0
        elif step % 2 == 0:
            term = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        else:
            term = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        d = 1 / (1 + term * d or tiny)
        c = 1 + term / c or tiny
        value *= c * d
        if step and abs(c * d - 1) < 1e-14:
            break
    return front * (value - 1)


def wilcoxon(differences: np.ndarray) -> float:
    """The two-sided p of Wilcoxon's signed-rank test, normal approximation with a correction for ties; NaN if none differ."""
    differences = np.asarray(differences, dtype=float)
    differences = differences[differences != 0]
    count = len(differences)
    if not count:
        return math.nan
    ranks = midranks(np.abs(differences))
    above = ranks[differences > 0].sum()
    _, ties = np.unique(np.abs(differences), return_counts=True)
    variance = count * (count + 1) * (2 * count + 1) / 24 - (ties**3 - ties).sum() / 48
    return math.erfc(abs(above - count * (count + 1) / 4) / math.sqrt(2 * variance))


def spearman_test(first: np.ndarray, second: np.ndarray, permutations: int = 1000, seed: int = 0) -> tuple[float, float]:
    """Spearman's correlation, and the share of permutations (including the observed order) that are at least as far from 0."""
    observed = float(spearman(first, second))
    if math.isnan(observed):
        return math.nan, math.nan
    generator = np.random.default_rng(seed)
    dealt = np.stack([generator.permutation(first) for _ in range(permutations)])  # (R, N)
    null = spearman(dealt, second)  # (R,)
    return observed, float((1 + (np.abs(null) >= abs(observed) - 1e-12).sum()) / (1 + permutations))
