"""What an answer says: the number that it begins with, or the activity that it names; and how far off it is.

What cannot be read as an answer is counted and left out of a mean of errors; it is never taken for some number. A chosen
activity that is none of the text's is wrong, and counted too.
"""

from __future__ import annotations

import math
import re

import numpy as np
import pandas as pd

_NUMBER = re.compile(r"\s*(-?\d+(?:\.\d+)?)")


def number(answer: str) -> float:
    """The number that an answer begins with, blanks passed over; NaN where it begins with none."""
    match = _NUMBER.match(answer)
    return float(match[1]) if match else math.nan


def names(answer: str, activity: str) -> bool:
    """Whether the first line of an answer names an activity, whatever the case of its letters."""
    lines = answer.strip().splitlines() or [""]
    return activity.lower() in lines[0].lower()


def judged(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of one task's representation_change table, and how each answer is judged.

    Returns:
        The rows with ``parsed`` (lines: it begins with a number; reading: it names an activity of its text, or any of the
        grid), ``error`` (lines: |y^ - y|; reading: 1 unless it names the target's activity and no distractor's),
        ``relative_error`` (lines: divided by max(|y|, 1); reading: as error), ``likelihood_error`` (1 unless the right
        candidate is the likeliest) and ``log_prob`` (of the right candidate, in nats).
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
