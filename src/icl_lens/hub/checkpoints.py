"""The files of a checkpoint: which files of a model folder are read when it is loaded, and whether all required files exist.

This is the only list of these files: a model is fetched, converted, hashed and identified by it. A test compares it with the
files that transformers asks for. This module is separate from :mod:`icl_lens.models.loading` so that the workflow can use it
without importing torch.
"""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path

from icl_lens.artifacts import hashes
from icl_lens.errors import InputError
from icl_lens.hub import adapters, converted, fetched, quantization

# Names of the files that describe the network, besides its weights. All names are relative to the model folder.
NETWORK_FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors.index.json",
    "pytorch_model.bin.index.json",
)

# Patterns of the files that describe the tokenizer and the chat templates.
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "*.model",
    "tekken.json",
    "chat_template.jinja",
    "additional_chat_templates/*.jinja",
)

# A tokenizer cannot be loaded without one of these files.
VOCABULARY_FILES = ("tokenizer.json", "vocab.json", "tokenizer.model")


def is_description(name: str) -> bool:
    """Return whether a file describes the network, the tokenizer or a chat template. Its name is relative to the folder."""
    return name in NETWORK_FILES or is_tokenizer_file(name)


def is_tokenizer_file(name: str) -> bool:
    """Return whether a file describes the tokenizer or a chat template. Its name is relative to the model folder."""
    return any(fnmatchcase(name, pattern) and name.count("/") == pattern.count("/") for pattern in TOKENIZER_FILES)


def description_files(folder: Path) -> list[Path]:
    """Return the files of a folder that describe the network, the tokenizer or a chat template, sorted."""
    return sorted(path for pattern in (*NETWORK_FILES, *TOKENIZER_FILES) for path in folder.glob(pattern) if path.is_file())


def checkpoint_files(folder: Path | str) -> list[Path]:
    """Return the files of a model folder that are read when it is loaded (weights, configuration and tokenizer), sorted.

    Raises:
        InputError: The folder, its config.json, its weights or its tokenizer is missing, the weights are quantised by an
            unsupported method, or the folder contains an adapter.
    """
    folder = Path(folder)
    if folder.is_file() and folder.suffix == ".gguf":
        raise InputError(f"{folder} is a GGUF file, not a model folder; set `gguf: {folder}` instead of path")
    if folder.is_file():
        raise InputError(f"{folder} is a file, not a model folder; specify the folder that contains config.json")
    if not folder.is_dir():
        raise InputError(f"model folder {folder} does not exist")
    if (folder / adapters.CONFIG).is_file():
        # transformers would load the adapter, or another base model that it names, if peft is installed.
        raise InputError(
            f"model folder {folder} contains an adapter ({adapters.CONFIG}); set adapter to this folder, and path to that "
            "of its base model"
        )
    if not (folder / "config.json").is_file():
        if gguf_files := sorted(folder.glob("*.gguf")):
            raise InputError(
                f"model folder {folder} has no config.json, but a GGUF file; set `gguf: {gguf_files[0]}` instead of path"
            )
        raise InputError(f"model folder {folder} is not a checkpoint: config.json is missing")
    quantization.require_supported(folder)
    weights = weight_files(folder)
    if not any((folder / name).is_file() for name in VOCABULARY_FILES):
        raise InputError(f"model folder {folder} has no tokenizer; add its tokenizer.json")
    adapters.require_no_pointers(weights)
    return sorted([*weights, *description_files(folder)])


def checkpoint_hash(folder: Path | str) -> str:
    """Return one SHA-256 over the names and bytes of the files of a checkpoint, see :func:`checkpoint_files`.

    Raises:
        InputError: A file is missing, or a file of a fetched or converted model differs from its record.
    """
    folder = Path(folder)
    files = checkpoint_files(folder)
    require_recorded(folder, files)
    return hashes.files_hash(files)


def require_recorded(folder: Path, files: Iterable[Path]) -> None:
    """Check the files of a fetched or converted model against the hashes in its record. Other folders are not checked.

    Args:
        folder: The model folder.
        files: The files to check.

    Raises:
        InputError: A file differs from the record, or is not listed in it.
    """
    for record, name, remedy in (
        (fetched.read(folder), fetched.RECORD, "rerun the command that fetched it to fetch this file again"),
        (converted.read(folder), converted.RECORD, "rerun the command that wrote it to convert the file again"),
    ):
        if record is None:
            continue
        for path in files:
            listed = record.files.get(path.relative_to(folder).as_posix())
            if listed is None:
                raise InputError(f"{path} is not listed in {folder / name}; remove it, because it would change the model")
            if hashes.cached_file_hash(path) != listed["sha256"]:
                raise InputError(f"{path} differs from the file that {folder / name} lists; delete both, and {remedy}")


def weight_files(folder: Path) -> list[Path]:
    """Return the weight files to read: safetensors files or, if there are none, PyTorch's ``pytorch_model*.bin``.

    Raises:
        InputError: The folder contains neither.
    """
    weights = list(folder.glob("*.safetensors")) or list(folder.glob("pytorch_model*.bin"))
    if not weights:
        raise InputError(f"model folder {folder} has no weights; add *.safetensors or pytorch_model.bin files")
    return weights
