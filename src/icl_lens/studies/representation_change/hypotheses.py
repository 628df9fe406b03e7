"""What prompts have in common, as matrices: the hypotheses that representational similarity is compared with.

After Yousefi et al. (arXiv 2310.00313): two prompts that share a component of the task should be alike. An entry is 1 where
they share it and 0 elsewhere, the average of two such matrices a hypothesis of its own; slopes and intercepts, being numbers,
also give the negative distance. In a reading prompt the sentences that nobody asks about compete: 1 for the same distractor,
else 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

TASKS = {
    "lines": ("line", "slope", "intercept", "average", "slope distance", "intercept distance"),
    "reading": ("activity", "name", "average", "distractor"),
}
"""The hypotheses of each task; the first is the task's own: what an answer needs."""


def names(task: str, distractors: int) -> tuple[str, ...]:
    """The hypotheses of a task; none of distractors where there are none."""
    return tuple(name for name in TASKS[task] if name != "distractor" or distractors)


def matrices(prompts: pd.DataFrame) -> dict[str, np.ndarray]:
    """The hypotheses about the prompts of one condition.

    Args:
        prompts: Rows of a paired_prompts table, or of a representation_change table: task, distractors, components, competing.

    Returns:
        By name, shape (P, P) each.
    """
    task, distractors = prompts["task"].iloc[0], int(prompts["distractors"].iloc[0])
    first, second = (np.array([row[i] for row in prompts["components"]]) for i in range(2))
    one, two = same(first), same(second)
    if task == "lines":
        found = {
            "line": one * two,
            "slope": one,
            "intercept": two,
            "average": (one + two) / 2,
            "slope distance": -distance(first.astype(float)),
            "intercept distance": -distance(second.astype(float)),
        }
    else:
        found = {"activity": two, "name": one, "average": (one + two) / 2}
        if distractors:
            found["distractor"] = shared([set(row) for row in prompts["competing"]])
    return {name: found[name] for name in names(task, distractors)}


def same(values: np.ndarray) -> np.ndarray:
    """1 where two prompts have one value, 0 elsewhere, shape (P, P)."""
    return (values[:, None] == values).astype(float)


def distance(values: np.ndarray) -> np.ndarray:
    """How far two prompts' values are apart, shape (P, P)."""
    return np.abs(values[:, None] - values)


def shared(sets: Sequence[set]) -> np.ndarray:
    """1 where two prompts' sets have something in common, 0 elsewhere, shape (P, P)."""
    return np.array([[float(bool(a & b)) for b in sets] for a in sets])


def overlap(sets: Sequence[set]) -> np.ndarray:
    """The share of two prompts' elements that both have (Jaccard), shape (P, P)."""
    return np.array([[len(a & b) / max(1, len(a | b)) for b in sets] for a in sets])
