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


def parse_number(answer: str) -> float:
    """Return the number that an answer begins with, ignoring leading whitespace; NaN if there is none."""
    match = _NUMBER.match(answer)
    return float(match[1]) if match else math.nan


def mentions(answer: str, activity: str) -> bool:
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
    correct = [int(each) for each in rows["truth_candidate"]]
    scored = rows.assign(
        likelihood_error=[float(each.argmax() != index) for each, index in zip(log_probs, correct, strict=True)],
        log_prob=[each[index] for each, index in zip(log_probs, correct, strict=True)],
    )
    if rows["task"].iloc[0] == "lines":
        numbers = np.array([parse_number(answer) for answer in rows["answer"]])
        truth = rows["truth"].astype(float).to_numpy()
        error = np.abs(numbers - truth)
        return scored.assign(parsed=~np.isnan(numbers), error=error, relative_error=error / np.maximum(np.abs(truth), 1.0))
    parsed, errors = [], []
    for row in rows.itertuples():
        activities = {row.truth, *row.competing, *(each.strip(" .") for each in row.candidates)}
        mentioned = {activity for activity in activities if mentions(row.answer, activity)}
        parsed.append(bool(mentioned))
        errors.append(float(row.truth not in mentioned or bool(mentioned & set(row.competing))))
    return scored.assign(parsed=parsed, error=errors, relative_error=errors)
