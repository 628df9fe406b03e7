"""Language model: a loaded decoder-only checkpoint with identifying facts and the capabilities of its family."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from icl_lens.attention import flow
from icl_lens.models import last_row, prefixes
from icl_lens.network import layer_states, memory, vocabulary
from icl_lens.network.placement import Limits, device_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LanguageModel:
    """A loaded checkpoint.

    Attributes:
        name: Name of the model in artifacts.
        network: The model in evaluation mode, with frozen parameters.
        tokenizer: The fast tokenizer of the model.
        dtype: Name of the number format of the weights.
        facts: Facts that identify the model, for provenance: family, layers, heads, parameters and the hash of its files. A
            model from the Hub also has its Hub name and commit. A model converted from a GGUF file also has the name, SHA-256
            and quantisation of this file. A model with quantised weights has their format, and a model with an adapter has
            the adapter's name and the hash of its files.
        limits: Memory limits with which the layers were distributed over devices; None for a model on one device.
    """

    name: str
    network: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    dtype: str
    facts: dict[str, Any]
    limits: Limits | None = None

    @property
    def device(self) -> torch.device:
        """Device of the inputs and outputs, and of the weights unless the layers are on several devices."""
        return device_of(self.network)

    @property
    def layers(self) -> int:
        """Number of layers."""
        return self.network.config.get_text_config().num_hidden_layers

    @property
    def context(self) -> int | None:
        """Context length: the maximum number of tokens in a prompt; None if the architecture has no limit.

        Some rotary embeddings change with the length (longrope, dynamic). For these, the limit is the length where they start
        to change. Beyond it, a prediction would depend on other prompts in the batch, or on earlier prompts.
        """
        shape = self.network.config.get_text_config()
        bounds = [getattr(shape, "max_position_embeddings", None)]
        rotary = getattr(shape, "rope_parameters", None) or {}
        for parameters in [rotary, *(part for part in rotary.values() if isinstance(part, dict))]:  # one per layer type
            if parameters.get("rope_type") in ("longrope", "dynamic"):
                bounds.append(parameters.get("original_max_position_embeddings"))
        return min((bound for bound in bounds if bound), default=None)

    @cached_property
    def sizes(self) -> memory.Sizes:
        """Sizes of the model that limit a batch."""
        return memory.sizes(self.network)

    @cached_property
    def shares_prefixes(self) -> bool:
        """Whether prompts can share the keys and values of a common prefix. The check runs on first use."""
        shareable = prefixes.is_shareable(self.network)
        if not shareable:
            logger.info("model %s does not support shared prefixes: each prompt is processed in full", self.name)
        return shareable

    @cached_property
    def supports_single_row(self) -> bool:
        """Whether the last layer can compute one row per prompt, see :func:`icl_lens.attention.flow.supports_single_row`."""
        supported = flow.supports_single_row(self.network)
        if not supported:
            logger.info("model %s: the last layer is computed at all positions, because it depends on all of them", self.name)
        return supported

    @cached_property
    def can_resume(self) -> bool:
        """Whether a forward pass can start at a later layer (:mod:`icl_lens.network.layer_states`).

        The check runs on first use.
        """
        supported = layer_states.can_resume(self.network)
        if not supported:
            logger.info("model %s: forward passes cannot start at a later layer, so all layers are computed", self.name)
        return supported

    @cached_property
    def defers_logits(self) -> bool:
        """Whether the vocabulary matrix returns the logits (:func:`icl_lens.network.vocabulary.is_plain`)."""
        return vocabulary.is_plain(self.network)

    @cached_property
    def last_row_mode(self) -> last_row.LastRowMode | None:
        """How the last layer can compute only the rows that the next-token logits need; None if it cannot.

        See :func:`icl_lens.models.last_row.last_row_mode`.
        """
        return last_row.last_row_mode(self.network) if self.shares_prefixes else None
