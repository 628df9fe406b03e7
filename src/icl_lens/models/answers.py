"""What a model answers to prompts: the label word with the highest logit at the last position."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import torch

from icl_lens.models.batching import Batch, shared_batches
from icl_lens.models.language_model import LanguageModel
from icl_lens.models.logits import class_logits, last_logits
from icl_lens.prompts.positions import TokenizedPrompt


@torch.inference_mode()
def predict(
    model: LanguageModel,
    prompts: Sequence[TokenizedPrompt],
    batch_tokens: int,
    progress: Callable[[int], object] = lambda done: None,
    top_tokens: int = 0,
) -> pd.DataFrame:
    """Predictions for every prompt. A beginning that several prompts share is read once.

    Args:
        model: Any supported model.
        prompts: They fit the model's context.
        batch_tokens: See :func:`icl_lens.models.batching.batches`.
        progress: Told after each batch how many prompts it held.
        top_tokens: How many of the likeliest tokens of the whole vocabulary are returned.

    Returns:
        One row per prompt, in their order: prompt_id, gold and prediction (class indices), class_log_probs (C floats:
        log-softmax over the label words) and, where ``top_tokens`` is not 0, top_tokens (token ids, likeliest first).
    """
    names = ("prediction", "class_log_probs", *(("top_tokens",) if top_tokens else ()))
    found: dict[str, list] = {name: [None] * len(prompts) for name in names}
    identity = {"prompt_id": [p.prompt_id for p in prompts], "gold": [p.gold for p in prompts]}
    for batch in shared_batches(model, prompts, batch_tokens):
        logits = last_logits(model, batch)  # (B, V)
        log_probs = logits.gather(1, batch.label_ids).cpu().double().log_softmax(-1).numpy()  # (B, C)
        for place, of_row in zip(batch.index, log_probs, strict=True):
            found["prediction"][place] = int(np.argmax(of_row))
            found["class_log_probs"][place] = of_row.tolist()
        if top_tokens:
            top = logits.topk(min(top_tokens, logits.shape[-1]), dim=-1).indices.cpu().numpy()  # (B, top_tokens)
            for place, of_row in zip(batch.index, top, strict=True):
                found["top_tokens"][place] = of_row.tolist()
        progress(len(batch.index))
    return pd.DataFrame({**identity, **found})


@torch.inference_mode()
def class_log_probs(
    model: LanguageModel,
    prompts: Sequence[TokenizedPrompt],
    batch_tokens: int,
    logits: Callable[[LanguageModel, Batch], torch.Tensor] = class_logits,
) -> list[np.ndarray]:
    """Log-probabilities over the label words alone, shape (C,) each; a beginning that several prompts share is read once.

    Args:
        model: Any supported model.
        prompts: They fit the model's context.
        batch_tokens: See :func:`icl_lens.models.batching.batches`.
        logits: Computes the logits of a batch's label words, shape (B, C).
    """
    found: list[np.ndarray] = [np.empty(0)] * len(prompts)
    for batch in shared_batches(model, prompts, batch_tokens):
        log_probs = logits(model, batch).cpu().double().log_softmax(-1).numpy()  # (B, C)
        for place, row in zip(batch.index, log_probs, strict=True):
            found[place] = row
    return found
