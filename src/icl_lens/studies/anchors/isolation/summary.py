"""Results of isolation for the figures: loyalties by condition with confidence intervals, per task and over tasks.

Loyalties are defined in *Label Words are Anchors*, section 2.2. Label loyalty is the share of prompts with an unchanged
predicted label. Word loyalty is the mean Jaccard similarity of the most likely tokens (5 as in the paper, and 10 as in the
released notebook). Means are over the prompts of a seed, then over seeds, then over tasks; the confidence intervals are those
of :mod:`icl_lens.statistics.resampling`. For the random control, each prompt contributes its mean over the draws, and the table
also reports the range over draws.

The prompts of a seed that have the same random order (:mod:`icl_lens.studies.anchors.isolated_positions`) are not independent.
Each seed has its own orders, so the main interval, which compares seeds, covers them. The interval over prompts resamples
orders with their prompts instead of prompts, for all conditions and for the paired difference.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from icl_lens.artifacts.schema import DEMONSTRATIONS
from icl_lens.statistics.resampling import OVER_TASKS, Bootstrap, mean, unit_index
from icl_lens.studies.anchors.isolating import WORDS

# Averaged column -> name of its mean.
METRICS = {"label_agrees": "label_loyalty", **{f"word_jaccard_{size}": f"word_loyalty_{size}" for size in WORDS}}

# Paired difference of the paper's two conditions on the same prompts.
DIFFERENCE = "label - random"

_CONDITION = ["target", "side", "layers"]

# Column with the number of a prompt's order among the prompts with the same demonstrations.
_CLUSTER = "cluster"


def summarise(rows: pd.DataFrame, plan: Bootstrap | None = None) -> pd.DataFrame:
    """Compute the loyalties of each condition, for each model and prompt set.

    Args:
        rows: Isolation tables of one or more models, tasks and sets.
        plan: Settings of the resampling.

    Raises:
        InputError: Some prompts lack a condition that other prompts have.

    Returns:
        One row per model, set, task (and :data:`~icl_lens.statistics.resampling.OVER_TASKS`), target (and :data:`DIFFERENCE`),
        side, layers (k) and metric: value and the columns of :meth:`icl_lens.statistics.resampling.Estimate.columns`,
        lowest_draw and highest_draw (lowest and highest mean of a single draw; equal to the value if there is only one draw),
        draws, orders (the largest number of random orders in one seed and draw), seeds.
    """
    found = []
    for (model, name), of_set in rows.groupby(["model", "set"], sort=False):
        for task, part in [(OVER_TASKS, of_set), *of_set.groupby("task", sort=False)]:
            key = {"model": model, "set": name, "task": task}
            table = pd.DataFrame({**key, **row} for row in _summarise(part, plan or Bootstrap()))
            found.append(table.assign(seeds=part["seed"].nunique()))
    return pd.concat(found, ignore_index=True)


def _summarise(rows: pd.DataFrame, plan: Bootstrap) -> list[dict]:
    rows = rows.astype({name: float for name in METRICS})
    # Prompts with different demonstrations never have the same order.
    rows[_CLUSTER] = rows.groupby(["order", *({DEMONSTRATIONS} & {*rows})], sort=True).ngroup()
    conditions = rows[_CONDITION].drop_duplicates()
    columns = [(metric, *condition) for condition in conditions.itertuples(index=False, name=None) for metric in METRICS]
    estimate = mean(_wide(rows, columns), [_name(column) for column in columns], plan, cluster=_CLUSTER, bounds=(0.0, 1.0))
    control = [column for column in columns if column[1] == "random"]
    names = [_name(column) for column in control]
    draws = [
        dict(zip(control, mean(_wide(drawn, control), names, Bootstrap(resamples=1)).value, strict=True))
        for _, drawn in rows[rows["target"] == "random"].groupby("draw")
    ]
    orders = int(rows.groupby(["task", "seed"])[_CLUSTER].nunique().max())
    place = {column: number for number, column in enumerate(columns)}
    shown = []
    for column, number in place.items():
        metric, target, side, layers = column
        one = estimate[number]
        of_draws = [draw[column] for draw in draws] if target == "random" else [one.value]
        shown.append((target, side, layers, METRICS[metric], one, of_draws))
        other = place.get((metric, "random", side, layers))
        if target == "label" and other is not None:
            paired = one - estimate[other]
            of_draws = [one.value - draw[metric, "random", side, layers] for draw in draws]
            shown.append((DIFFERENCE, side, layers, METRICS[metric], paired, of_draws))
    return [
        {
            **dict(zip([*_CONDITION, "metric"], row[:4], strict=True)),
            "value": float(row[4].value),
            **row[4].columns(),
            "lowest_draw": float(min(row[5])),
            "highest_draw": float(max(row[5])),
            "draws": len(row[5]),
            "orders": orders,
        }
        for row in shown
    ]


def _wide(rows: pd.DataFrame, columns: Sequence[tuple]) -> pd.DataFrame:
    """Return one row per prompt, averaged over draws, with one named column per (metric, target, side, layers)."""
    wide = rows.pivot_table(
        index=[*unit_index(rows), _CLUSTER], columns=_CONDITION, values=list(METRICS), aggfunc="mean", observed=True
    )
    wide = wide[list(columns)]
    wide.columns = [_name(column) for column in columns]
    return wide.reset_index()


def _name(column: tuple) -> str:
    """Return the name of a column, as error messages show it."""
    metric, target, side, layers = column
    return f"{METRICS[metric]} of {target} in the {side} {layers}"
