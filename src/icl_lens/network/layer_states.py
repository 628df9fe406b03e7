"""Inputs of layers: record them in one forward pass, and start another forward pass at a later layer.

A run that changes only layers i, i + 1, ... has the same states before layer i as an unchanged run. It need not recompute them:

    with record(network, [i]) as states:        # layer -> State, of shape (B, T, D)
        network(**batch.inputs())
    with resume(network, states[i]):            # the layers before i are skipped
        logits = network(**batch.inputs()).logits

Embeddings, masks and rotary embeddings are still computed. Only the computation inside the skipped layers is saved.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from icl_lens.network import model_cache, vocabulary
from icl_lens.network.forward_inputs import forward_inputs
from icl_lens.network.layers import attention_modules, decoder_layers, replaced_forwards
from icl_lens.network.placement import device_of
from icl_lens.network.precision import exact_products


@dataclass(frozen=True)
class State:
    """The input of a layer.

    Attributes:
        layer: Index of the layer, counted from 0.
        values: The hidden states, shape (B, T, D).
        wrapped: Whether the layers of the model return a tuple with the state as its first entry.
    """

    layer: int
    values: Tensor
    wrapped: bool


@contextmanager
def record(network: PreTrainedModel, layers: Collection[int]) -> Iterator[dict[int, State]]:
    """Record the inputs of some layers (index at least 1) in the forward pass inside this context: layer -> :class:`State`."""
    states: dict[int, State] = {}

    def keep(layer: int) -> Callable:
        def hook(module: nn.Module, args: tuple, output: Tensor | tuple) -> None:
            wrapped = isinstance(output, tuple)
            states[layer] = State(layer, output[0] if wrapped else output, wrapped)

        return hook

    all_layers = decoder_layers(network) if layers else []
    handles = [all_layers[layer - 1].register_forward_hook(keep(layer)) for layer in layers]
    try:
        yield states
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def resume(network: PreTrainedModel, state: State) -> Iterator[None]:
    """Start the forward passes inside this context at a layer with a recorded input. The earlier layers compute nothing.

    Args:
        network: A model for which :func:`can_resume` is true.
        state: The recorded input, with the same batch shape as the tokens of the forward passes.
    """

    def skip(*_: object, **__: object) -> Tensor | tuple:
        return (state.values,) if state.wrapped else state.values

    skipped = decoder_layers(network)[: state.layer]
    with replaced_forwards(skipped, lambda forward: skip):
        yield


@exact_products()
@torch.no_grad()
@model_cache.cached_check
def can_resume(network: PreTrainedModel) -> bool:
    """Return whether a forward pass of a model can start at a later layer.

    The check runs a short input in both ways and compares the logits.
    """
    layer = len(attention_modules(network)) - 1
    if layer < 1:
        return False
    ids = torch.arange(1, 17, device=device_of(network)).view(2, 8) % network.get_input_embeddings().num_embeddings  # (2, T)
    other_ids = ids.flip(0)  # (2, T): a layer that is not skipped would change the logits

    def logits(tokens: Tensor, state: State | None = None) -> Tensor:
        with ExitStack() as stack:
            stack.enter_context(vocabulary.restrict_tokens(network, ids.flatten()))
            if state is not None:
                stack.enter_context(resume(network, state))
            return network(**forward_inputs(tokens)).logits.float()  # (2, T, 16)

    try:
        with record(network, [layer]) as states:
            plain = logits(ids)
        found = logits(other_ids, states[layer])
    except Exception:  # layers with other outputs can raise any exception
        return False
    tolerance = 1e-4 if network.dtype in (torch.float32, torch.float64) else 0.05  # see prefixes.is_shareable
    return bool((plain - found).abs().max() <= tolerance * plain.abs().max())
