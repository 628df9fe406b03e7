"""Regression task of the study of representation change: points on a line, in words, with and without examples.

Yousefi et al. (arXiv 2310.00313) ask a model for the y of one more point of a line. The wording is reconstructed from memory of
theirs. The source does not give the numbers of the recipe, so each of them is a setting. A query is one list without the
y of its last point,

    Here are a set of point coordinates that all fall on the same line: (0.86,22.2); (0.44,13.8); (0.63,17.6); (0.49,

Each query is written once in each condition: alone; after k complete lists; and after the same k lists with their y shuffled
within each list. Each of the k lists belongs to a different line of the grid, so nothing can be copied. The shuffled lists are
a control of the same length that is not informative. The rows of one query share their query_id, so every comparison is paired.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import pairwise, product

import pandas as pd

from icl_lens.studies.representation_change.settings import SET, Lines

TASK = "lines"
TITLE = "Points on a line"
OPENING = "Here are a set of point coordinates that all fall on the same line:"
LOWEST, HIGHEST, GAP = 0.05, 0.99, 0.03
"""Range of the x, and minimum distance between two x of a list."""


def height(slope: float, intercept: float, x: float) -> float:
    """Compute the y of a line at x, rounded to one decimal as in the text."""
    return round(slope * x + intercept, 1)


def draw_places(rng: random.Random, points: int) -> list[float]:
    """Draw the x of a list: uniform, two decimals, at least :data:`GAP` apart, in random order."""
    lowest, highest, gap = (round(100 * edge) for edge in (LOWEST, HIGHEST, GAP))
    while True:
        drawn = [rng.randint(lowest, highest) for _ in range(points)]
        ordered = sorted(drawn)
        if all(b - a >= gap for a, b in pairwise(ordered)):
            return [x / 100 for x in drawn]


def write_list(
    text: str, places: Sequence[float], heights: Sequence[float], complete: bool, answer: str | None = None
) -> tuple[str, dict]:
    """Append a list to a text.

    Args:
        text: Text before the list.
        places: The x of all points.
        heights: The y of all points.
        complete: Whether the last point has its y. If not, the text ends after the comma of the last point.
        answer: Text to write in place of the last y.

    Returns:
        The longer text, and [start, end) character spans in it: ``x`` (of the points before the last), ``y`` (likewise),
        ``answer`` (the y of the last point, empty if it is omitted), ``ending`` (the last point up to and including its comma)
        and ``whole``.
    """
    start = len(text)
    text += OPENING
    spans: dict[str, list] = {"x": [], "y": []}
    for number, (x, y) in enumerate(zip(places, heights, strict=True)):
        last = number == len(places) - 1
        text += " ("
        begun = len(text) - 1
        at = len(text)
        text += f"{x:.2f}"
        if not last:
            spans["x"].append([at, len(text)])
        text += ","
        at = len(text)
        if last:
            spans["ending"] = [begun, at]
        if not last or complete:
            text += answer if last and answer is not None else f"{y:.1f}"
        if last:
            spans["answer"] = [at, len(text)]
        else:
            spans["y"].append([at, len(text)])
        text += ");" if not last else ")" if complete else ""
    spans["whole"] = [start, len(text)]
    return text, spans


def build(settings: Lines, seed: int) -> pd.DataFrame:
    """Build the prompts of each condition.

    Args:
        settings: The grid of lines, the number of queries per line, the numbers of points shown, and the numbers of examples.
        seed: Seed of all random draws.

    Returns:
        A paired_prompts table. Its column ``components`` contains slope and intercept, ``group`` the line, ``relevant_spans``
        the y that the query shows, ``irrelevant_spans`` its x, and ``context_spans`` the y of the examples.
    """
    rng = random.Random(f"{TASK} {seed}")
    lines = list(product(settings.slopes, settings.intercepts))
    most = max(settings.examples)
    rows = []
    for query, (line, _) in enumerate(product(lines, range(settings.queries_per_line))):
        shown = settings.points[query % len(settings.points)]
        places = draw_places(rng, shown + 1)
        heights = [height(*line, x) for x in places]
        truth = f"{heights[-1]:.1f}"
        others = rng.sample([other for other in lines if other != line], most)
        examples = []
        for other in others:
            xs = draw_places(rng, shown + 1)
            ys = [height(*other, x) for x in xs]
            examples.append((xs, ys, shuffled(rng, ys)))
        guesses = (heights[-1], heights[-2], sum(heights[:-1]) / shown)
        for k, control in settings.conditions():
            text, context = "", []
            for xs, ys, mixed in examples[:k]:
                text, spans = write_list(text, xs, mixed if control else ys, complete=True)
                context += [*spans["y"], spans["answer"]]
                text += "\n"
            text, spans = write_list(text, places, heights, complete=False)
            rows.append(
                {
                    "task": TASK,
                    "set": SET,
                    "seed": seed,
                    "prompt_id": len(rows),
                    "query_id": query,
                    "examples": k,
                    "control": control,
                    "distractors": 0,
                    "text": text,
                    "truth": truth,
                    "candidates": list(dict.fromkeys(f"{guess:.1f})" for guess in guesses)),
                    "truth_candidate": 0,
                    "components": [f"{part:g}" for part in line],
                    "group": f"{line[0]:g}x+{line[1]:g}",
                    "competing": [],
                    "position": 0,
                    "place": places[-1],
                    "query_span": spans["whole"],
                    "relevant_spans": spans["y"],
                    "irrelevant_spans": spans["x"],
                    "context_spans": context,
                    "ending_span": spans["ending"],
                }
            )
    return pd.DataFrame(rows)


def shuffled(rng: random.Random, heights: Sequence[float]) -> list[float]:
    """Return the y in another order, in which the last point does not keep its own y."""
    order = list(range(len(heights)))
    while order[-1] == len(order) - 1:
        rng.shuffle(order)
    return [heights[i] for i in order]
