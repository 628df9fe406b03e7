"""Means, shares, correlations and AUCs, by plain loops.

The order of averaging is the papers' and that of the released notebooks: over the prompts of a demonstration set (a seed), then
over the seeds of a task, then over tasks. NaN stands for a value that is not defined; means leave it out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

OVER_TASKS = "mean of tasks"


def mean(values: Iterable[float]) -> float:
    """Compute the mean of the values that are not NaN; NaN if there is none."""
    known = [float(value) for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def deviation(values: Sequence[float]) -> float:
    """Compute the population standard deviation."""
    centre = mean(values)
    return math.sqrt(mean((value - centre) ** 2 for value in values))


def nested(values: dict[str, dict[int, list]], statistic: Callable = mean) -> float:
    """Compute a statistic of the prompts of each seed, and its mean over seeds, then over tasks.

    Args:
        values: Task -> seed -> a value for each prompt.
        statistic: Function of the values of a seed.
    """
    return mean(mean(statistic(prompts) for prompts in seeds.values()) for seeds in values.values())


def of_seeds(prompts: Iterable, value: Callable) -> dict[int, list]:
    """Return a value of each prompt, by the prompt's seed."""
    found: dict[int, list] = {}
    for prompt in prompts:
        found.setdefault(prompt["seed"], []).append(value(prompt))
    return found


def majority(classes: Sequence[int]) -> float:
    """Compute the share of the most frequent class."""
    return max(classes.count(c) for c in set(classes)) / len(classes)


def tied(values: Sequence[float]) -> list[float]:
    """Round values to 11 digits of the largest one, so that equal numbers with other rounding errors are equal."""
    largest = max(map(abs, values))
    return [float(f"{value / largest:.11f}") if largest > 0 else 0.0 for value in map(float, values)]


def balanced_accuracy(pairs: Sequence[tuple[int, float]]) -> float:
    """Compute the mean recall over the gold classes of a seed.

    Args:
        pairs: Gold class of each prompt, and whether (or how likely) its prediction is correct.
    """
    return mean(mean(right for gold, right in pairs if gold == c) for c in {gold for gold, _ in pairs})


def on_other_half(halves: Sequence[int], best: Callable[[list[int]], int]) -> list[int | None]:
    """Choose a candidate on each half of the prompts, for the other half.

    Args:
        halves: Half of each prompt.
        best: Function that chooses a candidate on the prompts with the given indices.

    Returns:
        For each prompt, what is chosen on the other half; None if that half is empty.
    """
    others = {half: [i for i, each in enumerate(halves) if each != half] for half in (0, 1)}
    chosen = {half: best(indices) if indices else None for half, indices in others.items()}
    return [chosen[half] for half in halves]


def ranks(values: Sequence[float]) -> list[float]:
    """Return ranks from 1; values that are equal up to rounding errors share their mean rank."""
    values = tied(values)
    return [sum(v < w for v in values) + (sum(v == w for v in values) + 1) / 2 for w in values]


def pearson(first: Sequence[float], second: Sequence[float]) -> float:
    """Compute Pearson's correlation; NaN if a side is constant."""
    a, b = sum(first) / len(first), sum(second) / len(second)
    left, right = [x - a for x in first], [y - b for y in second]
    spread = math.sqrt(sum(x * x for x in left) * sum(y * y for y in right))
    if max(map(abs, left)) <= 1e-9 * max(map(abs, first)) or max(map(abs, right)) <= 1e-9 * max(map(abs, second)):
        return math.nan
    return sum(x * y for x, y in zip(left, right, strict=True)) / spread


def spearman(first: Sequence[float], second: Sequence[float]) -> float:
    """Compute Spearman's correlation; NaN if a side is constant."""
    return pearson(ranks(first), ranks(second))


def quantile(values: Sequence[float], share: float) -> float:
    """Compute a quantile by linear interpolation between the sorted values."""
    ordered = sorted(values)
    at = share * (len(ordered) - 1)
    below = math.floor(at)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (at - below) * (ordered[above] - ordered[below])


def largest_share(weights: Sequence[float], labels: Sequence[int], classes: int) -> list[int]:
    """Return the classes whose demonstrations have the largest sum of weights; several in a tie."""
    sums = [sum(a for a, y in zip(weights, labels, strict=True) if y == c) for c in range(classes)]
    return [c for c in range(classes) if sums[c] == max(sums)]
