"""Tests for paired measurements, and control of the false-discovery rate over many tests.

The paper on representation change uses paired t-tests, according to the reviews of its first version. This module also
provides Wilcoxon's signed-rank test, which does not assume normally distributed differences. The tests are those of
``scipy.stats``. The functions of this module return NaN for data that have no test, without a warning, because a table has
many tests and some of them may have such data.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import stats

from icl_lens.statistics.ranks import spearman


def benjamini_hochberg(p: np.ndarray) -> np.ndarray:
    """Adjust p values so that those below q have a false-discovery rate of at most q (Benjamini and Hochberg, 1995).

    Args:
        p: p values, shape (N,). NaN entries, which ``scipy.stats.false_discovery_control`` does not accept, do not count as
            tests and remain NaN.
    """
    p = np.asarray(p, dtype=float)
    adjusted, known = np.full_like(p, np.nan), ~np.isnan(p)
    adjusted[known] = stats.false_discovery_control(p[known])
    return adjusted


def paired_t(differences: np.ndarray) -> tuple[float, float]:
    """Test for a mean paired difference of 0 with a t-test.

    Returns:
        t and the two-sided p value; both are NaN if there are fewer than two differences or all differences are equal up to
        rounding (``scipy.stats.ttest_1samp`` then gives an infinite or meaningless t).
    """
    if len(differences) < 2 or np.std(differences) <= 1e-12 * np.abs(differences).max():
        return math.nan, math.nan
    found = stats.ttest_1samp(differences, 0)
    return float(found.statistic), float(found.pvalue)


def wilcoxon(differences: np.ndarray) -> float:
    """Compute the two-sided p value of Wilcoxon's signed-rank test.

    The p value is exact for few differences (see ``scipy.stats.wilcoxon``). Differences of 0 are dropped; the result is NaN if
    no difference remains.
    """
    return float(stats.wilcoxon(differences).pvalue) if np.any(differences) else math.nan


def spearman_test(first: np.ndarray, second: np.ndarray, permutations: int = 1000, seed: int = 0) -> tuple[float, float]:
    """Compute Spearman's correlation and its two-sided p value from a permutation test.

    The p value is the share of permutations (including the observed order) with a correlation at least as far from 0 as the
    observed one. If there are at most ``permutations`` orders, the test uses each order once, and p is exact.
    """
    observed = float(spearman(first, second))
    if math.isnan(observed):
        return math.nan, math.nan
    found = stats.permutation_test(
        (first,),
        lambda values, axis: np.abs(spearman(values, second)),
        permutation_type="pairings",
        vectorized=True,
        n_resamples=permutations,
        alternative="greater",
        rng=seed,
    )
    return observed, float(found.pvalue)
