"""Attention masks in each form in which transformers passes them to an attention function."""

from __future__ import annotations

import torch
from torch import Tensor


def causal_mask(queries: int, keys: int, device: torch.device) -> Tensor:
    """Return the causal mask of the last Q of K positions, shape (1, 1, Q, K), True where the query can attend to the key."""
    return torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)[None, None]


def additive_mask(mask: Tensor | None, queries: int, keys: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return the mask of an attention function as numbers to add to its scores.

    Args:
        mask: Mask that a layer passes to its attention function, shape (B or 1, 1, Q, K or more): numbers to add to the scores,
            or True where the query can attend to the key. None stands for a causal mask, as in transformers' fused kernel.
        queries: Q. Without a mask the queries are the last Q of the K positions.
        keys: K.
        dtype: Floating-point type of the result, if the mask does not have one.
        device: Device of the scores.

    Returns:
        The mask, shape (B or 1, 1, Q, K). It is never None, so the scores always become causal.
    """
    if mask is None:
        mask = causal_mask(queries, keys, device)  # (1, 1, Q, K)
    mask = mask[..., :keys]  # (B or 1, 1, Q, K)
    if mask.dtype == torch.bool:
        zeros = torch.zeros(mask.shape, dtype=dtype, device=mask.device)  # (B or 1, 1, Q, K)
        mask = zeros.masked_fill_(~mask, torch.finfo(dtype).min)
    return mask
