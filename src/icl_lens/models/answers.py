"""Predictions of a model: the class with the highest score (:mod:`icl_lens.models.logits`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import torch

from icl_lens.models.batching import Batch, shared_batches
from icl_lens.models.language_model import LanguageModel
from icl_lens.models.logits import class_logits, class_scores, predictive_logits
from icl_lens.prompts.positions import TokenizedPrompt


@torch.inference_mode()
def predict(
    model: LanguageModel,
    prompts: Sequence[TokenizedPrompt],
    batch_tokens: int,
    progress: Callable[[int], object] = lambda done: None,
    top_tokens: int = 0,
) -> pd.DataFrame:
    """Predict the class of each prompt. The model reads a shared prefix of several prompts once.

    Args:
        model: Any supported model.
        prompts: Prompts that fit the context length of the model.
        batch_tokens: See :func:`icl_lens.models.batching.batches`.
        progress: Called after each batch with the number of prompts in the batch.
        top_tokens: Number of most likely tokens of the whole vocabulary to return.

    Returns:
        One row per prompt, in the order of the prompts, with the columns prompt_id, gold and prediction (class indices), and
        class_log_probs (C floats, log-softmax over the label words). If ``top_tokens`` is not 0, the table also has the column
        top_tokens (token ids, most likely first).
    """
    columns = ("prediction", "class_log_probs", *(("top_tokens",) if top_tokens else ()))
    # The placeholders remain for prompts that are not needed.
    found: dict[str, list] = {name: [-1 if name == "prediction" else []] * len(prompts) for name in columns}
    identity = {"prompt_id": [p.prompt_id for p in prompts], "gold": [p.gold for p in prompts]}
    for batch in shared_batches(model, prompts, batch_tokens, score=True):
        logits = predictive_logits(model, batch)  # (E, V)
        log_probs = class_scores(batch, logits).cpu().double().log_softmax(-1).numpy()  # (B, C)
        for i, row in zip(batch.index, log_probs, strict=True):
            found["prediction"][i] = int(np.argmax(row))
            found["class_log_probs"][i] = row.tolist()
        if top_tokens:
            last = logits[: len(batch.index)]  # (B, V)
            top = last.topk(min(top_tokens, logits.shape[-1]), dim=-1).indices.cpu().numpy()  # (B, top_tokens)
            for i, row in zip(batch.index, top, strict=True):
                found["top_tokens"][i] = row.tolist()
        progress(len(batch.prompts))
    return pd.DataFrame({**identity, **found})


@torch.inference_mode()
def class_log_probs(
    model: LanguageModel,
    prompts: Sequence[TokenizedPrompt],
    batch_tokens: int,
    logits: Callable[[LanguageModel, Batch], torch.Tensor] = class_logits,
) -> list[np.ndarray]:
    """Compute the log-probabilities over the label words only. The model reads a shared prefix of several prompts once.

    Args:
        model: Any supported model.
        prompts: Prompts that fit the context length of the model.
        batch_tokens: See :func:`icl_lens.models.batching.batches`.
        logits: Function that computes the scores of the classes of a batch, shape (B, C).

    Returns:
        The log-probabilities of each prompt, shape (C,), in the order of the prompts.
    """
    found: list[np.ndarray] = [np.empty(0)] * len(prompts)
    for batch in shared_batches(model, prompts, batch_tokens, score=True):
        log_probs = logits(model, batch).cpu().double().log_softmax(-1).numpy()  # (B, C)
        for i, row in zip(batch.index, log_probs, strict=True):
            found[i] = row
    return found
