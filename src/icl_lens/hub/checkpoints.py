"""A checkpoint as files: which of a model folder's files decide its answers, and whether those needed are there.

Kept apart from :mod:`icl_lens.models.loading` so that the workflow can ask without loading torch.
"""

from __future__ import annotations

from pathlib import Path

from icl_lens.errors import InputError

# Configuration and tokenizer files; a model card or a licence changes no answer.
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
    """The files of a model folder that decide its answers: weights, configuration and tokenizer, sorted.

    Raises:
        InputError: The folder, its config.json, its weights or its tokenizer is not there.
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
    """The files of weights that are read: safetensors; only where there are none, PyTorch's own ``pytorch_model*.bin``.

    Raises:
        InputError: There are neither.
    """
    weights = list(folder.glob("*.safetensors")) or list(folder.glob("pytorch_model*.bin"))
    if not weights:
        raise InputError(
            f"model folder {folder} holds no weights: a *.safetensors file is needed, or pytorch_model.bin where there is none"
        )
    return weights
