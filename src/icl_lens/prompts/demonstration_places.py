"""Token positions of the demonstrations in a prompt, and the attention to each demonstration.

The definitions follow *In-context learning as kernel regression* (Han et al., TMLR 2025), section 5.2. A demonstration consists
of the tokens from the first piece of its template to the last token of its label word. The text between demonstrations (a
newline) belongs to no demonstration. The tokens of the label words do not depend on which of them are anchors
(:mod:`icl_lens.prompts.positions`).

If demonstrations are turns of a chat (:func:`icl_lens.prompts.chat.as_turns`), the tokens that the chat template writes between
the text and the label word belong to the demonstration, and those between demonstrations belong to none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from icl_lens.errors import InputError
from icl_lens.prompts.positions import TokenizedPrompt


class Places(NamedTuple):
    """Token positions of the demonstrations in a prompt.

    Attributes:
        starts: The first token of each demonstration, shape (D,).
        labels: The first token of each label word, shape (D,).
        stops: The position after the last token of each label word, shape (D,).
        query: The first token of the query.
        end: The first token after the query's text.
    """

    starts: np.ndarray
    labels: np.ndarray
    stops: np.ndarray
    query: int
    end: int


def places(prompt: TokenizedPrompt, drop_first: bool) -> Places:
    """Return the token positions of the demonstrations in a prompt.

    Args:
        prompt: The prompt.
        drop_first: Whether to exclude position 0 from the demonstrations.
    """
    labels = prompt.label_spans
    # A token belongs to the span in which it ends, as in icl_lens.prompts.positions, because tokenizers differ in the token to
    # which they assign a space.
    token_ends = prompt.spans[:, 1]  # (T,)
    *start_characters, query_start = _start_characters(prompt)
    starts = np.searchsorted(token_ends, start_characters, side="right")
    return Places(
        np.maximum(starts, 1) if drop_first else starts,
        prompt.label_starts,
        np.searchsorted(token_ends, labels[:, 1], side="right"),
        min(int(np.searchsorted(token_ends, query_start, side="right")), prompt.last),
        min(int(np.searchsorted(token_ends, prompt.query_span[1], side="right")), prompt.last),
    )


def _start_characters(prompt: TokenizedPrompt) -> list[int]:
    """Return the first character of each demonstration and of the query, D + 1 numbers."""
    if len(prompt.turn_starts):
        return prompt.turn_starts.tolist()
    # The text between the label word and the next demonstration or the query is whitespace.
    next_starts = [_not_blank(prompt.text, end) for _, end in prompt.label_spans]
    # A chat header may precede the first demonstration. Its template piece before the text is as long as that of the query.
    prefix_length = max(0, prompt.query_span[0] - next_starts[-1])
    return [max(0, prompt.text_spans[0][0] - prefix_length), *next_starts]


def _not_blank(text: str, start: int) -> int:
    """Return the position of the first non-whitespace character at or after ``start``."""
    return start + len(text[start:]) - len(text[start:].lstrip())


def require_demonstrations(prompts: Sequence[TokenizedPrompt]) -> None:
    """Check that all prompts have demonstrations.

    Raises:
        InputError: A prompt has no demonstrations.
    """
    zero_shot = next((p for p in prompts if not len(p.anchors)), None)
    if zero_shot:
        raise InputError(f"prompt {zero_shot.prompt_id} has no demonstrations; kernel regression needs at least one")


def pooled(weights: np.ndarray, positions: Places) -> dict[str, np.ndarray]:
    """Pool the attention weights over the tokens of each demonstration, which gives its attention a_i.

    Args:
        weights: The attention weights of the last position, shape (L, H, T).
        positions: The token positions of the demonstrations.

    Returns:
        The attention to each demonstration, shape (L, H, D), for each pooling in
        :data:`icl_lens.studies.kernel_regression.settings.POOLINGS`.
    """
    spans = list(zip(positions.starts, positions.labels, positions.stops, strict=True))
    return {
        "max": np.stack([weights[..., start:stop].max(-1) for start, _, stop in spans], -1),
        "mean": np.stack([weights[..., start:stop].mean(-1) for start, _, stop in spans], -1),
        "label": np.stack([weights[..., label:stop].sum(-1) for _, label, stop in spans], -1),
    }
