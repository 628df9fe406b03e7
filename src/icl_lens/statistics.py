"""What figures and tables make of a study's rows: the AUC of attention, and intervals that say how sure a mean is.

**AUCROC_l** (*Label Words are Anchors*, section 2.3, appendix E) says how well the attention of the last position to each
class's label words in layer l tells the model's own prediction; R_l (eq. 5) is the share of it that layers up to l have
contributed,

    R_l = sum_{i <= l} (AUCROC_i - 0.5) / sum_{i <= N} (AUCROC_i - 0.5)

**Intervals** are 95 % percentile intervals of a bootstrap. The estimate is always the paper's: the mean over a seed's prompts,
then over a task's seeds, then over tasks. Resampled are the prompts within each task and seed, so the interval says what other
test texts would have given *with the same demonstration sets*. The seeds are strata and are not resampled by default: from
five of them no bootstrap learns how demonstration sets vary. ``Bootstrap(seeds_too=True)`` resamples them too, for runs with
many seeds; with five its intervals hold the mean over all demonstration sets less often than they say
(``benchmarks/intervals.py`` prints how often). A prompt gets the same weight in a resample whichever column, study or model it
is seen in, so the difference of two conditions on the same prompts is a paired difference: subtract their estimates, and the
interval is that of the difference.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from typing import Literal

import numpy as np
import pandas as pd

from icl_lens.errors import InputError

TwoClasses = Literal["normalised", "raw"]

# Stands where a task's name would for what is averaged over all of them; no task is named so, having blanks.
OVER_TASKS = "mean of tasks"

# Below this sum of AUCROC_i - 0.5 (of N layers, times N) R_l would be a quotient of rounding errors.
_NO_SIGNAL = 1e-9


def auc(scores: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """Area under the ROC curve: the chance that a positive scores above a negative, ties counting one half.

    Args:
        scores: Shape (..., N).
        positive: Which are positive, shape (N,).

    Returns:
        Shape (...); NaN without a positive or without a negative.
    """
    scores, positive = np.asarray(scores, dtype=float), np.asarray(positive, dtype=bool)
    ahead, behind = int(positive.sum()), int((~positive).sum())
    if not ahead or not behind:
        return np.full(scores.shape[:-1], np.nan)
    # Mann and Whitney's U from the sum of the positives' ranks.
    return (midranks(scores)[..., positive].sum(-1) - ahead * (ahead + 1) / 2) / (ahead * behind)


def midranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1 along the last axis; equal values share the mean of their ranks. Shape as ``values``."""
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
    """Spearman's rank correlation along the last axis, equal values sharing the mean of their ranks.

    Args:
        first: Shape (..., N).
        second: A shape that broadcasts with it.

    Returns:
        Shape (...); NaN where either is constant (one value is), for its ranks then say nothing.
    """
    ranks = [midranks(np.asarray(values, dtype=float)) for values in (first, second)]
    centred = [r - r.mean(-1, keepdims=True) for r in ranks]  # (..., N) each
    spread = np.sqrt((centred[0] ** 2).sum(-1) * (centred[1] ** 2).sum(-1))
    shared = (centred[0] * centred[1]).sum(-1)
    return np.divide(shared, spread, out=np.full(np.shape(shared), np.nan), where=spread > 0)


@dataclass(frozen=True)
class Agreement:
    """How well attention tells the prediction, layer by layer.

    Attributes:
        auc: AUCROC_l, shape (L,); NaN in all layers where fewer than two classes are predicted.
        kept: The predicted classes, ascending.
        dropped: The classes that are never predicted: they have no positives, so they are left out (as released).
    """

    auc: np.ndarray
    kept: tuple[int, ...]
    dropped: tuple[int, ...]


def agreement(scores: np.ndarray, predicted: np.ndarray, two_classes: TwoClasses = "normalised") -> Agreement:
    """AUCROC_l: the one-versus-one macro average of the AUC over pairs of predicted classes (Hand and Till, 2001).

    Each row of scores is divided by its sum over the predicted classes. For a pair (a, b), on the prompts predicted a or b,
    the AUC of score a for a and that of score b for b are averaged; pairs count alike. That is scikit-learn's
    ``roc_auc_score(multi_class="ovo", average="macro")`` on these rows.

    Args:
        scores: Attention to each class's label words, shape (L, N, C).
        predicted: The model's own predicted class of each prompt, shape (N,).
        two_classes: What two predicted classes are scored by: ``normalised`` as above, or ``raw``, the attention to the
            second of them alone, as the released code does.
    """
    return _agreement(scores, predicted, two_classes, lambda s, positive, _: auc(s, positive))


def _agreement(scores: np.ndarray, predicted: np.ndarray, two_classes: TwoClasses, measure: Callable) -> Agreement:
    """:func:`agreement` with any ``measure(scores (L, n), positive (n,), members (n,) of the N prompts)`` of the AUC."""
    scores, predicted = np.asarray(scores, dtype=float), np.asarray(predicted)
    kept = np.unique(predicted)
    dropped = np.setdiff1d(np.arange(scores.shape[-1]), kept)
    classes = tuple(kept.tolist()), tuple(dropped.tolist())
    everyone = np.arange(len(predicted))
    if len(kept) < 2:
        return Agreement(measure(scores[..., 0], everyone < 0, everyone), *classes)  # no positives: NaN
    chosen = scores[..., kept]  # (L, N, K)
    if len(kept) == 2 and two_classes == "raw":
        return Agreement(measure(chosen[..., 1], predicted == kept[1], everyone), *classes)
    total = chosen.sum(-1, keepdims=True)  # (L, N, 1)
    # Where no label word is attended to at all, no class is preferred.
    shares = np.divide(chosen, total, out=np.full_like(chosen, 1 / len(kept)), where=total > 0)  # (L, N, K)
    pairs = []
    for a, b in combinations(range(len(kept)), 2):
        members = np.flatnonzero((predicted == kept[a]) | (predicted == kept[b]))  # (n,)
        for one in (a, b):
            pairs.append(measure(shares[:, members, one], predicted[members] == kept[one], members))
    return Agreement(_mean_of_known(pairs), *classes)


def cumulative_share(curve: np.ndarray) -> np.ndarray:
    """R_l: the share of the summed AUCROC - 0.5 that layers up to l have contributed (eq. 5).

    Args:
        curve: AUCROC_l of each layer, shape (..., L).

    Returns:
        Shape (..., L); NaN where the sum is zero (to rounding) or unknown.
    """
    excess = np.asarray(curve, dtype=float) - 0.5
    total = excess.sum(-1, keepdims=True)
    known = np.abs(total) > _NO_SIGNAL * excess.shape[-1]
    return np.divide(excess.cumsum(-1), total, out=np.full_like(excess, np.nan), where=known)


def attention_scores(rows: pd.DataFrame, prompt_ids: Sequence[int]) -> np.ndarray:
    """A deep_attention table's rows as an array, shape (L, N, C), the prompts in the order asked.

    Layers and classes are read from the rows' own columns, never from their order (bug 16 of the released notebook).

    Raises:
        InputError: A prompt, layer or class is missing, or stands twice.
    """
    if rows.duplicated(["prompt_id", "layer", "class"]).any():
        raise InputError("the deep_attention table holds a prompt, layer and class twice; give one model, task and set")
    wide = rows.pivot(index="prompt_id", columns=["layer", "class"], values="attention")
    layers, classes = (sorted(rows[name].unique()) for name in ("layer", "class"))
    wide = wide.reindex(index=prompt_ids, columns=pd.MultiIndex.from_product([layers, classes]))  # (N, L * C)
    if wide.isna().to_numpy().any():
        raise InputError("the deep_attention table lacks a prompt, layer or class that is asked for")
    return wide.to_numpy().reshape(len(prompt_ids), len(layers), len(classes)).transpose(1, 0, 2)


@dataclass(frozen=True)
class Bootstrap:
    """How resamples are drawn; equal plans draw equal resamples of equal prompts.

    Attributes:
        resamples: How many, R.
        seed: Of the random numbers.
        level: The share of resamples that an interval holds.
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
    """How often each of 0..size-1 stands in each row, shape (R, size)."""
    rows = len(drawn)
    flat = (drawn + size * np.arange(rows)[:, None]).ravel()
    return np.bincount(flat, minlength=rows * size).reshape(rows, size).astype(float)


@dataclass(frozen=True)
class Estimate:
    """Something measured, with its uncertainty.

    Attributes:
        value: On the prompts as they are, any shape (M...,).
        resampled: On each resample, shape (R, M...).
        prompts: How many prompts it rests on, all tasks and seeds together.
        level: The share of resamples between :attr:`low` and :attr:`high`.
    """

    value: np.ndarray
    resampled: np.ndarray = field(repr=False)
    prompts: int
    level: float = 0.95

    @property
    def low(self) -> np.ndarray:
        """Lower end of the percentile interval, shape (M...,); NaN where nothing is known."""
        return self._interval[0]

    @property
    def high(self) -> np.ndarray:
        """Upper end of the percentile interval, shape (M...,)."""
        return self._interval[1]

    @property
    def missing(self) -> np.ndarray:
        """Share of resamples in which the value does not exist (a class died out), shape (M...,)."""
        return np.isnan(self.resampled).mean(0)

    def __sub__(self, other: Estimate) -> Estimate:
        """The difference; paired where both rest on the same prompts and plan."""
        return Estimate(self.value - other.value, self.resampled - other.resampled, self.prompts, self.level)

    def apply(self, function: Callable[[np.ndarray], np.ndarray]) -> Estimate:
        """A function of the value that takes a leading axis of resamples, such as :func:`cumulative_share`."""
        return Estimate(function(self.value), function(self.resampled), self.prompts, self.level)

    @cached_property
    def _interval(self) -> np.ndarray:
        """Both ends of the percentile interval, shape (2, M...)."""
        ends = ((1 - self.level) / 2, (1 + self.level) / 2)
        flat = self.resampled.reshape(len(self.resampled), -1)  # (R, M)
        absent = np.isnan(flat)  # (R, M)
        whole, none = ~absent.any(0), absent.all(0)  # (M,)
        result = np.full((2, flat.shape[1]), np.nan)
        # nanquantile goes through the columns in a Python loop: only for those that need it.
        result[:, whole] = np.quantile(flat[:, whole], ends, axis=0)
        if not (whole | none).all():
            result[:, ~(whole | none)] = np.nanquantile(flat[:, ~(whole | none)], ends, axis=0)
        return result.reshape(2, *self.resampled.shape[1:])


def mean(rows: pd.DataFrame, columns: Sequence[str], plan: Bootstrap | None = None) -> Estimate:
    """Means over prompts, then seeds, then tasks, of one or more columns.

    Args:
        rows: One row a prompt: task, seed, prompt_id and the columns (numbers or booleans). Several rows of a prompt, such
            as the draws of a random control, are averaged first, so that prompts stay the unit.
        columns: M of them; one resample serves all.
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

    return _average(units, of_seed, plan)


def shares(rows: pd.DataFrame, parts: Sequence[Sequence[str]], plan: Bootstrap | None = None) -> Estimate:
    """How sums divide into parts: means over a seed's prompts, each divided by the sum of its group; then over seeds and tasks.

    The quotient is taken of a seed's means, not of each prompt's values, as the released code does it for S_wp, S_pq and S_ww
    (section 2.1), so a prompt along which more flows weighs more.

    Args:
        rows: One row a prompt: task, seed, prompt_id and the columns.
        parts: Columns that divide one sum, M groups of P.
        plan: How to resample.

    Returns:
        Values of shape (M, P); NaN for a sum of 0, such as the flow through a layer that changes nothing.

    Raises:
        InputError: There are no rows, or a prompt stands twice.
    """
    columns = [name for group in parts for name in group]
    units = rows.set_index(["task", "seed", "prompt_id"])[columns].sort_index()
    if units.empty or units.index.has_duplicates:
        raise InputError("shares are taken of one row a prompt; give one model and prompt set")

    def divided(means: np.ndarray) -> np.ndarray:
        grouped = means.reshape(*means.shape[:-1], len(parts), -1)  # (..., M, P)
        total = grouped.sum(-1, keepdims=True)  # (..., M, 1)
        return np.divide(grouped, total, out=np.full_like(grouped, np.nan), where=total != 0)

    def of_seed(part: pd.DataFrame, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        values = part.to_numpy(dtype=float)  # (n, M * P)
        return divided(values.mean(0)), divided(weights @ values / weights.sum(1, keepdims=True))

    return _average(units, of_seed, plan or Bootstrap())


def auc_curve(
    scores: pd.DataFrame, predictions: pd.DataFrame, plan: Bootstrap | None = None, two_classes: TwoClasses = "normalised"
) -> tuple[Estimate, pd.DataFrame]:
    """AUCROC_l of one model and prompt set, over all its tasks and seeds, and what could not be measured.

    Args:
        scores: deep_attention rows of one model and set.
        predictions: icl rows of the same: task, seed, prompt_id, prediction.
        plan: How to resample.
        two_classes: See :func:`agreement`.

    Returns:
        Values of shape (L,), the mean over seeds, then tasks; a seed in which fewer than two classes are predicted is left
        out of its task's mean, a task without any such seed of the whole. And one row a task and seed: task, seed, prompts,
        kept, dropped (numbers of classes), missing (whether it is left out).

    Raises:
        InputError: A prompt has no scores.
    """
    plan = plan or Bootstrap()
    units = predictions.set_index(["task", "seed", "prompt_id"])[["prediction"]].sort_index()
    if units.index.has_duplicates:
        raise InputError("a prompt stands twice in the icl rows; give one model and prompt set")
    by_task = dict(list(scores.groupby("task")))
    report = []

    def of_seed(part: pd.DataFrame, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        task, seed = part.index[0][:2]
        if task not in by_task:
            raise InputError(f"the deep_attention rows hold no prompt of task {task}")
        ids = part.index.get_level_values("prompt_id").tolist()
        of_part = by_task[task][by_task[task]["prompt_id"].isin(ids)]
        matrix = attention_scores(of_part, ids)  # (L, n, C)
        predicted = part["prediction"].to_numpy()
        plain = agreement(matrix, predicted, two_classes)
        lost = len(plain.kept) < 2
        counts = {"prompts": len(ids), "kept": len(plain.kept), "dropped": len(plain.dropped)}
        report.append({"task": task, "seed": seed, **counts, "missing": lost})
        return plain.auc, _agreement(matrix, predicted, two_classes, _ResampledAuc(weights)).auc

    estimate = _average(units, of_seed, plan)
    return estimate, pd.DataFrame(report)


class _ResampledAuc:
    """The AUC on every resample at once: with w the weights and D_ij = 1, 1/2 or 0 where positive i wins, ties or loses

    against negative j, it is w_+' D w_- / (sum w_+ sum w_-), one matrix product for all resamples. NaN where a resample
    holds no positive or no negative.
    """

    def __init__(self, weights: np.ndarray) -> None:
        self.weights = weights  # (R, N)

    def __call__(self, scores: np.ndarray, positive: np.ndarray, members: np.ndarray) -> np.ndarray:
        """Scores of shape (L, n) of the prompts ``members`` (n,), of which some are positive (n,); returns (R, L)."""
        weights = self.weights[:, members]
        ahead, behind = weights[:, positive], weights[:, ~positive]  # (R, n+), (R, n-)
        pairs = ahead.sum(1) * behind.sum(1)  # (R,)
        wins = np.empty((len(weights), len(scores)))  # (R, L)
        for layer, row in enumerate(scores):
            doubled = 1 + np.sign(row[positive][:, None] - row[~positive])  # (n+, n-): 2 D
            wins[:, layer] = np.einsum("rn,rn->r", ahead @ doubled, behind) / 2
        return np.divide(wins, pairs[:, None], out=np.full_like(wins, np.nan), where=pairs[:, None] > 0)


def _average(units: pd.DataFrame, of_seed: Callable, plan: Bootstrap) -> Estimate:
    """The mean over tasks of the mean over seeds of what ``of_seed`` finds for a seed's prompts and their weights.

    Args:
        units: One row a prompt, indexed by task, seed and prompt_id, sorted.
        of_seed: (rows of one task and seed (n), weights (R, n)) -> value (M...), resampled (R, M...).
        plan: How to resample.
    """
    values, resampled = [], []
    for task, of_task in units.groupby(level="task", sort=True):
        parts = [
            of_seed(part, plan.prompt_weights(task, seed, len(part))) for seed, part in of_task.groupby(level="seed", sort=True)
        ]
        values.append(_mean_of_known([value for value, _ in parts]))
        resampled.append(_mean_of_known([drawn for _, drawn in parts], plan.seed_weights(task, len(parts))))
    return Estimate(_mean_of_known(values), _mean_of_known(resampled), len(units), plan.level)


def _mean_of_known(values: Sequence[np.ndarray], weights: np.ndarray | None = None) -> np.ndarray:
    """Mean of equally shaped arrays, element by element, over those that are not NaN; NaN where all are.

    Args:
        values: S arrays of shape (R, M...), or any shape without weights.
        weights: Of each array in each of its rows, shape (R, S).
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
