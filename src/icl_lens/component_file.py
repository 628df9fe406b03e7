"""Re-weighted components as one file: a weight per head and MLP, and in its header all that says whose they are.

A safetensors file with the tensors ``weights``, float32, shape (M,), in the order of :func:`icl_lens.decomposition.parts`
without embedding and constant, and ``layer`` and ``head`` alike (head -1: the layer's MLP); its header (:class:`Header`) is
JSON. It is written under a temporary name and renamed; its tensors are hashed, for safetensors itself has no checksum.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
from pydantic import Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from icl_lens.artifacts import whole_file
from icl_lens.demo_cache import Whose, whose
from icl_lens.errors import InputError
from icl_lens.models import LanguageModel
from icl_lens.positions import Bos
from icl_lens.section import Section

KEY = "icl_lens_components"

# Rises when a header or a tensor changes its meaning.
FORMAT = 1


class Header(Section):
    """What such a file says of itself.

    Attributes:
        format: :data:`FORMAT`.
        made_by: Model and tokenizer.
        dtype: Of the model.
        matmul: How products were asked for, exact or fast; None in a file made before there was a choice.
        products: The format in which the device computed them, see :func:`icl_lens.precision.measured`.
        task: The task's name.
        template: Its template.
        label_words: Its label words, leading blanks included.
        texts: The demonstrations' texts, in order.
        labels: Their class indices.
        bos: Whether a beginning-of-sequence token was put first, see :func:`icl_lens.positions.tokenize`.
        chat: Whether the prompt is written as a chat.
        trained_on: How many texts the weights were trained on, besides the demonstrations.
        epochs: How many steps that took.
        right_before: How many of them the whole model answers right.
        right_after: How many the re-weighted components do.
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
    trained_on: int = Field(ge=1)
    epochs: int
    right_before: int
    right_after: int
    content: str


def save(path: Path | str, weights: np.ndarray, layer: np.ndarray, head: np.ndarray, **about: object) -> Header:
    """Write weights, whole or not at all.

    Args:
        path: The file.
        weights: Shape (M,).
        layer: Of each, shape (M,).
        head: Of each, -1 for an MLP, shape (M,).
        about: The header but for its format and the hash.
    """
    tensors = {"weights": weights.astype(np.float32), "layer": layer.astype(np.int64), "head": head.astype(np.int64)}
    header = Header(format=FORMAT, content=_hash(tensors), **about)
    with whole_file(path) as temporary:
        save_file(tensors, temporary, metadata={KEY: header.model_dump_json()})
    return header


def read_header(path: Path | str) -> Header:
    """What a file of weights says of itself; its tensors are not read.

    Raises:
        InputError: The file is absent, holds no such weights, is damaged, or of another version of the format.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} does not exist; `icl-lens reweight-components` makes such a file")
    try:
        with safe_open(path, framework="numpy") as file:
            packed = (file.metadata() or {}).get(KEY)
    except (SafetensorError, OSError) as error:
        with path.open("rb") as stream:
            begun = KEY.encode() in stream.read(64)
        if begun:
            raise _damaged(path) from error
        raise InputError(f"{path} holds no components of icl-lens: it is no safetensors file") from error
    if packed is None:
        raise InputError(f"{path} holds no components of icl-lens: it is a safetensors file of something else")
    try:
        said = json.loads(packed)
        version = said.get("format") if isinstance(said, dict) else None
        if isinstance(version, int) and version != FORMAT:
            raise InputError(
                f"{path} follows version {version} of its format, this icl-lens reads version {FORMAT}: make it anew"
            )
        header = Header.model_validate_json(packed)
    except (ValidationError, ValueError) as error:
        raise InputError(f"{path} is damaged: its header cannot be read; make it anew") from error
    if len(header.labels) != len(header.texts) or not all(0 <= c < len(header.label_words) for c in header.labels):
        raise InputError(f"{path} is damaged: its header contradicts itself; make it anew")
    return header


def load(path: Path | str, model: LanguageModel, folder: Path | str) -> np.ndarray:
    """The weights in a file, for a model, shape (M,).

    Raises:
        InputError: As :func:`read_header`; or they are another model's or tokenizer's, or are damaged.
    """
    header = read_header(path)
    here = whose(model, folder)
    if here.model != header.made_by.model:
        raise InputError(
            f"{path} was made with another model, {header.made_by.name} ({header.made_by.family}, {header.made_by.layers} "
            f"layers), whose files are not those of {here.name}; re-weight the components of this one"
        )
    if here.tokenizer != header.made_by.tokenizer:
        raise InputError(
            f"{path} was made with another tokenizer than that of {here.name}; re-weight the components with this one"
        )
    try:
        with safe_open(path, framework="numpy") as file:
            tensors = {name: file.get_tensor(name) for name in ("weights", "layer", "head")}
    except (SafetensorError, OSError) as error:
        raise _damaged(path) from error
    if _hash(tensors) != header.content:
        raise _damaged(path)
    return tensors["weights"]


def _damaged(path: Path | str) -> InputError:
    return InputError(f"{path} is damaged, or was cut short: make it anew, or copy it again")


def _hash(tensors: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {tensors[name].shape}\n".encode())
        digest.update(np.ascontiguousarray(tensors[name]).tobytes())
    return digest.hexdigest()
