"""Results of compression for Table 2: loyalties, accuracy and balanced accuracy by method.

*Label Words are Anchors*, section 3.2. The metrics are label loyalty, word loyalty of the 5 most likely tokens, accuracy, and
balanced accuracy (:mod:`icl_lens.statistics.answers`, not in the paper).
Means are over the prompts of a seed, then over seeds, then over tasks; the confidence intervals are those of
:mod:`icl_lens.statistics.resampling`. For Hidden_random, each prompt contributes its mean over the draws. Hidden_random-top is,
for each task and seed, the draw with the highest label loyalty (the first one in a tie). It is chosen on one half of the test
texts and evaluated on the other half; then the halves are swapped (:mod:`icl_lens.statistics.halves`). In the paper, it is
chosen and evaluated on the same prompts; that value is too high, and is labelled "in sample".
"""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd

from icl_lens.statistics import answers
from icl_lens.statistics.halves import chosen_on_other_half, halves, texts_of
from icl_lens.statistics.resampling import OVER_TASKS, Bootstrap, mean
from icl_lens.studies.anchors.compression.study import OWN, POSITIONS, WORDS

# Averaged column -> name of its mean.
METRICS = {"label_agrees": "label_loyalty", f"word_jaccard_{WORDS}": "word_loyalty", "correct": "accuracy"}

TOP, TOP_IN_SAMPLE = "hidden_random_top", "hidden_random_top_in_sample"

_CONDITION = ["method", "positions"]

_ORDER = ("full", "text_anchor", "hidden_random", TOP, TOP_IN_SAMPLE, "hidden_anchor")
_POSITIONS = (OWN, *POSITIONS)


def summarise(rows: pd.DataFrame, plan: Bootstrap | None = None) -> pd.DataFrame:
    """Compute the loyalties and accuracy of each method, for each model and prompt set.

    Args:
        rows: Compression tables of one or more models, tasks and sets. The result has balanced accuracies only if they also
            have the column gold (:func:`icl_lens.statistics.answers.with_gold`).
        plan: Settings of the resampling.

    Returns:
        One row per model, set, task (and :data:`~icl_lens.statistics.resampling.OVER_TASKS`), method (and :data:`TOP`,
        :data:`TOP_IN_SAMPLE`) and positions. Columns for each metric: its value, those of
        :meth:`~icl_lens.statistics.resampling.Estimate.columns` with the metric as prefix, ``_lowest_draw`` and
        ``_highest_draw`` (lowest and highest mean of a single draw; equal to the value if there is only one draw). Further
        columns: those of :func:`icl_lens.statistics.answers.balanced_columns`, sets, prompts, draws, seeds.
        :data:`TOP_IN_SAMPLE` has no intervals.
    """
    plan = plan or Bootstrap()
    rows = pd.concat([rows, best_draws(rows), best_draws(rows, in_sample=True)], ignore_index=True)
    found = []
    for (model, name), of_set in rows.groupby(["model", "set"], sort=False):
        for task, of_task in [(OVER_TASKS, of_set), *of_set.groupby("task", sort=False)]:
            for condition, part in of_task.groupby(_CONDITION, sort=False):
                estimate = mean(part, list(METRICS), plan, bounds=(0.0, 1.0))
                drawn = part if condition[0] == "hidden_random" else part.assign(draw=0)
                draws = [mean(one, list(METRICS), Bootstrap(resamples=1)).value for _, one in drawn.groupby("draw")]
                row = {"model": model, "set": name, "task": task, **dict(zip(_CONDITION, condition, strict=True))}
                for number, metric in enumerate(METRICS.values()):
                    row |= {
                        metric: float(estimate.value[number]),
                        **estimate[number].columns(f"{metric}_"),
                        f"{metric}_lowest_draw": float(min(draw[number] for draw in draws)),
                        f"{metric}_highest_draw": float(max(draw[number] for draw in draws)),
                    }
                if "gold" in part:
                    balanced = answers.scores(part, ["correct"], plan)[1, 0]
                    row |= answers.balanced_columns(balanced, answers.majority_baseline(part))
                if condition[0] == TOP_IN_SAMPLE:
                    row |= {name: np.nan for name in row if name.endswith(("_low", "_high", "_replicates"))}
                found.append({**row, "draws": len(draws), "seeds": part["seed"].nunique()})
    # Keep the order of models, sets and tasks; within these, use the paper's order of the methods.
    table = pd.DataFrame(found)
    block = table.groupby(["model", "set", "task"], sort=False).ngroup()
    places, methods = table["positions"].map(_POSITIONS.index), table["method"].map(_ORDER.index)
    order = sorted(range(len(table)), key=lambda row: (block[row], places[row], methods[row]))
    return table.iloc[order].reset_index(drop=True)


def _best(loyalty: np.ndarray, of: np.ndarray) -> int:
    """Return the draw with the highest mean loyalty, shape (n, draws), over the prompts of a mask."""
    return int(loyalty[of].mean(0).argmax())


def best_draws(rows: pd.DataFrame, in_sample: bool = False) -> pd.DataFrame:
    """Return the rows of Hidden_random-top.

    For each model, set, task, seed and positions, this is the draw with the highest label loyalty.

    Args:
        rows: Compression tables.
        in_sample: Whether the draw is chosen on the prompts that it is evaluated on, as in the paper. Otherwise, the rows of
            each half of the test texts are those of the draw that is chosen on the other half; prompts without another half
            have no row.
    """
    drawn, full = rows[rows["method"] == "hidden_random"], rows[rows["method"] == "full"]
    found = [drawn.iloc[:0]]
    for key, part in drawn.groupby(["model", "set", "task"], sort=False):
        prompts = part.drop_duplicates("prompt_id")
        # A draw that always gives one class has the same loyalty on both halves if they have the same predictions.
        of_full = full[(full[["model", "set", "task"]] == list(key)).all(axis=1)].set_index("prompt_id")["prediction"]
        half = pd.Series(
            halves(prompts["seed"], texts_of(prompts), prompts["prompt_id"].map(of_full)), index=prompts["prompt_id"]
        )
        for _, of_seed in part.groupby(["seed", "positions"], sort=False):
            loyalty = of_seed.pivot(index="prompt_id", columns="draw", values="label_agrees").astype(float)  # (n, draws)
            if in_sample:
                chosen = np.full(len(loyalty), loyalty.to_numpy().mean(0).argmax())
            else:
                chosen = chosen_on_other_half(half[loyalty.index].to_numpy(), partial(_best, loyalty.to_numpy()))
            draws = pd.Series(np.where(chosen < 0, -1, loyalty.columns.to_numpy()[chosen]), index=loyalty.index)
            found.append(of_seed[of_seed["draw"] == of_seed["prompt_id"].map(draws)])
    return pd.concat(found).assign(method=TOP_IN_SAMPLE if in_sample else TOP)
