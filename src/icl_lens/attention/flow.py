"""Information flow of attention, |sum over heads of A * dL/dA| (*Label Words are Anchors*, section 2.1, eq. 1)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial

import torch
from torch import Tensor
from transformers import PreTrainedModel

from icl_lens.attention import flow_kernel
from icl_lens.attention.kernels import CustomAttention, Edit, ForwardStopped, edited
from icl_lens.attention.last_layer import LastLayerState, computed_at
from icl_lens.network import model_cache, vocabulary
from icl_lens.network.forward_inputs import forward_inputs
from icl_lens.network.placement import device_of, recompute_layers
from icl_lens.network.precision import at_least_float32, exact_products

# (layer, information flow (B, Q, K), mean over heads of the weights (B, Q, K) if requested, else None) -> None; per head, the
# terms of the sum and of the mean, shape (B, H, Q, K) each
FlowSink = Callable[[int, Tensor, Tensor | None], None]
# (layer, weights (B, H, Q, K), gradient of the loss with respect to them (B, H, Q, K)) -> None
_Sink = Callable[[int, Tensor, Tensor], None]


@contextmanager
def flows(
    network: PreTrainedModel,
    sink: FlowSink,
    with_weights: bool = False,
    rows: Tensor | None = None,
    per_head: bool = False,
    signed: bool = False,
) -> Iterator[None]:
    """Pass the information flow |sum over heads of A * dL/dA| of each layer to ``sink`` during a backward pass.

    Run the model and call ``backward()`` on a loss inside this context. The last layer comes first. The tensors are on the
    device of the layer. No attention matrix is kept, because :mod:`icl_lens.attention.flow_kernel` recomputes a few rows at a
    time. When nested with ``scale`` or ``record`` in either order, which compute the full weights, the flow is computed from
    these weights.

    Args:
        network: Any supported model. Its parameters may be frozen.
        sink: Called with the index of a layer, its flow, shape (B, Q, K), and the mean over heads of its weights, shape
            (B, Q, K), or None.
        with_weights: Whether to compute this mean.
        rows: One position per prompt, shape (B,), if the loss depends only on these positions. The last layer then computes
            only these positions, and its outputs at the other positions are zeros. This requires complete prompts
            without a shared prefix, and a model for which :func:`supports_single_row` is true.
        per_head: Whether the sink gets A_h * dL/dA_h of each head h, with its sign, before eq. 1 sums over the heads, and the
            weights A_h of each head if they are requested, shape (B, H, Q, K) each. Not with ``rows``.
        signed: Whether the sink gets the sum over heads with its sign, without the absolute value.
    """
    edit = _Flows(sink, with_weights, per_head, signed)
    one_row = nullcontext() if rows is None else computed_at(network, rows, edit)
    with edited(network, edit), torch.enable_grad(), one_row, recompute_layers(network):
        yield


class _Flows(CustomAttention, LastLayerState):
    """Edit that reports the information flow of each layer and changes no weight."""

    full_length = True

    def __init__(self, sink: FlowSink, with_weights: bool, per_head: bool = False, signed: bool = False) -> None:
        self.sink, self.with_weights, self.per_head, self.signed = sink, with_weights, per_head, signed

    def __call__(self, layer: int, weights: Tensor) -> Tensor:
        return _GradientCallback.apply(
            weights, torch.ones((), device=weights.device, requires_grad=True), layer, self._report_matrices
        )

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float, softcap: float | None
    ) -> Tensor:
        """Return the outputs of the heads, shape (B, H, Q, d)."""
        if self.stops:
            raise ForwardStopped(query, key, value)
        report = partial(self.sink, layer)
        if self.last:
            key, value, rows = self.last
            report = partial(self._report_rows, layer, rows)
        return flow_kernel.attend(
            query, key, value, mask, scale, softcap, report, self.with_weights, self.per_head, self.signed
        )

    def needs_matrices(self, edits: Sequence[Edit]) -> bool:
        return len(edits) > 1

    def _report_rows(self, layer: int, rows: Tensor, *tensors: Tensor | None) -> None:
        """Pass tensors with one row per prompt, shape (B, 1, K), to the sink, with zeros for all other rows."""

        def padded(row: Tensor) -> Tensor:
            length = row.shape[-1]
            return row.new_zeros(len(row), length, length).scatter_(1, rows[:, None, None].expand_as(row), row)  # (B, K, K)

        self.sink(layer, *(None if row is None else padded(row) for row in tensors))

    def _report_matrices(self, layer: int, weights: Tensor, gradient: Tensor) -> None:
        wide = at_least_float32(weights)  # (B, H, Q, K)
        product = wide * at_least_float32(gradient)  # (B, H, Q, K)
        if self.per_head:
            self.sink(layer, product, wide if self.with_weights else None)
        else:
            total = product.sum(1)  # (B, Q, K)
            self.sink(layer, total if self.signed else total.abs_(), wide.mean(1) if self.with_weights else None)


class _GradientCallback(torch.autograd.Function):
    """Identity that passes its gradient to a callback."""

    @staticmethod
    def forward(ctx, weights: Tensor, root: Tensor, layer: int, sink: _Sink) -> Tensor:
        # `root` requires a gradient, so the graph starts here even if no earlier tensor requires a gradient (layer 0).
        ctx.save_for_backward(weights)
        ctx.layer, ctx.sink = layer, sink
        return weights.view_as(weights)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple:
        (weights,) = ctx.saved_tensors
        ctx.sink(ctx.layer, weights, gradient)
        return gradient if ctx.needs_input_grad[0] else None, None, None, None


@exact_products()
@torch.no_grad()
@model_cache.cached_check
def supports_single_row(network: PreTrainedModel) -> bool:
    """Return whether the last layer of a model can compute only one row per prompt (see :func:`flows`).

    The check runs a short input in both ways and compares the logits.
    """
    ids = torch.arange(1, 17, device=device_of(network)).view(2, 8) % network.get_input_embeddings().num_embeddings  # (2, T)
    rows = torch.tensor([5, 7], device=device_of(network))
    prompts = torch.arange(2, device=device_of(network))

    def logits() -> Tensor:
        with vocabulary.restrict_tokens(network, ids.flatten()):
            return network(**forward_inputs(ids)).logits[prompts, rows].float()  # (2, 16)

    plain = logits()
    try:
        with flows(network, lambda *_: None, rows=rows):
            rows_only = logits()
    except Exception:  # layers with other arguments that depend on all positions can raise any exception
        return False
    tolerance = 1e-4 if network.dtype in (torch.float32, torch.float64) else 0.05  # see prefixes.is_shareable
    return bool((plain - rows_only).abs().max() <= tolerance * plain.abs().max())
