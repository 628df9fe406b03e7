"""Attention of the last position to each demonstration, by the place of the demonstration in the prompt.

With A_{h,l} the attention matrix of head h of H in layer l, q the last position and T_i the tokens of the demonstration in
place i of D (i = 1 is the first, D the last before the query), the attention to place i in layer l is

    a_{l,i} = 1/H  sum over heads h  sum over tokens t of T_i  A_{h,l}(q, t)

The tokens of a demonstration are those from the beginning of its template to the last token of its label word
(:mod:`icl_lens.prompts.demonstration_places`). Position 0 belongs to no demonstration, unless ``first_token`` is set.
``summary.py`` computes the shares of the places, a_{l,i} / sum_j a_{l,j}, from means over prompts. A head with uniform
attention gives a long demonstration more attention than a short one, so the table also contains the numbers of tokens.

The study runs one forward pass per prompt with the fused kernel. Only the last row of the attention of each layer is computed
explicitly.
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
from icl_lens.models.logits import class_logits
from icl_lens.network.precision import at_least_float32
from icl_lens.prompts.demonstration_places import places
from icl_lens.prompts.positions import TokenizedPrompt

from .study import Settings


@torch.inference_mode()
def compute(
    model: LanguageModel,
    prompts: Sequence[TokenizedPrompt],
    batch_tokens: int,
    progress: Callable[[int], object] = lambda done: None,
    settings: Settings | None = None,
) -> pd.DataFrame:
    """Compute the attention to each demonstration, per prompt and layer.

    Args:
        model: Any supported model.
        prompts: Prompts that fit the context of the model.
        batch_tokens: See :func:`icl_lens.models.batching.batches`.
        progress: Called after each batch with the number of its prompts.
        settings: See :class:`Settings`.

    Raises:
        InputError: A prompt has no demonstration, or the model's family is not supported.

    Returns:
        One row per prompt, layer and place, in that order: prompt_id, layer (from 0), place (from 1, the first in the prompt),
        attention (from 0 to 1), tokens (number of tokens of the demonstration).
    """
    settings = settings or Settings()
    bare = next((p for p in prompts if not len(p.anchors)), None)
    if bare:
        raise InputError(
            f"prompt {bare.prompt_id} has no demonstrations; use a prompt set with demonstrations, such as fresh-4shot"
        )
    require_supported(model.network)
    layers = model.layers
    found: list[pd.DataFrame] = [pd.DataFrame()] * len(prompts)
    for batch in shared_batches(model, prompts, batch_tokens):
        with record_rows(model.network, batch.last) as recorded:
            class_logits(model, batch)  # the answers are not needed, so only their rows of the vocabulary are computed
        rows = torch.stack([at_least_float32(recorded[layer]).mean(1) for layer in range(layers)])  # (L, B, K)
        rows = rows.cpu().numpy().astype(float)
        for row, number in enumerate(batch.index):
            where = places(prompts[number], drop_first=not settings.first_token)
            spans = list(zip(where.starts, where.stops, strict=True))
            attention = np.stack([rows[:, row, start:stop].sum(-1) for start, stop in spans], -1)  # (L, D)
            found[number] = pd.DataFrame(
                {
                    "prompt_id": prompts[number].prompt_id,
                    "layer": np.repeat(np.arange(layers), len(spans)),
                    "place": np.tile(np.arange(1, len(spans) + 1), layers),
                    "attention": attention.ravel(),
                    "tokens": np.tile(where.stops - where.starts, layers),
                }
            )
        progress(len(batch.index))
    return pd.concat(found, ignore_index=True)
