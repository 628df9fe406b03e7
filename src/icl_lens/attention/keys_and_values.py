"""Read the queries, keys and values of attention layers, before or after a rotary embedding."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from icl_lens.attention.kernels import ForwardStopped, Reader, edited
from icl_lens.network.layers import attention_modules


def queries_and_keys(network: PreTrainedModel, inputs: Mapping[str, object], layer: int) -> tuple[Tensor, Tensor]:
    """Return the queries and keys of one layer before its rotary embedding, from a forward pass that stops at this layer.

    The attention of the layer would multiply these queries and keys if each token were at position 0. They are projected (in
    GPT-2 by ``c_attn``), normalised if the model family does so (Qwen 3), and not rotated. To compute them, the function
    replaces the rotation of this layer by a rotation by 0. The earlier layers run unchanged. If a model family scales its
    queries before attention (OPT), the queries include the factor.

    Args:
        network: Any supported model.
        inputs: The arguments of a forward pass over whole prompts, without a prefix.
        layer: Index of the layer, counted from 0.

    Returns:
        Queries, shape (B, H, T, d), and keys, shape (B, H_kv, T, d).
    """
    handle = attention_modules(network)[layer].register_forward_pre_hook(_without_rotation, with_kwargs=True)
    try:
        with edited(network, _StopAtLayer(layer)):
            network(**inputs)
    except ForwardStopped as stopped:
        return stopped.query, stopped.key
    finally:
        handle.remove()
    raise AssertionError(f"layer {layer} was not reached")  # require_supported rejects such a model


def _without_rotation(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    """Replace the rotary embedding in the arguments of an attention module by that of position 0, the identity."""
    kwargs = dict(kwargs)
    if kwargs.get("position_embeddings") is not None:
        cosine, sine = kwargs["position_embeddings"]  # (B or 1, T, d) each
        kwargs["position_embeddings"] = torch.ones_like(cosine), torch.zeros_like(sine)
    if kwargs.get("position_ids") is not None:  # GPT-J and CodeGen look up their rotations by position
        kwargs["position_ids"] = torch.zeros_like(kwargs["position_ids"])  # (B or 1, T)
    return args, kwargs


class _StopAtLayer(Reader):
    """Reader that stops the forward pass at the attention of a layer."""

    def __init__(self, layer: int) -> None:
        self.layer = layer

    def read(self, module: nn.Module, query: Tensor, key: Tensor, *_: object, value: Tensor, **__: object) -> None:
        if module.layer_idx == self.layer:
            raise ForwardStopped(query, key, value)


class KeysAndValues(NamedTuple):
    """The keys and values of a layer's attention.

    Attributes:
        key: Keys after the rotary embedding, shape (B, H_kv, K, d).
        value: Values, shape (B, H_kv, K, d).
        unrotated_key: Keys before the rotary embedding, as :func:`queries_and_keys` returns them; None if not requested.
    """

    key: Tensor
    value: Tensor
    unrotated_key: Tensor | None = None


@contextmanager
def record_keys_and_values(network: PreTrainedModel, unrotated: bool = False) -> Iterator[dict[int, KeysAndValues]]:
    """Record the keys and values of each layer in the forward pass inside this context: layer -> :class:`KeysAndValues`.

    Args:
        network: Any supported model.
        unrotated: Whether to also record the keys before the rotary embedding. The projections of each layer then run twice,
            and the prompts must be whole, without a prefix.
    """
    reader = _KeysAndValuesReader()
    handles = []

    def read_before(module: nn.Module, args: tuple, kwargs: dict) -> None:
        reader.stops = True
        args, kwargs = _without_rotation(module, args, kwargs)
        try:
            module.forward(*args, **kwargs)
        except ForwardStopped as stopped:
            reader.unrotated[module.layer_idx] = stopped.key.detach()
        finally:
            reader.stops = False  # the layer then runs unchanged

    try:
        with edited(network, reader):
            if unrotated:
                handles += [m.register_forward_pre_hook(read_before, with_kwargs=True) for m in attention_modules(network)]
            yield reader.memory
    finally:
        for handle in handles:
            handle.remove()


class _KeysAndValuesReader(Reader):
    """Reader that records the keys and values of each layer."""

    def __init__(self) -> None:
        self.stops = False  # whether the layer stops as soon as its keys are known
        self.unrotated: dict[int, Tensor] = {}
        self.memory: dict[int, KeysAndValues] = {}

    def read(self, module: nn.Module, query: Tensor, key: Tensor, *_: object, value: Tensor, **__: object) -> None:
        if self.stops:
            raise ForwardStopped(query, key, value)
        layer = module.layer_idx
        self.memory[layer] = KeysAndValues(key.detach(), value.detach(), self.unrotated.get(layer))
