"""Tests for paired measurements, and control of the false-discovery rate over many tests.

The paper on representation change uses paired t-tests, according to the reviews of its first version. This module also
provides Wilcoxon's signed-rank test, which does not assume normally distributed differences.
"""

from __future__ import annotations

import math

import numpy as np

from icl_lens.statistics.ranks import midranks, spearman


def benjamini_hochberg(p: np.ndarray) -> np.ndarray:
    """Adjust p values so that those below q have a false-discovery rate of at most q (Benjamini and Hochberg, 1995).

    Args:
        p: p values, shape (N,). NaN entries do not count as tests and remain NaN.
    """
    p = np.asarray(p, dtype=float)
    adjusted = np.full_like(p, np.nan)
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    scaled = p[order] * len(order) / (1 + np.arange(len(order)))
    adjusted[order] = np.minimum(1, np.minimum.accumulate(scaled[::-1])[::-1])
    return adjusted


def paired_t(differences: np.ndarray) -> tuple[float, float]:
    """Test for a mean paired difference of 0 with a t-test.

    Returns:
        t and the two-sided p value; both are NaN if there are fewer than two differences or all differences are equal.
    """
    differences = np.asarray(differences, dtype=float)
    count = len(differences)
    if count < 2 or not differences.std(ddof=1) > 0:
        return math.nan, math.nan
    t = differences.mean() / (differences.std(ddof=1) / math.sqrt(count))
    freedom = count - 1
    return float(t), incomplete_beta(freedom / 2, 0.5, freedom / (freedom + t * t))


def incomplete_beta(a: float, b: float, x: float) -> float:
    """Compute the regularised incomplete beta function I_x(a, b) from its continued fraction (Lentz's algorithm)."""
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
    """Compute the two-sided p value of Wilcoxon's signed-rank test.

    The test uses the normal approximation with a correction for ties. Differences of 0 are dropped; the result is NaN if no
    difference remains.
    """
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
    """Compute Spearman's correlation and its two-sided p value from a permutation test.

    The p value is the share of permutations (including the observed order) with a correlation at least as far from 0 as the
    observed one.
    """
    observed = float(spearman(first, second))
    if math.isnan(observed):
        return math.nan, math.nan
    generator = np.random.default_rng(seed)
    dealt = np.stack([generator.permutation(first) for _ in range(permutations)])  # (R, N)
    null = spearman(dealt, second)  # (R,)
    return observed, float((1 + (np.abs(null) >= abs(observed) - 1e-12).sum()) / (1 + permutations))
