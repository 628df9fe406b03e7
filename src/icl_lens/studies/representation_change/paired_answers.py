"""Parsing and scoring of answers: the number that an answer begins with, or the activity that it names.

An answer that cannot be parsed is counted and excluded from the mean error; it is never treated as a number. In the reading
task, an answer that names no activity of the text is wrong, and is counted too.
"""

from __future__ import annotations

import math
import re

import numpy as np
import pandas as pd

_NUMBER = re.compile(r"\s*(-?\d+(?:\.\d+)?)")


def number(answer: str) -> float:
    """Return the number that an answer begins with, ignoring leading whitespace; NaN if there is none."""
    match = _NUMBER.match(answer)
    return float(match[1]) if match else math.nan


def names(answer: str, activity: str) -> bool:
    """Return whether the first line of an answer contains an activity, ignoring case."""
    lines = answer.strip().splitlines() or [""]
    return activity.lower() in lines[0].lower()


def judged(rows: pd.DataFrame) -> pd.DataFrame:
    """Score the answers in the rows of one task's representation_change table.

    Returns:
        The rows with these columns: ``parsed`` (lines: the answer begins with a number; reading: it names an activity of its
        text or of the grid), ``error`` (lines: |y^ - y|; reading: 1 unless it names the target's activity and no distractor's),
        ``relative_error`` (lines: error divided by max(|y|, 1); reading: same as error), ``likelihood_error`` (1 unless the
        correct candidate is the most likely) and ``log_prob`` (of the correct candidate, in nats).
    """
    log_probs = [np.asarray(each, dtype=float) for each in rows["candidate_log_probs"]]
    right = [int(each) for each in rows["truth_candidate"]]
    judged = rows.assign(
        likelihood_error=[float(each.argmax() != place) for each, place in zip(log_probs, right, strict=True)],
        log_prob=[each[place] for each, place in zip(log_probs, right, strict=True)],
    )
    if rows["task"].iloc[0] == "lines":
        said = np.array([number(answer) for answer in rows["answer"]])
        truth = rows["truth"].astype(float).to_numpy()
        error = np.abs(said - truth)
        return judged.assign(parsed=~np.isnan(said), error=error, relative_error=error / np.maximum(np.abs(truth), 1.0))
    found, wrong = [], []
    for row in rows.itertuples():
        activities = {row.truth, *row.competing, *(each.strip(" .") for each in row.candidates)}
        said = {activity for activity in activities if names(row.answer, activity)}
        found.append(bool(said))
        wrong.append(float(row.truth not in said or bool(said & set(row.competing))))
    return judged.assign(parsed=found, error=wrong, relative_error=wrong)
