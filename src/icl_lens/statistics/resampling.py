"""Confidence intervals of a study's means: a bootstrap over prompts.

Intervals are 95 % percentile intervals. The estimate is always the paper's: the mean over a seed's prompts, then over a task's
seeds, then over tasks. The bootstrap resamples the prompts within each task and seed, so the interval covers other test texts
*with the same demonstration sets*. The seeds are strata and are not resampled by default: five of them do not show how
demonstration sets vary. ``Bootstrap(seeds_too=True)`` resamples them too, for runs with many seeds; with five its intervals
cover the mean over all demonstration sets less often than their level (``benchmarks/intervals.py`` prints how often). A prompt
has the same weight in a resample for each column, study and model, so the difference of two conditions on the same prompts is a
paired difference: subtract their estimates, and the interval is that of the difference.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pandas as pd

from icl_lens.errors import InputError

# In place of a task's name, for a mean over all tasks; no task can have this name because it contains spaces.
OVER_TASKS = "mean of tasks"


@dataclass(frozen=True)
class Bootstrap:
    """How resamples are drawn; equal plans draw equal resamples of equal prompts.

    Attributes:
        resamples: Number of resamples, R.
        seed: Seed of the random numbers.
        level: The share of resamples inside an interval.
        seeds_too: Resample a task's seeds as well, each then with its prompts.
    """

    resamples: int = 1000
    seed: int = 0
    level: float = 0.95
    seeds_too: bool = False

    def prompt_weights(self, task: str, seed: int, prompts: int) -> np.ndarray:
        """How often each prompt of a task and seed (in the order of prompt_id) is drawn, shape (R, n)."""
        drawn = self._generator(task, 1 + seed).integers(0, prompts, (self.resamples, prompts))  # (R, n)
        return _counts(drawn, prompts)

    def seed_weights(self, task: str, seeds: int) -> np.ndarray:
        """How often each seed of a task (ascending) is drawn, shape (R, S); once each where seeds are strata."""
        if not self.seeds_too:
            return np.ones((self.resamples, seeds))
        return _counts(self._generator(task, 0).integers(0, seeds, (self.resamples, seeds)), seeds)

    def _generator(self, task: str, part: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, zlib.crc32(task.encode()), part])


def _counts(drawn: np.ndarray, size: int) -> np.ndarray:
    """How often each of 0..size-1 occurs in each row, shape (R, size)."""
    rows = len(drawn)
    flat = (drawn + size * np.arange(rows)[:, None]).ravel()
    return np.bincount(flat, minlength=rows * size).reshape(rows, size).astype(float)


@dataclass(frozen=True)
class Estimate:
    """A measured value with its uncertainty.

    Attributes:
        value: The value on the original prompts, any shape (M...,).
        resampled: The value on each resample, shape (R, M...).
        prompts: Number of prompts of all tasks and seeds.
        level: The share of resamples between :attr:`low` and :attr:`high`.
    """

    value: np.ndarray
    resampled: np.ndarray = field(repr=False)
    prompts: int
    level: float = 0.95

    @property
    def low(self) -> np.ndarray:
        """Lower end of the percentile interval, shape (M...,); NaN where all resamples are NaN."""
        return self._interval[0]

    @property
    def high(self) -> np.ndarray:
        """Upper end of the percentile interval, shape (M...,)."""
        return self._interval[1]

    def __sub__(self, other: Estimate) -> Estimate:
        """The difference; paired if both have the same prompts and plan."""
        return Estimate(self.value - other.value, self.resampled - other.resampled, self.prompts, self.level)

    def apply(self, function: Callable[[np.ndarray], np.ndarray]) -> Estimate:
        """A function of the value that takes a leading axis of resamples, such as a share of the last axis."""
        return Estimate(function(self.value), function(self.resampled), self.prompts, self.level)

    @cached_property
    def _interval(self) -> np.ndarray:
        """Both ends of the percentile interval, shape (2, M...)."""
        ends = ((1 - self.level) / 2, (1 + self.level) / 2)
        flat = self.resampled.reshape(len(self.resampled), -1)  # (R, M)
        absent = np.isnan(flat)  # (R, M)
        whole, none = ~absent.any(0), absent.all(0)  # (M,)
        result = np.full((2, flat.shape[1]), np.nan)
        # nanquantile loops over the columns in Python: only for those with NaN.
        result[:, whole] = np.quantile(flat[:, whole], ends, axis=0)
        if not (whole | none).all():
            result[:, ~(whole | none)] = np.nanquantile(flat[:, ~(whole | none)], ends, axis=0)
        return result.reshape(2, *self.resampled.shape[1:])


def mean(rows: pd.DataFrame, columns: Sequence[str], plan: Bootstrap | None = None) -> Estimate:
    """Means over prompts, then seeds, then tasks, of one or more columns.

    Args:
        rows: One row per prompt: task, seed, prompt_id and the columns (numbers or booleans). Several rows of a prompt, such as
            the draws of a random control, are averaged first, so that prompts remain the unit.
        columns: M columns; all use the same resamples.
        plan: How to resample.

    Returns:
        Values of shape (M,).

    Raises:
        InputError: There are no rows, or a cell is empty.
    """
    plan, columns = plan or Bootstrap(), list(columns)
    if rows.empty:
        raise InputError(f"no rows to average: {', '.join(columns)}")
    if rows[columns].isna().to_numpy().any():
        raise InputError(f"empty cells among {', '.join(columns)}; a mean over the others would hide them")
    units = rows.groupby(["task", "seed", "prompt_id"], sort=True)[columns].mean()

    def of_seed(part: pd.DataFrame, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        values = part.to_numpy(dtype=float)  # (n, M)
        return values.mean(0), weights @ values / weights.sum(1, keepdims=True)

    return average(units, of_seed, plan)


def shares(rows: pd.DataFrame, parts: Sequence[Sequence[str]], plan: Bootstrap | None = None) -> Estimate:
    """Shares of sums: means over a seed's prompts, each divided by the sum of its group; then means over seeds and tasks.

    The quotient is that of a seed's means, not of each prompt's values, as the released code does for S_wp, S_pq and S_ww
    (section 2.1), so a prompt with more flow has more weight.

    Args:
        rows: One row per prompt: task, seed, prompt_id and the columns.
        parts: M groups of P columns; each group divides one sum.
        plan: How to resample.

    Returns:
        Values of shape (M, P); NaN for a sum of 0, such as the flow of a layer that changes nothing.

    Raises:
        InputError: There are no rows, or a prompt has several rows.
    """
    columns = [name for group in parts for name in group]
    units = rows.set_index(["task", "seed", "prompt_id"])[columns].sort_index()
    if units.empty or units.index.has_duplicates:
        raise InputError("shares need one row per prompt; select one model and prompt set")

    def divided(means: np.ndarray) -> np.ndarray:
        grouped = means.reshape(*means.shape[:-1], len(parts), -1)  # (..., M, P)
        total = grouped.sum(-1, keepdims=True)  # (..., M, 1)
        return np.divide(grouped, total, out=np.full_like(grouped, np.nan), where=total != 0)

    def of_seed(part: pd.DataFrame, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        values = part.to_numpy(dtype=float)  # (n, M * P)
        return divided(values.mean(0)), divided(weights @ values / weights.sum(1, keepdims=True))

    return average(units, of_seed, plan or Bootstrap())


def average(units: pd.DataFrame, of_seed: Callable, plan: Bootstrap) -> Estimate:
    """The mean over tasks of the mean over seeds of what ``of_seed`` returns for a seed's prompts and their weights.

    Args:
        units: One row per prompt, indexed by task, seed and prompt_id, sorted.
        of_seed: (rows of one task and seed (n), weights (R, n)) -> value (M...), resampled (R, M...).
        plan: How to resample.
    """
    values, resampled = [], []
    for task, of_task in units.groupby(level="task", sort=True):
        parts = [
            of_seed(part, plan.prompt_weights(task, seed, len(part))) for seed, part in of_task.groupby(level="seed", sort=True)
        ]
        values.append(mean_of_known([value for value, _ in parts]))
        resampled.append(mean_of_known([drawn for _, drawn in parts], plan.seed_weights(task, len(parts))))
    return Estimate(mean_of_known(values), mean_of_known(resampled), len(units), plan.level)


def mean_of_known(values: Sequence[np.ndarray], weights: np.ndarray | None = None) -> np.ndarray:
    """Mean of equally shaped arrays, element by element, over those that are not NaN; NaN where all are.

    Args:
        values: S arrays of shape (R, M...), or any shape without weights.
        weights: The weight of each array in each of its rows, shape (R, S).
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
