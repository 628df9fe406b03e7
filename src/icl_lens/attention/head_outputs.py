"""Outputs of the attention heads before the output projection: record them in all layers, or replace those of one layer.

    z[h, t] = sum_j A[h, t, j] v[g(h), j]

g(h) is the key/value head of query head h. Each change of the attention weights A of one layer, such as a cut edge, is a change
of z. A later layer depends on z only through the output of this layer. A run that starts at the layer with another z
(:mod:`icl_lens.network.layer_states`) therefore replaces a run with other weights, for each model family.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from icl_lens.attention.kernels import CustomAttention, Edit, ForwardStopped, edited
from icl_lens.attention.last_layer import LastLayerState
from icl_lens.attention.masks import additive_mask
from icl_lens.network.precision import at_least_float32


class Heads(NamedTuple):
    """What the heads of a layer compute, in the number format and on the device of the layer.

    Attributes:
        query: Queries, shape (B, H, T, d).
        key: Keys after the rotary embedding, shape (B, H_kv, T, d).
        value: Values, shape (B, H_kv, T, e).
        mask: Numbers to add to the scores, shape (B or 1, 1, T, T).
        scale: Factor of the scores.
        softcap: If set, scores s become softcap * tanh(s / softcap) before the mask is added.
        outputs: z, shape (B, H, T, e).
    """

    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor
    scale: float
    softcap: float | None
    outputs: Tensor

    def scores(self) -> Tensor:
        """Compute the masked scores, at least float32, shape (B, H, T, T)."""
        return _scores(self.query, _repeat_heads(self.key, self.query), self.mask, self.scale, self.softcap)

    def values(self) -> Tensor:
        """Return the values of each query head, at least float32, shape (B, H, T, e)."""
        return at_least_float32(_repeat_heads(self.value, self.query))


class HeadOutputs(CustomAttention, LastLayerState):
    """Edit that records or replaces the outputs of heads; :func:`head_outputs` opens it.

    The attention of all layers is fused, and its gradients are those of the plain attention. While outputs are recorded, it
    computes the weights explicitly.
    """

    full_length = True

    def __init__(self) -> None:
        self._recorded: dict[int, Heads] | None = None
        self._replaced: tuple[int, Tensor] | None = None

    @contextmanager
    def recorded(self) -> Iterator[dict[int, Heads]]:
        """Record the heads of each layer in the forward pass inside this context: layer -> :class:`Heads`."""
        self._recorded = {}
        try:
            yield self._recorded
        finally:
            self._recorded = None

    @contextmanager
    def replaced(self, layer: int, outputs: Tensor) -> Iterator[None]:
        """Replace the outputs of the heads of one layer in the forward passes inside this context.

        The layer computes no attention. Gradients flow to the outputs.

        Args:
            layer: Index of the layer.
            outputs: z at the queries of the forward pass, shape (B, H, Q, e). A layer that computes fewer queries gets those of
                the last queries.
        """
        self._replaced = layer, outputs
        try:
            yield
        finally:
            self._replaced = None

    def __call__(self, layer: int, weights: Tensor) -> Tensor:
        raise RuntimeError("outputs of heads cannot be edited while another edit of the attention is open")

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float, softcap: float | None
    ) -> Tensor:
        """Return the outputs of the heads, shape (B, H, Q, e)."""
        if self.stops:
            raise ForwardStopped(query, key, value)
        if self.last:
            key, value, _ = self.last
        if self._replaced and self._replaced[0] == layer:
            return self._replaced[1][:, :, -query.shape[-2] :].to(value.dtype)
        mask = additive_mask(mask, query.shape[-2], key.shape[-2], query.dtype, query.device)  # (B or 1, 1, Q, K)
        keys, values = _repeat_heads(key, query), _repeat_heads(value, query)  # (B, H, K, d), (B, H, K, e)
        if self._recorded is None and softcap is None and key.shape[-1] == value.shape[-1]:
            return nn.functional.scaled_dot_product_attention(query, keys, values, attn_mask=mask, scale=scale)
        weights = _scores(query, keys, mask, scale, softcap).softmax(-1)  # (B, H, Q, K)
        outputs = weights.to(values.dtype) @ values  # (B, H, Q, e)
        if self._recorded is not None:
            self._recorded[layer] = Heads(query, key, value, mask, scale, softcap, outputs)
        return outputs

    def needs_matrices(self, edits: Sequence[Edit]) -> bool:
        return len(edits) > 1


@contextmanager
def head_outputs(network: PreTrainedModel) -> Iterator[HeadOutputs]:
    """Give access to the outputs of the heads of each layer. One open context can be used for many forward passes.

    No other edit of the attention may be open inside or around this context.

    Args:
        network: Any supported model (:func:`icl_lens.attention.supported.require_supported`).
    """
    edit = HeadOutputs()
    with edited(network, edit):
        yield edit


def _repeat_heads(tensor: Tensor, query: Tensor) -> Tensor:
    """Expand keys or values to all query heads, shape (B, H, K, d)."""
    groups = query.shape[1] // tensor.shape[1]
    return tensor if groups == 1 else tensor.repeat_interleave(groups, dim=1)


def _scores(query: Tensor, keys: Tensor, mask: Tensor, scale: float, softcap: float | None) -> Tensor:
    """Compute masked scores as :func:`icl_lens.attention.kernels.attend` does, shape (B, H, Q, K)."""
    scores = at_least_float32(query) @ at_least_float32(keys).transpose(-1, -2) * scale  # (B, H, Q, K)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    return scores + mask
