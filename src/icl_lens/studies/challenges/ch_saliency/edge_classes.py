"""Edges of each class in a prompt, and random edges of the same number.

    wp    from an earlier position to a label word, (p_k, j) for j < p_k        (*Label Words are Anchors*, eq. 2)
    pq    from a label word to the last position, (q, p_k)                      (eq. 3)
    ww    all other edges, (i, j) for j < i                                     (eq. 4)

p_k is the first token of a label word. The other classes are those of :mod:`icl_lens.studies.challenges.edges`. In a layer with
a sliding window, only the edges that the mask does not hide exist.

The random counterpart of a class has as many edges in each row, among those that exist, are not in the class, and are neither
on the diagonal nor from position 0. If a row has too few of them, such as a row of ``wp``, which has all edges of its rows, the
counterpart has as many edges as the class, from all rows before the query. If these are too few, too, there is no counterpart.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from icl_lens.prompts.positions import TokenizedPrompt
from icl_lens.studies.challenges.ch_saliency.names import EDGES, LAYER
from icl_lens.studies.challenges.edge_sets import SETS
from icl_lens.studies.challenges.edges import find_edges
from icl_lens.studies.challenges.token_classes import token_classes


class EdgeClass(NamedTuple):
    """The edges of a class, or of its random counterpart, that exist in a layer.

    Attributes:
        name: Name of the class.
        control: Whether these are the edges of the random counterpart.
        edges: Mask of shape (T, T), True at [i, j] for an edge from position j to position i.
    """

    name: str
    control: bool
    edges: np.ndarray


def find_classes(prompt: TokenizedPrompt) -> dict[str, np.ndarray]:
    """Return the edges of each class of a prompt, for layers without a sliding window, shape (T, T) each.

    Raises:
        InputError: The prompt has no demonstrations.
    """
    length = len(prompt.ids)
    below = np.tril(np.ones((length, length), dtype=bool), -1)  # (T, T)
    classes = token_classes(prompt)
    wp, pq = np.zeros_like(below), np.zeros_like(below)
    wp[prompt.anchors] = below[prompt.anchors]
    pq[prompt.last, prompt.anchors] = True
    found = {"wp": wp, "pq": pq, "ww": below & ~wp & ~pq}
    found |= {f"{each.rows} -> {each.columns}": find_edges(classes, each) for each in SETS}
    return {**{name: found[name] for name in EDGES}, LAYER: below | np.eye(length, dtype=bool)}


def existing_classes(
    prompt: TokenizedPrompt, classes: dict[str, np.ndarray], visible: np.ndarray | None, seed: int | None
) -> list[EdgeClass]:
    """Return the classes with at least one edge in a layer, each followed by its random counterpart if it has one.

    Args:
        prompt: The prompt, whose seed and prompt_id determine the random edges.
        classes: See :func:`find_classes`.
        visible: Mask of the layer, shape (T, T), True where the row can attend to the column; None for a causal layer.
        seed: Seed of the random edges; None for no random edges.
    """
    seen = np.tril(np.ones((len(prompt.ids),) * 2, dtype=bool)) if visible is None else visible  # (T, T)
    query, found = int(token_classes(prompt).query[0]), []
    for number, (name, edges) in enumerate(classes.items()):
        existing = edges & seen
        if not existing.any():
            continue
        found.append(EdgeClass(name, False, existing))
        if seed is None or name == LAYER:
            continue
        order = np.random.default_rng([seed, prompt.seed, prompt.prompt_id, number]).random(existing.shape)
        drawn = _draw(existing, seen, order, query)
        if drawn is not None:
            found.append(EdgeClass(name, True, drawn))
    return found


def _draw(existing: np.ndarray, seen: np.ndarray, order: np.ndarray, query: int) -> np.ndarray | None:
    """Return the random counterpart of a class, shape (T, T), or None if there is none.

    Args:
        existing: The edges of the class, shape (T, T).
        seen: Edges that exist in the layer, including the diagonal, shape (T, T).
        order: Random numbers, shape (T, T). The candidates with the smallest numbers are chosen.
        query: The first position of the query.
    """
    candidates = np.tril(seen, -1) & ~existing
    candidates[:, 0] = False
    numbers = existing.sum(1)  # (T,)
    if (candidates.sum(1) < numbers).any():
        candidates[query:] = False
        if candidates.sum() < existing.sum():
            return None
        drawn = np.zeros_like(existing)
        places = np.flatnonzero(candidates)
        drawn.flat[places[np.argsort(order.flat[places], kind="stable")[: existing.sum()]]] = True
        return drawn
    ranks = np.where(candidates, order, np.inf).argsort(1, kind="stable").argsort(1, kind="stable")  # (T, T)
    return ranks < numbers[:, None]
