"""Results of compression for Table 2: loyalties and accuracy by method.

*Label Words are Anchors*, section 3.2. The metrics are label loyalty, word loyalty of the 5 most likely tokens, and accuracy.
Means are over the prompts of a seed, then over seeds, then over tasks; the confidence intervals are those of
:mod:`icl_lens.statistics.resampling`. For Hidden_random, each prompt contributes its mean over the draws. Hidden_random-top is,
for each task and seed, the draw with the highest label loyalty (the first one in a tie). As in the paper, it is selected on the
same prompts on which it is evaluated, and its confidence interval does not account for this selection.
"""

from __future__ import annotations

import pandas as pd

from icl_lens.statistics.resampling import OVER_TASKS, Bootstrap, mean
from icl_lens.studies.anchors.compression.study import OWN, POSITIONS, WORDS

# Averaged column -> name of its mean.
METRICS = {"label_agrees": "label_loyalty", f"word_jaccard_{WORDS}": "word_loyalty", "correct": "accuracy"}

TOP = "hidden_random_top"

_CONDITION = ["method", "positions"]

_ORDER = ("full", "text_anchor", "hidden_random", TOP, "hidden_anchor")
_POSITIONS = (OWN, *POSITIONS)


def summarise(rows: pd.DataFrame, plan: Bootstrap | None = None) -> pd.DataFrame:
    """Compute the loyalties and accuracy of each method, for each model and prompt set.

    Args:
        rows: Compression tables of one or more models, tasks and sets.
        plan: Bootstrap settings.

    Returns:
        One row per model, set, task (and :data:`~icl_lens.statistics.resampling.OVER_TASKS`), method (and :data:`TOP`) and
        positions. Columns for each metric: its value, ``_low`` and ``_high`` (the ends of the confidence interval),
        ``_lowest_draw`` and ``_highest_draw`` (lowest and highest mean of a single draw; equal to the value if there is only
        one draw). Further columns: draws, prompts, seeds.
    """
    plan = plan or Bootstrap()
    rows = pd.concat([rows, best_draws(rows)], ignore_index=True)
    found = []
    for (model, name), of_set in rows.groupby(["model", "set"], sort=False):
        for task, of_task in [(OVER_TASKS, of_set), *of_set.groupby("task", sort=False)]:
            for condition, part in of_task.groupby(_CONDITION, sort=False):
                estimate = mean(part, list(METRICS), plan)
                drawn = part if condition[0] == "hidden_random" else part.assign(draw=0)
                draws = [mean(one, list(METRICS), Bootstrap(resamples=1)).value for _, one in drawn.groupby("draw")]
                row = {"model": model, "set": name, "task": task, **dict(zip(_CONDITION, condition, strict=True))}
                for number, metric in enumerate(METRICS.values()):
                    row |= {
                        metric: float(estimate.value[number]),
                        f"{metric}_low": float(estimate.low[number]),
                        f"{metric}_high": float(estimate.high[number]),
                        f"{metric}_lowest_draw": float(min(draw[number] for draw in draws)),
                        f"{metric}_highest_draw": float(max(draw[number] for draw in draws)),
                    }
                found.append({**row, "draws": len(draws), "prompts": estimate.prompts, "seeds": part["seed"].nunique()})
    # Keep the order of models, sets and tasks; within these, use the paper's order of the methods.
    table = pd.DataFrame(found)
    block = table.groupby(["model", "set", "task"], sort=False).ngroup()
    places, methods = table["positions"].map(_POSITIONS.index), table["method"].map(_ORDER.index)
    order = sorted(range(len(table)), key=lambda row: (block[row], places[row], methods[row]))
    return table.iloc[order].reset_index(drop=True)


def best_draws(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of Hidden_random-top.

    For each model, set, task, seed and positions, this is the draw with the highest label loyalty.

    Args:
        rows: Compression tables.
    """
    drawn = rows[rows["method"] == "hidden_random"]
    key = ["model", "set", "task", "seed", "positions"]
    loyalty = drawn.groupby([*key, "draw"])["label_agrees"].mean().reset_index().sort_values("draw", kind="stable")
    best = loyalty.loc[loyalty.groupby(key)["label_agrees"].idxmax()]
    return drawn.merge(best[[*key, "draw"]], on=[*key, "draw"]).assign(method=TOP)
