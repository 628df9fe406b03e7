"""Arguments of a model's forward pass.

Each study and each check of a model's capabilities builds its arguments here. A check therefore calls the model in the same
way as the studies that rely on its result: with explicit positions, and with an attention mask only for padding on the left.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache


def forward_inputs(
    ids: Tensor, positions: Tensor | None = None, cache: Cache | None = None, mask: Tensor | None = None
) -> dict[str, Any]:
    """Return the arguments of a forward pass.

    Args:
        ids: Input token ids, shape (B, Q).
        positions: Position ids, shape (B, Q); 0, 1, ... by default.
        cache: Keys and values of earlier tokens, to which the model appends those of ``ids``.
        mask: 1 for a token, 0 for padding, shape (B, K), for all K positions of the cache and of ``ids``. A mask is required
            only for padding before a token: a causal model does not attend to padding after it.
    """
    if positions is None:
        positions = torch.arange(ids.shape[1], device=ids.device).expand(len(ids), -1)  # (B, Q)
    arguments: dict[str, Any] = {"input_ids": ids, "position_ids": positions, "use_cache": cache is not None}
    if cache is not None:
        arguments["past_key_values"] = cache
    if mask is not None:
        arguments["attention_mask"] = mask
    return arguments
