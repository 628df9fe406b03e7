"""Tokens of each prompt: each token, its span in the text, and which tokens are label words.

Figures use this table to label a model's results with the prompt's tokens. The positions are the same as in all other studies.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from icl_lens.models.language_model import LanguageModel
from icl_lens.prompts.positions import TokenizedPrompt, token_text


def compute(
    model: LanguageModel,
    prompts: Sequence[TokenizedPrompt],
    batch_tokens: int,
    progress: Callable[[int], object] = lambda done: None,
) -> pd.DataFrame:
    """Return the tokens of each prompt.

    Args:
        model: The model; only its tokenizer is used.
        prompts: Any prompts.
        batch_tokens: Ignored, because the study does not run the model.
        progress: Called after each prompt.

    Returns:
        One row per prompt and position, in this order: prompt_id, position (from 0), token (its characters in the text, or the
        tokenizer's decoded text if it has no characters), start and end (its span [start, end) in the prompt's text, in
        characters), class (class index for an anchor, by default
        the first token of a label word; -1 for other tokens), last (whether it is the last
        position, at which the model predicts).
    """
    tables = []
    for prompt in prompts:
        classes = np.full(len(prompt.ids), -1)  # (T,)
        classes[prompt.anchors] = prompt.anchor_classes
        tables.append(
            pd.DataFrame(
                {
                    "prompt_id": prompt.prompt_id,
                    "position": np.arange(len(prompt.ids)),
                    "token": [token_text(prompt, position, model.tokenizer) for position in range(len(prompt.ids))],
                    "start": prompt.spans[:, 0],
                    "end": prompt.spans[:, 1],
                    "class": classes,
                    "last": np.arange(len(prompt.ids)) == prompt.last,
                }
            )
        )
        progress(1)
    return pd.concat(tables, ignore_index=True)
