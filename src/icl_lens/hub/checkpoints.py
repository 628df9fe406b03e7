"""The files of a checkpoint: which files of a model folder affect its predictions, and whether all required files exist.

This module is separate from :mod:`icl_lens.models.loading` so that the workflow can use it without importing torch.
"""

from __future__ import annotations

from pathlib import Path

from icl_lens.errors import InputError

# Configuration and tokenizer files. A model card or a licence does not affect predictions, so it is not listed.
DESCRIPTIONS = (
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

TOKENIZERS = ("tokenizer.json", "vocab.json", "tokenizer.model")


def checkpoint_files(folder: Path | str) -> list[Path]:
    """Return the files of a model folder that affect its predictions (weights, configuration and tokenizer), sorted.

    Raises:
        InputError: The folder, its config.json, its weights or its tokenizer is missing.
    """
    folder = Path(folder)
    if folder.is_file() and folder.suffix == ".gguf":
        raise InputError(f"{folder} is a GGUF file, not a model folder: write `gguf: {folder}` in place of its path")
    if not folder.is_dir():
        raise InputError(f"model folder {folder} does not exist")
    if not (folder / "config.json").is_file():
        if packed := sorted(folder.glob("*.gguf")):
            raise InputError(
                f"model folder {folder} holds no config.json, but a GGUF file: write `gguf: {packed[0]}` in place of its path"
            )
        raise InputError(f"model folder {folder} holds no config.json, so it is no checkpoint")
    weights = weight_files(folder)
    if not any((folder / name).is_file() for name in TOKENIZERS):
        raise InputError(f"model folder {folder} holds no tokenizer: tokenizer.json is needed")
    return sorted([*weights, *(folder / name for name in DESCRIPTIONS if (folder / name).is_file())])


def weight_files(folder: Path) -> list[Path]:
    """Return the weight files to read: safetensors files or, if there are none, PyTorch's ``pytorch_model*.bin``.

    Raises:
        InputError: The folder contains neither.
    """
    weights = list(folder.glob("*.safetensors")) or list(folder.glob("pytorch_model*.bin"))
    if not weights:
        raise InputError(
            f"model folder {folder} holds no weights: a *.safetensors file is needed, or pytorch_model.bin where there is none"
        )
    return weights
