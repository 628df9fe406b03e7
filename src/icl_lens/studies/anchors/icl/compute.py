"""In-context learning itself: what the model answers to each prompt.

The prediction is the label word with the highest logit at the last position (*Label Words are Anchors*, section 2; the released
code's ``LMForwardAPI``). The table also keeps the log-probabilities over the label words, and the ten most likely tokens of the
whole vocabulary, which word loyalty compares. A beginning that several prompts share is read once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pandas as pd

from icl_lens.models.answers import predict
from icl_lens.models.language_model import LanguageModel
from icl_lens.prompts.positions import TokenizedPrompt

TOP_TOKENS = 10


def compute(
    model: LanguageModel,
    prompts: Sequence[TokenizedPrompt],
    batch_tokens: int,
    progress: Callable[[int], object] = lambda done: None,
) -> pd.DataFrame:
    """Predictions for every prompt.

    Args:
        model, prompts, batch_tokens, progress: As every study takes them, see :mod:`icl_lens.studies.study`.

    Returns:
        One row per prompt, in their order: prompt_id, gold and prediction (class indices), class_log_probs (C floats:
        log-softmax over the label words), top_tokens (10 token ids, likeliest first).
    """
    return predict(model, prompts, batch_tokens, progress, TOP_TOKENS)
