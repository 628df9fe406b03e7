"""Attention of the last position to each demonstration, for each prompt and head.

*In-context learning as kernel regression* (Han et al., TMLR 2025), section 5.2: for a head, a_i is the *largest* weight in the
last position's row over all tokens of demonstration i. There are two controls: the mean over the same tokens, and the sum over
only the tokens of the label word.

**Spans** are defined in :mod:`icl_lens.prompts.demonstration_places`. With ``drop_first``, no span includes position 0 (our
choice).

Each prompt takes one forward pass with the fused kernel. Only the last row of each layer's attention is materialized.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from icl_lens.attention.record import record_rows
from icl_lens.attention.supported import require_supported
from icl_lens.models.batching import shared_batches
from icl_lens.models.language_model import LanguageModel
from icl_lens.models.logits import class_logits
from icl_lens.network.precision import at_least_float32
from icl_lens.prompts.demonstration_places import Places, places, pooled, require_demonstrations
from icl_lens.prompts.positions import TokenizedPrompt
from icl_lens.studies.kernel_regression.settings import PARTS, Settings


@torch.inference_mode()
def attention_rows(
    model: LanguageModel,
    prompts: Sequence[TokenizedPrompt],
    batch_tokens: int,
    progress: Callable[[int], object],
    settings: Settings,
    on_prompt: Callable[[int, np.ndarray, Places], object] | None = None,
) -> pd.DataFrame:
    """Compute the attention to each demonstration and the model's prediction.

    Args:
        model: Any supported model.
        prompts: Prompts that fit the model's context.
        batch_tokens: See :func:`icl_lens.models.batching.batches`.
        progress: Called after each batch with the number of prompts in it.
        settings: See :class:`~icl_lens.studies.kernel_regression.settings.Settings`.
        on_prompt: Called for each prompt with its index among the prompts, its rows of shape (L, H, T), and the token positions
            of its demonstrations.

    Raises:
        InputError: A prompt has no demonstration, or the model's family is not supported.

    Returns:
        One row per prompt, layer and head, in that order: prompt_id, layer and head (from 0), gold and prediction (class
        indices; the prediction is the class with the highest score), demo_labels (D class indices), ``max``, ``mean`` and
        ``label`` (D floats each, see :data:`icl_lens.studies.kernel_regression.settings.POOLINGS`), and one column ``on_...``
        for each of :data:`icl_lens.studies.kernel_regression.settings.PARTS`, with the part's share of the row. The shares of a
        row sum to 1.
    """
    require_demonstrations(prompts)
    require_supported(model.network)
    layers = model.layers
    results: list[dict[str, Any]] = [{} for _ in prompts]
    for batch in shared_batches(model, prompts, batch_tokens, score=True, complete=True):
        with record_rows(model.network, batch.last) as recorded:
            predicted = class_logits(model, batch).argmax(-1).cpu().numpy()  # (B,)
        rows = torch.stack([at_least_float32(recorded[layer]) for layer in range(layers)]).cpu().numpy()  # (L, B, H, K)
        for row, index in zip(batch.first_rows, batch.prompts, strict=True):
            prompt = prompts[index]
            weights = rows[:, row, :, : len(prompt.ids)]  # (L, H, T)
            spans = places(prompt, settings.drop_first)
            results[index] = {"prediction": int(predicted[row]), **pooled(weights, spans), **_part_shares(weights, spans)}
            if on_prompt:
                on_prompt(index, weights, spans)
        progress(len(batch.prompts))
    unneeded = next(values for values in results if values)  # the rows of a prompt that is not needed can have any values
    tables = [_prompt_rows(prompt, values or unneeded) for prompt, values in zip(prompts, results, strict=True)]
    return pd.concat(tables, ignore_index=True)


def _part_shares(weights: np.ndarray, spans: Places) -> dict[str, np.ndarray]:
    """Compute the share of each row that goes to each part, shape (L, H) each."""
    part_numbers = np.full(weights.shape[-1], PARTS.index("rest"))  # (T,)
    for start, label, stop in zip(spans.starts, spans.labels, spans.stops, strict=True):
        part_numbers[start:label] = PARTS.index("texts")
        part_numbers[label:stop] = PARTS.index("labels")
    part_numbers[spans.query : spans.end] = PARTS.index("query")
    part_numbers[spans.end :] = PARTS.index("end")
    part_numbers[0] = PARTS.index("first")
    return {f"on_{name}": weights[..., part_numbers == number].sum(-1) for number, name in enumerate(PARTS)}


def _prompt_rows(prompt: TokenizedPrompt, values: dict[str, Any]) -> pd.DataFrame:
    """Build the rows of one prompt."""
    layers, heads = values["max"].shape[:2]
    count = layers * heads
    return pd.DataFrame(
        {
            "prompt_id": prompt.prompt_id,
            "layer": np.repeat(np.arange(layers), heads),
            "head": np.tile(np.arange(heads), layers),
            "gold": prompt.gold,
            "prediction": values["prediction"],
            "demo_labels": [prompt.demo_labels] * count,
            **{name: list(values[name].reshape(count, -1)) for name in ("max", "mean", "label")},
            **{f"on_{name}": values[f"on_{name}"].reshape(count).astype(float) for name in PARTS},
        }
    )
