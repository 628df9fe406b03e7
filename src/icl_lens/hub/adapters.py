"""The files of a LoRA adapter: which files are read, and whether the adapter can be merged into a model.

An adapter is the folder that peft writes: adapter_config.json and adapter_model.safetensors. Other files in it, such as a
tokenizer, are not read. This module does not import torch, so that the workflow can use it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from icl_lens import json_text
from icl_lens.artifacts import hashes
from icl_lens.errors import InputError
from icl_lens.hub import packages
from icl_lens.short_repr import short_repr

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PICKLED = "adapter_model.bin"

PACKAGES = ("peft",)
"""Packages that merging an adapter needs. The extra ``quantized`` contains them."""

# Initializations after which an adapter, as it was trained, is not the difference from the weights of the base model.
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")


def adapter_files(folder: Path | str) -> list[Path]:
    """Return the files of an adapter that are read.

    Raises:
        InputError: The folder or one of the files is missing, its weights are pickled, or the adapter cannot be merged.
    """
    folder = Path(folder)
    if folder.is_file():
        raise InputError(f"adapter {folder} is a file; specify the folder that contains {CONFIG}")
    if not folder.is_dir():
        raise InputError(f"adapter folder {folder} does not exist")
    if not (folder / CONFIG).is_file():
        raise InputError(f"adapter folder {folder} is not an adapter: {CONFIG} is missing")
    _require_mergeable(folder, _read_config(folder))
    if not (folder / WEIGHTS).is_file():
        if (folder / PICKLED).is_file():
            raise InputError(
                f"adapter folder {folder} has only pickled weights ({PICKLED}), which could run code; save it again with "
                f"peft, which writes {WEIGHTS}"
            )
        raise InputError(f"adapter folder {folder} has no weights; add {WEIGHTS}")
    files = [folder / CONFIG, folder / WEIGHTS]
    require_no_pointers(files)
    return files


def adapter_hash(folder: Path | str) -> str:
    """Return one SHA-256 over the names and bytes of the files of an adapter, see :func:`adapter_files`."""
    return hashes.files_hash(adapter_files(folder))


def base_model(folder: Path | str) -> str | None:
    """Return the name on the Hub of the model that an adapter was trained on; None if it is unknown or a local path."""
    base = _read_config(Path(folder)).get("base_model_name_or_path")
    return base if isinstance(base, str) and re.fullmatch(r"[\w.-]+/[\w.-]+", base) else None


def require_packages() -> None:
    """Require the optional packages that merge an adapter.

    Raises:
        InputError: A package is not installed. The message contains the installation command.
    """
    packages.require(PACKAGES, "an adapter needs", "quantized")


def require_no_pointers(files: list[Path]) -> None:
    """Require that no file is a Git LFS pointer, the placeholder that git writes without Git LFS."""
    for path in files:
        if path.stat().st_size < 1000:
            with path.open("rb") as file:
                if file.read(40).startswith(b"version https://git-lfs"):
                    raise InputError(
                        f"{path} is a Git LFS pointer without the weights; run `git lfs pull` in its folder, or download "
                        "the model again"
                    )


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        config = json_text.loads((folder / CONFIG).read_bytes())
        if not isinstance(config, dict):
            raise ValueError("not an object")
    except (OSError, ValueError) as error:
        raise InputError(
            f"adapter folder {folder}: {CONFIG} is not a JSON object; download or save the adapter again"
        ) from error
    return config


def _require_mergeable(folder: Path, config: dict[str, Any]) -> None:
    kind, start = config.get("peft_type"), config.get("init_lora_weights")
    if kind != "LORA":
        raise InputError(
            f"adapter folder {folder}: peft_type in {CONFIG} must be LORA, got {short_repr(kind)}; merge the adapter with "
            "peft, and use the folder of the merged model as path"
        )
    changed = isinstance(start, str) and start.lower().startswith(_CHANGES_BASE)
    for key in ("layer_replication", "alora_invocation_tokens", *(["init_lora_weights"] if changed else [])):
        if config.get(key):
            raise InputError(
                f"adapter folder {folder}: {key} (= {short_repr(config[key])}) in {CONFIG} is not supported, because such an "
                "adapter is not only a difference of weights; use an adapter without it"
            )
