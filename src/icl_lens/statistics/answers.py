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
    right = answers.assign(accuracy=answers["gold"] == answers["prediction"])
    of_task = right.groupby(key, sort=False).agg(
        accuracy=("accuracy", "mean"),
        commonest_class=("gold", lambda gold: gold.value_counts(normalize=True).max()),
    )
    over = of_task.groupby(key[:2], sort=False).mean().assign(task=OVER_TASKS).set_index("task", append=True)
    return pd.concat([of_task, over]).reset_index()


def unsolved_note(found: pd.DataFrame, consequence: str) -> list[str]:
    """Return a note that names the tasks with accuracy at or below the majority baseline, or an empty list if there are none.

    Args:
        found: The result of :func:`accuracy`.
        consequence: A sentence that says what this means for the figure.
    """
    of_tasks = found[found["task"] != OVER_TASKS]
    unsolved = of_tasks[of_tasks["accuracy"] <= of_tasks["commonest_class"]]
    if unsolved.empty:
        return []
    names = ", ".join(f"{row.task} ({row.model})" for row in unsolved.itertuples())
    return [f"No better than always the commonest class: {names}. {consequence}"]
