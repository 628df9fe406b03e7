"""Gradients with respect to attention weights, by matrices that autograd keeps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from transformers import PreTrainedModel

from icl_lens.attention.flow import _Tap
from icl_lens.attention.kernels import edited

# (layer, weights (B, H, Q, K), gradient of the loss with respect to them (B, H, Q, K)) -> None
Sink = Callable[[int, Tensor, Tensor], None]


@contextmanager
def differentiate(network: PreTrainedModel, sink: Sink) -> Iterator[None]:
    """Pass each layer's attention weights and their gradient to ``sink``, last layer first, during a backward pass.

    Inside, run the model and call ``backward()`` on a loss. The graph begins at the first layer's attention weights, so
    parameters may be frozen. Nothing is kept that autograd does not keep itself: the sink gets one layer's matrices at a time,
    and they are freed when it returns.
    """

    def tap(layer: int, weights: Tensor) -> Tensor:
        return _Tap.apply(weights, torch.ones((), device=weights.device, requires_grad=True), layer, sink)

    with edited(network, tap), torch.enable_grad():
        yield
