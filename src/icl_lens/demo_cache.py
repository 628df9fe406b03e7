"""A cache of compressed demonstrations as one file: kept keys and values, and in its header all that says whose they are.

A safetensors file with the tensors ``keys.{layer}`` and ``values.{layer}``, shape (1, H_kv, K, d) each, and a header
(:class:`Header`) as JSON. It is written under a temporary name and renamed; its tensors are hashed, for safetensors itself has
no checksum and would read a flipped byte as a number.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from icl_lens.artifacts import whole_file
from icl_lens.checkpoints import checkpoint_files
from icl_lens.compression import Compressed
from icl_lens.errors import InputError
from icl_lens.models import LanguageModel
from icl_lens.positions import Bos
from icl_lens.prefixes import Prefix
from icl_lens.provenance import files_hash

KEY = "icl_lens_cache"

# Rises when a header or a tensor changes its meaning.
FORMAT = 1


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Whose(_Part):
    """What read the demonstrations.

    Attributes:
        name: The model's name, for sentences.
        family: Its family.
        layers: How many it has.
        model: SHA-256 of its weights and configuration.
        tokenizer: SHA-256 of its tokenizer's files.
        hub: Its name on the hub, if it was fetched.
        commit: And its commit there.
    """

    name: str
    family: str
    layers: int
    model: str
    tokenizer: str
    hub: str | None = None
    commit: str | None = None


class Header(_Part):
    """What a cache says of itself.

    Attributes:
        format: :data:`FORMAT`.
        made_by: Model and tokenizer.
        dtype: Of the model, and so of keys and values.
        matmul: How products were asked for, exact or fast; None in a cache made before there was a choice.
        products: The format in which the device computed them, see :func:`icl_lens.precision.measured`.
        task: The task's name.
        template: Its template.
        label_words: Its label words, leading blanks included.
        texts: The demonstrations' texts, in order: a tokenizer reads a query behind them.
        labels: Their class indices.
        bos: Whether a beginning-of-sequence token was put first, see :func:`icl_lens.positions.tokenize`.
        chat: Whether the prompt is written as a chat.
        kept: The kept positions, ascending.
        ids: Token ids of all demonstrations; their number is the position where queries start.
        start: That position.
        content: SHA-256 of the tensors.
    """

    format: int
    made_by: Whose
    dtype: str
    matmul: str | None = None
    products: str | None = None
    task: str
    template: str
    label_words: list[str] = Field(min_length=2)
    texts: list[str] = Field(min_length=1)
    labels: list[int]
    bos: Bos
    chat: bool
    kept: list[int] = Field(min_length=1)
    ids: list[int]
    start: int
    content: str


@dataclass(frozen=True)
class Cache:
    """A cache as it is read.

    Attributes:
        header: What it says of itself.
        compressed: The kept keys and values.
    """

    header: Header
    compressed: Compressed


def whose(model: LanguageModel, folder: Path | str) -> Whose:
    """What identifies a model and its tokenizer, each by the hash of its files."""
    files = checkpoint_files(folder)
    network = [path for path in files if path.name.startswith(("config", "model.safetensors.", "pytorch_model"))]
    network += [path for path in files if path.suffix in (".safetensors", ".bin") and path not in network]
    facts = model.facts
    return Whose(
        name=model.name,
        family=facts["family"],
        layers=model.layers,
        model=files_hash(network),
        tokenizer=files_hash([path for path in files if path not in network]),
        hub=facts.get("hub"),
        commit=facts.get("commit"),
    )


def save(path: Path | str, compressed: Compressed, **about: object) -> Header:
    """Write a cache, whole or not at all.

    Args:
        path: The file.
        compressed: What is kept.
        about: The header but for what ``compressed`` tells.
    """
    tensors = {}
    for name in ("keys", "values"):
        for layer, tensor in enumerate(getattr(compressed.prefix, name)):
            tensors[f"{name}.{layer}"] = tensor.detach().cpu().contiguous()  # (1, H_kv, K, d)
    header = Header(
        format=FORMAT,
        kept=compressed.kept.tolist(),
        ids=compressed.ids.tolist(),
        start=len(compressed.ids),
        content=_hash(tensors),
        **about,
    )
    with whole_file(path) as temporary:
        save_file(tensors, temporary, metadata={KEY: header.model_dump_json()})
    return header


def read_header(path: Path | str) -> Header:
    """What a cache says of itself; its tensors are not read.

    Raises:
        InputError: The file is absent, no cache, damaged, or of another version of the format.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} does not exist; `icl-lens compress` makes a cache")
    packed = _metadata(path).get(KEY)
    if packed is None:
        raise InputError(f"{path} is no cache of icl-lens: it is a safetensors file of something else")
    try:
        said = json.loads(packed)
        version = said.get("format") if isinstance(said, dict) else None
        if isinstance(version, int) and version != FORMAT:
            raise InputError(
                f"{path} follows version {version} of the cache's format, this icl-lens reads version {FORMAT}: make it anew"
            )
        header = Header.model_validate_json(packed)
    except (ValidationError, ValueError) as error:
        raise InputError(f"{path} is damaged: its header cannot be read; make it anew") from error
    ordered = header.kept == sorted(set(header.kept)) and header.kept[0] >= 0 and header.kept[-1] < header.start
    labelled = len(header.labels) == len(header.texts) and all(0 <= c < len(header.label_words) for c in header.labels)
    if not ordered or not labelled or len(header.ids) != header.start:
        raise InputError(f"{path} is damaged: its header contradicts itself; make it anew")
    return header


def load(path: Path | str, model: LanguageModel, folder: Path | str) -> Cache:
    """Read a cache for a model.

    Raises:
        InputError: As :func:`read_header`; or it was made with another model or tokenizer, or its tensors are damaged.
    """
    header = read_header(path)
    here = whose(model, folder)
    if here.model != header.made_by.model:
        raise InputError(
            f"{path} was made with another model, {header.made_by.name} ({header.made_by.family}, {header.made_by.layers} "
            f"layers), whose files are not those of {here.name}; compress the demonstrations with this one"
        )
    if here.tokenizer != header.made_by.tokenizer:
        raise InputError(
            f"{path} was made with another tokenizer than that of {here.name}; compress the demonstrations with this one"
        )
    layers = range(header.made_by.layers)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {f"{name}.{layer}": file.get_tensor(f"{name}.{layer}") for name in ("keys", "values") for layer in layers}
    except (SafetensorError, OSError) as error:
        raise _damaged(path) from error
    shapes = {tensor.shape[::2] for tensor in tensors.values() if tensor.dim() == 4}  # (1, K)
    if _hash(tensors) != header.content or shapes != {(1, len(header.kept))}:
        raise _damaged(path)
    keys, values = (tuple(tensors[f"{name}.{layer}"].to(model.device) for layer in layers) for name in ("keys", "values"))
    kept = np.array(header.kept, dtype=np.int64)
    return Cache(header, Compressed(Prefix(keys, values, len(kept)), kept, np.array(header.ids, dtype=np.int64)))


def _metadata(path: Path) -> dict[str, str]:
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError) as error:
        # A header that names a cache tells a damaged one from a file of another kind.
        with path.open("rb") as stream:
            begun = KEY.encode() in stream.read(64)
        if begun:
            raise _damaged(path) from error
        raise InputError(f"{path} is no cache of icl-lens: it is no safetensors file") from error


def _damaged(path: Path | str) -> InputError:
    return InputError(f"{path} is damaged, or was cut short: make it anew, or copy it again")


def _hash(tensors: dict[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
