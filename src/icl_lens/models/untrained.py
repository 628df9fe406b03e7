"""Untrained copies of models: the same architecture with random weights. A result on a copy cannot come from training."""

from __future__ import annotations

import copy
import dataclasses
import mmap
import shutil
import tempfile
import weakref
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedConfig, PreTrainedModel

from icl_lens.models.language_model import LanguageModel
from icl_lens.network import placement

# Minimum number of weights of a tensor that is drawn in a file.
_LARGE = 2**16


def untrained(model: LanguageModel, seed: int, device: torch.device | None = None, name: str | None = None) -> LanguageModel:
    """Return a copy of a model with random weights, drawn by the initialization of its architecture.

    Args:
        model: The model, which does not change.
        seed: Seed of the weights. The global random state does not change.
        device: Device of the copy; the model's device by default.
        name: Name of the copy; by default the model's name with the suffix ``-untrained``.

    Returns:
        A model with the same tokenizer and number format, on the given device. Its facts contain the seed and the
        original model. If the layers of the model are on several devices, so are those of the copy, and its weights are drawn
        in files, so that the copy needs no more memory than the model.
    """
    config = copy.deepcopy(model.network.config)
    placed = placement.is_placed(model.network)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        # Drawn on the CPU, so that the weights do not depend on the device.
        network = _draw_in_files(model, config) if placed else type(model.network)(config)
    if not placed:
        network = network.to(device=device or model.device, dtype=model.network.dtype)
    network = network.eval().requires_grad_(False)
    network.set_attn_implementation(model.network.config._attn_implementation)
    name = name or f"{model.name}-untrained"
    dropped = ("files", "quantisation", "adapter")  # facts about weights that the copy does not have
    facts = {**{k: v for k, v in model.facts.items() if k not in dropped}, "name": name, "weights": {"drawn_with_seed": seed}}
    if "files" in model.facts:
        facts["weights"]["architecture_of"] = model.facts["files"]
    return dataclasses.replace(model, name=name, network=network, facts=facts)


def _draw_in_files(model: LanguageModel, config: PreTrainedConfig) -> PreTrainedModel:
    """Draw the weights of a copy one tensor at a time, save them as a checkpoint, and load it with the model's memory limits.

    The files are temporary. They need twice the size of the weights in float32 on the disk, and are deleted with the copy.
    """
    folder = tempfile.mkdtemp(prefix="icl-lens-untrained-")
    try:
        with _TensorsInFiles(folder):
            network = type(model.network)(config)
            network.save_pretrained(folder, max_shard_size="1KB")  # one file per tensor
        del network
        copied = placement.from_pretrained(
            folder, model.limits, config=config, dtype=model.network.dtype, local_files_only=True, use_safetensors=True
        )
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    weakref.finalize(copied, shutil.rmtree, folder, ignore_errors=True)
    return copied


class _TensorsInFiles(TorchFunctionMode):
    """Allocate large tensors in memory-mapped files, so that an operation on one releases the memory of the others.

    The random numbers are the same as in main memory.
    """

    def __init__(self, folder: str) -> None:
        super().__init__()
        self.folder = folder
        self.files: dict[int, mmap.mmap] = {}  # by the address of the tensor
        self.used: dict[int, mmap.mmap] = {}

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.empty and not kwargs.get("device"):
            shape = args[0] if args and not isinstance(args[0], int) else args
            dtype = kwargs.get("dtype") or torch.get_default_dtype()
            if torch.Size(shape).numel() >= _LARGE and dtype.is_floating_point:
                return self._allocate(torch.Size(shape), dtype)
        tensors = [x for x in (*args, *kwargs.values()) if isinstance(x, Tensor) and x.numel() >= _LARGE and not x.is_meta]
        addresses = {x.untyped_storage().data_ptr() for x in tensors}
        now = {address: self.files[address] for address in addresses if address in self.files}
        if now:
            for address in self.used.keys() - now.keys():
                self.used[address].madvise(mmap.MADV_DONTNEED)  # the content stays in the file
            self.used = now
        return func(*args, **kwargs)

    def _allocate(self, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        size = shape.numel() * dtype.itemsize
        with tempfile.TemporaryFile(dir=Path(self.folder)) as file:
            file.truncate(size)
            mapped = mmap.mmap(file.fileno(), size)
        tensor = torch.frombuffer(mapped, dtype=dtype).view(shape)
        self.files[tensor.untyped_storage().data_ptr()] = mapped
        return tensor
