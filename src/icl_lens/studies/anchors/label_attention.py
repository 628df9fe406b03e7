"""Attention of the last position to the label words of each class.

The equation is in :mod:`icl_lens.studies.anchors.deep_attention.compute`. Several studies use this module.

Only the last row of each layer's attention is computed explicitly. All other rows use the fused kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import torch

from icl_lens.attention.record import record_rows
from icl_lens.attention.supported import require_supported
from icl_lens.errors import InputError
from icl_lens.models.batching import shared_batches
from icl_lens.models.language_model import LanguageModel
from icl_lens.models.logits import first_token_logits
from icl_lens.network.precision import at_least_float32
from icl_lens.prompts.positions import TokenizedPrompt


@torch.inference_mode()
def class_attention(
    model: LanguageModel,
    prompts: Sequence[TokenizedPrompt],
    batch_tokens: int,
    progress: Callable[[int], object],
) -> pd.DataFrame:
    """Compute the attention score of each prompt, layer and class.

    Args:
        model: Any supported model.
        prompts: Prompts that fit the model's context.
        batch_tokens: See :func:`icl_lens.models.batching.batches`.
        progress: Called after each batch with its number of prompts.

    Raises:
        InputError: A prompt has no demonstration, or the model's family is not supported.

    Returns:
        One row per prompt, layer and class, in this order: prompt_id, layer (from 0), class (index), attention (a sum over
        heads and demonstrations, and therefore at most the number of heads; 0 for a class without a demonstration).
    """
    zero_shot = next((p for p in prompts if not len(p.anchors)), None)
    if zero_shot:
        raise InputError(
            f"prompt {zero_shot.prompt_id} has no demonstration, but deep attention requires label words; use prompts with "
            "demonstrations"
        )
    require_supported(model.network)
    layers = model.layers
    scores: list[np.ndarray] = [np.zeros((layers, len(p.label_ids))) for p in prompts]  # (L, C) each
    for batch in shared_batches(model, prompts, batch_tokens):
        with record_rows(model.network, batch.last) as rows:
            first_token_logits(model, batch)  # only the attention is needed, so a small part of the vocabulary is enough
        weights = torch.stack([at_least_float32(rows[layer]).sum(1) for layer in range(layers)]).cpu().numpy()  # (L, B, K)
        for row, i in enumerate(batch.index):
            prompt = prompts[i]
            np.add.at(scores[i].T, prompt.anchor_classes, weights[:, row, prompt.anchors].T)
        progress(len(batch.index))
    return pd.DataFrame(
        {
            "prompt_id": np.repeat([p.prompt_id for p in prompts], [s.size for s in scores]),
            "layer": np.concatenate([np.repeat(np.arange(layers), s.shape[1]) for s in scores]),
            "class": np.concatenate([np.tile(np.arange(s.shape[1]), layers) for s in scores]),
            "attention": np.concatenate([s.ravel() for s in scores]),
        }
    )
