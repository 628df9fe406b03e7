"""The tokens of a prompt and the appended tokens of its label words, each of them once.

If classes are predicted by their whole label words (``label_score: whole``), a model reads one row per path
(:mod:`icl_lens.prompts.label_words`), and several rows have the same beginning. The N *nodes* are the T tokens of the prompt,
followed by each appended token once, in the order of the rows. A node sees the tokens of the prompt before it, the appended
tokens before it on its path, and itself. With first tokens, the nodes are the tokens of the prompt.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from icl_lens.prompts.positions import TokenizedPrompt


class TokenTree(NamedTuple):
    """The nodes of a prompt, and the rows that contain them.

    Attributes:
        nodes: Node of each position in each of P rows, shape (P, T'). Padding has the node of the prompt's last token.
        rows: The first row that contains each node, shape (N,).
        positions: Position of each node in this row, shape (N,).
        sees: True at [i, j] if node i sees node j in a layer without a sliding window, shape (N, N). A node sees no later one.
    """

    nodes: np.ndarray
    rows: np.ndarray
    positions: np.ndarray
    sees: np.ndarray


def token_tree(prompt: TokenizedPrompt) -> TokenTree:
    """Return the tree of a prompt."""
    length = len(prompt.ids)
    words = prompt.label_words
    paths = words.paths if words else ((),)
    nodes = np.full((len(paths), length + prompt.appended), prompt.last)  # (P, T')
    nodes[:, :length] = np.arange(length)
    places = [(0, position) for position in range(length)]  # row and position of each node
    for row, path in enumerate(paths):
        branch = words.branches[row] if words else None
        for position in range(length, length + len(path)):
            if branch.path >= 0 and position < length + branch.length:
                nodes[row, position] = nodes[branch.path, position]
            else:
                nodes[row, position] = len(places)
                places.append((row, position))
    rows, positions = np.array(places).T  # (N,) each
    sees = np.tril(np.ones((len(places),) * 2, dtype=bool))  # (N, N)
    sees[length:, length:] = False
    for node in range(length, len(places)):
        sees[node, nodes[rows[node], : positions[node] + 1]] = True
    return TokenTree(nodes, rows, positions, sees)
