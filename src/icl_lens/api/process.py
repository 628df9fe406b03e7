"""Settings of other libraries that are changed only inside a call, so that the user's process stays as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from icl_lens.network import quantized


@contextmanager
def quiet_and_offline() -> Iterator[None]:
    """Disable the messages, progress bars and network access of transformers and huggingface_hub inside the context."""
    import huggingface_hub.constants
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
    from transformers.utils import logging

    constants = huggingface_hub.constants
    offline, verbosity = constants.HF_HUB_OFFLINE, logging.get_verbosity()
    bars, hub_bars = logging.is_progress_bar_enabled(), not are_progress_bars_disabled()
    constants.HF_HUB_OFFLINE = True  # the library reads it before each request
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = offline
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
        (enable_progress_bars if hub_bars else disable_progress_bars)()


@contextmanager
def evaluation(network: nn.Module) -> Iterator[None]:
    """Put a model in evaluation mode with frozen parameters inside the context, and restore its state afterwards.

    The state is the training mode, parameters, buffers, submodules and hooks of each module, and ``requires_grad`` of each
    parameter. Some models change a buffer in a forward pass, for example the frequencies of dynamic rotary embeddings; the
    other attributes of such a module are restored, too. Attributes that a hook of the user sets are kept.

    Inside, torch has its default number format and device, and computes gradients, and the layers of bitsandbytes are replaced
    (:mod:`icl_lens.network.quantized`).
    """
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    states = [_State(module) for module in network.modules()]
    dtype, device = torch.get_default_dtype(), torch.get_default_device()
    try:
        for module in network.modules():
            module.training = False
        for parameter in trained:
            parameter.requires_grad_(False)
        torch.set_default_dtype(torch.float32)
        if device.type != "cpu":
            torch.set_default_device("cpu")
        if quantized.is_bitsandbytes(network):
            quantized.replace_linear(network, network.dtype)
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        torch.set_default_dtype(dtype)
        if device.type != "cpu":
            torch.set_default_device(device)
        for state in states:
            state.restore()
        for parameter in trained:
            parameter.requires_grad_(True)


class _State:
    """The state of one module.

    Args:
        module: The module.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.attributes = dict(vars(module))
        # Parameters, buffers, submodules and hooks are in dictionaries among the attributes.
        self.containers = [
            (each, dict(each)) for name, each in self.attributes.items() if name[0] == "_" and isinstance(each, dict)
        ]

    def restore(self) -> None:
        """Restore the state of the module."""
        buffers = list(map(id, self.module._buffers.values()))
        for container, content in self.containers:
            container.clear()
            container.update(content)
        self.module.training = self.attributes["training"]
        if buffers != list(map(id, self.module._buffers.values())):
            vars(self.module).update(self.attributes)
