"""Gradients with respect to attention weights, from matrices that autograd keeps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from transformers import PreTrainedModel

from icl_lens.attention.flow import _GradientCallback
from icl_lens.attention.kernels import edited

# (layer, weights (B, H, Q, K), gradient of the loss with respect to them (B, H, Q, K)) -> None
Sink = Callable[[int, Tensor, Tensor], None]


@contextmanager
def differentiate(network: PreTrainedModel, sink: Sink) -> Iterator[None]:
    """Pass each layer's attention weights and their gradient to ``sink`` during a backward pass, last layer first.

    Run the model inside the context and call ``backward()`` on a loss. The graph begins at the attention weights of the first
    layer, so parameters may be frozen. Nothing is stored beyond what autograd stores: the sink receives the matrices of one
    layer at a time, and they are freed when it returns.
    """

    def tap(layer: int, weights: Tensor) -> Tensor:
        return _GradientCallback.apply(weights, torch.ones((), device=weights.device, requires_grad=True), layer, sink)

    with edited(network, tap), torch.enable_grad():
        yield
