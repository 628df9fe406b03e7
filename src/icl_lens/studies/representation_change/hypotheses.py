"""Hypothesis matrices that representational similarity is compared with.

A hypothesis matrix states what two prompts have in common, after Yousefi et al. (arXiv 2310.00313): two prompts that share a
component of the task should have similar representations. An entry is 1 where the two prompts share the component and 0
elsewhere. The average of two such matrices is a further hypothesis. Slopes and intercepts are numbers, so their negative
distance is a hypothesis too. In the reading task, the distractor sentences give a competing hypothesis: 1 for the same
distractor, else 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

TASKS = {
    "lines": ("line", "slope", "intercept", "average", "slope distance", "intercept distance"),
    "reading": ("activity", "name", "average", "distractor"),
}
"""Hypotheses of each task. The first is the task's own: what an answer requires."""


def names(task: str, distractors: int) -> tuple[str, ...]:
    """Return the hypotheses of a task; ``distractor`` is omitted if there are no distractors."""
    return tuple(name for name in TASKS[task] if name != "distractor" or distractors)


def matrices(prompts: pd.DataFrame) -> dict[str, np.ndarray]:
    """Compute the hypotheses about the prompts of one condition.

    Args:
        prompts: Rows of a paired_prompts table or of a representation_change table: task, distractors, components, competing.

    Returns:
        Name -> matrix, shape (P, P).
    """
    task, distractors = prompts["task"].iloc[0], int(prompts["distractors"].iloc[0])
    first, second = (np.array([row[i] for row in prompts["components"]]) for i in range(2))
    same_first, same_second = equality(first), equality(second)
    if task == "lines":
        hypotheses = {
            "line": same_first * same_second,
            "slope": same_first,
            "intercept": same_second,
            "average": (same_first + same_second) / 2,
            "slope distance": -distance(first.astype(float)),
            "intercept distance": -distance(second.astype(float)),
        }
    else:
        hypotheses = {"activity": same_second, "name": same_first, "average": (same_first + same_second) / 2}
        if distractors:
            hypotheses["distractor"] = common_element([set(row) for row in prompts["competing"]])
    return {name: hypotheses[name] for name in names(task, distractors)}


def equality(values: np.ndarray) -> np.ndarray:
    """Return 1 where two prompts have the same value, 0 elsewhere, shape (P, P)."""
    return (values[:, None] == values).astype(float)


def distance(values: np.ndarray) -> np.ndarray:
    """Return the absolute difference between two prompts' values, shape (P, P)."""
    return np.abs(values[:, None] - values)


def common_element(sets: Sequence[set]) -> np.ndarray:
    """Return 1 where two prompts' sets have an element in common, 0 elsewhere, shape (P, P)."""
    return np.array([[float(bool(a & b)) for b in sets] for a in sets])


def jaccard(sets: Sequence[set]) -> np.ndarray:
    """Return the Jaccard index of two prompts' sets, shape (P, P)."""
    return np.array([[len(a & b) / max(1, len(a | b)) for b in sets] for a in sets])
