"""Use only some rows or positions of the vocabulary matrix, for studies that need only the logits of label words."""

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
    """Restrict the logits of a model to some tokens, in the given order. The last axis has length M instead of V.

    The values of these logits do not change, because model families process logits only elementwise (Gemma 2 caps them).

    Args:
        network: Any causal language model.
        tokens: Token ids, shape (M,).

    Yields:
        True if the logits are restricted. False if the vocabulary matrix is not a plain linear layer and is left unchanged.
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
    """Compute the logits of only one position per row of a batch, shape (B, 1, V).

    Args:
        network: A causal language model with a vocabulary matrix (:func:`size` is not 0).
        places: Index of this position among the inputs of the matrix, shape (B,).
    """
    whole = network.get_output_embeddings()
    network.set_output_embeddings(_Places(whole, places))
    try:
        yield
    finally:
        network.set_output_embeddings(whole)


@contextmanager
def late(network: PreTrainedModel) -> Iterator[None]:
    """Make a model return the inputs of its vocabulary matrix instead of logits.

    The matrix is large, and reading it for each of many small batches takes as long as the rest of a forward pass. A caller can
    collect the inputs of several batches and apply the matrix once.

    Args:
        network: A model for which :func:`is_last` is true.
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
    """Return whether the outputs of the vocabulary matrix are the logits, that is, later steps do not change them.

    The check compares both on a short input.
    """
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
    """Return the number of logits per position: V, or M inside :func:`only`; 0 if the model has no vocabulary matrix."""
    return getattr(network.get_output_embeddings(), "out_features", 0)


class _States(nn.Module):
    """Module that replaces the vocabulary matrix and returns its input."""

    def forward(self, state: Tensor) -> Tensor:
        return state


class _Places(nn.Module):
    """A linear layer that is applied to one position of each row."""

    def __init__(self, whole: nn.Module, places: Tensor) -> None:
        super().__init__()
        self.whole = [whole]  # in a list, so that it is not registered as a submodule
        self.index = torch.arange(len(places), device=places.device), places  # (B,), (B,)
        self.out_features = whole.out_features

    def forward(self, state: Tensor) -> Tensor:  # (B, U, d)
        return self.whole[0](state[self.index][:, None])  # (B, 1, V)


class _Rows(nn.Module):
    """Some rows of a linear layer."""

    def __init__(self, whole: nn.Linear, tokens: Tensor) -> None:
        super().__init__()
        # Plain attributes, because these are parameters of another layer.
        self.weight = whole.weight[tokens]  # (M, d)
        self.out_features = len(tokens)
        self.bias = None if whole.bias is None else whole.bias[tokens]  # (M,)

    def forward(self, state: Tensor) -> Tensor:
        return nn.functional.linear(state, self.weight, self.bias)
