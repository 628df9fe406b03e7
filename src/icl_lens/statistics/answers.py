"""Accuracy, balanced accuracy and majority baseline of predictions, and the notes of figures and tables about them.

Balanced accuracy is the mean recall over the classes that occur in the gold labels of a seed. The majority baseline is the
accuracy of always predicting the most frequent gold class. A test set with one very frequent class, such as EmoC (84.9 % of the
test texts are of one class), has a majority baseline far above the accuracy of a model that predicts all classes equally often.
Such a model has a balanced accuracy of 1/C, as has a model that always predicts the same class.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from icl_lens.errors import InputError
from icl_lens.statistics.resampling import OVER_TASKS, Bootstrap, Estimate, average, unit_index

SCORES = ("accuracy", "balanced_accuracy")
"""Scores of predictions, in the order of :func:`scores`."""

UNBALANCED = 1.5
"""Minimum ratio of the majority baseline to 1/C in a test set that the notes call unbalanced."""


def majority_baseline(rows: pd.DataFrame) -> float:
    """Return the accuracy of always predicting the most frequent gold class of a task, as a mean over tasks.

    Args:
        rows: One or more rows per prompt, as many for each prompt of a task, with task and gold.
    """
    return float(rows.groupby("task")["gold"].agg(lambda gold: gold.value_counts().max() / len(gold)).mean())


def with_gold(rows: pd.DataFrame, answers: pd.DataFrame) -> pd.DataFrame:
    """Add the column gold to the table of a study that does not have it.

    Args:
        rows: Tables of a study, with model, set, task, seed and prompt_id.
        answers: icl tables of the same prompts.

    Raises:
        InputError: A prompt of the study is missing in the icl tables.
    """
    key = ["model", "set", "task", "seed", "prompt_id"]
    found = rows.merge(answers[[*key, "gold"]], on=key, how="left", validate="many_to_one")
    missing = found[found["gold"].isna()]
    if len(missing):
        first = missing.iloc[0]
        raise InputError(
            f"the icl table of {first['model']} on {first['task']}, {first['set']}, lacks prompt {first['prompt_id']} of seed "
            f"{first['seed']}; create it again with the same prompts"
        )
    return found.astype({"gold": int})


def balanced(correct: np.ndarray, gold: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Compute the mean recall over the classes that occur in the gold labels.

    Args:
        correct: Whether each of M predictions is correct, or the probability that it is, shape (n, M).
        gold: Class indices, shape (n,).
        weights: How often each of R resamples contains each text, shape (R, n); each text once by default.

    Returns:
        Shape (R, M), or (M,) without weights. A resample without a text of a class has the mean over the other classes.
    """
    if weights is None:
        return balanced(correct, gold, np.ones((1, len(gold))))[0]
    total = np.zeros((len(weights), correct.shape[1]))  # (R, M)
    classes = np.zeros((len(weights), 1))  # (R, 1)
    for c in np.unique(gold):
        own = gold == c  # (n,)
        texts = weights[:, own].sum(1, keepdims=True)  # (R, 1)
        right = weights[:, own] @ correct[own].astype(float)  # (R, M)
        total += np.divide(right, texts, out=np.zeros_like(right), where=texts > 0)
        classes += texts > 0
    return total / classes


def scores(rows: pd.DataFrame, columns: Sequence[str], plan: Bootstrap | None = None, cluster: str | None = None) -> Estimate:
    """Compute accuracies and balanced accuracies: for each seed, then the mean over seeds, then over tasks.

    Args:
        rows: One row per prompt, with the columns of :func:`icl_lens.statistics.resampling.unit_index`, gold and the columns
            (booleans, or probabilities). If a prompt has several rows, such as the draws of a random control, they are averaged
            first.
        columns: Names of M columns that say whether a prediction is correct; all use the same resamples.
        plan: Settings of the resampling.
        cluster: See :func:`icl_lens.statistics.resampling.mean`.

    Returns:
        The scores of :data:`SCORES`, shape (2, M).

    Raises:
        InputError: There are no rows, or a cell is empty.
    """
    columns = list(columns)
    if rows.empty:
        raise InputError(f"no rows to average: {', '.join(columns)}")
    if rows[["gold", *columns]].isna().to_numpy().any():
        raise InputError(f"empty cells among gold, {', '.join(columns)}; a mean over the others would hide them")
    units = rows.groupby([*unit_index(rows), *([cluster] if cluster else [])], sort=True)[["gold", *columns]].mean()

    def of_seed(part: pd.DataFrame, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        gold, correct = part["gold"].to_numpy(), part[columns].to_numpy(dtype=float)  # (n,), (n, M)
        resampled = weights @ correct / weights.sum(1, keepdims=True)  # (R, M)
        value = np.stack([correct.mean(0), balanced(correct, gold)])  # (2, M)
        return value, np.stack([resampled, balanced(correct, gold, weights)], 1)  # (R, 2, M)

    return average(units, of_seed, plan or Bootstrap(), cluster, bounds=(0.0, 1.0))


def balanced_columns(estimate: Estimate, baseline: float) -> dict[str, Any]:
    """Return the columns that a table has beside an accuracy.

    They are balanced_accuracy, its intervals and replicates with this prefix
    (:meth:`~icl_lens.statistics.resampling.Estimate.columns`), and majority_baseline.

    Args:
        estimate: The balanced accuracy, a scalar.
        baseline: The majority baseline; NaN for a difference of accuracies.
    """
    return {
        "balanced_accuracy": float(estimate.value),
        **{name: cell for name, cell in estimate.columns("balanced_accuracy_").items() if name not in ("sets", "prompts")},
        "majority_baseline": baseline,
    }


def accuracy(answers: pd.DataFrame, plan: Bootstrap | None = None) -> pd.DataFrame:
    """Compute accuracy, balanced accuracy and majority baseline of each model and prompt set.

    Args:
        answers: One row per prompt with model, set, task, seed, prompt_id, gold and prediction, for example icl tables of one
            or more models, tasks and prompt sets. The number of classes is the value of the column classes if there is one, or
            the length of class_log_probs. Without both, it is the number of classes up to the largest gold label or prediction.
        plan: Settings of the resampling.

    Returns:
        One row per model, set and task, followed by one row for each model and set with the mean over its tasks
        (:data:`~icl_lens.statistics.resampling.OVER_TASKS` in place of the task). Columns are accuracy and balanced_accuracy,
        each with the ends of its main interval (suffixes _low and _high); chance (1/C, the balanced accuracy of random
        predictions); majority_baseline (the accuracy of always predicting the most frequent gold class); and majority_predicted
        (the share of the predictions that are this class).
    """
    key = ["model", "set", "task"]
    scored = answers.assign(correct=answers["gold"] == answers["prediction"])
    found = [{**dict(zip(key, names, strict=True)), **_row(part, plan)} for names, part in scored.groupby(key, sort=False)]
    for (model, name), part in scored.groupby(key[:2], sort=False):
        found.append({"model": model, "set": name, "task": OVER_TASKS, **_row(part, plan)})
    return pd.DataFrame(found)


def _row(answers: pd.DataFrame, plan: Bootstrap | None) -> dict[str, float]:
    """Return the scores of the predictions of one model and prompt set, and the facts about them averaged over tasks."""
    estimate = scores(answers, ["correct"], plan)[:, 0]  # (2,)
    facts = pd.DataFrame([_facts(part) for _, part in answers.groupby("task", sort=False)]).mean().to_dict()
    cells = {}
    for place, name in enumerate(SCORES):
        one = estimate[place]
        cells |= {name: float(one.value), f"{name}_low": float(one.low), f"{name}_high": float(one.high)}
    return {**cells, **facts}


def _facts(answers: pd.DataFrame) -> dict[str, float]:
    """Return chance level, majority baseline and share of predictions of the majority class of one task."""
    gold, prediction = (answers[name].to_numpy(dtype=int) for name in ("gold", "prediction"))
    if "classes" in answers:
        classes = answers["classes"].iloc[0]
    elif "class_log_probs" in answers:
        classes = len(answers["class_log_probs"].iloc[0])
    else:
        classes = max(gold.max(), prediction.max()) + 1
    majority = np.bincount(gold).argmax()
    return {
        "chance": 1 / classes,
        "majority_baseline": majority_baseline(answers),
        "majority_predicted": float((prediction == majority).mean()),
    }


def unsolved_note(accuracies: pd.DataFrame, consequence: str) -> list[str]:
    """Return the notes about accuracies at or below the majority baseline, or an empty list if there are none.

    The first note names the tasks. It does not name a task with an unbalanced test set if the interval of the balanced accuracy
    is above chance: there, the predictions depend on the texts although the accuracy is low. The notes of
    :func:`unbalanced_notes` follow.

    Args:
        accuracies: The result of :func:`accuracy`.
        consequence: A sentence that says what this means for the figure.
    """
    by_task = accuracies[accuracies["task"] != OVER_TASKS]
    informative = _is_unbalanced(by_task) & (by_task["balanced_accuracy_low"] > by_task["chance"])
    unsolved = by_task[(by_task["accuracy"] <= by_task["majority_baseline"]) & ~informative]
    found = unbalanced_notes(accuracies)
    if unsolved.empty:
        return found
    names = ", ".join(f"{row.task} ({row.model})" for row in unsolved.itertuples())
    return [f"Accuracy is at or below the majority baseline: {names}. {consequence}", *found]


def unbalanced_notes(accuracies: pd.DataFrame) -> list[str]:
    """Return one note per task with an unbalanced test set and an accuracy below the majority baseline.

    Args:
        accuracies: The result of :func:`accuracy`.
    """
    by_task = accuracies[accuracies["task"] != OVER_TASKS]
    shown = by_task[_is_unbalanced(by_task) & (by_task["accuracy"] < by_task["majority_baseline"])]
    return [
        f"{row.task} ({row.model}): accuracy {row.accuracy:.2f}, majority baseline {row.majority_baseline:.2f}; balanced "
        f"accuracy {row.balanced_accuracy:.2f}, chance {row.chance:.2f}; {100 * row.majority_predicted:.0f} % of the "
        "predictions are the majority class."
        for row in shown.itertuples()
    ]


def _is_unbalanced(accuracies: pd.DataFrame) -> pd.Series:
    return accuracies["majority_baseline"] >= UNBALANCED * accuracies["chance"]
