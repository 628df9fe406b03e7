"""Merge a LoRA adapter into the weights of a model: W + s B A, where peft determines the scale s.

A merged model is an ordinary model, so every study runs on it. peft reads the adapter and merges it.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn
from transformers import PreTrainedModel

from icl_lens.errors import InputError, first_line
from icl_lens.hub import adapters
from icl_lens.network import quantized

_PREFIX = "base_model.model."


def merge(network: PreTrainedModel, adapter: Path, folder: Path) -> dict[str, Any]:
    """Merge an adapter into the weights of a model, in place.

    Quantised layers that the adapter changes are dequantised first, because their sum with the adapter has no exact quantised
    form. Other quantised layers remain quantised.

    Args:
        network: The model.
        adapter: Folder of the adapter.
        folder: Folder of the model, for error messages.

    Returns:
        The facts of the adapter, for provenance: its name (that of its folder), the hash of its files, the version of peft
        and, if it is known, the base model on the Hub.

    Raises:
        InputError: The adapter is corrupted, its modules or sizes are not those of the model, or merging it would change
            weights that it does not belong to.
    """
    import peft

    content = adapters.adapter_hash(adapter)
    changed = _changed_modules(adapter)
    _require_unshared(network, adapter, changed)
    quantized.make_dense(network, changed)
    with _undisturbed():
        try:
            settings = peft.LoraConfig.from_pretrained(adapter)
            settings.inference_mode = True
            settings.megatron_config = None  # it names a module that peft would import
            settings.init_lora_weights = True  # the values are replaced by those of the file
            tuned = peft.PeftModel(network, settings)
            mapping = getattr(network, "_checkpoint_conversion_mapping", {})
            report = tuned.load_adapter(adapter, "default", torch_device="cpu", key_mapping=mapping)
        except Exception as error:  # peft and torch raise many types of exceptions
            raise _unsuitable(adapter, folder, first_line(error)) from error
        unused, missing = sorted(report.unexpected_keys), sorted(report.missing_keys)
        if unused:
            raise _unsuitable(adapter, folder, f"the model has no {unused[0].removeprefix(_PREFIX)}")
        if missing:
            raise _unsuitable(adapter, folder, f"the adapter lacks {missing[0].removeprefix(_PREFIX)}")
        try:
            merged = tuned.merge_and_unload(safe_merge=True)
        except Exception as error:
            raise InputError(f"adapter folder {adapter} cannot be merged ({first_line(error)})") from error
    if merged is not network:
        raise InputError(f"adapter folder {adapter} cannot be merged: it replaces the whole model")
    base = adapters.base_model(adapter)
    facts = {"name": adapter.resolve().name, "files": content, "peft": peft.__version__}
    return {**facts, **({"base": base} if base else {})}


def _changed_modules(adapter: Path) -> list[str]:
    """Return the names of the modules that an adapter changes, from the names of its tensors."""
    path = adapter / adapters.WEIGHTS
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
    except Exception as error:  # safetensors raises its own errors and those of the file system
        raise InputError(f"{path} is corrupted; download or save the adapter again") from error
    return sorted({name.removeprefix(_PREFIX).partition(".lora_")[0] for name in names if ".lora_" in name})


def _require_unshared(network: nn.Module, adapter: Path, changed: list[str]) -> None:
    """Require that no other module has the weights that are changed, such as an embedding that is also the unembedding."""
    owners: dict[int, list[str]] = {}
    for name, module in network.named_modules():
        for parameter in module.parameters(recurse=False):
            owners.setdefault(id(parameter), []).append(name)
    for names in owners.values():
        found = sorted(set(names) & set(changed))
        if found and len(names) > 1:
            other = next(name for name in names if name != found[0])
            raise InputError(
                f"adapter folder {adapter} changes {found[0]}, which has the same weights as {other}, so merging would change "
                "both; use an adapter that does not change it"
            )


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Keep the global random state, which peft uses for weights that the file then replaces, and hide peft's warnings.

    The checks of this module raise errors instead.
    """
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _unsuitable(adapter: Path, folder: Path, reason: str) -> InputError:
    return InputError(
        f"adapter folder {adapter} is not for the model in {folder} ({reason}); use the base model that the adapter was "
        "trained on"
    )
