"""Which earlier positions each position can attend to in each layer, read from the masks that a model passes to its attention.

A causal layer attends to all earlier positions, but a layer with a sliding window or with chunks attends only to some of them.
An edge that the mask hides cannot carry information. The masks do not depend on the tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from icl_lens.attention.kernels import ForwardStopped, Reader, edited
from icl_lens.errors import InputError
from icl_lens.network import vocabulary
from icl_lens.network.forward_inputs import forward_inputs
from icl_lens.network.layers import attention_modules, decoder_layers, replaced_forwards
from icl_lens.network.placement import device_of


@torch.no_grad()
def visible_positions(network: PreTrainedModel, length: int) -> list[Tensor | None] | None:
    """Return the positions that each position of a prompt without padding can attend to, in each layer.

    The masks come from one forward pass of ``length`` tokens that computes only the queries, keys and values of each layer, if
    the model family permits, and that stops in the last layer.

    Args:
        network: Any model.
        length: Number of tokens, T.

    Returns:
        One entry per layer: None if each position can attend to all earlier positions, otherwise a bool tensor on the CPU,
        shape (T, T), True where the row can attend to the column. Layers with the same mask share one tensor. The result is
        None if the attention of the model family does not pass its mask, so that the positions are unknown.
    """
    try:
        layers = len(attention_modules(network))
        try:
            with _bodies_skipped(network):
                masks = _read_masks(network, length, layers, stops_in_each=True)
        except Exception:  # layers with other outputs can raise any exception
            masks = _read_masks(network, length, layers, stops_in_each=False)
    except InputError:  # attention_modules rejects the family
        return None
    if sorted(masks) != list(range(layers)):
        return None
    causal = torch.ones(length, length, dtype=torch.bool).tril()  # (T, T)
    converted: dict[int, Tensor | None] = {}
    for mask in masks.values():
        if id(mask) not in converted:
            converted[id(mask)] = _visible_positions(mask, causal)
    return [converted[id(masks[layer])] for layer in range(layers)]


def _read_masks(network: PreTrainedModel, length: int, layers: int, stops_in_each: bool) -> dict[int, Tensor | None]:
    """Return the mask that each layer passes to its attention, shape (1, 1, T, T or more); None for a causal layer."""
    reader = _MaskReader(range(layers) if stops_in_each else [layers - 1])
    ids = torch.zeros(1, length, dtype=torch.int64, device=device_of(network))  # (1, T)
    with edited(network, reader), vocabulary.restrict_tokens(network, ids[0, :1]), suppress(ForwardStopped):
        network(**forward_inputs(ids))
    return reader.masks


@contextmanager
def _bodies_skipped(network: PreTrainedModel) -> Iterator[None]:
    """Make each layer but the last return its input as soon as a reader stops its attention."""
    skipped = decoder_layers(network)[:-1]
    wrapped = bool(skipped) and _returns_tuple(network, skipped[0])

    def stoppable(forward: Callable) -> Callable:
        def run(*args: Any, **kwargs: Any) -> Any:
            try:
                return forward(*args, **kwargs)
            except ForwardStopped:
                states = args[0] if args else kwargs["hidden_states"]  # (1, T, D)
                return (states,) if wrapped else states

        return run

    with replaced_forwards(skipped, stoppable):
        yield


class _LayerReached(Exception):  # noqa: N818 - not an error: it stops a forward pass after a layer
    pass


def _returns_tuple(network: PreTrainedModel, layer: nn.Module) -> bool:
    """Return whether a layer returns a tuple with the hidden states as its first entry."""
    outputs = []

    def stop(module: nn.Module, args: tuple, output: Any) -> None:
        outputs.append(output)
        raise _LayerReached

    handle = layer.register_forward_hook(stop)
    try:
        with suppress(_LayerReached):
            network(**forward_inputs(torch.zeros(1, 2, dtype=torch.int64, device=device_of(network))))
    finally:
        handle.remove()
    return isinstance(outputs[0], tuple)


def _visible_positions(mask: Tensor | None, causal: Tensor) -> Tensor | None:
    """Convert a layer's mask, shape (1, 1, T, T or more), to an entry of :func:`visible_positions`."""
    if mask is None:  # without a mask, the fused kernel is causal
        return None
    mask = mask[0, 0, :, : len(causal)]  # (T, T)
    seen = (mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2).cpu() & causal
    return None if torch.equal(seen, causal) else seen


class _MaskReader(Reader):
    """Reader that keeps the mask of each layer, and stops at the attention of some layers."""

    def __init__(self, stops: Collection[int]) -> None:
        self.stops = stops
        self.masks: dict[int, Tensor | None] = {}

    def read(
        self,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        attention_mask: Tensor | None = None,  # (1, 1, T, T or more), True where seen or added to the scores
        *,
        value: Tensor,
        **_: object,
    ) -> None:
        self.masks[module.layer_idx] = attention_mask
        if module.layer_idx in self.stops:
            raise ForwardStopped(query, key, value)
