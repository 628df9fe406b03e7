"""The number of prompts in a batch: a budget of tokens, and on a CPU also a limit of memory.

On a CPU the activations of one batch use at most :data:`LIMIT` bytes (a single prompt is never split, so a long one may use
more). A row that reads Q tokens and sees K keys, including a shared prefix, is counted as

    4 bytes x (Q A + K C + 3 H Q K + 3 N V)

    A   activations of a token: twice the outputs of one layer's linear layers (projections and feed-forward); the other half
        is for norms, activation functions and rotary embeddings. A forward pass keeps those of one layer at a time; a backward
        pass needs those of all layers. ``states`` adds hidden states, and keys and values (three vectors), of all layers.
    C   a key and a value in one layer, concatenated with those of the prefix, and again for each query head: 2 (H_kv + H) d.
        ``states`` adds 2 H_kv d for each layer.
    3   attention scores, weights and a mask of H heads, in one layer.
    3   logits over a vocabulary of V tokens at N positions, a copy in another number format, and probabilities.

The sizes are read from the model, so a new family needs no entry here. On other devices only the budget of tokens applies.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

LIMIT = 2**30
"""Most bytes of the activations of one batch on a CPU."""

# A token of the prefix costs a row of a batch a copy of its keys and values in one layer: two vectors of the hidden size at
# most, where a token of the tail costs at least eight (its residual, normed and attended state, its query, key and value, and
# four of the feed-forward layer).
TOKEN_SHARE = 0.25

Kept = Literal["layer", "states", "graph"]
"""What is kept until a batch is done: one layer at a time, the states of all layers, or all that a backward pass needs."""


@dataclass(frozen=True)
class Sizes:
    """The sizes of a model that determine the memory of a batch.

    Attributes:
        layers: Number of layers, L.
        width: Of its hidden states.
        outputs: Outputs of one layer's linear layers together, on average over the layers.
        heads: Query heads, H.
        memory: Width of one token's keys in one layer, H_kv d.
        head: Width of one head, d.
        vocabulary: Entries of its logits, V.
        bounded: Whether it is on a CPU.
    """

    layers: int
    width: int
    outputs: int
    heads: int
    memory: int
    head: int
    vocabulary: int
    bounded: bool

    def row(self, queries: int, keys: int, kept: Kept = "layer", positions: int = 1) -> int:
        """Bytes of one row, see the module's docstring.

        Args:
            queries: Tokens read, Q.
            keys: Keys that they see, K.
            kept: What is kept until the batch is done.
            positions: Positions whose logits are computed, N.
        """
        token = 2 * self.outputs * (self.layers if kept == "graph" else 1)
        key = 2 * (self.memory + self.heads * self.head)
        if kept == "states":
            token += self.layers * (self.width + 3 * self.memory)
            key += self.layers * 2 * self.memory
        scores = 3 * self.heads * queries * keys
        return 4 * (queries * token + keys * key + scores + 3 * positions * self.vocabulary)

    def held(self, budget: int) -> int:
        """Tokens whose keys and values in all layers may be kept between batches; each counts :data:`TOKEN_SHARE`."""
        tokens = int(budget / TOKEN_SHARE)
        return min(tokens, LIMIT // (4 * 2 * self.layers * self.memory)) if self.bounded else tokens

    def rows(self, budget: int, queries: int, start: int = 0, kept: Kept = "layer", positions: int = 1) -> int:
        """Number of rows of ``queries`` tokens after a prefix of ``start`` tokens that a batch may have; at least one.

        Args:
            budget: Tokens per batch; a token of the prefix counts :data:`TOKEN_SHARE`.
            queries: Tokens of the longest row that are read here.
            start: Tokens of the prefix.
            kept: See :meth:`row`.
            positions: See :meth:`row`.
        """
        rows = budget // (queries + TOKEN_SHARE * start)
        if self.bounded:
            rows = min(rows, LIMIT // self.row(queries, start + queries, kept, positions))
        return max(1, int(rows))


def sizes(network: PreTrainedModel) -> Sizes:
    """The sizes of a causal language model, read from its modules and its config."""
    shape = network.config.get_text_config()
    layers, width = shape.num_hidden_layers, network.get_input_embeddings().embedding_dim
    heads = getattr(shape, "num_attention_heads", None) or 1  # a state-space model has none
    head = getattr(shape, "head_dim", None) or width // heads
    shared = getattr(shape, "num_key_value_heads", None) or heads
    return Sizes(
        layers=layers,
        width=width,
        outputs=-(-sum(_outputs(network)) // layers),
        heads=heads,
        memory=shared * head,
        head=head,
        vocabulary=shape.vocab_size,
        bounded=network.device.type == "cpu",
    )


def _outputs(network: PreTrainedModel) -> Iterator[int]:
    """Outputs per token of each linear layer of the language model, including all experts that a token is routed to."""
    chosen = getattr(network.config.get_text_config(), "num_experts_per_tok", None) or 1
    for module in network.get_decoder().modules():
        if isinstance(module, nn.Linear):
            yield module.out_features
        elif isinstance(module, Conv1D):
            yield module.nf
        else:  # experts: one matrix each, stacked in one parameter
            yield from (chosen * p.shape[1] for p in module.parameters(recurse=False) if p.ndim == 3)
