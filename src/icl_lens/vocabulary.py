"""The vocabulary matrix, or a few of its rows: a study that asks for label words' logits need not meet all the others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


@contextmanager
def only(network: PreTrainedModel, tokens: Tensor) -> Iterator[bool]:
    """While open, a model's logits are those of some tokens alone, last axis M instead of V, in the order given.

    What a family does to its logits behind the matrix (Gemma 2 caps them) it does to each by itself, so none changes.

    Args:
        network: Any causal language model.
        tokens: Token ids, shape (M,).

    Yields:
        Whether it is so; a vocabulary matrix that is no plain linear layer stays whole.
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
    """While open, the logits of each row of a batch are those of one position, shape (B, 1, V), and no others are made.

    Args:
        network: A causal language model with a vocabulary matrix (:func:`size` is not 0).
        places: Which of the positions that the matrix would meet, shape (B,).
    """
    whole = network.get_output_embeddings()
    network.set_output_embeddings(_Places(whole, places))
    try:
        yield
    finally:
        network.set_output_embeddings(whole)


def size(network: PreTrainedModel) -> int:
    """How many logits a position has, V, or M inside :func:`only`; 0 where the family has no vocabulary matrix of its own."""
    return getattr(network.get_output_embeddings(), "out_features", 0)


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
        self.rows = whole.weight[tokens]  # (M, d)
        self.out_features = len(tokens)
        self.offset = None if whole.bias is None else whole.bias[tokens]  # (M,)

    def forward(self, state: Tensor) -> Tensor:
        return nn.functional.linear(state, self.rows, self.offset)
