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
def scale_rows(network: PreTrainedModel) -> Iterator[Callable[..., None]]:
    """Multiply the attention weights of some rows for some keys after the softmax, without renormalising.

    This equals :func:`scale` with factors that are 1 elsewhere, but needs no matrices of factors. Anchor re-weighting scales
    the last row (section 3.1, eq. 9 and 12). Gradients flow to the factors. One open context can be used for many forward
    passes.

    Yields:
        A function ``(rows, keys, factors, prompts=None)`` that sets the factors for the next forward passes. ``rows`` are the
        positions of E different rows, shape (E,), and ``prompts`` the prompts that they belong to, shape (E,); by default, one
        row per prompt. ``keys`` are the distinct key positions to scale, shape (E, A). Rows and keys are counted from the
        beginning of the whole prompt. ``factors`` are the factors of all layers, shape (L, E, H, A). Before the first call,
        nothing is scaled.
    """
    edit = _ScaledRows()
    with edited(network, edit):
        yield edit.set_factors


class _ScaledRows:
    """Edit that scales some entries of some rows."""

    def __init__(self) -> None:
        self.factors: Tensor | None = None

    def set_factors(self, rows: Tensor, keys: Tensor, factors: Tensor, prompts: Tensor | None = None) -> None:
        self.rows, self.keys, self.factors = rows, keys, factors  # (E,), (E, A), (L, E, H, A)
        self.prompts = torch.arange(len(rows)) if prompts is None else prompts  # (E,)

    def __call__(self, layer: int, weights: Tensor) -> Tensor:
        if self.factors is None:
            return weights
        _, heads, queries, width = weights.shape
        index = (
            self.prompts.to(weights.device)[:, None, None],
            torch.arange(heads, device=weights.device)[:, None],
            (self.rows.to(weights.device) - (width - queries))[:, None, None],  # the queries are the last positions
            self.keys.to(weights.device)[:, None],
        )
        return weights.index_put(index, weights[index] * self.factors[layer].to(weights))  # (B, H, Q, K)
