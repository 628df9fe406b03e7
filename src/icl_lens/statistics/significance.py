"""Tests for paired measurements, and control of the false-discovery rate over many tests.

The paper on representation change uses paired t-tests, according to the reviews of its first version. This module also
provides Wilcoxon's signed-rank test, which does not assume normally distributed differences. The t-test and the correction are
those of ``scipy.stats``. The functions of this module return NaN for data that have no test, without a warning, because a table
has many tests and some of them may have such data.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import stats

from icl_lens.statistics.ranks import spearman

# Up to this number of differences, the p value of Wilcoxon's test is exact. The exact distribution takes about 0.03 s for 300.
EXACT_DIFFERENCES = 300


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

    Differences of 0 are dropped, and equal absolute differences share their mean rank. Differences that are equal up to
    rounding count as equal. If at most :data:`EXACT_DIFFERENCES` differences remain, p is exact, with and without ties: it is
    the share of the 2^n assignments of signs to these ranks whose sum of positive ranks is at least as far from its mean as the
    observed one. ``scipy.stats.wilcoxon`` is exact for up to 50 differences without ties and for up to 13 with ties or zeros.
    With more differences, p is its normal approximation, corrected for ties.

    Returns:
        The p value; NaN if no difference remains.
    """
    differences = np.asarray(differences, dtype=float)
    largest = np.abs(differences).max(initial=0.0)
    if not largest > 0:
        return math.nan
    rounded = np.round(differences / largest, 12)
    rounded = rounded[rounded != 0]  # (n,)
    if len(rounded) > EXACT_DIFFERENCES:
        return float(stats.wilcoxon(rounded, method="asymptotic").pvalue)
    ranks = np.round(2 * stats.rankdata(np.abs(rounded))).astype(np.int64)  # (n,): doubled, so that mean ranks are integers
    return _signed_rank_p(ranks, int(ranks[rounded > 0].sum()))


def _signed_rank_p(ranks: np.ndarray, positive: int) -> float:
    """Compute the two-sided p value of a sum of positive ranks, over all assignments of signs to integer ranks.

    The distribution of the sum is built up rank by rank (the shift algorithm of Streitberg and Röhmel, 1986). It has one entry
    per sum and not one per assignment.

    Args:
        ranks: Positive integers, shape (n,).
        positive: Observed sum of the ranks with a positive sign.
    """
    total = int(ranks.sum())
    probabilities = np.zeros(total + 1)
    probabilities[0] = 1.0
    for rank in ranks:
        probabilities[rank:] += probabilities[:-rank].copy()  # this rank has a positive sign
        probabilities /= 2
    distance = np.abs(2 * np.arange(total + 1) - total)  # twice the distance from the mean
    return min(1.0, float(probabilities[distance >= abs(2 * positive - total)].sum()))


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
