"""Models whose layers are on several devices, or whose weights are read again for each forward pass.

``placement: auto`` distributes the layers of a model over the cards of a machine, its main memory and its disk
(:func:`icl_lens.models.loading.load`). It uses accelerate, which wraps the forward functions of the modules: the inputs of a
module move to the device that computes it, and the outputs of the model move to the device of its inputs. An offloaded module,
whose weights are on the disk, or in main memory although a card computes it, has weights only while it computes. At other times
they are tensors without values.

Code that calls modules needs nothing special. The functions of this module are for code that

* creates inputs of a model (:func:`device_of`, :func:`logits_to_keep`);
* reads weights directly (:func:`read_parameter`);
* runs a backward pass (:func:`recompute_layers`).

A tensor that a hook or an attention function gets inside a layer is on the device of this layer. Tensors that it is combined
with must be moved there first.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop
from transformers import AutoModelForCausalLM, PreTrainedModel

from icl_lens.errors import InputError
from icl_lens.network import max_memory
from icl_lens.network.layers import decoder_layers, replaced_forwards

logger = logging.getLogger(__name__)

Limits = Mapping[int | str, int]
"""Bytes of memory that the layers of a model may use: number of a card or ``cpu`` -> bytes. The disk has no limit."""

MEMORY_SHARE = 0.8
"""Fraction of a device's free memory that the layers use by default. The rest is for activations, keys and values."""


def memory_limits(device: torch.device, requested: Mapping[str, str] | None = None) -> dict[int | str, int]:
    """Return how much memory the layers of a model may use on each device of this machine.

    Args:
        device: ``cuda`` for all cards and the main memory, ``cpu`` for the main memory only.
        requested: Limits that replace the defaults, see :func:`icl_lens.network.max_memory.parse`.

    Raises:
        InputError: The device has no such placement, or a limit is invalid or is that of a card that this machine lacks.
    """
    from accelerate.utils import get_max_memory

    if device.type not in ("cpu", "cuda"):
        raise InputError(f"placement: auto supports the devices cuda and cpu, got {device.type}; set placement to device")
    free = get_max_memory()
    free = {name: int(free[name] * MEMORY_SHARE) for name in free if name == "cpu" or device.type == "cuda"}
    limits = max_memory.parse(requested or {})
    missing = next((name for name in limits if name != "cpu" and name not in free), None)
    if missing is not None:
        cards = sum(name != "cpu" for name in free)
        raise InputError(f"max_memory: {missing} is not a card that this job can use (it has {cards}); remove this entry")
    return {**free, **limits}


def from_pretrained(folder: Path | str, limits: Limits | None, **arguments: Any) -> Any:
    """Load a causal language model, and distribute its layers over devices if there are limits.

    Layers on the disk are read from the safetensors files in the folder. Only weights that transformers changes when it loads
    them (pickled files, some mixtures of experts) are copied to the folder for temporary files.

    Args:
        folder: Folder of the checkpoint.
        limits: See :data:`Limits`; None for a model on the CPU as a whole.
        arguments: Further arguments of ``AutoModelForCausalLM.from_pretrained``.

    Returns:
        The return value of ``AutoModelForCausalLM.from_pretrained``.
    """
    if limits is None:
        return AutoModelForCausalLM.from_pretrained(folder, **arguments)
    logging.getLogger("accelerate.big_modeling").setLevel(logging.ERROR)  # our own message names the places of the layers
    copies = tempfile.mkdtemp(prefix="icl-lens-weights-")
    try:
        loaded = AutoModelForCausalLM.from_pretrained(
            folder, device_map="auto", max_memory=dict(limits), offload_folder=copies, **arguments
        )
    except BaseException:
        shutil.rmtree(copies, ignore_errors=True)
        raise
    network = loaded[0] if isinstance(loaded, tuple) else loaded
    if os.listdir(copies):
        weakref.finalize(network, shutil.rmtree, copies, ignore_errors=True)
    else:
        os.rmdir(copies)
    return loaded


def describe(network: PreTrainedModel) -> str:
    """Return how many layers of a model are on each device, for a log message."""
    places = getattr(network, "hf_device_map", None) or {"": device_of(network)}
    names = {module: name for name, module in network.named_modules()}

    def place(layer: nn.Module) -> str:
        name = names[layer]
        while name not in places and name:
            name = name.rpartition(".")[0]
        if name not in places:  # the parts of the layer are on several devices
            return "several devices"
        return "cuda:" + str(places[name]) if isinstance(places[name], int) else str(places[name])

    return ", ".join(f"{number} on {device}" for device, number in Counter(map(place, decoder_layers(network))).items())


def device_of(network: PreTrainedModel) -> torch.device:
    """Return the device of the inputs and outputs of a model. If its layers are on one device, it is this device."""
    hooks = _hooks(network)
    return torch.device(hooks[0].execution_device) if hooks else network.device


def is_placed(network: PreTrainedModel) -> bool:
    """Return whether the layers of a model are on several devices or offloaded, so that the model cannot be moved."""
    return bool(_hooks(network))


def is_offloaded(network: PreTrainedModel) -> bool:
    """Return whether some weights of a model are loaded again for each forward pass."""
    return any(hook.offload for module in network.modules() for hook in _hooks(module))


def logits_to_keep(network: PreTrainedModel, positions: Tensor | None = None) -> Tensor | list[int]:
    """Return the argument ``logits_to_keep`` of a forward pass.

    A model indexes the states of its last layer with it. If the layers are on several devices, it is a list, because a tensor
    would be moved to the device of the inputs.

    Args:
        network: The model.
        positions: Positions whose logits are computed, shape (U,); None to skip the product with the vocabulary matrix.
    """
    if positions is None:
        positions = torch.empty(0, dtype=torch.int64, device=device_of(network))
    return positions.tolist() if is_placed(network) else positions


def read_parameter(module: nn.Module, name: str) -> Tensor | None:
    """Return a parameter of a module, or None if the module has no such parameter.

    An offloaded parameter is read from main memory or from the disk. The caller should release it soon.

    Args:
        module: The module.
        name: Name of the parameter, for example ``weight``.
    """
    parameter = getattr(module, name)
    if parameter is None:
        return None
    for hook in _hooks(module):
        if hook.offload:
            return hook.weights_map[name]
    return parameter


@contextmanager
def recompute_layers(network: PreTrainedModel) -> Iterator[None]:
    """Recompute each layer in the backward pass if weights are offloaded, so that one layer has its weights at a time.

    Without it, the graph of the forward pass would keep the weights of all layers. With it, the graph keeps the input of each
    layer. The numbers are the same. Open it after the contexts that replace forward functions of layers, and run the backward
    pass before an open context of the attention changes.

    Args:
        network: A model with frozen parameters. A cache in its inputs must not grow.
    """

    def recomputed(forward: Callable) -> Callable:
        def run(*args: Any, **kwargs: Any) -> Any:
            if not torch.is_grad_enabled():
                return forward(*args, **kwargs)
            return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)

        return run

    if not is_offloaded(network):
        yield
        return
    # An early stop would raise an exception inside the layer before it releases its weights.
    with set_checkpoint_early_stop(False), replaced_forwards(decoder_layers(network), recomputed):
        yield


def _hooks(module: nn.Module) -> list[Any]:
    """Return the hooks with which accelerate wrapped a module."""
    hook = getattr(module, "_hf_hook", None)
    return [] if hook is None else list(getattr(hook, "hooks", [hook]))
