"""Edges of each class in a prompt, and random edges of the same number.

    wp    from an earlier position to a label word, (p_k, j) for j < p_k        (*Label Words are Anchors*, eq. 2)
    pq    from a label word to the last position, (q, p_k)                      (eq. 3)
    ww    all other edges, (i, j) for j < i                                     (eq. 4)

p_k is the anchor of a label word. If a label word has several anchors (``label_anchor: all``), ``wp`` has the edges to each of
them from the positions before the first one, ``pq`` has those from each of them, and the edges between them are in ``ww``. The
other classes are those of :mod:`icl_lens.studies.challenges.edges`, which do not depend on the anchors. In a layer with a
sliding window, only the edges that the mask does not hide exist.

If classes are predicted by their whole label words (``label_score: whole``), the edges are those of the tree of all paths
(:mod:`icl_lens.studies.challenges.ch_saliency.token_tree`), each once. An appended token predicts the next token of a label
word, as the last position q predicts the first one. So each appended token has edges in the classes of q, from the same columns
as q: in ``pq`` as in :mod:`icl_lens.models.edges`, and in the rows ``last`` and ``query`` of the other classes as in the study
``ch_edge_cuts``. Its other edges are in ``ww``. Only ``ww`` and ``layer`` have edges from appended tokens.

The random counterpart of a class has as many edges in each row, among those that exist, are not in the class, and are neither
on the diagonal nor from position 0. If a row has too few of them, such as a row of ``wp``, which has all edges of its rows, the
counterpart has all of them, and the missing number is drawn from all rows before the query. If these have too few, there is no
counterpart.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from icl_lens.prompts.positions import TokenizedPrompt
from icl_lens.studies.challenges.ch_saliency.names import EDGES, LAYER
from icl_lens.studies.challenges.ch_saliency.token_tree import token_tree
from icl_lens.studies.challenges.edge_sets import SETS
from icl_lens.studies.challenges.edges import find_edges, lowest
from icl_lens.studies.challenges.token_classes import token_classes


class EdgeClass(NamedTuple):
    """The edges of a class, or of its random counterpart, that exist in a layer.

    Attributes:
        name: Name of the class.
        control: Whether these are the edges of the random counterpart.
        edges: Mask of shape (N, N), True at [i, j] for an edge from node j to node i
            (:mod:`icl_lens.studies.challenges.ch_saliency.token_tree`). With first tokens, the nodes are the T positions.
    """

    name: str
    control: bool
    edges: np.ndarray


def find_classes(prompt: TokenizedPrompt) -> dict[str, np.ndarray]:
    """Return the edges of each class of a prompt, for layers without a sliding window, shape (N, N) each.

    Raises:
        InputError: The prompt has no demonstrations.
    """
    sees, length = token_tree(prompt).sees, len(prompt.ids)
    below = np.tril(sees, -1)  # (N, N)
    classes = token_classes(prompt)
    wp, pq = np.zeros_like(below), np.zeros_like(below)
    for anchor, start in zip(prompt.anchors, prompt.anchor_starts, strict=True):
        wp[anchor, :start] = True
    pq[prompt.last, prompt.anchors] = True
    pq[length:] = pq[prompt.last]
    found = {"wp": wp, "pq": pq, "ww": below & ~wp & ~pq}
    for each in SETS:
        edges = np.zeros_like(below)
        edges[:length, :length] = find_edges(classes, each)
        edges[length:] = edges[prompt.last]
        found[f"{each.rows} -> {each.columns}"] = edges
    return {**{name: found[name] for name in EDGES}, LAYER: sees}


def existing_classes(
    prompt: TokenizedPrompt, classes: dict[str, np.ndarray], visible: np.ndarray | None, seed: int | None
) -> list[EdgeClass]:
    """Return the classes with at least one edge in a layer, each followed by its random counterpart if it has one.

    Args:
        prompt: The prompt, whose seed and prompt_id determine the random edges.
        classes: See :func:`find_classes`.
        visible: Mask of the layer, shape (T' or more, T' or more) for rows of T' tokens with appended ones, True where the row
            can attend to the column; None for a causal layer.
        seed: Seed of the random edges; None for no random edges.
    """
    tree = token_tree(prompt)
    seen = tree.sees if visible is None else tree.sees & visible[np.ix_(tree.positions, tree.positions)]  # (N, N)
    query, found = int(token_classes(prompt).query[0]), []
    for number, (name, edges) in enumerate(classes.items()):
        existing = edges & seen
        if not existing.any():
            continue
        found.append(EdgeClass(name, False, existing))
        if seed is None or name == LAYER:
            continue
        order = np.random.default_rng([seed, prompt.seed, prompt.prompt_id, number]).random((2, *existing.shape))
        drawn = _draw(existing, seen, order, query)
        if drawn is not None:
            found.append(EdgeClass(name, True, drawn))
    return found


def _draw(existing: np.ndarray, seen: np.ndarray, order: np.ndarray, query: int) -> np.ndarray | None:
    """Return the random counterpart of a class, shape (N, N), or None if there is none.

    Args:
        existing: The edges of the class, shape (N, N).
        seen: Edges that exist in the layer, including the diagonal, shape (N, N).
        order: Random numbers, shape (2, N, N). The candidates with the smallest numbers are chosen: with the first ones in each
            row, and with the second ones those that are missing.
        query: The first position of the query.
    """
    candidates = np.tril(seen, -1) & ~existing
    candidates[:, 0] = False
    drawn = lowest(order[0], candidates, existing.sum(1))  # (N, N)
    others = (candidates & ~drawn)[:query]  # (first position of the query, N)
    missing = existing.sum() - drawn.sum()
    if others.sum() < missing:
        return None
    drawn[:query] |= lowest(order[1][:query].ravel(), others.ravel(), missing).reshape(others.shape)
    return drawn
