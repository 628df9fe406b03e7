"""Put the layers of a model on two devices, with hooks like those of accelerate, for devices that accelerate does not know."""

from __future__ import annotations

from typing import Any

import torch
from accelerate.hooks import ModelHook, add_hook_to_module
from accelerate.utils import find_device, send_to_device
from torch import nn
from transformers import PreTrainedModel

from icl_lens.network.layers import decoder_layers


class _Move(ModelHook):
    """Move the inputs of a module to its device and, for a whole model, its outputs to the device of its inputs."""

    offload = False

    def __init__(self, device: torch.device, whole: bool = False) -> None:
        self.execution_device, self.whole = device, whole

    def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> tuple:
        self.input_device = find_device([args, kwargs])
        return send_to_device(args, self.execution_device), send_to_device(
            kwargs, self.execution_device, skip_keys="past_key_values"
        )

    def post_forward(self, module: nn.Module, output: Any) -> Any:
        return send_to_device(output, self.input_device, skip_keys="past_key_values") if self.whole else output


def spread(network: PreTrainedModel, first: torch.device, second: torch.device) -> PreTrainedModel:
    """Put the embeddings and the first half of the layers on one device, and all else on another.

    The inputs and outputs of the model are on the first device.
    """
    layers = decoder_layers(network)
    network.to(second)
    network.get_input_embeddings().to(first)
    for layer in layers[: len(layers) // 2]:
        layer.to(first)
    on_first = {module for layer in (network.get_input_embeddings(), *layers[: len(layers) // 2]) for module in layer.modules()}
    inside = {module for layer in (*layers, network.get_input_embeddings()) for module in layer.modules()}
    for module in network.modules():
        # Like accelerate: every module with weights, below the modules that contain layers.
        above = any(layer in set(module.modules()) for layer in layers) and module not in inside
        if module.state_dict() and not above:
            add_hook_to_module(module, _Move(first if module in on_first else second))
    for name, module in network.named_modules():  # modules without weights (rotary embeddings) work on the first device
        if module not in inside and not module.state_dict() and name:
            module.to(first)
    add_hook_to_module(network, _Move(first, whole=True))
    return network
