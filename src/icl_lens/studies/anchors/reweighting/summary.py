"""Results of re-weighting for Table 1: accuracy with confidence intervals, balanced accuracy and macro F1 of each method.

Balanced accuracy and macro F1 do not reward predictions of the majority class.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from sklearn.metrics import f1_score, recall_score

from icl_lens.statistics import resampling
from icl_lens.statistics.resampling import OVER_TASKS, Bootstrap
from icl_lens.studies.anchors.reweighting.study import METHODS, REWEIGHTED, VANILLA

DIFFERENCE = "reweighted - vanilla"
"""Value of ``method`` for the paired difference of the accuracies."""


def summarise(rows: pd.DataFrame, classes: dict[str, int], plan: Bootstrap | None = None) -> pd.DataFrame:
    """Compute the accuracy of each model, task and method, and the mean over tasks, with confidence intervals.

    Args:
        rows: reweighting tables of one or more models and tasks.
        classes: Number of classes of each task.
        plan: Bootstrap settings.

    Returns:
        One row per model, task (then :data:`~icl_lens.statistics.resampling.OVER_TASKS`) and method (then :data:`DIFFERENCE`):
        model, task, method, shots (a range over tasks, empty for the difference), accuracy, low, high, balanced_accuracy and
        macro_f1 (means over the classes present in a seed, then over seeds, then over tasks; for the difference, the
        differences of these means), commonest_class (accuracy of the majority baseline), absent (number of pairs of a seed and
        a class without a test text, and the total number of pairs), prompts and seeds.
    """
    found = []
    for model, of_model in rows.groupby("model", sort=False):
        tasks = list(dict.fromkeys(of_model["task"]))
        scores = {}
        for task in [*tasks, OVER_TASKS]:
            names = tasks if task == OVER_TASKS else [task]
            part = of_model[of_model["task"].isin(names)]
            estimates = {}
            for method in METHODS:
                of_method = part[part["method"] == method]
                right = of_method.assign(accuracy=of_method["gold"] == of_method["prediction"])
                estimates[method] = resampling.mean(right, ["accuracy"], plan)
                if task != OVER_TASKS:
                    scores[task, method] = _scores(of_method)
            estimates[DIFFERENCE] = estimates[REWEIGHTED] - estimates[VANILLA]
            gold = part[part["method"] == VANILLA].groupby(["task", "seed"])["gold"].nunique().reset_index()
            expected = gold["task"].map(classes)
            labels = part[part["method"] == VANILLA].groupby("task")["gold"]
            majority = float(labels.agg(lambda values: values.value_counts(normalize=True).max()).mean())
            for method, estimate in estimates.items():
                balanced, f1 = _scores_over_tasks(scores, names, method)
                shots = sorted(part.loc[part["method"] == method, "shots"].unique())
                found.append(
                    {
                        "model": model,
                        "task": task,
                        "method": method,
                        "shots": " to ".join(str(k) for k in ([shots[0], shots[-1]] if len(shots) > 1 else shots)),
                        "accuracy": float(estimate.value[0]),
                        "low": float(estimate.low[0]),
                        "high": float(estimate.high[0]),
                        "balanced_accuracy": balanced,
                        "macro_f1": f1,
                        "commonest_class": majority,
                        "absent": f"{int((expected - gold['gold']).sum())} of {int(expected.sum())}",
                        "prompts": estimate.prompts,
                        "seeds": part["seed"].nunique(),
                    }
                )
    return pd.DataFrame(found)


def shares(rows: pd.DataFrame) -> pd.DataFrame:
    """Compute the share of each class among the predictions of each method and among the gold labels.

    Args:
        rows: reweighting tables of one or more models and tasks.

    Returns:
        One row per model, task, method (``gold`` first) and class: model, task, method, class, share (mean over seeds).
    """
    found = []
    for (model, task), part in rows.groupby(["model", "task"], sort=False):
        size = len(part["class_log_probs"].iloc[0])
        for method in ("gold", *METHODS):
            of_method = part[part["method"] == (VANILLA if method == "gold" else method)]
            named = of_method.groupby("seed")["gold" if method == "gold" else "prediction"]
            for c in range(size):
                share = float(named.agg(lambda values, c=c: (values == c).mean()).mean())
                found.append({"model": model, "task": task, "method": method, "class": c, "share": share})
    return pd.DataFrame(found)


def _scores(rows: pd.DataFrame) -> tuple[float, float]:
    """Compute balanced accuracy and macro F1 of one task and method, as means over seeds.

    Both scores average over the classes of the gold labels. A class without a text in the test set has no recall, so it is
    excluded. A prediction of such a class still counts as an error for the gold class of the text.
    """
    found = []
    for _, part in rows.groupby("seed"):
        present = {"labels": np.unique(part["gold"]), "average": "macro"}
        found.append([score(part["gold"], part["prediction"], **present) for score in (recall_score, f1_score)])
    return tuple(np.mean(found, axis=0).tolist())


def _scores_over_tasks(scores: dict, tasks: list[str], method: str) -> tuple[float, float]:
    """Compute the mean of both scores over tasks, or the difference of the means for :data:`DIFFERENCE`."""
    if method == DIFFERENCE:
        after, before = _scores_over_tasks(scores, tasks, REWEIGHTED), _scores_over_tasks(scores, tasks, VANILLA)
        return after[0] - before[0], after[1] - before[1]
    return tuple(sum(scores[task, method][k] for task in tasks) / len(tasks) for k in (0, 1))
