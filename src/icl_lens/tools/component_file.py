"""File format of re-weighted components: one weight per head and MLP, and a header that describes how they were made.

The tensors are ``weights`` (float32), ``layer`` and ``head`` (-1 for the MLP of the layer), each of shape (M,). Their order is
that of :func:`icl_lens.studies.component_reweighting.decomposition.parts`, without the embedding and the constant. See also
:mod:`icl_lens.artifacts.signed_file`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydantic import Field

from icl_lens.artifacts import signed_file
from icl_lens.models.language_model import LanguageModel
from icl_lens.prompts.forms import Bos, Chat
from icl_lens.section import Section
from icl_lens.tools.model_identity import ModelIdentity, identify, require_same_model
from icl_lens.tools.task_header import require_consistent


class Header(Section):
    """Header of a file of re-weighted components.

    Attributes:
        format: The version of the file format.
        made_by: The model and tokenizer that the file was made with.
        dtype: The number format of the model.
        matmul: The requested matrix multiplication mode, exact or fast; None in files from before this option existed.
        products: The format in which the device computed the products, see :func:`icl_lens.network.precision.measured_format`.
        task: The name of the task.
        template: The template of the task.
        label_words: The label words of the task, including leading spaces.
        texts: The texts of the demonstrations, in order.
        labels: The class indices of the demonstrations.
        bos: Whether the BOS token was prepended, see :func:`icl_lens.prompts.positions.tokenize`.
        chat: Whether the prompt is written as a chat, and in which form, see :func:`icl_lens.prompts.chat.convert`.
        trained_on: The number of texts on which the weights were trained, without the demonstrations.
        epochs: The number of training steps.
        right_before: The number of these texts that the whole model classifies correctly.
        right_after: The number of these texts that the re-weighted components classify correctly.
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
    chat: Chat
    trained_on: int = Field(ge=1)
    epochs: int
    right_before: int
    right_after: int
    content: str


KIND = signed_file.Kind(
    key="icl_lens_components",
    version=2,
    header=Header,
    framework="numpy",
    missing_hint="create it with `icl-lens reweight-components`",
    kind_error="is not a file of re-weighted components of icl-lens",
    format_name="the file format",
)


def save(path: Path | str, weights: np.ndarray, layer: np.ndarray, head: np.ndarray, **fields: object) -> Header:
    """Write the weights to a file, atomically.

    Args:
        path: The file.
        weights: The weights of the components, shape (M,).
        layer: The layer of each component, shape (M,).
        head: The head of each component, -1 for an MLP, shape (M,).
        fields: The fields of the header except for ``format`` and ``content``.
    """
    tensors = {"weights": weights.astype(np.float32), "layer": layer.astype(np.int64), "head": head.astype(np.int64)}
    return KIND.write(path, tensors, **fields)


def read_header(path: Path | str) -> Header:
    """Read the header of a file of re-weighted components, without the tensors.

    Raises:
        InputError: The file is missing, is not a file of re-weighted components, is corrupted, or has another format version.
    """
    header = KIND.read_header(path)
    require_consistent(path, header)
    return header


def load(path: Path | str, model: LanguageModel, folder: Path | str) -> np.ndarray:
    """Read the weights of a model's components, shape (M,).

    Args:
        path: The file.
        model: The model.
        folder: The folder of its checkpoint.

    Raises:
        InputError: See :func:`read_header`; or the file was made with another model or tokenizer, or the tensors are corrupted.
    """
    header = read_header(path)
    advice = ("re-weight the components of this model", "re-weight the components with this tokenizer")
    require_same_model(path, header.made_by, identify(model, folder), advice)
    return KIND.read_tensors(path, header, ("weights", "layer", "head"))["weights"]
