"""Number of edges of each kind in a prompt (*Label Words are Anchors*, eq. 2 to 4), and how many of them can exist in a layer.

An edge connects a position with an earlier one. With p_k the position of the k-th demonstration's label word, and q the last
position, the kinds are

    wp    from an earlier position to a label word, (p_k, j) for j < p_k
    pq    from a label word to the last position, (q, p_k)
    ww    all other edges

If a label word has several anchors (``label_anchor: all``), p_k is each of them, and the edges between them are of kind ww:

    wp    (p, j) for each anchor p of demonstration k, and j before the first anchor of demonstration k
    pq    (q, p) for each anchor p

If classes are predicted by their whole label words (``label_score: whole``), the tokens of label words are appended to the
prompt (:mod:`icl_lens.prompts.label_words`). An appended token has edges from the positions of the prompt and from the appended
tokens before it on its path. It predicts the next token of a label word, as q predicts the first one, so pq has the edges from
the anchors to q and to each appended token.

In a layer with a sliding window or with chunks, an edge can exist only if the mask does not hide it
(:mod:`icl_lens.attention.visible`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from icl_lens.attention.visible import visible_positions
from icl_lens.models.language_model import LanguageModel
from icl_lens.prompts.positions import TokenizedPrompt

KINDS = ("wp", "pq", "ww")


def count_edges(prompts: Sequence[TokenizedPrompt], visible: Tensor | None = None) -> np.ndarray:
    """Count the edges of each kind in each of N prompts.

    Args:
        prompts: Prompts of at most T tokens, including appended tokens.
        visible: Mask of a layer, bool, shape (T, T), True where the row can attend to the column; by default, each position can
            attend to all earlier ones.

    Returns:
        Numbers of edges that can exist, int64, shape (3, N), in the order of :data:`KINDS`.
    """
    longest = _longest(prompts)
    counts = np.arange(longest) if visible is None else visible.numpy().sum(1) - visible.numpy().diagonal()  # (T,)
    found = np.zeros((len(KINDS), len(prompts)), dtype=np.int64)
    for i, prompt in enumerate(prompts):
        within = [(p, j) for p, start in zip(prompt.anchors, prompt.anchor_starts, strict=True) for j in range(start, p)]
        wp = counts[prompt.anchors].sum() - sum(visible is None or bool(visible[edge]) for edge in within)
        appended = _appended_positions(prompt)
        targets = [prompt.last, *appended]
        pq = sum(len(prompt.anchors) if visible is None else int(visible[q, prompt.anchors].sum()) for q in targets)
        found[:, i] = wp, pq, counts[: len(prompt.ids)].sum() + counts[appended].sum() - wp - pq
    return found


def _longest(prompts: Sequence[TokenizedPrompt]) -> int:
    """Return the number of tokens of the longest prompt, including appended tokens."""
    return max((len(prompt.ids) + prompt.appended for prompt in prompts), default=0)


def _appended_positions(prompt: TokenizedPrompt) -> list[int]:
    """Return the position of each appended token. Tokens on different paths can have the same position."""
    if not prompt.label_words:
        return []
    words = prompt.label_words
    return [
        len(prompt.ids) + offset
        for path, branch in zip(words.paths, words.branches, strict=True)
        for offset in range(branch.length, len(path))
    ]


def count_visible_edges(model: LanguageModel, prompts: Sequence[TokenizedPrompt]) -> np.ndarray | None:
    """Count the edges of each kind that can exist in each layer of a model.

    Returns:
        Numbers of edges, int64, shape (3, N, L); None if the model family does not show which edges can exist.
    """
    visible = visible_positions(model.network, _longest(prompts))
    if visible is None:
        return None
    of_mask = {id(mask): count_edges(prompts, mask) for mask in {id(mask): mask for mask in visible}.values()}  # (3, N) each
    return np.stack([of_mask[id(mask)] for mask in visible], axis=-1)


def observe_windows(model: LanguageModel, prompts: Sequence[TokenizedPrompt]) -> dict[str, Any]:
    """Describe the edges of the prompts that cannot exist, for the metadata of a table.

    Returns:
        ``window_layers``, the number of layers in which an edge of the prompts cannot exist (None if unknown), and for each
        kind the number of edges in these layers, over all prompts, as [outside the window, all]: ``edges_wp``, ``edges_pq`` and
        ``edges_ww``.
    """
    seen = count_visible_edges(model, prompts)
    if seen is None:
        return {"window_layers": None}
    every = count_edges(prompts)[..., None]  # (3, N, 1)
    hidden = (every - seen).sum(1)  # (3, L)
    limited = hidden.sum(0) > 0  # (L,)
    totals = every.sum((1, 2)) * int(limited.sum())  # (3,)
    return {
        "window_layers": int(limited.sum()),
        **{f"edges_{kind}": [int(hidden[i].sum()), int(totals[i])] for i, kind in enumerate(KINDS)},
    }
