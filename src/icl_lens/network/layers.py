"""Access to the layers of a model and their attention modules."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from torch import nn
from transformers import PreTrainedModel

from icl_lens.errors import InputError


def attention_modules(network: PreTrainedModel) -> list[nn.Module]:
    """Return the self-attention modules of a model, first layer first.

    Raises:
        InputError: The model does not have one such module per layer, so its family is not supported.
    """
    attentions = [m for m in network.modules() if type(m).__name__.endswith("Attention")]
    if not attentions:
        raise not_supported(network, "it has no attention layers")
    # Other attention modules of a model, for example in an image encoder, have no layer index.
    found = [m for m in attentions if hasattr(m, "layer_idx")]
    if not found:
        raise not_supported(network, "its attention modules have no layer index (layer_idx)")
    layers = network.config.get_text_config().num_hidden_layers
    if [m.layer_idx for m in found] != list(range(layers)):
        raise not_supported(network, f"it has {len(found)} attention modules for {layers} layers; one per layer is needed")
    return found


def decoder_layers(network: PreTrainedModel) -> list[nn.Module]:
    """Return the layers of a model, first layer first. Each layer contains one of :func:`attention_modules`."""
    return [layer_of(network, attention) for attention in attention_modules(network)]


@contextmanager
def replaced_forwards(layers: Sequence[nn.Module], replace: Callable[[Callable], Callable]) -> Iterator[None]:
    """Replace the forward functions of some layers inside this context.

    Args:
        layers: The layers.
        replace: Function of a layer's forward function that returns the function to call instead.
    """
    instance_forwards = [vars(layer).get("forward") for layer in layers]
    for layer in layers:
        layer.forward = replace(layer.forward)
    try:
        yield
    finally:
        for layer, forward in zip(layers, instance_forwards, strict=True):
            if forward is None:
                del layer.forward  # restores the method of the class
            else:
                layer.forward = forward


def layer_of(network: PreTrainedModel, attention: nn.Module) -> nn.Module:
    """Return the layer of a model that contains an attention module."""
    name = next(name for name, module in network.named_modules() if module is attention)
    while name:
        outer = name.rpartition(".")[0]
        if isinstance(network.get_submodule(outer), nn.ModuleList):
            return network.get_submodule(name)
        name = outer
    raise AssertionError(f"{type(attention).__name__} is in no list of layers")


def not_supported(network: PreTrainedModel, reason: str) -> InputError:
    """Return the error for a model family that is not supported."""
    return InputError(f"model family {network.config.model_type!r} is not supported: {reason}")
