"""Options with which a model is loaded and run. This module does not import torch.

Each option is a field of one of two classes, which the command line, the studies and the tools pass on as a whole:

- :class:`LoadOptions`: how to load a model (:func:`icl_lens.models.loading.load`);
- :class:`RunOptions`: how to run it and how to write its prompts (:func:`icl_lens.studies.computing.compute`).

A new option is a field here, an entry in :data:`icl_lens.cli.options.MODEL_OPTIONS`, and the code that uses it. If the config
can set it, it is also a key of :class:`icl_lens.config.keys.Model` or of the config itself, which workflow/rules/common.smk
passes on (model_options).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from icl_lens.prompts.forms import Anchor, Bos, Chat, Score


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """How to load a model.

    Attributes:
        name: Name of the model in artifacts. The default is the name on the Hub for a fetched model, the name of the GGUF file
            for a converted model, and otherwise the name of the folder.
        device: auto, cpu, cuda or mps.
        dtype: float32, float16 or bfloat16.
        untrained_seed: Seed of random weights that replace the weights of the checkpoint
            (:func:`icl_lens.models.untrained.untrained`); None to keep them.
        adapter: Folder of a LoRA adapter that is merged into the weights (:mod:`icl_lens.models.lora`); None for no adapter.
        placement: ``device`` for a model on one device. ``auto`` to distribute its layers over all cards, the main memory and
            the disk (:mod:`icl_lens.network.placement`). It changes results only by rounding.
        max_memory: With ``auto``, how much memory the layers may use on a device (:func:`icl_lens.network.max_memory.parse`).
    """

    name: str | None = None
    device: str = "auto"
    dtype: str = "float32"
    untrained_seed: int | None = None
    adapter: Path | str | None = None
    placement: str = "device"
    max_memory: Mapping[str, str] | None = None


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How to run a model, and how to write its prompts.

    Attributes:
        matmul: How to compute products of float32 matrices, exact or fast, see :func:`icl_lens.network.precision.products`.
        batch_tokens: Number of tokens per batch, including padding (:func:`icl_lens.models.batching.batches`).
        bos: Whether to prepend the BOS token to each prompt, see :func:`icl_lens.prompts.positions.tokenize`.
        as_chat: Whether to convert each prompt to a chat first, and to which form, see :func:`icl_lens.prompts.chat.convert`.
        label_score: Whether a class is predicted by the first token of its label word or by the whole word, see
            :mod:`icl_lens.prompts.label_words`.
        label_anchor: Which tokens of a label word are its anchors, see :func:`icl_lens.prompts.positions.tokenize`.
    """

    matmul: str = "exact"
    batch_tokens: int = 4096
    bos: Bos = "auto"
    as_chat: Chat = False
    label_score: Score = "first"
    label_anchor: Anchor = "first"

    @property
    def labels(self) -> dict[str, str]:
        """The options about label words that differ from the default, by their keys under ``labels`` in the config."""
        found = {"score": self.label_score, "anchor": self.label_anchor}
        return {key: value for key, value in found.items() if value != "first"}


def merge(load: LoadOptions | None, options: RunOptions | None, **changes: Any) -> tuple[LoadOptions, RunOptions]:
    """Return the options of both kinds, the defaults for None, with some of them changed.

    Args:
        load: How to load a model.
        options: How to run it.
        changes: Values of options of either kind, by name.

    Raises:
        TypeError: There is no option of this name.
    """
    to_load = {field.name for field in fields(LoadOptions)}
    return (
        replace(load or LoadOptions(), **{name: value for name, value in changes.items() if name in to_load}),
        replace(options or RunOptions(), **{name: value for name, value in changes.items() if name not in to_load}),
    )
