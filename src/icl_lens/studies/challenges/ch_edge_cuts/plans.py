"""The edges that each condition cuts in a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from icl_lens.studies.challenges.ch_edge_cuts.controls import Cut, draw_random, match_mass, stream
from icl_lens.studies.challenges.ch_edge_cuts.study import Settings, Span, spans
from icl_lens.studies.challenges.edge_sets import ROWS, SETS
from icl_lens.studies.challenges.edges import find_edges, rows_of
from icl_lens.studies.challenges.token_classes import FIRST, TokenClasses

IN_QUERY = ("last", "query")
"""Kinds of rows in the query."""

IN_DEMONSTRATIONS = ("label", "demonstration")
"""Kinds of rows in the demonstrations. Their edges and controls are the same for all prompts with the same demonstrations."""


class Condition(NamedTuple):
    """A set of edges, or one of its controls, that is cut in some layers."""

    rows: str
    columns: str
    start: int
    stop: int
    variant: str
    draw: int


class Planned(NamedTuple):
    """The edges that a condition cuts in a prompt.

    Attributes:
        rows: Positions of the rows, shape (R,).
        edges: True for an edge to cut, shape (R, T).
        total: Number of cut edges, summed over the cut layers.
        columns: Number of cut columns.
        mass: Attention of the uncut run along the cut edges, averaged over the heads and the cut layers, summed over the rows
            and divided by the number of rows in which the set has edges.
    """

    rows: np.ndarray
    edges: np.ndarray
    total: int
    columns: int
    mass: float


Plan = dict[Condition, Planned | None]
"""The edges of each condition; None for a condition that is not valid in a prompt."""


def labelled_conditions(layers: int, settings: Settings, windows: bool) -> list[tuple[Span, Condition]]:
    """Return the conditions of a prompt, each with the name of its layers, in the order of the table.

    Args:
        layers: Number of layers of the model.
        settings: The settings of the study.
        windows: Whether all sets are also cut in windows of layers, or only those of the last position.
    """
    variants = [("set", 0), *(("random", draw) for draw in range(settings.draws)), ("mass", 0)]
    return [
        (span, Condition(*edge_set, span.start, span.stop, *variant))
        for edge_set in SETS
        for span in spans(layers)
        if windows or edge_set.rows == "last" or span.name != "window"
        for variant in variants
    ]


def is_only_window(condition: Condition, layers: int) -> bool:
    """Return whether the layers of a condition are a window, and not also all layers or one of the halves."""
    return (condition.start, condition.stop) not in {span[1:] for span in spans(layers) if span.name != "window"}


def plan(
    ids: np.ndarray,
    classes: TokenClasses,
    kinds: Sequence[str],
    attention: np.ndarray,
    visible: Sequence[np.ndarray | None] | None,
    settings: Settings,
    windows: bool,
) -> Plan:
    """Choose the edges of all conditions with some kinds of rows.

    Args:
        ids: Token ids of the prompt, or of its demonstrations if all rows are in them, shape (T,).
        classes: Classes of these T positions.
        kinds: Kinds of rows, see :data:`icl_lens.studies.challenges.edge_sets.ROWS`.
        attention: Attention of the uncut run, averaged over the heads, shape (L, T, T).
        visible: Which columns each row can attend to in each layer, shape (T or more, T or more) each; see
            :func:`icl_lens.attention.visible.visible_positions`.
        settings: The settings of the study.
        windows: See :func:`labelled_conditions`.
    """
    layers, length = attention.shape[:2]
    causal = np.tril(np.ones((length, length), dtype=bool))  # (T, T)
    per_layer = [causal if mask is None else mask[:length, :length] for mask in visible or [None] * layers]  # (T, T) each
    distinct = list({id(mask): mask for mask in per_layer}.values())
    exists = np.tril(np.logical_or.reduce(distinct), -1)  # (T, T)
    found: Plan = {}
    for kind in kinds:
        ranges = list(dict.fromkeys(span[1:] for span in spans(layers) if windows or kind == "last" or span.name != "window"))
        sets = [each for each in SETS if each.rows == kind]
        rows = rows_of(classes, kind)  # (R,)
        edges = np.stack([find_edges(classes, each)[rows] for each in sets]) & exists[rows]  # (S, R, T)
        eligible = exists[rows] & (classes.classes != FIRST) & ~edges & edges.any(-1, keepdims=True)  # (S, R, T)
        of_range = np.stack([attention[start:stop, rows].mean(0) for start, stop in ranges])  # (W, R, T)
        key = stream(ids, ROWS.index(kind), settings.seed)
        numbers = edges.any(-1).sum(-1).tolist()  # S numbers of rows with edges
        cuts = {("set", 0): [[Cut(each, bool(each.any())) for each in edges]] * len(ranges)}
        cuts["mass", 0] = match_mass(edges, eligible, of_range, settings.tolerance, key)
        random_rows, elsewhere = rows, kind in IN_DEMONSTRATIONS
        if elsewhere:
            random_rows = rows_of(classes, "demonstration")  # (R',)
            edges = np.stack([find_edges(classes, each)[random_rows] for each in sets]) & exists[random_rows]  # (S, R', T)
            eligible = exists[random_rows] & (classes.classes != FIRST) & ~edges  # (S, R', T)
        for draw in range(settings.draws):
            cuts["random", draw] = [draw_random(edges, eligible, key, draw, elsewhere)] * len(ranges)
        for (name, draw), per_range in cuts.items():
            cut_rows = random_rows if name == "random" else rows
            in_rows = {id(mask): mask[cut_rows] for mask in distinct}  # (R, T) each
            for (start, stop), of_sets in zip(ranges, per_range, strict=True):
                masks = [in_rows[id(mask)] for mask in per_layer[start:stop]]
                mean = attention[start:stop, cut_rows].mean(0)  # (R, T)
                for edge_set, cut, count in zip(sets, of_sets, numbers, strict=True):
                    condition = Condition(*edge_set, start, stop, name, draw)
                    found[condition] = _planned(cut_rows, cut.edges, mean, masks, count) if cut.valid else None
    return found


def _planned(rows: np.ndarray, edges: np.ndarray, attention: np.ndarray, masks: Sequence[np.ndarray], count: int) -> Planned:
    """Describe the edges of a condition.

    Args:
        rows: See :class:`Planned`.
        edges: See :class:`Planned`.
        attention: Mean attention of the cut layers, shape (R, T).
        masks: Edges that exist in each cut layer, shape (R, T) each.
        count: Number of rows in which the set has edges.
    """
    totals = {id(mask): int((edges & mask).sum()) for mask in masks}
    mass = float(attention[edges].sum(dtype=np.float64)) / count
    return Planned(rows, edges, sum(totals[id(mask)] for mask in masks), int(edges.any(0).sum()), mass)
