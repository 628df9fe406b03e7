"""Multiply attention weights after the softmax, without renormalising."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor
from transformers import PreTrainedModel

from icl_lens.attention.kernels import edited


@contextmanager
def scale(network: PreTrainedModel, factors: Mapping[int, Tensor]) -> Iterator[None]:
    """Multiply attention weights after the softmax, without renormalising (anchor re-weighting, section 3.1, eq. 9).

    Args:
        network: Any supported model.
        factors: Layer -> factors that broadcast to (B, H, Q, K); gradients flow to them.
    """

    def multiply(layer: int, weights: Tensor) -> Tensor:
        return weights * factors[layer].to(weights) if layer in factors else weights

    with edited(network, multiply):
        yield


@contextmanager
def scale_rows(network: PreTrainedModel) -> Iterator[Callable[[Tensor, Tensor, Tensor], None]]:
    """Multiply the attention weights of one row per prompt for some keys after the softmax, without renormalising.

    This equals :func:`scale` with factors that are 1 elsewhere, but needs no matrices of factors. Anchor re-weighting scales
    the last row (section 3.1, eq. 9 and 12). Gradients flow to the factors. One open context can be used for many forward
    passes.

    Yields:
        A function ``(rows, keys, factors)`` that sets the factors for the next forward passes. ``rows`` is the position of the
        row of each prompt, shape (B,). ``keys`` are the distinct key positions to scale, shape (B, D). Both are counted from
        the beginning of the whole prompt. ``factors`` are the factors of all layers, shape (L, B, H, D). Before the first call,
        nothing is scaled.
    """
    edit = _ScaledRows()
    with edited(network, edit):
        yield edit.set_factors


class _ScaledRows:
    """Edit that scales some entries of one row per prompt."""

    def __init__(self) -> None:
        self.factors: Tensor | None = None

    def set_factors(self, rows: Tensor, keys: Tensor, factors: Tensor) -> None:
        self.rows, self.keys, self.factors = rows, keys, factors  # (B,), (B, D), (L, B, H, D)

    def __call__(self, layer: int, weights: Tensor) -> Tensor:
        if self.factors is None:
            return weights
        batch, heads, queries, width = weights.shape
        index = (
            torch.arange(batch, device=weights.device)[:, None, None],
            torch.arange(heads, device=weights.device)[:, None],
            (self.rows.to(weights.device) - (width - queries))[:, None, None],  # the queries are the last positions
            self.keys.to(weights.device)[:, None],
        )
        return weights.index_put(index, weights[index] * self.factors[layer].to(weights))  # (B, H, Q, K)
