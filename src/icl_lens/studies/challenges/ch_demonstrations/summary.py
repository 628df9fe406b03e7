"""Contributions of demonstrations for the figures and the table, with confidence intervals.

Means are over the prompts of a seed, then over seeds, then over tasks; the intervals are those of
:mod:`icl_lens.statistics.resampling`. Each quantity has one value per prompt, and prompts without a value (such as those
without a demonstration of the gold class) are left out of its mean:

    contribution   mean Shapley value (or other contribution) of a group of demonstrations: ``all``, those with the label of the
                   ``gold`` class, those with ``other`` labels, and ``gold - other``
    place          Shapley value of the demonstration at a place, counted from the query (1 is the last demonstration), if it
                   has the label of the gold class; tasks in which only one of several seeds has such a demonstration are left
                   out
    target         Shapley value of the demonstration that the controls change, and that of a duplicate and its copy together;
                   ``gold`` and ``other`` refer to its label before the change
    change         the same minus the value without the change
    correlation    Spearman's rank correlation of a measure with the Shapley values of the prompt
    margin, empty margin, difference, accuracy

Three correlations are reported: of the measure with phi (``phi``); of the measure signed by the label with phi (``signed``: the
value is multiplied by -1 for a demonstration with another label than the gold class); and of the measure with the absolute
value of phi (``size``). ``pooled`` is the correlation with phi over all demonstrations of a task, after the mean of each prompt
is subtracted from both. Its resamples use the ranks among all demonstrations. The measure ``gold label`` is 1 for a
demonstration of the gold class and 0 for others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from icl_lens.statistics.ranks import rank, spearman
from icl_lens.statistics.resampling import OVER_TASKS, Bootstrap, Estimate, mean, of_weights, over_tasks, unit_index
from icl_lens.studies.challenges.ch_demonstrations.study import (
    CALIBRATED,
    CONTROLS,
    KINDS,
    LEAVE_ONE_OUT,
    MEASURES,
    PLAIN,
    PROMPT,
    SHAPLEY,
)

GOLD_LABEL = "gold label"

POOLED = "pooled"

AGAINST = ("phi", "signed", "size")
"""What a measure is correlated with within a prompt."""

_DELETED = KINDS[0]

_CONTRIBUTIONS = (
    *((kind, SHAPLEY) for kind in KINDS),
    (_DELETED, CALIBRATED),
    *((kind, LEAVE_ONE_OUT) for kind in KINDS),
)

COMPARED = (
    (GOLD_LABEL, PROMPT),
    *((measure, PROMPT) for measure in MEASURES),
    *((LEAVE_ONE_OUT, kind) for kind in KINDS),
    *((SHAPLEY, kind) for kind in KINDS[1:]),
    (CALIBRATED, _DELETED),
)
"""Measures that are correlated with the Shapley values of deleted demonstrations: name and kind."""

_BOUNDS = {"correlation": (-1.0, 1.0), "accuracy": (0.0, 1.0)}


class Column(NamedTuple):
    """A quantity of a prompt.

    Attributes:
        quantity: See the module docstring.
        control, kind, measure: As in the table of the study.
        part: Group of demonstrations, place, or what a measure is correlated with.
    """

    quantity: str
    control: str = PLAIN
    kind: str = _DELETED
    measure: str = SHAPLEY
    part: str = "all"


def summarise(rows: pd.DataFrame, plan: Bootstrap | None = None) -> pd.DataFrame:
    """Compute all quantities for each model and prompt set, over all tasks and for each task.

    Args:
        rows: Tables of the study, of one or more models, tasks and prompt sets.
        plan: Settings of the resampling.

    Returns:
        One row per model, set, task (and :data:`~icl_lens.statistics.resampling.OVER_TASKS`) and quantity: the columns of
        :class:`Column`, value, the columns of :meth:`icl_lens.statistics.resampling.Estimate.columns`, and seeds.
    """
    plan, found = plan or Bootstrap(), []
    for (model, name), of_set in rows.groupby(["model", "set"], sort=False):
        wide = _wide(of_set)
        pooled = {task: _pooled(part, plan) for task, part in of_set.groupby("task", sort=False)}
        for task in [OVER_TASKS, *pooled]:
            part = wide if task == OVER_TASKS else wide[wide.index.get_level_values("task") == task]
            key = {"model": model, "set": name, "task": task}
            seeds = part.index.get_level_values("seed").nunique()
            estimates = [*_estimates(part, plan), *_over(pooled, task)]
            found += [
                {**key, **column._asdict(), "value": float(each.value), **each.columns(), "seeds": seeds}
                for column, each in estimates
            ]
    return pd.DataFrame(found)


def notes_of_games(settings: dict[str, Any]) -> list[str]:
    """Return the notes of a figure or table about the Shapley values.

    Args:
        settings: The settings of the study, from the metadata of its table.
    """
    return [
        "The contribution of a demonstration is its Shapley value for the gold margin: the mean, over all orders, of the "
        "change of the margin when it is added to the demonstrations before it. The contributions of a prompt sum to its "
        "margin minus that without demonstrations.",
        f"Shapley values are computed from all subsets of at most {settings['exact']} demonstrations, and for more "
        f"demonstrations from {settings['pairs']} sampled pairs of an order and its reverse.",
        "A missing demonstration is deleted; masked (no later demonstration and no token of the query attends to it); or "
        "unlabelled (its label word has the mean embedding of the label words).",
        f"Prompts: at most the first {settings['queries']} of each seed and task, with at most {settings['demonstrations']} "
        f"demonstrations; controls: the first {settings['control_queries']} of them.",
    ]


def _wide(rows: pd.DataFrame) -> pd.DataFrame:
    """Return one row per prompt, indexed as :func:`icl_lens.statistics.resampling.unit_index`, and one column per quantity."""
    index = unit_index(rows)
    columns: dict[Column, pd.Series] = {}
    plain = rows[rows["control"] == PLAIN]
    for kind, measure in _CONTRIBUTIONS:
        part = plain[(plain["kind"] == kind) & (plain["measure"] == measure)]
        of_groups = {"all": part, "gold": part[part["label"] == part["gold"]], "other": part[part["label"] != part["gold"]]}
        means = {name: each.groupby(index)["value"].mean() for name, each in of_groups.items()}
        means["gold - other"] = means["gold"] - means["other"]
        columns |= {Column("contribution", kind=kind, measure=measure, part=name): each for name, each in means.items()}
    shapley = plain[(plain["kind"] == _DELETED) & (plain["measure"] == SHAPLEY)]
    columns |= _places(shapley, index)
    columns |= _targets(rows, index)
    columns |= _correlations(plain, index)
    once = shapley.groupby(index).first()
    columns[Column("margin")], columns[Column("empty margin")] = once["margin"], once["empty_margin"]
    columns[Column("difference")] = once["margin"] - once["empty_margin"]
    columns[Column("accuracy")] = (once["prediction"] == once["gold"]).astype(float)
    frame = pd.DataFrame({number: each for number, each in enumerate(columns.values())}).reindex(once.index).sort_index()
    return frame.set_axis(pd.MultiIndex.from_tuples(columns, names=Column._fields), axis=1)


def _places(shapley: pd.DataFrame, index: list[str]) -> dict[Column, pd.Series]:
    """Return the Shapley values of the demonstrations of the gold class by place, counted from the query.

    Only places that all tasks have are returned.
    """
    place = shapley.groupby(index)["demonstration"].transform("count") - shapley["demonstration"]
    gold = shapley["label"] == shapley["gold"]
    found = {}
    for number, part in shapley[gold].groupby(place[gold], sort=True):
        # There is no interval for a place of which a task has only one seed.
        seeds = part.groupby("task")["seed"].transform("nunique")
        enough = (seeds > 1) | (part["task"].map(shapley.groupby("task")["seed"].nunique()) == 1)
        # Means of places are compared, so they are of the same tasks.
        if part.loc[enough, "task"].nunique() == shapley["task"].nunique():
            found[Column("place", part=str(number))] = part[enough].set_index(index)["value"]
    return found


def _targets(rows: pd.DataFrame, index: list[str]) -> dict[Column, pd.Series]:
    """Return the Shapley values of the changed demonstration, and their changes, for the prompts with controls."""
    chosen = rows[rows["changed"] & (rows["kind"] == _DELETED) & (rows["measure"] == SHAPLEY)]
    of_control = {name: part.groupby(index)["value"].sum() for name, part in chosen.groupby("control")}
    if set(of_control) == {PLAIN}:
        return {}
    own = chosen[chosen["control"] == PLAIN].set_index(index)
    has_gold = own["label"] == own["gold"]
    found: dict[Column, pd.Series] = {}
    run = of_control[next(name for name in CONTROLS if name in of_control)].index
    for control, values in of_control.items():
        values = values.loc[run]
        changes = values - of_control[PLAIN].loc[run]
        for quantity, each in (("target", values), ("change", changes)):
            if quantity == "target" or control != PLAIN:
                for part, members in (("all", None), ("gold", has_gold), ("other", ~has_gold)):
                    shown = each if members is None else each[members.loc[run]]
                    found[Column(quantity, control=control, part=part)] = shown
    return found


def _correlations(plain: pd.DataFrame, index: list[str]) -> dict[Column, pd.Series]:
    """Return the rank correlations within prompts."""
    table = _demonstrations(plain, index)
    found: dict[Column, list[pd.Series]] = {}
    for _, of_count in table.groupby(table.groupby(index)["demonstration"].transform("count")):
        units = of_count[index].drop_duplicates()
        names = pd.MultiIndex.from_frame(units)
        shape = (len(units), -1)
        phi = of_count["phi"].to_numpy().reshape(shape)  # (N, K)
        sign = np.where(of_count["label"] == of_count["gold"], 1.0, -1.0).reshape(shape)  # (N, K)
        for measure, kind in COMPARED:
            values = of_count[f"{measure} {kind}"].to_numpy().reshape(shape)  # (N, K)
            for against, pair in zip(AGAINST, ((values, phi), (values * sign, phi), (values, np.abs(phi))), strict=True):
                column = Column("correlation", kind=kind, measure=measure, part=against)
                found.setdefault(column, []).append(pd.Series(spearman(*pair), names))
    return {column: pd.concat(parts) for column, parts in found.items()}


def _demonstrations(plain: pd.DataFrame, index: list[str]) -> pd.DataFrame:
    """Return one row per prompt and demonstration, sorted, with phi and a column per measure."""
    key = [*index, "demonstration", "label", "gold"]
    wide = plain.assign(name=plain["measure"] + " " + plain["kind"]).pivot(index=key, columns="name", values="value")
    wide = wide.reset_index().sort_values([*index, "demonstration"])
    phi = wide[f"{SHAPLEY} {_DELETED}"]
    return wide.assign(**{"phi": phi, f"{GOLD_LABEL} {PROMPT}": (wide["label"] == wide["gold"]).astype(float)})


def _pooled(rows: pd.DataFrame, plan: Bootstrap) -> dict[Column, Estimate]:
    """Return the correlations over all demonstrations of a task, after the mean of each prompt is subtracted."""
    index = unit_index(rows)
    table = _demonstrations(rows[rows["control"] == PLAIN], index)
    groups = table.groupby(index, sort=True)
    units = groups.size().to_frame("size")
    prompt = groups.ngroup().to_numpy()  # (M,) for M demonstrations of all prompts
    names = ["phi", *(f"{measure} {kind}" for measure, kind in COMPARED)]
    centred = (table[names] - groups[names].transform("mean")).to_numpy()  # (M, V)
    ranks = rank(centred.T).T  # (M, V)
    first, others = ranks[:, :1], ranks[:, 1:]
    terms = np.stack(
        np.broadcast_arrays(np.ones_like(others), first, others, first**2, others**2, first * others)
    )  # (6, M, V - 1)
    sums = np.zeros((len(units), *terms[:, 0].shape))  # (N, 6, V - 1)
    np.add.at(sums, prompt, terms.transpose(1, 0, 2))

    def correlation(weights: np.ndarray) -> np.ndarray:
        n, x, y, xx, yy, xy = np.moveaxis(np.tensordot(weights, sums, 1), 1, 0)  # (K, V - 1) each
        spread = np.sqrt(np.maximum(n * xx - x**2, 0) * np.maximum(n * yy - y**2, 0))
        return np.divide(n * xy - x * y, spread, out=np.full_like(n, np.nan), where=spread > 1e-9 * n * np.sqrt(xx * yy))

    estimate = of_weights(units, correlation, plan, bounds=(-1.0, 1.0))
    columns = [Column("correlation", kind=kind, measure=measure, part=POOLED) for measure, kind in COMPARED]
    return {column: estimate[number] for number, column in enumerate(columns)}


def _over(pooled: dict[str, dict[Column, Estimate]], task: str) -> Iterator[tuple[Column, Estimate]]:
    """Yield the pooled correlations of a task, or their means over tasks."""
    if task != OVER_TASKS:
        yield from ((column, each) for column, each in pooled[task].items() if np.isfinite(each.value))
        return
    for column in next(iter(pooled.values())):
        known = [of_task[column] for of_task in pooled.values() if np.isfinite(of_task[column].value)]
        if known:
            yield column, over_tasks(known, bounds=(-1.0, 1.0))


def _estimates(wide: pd.DataFrame, plan: Bootstrap) -> Iterator[tuple[Column, Estimate]]:
    """Yield the mean of each quantity over the prompts that have it."""
    known = wide.notna().to_numpy()  # (N, M)
    groups: dict[tuple, list[int]] = {}
    for number, column in enumerate(wide.columns):
        if known[:, number].any():
            groups.setdefault((known[:, number].tobytes(), _BOUNDS.get(column[0])), []).append(number)
    found: dict[int, Estimate] = {}
    for (_, bounds), numbers in groups.items():
        names = [_name(wide.columns[number]) for number in numbers]
        values = wide.loc[known[:, numbers[0]]].iloc[:, numbers].set_axis(names, axis=1).reset_index()
        estimate = mean(values, names, plan, bounds=bounds)  # (M,)
        found |= {number: estimate[place] for place, number in enumerate(numbers)}
    for number in sorted(found):
        yield Column(*wide.columns[number]), found[number]


def _name(column: Sequence[str]) -> str:
    """Return the name of a column, as error messages show it."""
    return "{} of {}, {}, {}, {}".format(*column)
