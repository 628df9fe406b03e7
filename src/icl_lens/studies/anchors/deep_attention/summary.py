"""What figures show of deep attention: AUCROC_l and R_l by layer, with intervals, per task and over tasks.

Definitions and intervals are those of :mod:`icl_lens.statistics.attention_auc` (*Label Words are Anchors*, section 2.3,
appendix E, eq. 5). As in the released notebook, R_l over tasks is that of the mean curve, not the mean of the tasks' own.
"""

from __future__ import annotations

from typing import get_args

import pandas as pd

from icl_lens.statistics.attention_auc import TwoClasses, auc_curve, cumulative_share
from icl_lens.statistics.resampling import OVER_TASKS, Bootstrap


def summarise(
    scores: pd.DataFrame, predictions: pd.DataFrame, plan: Bootstrap | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """AUCROC_l and R_l of each model and prompt set.

    Args:
        scores: deep_attention tables, of one or more models, tasks and sets.
        predictions: icl tables of the same.
        plan: How to resample.

    Raises:
        InputError: A prompt has no scores.

    Returns:
        One row a model, set, task (and :data:`~icl_lens.statistics.resampling.OVER_TASKS`), way to score two classes, metric
        (auc, r) and layer (from 1): value, low and high (the interval's ends; all three empty where nothing can be measured),
        prompts, seeds (both of what is measured), seeds_missing (of all tasks, whose predictions are all one class),
        classes_dropped (never predicted, summed over tasks and seeds). And the report of
        :func:`icl_lens.statistics.attention_auc.auc_curve`, with model and set.
    """
    found, reports = [], []
    by_set = dict(list(scores.groupby(["model", "set"])))
    for (model, name), of_set in predictions.groupby(["model", "set"], sort=False):
        for task, part in [(OVER_TASKS, of_set), *of_set.groupby("task", sort=False)]:
            for two_classes in get_args(TwoClasses):
                curve, report = auc_curve(by_set[model, name], part, plan, two_classes)
                measured = report[~report["missing"]]
                for metric, estimate in (("auc", curve), ("r", curve.apply(cumulative_share))):
                    found.append(
                        pd.DataFrame(
                            {
                                "model": model,
                                "set": name,
                                "task": task,
                                "two_classes": two_classes,
                                "metric": metric,
                                "layer": range(1, len(estimate.value) + 1),
                                "value": estimate.value,
                                "low": estimate.low,
                                "high": estimate.high,
                                "prompts": measured["prompts"].sum(),
                                "seeds": measured["seed"].nunique(),
                                "seeds_missing": report["missing"].sum(),
                                "classes_dropped": report["dropped"].sum(),
                            }
                        )
                    )
            if task == OVER_TASKS:
                reports.append(report.assign(model=model, set=name))
    return pd.concat(found, ignore_index=True), pd.concat(reports, ignore_index=True)
