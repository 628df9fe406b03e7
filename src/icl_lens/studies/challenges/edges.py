"""Edges of each set of :mod:`icl_lens.studies.challenges.edge_sets` in a prompt, and a choice of random edges."""

from __future__ import annotations

import numpy as np

from icl_lens.studies.challenges.edge_sets import EdgeSet
from icl_lens.studies.challenges.token_classes import CONTENT, FIRST, STOP, TokenClasses


def rows_of(classes: TokenClasses, rows: str) -> np.ndarray:
    """Return the row positions of a set, ascending.

    Args:
        classes: The classes of the prompt's positions.
        rows: One of :data:`icl_lens.studies.challenges.edge_sets.ROWS`.
    """
    if rows == "last":
        return classes.query[-1:]
    if rows == "query":
        return classes.query
    if rows == "label":
        return classes.of("label")
    return np.flatnonzero((classes.demonstrations >= 0) & (classes.classes != FIRST))


def find_edges(classes: TokenClasses, edge_set: EdgeSet) -> np.ndarray:
    """Return the edges of a set, for layers without a sliding window.

    Args:
        classes: The classes of the prompt's positions.
        edge_set: One of :data:`icl_lens.studies.challenges.edge_sets.SETS`.

    Returns:
        Mask of shape (T, T), True for the edges from a row to a column before it. It can be empty.
    """
    rows, columns = edge_set
    length = len(classes.classes)
    is_row = np.zeros(length, dtype=bool)  # (T,)
    is_row[rows_of(classes, rows)] = True
    demonstration = classes.demonstrations
    inside = (demonstration >= 0) & (classes.classes != FIRST)  # (T,)
    if rows in ("last", "query"):
        chosen = inside if columns == "all" else np.zeros(length, dtype=bool)  # (T,)
        if columns != "all":
            chosen[classes.of(columns)] = True
        pairs = np.broadcast_to(chosen, (length, length))  # (T, T)
    elif columns == "text":
        is_text = inside & np.isin(classes.classes, (STOP, CONTENT))  # (T,)
        pairs = is_text & (demonstration[:, None] == demonstration)  # (T, T)
    elif columns == "others" or columns == "earlier":
        pairs = inside & (demonstration < demonstration[:, None])  # (T, T)
    else:
        raise ValueError(f"unknown set of edges {rows} -> {columns}")
    return np.tril(is_row[:, None] & pairs, -1)  # (T, T)


def lowest(numbers: np.ndarray, eligible: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Choose the eligible places with the lowest numbers along the last axis, or all of them if there are too few.

    Args:
        numbers: Distinct numbers, shape (..., T).
        eligible: Which places can be chosen, shape (..., T).
        sizes: How many to choose, shape (...).
    """
    ranks = np.where(eligible, numbers, np.inf).argsort(-1).argsort(-1)  # (..., T)
    return (ranks < sizes[..., None]) & eligible
