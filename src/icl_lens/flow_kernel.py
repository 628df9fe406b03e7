"""Attention that tells its information flow on the way back, without keeping a matrix.

    I = | sum_h  A_h * dL/dA_h |                     (*Label Words are Anchors*, section 2.1, eq. 1, one layer)

Forward it is fused attention, and keeps queries, keys and values. Backward it makes the weights A and their gradient anew,
a few rows at a time: with G the gradient of the heads' outputs,

    dL/dA = G V'    A = softmax(scale Q K' + mask)    I = | sum_h A * dL/dA |
    dL/dS = A * (dL/dA - sum over keys of A * dL/dA)  dL/dQ = scale dL/dS K    dL/dK = scale dL/dS' Q    dL/dV = A' G

and what the backward pass of attention computes anyway, A * dL/dA, is all that eq. 1 asks for. So memory grows with the
activations, not with heads x length^2; what is paid is the product Q K' a second time. :func:`icl_lens.attention.differentiate`
computes the same by matrices that are kept.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from icl_lens.precision import at_least_float32

# Elements of a matrix of weights that are made at a time: what stays in a CPU's cache, and what keeps a GPU busy.
_ELEMENTS = {"cpu": 2**19}
_ELEMENTS_ELSEWHERE = 2**26


def attend(
    query: Tensor,  # (B, H, Q, d)
    key: Tensor,  # (B, H_kv, K, d)
    value: Tensor,  # (B, H_kv, K, e)
    mask: Tensor | None,  # (B or 1, 1, Q, K), added to the scores
    scale: float,
    softcap: float | None,
    sink: Callable[[Tensor, Tensor | None], None],
    with_weights: bool,
) -> Tensor:
    """The heads' outputs, shape (B, H, Q, e); when the backward pass comes by, ``sink`` is told the flow.

    Args:
        query: The last Q of the K positions. The model is causal: a query sees no key behind its own position.
        key: Fewer heads than queries have where these share them.
        value: As key.
        mask: What a query sees.
        scale: Of the scores.
        softcap: Scores s become softcap * tanh(s / softcap), before the mask.
        sink: Takes I, shape (B, Q, K), and the mean over heads of A, of the same shape, or None; float32 at least.
        with_weights: Whether that mean is wanted.
    """
    # The root requires a gradient, so the graph begins here even where nothing before does (layer 0).
    root = torch.ones((), device=query.device, requires_grad=True)
    return _Attention.apply(query, key, value, mask, root, scale, softcap, sink, with_weights)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, query, key, value, mask, root, scale, softcap, sink, with_weights) -> Tensor:
        ctx.save_for_backward(query, key, value, mask)
        ctx.how = scale, softcap, sink, with_weights
        groups = query.shape[1] // key.shape[1]
        keys, values = _each_head(key, groups), _each_head(value, groups)  # (B, H, K, d), (B, H, K, e)
        if softcap is None and keys.shape[-1] == values.shape[-1]:
            return nn.functional.scaled_dot_product_attention(query, keys, values, attn_mask=mask, scale=scale)
        # No fused kernel caps scores, or has values of another size.
        output = query.new_empty(*query.shape[:-1], values.shape[-1])  # (B, H, Q, e)
        for rows, seen in _parts(query, keys):
            weights, _ = _weights(query[:, :, rows], keys[:, :, :seen], mask, rows, scale, softcap)  # (B, H, R, K')
            output[:, :, rows] = weights.to(values.dtype) @ values[:, :, :seen]
        return output

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple:
        query, key, value, mask = ctx.saved_tensors
        scale, softcap, sink, with_weights = ctx.how
        batch, heads, queries, _ = query.shape
        groups = heads // key.shape[1]
        wide_query, wide_gradient = at_least_float32(query), at_least_float32(gradient)  # (B, H, Q, d), (B, H, Q, e)
        keys, values = (at_least_float32(_each_head(x, groups)) for x in (key, value))  # (B, H, K, d), (B, H, K, e)
        wanted = ctx.needs_input_grad[:3]
        d_query, d_key, d_value = (
            torch.zeros_like(x) if one else None for x, one in zip((wide_query, keys, values), wanted, strict=True)
        )
        flow = wide_query.new_zeros(batch, queries, key.shape[-2])  # (B, Q, K)
        mean = torch.zeros_like(flow) if with_weights else None
        for rows, seen in _parts(query, keys):
            asked, back = wide_query[:, :, rows], wide_gradient[:, :, rows]  # (B, H, R, d), (B, H, R, e)
            weights, slope = _weights(asked, keys[:, :, :seen], mask, rows, scale, softcap)  # (B, H, R, K')
            product = (back @ values[:, :, :seen].transpose(-1, -2)).mul_(weights)  # (B, H, R, K'): A * dL/dA
            flow[:, rows, :seen] = product.sum(1).abs_()
            if mean is not None:
                mean[:, rows, :seen] = weights.mean(1)
            if d_value is not None:
                d_value[:, :, :seen] += weights.transpose(-1, -2) @ back
            if d_query is None and d_key is None:
                continue
            scores = product.sub_(weights.mul_(product.sum(-1, keepdim=True)))  # (B, H, R, K'): dL/dS
            if slope is not None:
                scores *= slope
            scores *= scale
            if d_query is not None:
                d_query[:, :, rows] = scores @ keys[:, :, :seen]
            if d_key is not None:
                d_key[:, :, :seen] += scores.transpose(-1, -2) @ asked
        sink(flow, mean)
        d_key, d_value = (None if x is None else _shared(x, groups) for x in (d_key, d_value))
        found = (None if x is None else x.to(query.dtype) for x in (d_query, d_key, d_value))
        return *found, None, None, None, None, None, None


def _parts(query: Tensor, keys: Tensor) -> list[tuple[slice, int]]:
    """Rows of queries, first to last, each with the number of keys that they may see."""
    (batch, heads, queries, _), width = query.shape, keys.shape[-2]
    elements = _ELEMENTS.get(query.device.type, _ELEMENTS_ELSEWHERE)
    rows = max(1, elements // (batch * heads * width))
    before = width - queries
    return [(slice(r, min(r + rows, queries)), before + min(r + rows, queries)) for r in range(0, queries, rows)]


def _weights(
    query: Tensor,  # (B, H, R, d)
    keys: Tensor,  # (B, H, K', d)
    mask: Tensor | None,  # (B or 1, 1, Q, K)
    rows: slice,
    scale: float,
    softcap: float | None,
) -> tuple[Tensor, Tensor | None]:
    """Attention weights of some rows, and by how much a capped score follows its score, shape (B, H, R, K') each."""
    scores = (at_least_float32(query) * scale) @ at_least_float32(keys).transpose(-1, -2)  # (B, H, R, K')
    slope = None
    if softcap is not None:
        capped = torch.tanh(scores / softcap)  # (B, H, R, K')
        slope = 1 - capped**2
        scores = softcap * capped
    if mask is not None:
        scores += mask[:, :, rows, : keys.shape[-2]]
    return scores.softmax(-1), slope


def _each_head(tensor: Tensor, groups: int) -> Tensor:
    """Keys or values of every query head, shape (B, H, K, d), from those of H / groups heads."""
    return tensor if groups == 1 else tensor.repeat_interleave(groups, dim=1)


def _shared(gradient: Tensor, groups: int) -> Tensor:
    """The reverse of :func:`_each_head` for gradients: summed over the heads that share."""
    return gradient if groups == 1 else gradient.unflatten(1, (-1, groups)).sum(2)
