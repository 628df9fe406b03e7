"""Accuracy and majority baseline, which each figure reports for the prompts that it shows."""

from __future__ import annotations

import pandas as pd

from icl_lens.statistics.resampling import OVER_TASKS


def accuracy(answers: pd.DataFrame) -> pd.DataFrame:
    """Compute accuracy and majority baseline of each model and prompt set.

    Args:
        answers: icl tables of one or more models, tasks and prompt sets.

    Returns:
        One row per model, set and task, followed by one row for each model and set with the mean over its tasks
        (:data:`~icl_lens.statistics.resampling.OVER_TASKS` in place of the task). Columns are accuracy and commonest_class,
        the majority baseline (the accuracy of always predicting the most frequent gold class).
    """
    key = ["model", "set", "task"]
    scored = answers.assign(accuracy=answers["gold"] == answers["prediction"])
    by_task = scored.groupby(key, sort=False).agg(
        accuracy=("accuracy", "mean"),
        commonest_class=("gold", lambda gold: gold.value_counts(normalize=True).max()),
    )
    mean_rows = by_task.groupby(key[:2], sort=False).mean().assign(task=OVER_TASKS).set_index("task", append=True)
    return pd.concat([by_task, mean_rows]).reset_index()


def unsolved_note(accuracies: pd.DataFrame, consequence: str) -> list[str]:
    """Return a note that names the tasks with accuracy at or below the majority baseline, or an empty list if there are none.

    Args:
        accuracies: The result of :func:`accuracy`.
        consequence: A sentence that says what this means for the figure.
    """
    by_task = accuracies[accuracies["task"] != OVER_TASKS]
    unsolved = by_task[by_task["accuracy"] <= by_task["commonest_class"]]
    if unsolved.empty:
        return []
    names = ", ".join(f"{row.task} ({row.model})" for row in unsolved.itertuples())
    return [f"Accuracy is at or below the majority baseline: {names}. {consequence}"]
