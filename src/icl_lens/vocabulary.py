"""The vocabulary matrix, or a few of its rows: a study that asks for label words' logits need not meet all the others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

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


class _Rows(nn.Module):
    """Some rows of a linear layer."""

    def __init__(self, whole: nn.Linear, tokens: Tensor) -> None:
        super().__init__()
        # Plain attributes: they are another layer's parameters.
        self.weight = whole.weight[tokens]  # (M, d)
        self.bias = None if whole.bias is None else whole.bias[tokens]  # (M,)

    def forward(self, state: Tensor) -> Tensor:
        return nn.functional.linear(state, self.weight, self.bias)
