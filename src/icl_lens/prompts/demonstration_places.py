"""Where a prompt's demonstrations are among its tokens, and how much attention each gets.

*In-context learning as kernel regression* (Han et al., TMLR 2025), section 5.2. A demonstration's tokens are those from its
template's first piece to its label word's last token; what stands between demonstrations (a newline) belongs to none. Its label
word's tokens begin with the anchor of :mod:`icl_lens.prompts.positions`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from icl_lens.errors import InputError
from icl_lens.prompts.positions import TokenizedPrompt


class Places(NamedTuple):
    """Where a prompt's demonstrations are among its tokens.

    Attributes:
        starts: First token of each demonstration, shape (D,).
        labels: First token of its label word, shape (D,).
        stops: One beyond its label word's last token, shape (D,).
        query: First token of the query.
        end: First token after the query's text.
    """

    starts: np.ndarray
    labels: np.ndarray
    stops: np.ndarray
    query: int
    end: int


def places(prompt: TokenizedPrompt, drop_first: bool) -> Places:
    """Where a prompt's demonstrations are among its tokens; position 0 is in none with ``drop_first``."""
    text, labels = prompt.text, prompt.label_spans
    # A token belongs to what it ends in, as in icl_lens.prompts.positions: families differ in whose a blank is.
    ends = prompt.spans[:, 1]  # (T,)
    behind = [_not_blank(text, end) for _, end in labels]  # where the next demonstration, or the query, begins
    # Before the first demonstration may stand a chat's header; its template's beginning is as long as the query's.
    head = max(0, prompt.query_span[0] - behind[-1])
    begins = np.array([max(0, prompt.text_spans[0][0] - head), *behind[:-1]])
    starts = np.searchsorted(ends, begins, side="right")
    return Places(
        np.maximum(starts, 1) if drop_first else starts,
        prompt.anchors,
        np.searchsorted(ends, labels[:, 1], side="right"),
        min(int(np.searchsorted(ends, behind[-1], side="right")), prompt.last),
        min(int(np.searchsorted(ends, prompt.query_span[1], side="right")), prompt.last),
    )


def _not_blank(text: str, start: int) -> int:
    """The first character from ``start`` on that is no blank."""
    return start + len(text[start:]) - len(text[start:].lstrip())


def require_demonstrations(prompts: Sequence[TokenizedPrompt]) -> None:
    """Refuse prompts without demonstrations.

    Raises:
        InputError: A prompt has none.
    """
    bare = next((p for p in prompts if not len(p.anchors)), None)
    if bare:
        raise InputError(f"prompt {bare.prompt_id} has no demonstration; kernel regression needs some to attend to")


def pooled(weights: np.ndarray, where: Places) -> dict[str, np.ndarray]:
    """Each demonstration's attention a_i, by pooling, shape (L, H, D) each.

    Args:
        weights: The last position's rows, shape (L, H, T).
        where: The prompt's demonstrations.

    Returns:
        By the names of :data:`icl_lens.studies.kernel_regression.settings.POOLINGS`.
    """
    spans = list(zip(where.starts, where.labels, where.stops, strict=True))
    return {
        "max": np.stack([weights[..., start:stop].max(-1) for start, _, stop in spans], -1),
        "mean": np.stack([weights[..., start:stop].mean(-1) for start, _, stop in spans], -1),
        "label": np.stack([weights[..., label:stop].sum(-1) for _, label, stop in spans], -1),
    }
