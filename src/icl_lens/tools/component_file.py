"""Re-weighted components as one file: a weight per head and MLP, and a header that says what they were made from.

The tensors are ``weights``, float32, shape (M,), in the order of
:func:`icl_lens.studies.component_reweighting.decomposition.parts` without embedding and constant, and ``layer`` and ``head``
alike (head -1: the layer's MLP); see :mod:`icl_lens.artifacts.signed_file`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydantic import Field

from icl_lens.artifacts import signed_file
from icl_lens.models.language_model import LanguageModel
from icl_lens.prompts.positions import Bos
from icl_lens.section import Section
from icl_lens.tools.model_identity import ModelIdentity, identify, require_same


class Header(Section):
    """The header of such a file.

    Attributes:
        format: The version of the format.
        made_by: Model and tokenizer.
        dtype: Of the model.
        matmul: How products were asked for, exact or fast; None in a file made before there was a choice.
        products: The format in which the device computed them, see :func:`icl_lens.network.precision.measured`.
        task: The task's name.
        template: Its template.
        label_words: Its label words, leading blanks included.
        texts: The demonstrations' texts, in order.
        labels: Their class indices.
        bos: Whether a beginning-of-sequence token was put first, see :func:`icl_lens.prompts.positions.tokenize`.
        chat: Whether the prompt is written as a chat.
        trained_on: How many texts the weights were trained on, besides the demonstrations.
        epochs: How many steps that took.
        right_before: How many of them the whole model answers right.
        right_after: How many the re-weighted components do.
        content: SHA-256 of the tensors.
    """

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
    chat: bool
    trained_on: int = Field(ge=1)
    epochs: int
    right_before: int
    right_after: int
    content: str


KIND = signed_file.Kind(
    key="icl_lens_components",
    version=1,
    header=Header,
    framework="numpy",
    absent="`icl-lens reweight-components` makes such a file",
    foreign="holds no components of icl-lens",
    named="its format",
)


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
    return KIND.write(path, tensors, **about)


def read_header(path: Path | str) -> Header:
    """The header of a file of weights; its tensors are not read.

    Raises:
        InputError: The file is absent, holds no such weights, is damaged, or of another version of the format.
    """
    header = KIND.read_header(path)
    if len(header.labels) != len(header.texts) or not all(0 <= c < len(header.label_words) for c in header.labels):
        raise signed_file.contradictory(path)
    return header


def load(path: Path | str, model: LanguageModel, folder: Path | str) -> np.ndarray:
    """The weights in a file, for a model, shape (M,).

    Args:
        path: The file.
        model: The model.
        folder: Its checkpoint's.

    Raises:
        InputError: As :func:`read_header`; or they are another model's or tokenizer's, or are damaged.
    """
    header = read_header(path)
    instead = ("re-weight the components of this one", "re-weight the components with this one")
    require_same(path, header.made_by, identify(model, folder), instead)
    return KIND.read_tensors(path, header, ("weights", "layer", "head"))["weights"]
