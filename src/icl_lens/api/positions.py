"""Token positions of the parts of a prompt."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from transformers import PreTrainedTokenizerBase

from icl_lens.prompts.positions import TokenizedPrompt, token_text, tokens_of


@dataclass(frozen=True, repr=False)
class Positions:
    """Token positions of the parts of a prompt, as a model reads it. They count from 0 and include the BOS token.

    Each position belongs to one part: ``bos``, ``texts``, ``label_tokens``, ``query`` or ``template``. In the order of priority
    ``label_tokens``, ``texts``, ``query``, ``template``, a token that contains characters of two parts belongs to the first of
    them.

    Attributes:
        tokens: The text of each token, T of them.
        bos: The BOS token; empty if there is none.
        texts: Text of each demonstration.
        label_words: The positions that studies isolate, read and re-weight: by default the first token of each demonstration's
            label word (``Model.label_anchor``).
        label_tokens: All tokens of each demonstration's label word.
        query: Text of the query.
        template: All other tokens, including ``last``.
        last: The last position, at which the model predicts the label word.
    """

    tokens: tuple[str, ...]
    bos: tuple[int, ...]
    texts: tuple[tuple[int, ...], ...]
    label_words: tuple[int, ...]
    label_tokens: tuple[tuple[int, ...], ...]
    query: tuple[int, ...]
    template: tuple[int, ...]
    last: int

    def __len__(self) -> int:
        return len(self.tokens)

    def table(self) -> pd.DataFrame:
        """Return one row per position: position, token, part and demonstration (from 0; -1 for none)."""
        rows = pd.DataFrame({"position": range(len(self)), "token": self.tokens, "part": "template", "demonstration": -1})
        for part, groups in (
            ("bos", [self.bos]),
            ("text", self.texts),
            ("query", [self.query]),
            ("label word", self.label_tokens),
        ):
            for number, group in enumerate(groups):
                rows.loc[list(group), "part"] = part
                rows.loc[list(group), "demonstration"] = number if part in ("text", "label word") else -1
        return rows

    def __repr__(self) -> str:
        return (
            f"Positions({len(self)} tokens, {len(self.label_words)} demonstrations, label words at "
            f"{list(self.label_words)}, last {self.last})"
        )


def positions_of(prompt: TokenizedPrompt, tokenizer: PreTrainedTokenizerBase) -> Positions:
    """Return the positions of the parts of a tokenized prompt."""
    free = np.ones(len(prompt.ids), dtype=bool)  # (T,): positions that belong to no part yet

    def take(found: Iterable[int]) -> tuple[int, ...]:
        chosen = [int(position) for position in found if free[position]]
        free[chosen] = False
        return tuple(chosen)

    bos = take([0] if prompt.ids[0] == tokenizer.bos_token_id else [])
    # A token belongs to a label word if it ends there, as in icl_lens.prompts.positions.
    stops = np.searchsorted(prompt.spans[:, 1], prompt.label_spans[:, 1], side="right")  # (D,)
    labels = tuple(take(range(start, stop)) for start, stop in zip(prompt.label_starts, stops, strict=True))
    texts = tuple(take(tokens_of(prompt, [span])) for span in prompt.text_spans)
    query = take(tokens_of(prompt, [prompt.query_span]))
    return Positions(
        tokens=tuple(token_text(prompt, position, tokenizer) for position in range(len(prompt.ids))),
        bos=bos,
        texts=texts,
        label_words=tuple(prompt.anchors.tolist()),
        label_tokens=labels,
        query=query,
        template=tuple(np.flatnonzero(free).tolist()),
        last=prompt.last,
    )
