"""Bootstrap confidence intervals over prompts for the means of a study.

Intervals are percentile intervals, 95 % by default. The estimate is always the paper's: the mean over the prompts of a seed,
then over the seeds of a task, then over tasks. The bootstrap resamples the prompts within each task and seed, so the interval
covers other test texts *with the same demonstration sets*. The seeds are strata. By default they are not resampled, because
five seeds do not show how demonstration sets vary. ``Bootstrap(seeds_too=True)`` also resamples the seeds, for runs with many
seeds. With five seeds, its intervals cover the mean over all demonstration sets less often than their nominal level
(``benchmarks/intervals.py`` prints how often). In a resample, a prompt has the same weight for each column, study and model, so
the difference of two conditions on the same prompts is a paired difference: subtract their estimates to get the difference and
its interval.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pandas as pd

from icl_lens.errors import InputError

# Replaces the task name in a row with the mean over all tasks. No task can have this name, because it contains spaces.
OVER_TASKS = "mean of tasks"


@dataclass(frozen=True)
class Bootstrap:
    """Settings of the bootstrap; equal settings draw the same resamples of the same prompts.

    Attributes:
        resamples: Number of resamples, R.
        seed: Seed of the random number generator.
        level: Confidence level, the share of resamples inside an interval.
        seeds_too: Whether to resample the seeds of a task as well, before the prompts of each seed.
    """

    resamples: int = 1000
    seed: int = 0
    level: float = 0.95
    seeds_too: bool = False

    def prompt_weights(self, task: str, seed: int, prompts: int) -> np.ndarray:
        """Return how often each resample draws each prompt of a task and seed, in the order of prompt_id, shape (R, n)."""
        drawn = self._generator(task, 1 + seed).integers(0, prompts, (self.resamples, prompts))  # (R, n)
        return _counts(drawn, prompts)

    def seed_weights(self, task: str, seeds: int) -> np.ndarray:
        """Return how often each resample draws each seed of a task, in ascending order, shape (R, S); 1 if seeds are strata."""
        if not self.seeds_too:
            return np.ones((self.resamples, seeds))
        return _counts(self._generator(task, 0).integers(0, seeds, (self.resamples, seeds)), seeds)

    def _generator(self, task: str, part: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, zlib.crc32(task.encode()), part])


def _counts(drawn: np.ndarray, size: int) -> np.ndarray:
    """Count how often each of 0..size-1 occurs in each row, shape (R, size)."""
    rows = len(drawn)
    flat = (drawn + size * np.arange(rows)[:, None]).ravel()
    return np.bincount(flat, minlength=rows * size).reshape(rows, size).astype(float)


@dataclass(frozen=True)
class Estimate:
    """A measured value with its confidence interval.

    Attributes:
        value: The value on the original prompts, any shape (M...,).
        resampled: The value on each resample, shape (R, M...).
        prompts: Number of prompts over all tasks and seeds.
        level: Confidence level, the share of resamples between :attr:`low` and :attr:`high`.
    """

    value: np.ndarray
    resampled: np.ndarray = field(repr=False)
    prompts: int
    level: float = 0.95

    @property
    def low(self) -> np.ndarray:
        """Lower bound of the percentile interval, shape (M...,); NaN where all resamples are NaN."""
        return self._interval[0]

    @property
    def high(self) -> np.ndarray:
        """Upper bound of the percentile interval, shape (M...,); NaN where all resamples are NaN."""
        return self._interval[1]

    def __sub__(self, other: Estimate) -> Estimate:
        """Return the difference of two estimates, which is paired if both have the same prompts and plan."""
        return Estimate(self.value - other.value, self.resampled - other.resampled, self.prompts, self.level)

    def apply(self, function: Callable[[np.ndarray], np.ndarray]) -> Estimate:
        """Return the estimate of a function of the value.

        Args:
            function: A function that accepts a leading axis of resamples, such as the share of each entry of the last axis.
        """
        return Estimate(function(self.value), function(self.resampled), self.prompts, self.level)

    @cached_property
    def _interval(self) -> np.ndarray:
        """Lower and upper bounds of the percentile interval, shape (2, M...)."""
        quantiles = ((1 - self.level) / 2, (1 + self.level) / 2)
        flat = self.resampled.reshape(len(self.resampled), -1)  # (R, M)
        missing = np.isnan(flat)  # (R, M)
        complete, empty = ~missing.any(0), missing.all(0)  # (M,)
        result = np.full((2, flat.shape[1]), np.nan)
        # nanquantile loops over the columns in Python, so it is used only for columns with NaN.
        result[:, complete] = np.quantile(flat[:, complete], quantiles, axis=0)
        if not (complete | empty).all():
            result[:, ~(complete | empty)] = np.nanquantile(flat[:, ~(complete | empty)], quantiles, axis=0)
        return result.reshape(2, *self.resampled.shape[1:])


def mean(rows: pd.DataFrame, columns: Sequence[str], plan: Bootstrap | None = None) -> Estimate:
    """Compute the means of one or more columns over prompts, then seeds, then tasks.

    Args:
        rows: One row per prompt, with task, seed, prompt_id and the columns (numbers or booleans). If a prompt has several
            rows, such as the draws of a random control, they are averaged first, so that the unit is the prompt.
        columns: Names of M columns; all use the same resamples.
        plan: Settings of the bootstrap.

    Returns:
        Means, shape (M,).

    Raises:
        InputError: There are no rows, or a cell is empty.
    """
    plan, columns = plan or Bootstrap(), list(columns)
    if rows.empty:
        raise InputError(f"no rows to average: {', '.join(columns)}")
    if rows[columns].isna().to_numpy().any():
        raise InputError(f"empty cells among {', '.join(columns)}; a mean over the others would hide them")
    units = rows.groupby(["task", "seed", "prompt_id"], sort=True)[columns].mean()

    def seed_mean(part: pd.DataFrame, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        values = part.to_numpy(dtype=float)  # (n, M)
        return values.mean(0), weights @ values / weights.sum(1, keepdims=True)

    return average(units, seed_mean, plan)


def shares(rows: pd.DataFrame, parts: Sequence[Sequence[str]], plan: Bootstrap | None = None) -> Estimate:
    """Compute the share of each column in the sum of its group.

    For each seed, the mean of each column over the prompts is divided by the sum of these means over the group. The shares are
    then averaged over seeds and tasks. As in the released code for S_wp, S_pq and S_ww (section 2.1), the quotient is taken of
    the means of a seed, not of the values of each prompt, so a prompt with more flow has more weight.

    Args:
        rows: One row per prompt, with task, seed, prompt_id and the columns.
        parts: M groups of P columns; the shares of each group sum to 1.
        plan: Settings of the bootstrap.

    Returns:
        Shares, shape (M, P); NaN where the sum is 0, such as the flow of a layer that changes nothing.

    Raises:
        InputError: There are no rows, or a prompt has several rows.
    """
    columns = [name for group in parts for name in group]
    units = rows.set_index(["task", "seed", "prompt_id"])[columns].sort_index()
    if units.empty or units.index.has_duplicates:
        raise InputError("shares need one row per prompt; select one model and prompt set")

    def normalised(means: np.ndarray) -> np.ndarray:
        grouped = means.reshape(*means.shape[:-1], len(parts), -1)  # (..., M, P)
        total = grouped.sum(-1, keepdims=True)  # (..., M, 1)
        return np.divide(grouped, total, out=np.full_like(grouped, np.nan), where=total != 0)

    def seed_shares(part: pd.DataFrame, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        values = part.to_numpy(dtype=float)  # (n, M * P)
        return normalised(values.mean(0)), normalised(weights @ values / weights.sum(1, keepdims=True))

    return average(units, seed_shares, plan or Bootstrap())


def average(units: pd.DataFrame, statistic: Callable, plan: Bootstrap) -> Estimate:
    """Average a statistic of each seed over seeds, then tasks.

    Args:
        units: One row per prompt, with a sorted index of task, seed and prompt_id.
        statistic: Function that computes the statistic: (rows of one task and seed (n), weights (R, n)) -> value (M...),
            resampled (R, M...).
        plan: Settings of the bootstrap.
    """
    values, resampled = [], []
    for task, task_rows in units.groupby(level="task", sort=True):
        parts = [
            statistic(part, plan.prompt_weights(task, seed, len(part)))
            for seed, part in task_rows.groupby(level="seed", sort=True)
        ]
        values.append(mean_of_known([value for value, _ in parts]))
        resampled.append(mean_of_known([drawn for _, drawn in parts], plan.seed_weights(task, len(parts))))
    return Estimate(mean_of_known(values), mean_of_known(resampled), len(units), plan.level)


def mean_of_known(values: Sequence[np.ndarray], weights: np.ndarray | None = None) -> np.ndarray:
    """Compute the elementwise mean of arrays of equal shape, ignoring NaN; NaN where all arrays are NaN.

    Args:
        values: S arrays of shape (R, M...), or of any equal shape if there are no weights.
        weights: The weight of each array in each row, shape (R, S); equal weights by default.
    """
    stacked = np.stack(values)  # (S, R, M...)
    if weights is None:
        weight = np.ones_like(stacked)
    else:
        weight = np.broadcast_to(weights.T.reshape(*weights.T.shape, *[1] * (stacked.ndim - 2)), stacked.shape)
    weight = np.where(np.isnan(stacked), 0, weight)
    total = weight.sum(0)
    summed = (np.where(weight > 0, stacked, 0) * weight).sum(0)
    return np.divide(summed, total, out=np.full(total.shape, np.nan), where=total > 0)
