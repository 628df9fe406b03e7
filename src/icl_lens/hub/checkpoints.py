"""The files of a checkpoint: which files of a model folder affect its predictions, and whether all required files exist.

This module is separate from :mod:`icl_lens.models.loading` so that the workflow can use it without importing torch.
"""

from __future__ import annotations

from pathlib import Path

from icl_lens.errors import InputError

# Configuration and tokenizer files. A model card or a licence does not affect predictions, so it is not listed.
CONFIG_FILES = (
    "config.json",
    "model.safetensors.index.json",
    "pytorch_model.bin.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)

TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "tokenizer.model")


def checkpoint_files(folder: Path | str) -> list[Path]:
    """Return the files of a model folder that affect its predictions (weights, configuration and tokenizer), sorted.

    Raises:
        InputError: The folder, its config.json, its weights or its tokenizer is missing.
    """
    folder = Path(folder)
    if folder.is_file() and folder.suffix == ".gguf":
        raise InputError(f"{folder} is a GGUF file, not a model folder; set `gguf: {folder}` instead of path")
    if not folder.is_dir():
        raise InputError(f"model folder {folder} does not exist")
    if not (folder / "config.json").is_file():
        if gguf_files := sorted(folder.glob("*.gguf")):
            raise InputError(
                f"model folder {folder} has no config.json, but a GGUF file; set `gguf: {gguf_files[0]}` instead of path"
            )
        raise InputError(f"model folder {folder} is not a checkpoint: config.json is missing")
    weights = weight_files(folder)
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise InputError(f"model folder {folder} has no tokenizer; add its tokenizer.json")
    return sorted([*weights, *(folder / name for name in CONFIG_FILES if (folder / name).is_file())])


def weight_files(folder: Path) -> list[Path]:
    """Return the weight files to read: safetensors files or, if there are none, PyTorch's ``pytorch_model*.bin``.

    Raises:
        InputError: The folder contains neither.
    """
    weights = list(folder.glob("*.safetensors")) or list(folder.glob("pytorch_model*.bin"))
    if not weights:
        raise InputError(f"model folder {folder} has no weights; add *.safetensors or pytorch_model.bin files")
    return weights
