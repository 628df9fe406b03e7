"""Random edges that control for the number and for the attention of the edges of a set.

An edge is *eligible* for a control if it exists in at least one layer and is not in the set, except for edges to position 0 (an
attention sink) and the diagonal.

``random``  As many eligible edges in each row as the set has there, drawn uniformly. A label word has few earlier tokens
            outside the text of its demonstration, so if a row in the demonstrations has too few eligible edges, all of them are
            drawn, and the missing number is drawn uniformly from the other eligible edges of all rows of the demonstrations
            (as by Cho et al., arXiv 2410.04468). A draw is the same in each range of layers.
``mass``    In each row, eligible edges in a random order. An edge is added if the row's attention to the added edges then
            exceeds its attention to the set by at most the tolerance, until it is within the tolerance. The attention is
            that of the uncut run, averaged over the heads and over the layers of the cut. If a row does not get that far,
            further orders are tried.

A control is valid only if it matches: ``random`` needs enough eligible edges, and ``mass`` an attention within the tolerance,
summed over the rows.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import numpy as np

from icl_lens.studies.challenges.edges import lowest

# Number of random orders that the mass-matched control tries for a row.
_ORDERS = 4

# Distinct keys of the random streams.
_RANDOM, _MASS = 0, 1


class Cut(NamedTuple):
    """Edges to cut.

    Attributes:
        edges: True for an edge that is cut, shape (R, T) for R rows.
        valid: Whether the control matches the set; for a set, whether it has an edge.
    """

    edges: np.ndarray
    valid: bool


def stream(ids: np.ndarray, rows: int, seed: int) -> list[int]:
    """Return the key of the random numbers for some rows of a prompt.

    Args:
        ids: Token ids that determine the draw: those of the prompt, or only those before the query if the rows are before it.
            Prompts with the same demonstrations then have the same draw for these rows.
        rows: Number of the kind of rows.
        seed: The seed of the controls.
    """
    return [seed, rows, int.from_bytes(hashlib.sha256(ids.tobytes()).digest()[:8])]


def draw_random(edges: np.ndarray, eligible: np.ndarray, key: list[int], draw: int, elsewhere: bool = False) -> list[Cut]:
    """Draw as many random columns in each row as each of S sets has.

    Args:
        edges: The sets, shape (S, R, T).
        eligible: Eligible columns of each row, without those of the set, shape (S, R, T).
        key: See :func:`stream`.
        draw: Number of the draw.
        elsewhere: Whether to draw the columns that a row lacks from all rows.

    Returns:
        One cut per set.
    """
    generator = np.random.default_rng([_RANDOM, *key, draw])
    sizes = edges.sum(-1)  # (S, R)
    chosen = lowest(generator.random(edges.shape), eligible, sizes)  # (S, R, T)
    if elsewhere:
        missing = (sizes - chosen.sum(-1)).sum(-1)  # (S,)
        flat = (len(edges), -1)
        chosen |= lowest(generator.random(edges.shape).reshape(flat), (eligible & ~chosen).reshape(flat), missing).reshape(
            edges.shape
        )
        sizes, chosen_sizes = sizes.sum(-1, keepdims=True), chosen.sum((1, 2))[:, None]  # (S, 1) each
    else:
        chosen_sizes = chosen.sum(-1)  # (S, R)
    valid = (chosen_sizes == sizes).all(-1) & edges.any((1, 2))  # (S,)
    return [Cut(*pair) for pair in zip(chosen, valid.tolist(), strict=True)]


def match_mass(
    edges: np.ndarray, eligible: np.ndarray, attention: np.ndarray, tolerance: float, key: list[int]
) -> list[list[Cut]]:
    """Choose random columns whose attention equals that of each of S sets, for each of W ranges of layers.

    Args:
        edges: The sets, shape (S, R, T).
        eligible: Eligible columns of each row, without those of the set, shape (S, R, T).
        attention: Attention of the uncut run, averaged over heads and over the layers of each range, shape (W, R, T).
        tolerance: Maximum relative difference.
        key: See :func:`stream`.

    Returns:
        One list per range, with one cut per set.
    """
    generator = np.random.default_rng([_MASS, *key])
    shape = (len(attention), *edges.shape)  # (W, S, R, T)
    weights = np.broadcast_to(attention[:, None], shape).astype(np.float64)
    targets = (weights * edges).sum(-1)  # (W, S, R)
    allowed = eligible & (weights > 0)  # (W, S, R, T)
    chosen, totals = np.zeros(shape, dtype=bool), np.zeros(shape[:-1])
    low, high = (1 - tolerance) * targets, (1 + tolerance) * targets  # (W, S, R) each
    # Rows that cannot get far enough are tried once, to be as close as possible.
    hopeless = (weights * allowed).sum(-1) < low  # (W, S, R)
    for attempt in range(_ORDERS):
        order = generator.random(edges.shape).argsort(-1)  # (S, R, T), the same in each range
        missing = np.nonzero((totals < low) & ~(hopeless & (attempt > 0)))  # N rows
        if not len(missing[0]):
            break
        of_row = order[missing[1:]]  # (N, T)
        found, total = _fill(
            np.take_along_axis(weights[missing], of_row, -1),
            np.take_along_axis(allowed[missing], of_row, -1),
            low[missing],
            high[missing],
        )
        better = total > totals[missing]  # (N,)
        rows = tuple(each[better] for each in missing)
        placed = np.zeros((int(better.sum()), shape[-1]), dtype=bool)
        np.put_along_axis(placed, of_row[better], found[better], -1)
        chosen[rows], totals[rows] = placed, total[better]
    aim, reached = targets.sum(-1), totals.sum(-1)  # (W, S) each
    valid = (np.abs(reached - aim) <= tolerance * aim) & (aim > 0)
    return [
        [Cut(*pair) for pair in zip(of_range, are_valid.tolist(), strict=True)]
        for of_range, are_valid in zip(chosen, valid, strict=True)
    ]


def _fill(weights: np.ndarray, allowed: np.ndarray, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Add columns from left to right to each of N rows.

    Args:
        weights: Attention of the columns, in the order in which they are tried, shape (N, T).
        allowed: Columns that can be added, shape (N, T).
        low: Attention at which a row is complete, shape (N,).
        high: Attention that a row must not exceed, shape (N,).

    Returns:
        The added columns, shape (N, T), and their attention, shape (N,).
    """
    chosen, total = np.zeros(weights.shape, dtype=bool), np.zeros(len(weights))
    for column in range(weights.shape[1]):
        weight = weights[:, column]  # (N,)
        add = allowed[:, column] & (total < low) & (total + weight <= high)
        chosen[:, column] = add
        total = total + weight * add
    return chosen, total
