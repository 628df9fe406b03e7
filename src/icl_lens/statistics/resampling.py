"""Means of a study over prompts, demonstration sets and tasks, with confidence intervals.

The estimate is always the paper's: the mean over the prompts of a seed, then over the seeds of a task, then over tasks. Each
seed draws its own demonstrations and its own test texts.

The main interval (``low``, ``high``; 95 % by default) is for the mean over all demonstration sets and test texts that could
have been drawn. It is Student's t interval. Its variance has two parts:

- *Demonstration sets.* If the prompts of a seed share one demonstration set, the jackknife over seeds: with S seeds and the
  estimate e_(s) without seed s, (S - 1) / S * sum_s (e_(s) - mean e)^2, summed over tasks. It contains the variance from the
  test texts of each seed. If the prompts of a seed have their own demonstrations, so that each prompt is a demonstration set,
  the variance of the estimate when the n prompts of S seeds are resampled within their seeds, times n / (n - S), because the
  resamples vary around the mean of each seed. This is also the least variance for the jackknife, because a few seeds can agree
  by chance.
- *Recurring texts.* If a test text occurs in several seeds (SST-2 and TREC use nearly the whole test split), the seeds are not
  independent. Texts are resampled jointly for all seeds, and separately within each seed; the difference of the two variances,
  if positive, is added.

The degrees of freedom are Satterthwaite's. Intervals of shares, accuracies and AUCs are computed on the scale of logits, so
they contain only values between 0 and 1 and are not symmetric near these bounds. With one demonstration set, the interval is
undefined (NaN). ``docs/statistics.md`` has the derivation and the coverage of this interval and of other intervals on simulated
data.

The second interval (``prompts_low``, ``prompts_high``) is the percentile interval of resampled prompts. It covers other test
texts with the same demonstration sets.

In a resample, a prompt has the same weight for each column, study and model. The difference of two conditions on the same
prompts is therefore a paired difference: subtract their estimates to get the difference and its intervals.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import expit, logit
from scipy.stats import t as student

from icl_lens.artifacts.schema import DEMONSTRATIONS, QUERY
from icl_lens.errors import InputError

# Replaces the task name in a row with the mean over all tasks. No task can have this name, because it contains spaces.
OVER_TASKS = "mean of tasks"

UNIT = ("task", "seed", "prompt_id")
"""Columns that identify a prompt of one model and prompt set."""

FEW_SETS = 10
"""Number of demonstration sets below which a figure or table has a note with this number."""

# Half width, relative to the range of the values, up to which an interval is that of equal values: means of equal values differ
# by rounding.
_ROUNDING = 1e-12


def unit_index(rows: pd.DataFrame | Iterable[str]) -> list[str]:
    """Return the index columns of a table of prompts: :data:`UNIT`, and the columns that name its test text and demonstrations.

    Args:
        rows: A study table or its columns. Without the columns ``query_index`` and ``demonstrations``, all texts are taken as
            distinct, and the prompts of a seed as having the same demonstrations.
    """
    columns = rows.columns if isinstance(rows, pd.DataFrame) else list(rows)
    return [*UNIT, *(name for name in (QUERY, DEMONSTRATIONS) if name in columns)]


@dataclass(frozen=True)
class Bootstrap:
    """Settings of the resampling; equal settings draw the same resamples of the same prompts.

    Attributes:
        resamples: Number of resamples, R. With 1, only the value is computed, and all main intervals are NaN.
        seed: Seed of the random number generator.
        level: Confidence level.
    """

    resamples: int = 1000
    seed: int = 0
    level: float = 0.95

    def prompt_weights(self, task: str, seed: int, prompts: int) -> np.ndarray:
        """Return how often each resample draws each prompt of a task and seed, in the order of prompt_id, shape (R, n)."""
        drawn = self._generator(task, 1 + seed).integers(0, prompts, (self.resamples, prompts))  # (R, n)
        return _counts(drawn, prompts)

    def seed_weights(self, task: str, seeds: int) -> np.ndarray:
        """Return the weight of each seed of a task in each resample, shape (R, S). All are 1, because seeds are strata."""
        return np.ones((self.resamples, seeds))

    def text_weights(self, task: str, texts: int) -> np.ndarray:
        """Return how often each resample draws each test text of a task, for all seeds, shape (R, T)."""
        return _counts(self._generator(task, 0).integers(0, texts, (self.resamples, texts)), texts)

    def _generator(self, task: str, part: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, zlib.crc32(task.encode()), part])


def _counts(drawn: np.ndarray, size: int) -> np.ndarray:
    """Count how often each of 0..size-1 occurs in each row, shape (R, size)."""
    rows = len(drawn)
    flat = (drawn + size * np.arange(rows)[:, None]).ravel()
    return np.bincount(flat, minlength=rows * size).reshape(rows, size).astype(float)


@dataclass(frozen=True, eq=False, repr=False)
class Estimate:
    """A measured value with its confidence intervals.

    Attributes:
        value: The value on the original prompts, any shape (M...,).
        over_prompts: The value on each resample of prompts within their seeds, shape (R, M...).
        left_out: The value without one seed, for each seed of each task, shape (sum of ``groups``, M...); NaN for a seed
            without a value. None if each prompt has its own demonstrations; the variance is then that of ``over_prompts``.
        over_texts: The value on resamples of texts, drawn jointly for all seeds (first) and within each seed (second), shape
            (2, R, M...). None if no text occurs in several seeds.
        groups: Number of seeds of each task.
        prompts: Number of prompts over all tasks and seeds.
        texts: Smallest number of distinct texts of a task.
        level: Confidence level.
        sample: Digest of the prompts, to check that two estimates are of the same prompts; empty if unknown.
        bounds: Smallest and largest possible value; None if unbounded. The main interval ends there.
    """

    value: np.ndarray
    over_prompts: np.ndarray
    left_out: np.ndarray | None
    over_texts: np.ndarray | None
    groups: tuple[int, ...]
    prompts: int
    texts: int
    level: float = 0.95
    sample: str = ""
    bounds: tuple[float, float] | None = None

    def __repr__(self) -> str:
        if np.ndim(self.value):
            return f"<estimates of shape {np.shape(self.value)}>"
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"

    @property
    def low(self) -> np.ndarray:
        """Lower end of the main interval, shape (M...,); NaN where it is undefined."""
        return self._interval[0]

    @property
    def high(self) -> np.ndarray:
        """Upper end of the main interval, shape (M...,); NaN where it is undefined."""
        return self._interval[1]

    @property
    def prompts_low(self) -> np.ndarray:
        """Lower end of the interval over prompts with fixed demonstrations, shape (M...,); NaN where all resamples are NaN."""
        return self._prompts_interval[0]

    @property
    def prompts_high(self) -> np.ndarray:
        """Upper end of the interval over prompts with fixed demonstrations, shape (M...,); NaN where all resamples are NaN."""
        return self._prompts_interval[1]

    @property
    def seeds(self) -> int:
        """Smallest number of seeds of a task."""
        return min(self.groups)

    @property
    def sets(self) -> np.ndarray:
        """Number of demonstration sets with a value, shape (M...,).

        This is the smallest number of seeds of a task, without seeds and tasks that have no value, or the number of prompts if
        each prompt has its own demonstrations. It is the number of seeds where no seed can be left out (:attr:`left_out` is
        NaN).
        """
        shape = np.shape(self.value)
        if self.left_out is None:
            return np.full(shape, self.prompts)
        counts = np.stack([(~np.isnan(part)).sum(0) for part in np.split(self.left_out, np.cumsum(self.groups)[:-1])])
        fewest = np.where(counts > 0, counts, np.inf).min(0)  # (M...,)
        return np.where(np.isinf(fewest), self.seeds, fewest).astype(int).reshape(shape)

    def columns(self, prefix: str = "") -> dict[str, Any]:
        """Return the columns of a table that go with the value.

        Returns:
            ``low``, ``high``, ``prompts_low``, ``prompts_high`` and ``replicates``, each with the prefix, and ``sets`` and
            ``prompts``. A value of shape () gives numbers; any other shape gives flat arrays. ``replicates`` contains the
            estimate of each cell; :func:`icl_lens.report.figures.save_figure` and ``save_table`` write it next to the CSV.
        """
        ends = {name: np.ravel(getattr(self, name)) for name in ("low", "high", "prompts_low", "prompts_high")}
        flat = self._flat()
        columns: dict[str, Any] = {f"{prefix}{name}": end for name, end in ends.items()}
        columns[f"{prefix}replicates"] = [flat[n] for n in range(flat.value.size)]
        if not np.ndim(self.value):
            columns = {
                name: float(column[0]) if name != f"{prefix}replicates" else column[0] for name, column in columns.items()
            }
        sets = np.ravel(self.sets) if np.ndim(self.value) else int(self.sets)
        return {**columns, "sets": sets, "prompts": self.prompts}

    def apply(self, function: Callable[[np.ndarray], np.ndarray], bounds: tuple[float, float] | None = None) -> Estimate:
        """Return the estimate of a function of the value.

        Args:
            function: A function that accepts leading axes, such as the share of each entry of the last axis.
            bounds: Smallest and largest possible value of the result.
        """
        return self.combine(function, self, bounds=bounds)

    def __getitem__(self, index: Any) -> Estimate:
        """Return the estimate of some of the values, selected by an index of the shape (M...)."""
        inner = index if isinstance(index, tuple) else (index,)
        return self.apply(lambda values: values[(*[slice(None)] * (values.ndim - self.value.ndim), *inner)], self.bounds)

    def __sub__(self, other: Estimate) -> Estimate:
        """Return the paired difference of two estimates of the same prompts.

        Raises:
            ValueError: They are of different prompts.
        """
        bounded = self.bounds is not None and other.bounds is not None
        bounds = (self.bounds[0] - other.bounds[1], self.bounds[1] - other.bounds[0]) if bounded else None
        return self.combine(np.subtract, self, other, bounds=bounds)

    @staticmethod
    def combine(
        function: Callable[..., np.ndarray], *estimates: Estimate, bounds: tuple[float, float] | None = None
    ) -> Estimate:
        """Return the estimate of a function of several estimates of the same prompts.

        Args:
            function: A function of as many arrays; it accepts leading axes.
            estimates: The estimates.
            bounds: Smallest and largest possible value of the result.

        Raises:
            ValueError: The estimates are of different prompts.
        """
        first = estimates[0]
        for other in estimates[1:]:
            if (other.sample, other.groups, other.level) != (first.sample, first.groups, first.level):
                raise ValueError(
                    "estimates of different prompts cannot be paired; compute both on the prompts they have in common"
                )

        def parts(name: str) -> np.ndarray | None:
            arrays = [getattr(each, name) for each in estimates]
            return None if any(array is None for array in arrays) else np.asarray(function(*arrays))

        return replace(
            first,
            value=np.asarray(function(*(each.value for each in estimates))),
            over_prompts=parts("over_prompts"),
            left_out=parts("left_out"),
            over_texts=parts("over_texts"),
            bounds=bounds,
        )

    def _flat(self) -> Estimate:
        """Return the same estimate with its values in one axis, shape (M,)."""
        size = self.value.size
        return replace(
            self,
            value=self.value.reshape(size),
            over_prompts=self.over_prompts.reshape(-1, size),
            left_out=None if self.left_out is None else self.left_out.reshape(-1, size),
            over_texts=None if self.over_texts is None else self.over_texts.reshape(2, -1, size),
        )

    @cached_property
    def _interval(self) -> np.ndarray:
        """Lower and upper ends of the main interval, shape (2, M...)."""
        flat = self._flat()
        variances, freedoms = flat._variances_of_sets()  # (K, M) each
        # Few seeds can agree by chance. Their variance is never less than that of their prompts.
        least, of_sets = flat._variance_of_prompts(), variances.sum(0)  # (M,) each
        variances[0] += np.fmax(least - of_sets, 0)
        if flat.over_texts is not None:
            joint, separate = _variance(flat.over_texts[0]), _variance(flat.over_texts[1])  # (M,) each
            variances = np.vstack([variances, np.fmax(joint - separate, 0)])
            freedoms = np.vstack([freedoms, np.full_like(joint, max(self.texts - 1, 1))])
        total = variances.sum(0)  # (M,)
        weighted = np.divide(variances**2, freedoms, out=np.zeros_like(variances), where=freedoms > 0).sum(0)  # (M,)
        freedom = np.divide(total**2, weighted, out=np.full_like(total, np.inf), where=weighted > 0)
        half = student.ppf((1 + self.level) / 2, freedom) * np.sqrt(total)  # (M,)
        if self.bounds is None:
            ends = np.stack([flat.value - half, flat.value + half])
        else:
            lowest, range_ = self.bounds[0], self.bounds[1] - self.bounds[0]
            ends = lowest + range_ * self._of_shares((flat.value - lowest) / range_, half / range_, range_)
        return ends.reshape(2, *self.value.shape)

    def _of_shares(self, share: np.ndarray, half: np.ndarray, range_: float) -> np.ndarray:
        """Return the ends of the intervals of values between 0 and 1, shape (2, M).

        The interval is symmetric on the scale of logits, with the standard error of the delta method. If all prompts agree,
        such as at 0 and 1, where this scale ends, its ends are those of the exact binomial interval for 0 of n prompts: other
        prompts can differ even if these agree.

        Args:
            share: The values, shape (M,).
            half: Half of the width of the symmetric interval, shape (M,).
            range_: Range of the original values, 1 for an accuracy and 2 for a difference.
        """
        agree = (share < _ROUNDING) | (share > 1 - _ROUNDING) | (half < _ROUNDING)
        spread = np.divide(half, share * (1 - share), out=np.full_like(half, np.nan), where=~agree)
        ends = expit(logit(share) + np.stack([-spread, spread]))  # (2, M)
        beyond = (1 - ((1 - self.level) / 2) ** (1 / self.prompts)) * np.array([[-1.0], [1.0]]) / range_
        return np.where(agree & ~np.isnan(half), np.clip(share + beyond, 0, 1), ends)

    def _variances_of_sets(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the variance from demonstration sets and its degrees of freedom, for each of K parts; (K, M) each.

        The estimate must be flat.
        """
        if len(self.over_prompts) < 2:
            return np.full((1, self.value.size), np.nan), np.ones((1, self.value.size))
        if self.left_out is None:
            count = max(self.prompts - sum(self.groups), 1)
            return self._variance_of_prompts()[None], np.full((1, self.value.size), float(count))
        variances, freedoms = [], []
        for part in np.split(self.left_out, np.cumsum(self.groups)[:-1]):  # (S, M) of each task
            known = ~np.isnan(part)
            count = known.sum(0)  # (M,)
            centre = np.divide(np.where(known, part, 0).sum(0), count, out=np.zeros(part.shape[1]), where=count > 0)
            squares = np.where(known, (part - centre) ** 2, 0).sum(0)  # (M,)
            variances.append(np.divide(count - 1, count, out=np.zeros(part.shape[1]), where=count > 0) * squares)
            freedoms.append(np.fmax(count - 1, 0))
        stacked, degrees = np.stack(variances), np.stack(freedoms).astype(float)  # (K, M) each
        stacked[:, degrees.max(0) < 1] = np.nan
        return stacked, degrees

    def _variance_of_prompts(self) -> np.ndarray:
        """Return the variance from the prompts of each seed, shape (M,); NaN if no seed has two. The estimate must be flat."""
        within = self.prompts - sum(self.groups)
        return _variance(self.over_prompts) * (self.prompts / within if within > 0 else np.nan)

    @cached_property
    def _prompts_interval(self) -> np.ndarray:
        """Lower and upper ends of the percentile interval over prompts, shape (2, M...)."""
        quantiles = ((1 - self.level) / 2, (1 + self.level) / 2)
        flat = self._flat().over_prompts  # (R, M)
        missing = np.isnan(flat)  # (R, M)
        complete, empty = ~missing.any(0), missing.all(0)  # (M,)
        result = np.full((2, flat.shape[1]), np.nan)
        # nanquantile loops over the columns in Python, so it is used only for columns with NaN.
        result[:, complete] = np.quantile(flat[:, complete], quantiles, axis=0)
        if not (complete | empty).all():
            result[:, ~(complete | empty)] = np.nanquantile(flat[:, ~(complete | empty)], quantiles, axis=0)
        return result.reshape(2, *self.value.shape)


def _variance(resampled: np.ndarray) -> np.ndarray:
    """Return the variance over resamples, ignoring NaN, shape (M,); 0 where fewer than two resamples have a value."""
    known = ~np.isnan(resampled)  # (R, M)
    count = known.sum(0)  # (M,)
    filled = np.where(known, resampled, 0)  # (R, M)
    centre = np.divide(filled.sum(0), count, out=np.zeros(resampled.shape[1]), where=count > 0)
    squares = np.where(known, (resampled - centre) ** 2, 0).sum(0)  # (M,)
    return np.divide(squares, count - 1, out=np.zeros(resampled.shape[1]), where=count > 1)


def mean(
    rows: pd.DataFrame,
    columns: Sequence[str],
    plan: Bootstrap | None = None,
    cluster: str | None = None,
    bounds: tuple[float, float] | None = None,
) -> Estimate:
    """Compute the means of one or more columns over prompts, then seeds, then tasks.

    Args:
        rows: One row per prompt, with task, seed, prompt_id, the columns (numbers or booleans), and, where known, query_index
            and demonstrations (:func:`unit_index`). If a prompt has several rows, such as the draws of a random control, they
            are averaged first, so that the unit is the prompt.
        columns: Names of M columns; all use the same resamples.
        plan: Settings of the resampling.
        cluster: Column that groups the prompts of a seed. Groups are resampled instead of prompts, because prompts in one group
            are not independent, such as prompts with the same random positions.
        bounds: Smallest and largest possible value; 0 and 1 for booleans.

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
    flags = all(pd.api.types.is_bool_dtype(rows[name]) for name in columns)
    index = [*unit_index(rows), *([cluster] if cluster else [])]
    units = rows.groupby(index, sort=True)[columns].mean()

    def seed_mean(part: pd.DataFrame, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        values = part.to_numpy(dtype=float)  # (n, M)
        return values.mean(0), weights @ values / weights.sum(1, keepdims=True)

    return average(units, seed_mean, plan, cluster, (0.0, 1.0) if flags else bounds)


def shares(rows: pd.DataFrame, parts: Sequence[Sequence[str]], plan: Bootstrap | None = None) -> Estimate:
    """Compute the share of each column in the sum of its group.

    For each seed, the mean of each column over the prompts is divided by the sum of these means over the group. The shares are
    then averaged over seeds and tasks. As in the released code for S_wp, S_pq and S_ww (section 2.1), the quotient is taken of
    the means of a seed, not of the values of each prompt, so a prompt with more flow has more weight.

    Args:
        rows: One row per prompt, with the columns of :func:`unit_index` and the columns.
        parts: M groups of P columns; the shares of each group sum to 1.
        plan: Settings of the resampling.

    Returns:
        Shares, shape (M, P); NaN where the sum is 0, such as the flow of a layer that changes nothing.

    Raises:
        InputError: There are no rows, or a prompt has several rows.
    """
    columns = [name for group in parts for name in group]
    units = rows.set_index(unit_index(rows))[columns].sort_index()
    if units.empty or units.index.droplevel(units.index.names[len(UNIT) :]).has_duplicates:
        raise InputError("shares need one row per prompt; select one model and prompt set")

    def normalised(means: np.ndarray) -> np.ndarray:
        grouped = means.reshape(*means.shape[:-1], len(parts), -1)  # (..., M, P)
        total = grouped.sum(-1, keepdims=True)  # (..., M, 1)
        return np.divide(grouped, total, out=np.full_like(grouped, np.nan), where=total != 0)

    def seed_shares(part: pd.DataFrame, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        values = part.to_numpy(dtype=float)  # (n, M * P)
        return normalised(values.mean(0)), normalised(weights @ values / weights.sum(1, keepdims=True))

    return average(units, seed_shares, plan or Bootstrap(), bounds=(0.0, 1.0))


def average(
    units: pd.DataFrame,
    statistic: Callable[[pd.DataFrame, np.ndarray], tuple[np.ndarray, np.ndarray]],
    plan: Bootstrap,
    cluster: str | None = None,
    bounds: tuple[float, float] | None = None,
) -> Estimate:
    """Average a statistic of each seed over seeds, then tasks.

    Args:
        units: One row per prompt, with a sorted index of :func:`unit_index`, and the level ``cluster`` if there is one.
        statistic: Function that computes the statistic: (rows of one task and seed (n), weights (R, n)) -> value (M...),
            resampled (R, M...).
        plan: Settings of the resampling.
        cluster: See :func:`mean`.
        bounds: Smallest and largest possible value of the statistic.
    """
    own = _own_demonstrations(units)
    values, resampled, joint, separate, of_seeds, texts = [], [], [], [], [], []
    recur = plan.resamples > 1 and _texts_recur(units)
    for task, task_rows in units.groupby(level="task", sort=True):
        names, codes = _texts(task_rows)  # (n,)
        text_weights = plan.text_weights(task, len(names)) if recur else None  # (R, T)
        parts, of_task, start = [], [], 0
        for seed, part in task_rows.groupby(level="seed", sort=True):
            value, drawn = statistic(part, _weights(part, task, seed, plan, cluster))
            parts.append((value, drawn))
            if text_weights is not None:
                weights = text_weights[:, codes[start : start + len(part)]]  # (R, n)
                plain = drawn if cluster is None else statistic(part, plan.prompt_weights(task, seed, len(part)))[1]
                # A resample can have no text of a seed.
                drawn_texts = statistic(part, np.where(weights.sum(1, keepdims=True) > 0, weights, 1))[1]
                of_task.append((drawn_texts, plain))
            start += len(part)
        seed_values = np.stack([value for value, _ in parts])  # (S, M...)
        values.append(mean_of_known(seed_values))
        resampled.append(mean_of_known([drawn for _, drawn in parts], plan.seed_weights(task, len(parts))))
        of_seeds.append(seed_values)
        texts.append(len(names))
        if text_weights is not None:
            joint.append(mean_of_known([one for one, _ in of_task]))
            separate.append(mean_of_known([one for _, one in of_task]))
    return Estimate(
        value=mean_of_known(values),
        over_prompts=mean_of_known(resampled),
        left_out=None if own else _left_out(of_seeds),
        over_texts=np.stack([mean_of_known(joint), mean_of_known(separate)]) if recur else None,
        groups=tuple(len(each) for each in of_seeds),
        prompts=len(units),
        texts=min(texts),
        level=plan.level,
        sample=_digest(units),
        bounds=bounds,
    )


def of_weights(
    units: pd.DataFrame,
    statistic: Callable[[np.ndarray], np.ndarray],
    plan: Bootstrap,
    bounds: tuple[float, float] | None = None,
) -> Estimate:
    """Estimate a statistic of all prompts of one task together, such as a correlation over the prompts of all seeds.

    Args:
        units: One row per prompt of one task, with a sorted index of :func:`unit_index`.
        statistic: Function of weights of the prompts (K, N), which returns its K values (K, M...).
        plan: Settings of the resampling.
        bounds: Smallest and largest possible value of the statistic.
    """
    task = units.index.get_level_values("task")[0]
    seeds = units.index.get_level_values("seed").to_numpy()  # (N,)
    distinct = np.unique(seeds)
    value = statistic(np.ones((1, len(units))))[0]  # (M...)
    drawn = np.zeros((plan.resamples, len(units)))  # (R, N)
    for seed in distinct:
        drawn[:, seeds == seed] = plan.prompt_weights(task, int(seed), int((seeds == seed).sum()))
    resampled = statistic(drawn)  # (R, M...)
    names, codes = _texts(units)
    over_texts = None
    if plan.resamples > 1 and _texts_recur(units):
        over_texts = np.stack([statistic(plan.text_weights(task, len(names))[:, codes]), resampled])
    left_out = None
    if not _own_demonstrations(units):
        left_out = (
            statistic((seeds != distinct[:, None]).astype(float)) if len(distinct) > 1 else np.full((1, *value.shape), np.nan)
        )
    return Estimate(
        value, resampled, left_out, over_texts, (len(distinct),), len(units), len(names), plan.level, _digest(units), bounds
    )


def over_tasks(estimates: Sequence[Estimate], bounds: tuple[float, float] | None = None) -> Estimate:
    """Estimate the mean over tasks, ignoring NaN.

    Args:
        estimates: The estimate of each task, all of the same shape; see :func:`of_weights`.
        bounds: Smallest and largest possible value.
    """
    values = [each.value for each in estimates]
    left_out = over_texts = None
    if all(each.left_out is not None for each in estimates):
        rows = []
        for number, each in enumerate(estimates):
            for part in each.left_out:
                whole = mean_of_known([*values[:number], part, *values[number + 1 :]])
                rows.append(np.where(np.isnan(part), np.nan, whole))
        left_out = np.stack(rows)  # (sum of S, M...)
        for each in estimates:  # nothing is known about the variance between the seeds of this task
            left_out[:, ~np.isnan(each.value) & np.isnan(each.left_out).all(0)] = np.nan
    if any(each.over_texts is not None for each in estimates):
        over_texts = np.stack(
            [
                mean_of_known([each.over_prompts if each.over_texts is None else each.over_texts[kind] for each in estimates])
                for kind in (0, 1)
            ]
        )
    return Estimate(
        value=mean_of_known(values),
        over_prompts=mean_of_known([each.over_prompts for each in estimates]),
        left_out=left_out,
        over_texts=over_texts,
        groups=tuple(group for each in estimates for group in each.groups),
        prompts=sum(each.prompts for each in estimates),
        texts=min(each.texts for each in estimates),
        level=estimates[0].level,
        sample=hashlib.sha256("\n".join(each.sample for each in estimates).encode()).hexdigest()[:16],
        bounds=bounds,
    )


def _weights(part: pd.DataFrame, task: str, seed: int, plan: Bootstrap, cluster: str | None) -> np.ndarray:
    """Return how often each resample draws each prompt of a seed, shape (R, n); the prompts of a cluster are drawn together."""
    if cluster is None:
        return plan.prompt_weights(task, seed, len(part))
    codes, names = pd.factorize(part.index.get_level_values(cluster), sort=True)  # (n,)
    return plan.prompt_weights(task, seed, len(names))[:, codes]


def _texts(units: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct test texts of a task, shape (T,), and the number of each prompt's text, shape (n,)."""
    if QUERY not in units.index.names:
        return np.arange(len(units)), np.arange(len(units))
    return np.unique(units.index.get_level_values(QUERY).to_numpy(), return_inverse=True)


def _texts_recur(units: pd.DataFrame) -> bool:
    """Return whether a test text occurs in several seeds of a task."""
    if QUERY not in units.index.names:
        return False
    distinct = units.index.to_frame(index=False)[["task", "seed", QUERY]].drop_duplicates()
    return bool(distinct.duplicated(["task", QUERY]).any())


# The share of the prompts of a seed that must have different demonstrations, so that each prompt is a demonstration set of its
# own. Independent draws from a small training set can be equal.
_OWN = 0.9


def _own_demonstrations(units: pd.DataFrame) -> bool:
    """Return whether each prompt has its own demonstrations, so that it is a demonstration set of its own."""
    if DEMONSTRATIONS not in units.index.names:
        return False
    counts = units.index.to_frame(index=False).groupby(["task", "seed"])[DEMONSTRATIONS].agg(["size", "nunique"])
    return bool((counts["nunique"] >= _OWN * counts["size"]).all() and counts["size"].max() > 1)


def _left_out(of_seeds: Sequence[np.ndarray]) -> np.ndarray:
    """Return the mean over tasks without one seed, for each seed of each task.

    Args:
        of_seeds: Values of the seeds of each task, shape (S, M...).

    Returns:
        Shape (sum of S, M...). NaN for a seed without a value, and everywhere for a cell of which a task has only one seed,
        because nothing is then known about the variance between the seeds of this task.
    """
    means = [mean_of_known(values) for values in of_seeds]
    found = []
    single = np.zeros(means[0].shape, dtype=bool)  # (M...)
    for number, values in enumerate(of_seeds):
        known = ~np.isnan(values)  # (S, M...)
        single |= known.sum(0) == 1
        for place in range(len(values)):
            others = np.delete(values, place, axis=0)
            reduced = mean_of_known(others) if len(others) else np.full(means[0].shape, np.nan)
            whole = mean_of_known([*means[:number], reduced, *means[number + 1 :]])
            found.append(np.where(known[place], whole, np.nan))
    stacked = np.stack(found)  # (sum of S, M...)
    stacked[:, single] = np.nan
    return stacked


def _digest(units: pd.DataFrame) -> str:
    """Return a digest of the prompts and their test texts, which does not depend on their order."""
    names = [name for name in (*UNIT, QUERY) if name in units.index.names]
    frame = units.index.to_frame(index=False)[names].astype(str)
    lines = sorted("\t".join(row) for row in frame.itertuples(index=False))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


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
    weight = np.where(np.isnan(stacked), 0, weight)  # (S, R, M...)
    total = weight.sum(0)  # (R, M...)
    summed = (np.where(weight > 0, stacked, 0) * weight).sum(0)  # (R, M...)
    return np.divide(summed, total, out=np.full(total.shape, np.nan), where=total > 0)
