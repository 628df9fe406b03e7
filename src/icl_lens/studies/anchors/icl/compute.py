"""In-context learning: the model's prediction for each prompt.

The prediction is the label word with the highest logit at the last position (*Label Words are Anchors*, section 2; the released
code's ``LMForwardAPI``). The table also contains the log-probabilities over the label words, and the ten most likely tokens of
the whole vocabulary, which word loyalty compares. A prefix that several prompts share is computed once.
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
    """Compute the prediction for each prompt.

    Args:
        model, prompts, batch_tokens, progress: Arguments common to all studies, see :mod:`icl_lens.studies.study`.

    Returns:
        One row per prompt, in the order of the prompts: prompt_id, gold and prediction (class indices), class_log_probs (C
        floats: log-softmax over the label words), top_tokens (10 token ids, in descending order of probability).
    """
    return predict(model, prompts, batch_tokens, progress, TOP_TOKENS)
