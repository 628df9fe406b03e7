"""In-context learning itself: what the model answers to each prompt.

The prediction is the label word with the highest logit at the last position (*Label Words are Anchors*, section 2; the
released code's ``LMForwardAPI``). The table also keeps the log-probabilities over the label words, and the ten most likely
tokens of the whole vocabulary, which word loyalty compares. A beginning that several prompts share is read once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import torch

from icl_lens.models import LanguageModel, last_logits, shared_batches
from icl_lens.positions import TokenizedPrompt

TOP_TOKENS = 10


@torch.inference_mode()
def compute(
    model: LanguageModel,
    prompts: Sequence[TokenizedPrompt],
    batch_tokens: int,
    progress: Callable[[int], object] = lambda done: None,
) -> pd.DataFrame:
    """Predictions for every prompt.

    Args:
        model: Any supported model.
        prompts: They fit the model's context.
        batch_tokens: See :func:`icl_lens.models.batches`.
        progress: Told after each batch how many prompts it held.

    Returns:
        One row a prompt, in their order: prompt_id, gold and prediction (class indices), class_log_probs (C floats:
        log-softmax over the label words), top_tokens (10 token ids, likeliest first).
    """
    answers: dict[str, list] = {name: [None] * len(prompts) for name in ("prediction", "class_log_probs", "top_tokens")}
    identity = {"prompt_id": [p.prompt_id for p in prompts], "gold": [p.gold for p in prompts]}
    for batch in shared_batches(model, prompts, batch_tokens):
        logits = last_logits(model, batch)  # (B, V)
        log_probs = logits.gather(1, batch.label_ids).cpu().double().log_softmax(-1)  # (B, C)
        top = logits.topk(min(TOP_TOKENS, logits.shape[-1]), dim=-1).indices  # (B, 10)
        for place, row_log_probs, row_top in zip(batch.index, log_probs.numpy(), top.cpu().numpy(), strict=True):
            answers["prediction"][place] = int(np.argmax(row_log_probs))
            answers["class_log_probs"][place] = row_log_probs.tolist()
            answers["top_tokens"][place] = row_top.tolist()
        progress(len(batch.index))
    return pd.DataFrame({**identity, **answers})
