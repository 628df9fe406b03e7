"""How a model's tokenizer reads each prompt: every token, where it stands in the text, and which tokens are label words.

What a figure needs to write a prompt beside what a model does with it. Positions are those of every other study.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from icl_lens.models.language_model import LanguageModel
from icl_lens.prompts.positions import TokenizedPrompt


def compute(
    model: LanguageModel,
    prompts: Sequence[TokenizedPrompt],
    batch_tokens: int,
    progress: Callable[[int], object] = lambda done: None,
) -> pd.DataFrame:
    """The tokens of every prompt.

    Args:
        model: Its tokenizer is used.
        prompts: Any prompts.
        batch_tokens: Of no consequence: no model is run.
        progress: Told after each prompt.

    Returns:
        One row a prompt and position, in that order: prompt_id, position (from 0), token (the characters it stands for; the
        tokenizer's word for one that stands for none), start and end (its [start, end) characters of the prompt's text), class
        (of a label word's first token, its class index; -1 elsewhere), last (whether it is the position that predicts).
    """
    tables = []
    for prompt in prompts:
        classes = np.full(len(prompt.ids), -1)  # (T,)
        classes[prompt.anchors] = prompt.demo_labels
        tables.append(
            pd.DataFrame(
                {
                    "prompt_id": prompt.prompt_id,
                    "position": np.arange(len(prompt.ids)),
                    "token": [_written(model, prompt, position) for position in range(len(prompt.ids))],
                    "start": prompt.spans[:, 0],
                    "end": prompt.spans[:, 1],
                    "class": classes,
                    "last": np.arange(len(prompt.ids)) == prompt.last,
                }
            )
        )
        progress(1)
    return pd.concat(tables, ignore_index=True)


def _written(model: LanguageModel, prompt: TokenizedPrompt, position: int) -> str:
    start, end = prompt.spans[position]
    return prompt.text[start:end] if end > start else model.tokenizer.decode([int(prompt.ids[position])])
