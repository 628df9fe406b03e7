"""Record attention weights: whole matrices, or one row per prompt."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from icl_lens.attention.kernels import Reader, edited
from icl_lens.network.precision import at_least_float32


@contextmanager
def record(network: PreTrainedModel) -> Iterator[dict[int, Tensor]]:
    """Record the attention weights of the forward pass inside this context: layer -> (B, H, Q, K).

    The weights include the edits of outer contexts.
    """
    weights_of: dict[int, Tensor] = {}

    def keep(layer: int, weights: Tensor) -> Tensor:
        weights_of[layer] = weights.detach()
        return weights

    with edited(network, keep):
        yield weights_of


@contextmanager
def record_rows(network: PreTrainedModel, rows: Tensor) -> Iterator[dict[int, Tensor]]:
    """Record one row of the attention weights per prompt: layer -> (B, H, K). The weights include the edits of outer contexts.
    They are on the device of ``rows``.

    The row equals ``record(network)[layer][b, :, rows[b]]``, but no attention matrix is computed. The fused kernel computes the
    output, and only the requested queries are multiplied by the keys separately. If the full weights are computed anyway, the
    row is taken from them. This is the case inside or around ``scale`` and ``record``, and for families without a fused kernel
    here (GPT-J does not use the attention interface, and Gemma 2 caps its scores).

    Args:
        network: Any supported model.
        rows: Position of the row of each prompt, counted from the beginning of the whole prompt, shape (B,).
    """
    reader = Rows(rows)
    with edited(network, reader):
        yield reader.weights_of


class Rows(Reader):
    """Reader that records one row per prompt of the attention weights of each layer."""

    from_weights = True

    def __init__(self, rows: Tensor) -> None:
        self.rows = rows  # (B,)
        self.weights_of: dict[int, Tensor] = {}

    def __call__(self, layer: int, weights: Tensor) -> Tensor:
        queries, keys = weights.shape[-2:]
        self.keep(layer, weights[*self._index(queries, keys, weights.device)])
        return weights

    def read(
        self, module: nn.Module, query: Tensor, key: Tensor, attention_mask: Tensor | None = None, **arguments: object
    ) -> None:
        """Compute the rows of a module from the arguments of its attention function, and keep them."""
        self.keep(module.layer_idx, self.compute_rows(query, key, attention_mask, **arguments).to(key.dtype))

    def keep(self, layer: int, row_weights: Tensor) -> None:
        """Keep the rows of a layer, shape (B, H, K)."""
        self.weights_of[layer] = row_weights.detach().to(self.rows.device)

    def compute_rows(
        self,
        query: Tensor,  # (B, H, Q, d)
        key: Tensor,  # (B, H_kv, K, d)
        attention_mask: Tensor | None,  # (B or 1, 1, Q, K or more)
        scaling: float | None = None,
        **_: object,
    ) -> Tensor:
        """Compute the rows as :func:`icl_lens.attention.kernels.attend` does, shape (B, H, K), in at least float32."""
        (batch, heads, queries, width), keys = query.shape, key.shape[-2]
        index = self._index(queries, keys, query.device)
        # Query heads that share a key are grouped, so that keys need not be repeated.
        row_queries = query[*index].view(batch, key.shape[1], -1, width)  # (B, H_kv, H / H_kv, d)
        scale = width**-0.5 if scaling is None else scaling
        scores = at_least_float32(row_queries) @ at_least_float32(key).transpose(-1, -2) * scale  # (B, H_kv, H / H_kv, K)
        scores = scores.view(batch, heads, keys)  # (B, H, K)
        if attention_mask is None:  # without a mask the fused kernel is causal
            mask = torch.arange(keys, device=key.device) <= self.rows.to(key.device)[:, None, None]  # (B, 1, K)
        else:
            mask = attention_mask[..., :keys].expand(batch, -1, -1, -1)[*index]  # (B, 1, K)
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min) if mask.dtype == torch.bool else scores + mask
        return scores.softmax(-1)  # (B, H, K)

    def _index(self, queries: int, keys: int, device: torch.device) -> tuple[Tensor, slice, Tensor]:
        """Return the index of the rows in a tensor of shape (B, ..., Q, ...), on the device of this tensor.

        The queries are either the last positions or, if there is one query per prompt, only these rows.
        """
        rows = torch.zeros_like(self.rows) if queries == 1 else self.rows - (keys - queries)  # (B,)
        return torch.arange(len(rows), device=device), slice(None), rows.to(device)
