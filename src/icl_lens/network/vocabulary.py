"""Use only some rows or positions of the vocabulary matrix, for studies that need only the logits of label words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from icl_lens.network import model_cache
from icl_lens.network.forward_inputs import forward_inputs
from icl_lens.network.placement import device_of, read_parameter
from icl_lens.network.precision import exact_products


@contextmanager
def restrict_tokens(network: PreTrainedModel, tokens: Tensor) -> Iterator[bool]:
    """Restrict the logits of a model to some tokens, in the given order. The last axis has length M instead of V.

    The values of these logits do not change, because model families process logits only elementwise (Gemma 2 caps them).

    Args:
        network: Any causal language model.
        tokens: Token ids, shape (M,).

    Yields:
        True if the logits are restricted. False if the vocabulary matrix is not a plain linear layer and is left unchanged.
    """
    matrix = network.get_output_embeddings()
    if type(matrix) is not nn.Linear:
        yield False
        return
    network.set_output_embeddings(_Rows(matrix, tokens))
    try:
        yield True
    finally:
        network.set_output_embeddings(matrix)


@contextmanager
def restrict_positions(network: PreTrainedModel, rows: Tensor, positions: Tensor) -> Iterator[None]:
    """Compute the logits of only some positions of a batch, shape (E, 1, V).

    Args:
        network: A causal language model with a vocabulary matrix (:func:`size` is not 0).
        rows: Row of each of these positions in the batch, shape (E,).
        positions: Index of each of these positions among the inputs of the matrix, shape (E,).
    """
    matrix = network.get_output_embeddings()
    network.set_output_embeddings(_SomePositions(matrix, rows, positions))
    try:
        yield
    finally:
        network.set_output_embeddings(matrix)


@contextmanager
def defer(network: PreTrainedModel) -> Iterator[None]:
    """Make a model return the inputs of its vocabulary matrix instead of logits.

    The matrix is large, and reading it for each of many small batches takes as long as the rest of a forward pass. A caller can
    collect the inputs of several batches and apply the matrix once.

    Args:
        network: A model for which :func:`is_plain` is true.
    """
    matrix = network.get_output_embeddings()
    network.set_output_embeddings(_Identity())
    try:
        yield
    finally:
        network.set_output_embeddings(matrix)


@exact_products()
@torch.no_grad()
@model_cache.cached_check
def is_plain(network: PreTrainedModel) -> bool:
    """Return whether the outputs of the vocabulary matrix are the logits, that is, later steps do not change them.

    The check compares both on a short input.
    """
    if type(network.get_output_embeddings()) is not nn.Linear:
        return False
    ids = torch.arange(1, 9, device=device_of(network))[None] % network.get_input_embeddings().num_embeddings  # (1, T)
    with restrict_tokens(network, ids[0]):
        plain = network(**forward_inputs(ids)).logits  # (1, T, 8)
        matrix = network.get_output_embeddings()
        with defer(network):
            states = network(**forward_inputs(ids)).logits  # (1, T, d)
        logits = matrix(states)  # (1, T, 8)
    tolerance = 1e-4 if network.dtype in (torch.float32, torch.float64) else 0.05  # see prefixes.is_shareable
    return bool((plain - logits).abs().max() <= tolerance * plain.abs().max())


def size(network: PreTrainedModel) -> int:
    """Return the number of logits per position: V, or M inside :func:`restrict_tokens`; 0 without a vocabulary matrix."""
    return getattr(network.get_output_embeddings(), "out_features", 0)


class _Identity(nn.Module):
    """Module that replaces the vocabulary matrix and returns its input."""

    def forward(self, state: Tensor) -> Tensor:
        return state


class _SomePositions(nn.Module):
    """A linear layer that is applied to some positions of a batch."""

    def __init__(self, matrix: nn.Module, rows: Tensor, positions: Tensor) -> None:
        super().__init__()
        self.matrix = [matrix]  # in a list, so that it is not registered as a submodule
        self.index = rows, positions  # (E,) each
        self.out_features = matrix.out_features

    def forward(self, state: Tensor) -> Tensor:  # (B, U, d)
        index = tuple(x.to(state.device) for x in self.index)
        return self.matrix[0](state[index][:, None])  # (E, 1, V)


class _Rows(nn.Module):
    """Some rows of a linear layer."""

    def __init__(self, matrix: nn.Linear, tokens: Tensor) -> None:
        super().__init__()
        # Plain attributes, because these are parameters of another layer.
        self.weight = _rows_of(matrix, "weight", tokens)  # (M, d)
        self.out_features = len(tokens)
        self.bias = None if matrix.bias is None else _rows_of(matrix, "bias", tokens)  # (M,)

    def forward(self, state: Tensor) -> Tensor:
        return nn.functional.linear(state.to(self.weight.device), self.weight, self.bias)


def _rows_of(matrix: nn.Linear, name: str, tokens: Tensor) -> Tensor:
    """Return some rows of a parameter, on the device of the tokens. Of an offloaded parameter, only these rows are kept."""
    parameter = read_parameter(matrix, name)
    return parameter[tokens.to(parameter.device)].to(tokens.device)
