"""File format of compressed demonstrations: the kept keys and values, and a header that describes how they were made.

The tensors are ``keys.{layer}`` and ``values.{layer}``, each of shape (1, H_kv, K, d); see
:mod:`icl_lens.artifacts.signed_file`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from icl_lens.artifacts import signed_file
from icl_lens.models.language_model import LanguageModel
from icl_lens.models.prefixes import Prefix
from icl_lens.prompts.forms import Bos, Chat, Score
from icl_lens.studies.anchors.compressed_demonstrations import Compressed
from icl_lens.tools.model_identity import ModelIdentity, identify, require_same_model
from icl_lens.tools.task_header import require_consistent


class Header(BaseModel):
    """Header of a cache.

    Attributes:
        format: The version of the file format.
        made_by: The model and tokenizer that the cache was made with.
        dtype: The number format of the model, and therefore of the keys and values.
        matmul: The requested matrix multiplication mode, exact or fast; None in caches from before this option existed.
        products: The format in which the device computed the products, see :func:`icl_lens.network.precision.measured_format`.
        task: The name of the task.
        template: The template of the task.
        label_words: The label words of the task, including leading spaces.
        texts: The texts of the demonstrations, in order. They are needed because a query is tokenized together with them.
        labels: The class indices of the demonstrations.
        bos: Whether the BOS token was prepended, see :func:`icl_lens.prompts.positions.tokenize`.
        chat: Whether the prompt is written as a chat, and in which form, see :func:`icl_lens.prompts.chat.convert`.
        label_score: Whether a class is predicted by the first token of its label word or by the whole word, see
            :func:`icl_lens.prompts.positions.tokenize`.
        kept: The kept positions, in ascending order.
        ids: The token ids of all demonstrations. Their number is the position at which queries start.
        start: The position at which queries start.
        content: SHA-256 of the tensors.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    format: int
    made_by: ModelIdentity
    dtype: str
    matmul: str | None = None
    products: str | None = None
    task: str
    template: str
    label_words: list[str] = Field(min_length=2)
    texts: list[str] = Field(min_length=1)
    labels: list[int]
    bos: Bos
    chat: Chat
    label_score: Score = "first"
    kept: list[int] = Field(min_length=1)
    ids: list[int]
    start: int
    content: str


KIND = signed_file.Kind(
    key="icl_lens_cache",
    version=2,
    header=Header,
    framework="pt",
    missing_hint="create it with `icl-lens compress`",
    kind_error="is not a cache of icl-lens",
    format_name="the cache format",
)


@dataclass(frozen=True)
class Cache:
    """A cache read from a file.

    Attributes:
        header: The header.
        compressed: The kept keys and values.
    """

    header: Header
    compressed: Compressed


def save(path: Path | str, compressed: Compressed, **fields: object) -> Header:
    """Write a cache to a file, atomically.

    Args:
        path: The file.
        compressed: The kept keys and values.
        fields: The fields of the header that are not derived from ``compressed``, except for ``format`` and ``content``.
    """
    tensors = {}
    for name in ("keys", "values"):
        for layer, tensor in enumerate(getattr(compressed.prefix, name)):
            tensors[f"{name}.{layer}"] = tensor.detach().cpu().contiguous()  # (1, H_kv, K, d)
    ids, kept = compressed.ids.tolist(), compressed.kept.tolist()
    return KIND.write(path, tensors, kept=kept, ids=ids, start=len(ids), **fields)


def read_header(path: Path | str) -> Header:
    """Read the header of a cache, without the tensors.

    Raises:
        InputError: The file is missing, is not a cache, is corrupted, or has another format version.
    """
    header = KIND.read_header(path)
    require_consistent(path, header)
    ordered = header.kept == sorted(set(header.kept)) and header.kept[0] >= 0 and header.kept[-1] < header.start
    numbered = len(header.ids) == header.start and all(0 <= token < 2**31 for token in header.ids)
    if not ordered or not numbered:
        raise signed_file.inconsistent(path)
    return header


def load(path: Path | str, model: LanguageModel, folder: Path | str) -> Cache:
    """Read a cache for a model.

    Args:
        path: The file.
        model: The model.
        folder: The folder of its checkpoint.

    Raises:
        InputError: See :func:`read_header`; or the cache was made with another model or tokenizer, or its tensors are
            corrupted.
    """
    header = read_header(path)
    advice = ("compress the demonstrations with this model", "compress the demonstrations with this tokenizer")
    require_same_model(path, header.made_by, identify(model, folder), advice)
    layers = range(model.layers)
    tensors = KIND.read_tensors(path, header, [f"{name}.{layer}" for name in ("keys", "values") for layer in layers])
    shapes = {tensor.shape[::2] for tensor in tensors.values() if tensor.dim() == 4}  # (1, K)
    if shapes != {(1, len(header.kept))}:
        raise signed_file.corrupted(path)
    keys, values = (tuple(tensors[f"{name}.{layer}"].to(model.device) for layer in layers) for name in ("keys", "values"))
    kept = np.array(header.kept, dtype=np.int64)
    return Cache(header, Compressed(Prefix(keys, values, len(kept)), kept, np.array(header.ids, dtype=np.int64)))
