"""Batch sizes: a token budget and, on a CPU, also a memory limit.

On a CPU the activations of one batch use at most :data:`LIMIT` bytes. A single prompt is never split, so a long prompt may use
more. The estimate for a row with Q input tokens and K keys, including those of a shared prefix, is

    4 bytes x (Q A + K C + 3 H Q K + 3 N V)

    A   Activations of a token: twice the outputs of the linear layers of one layer (projections and feed-forward). The second
        half is for norms, activation functions and rotary embeddings. A forward pass keeps the activations of one layer at a
        time. A backward pass needs those of all layers. ``states`` adds the hidden states, and the keys and values (three
        vectors), of all layers.
    C   A key and a value in one layer, concatenated with those of the prefix, and copied for each query head: 2 (H_kv + H) d.
        ``states`` adds 2 H_kv d for each layer.
    3   Attention scores, weights and a mask of H heads, in one layer.
    3   Logits over a vocabulary of V tokens at N positions, a copy in another number format, and probabilities.

The sizes are read from the model, so a new model family needs no entry here. On other devices only the token budget applies.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:  # the plan of a run uses this module without torch, which takes seconds to import
    from transformers import PreTrainedModel

from icl_lens.network.placement import device_of
from icl_lens.network.quantized import QuantizedLinear

LIMIT = 2**30
"""Maximum number of bytes of the activations of one batch on a CPU."""

SAMPLE = 8
"""Maximum number of prompts on which :func:`icl_lens.models.observed.observe` measures the loss."""

MAX_LOGITS = 2**26
"""Maximum number of logits that :func:`icl_lens.models.observed.observe` computes.

This number covers 256 tokens with a vocabulary of 262,144, or eight typical prompts with a vocabulary of 50,257. The logits use
a quarter of :data:`LIMIT`, and their log-probabilities another quarter.
"""

# For each row of a batch, a token of the prefix needs a copy of its keys and values in one layer. These are at most two vectors
# of the hidden size. A token of the tail needs at least eight such vectors (its residual state, its state after the norm and
# after attention, its query, key and value, and four vectors of the feed-forward layer).
TOKEN_SHARE = 0.25

Kept = Literal["layer", "states", "graph"]
"""Activations kept until a batch is done: one layer at a time, the states of all layers, or those for a backward pass."""


@dataclass(frozen=True)
class Sizes:
    """The sizes of a model that determine the memory of a batch.

    Attributes:
        layers: Number of layers, L.
        width: Width of the hidden states.
        outputs: Total number of outputs of the linear layers in one layer, averaged over the layers.
        heads: Query heads, H.
        key_width: Width of the keys of one token in one layer, H_kv d.
        head_width: Width of one head, d.
        vocabulary: Number of logits per position, V.
        bounded: Whether the memory limit applies, which is the case on a CPU.
    """

    layers: int
    width: int
    outputs: int
    heads: int
    key_width: int
    head_width: int
    vocabulary: int
    bounded: bool

    def row_bytes(self, queries: int, keys: int, kept: Kept = "layer", positions: int = 1) -> int:
        """Return the number of bytes of one row, see the module docstring.

        Args:
            queries: Number of input tokens, Q.
            keys: Number of keys that they attend to, K.
            kept: Activations that are kept until the batch is done.
            positions: Number of positions with logits, N.
        """
        token = 2 * self.outputs * (self.layers if kept == "graph" else 1)
        key = 2 * (self.key_width + self.heads * self.head_width)
        if kept == "states":
            token += self.layers * (self.width + 3 * self.key_width)
            key += self.layers * 2 * self.key_width
        scores = 3 * self.heads * queries * keys
        return 4 * (queries * token + keys * key + scores + 3 * positions * self.vocabulary)

    def max_cached_tokens(self, budget: int) -> int:
        """Return for how many tokens the keys and values of all layers may be kept between batches.

        Each of these tokens counts as :data:`TOKEN_SHARE` tokens of the budget.
        """
        tokens = int(budget / TOKEN_SHARE)
        return min(tokens, LIMIT // (4 * 2 * self.layers * self.key_width)) if self.bounded else tokens

    def max_rows(self, budget: int, queries: int, start: int = 0, kept: Kept = "layer", positions: int = 1) -> int:
        """Return the maximum number of rows in a batch, at least one.

        A row has ``queries`` tokens after a prefix of ``start`` tokens.

        Args:
            budget: Tokens per batch. A token of the prefix counts as :data:`TOKEN_SHARE` tokens.
            queries: Number of input tokens of the longest row, without the prefix.
            start: Number of tokens of the prefix.
            kept: See :meth:`row_bytes`.
            positions: See :meth:`row_bytes`.
        """
        rows = budget // (queries + TOKEN_SHARE * start)
        if self.bounded:
            rows = min(rows, LIMIT // self.row_bytes(queries, start + queries, kept, positions))
        return max(1, int(rows))


def sizes(network: PreTrainedModel) -> Sizes:
    """Read the sizes of a causal language model from its modules and its config."""
    shape = network.config.get_text_config()
    layers, width = shape.num_hidden_layers, network.get_input_embeddings().embedding_dim
    heads = getattr(shape, "num_attention_heads", None) or 1  # a state-space model has no heads
    head_width = getattr(shape, "head_dim", None) or width // heads
    key_heads = getattr(shape, "num_key_value_heads", None) or heads
    return Sizes(
        layers=layers,
        width=width,
        outputs=-(-sum(_outputs(network)) // layers),
        heads=heads,
        key_width=key_heads * head_width,
        head_width=head_width,
        vocabulary=shape.vocab_size,
        bounded=device_of(network).type == "cpu",
    )


def _outputs(network: PreTrainedModel) -> Iterator[int]:
    """Yield the outputs per token of each linear layer of the language model, including all experts a token is routed to."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    experts_per_token = getattr(network.config.get_text_config(), "num_experts_per_tok", None) or 1
    for module in network.get_decoder().modules():
        if isinstance(module, nn.Linear | QuantizedLinear):
            yield module.out_features
        elif isinstance(module, Conv1D):
            yield module.nf
        else:  # the matrices of all experts are stacked in one parameter
            yield from (experts_per_token * p.shape[1] for p in module.parameters(recurse=False) if p.ndim == 3)
