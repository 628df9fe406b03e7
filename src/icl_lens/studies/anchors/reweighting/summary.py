"""Results of re-weighting for Table 1: accuracy, balanced accuracy and macro F1 of each method.

Balanced accuracy and macro F1 do not reward predictions of the majority class.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from sklearn.metrics import f1_score

from icl_lens.statistics import answers
from icl_lens.statistics.resampling import OVER_TASKS, Bootstrap
from icl_lens.studies.anchors.reweighting.study import METHODS, REWEIGHTED, VANILLA

DIFFERENCE = "reweighted - vanilla"
"""Value of ``method`` for the paired difference of the accuracies."""


def summarise(rows: pd.DataFrame, classes: dict[str, int], plan: Bootstrap | None = None) -> pd.DataFrame:
    """Compute the accuracy of each model, task and method, and the mean over tasks, with confidence intervals.

    Args:
        rows: reweighting tables of one or more models and tasks.
        classes: Number of classes of each task.
        plan: Settings of the resampling.

    Returns:
        One row per model, task (then :data:`~icl_lens.statistics.resampling.OVER_TASKS`) and method (then :data:`DIFFERENCE`):
        model, task, method, shots (a range over tasks, empty for the difference), accuracy and its columns
        (:meth:`~icl_lens.statistics.resampling.Estimate.columns`), the columns of
        :func:`icl_lens.statistics.answers.balanced_columns` (without a majority baseline for the difference), macro_f1 (mean
        over the classes present in a seed, then over seeds, then over tasks; for the difference, the difference of these
        means), absent (number of (seed, class) pairs without a test text, and the number of all such pairs), and seeds.
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
                right = of_method.assign(correct=of_method["gold"] == of_method["prediction"])
                estimates[method] = answers.scores(right, ["correct"], plan)[:, 0]  # (2,)
                if task != OVER_TASKS:
                    scores[task, method] = _macro_f1(of_method)
            estimates[DIFFERENCE] = estimates[REWEIGHTED] - estimates[VANILLA]
            gold = part[part["method"] == VANILLA].groupby(["task", "seed"])["gold"].nunique().reset_index()
            expected = gold["task"].map(classes)
            majority = answers.majority_baseline(part[part["method"] == VANILLA])
            for method, estimate in estimates.items():
                shots = sorted(part.loc[part["method"] == method, "shots"].unique())
                found.append(
                    {
                        "model": model,
                        "task": task,
                        "method": method,
                        "shots": " to ".join(str(k) for k in ([shots[0], shots[-1]] if len(shots) > 1 else shots)),
                        "accuracy": float(estimate.value[0]),
                        **estimate[0].columns(),
                        **answers.balanced_columns(estimate[1], np.nan if method == DIFFERENCE else majority),
                        "macro_f1": _macro_f1_over_tasks(scores, names, method),
                        "absent": f"{int((expected - gold['gold']).sum())} of {int(expected.sum())}",
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


def _macro_f1(rows: pd.DataFrame) -> float:
    """Compute macro F1 of one task and method, as a mean over seeds.

    The score averages over the classes of the gold labels. A class without a text in the test set is excluded. A prediction of
    such a class still counts as an error for the gold class of the text.
    """
    found = []
    for _, part in rows.groupby("seed"):
        found.append(f1_score(part["gold"], part["prediction"], labels=np.unique(part["gold"]), average="macro"))
    return float(np.mean(found))


def _macro_f1_over_tasks(scores: dict, tasks: list[str], method: str) -> float:
    """Compute the mean of macro F1 over tasks, or the difference of the means for :data:`DIFFERENCE`."""
    if method == DIFFERENCE:
        return _macro_f1_over_tasks(scores, tasks, REWEIGHTED) - _macro_f1_over_tasks(scores, tasks, VANILLA)
    return sum(scores[task, method] for task in tasks) / len(tasks)
