"""A language model: a loaded decoder-only checkpoint, what identifies it, and what its family can do."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from icl_lens.attention import flow, last_layer
from icl_lens.models import prefixes
from icl_lens.network import layer_states, memory, vocabulary

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LanguageModel:
    """A loaded checkpoint.

    Attributes:
        name: Its name in artifacts.
        network: The model, in evaluation mode, parameters frozen.
        tokenizer: Its fast tokenizer.
        dtype: Name of the number format of its weights.
        facts: What identifies it, for provenance: family, layers, heads, parameters, hash of its files; for a fetched model its
            name on the Hub and its commit; for one converted from a GGUF file that file's name, SHA-256 and quantisation.
    """

    name: str
    network: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    dtype: str
    facts: dict[str, Any]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.network.device

    @property
    def layers(self) -> int:
        """Number of layers."""
        return self.network.config.get_text_config().num_hidden_layers

    @property
    def context(self) -> int | None:
        """Most tokens that a prompt may have; None if the architecture has no limit.

        Rotary positions that change with the length (longrope, dynamic) count up to the length where they start to change:
        beyond it, a prompt's answer would depend on the other prompts in its batch, or on earlier ones.
        """
        shape = self.network.config.get_text_config()
        bounds = [getattr(shape, "max_position_embeddings", None)]
        rotary = getattr(shape, "rope_parameters", None) or {}
        for parameters in [rotary, *(part for part in rotary.values() if isinstance(part, dict))]:  # one per kind of layer
            if parameters.get("rope_type") in ("longrope", "dynamic"):
                bounds.append(parameters.get("original_max_position_embeddings"))
        return min((bound for bound in bounds if bound), default=None)

    @cached_property
    def sizes(self) -> memory.Sizes:
        """The sizes that limit a batch."""
        return memory.sizes(self.network)

    @cached_property
    def shares_prefixes(self) -> bool:
        """Whether prompts can share the keys and values of a common beginning; tested on first use."""
        shareable = prefixes.is_shareable(self.network)
        if not shareable:
            logger.info("model %s cannot share a prefix: each prompt is read whole", self.name)
        return shareable

    @cached_property
    def ends_in_rows(self) -> bool:
        """Whether its last layer can compute one row per prompt, see :func:`icl_lens.attention.flow.ends_in_rows`."""
        can = flow.ends_in_rows(self.network)
        if not can:
            logger.info("the last layer of %s needs all positions: all are computed", self.name)
        return can

    @cached_property
    def resumes(self) -> bool:
        """Whether a forward pass can begin at a layer (:mod:`icl_lens.network.layer_states`); tested on first use."""
        can = layer_states.can_resume(self.network)
        if not can:
            logger.info("a forward pass of %s cannot begin at a later layer: all layers are computed", self.name)
        return can

    @cached_property
    def ends_in_vocabulary(self) -> bool:
        """Whether its vocabulary matrix returns its logits (:func:`icl_lens.network.vocabulary.is_last`)."""
        return vocabulary.is_last(self.network)

    @cached_property
    def ends_in_last_rows(self) -> last_layer.LastRows | None:
        """How its last layer can compute only the rows of next-token logits; None if it cannot.

        See :func:`icl_lens.attention.last_layer.ends_in_last_rows`.
        """
        return last_layer.ends_in_last_rows(self.network) if self.shares_prefixes else None
