"""Results of deep attention for the figures: AUCROC_l and R_l by layer with confidence intervals, per task and over tasks.

:mod:`icl_lens.statistics.attention_auc` defines the metrics and their confidence intervals (*Label Words are Anchors*, section
2.3, appendix E, eq. 5). As in the released notebook, R_l over tasks is computed from the mean AUCROC curve; it is not the mean
of the R_l of the tasks.
"""

from __future__ import annotations

from typing import get_args

import pandas as pd

from icl_lens.statistics.attention_auc import TwoClasses, auc_curve, cumulative_share
from icl_lens.statistics.resampling import OVER_TASKS, Bootstrap


def summarise(
    scores: pd.DataFrame, predictions: pd.DataFrame, plan: Bootstrap | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Compute AUCROC_l and R_l for each model and prompt set.

    Args:
        scores: deep_attention tables of one or more models, tasks and sets.
        predictions: icl tables of the same models, tasks and sets.
        plan: Settings of the resampling.

    Raises:
        InputError: A prompt has no scores.

    Returns:
        A pair of tables. The first has one row per model, set, task (and
        :data:`~icl_lens.statistics.resampling.OVER_TASKS`), method to score two classes, metric (auc, r) and layer (from 0).
        Its columns: value, those of :meth:`~icl_lens.statistics.resampling.Estimate.columns` (missing if the metric is
        undefined), prompts and seeds (those that the metric is computed from), seeds_missing (seeds of all tasks in which the
        model predicts only one class), classes_dropped (classes that are never predicted, summed over tasks and seeds). The
        second is the report of :func:`icl_lens.statistics.attention_auc.auc_curve`, with model and set.
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
                                "layer": range(len(estimate.value)),
                                "value": estimate.value,
                                **estimate.columns(),
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
