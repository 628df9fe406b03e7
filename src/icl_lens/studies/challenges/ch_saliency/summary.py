"""Results of the study ``ch_saliency``: which attributions rank layers and classes of edges as the effect of cutting them does.

The values of a cell (a class of edges in a layer) are means over prompts, and their absolute values are ranked with Spearman's
rank correlation:

    cells             over all layers and classes
    classes           over layers within each class, averaged over the classes
    layers            over classes within each layer, averaged over the layers
    forecast          over all layers and classes, with signs: the forecast of an attribution against the effect
    heads             over layers and heads; the effect is that of z := 0 in the head

A cell without edges in some prompts is a mean over the other prompts; a cell without edges in more than half of the prompts is
not ranked. In the last layer, edges to positions before the query cannot change the prediction. These cells are not ranked
either, because attributions that are gradients are 0 there by construction. A class or layer with fewer than three cells, or
with equal values in all cells, has no correlation. The classes overlap: ``ww`` contains most of the others. The class ``layer``
is not ranked.

An attribution is a sum over the edges of the class, or the mean per edge, which is the paper's S. In both cases the effect is
that of the whole class.

Baselines are the number of edges, the same correlations on random counterparts of the classes, and the effect itself on one
half of the test texts against the other half (``ceiling``). The means of two halves are noisier than those of all prompts, so
an attribution can be above the ceiling.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from icl_lens.statistics.halves import halves, texts_of
from icl_lens.statistics.ranks import rank
from icl_lens.statistics.resampling import OVER_TASKS, Bootstrap, Estimate, of_weights, over_tasks, unit_index
from icl_lens.studies.challenges.ch_saliency.names import (
    ANSWERS,
    ATTRIBUTIONS,
    BEFORE_QUERY,
    EDGES,
    LAYER,
    QUANTITIES,
    TRUTHS,
)

COUNT = "count"
"""Baseline: the number of edges."""

CEILING = "ceiling"
"""The effect on one half of the test texts, against the effect on the other half."""

CLASSES, RANDOM = "classes", "random"
"""Which edges are ranked: those of the classes, or their random counterparts."""

HEADS = {
    "sum_of_abs": "sum |A dL/dA|",
    "michel": "Michel et al.",
    "michel_by_layer": "Michel, by layer",
    "signed": "sum with sign",
    "ig": "integrated gradients",
}
"""Attributions of heads, and their names in a legend."""

FORECASTS = {"signed": 1.0, "ig": -1.0}
"""Attributions that forecast the effect with its sign, and the sign of the forecast."""

# Minimum number of cells of a rank correlation, and minimum share of prompts that have a ranked cell.
_FEWEST, _SHARE = 3, 0.5


class Cells(NamedTuple):
    """Values of the cells of a task.

    Attributes:
        units: One row per prompt, with the index of :func:`icl_lens.statistics.resampling.unit_index`, N in total.
        groups: Scope -> groups of indices of cells within which cells are ranked.
        layers: Layer of each of M cells, shape (M,).
        values: Name of an attribution or effect -> values, shape (N, M), NaN where a prompt has no such edges.
    """

    units: pd.DataFrame
    groups: dict[str, list[np.ndarray]]
    layers: np.ndarray
    values: dict[str, np.ndarray]


class Comparison(NamedTuple):
    """Two quantities whose ranks are compared, and how they are compared.

    Attributes:
        scope, per, edges, truth, method: Columns of :func:`summarise`.
        first, second: Names of the quantities in :class:`Cells`.
        halved: Whether the first is averaged over one half of the test texts, and the second over the other half.
        sign: Factor of the first quantity if signs count; 0 to compare absolute values.
        divided: Whether the first quantity is divided by its L2 norm in each layer.
    """

    scope: str
    per: str
    edges: str
    truth: str
    method: str
    first: str
    second: str
    halved: bool = False
    sign: float = 0.0
    divided: bool = False

    @property
    def key(self) -> tuple:
        """Columns of :func:`summarise` that identify the comparison."""
        return self[:5]


def summarise(rows: pd.DataFrame, plan: Bootstrap | None = None) -> pd.DataFrame:
    """Compute the rank correlations of each model and set, for each task and for the mean of tasks.

    Args:
        rows: Tables of the study.
        plan: How to resample.

    Returns:
        One row per model, set, task, ``answer``, ``quantity``, ``scope`` (see the module docstring), ``per`` (class or edge),
        ``edges`` (:data:`CLASSES` or :data:`RANDOM`), ``truth``
        (:data:`~icl_lens.studies.challenges.ch_saliency.names.TRUTHS`) and ``method``
        (:data:`~icl_lens.studies.challenges.ch_saliency.names.ATTRIBUTIONS`, ``count``, ``ceiling``, and for heads
        :data:`HEADS`): these columns, value, and the columns of
        :meth:`~icl_lens.statistics.resampling.Estimate.columns`. The method ``abs_of_sum`` with the truth ``sum_of_abs``
        compares these two attributions, and the method ``truth_pre`` with the truth ``truth_post`` the two effects.
    """
    plan, found = plan or Bootstrap(), []
    for (model, name), of_model in rows.groupby(["model", "set"], sort=False):
        tasks = list(dict.fromkeys(of_model["task"]))
        parts = {key: part for key, part in of_model.groupby(["task", "answer", "quantity"])}
        for answer in ANSWERS:
            for quantity in QUANTITIES:
                of_tasks = {task: _correlations(parts[task, answer, quantity], plan) for task in tasks}
                of_tasks[OVER_TASKS] = _mean_over_tasks(list(of_tasks.values()))
                for task, (keys, estimate) in of_tasks.items():
                    table = pd.DataFrame(keys, columns=["scope", "per", "edges", "truth", "method"])
                    about = {"model": model, "task": task, "set": name, "answer": answer, "quantity": quantity}
                    for place, (column, value) in enumerate(about.items()):
                        table.insert(place, column, value)
                    found.append(table.assign(value=estimate.value, **estimate.columns()))
    return pd.concat(found, ignore_index=True)


def _mean_over_tasks(of_tasks: Sequence[tuple[list[tuple], Estimate]]) -> tuple[list[tuple], Estimate]:
    """Return the mean over tasks of the correlations that all of them have."""
    common = [key for key in of_tasks[0][0] if all(key in keys for keys, _ in of_tasks)]
    estimates = [estimate[[keys.index(key) for key in common]] for keys, estimate in of_tasks]
    return common, over_tasks(estimates, (-1.0, 1.0))


def _correlations(rows: pd.DataFrame, plan: Bootstrap) -> tuple[list[tuple], Estimate]:
    """Return the keys of the comparisons of one task, answer and quantity, and their correlations."""
    of_classes = {
        RANDOM if control else CLASSES: _cells(part) for control, part in rows[rows["edges"] != LAYER].groupby("control")
    }
    heads = _heads(rows[rows["edges"] == LAYER])
    comparisons = [each for edges, cells in of_classes.items() for each in _of_classes(cells, edges)] + _of_heads()
    units = heads.units
    # Each prompt has its own demonstrations, so the halves need not have equal numbers of prompts of each seed.
    half = halves(np.zeros(len(units), dtype=int), texts_of(units.reset_index()))  # (N,)

    def statistic(weights: np.ndarray) -> np.ndarray:
        weights, index = np.unique(weights, axis=0, return_inverse=True)  # seeds with one prompt have equal resamples
        samples = {key: _Sample(cells, weights, half) for key, cells in {**of_classes, "heads": heads}.items()}
        found = [samples["heads" if each.scope == "heads" else each.edges].compare(each) for each in comparisons]
        return np.stack(found, 1)[index]  # (K, comparisons)

    return [each.key for each in comparisons], of_weights(units, statistic, plan, (-1.0, 1.0))


def _of_classes(cells: Cells, edges: str) -> list[Comparison]:
    """Return the comparisons of classes of edges, or of their random counterparts."""
    found = []
    for scope in ("cells",) if edges == RANDOM else cells.groups:
        for truth in TRUTHS:
            found += [Comparison(scope, "class", edges, truth, name, name, truth) for name in (*ATTRIBUTIONS, COUNT)]
            if scope == "cells":
                found += [Comparison(scope, "edge", edges, truth, name, f"{name} per edge", truth) for name in ATTRIBUTIONS]
            found.append(Comparison(scope, "class", edges, truth, CEILING, truth, truth, halved=True))
        found.append(Comparison(scope, "class", edges, "sum_of_abs", "abs_of_sum", "abs_of_sum", "sum_of_abs"))
        found.append(Comparison(scope, "class", edges, "truth_post", "truth_pre", "truth_pre", "truth_post"))
    found += [
        Comparison("forecast", "class", edges, truth, name, name, truth, sign=sign)
        for truth in TRUTHS
        for name, sign in FORECASTS.items()
        if "cells" in cells.groups
    ]
    return found


def _of_heads() -> list[Comparison]:
    """Return the comparisons of heads."""
    found = [
        Comparison("heads", "class", CLASSES, "truth_post", name, name.removesuffix("_by_layer"), "truth", divided=divided)
        for name in HEADS
        for divided in [name == "michel_by_layer"]
    ]
    return [*found, Comparison("heads", "class", CLASSES, "truth_post", CEILING, "truth", "truth", halved=True)]


class _Sample:
    """Means of the cells over prompts with K sets of weights, and their ranks, each computed once."""

    def __init__(self, cells: Cells, weights: np.ndarray, half: np.ndarray) -> None:
        self._cells = cells
        self._weights = {None: weights, 0: weights * (half == 0), 1: weights * (half == 1)}  # (K, N) each
        self._means: dict[tuple, np.ndarray] = {}
        self._ranks: dict[tuple, list[np.ndarray]] = {}

    def compare(self, comparison: Comparison) -> np.ndarray:
        """Return the mean over groups of the rank correlations, ignoring groups without one, shape (K,)."""
        scope = comparison.scope if comparison.scope in self._cells.groups else "cells"
        first, second = (0, 1) if comparison.halved else (None, None)
        one = self._of_groups(comparison.first, first, scope, comparison.sign, comparison.divided)
        other = self._of_groups(comparison.second, second, scope, abs(comparison.sign), False)
        values = np.stack([(a * b).sum(-1) for a, b in zip(one, other, strict=True)])  # (groups, K)
        count = (~np.isnan(values)).sum(0)  # (K,)
        return np.divide(np.nansum(values, 0), count, out=np.full(values.shape[1], np.nan), where=count > 0)

    def _of_groups(self, name: str, half: int | None, scope: str, sign: float, divided: bool) -> list[np.ndarray]:
        """Return the ranks of a quantity within each group, centred and of unit length, shape (K, m) each."""
        key = (name, half, scope, sign, divided)
        if key not in self._ranks:
            means = self._mean(name, half)  # (K, M)
            if divided:
                means = means.copy()
                for layer in np.unique(self._cells.layers):
                    of_layer = self._cells.layers == layer
                    means[:, of_layer] /= np.linalg.norm(means[:, of_layer], axis=1, keepdims=True) + 1e-20
            means = sign * means if sign else np.abs(means)
            self._ranks[key] = [_standardised(rank(means[:, group])) for group in self._cells.groups[scope]]
        return self._ranks[key]

    def _mean(self, name: str, half: int | None) -> np.ndarray:
        """Return the weighted means over the prompts that have the edges, shape (K, M)."""
        if (name, half) not in self._means:
            self._means[name, half] = _weighted_means(self._cells.values[name], self._weights[half])
        return self._means[name, half]


def _standardised(ranks: np.ndarray) -> np.ndarray:
    """Centre ranks, shape (K, m), and divide them by their norm; NaN if all are equal."""
    centred = ranks - ranks.mean(1, keepdims=True)
    norm = np.linalg.norm(centred, axis=1, keepdims=True)  # (K, 1)
    return np.divide(centred, norm, out=np.full_like(centred, np.nan), where=norm > 0)


def _cells(rows: pd.DataFrame) -> Cells:
    """Return the cells of one task, answer and quantity, of the classes or of their random counterparts."""
    per_edge = {f"{name} per edge": rows[name] / rows[COUNT] for name in ATTRIBUTIONS}
    names = [*ATTRIBUTIONS, *TRUTHS, COUNT, *per_edge]
    wide = rows.assign(**per_edge).pivot(index=unit_index(rows), columns=["layer", "edges"], values=names).sort_index()
    shares = rows.groupby(["layer", "edges"]).size() / len(wide)
    depth = sorted(rows["layer"].unique())
    cells = [
        (layer, name)
        for layer in depth
        for name in EDGES
        if shares.get((layer, name), 0) >= _SHARE and not (layer == depth[-1] and name in BEFORE_QUERY)
    ]
    columns = pd.MultiIndex.from_tuples(cells)
    values = {name: wide[name].reindex(columns=columns).to_numpy(dtype=float) for name in names}
    layers, classes = (np.array(each) for each in zip(*cells, strict=True))
    groups = {
        "cells": [np.arange(len(cells))],
        "classes": [np.flatnonzero(classes == name) for name in dict.fromkeys(classes)],
        "layers": [np.flatnonzero(layers == layer) for layer in dict.fromkeys(layers)],
    }
    groups = {scope: [group for group in each if len(group) >= _FEWEST] for scope, each in groups.items()}
    return Cells(pd.DataFrame(index=wide.index), {scope: each for scope, each in groups.items() if each}, layers, values)


def _heads(rows: pd.DataFrame) -> Cells:
    """Return the heads of one task, answer and quantity as cells."""
    rows = rows.sort_values([*unit_index(rows), "layer"])
    layers = np.sort(rows["layer"].unique())
    units = rows[rows["layer"] == layers[0]].set_index(unit_index(rows))[[]]
    columns = {"sum_of_abs": "heads", **{name: f"heads_{name}" for name in ("michel", "signed", "ig", "truth")}}
    values = {
        name: np.stack(rows[column].to_list()).reshape(len(units), -1) for name, column in columns.items()
    }  # (N, L * H) each
    of_heads = np.repeat(layers, len(rows["heads"].iloc[0]))
    return Cells(units, {"heads": [np.arange(len(of_heads))]}, of_heads, values)


def cells_of(rows: pd.DataFrame, plan: Bootstrap | None = None) -> pd.DataFrame:
    """Compute the means over prompts of each cell.

    Args:
        rows: Tables of the study.
        plan: How to resample.

    Returns:
        One row per model, task, set, answer, quantity, ``control``, layer, class of edges (``edges``, with ``layer``) and
        method (attributions and effects): these columns, value (the mean over prompts of the sum over edges), and the columns
        of :meth:`~icl_lens.statistics.resampling.Estimate.columns`. The method ``count`` is the number of edges, and the method
        ``completeness`` is the completeness error of integrated gradients, for the class ``layer``.
    """
    plan, found = plan or Bootstrap(), []
    keys = ["model", "task", "set", "answer", "quantity"]
    names = [*ATTRIBUTIONS, *TRUTHS, COUNT, "completeness"]
    rows = rows.assign(completeness=completeness(rows))
    for key, part in rows.groupby(keys, sort=False):
        wide = part.pivot(index=unit_index(part), columns=["control", "layer", "edges"], values=names).sort_index()
        wide = wide[[column for column in wide if column[0] != "completeness" or column[-1] == LAYER]]
        values = wide.to_numpy(dtype=float)  # (N, M)
        estimate = of_weights(wide[[]], lambda weights, values=values: _weighted_means(values, weights), plan)
        table = wide.columns.to_frame(index=False)
        table.columns = ["method", "control", "layer", "edges"]
        for place, (column, value) in enumerate(zip(keys, key, strict=True)):
            table.insert(place, column, value)
        found.append(table.assign(value=estimate.value, **estimate.columns()))
    return pd.concat(found, ignore_index=True)


def _weighted_means(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return weighted means over the prompts with a value, shape (K, M), for values (N, M) and weights (K, N)."""
    known = ~np.isnan(values)  # (N, M)
    total = weights @ known  # (K, M)
    return np.divide(weights @ np.where(known, values, 0), total, out=np.full(total.shape, np.nan), where=total > 0)


def completeness(rows: pd.DataFrame) -> pd.Series:
    """Return the completeness error of integrated gradients of each row; it is meaningful for the class ``layer``."""
    return (rows["ig"] + rows["truth_post"]).abs() / rows["truth_post"].abs().clip(lower=1e-6)
