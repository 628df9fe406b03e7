"""Use only some rows or positions of the vocabulary matrix, for a study that needs only the logits of label words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from icl_lens.network import model_cache
from icl_lens.network.precision import exact_products


@contextmanager
def only(network: PreTrainedModel, tokens: Tensor) -> Iterator[bool]:
    """While open, a model's logits are those of some tokens only, last axis M instead of V, in the order given.

    What a family does to its logits after the matrix (Gemma 2 caps them) is elementwise, so they do not change.

    Args:
        network: Any causal language model.
        tokens: Token ids, shape (M,).

    Yields:
        Whether this is so; a vocabulary matrix that is not a plain linear layer is left whole.
    """
    whole = network.get_output_embeddings()
    if type(whole) is not nn.Linear:
        yield False
        return
    network.set_output_embeddings(_Rows(whole, tokens))
    try:
        yield True
    finally:
        network.set_output_embeddings(whole)


@contextmanager
def rows(network: PreTrainedModel, places: Tensor) -> Iterator[None]:
    """While open, the logits of each row of a batch are those of one position, shape (B, 1, V); no others are computed.

    Args:
        network: A causal language model with a vocabulary matrix (:func:`size` is not 0).
        places: The index of this position among those given to the matrix, shape (B,).
    """
    whole = network.get_output_embeddings()
    network.set_output_embeddings(_Places(whole, places))
    try:
        yield
    finally:
        network.set_output_embeddings(whole)


@contextmanager
def late(network: PreTrainedModel) -> Iterator[None]:
    """While open, a model returns the inputs of its vocabulary matrix in place of logits.

    The matrix is large: reading it for each of many small batches takes as long as the rest of a forward pass. With the inputs
    of several batches it can be applied once.

    Args:
        network: A model for which :func:`is_last` holds.
    """
    whole = network.get_output_embeddings()
    network.set_output_embeddings(_States())
    try:
        yield
    finally:
        network.set_output_embeddings(whole)


@exact_products()
@torch.no_grad()
@model_cache.cached_check
def is_last(network: PreTrainedModel) -> bool:
    """Whether the vocabulary matrix returns the logits: on a short input, nothing changes them after it."""
    if type(network.get_output_embeddings()) is not nn.Linear:
        return False
    ids = torch.arange(1, 9, device=network.device)[None] % network.get_input_embeddings().num_embeddings  # (1, T)
    with only(network, ids[0]):
        plain = network(input_ids=ids, use_cache=False).logits  # (1, T, 8)
        matrix = network.get_output_embeddings()
        with late(network):
            states = network(input_ids=ids, use_cache=False).logits  # (1, T, d)
        found = matrix(states)  # (1, T, 8)
    tolerance = 1e-4 if network.dtype in (torch.float32, torch.float64) else 0.05  # see prefixes.is_shareable
    return bool((plain - found).abs().max() <= tolerance * plain.abs().max())


def size(network: PreTrainedModel) -> int:
    """Number of logits per position, V, or M inside :func:`only`; 0 if the family has no vocabulary matrix of its own."""
    return getattr(network.get_output_embeddings(), "out_features", 0)


class _States(nn.Module):
    """In place of a vocabulary matrix: returns its input."""

    def forward(self, state: Tensor) -> Tensor:
        return state


class _Places(nn.Module):
    """A linear layer at one position of each row."""

    def __init__(self, whole: nn.Module, places: Tensor) -> None:
        super().__init__()
        self.whole = [whole]  # in a list: it is another module's child
        self.index = torch.arange(len(places), device=places.device), places  # (B,), (B,)
        self.out_features = whole.out_features

    def forward(self, state: Tensor) -> Tensor:  # (B, U, d)
        return self.whole[0](state[self.index][:, None])  # (B, 1, V)


class _Rows(nn.Module):
    """Some rows of a linear layer."""

    def __init__(self, whole: nn.Linear, tokens: Tensor) -> None:
        super().__init__()
        # Plain attributes: they are another layer's parameters.
        self.weight = whole.weight[tokens]  # (M, d)
        self.out_features = len(tokens)
        self.bias = None if whole.bias is None else whole.bias[tokens]  # (M,)

    def forward(self, state: Tensor) -> Tensor:
        return nn.functional.linear(state, self.weight, self.bias)
