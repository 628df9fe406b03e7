"""Results of cut edges for the figures and the table: losses by set of edges, layers and variant, with confidence intervals.

Means are over the prompts of a seed, then over seeds, then over tasks; the intervals are those of
:mod:`icl_lens.statistics.resampling`. A prompt's value for the random control is its mean over the draws. A set or control that
is not valid in a prompt (an empty set, or a control that does not match) has no value there, and the mean is over the other
prompts. Differences between a set and its control are paired: they are over the prompts in which both are valid. A set or
control that is valid in fewer than half of the prompts of a task in which it was run is left out, also from the mean of tasks.

The metrics are

    margin_loss      gold margin of the uncut run minus that of the cut run
    own_margin_loss  the same for the margin of the uncut prediction
    accuracy_loss    whether the uncut prediction is correct, minus whether the cut one is
    accuracy, balanced_accuracy (mean recall over the classes), label_loyalty, word_loyalty_5, mass, and edges (per cut layer)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from icl_lens.statistics.answers import SCORES, scores
from icl_lens.statistics.resampling import OVER_TASKS, Bootstrap, Estimate, mean, unit_index
from icl_lens.studies.challenges.ch_edge_cuts.study import UNCUT

# Smallest and largest possible value of each metric; None if unbounded.
BOUNDS: Mapping[str, tuple[float, float] | None] = {
    "margin_loss": None,
    "own_margin_loss": None,
    "accuracy_loss": (-1.0, 1.0),
    "accuracy": (0.0, 1.0),
    "label_loyalty": (0.0, 1.0),
    "word_loyalty_5": (0.0, 1.0),
    "mass": None,
    "edges": None,
}

# Least share of the prompts of each task in which a set or control must be valid.
_LEAST = 0.5

_CUT = ["rows", "columns", "span", "start", "variant"]

_VARIANTS = {"set": "the class of tokens", "random": "as many random edges", "mass": "the same attention"}

# Variants that compare a set with a control on the prompts in which both are valid: name -> control.
DIFFERENCES = {"set - random": "random", "set - mass": "mass"}

CONTRASTS = (
    (("query", "template - content", "all", "set"), ("query", "template", "all", "set"), ("query", "content", "all", "set")),
    *(
        (
            (rows, columns, f"{first} half - {second} half", "set"),
            (rows, columns, f"{first} half", "set"),
            (rows, columns, f"{second} half", "set"),
        )
        for rows, columns, first, second in (("last", "label", "second", "first"), ("label", "text", "first", "second"))
    ),
)
"""Differences between two sets or two ranges of layers: name, minuend and subtrahend as (rows, columns, span, variant)."""


def summarise(rows: pd.DataFrame, metrics: Sequence[str], spans: Sequence[str], plan: Bootstrap | None = None) -> pd.DataFrame:
    """Compute the metrics of each set of edges, its controls and their differences, for each model and prompt set.

    Args:
        rows: Tables of the study, of one or more models, tasks and prompt sets.
        metrics: Names of the metrics, without balanced_accuracy.
        spans: Ranges of layers: ``all``, ``first half``, ``second half``, ``window``; and ``none`` for the uncut run.
        plan: Settings of the resampling.

    Returns:
        One row per model, set, task (and :data:`~icl_lens.statistics.resampling.OVER_TASKS`), rows, columns, span, start,
        variant (``set``, ``random``, ``mass`` and those of :data:`DIFFERENCES`) and metric, and one for each of
        :data:`CONTRASTS` whose ranges of layers are among ``spans``: stop (the layer after the cut ones), value, the columns of
        :meth:`icl_lens.statistics.resampling.Estimate.columns`, and seeds.
    """
    return _each(rows, lambda part: _means(part, metrics, spans, plan or Bootstrap()))


def accuracies(rows: pd.DataFrame, spans: Sequence[str], plan: Bootstrap | None = None) -> pd.DataFrame:
    """Compute accuracy and balanced accuracy, in the form of :func:`summarise`, without differences and contrasts."""
    return _each(rows, lambda part: _scores(part, spans, plan or Bootstrap()))


def notes_of_controls(settings: Mapping[str, Any]) -> list[str]:
    """Return the notes of a figure or table about the cuts and their controls.

    Args:
        settings: The settings of the study, from the metadata of its table.
    """
    draws = "one draw" if settings["draws"] == 1 else f"mean of {settings['draws']} draws"
    return [
        "The scores of cut edges are masked before the softmax, in all heads. Position 0 belongs only to the first token, so "
        "without a BOS token the first token of the prompt stays visible in all other cuts.",
        f"As many random edges: {draws}; in the same rows. If a row of the demonstrations has too few other edges, the missing "
        "ones are drawn from all rows of the demonstrations.",
        "Random edges with the same attention: in the same rows, with the attention of the set in the uncut run, within "
        f"{100 * settings['tolerance']:g} %.",
        "Random edges can lead to any other token, including label words.",
        "A control that matches in fewer than half of the prompts of a task is left out. A set with most tokens of the prompt "
        "has none.",
    ]


def note_of_prompts(shown: pd.DataFrame) -> list[str]:
    """Return the note on how many prompts the drawn means over tasks are of, if they differ.

    Args:
        shown: The drawn rows of :func:`summarise`.
    """
    fewest = shown.groupby("variant")["prompts"].min()  # by variant
    if fewest.nunique() == 1:
        return []
    counts = ", ".join(f"{words} {fewest[variant]}" for variant, words in _VARIANTS.items() if variant in fewest)
    return [f"Smallest number of prompts of a mean: {counts}; the CSV has paired differences over the same prompts."]


def _each(rows: pd.DataFrame, summary: Callable[[pd.DataFrame], list[dict]]) -> pd.DataFrame:
    """Summarise each model and prompt set, over all tasks and for each task."""
    found = []
    for (model, name), of_set in rows.groupby(["model", "set"], sort=False):
        for task, part in [(OVER_TASKS, of_set), *of_set.groupby("task", sort=False)]:
            key = {"model": model, "set": name, "task": task, "seeds": part["seed"].nunique()}
            stops = part.groupby(["span", "start"])["stop"].first().to_dict()
            # There are many rows, and only those over all tasks are combined.
            no_replicates = {} if task == OVER_TASKS else {"replicates": None}
            found += [
                {**key, "stop": stops.get((row["span"], row["start"]), 0), **row, **no_replicates} for row in summary(part)
            ]
    return pd.DataFrame(found)


def _means(rows: pd.DataFrame, metrics: Sequence[str], spans: Sequence[str], plan: Bootstrap) -> list[dict]:
    wide = _with_differences(_wide(rows, metrics, spans), rows)
    found = {}
    for columns, kept in _by_prompts(wide):
        values = wide.loc[kept, columns].set_axis([_name(column) for column in columns], axis=1).reset_index()
        for bounds in dict.fromkeys(_bounds(column) for column in columns):
            bounded = [column for column in columns if _bounds(column) == bounds]
            estimate = mean(values, [_name(column) for column in bounded], plan, bounds=bounds)  # (M,)
            found |= {column: estimate[number] for number, column in enumerate(bounded)}
    return [_row(column, found[column]) for column in wide if column in found]


def _scores(rows: pd.DataFrame, spans: Sequence[str], plan: Bootstrap) -> list[dict]:
    wide = _wide(rows, ["accuracy"], spans)
    gold = _uncut(rows)["gold"].reindex(wide.index)
    found: dict[tuple, Estimate] = {}
    for columns, kept in _by_prompts(wide):
        names = [_name(column) for column in columns]
        values = wide.loc[kept, columns].set_axis(names, axis=1).assign(gold=gold[kept]).reset_index()
        estimate = scores(values, names, plan)  # (2, M)
        for row, metric in enumerate(SCORES):
            found |= {(metric, *column[1:]): estimate[row, number] for number, column in enumerate(columns)}
    return [_row((metric, *column[1:]), found[metric, *column[1:]]) for column in wide if column in found for metric in SCORES]


def _uncut(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the uncut runs, one row per prompt, with the index of a table of prompts."""
    return rows[rows["rows"] == UNCUT].set_index(unit_index(rows)).sort_index()


def _wide(rows: pd.DataFrame, metrics: Sequence[str], spans: Sequence[str]) -> pd.DataFrame:
    """Return one row per prompt and one column per (metric, rows, columns, span, start, variant), averaged over the draws.

    A condition that is not valid in a prompt, or was not run, is NaN. Conditions that are rarely valid have no column.
    """
    uncut, index = _uncut(rows), unit_index(rows)
    run = rows[rows["span"].isin(spans)]
    shares = run.groupby([*_CUT, "task"])["valid"].transform("mean")
    often = shares.groupby([run[column] for column in _CUT]).transform("min") >= _LEAST
    chosen = run[run["valid"] & often]
    correct = (uncut["prediction"] == uncut["gold"]).reindex(pd.MultiIndex.from_frame(chosen[index])).to_numpy()
    accuracy = (chosen["prediction"] == chosen["gold"]).to_numpy()
    values = chosen.assign(
        margin_loss=-chosen["effect"],
        own_margin_loss=-chosen["own_effect"],
        accuracy_loss=correct.astype(float) - accuracy,
        accuracy=accuracy.astype(float),
        label_loyalty=chosen["label_agrees"].astype(float),
        word_loyalty_5=chosen["word_jaccard_5"],
        edges=chosen["edges"] / (chosen["stop"] - chosen["start"]).clip(lower=1),
    )
    wide = values.pivot_table(index=index, columns=_CUT, values=list(metrics), aggfunc="mean", sort=False)
    return wide.reindex(uncut.index)


def _with_differences(wide: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """Add the paired differences of sets and controls, and the contrasts."""
    starts = rows.groupby("span")["start"].min().to_dict()
    added = {}
    for column in wide:
        *of_set, variant = column
        for name, control in DIFFERENCES.items():
            if variant == "set" and (*of_set, control) in wide:
                added[*of_set, name] = wide[column] - wide[*of_set, control]
    for (of_rows, columns, span, variant), *terms in CONTRASTS:
        for metric in dict.fromkeys(column[0] for column in wide):
            keys = [(metric, *term[:3], starts.get(term[2]), term[3]) for term in terms]
            if all(key in wide for key in keys):
                added[metric, of_rows, columns, span, 0, variant] = wide[keys[0]] - wide[keys[1]]
    return pd.concat([wide, pd.DataFrame(added, index=wide.index)], axis=1) if added else wide


def _by_prompts(wide: pd.DataFrame) -> Iterator[tuple[list[tuple], np.ndarray]]:
    """Yield the columns with values for the same prompts, and which prompts these are, shape (N,)."""
    known = wide.notna().to_numpy()  # (N, M)
    groups: dict[bytes, list[int]] = {}
    for number in range(known.shape[1]):
        if known[:, number].any():
            groups.setdefault(known[:, number].tobytes(), []).append(number)
    for numbers in groups.values():
        yield [wide.columns[number] for number in numbers], known[:, numbers[0]]


def _bounds(column: tuple) -> tuple[float, float] | None:
    """Return the smallest and largest possible value of a column of :func:`_wide`."""
    bounds = BOUNDS[column[0]]
    if bounds is None or not any(" - " in str(part) for part in column[1:]):
        return bounds
    return bounds[0] - bounds[1], bounds[1] - bounds[0]


def _name(column: tuple) -> str:
    """Return the name of a column, as error messages show it."""
    return "{} of {} -> {}, {} from {}, {}".format(*column)


def _row(column: tuple, estimate: Estimate) -> dict[str, Any]:
    metric, *cut = column
    return {**dict(zip(_CUT, cut, strict=True)), "metric": metric, "value": float(estimate.value), **estimate.columns()}
