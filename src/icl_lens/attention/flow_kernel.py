"""Attention that reports its information flow in the backward pass, without keeping the attention matrix.

    I = | sum_h  A_h * dL/dA_h |                     (*Label Words are Anchors*, section 2.1, eq. 1, one layer)

The forward pass is fused attention, which keeps queries, keys and values. The backward pass recomputes the weights A and their
gradient, a few rows at a time. With the gradient G of the outputs of the heads,

    dL/dA = G V'    A = softmax(scale Q K' + mask)    I = | sum_h A * dL/dA |
    dL/dS = A * (dL/dA - sum over keys of A * dL/dA)  dL/dQ = scale dL/dS K    dL/dK = scale dL/dS' Q    dL/dV = A' G

Eq. 1 needs only A * dL/dA, which the backward pass of attention computes anyway. Therefore memory grows with the activations
and not with heads x length^2. The cost is a second product Q K'.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from icl_lens.attention.masks import additive_mask
from icl_lens.network.precision import at_least_float32

# Number of attention weights that are computed at a time. It fits the cache of a CPU, or is large enough to use a whole GPU.
_ELEMENTS = {"cpu": 2**19}
_ELEMENTS_DEFAULT = 2**26
# Minimum number of parts into which the rows of a prompt are divided. With two parts, the first part needs only half the keys.
_STEPS = 2


def attend(
    query: Tensor,  # (B, H, Q, d)
    key: Tensor,  # (B, H_kv, K, d)
    value: Tensor,  # (B, H_kv, K, e)
    mask: Tensor | None,  # (B or 1, 1, Q, K), see additive_mask
    scale: float,
    softcap: float | None,
    sink: Callable[[Tensor, Tensor | None], None],
    with_weights: bool,
    per_head: bool = False,
    signed: bool = False,
) -> Tensor:
    """Compute the outputs of the heads, and call ``sink`` with the information flow in the backward pass.

    Args:
        query: Queries of the last Q of the K positions. The model is causal: a query attends to no key after its own position.
        key: Keys. They have fewer heads than the queries if query heads share keys.
        value: Values, with as many heads as the keys.
        mask: Mask of the positions that each query attends to, boolean or additive. None stands for the causal mask.
        scale: Factor of the scores.
        softcap: If set, scores s become softcap * tanh(s / softcap) before the mask is added.
        sink: Called with I, shape (B, Q, K), and the mean over heads of A, shape (B, Q, K), or None. Both are at least float32.
        with_weights: Whether to compute this mean.
        per_head: Whether ``sink`` gets the terms of the sum and of the mean instead: A_h * dL/dA_h of each head, with its sign,
            and A_h, shape (B, H, Q, K) each.
        signed: Whether ``sink`` gets the sum over heads with its sign, without the absolute value.

    Returns:
        The outputs of the heads, shape (B, H, Q, e).
    """
    # The root requires a gradient, so the graph starts here even if no earlier tensor requires a gradient (layer 0).
    root = torch.ones((), device=query.device, requires_grad=True)
    mask = additive_mask(mask, query.shape[-2], key.shape[-2], query.dtype, query.device)  # (B or 1, 1, Q, K)
    return _Attention.apply(query, key, value, mask, root, scale, softcap, sink, with_weights, per_head, signed)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, query, key, value, mask, root, scale, softcap, sink, with_weights, per_head, signed) -> Tensor:
        ctx.options = scale, softcap, sink, with_weights, per_head, signed
        groups = query.shape[1] // key.shape[1]
        # No fused kernel caps scores or supports values of a different size than the keys. On a CPU it is also slower.
        fused = softcap is None and key.shape[-1] == value.shape[-1] and query.device.type not in _ELEMENTS
        if not fused:  # the heads are views, which each product below would copy
            query, key, value = (x.contiguous() for x in (query, key, value))
        ctx.save_for_backward(query, key, value, mask)
        keys, values = _repeat_heads(key, groups), _repeat_heads(value, groups)  # (B, H, K, d), (B, H, K, e)
        if fused:
            return nn.functional.scaled_dot_product_attention(query, keys, values, attn_mask=mask, scale=scale)
        batch, heads, queries, _ = query.shape
        output = query.new_empty(batch, queries, heads, values.shape[-1]).transpose(1, 2)  # (B, H, Q, e)
        scaled, wide_keys = at_least_float32(query) * scale, at_least_float32(keys)  # (B, H, Q, d), (B, H, K, d)
        for part in _parts(query, keys):
            weights, _ = _weights(scaled[part.rows], wide_keys[part.visible], part.select_mask(mask), softcap)  # (B', H, R, K')
            output[part.rows] = weights.to(values.dtype) @ values[part.visible]
        return output

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple:
        query, key, value, mask = ctx.saved_tensors
        scale, softcap, sink, with_weights, per_head, signed = ctx.options
        batch, heads, queries, _ = query.shape
        groups = heads // key.shape[1]
        scaled, gradient = at_least_float32(query) * scale, at_least_float32(gradient.contiguous())  # (B, H, Q, d or e)
        keys, values = (at_least_float32(_repeat_heads(x, groups)) for x in (key, value))  # (B, H, K, d), (B, H, K, e)
        needs_gradient = ctx.needs_input_grad[:3]
        d_query, d_key, d_value = (
            torch.zeros_like(x) if needed else None for x, needed in zip((scaled, keys, values), needs_gradient, strict=True)
        )
        # (B, Q, K), or (B, H, Q, K) per head
        flow = scaled.new_zeros(batch, *([heads] if per_head else []), queries, key.shape[-2])
        mean = torch.zeros_like(flow) if with_weights else None
        for part in _parts(query, keys):
            rows, visible, edges = part.rows, part.visible, part.edges
            part_queries, part_gradient = scaled[rows], gradient[rows]  # (B', H, R, d), (B', H, R, e)
            weights, slope = _weights(part_queries, keys[visible], part.select_mask(mask), softcap)  # (B', H, R, K')
            product = (part_gradient @ values[visible].transpose(-1, -2)).mul_(weights)  # (B', H, R, K'): A * dL/dA
            if per_head:
                edges = (edges[0], slice(None), *edges[1:])  # index into tensors of shape (B, H, Q, K)
            flow[edges] = product if per_head else product.sum(1) if signed else product.sum(1).abs_()
            if mean is not None:
                mean[edges] = weights if per_head else weights.mean(1)
            if d_value is not None:
                d_value[visible] += weights.transpose(-1, -2) @ part_gradient
            if d_query is None and d_key is None:
                continue
            scores = product.addcmul_(weights, product.sum(-1, keepdim=True), value=-1)  # (B', H, R, K'): dL/dS
            if slope is not None:
                scores *= slope
            if d_query is not None:
                d_query[rows] = scores @ keys[visible]
            if d_key is not None:
                d_key[visible] += scores.transpose(-1, -2) @ part_queries
        sink(flow, mean)
        if d_query is not None:
            d_query *= scale
        d_key, d_value = (None if x is None else _sum_groups(x, groups) for x in (d_key, d_value))
        gradients = (None if x is None else x.to(query.dtype) for x in (d_query, d_key, d_value))
        return *gradients, None, None, None, None, None, None, None, None


class _Part(NamedTuple):
    """Indices of some rows of the attention matrices of some prompts, and of the keys that these rows can attend to.

    Attributes:
        rows: Index into tensors with one entry per query, shape (B, H, Q, ...).
        visible: Index into tensors with one entry per key, shape (B, H, K, ...).
        edges: Index into tensors with one entry per pair of query and key, shape (B, Q, K).
    """

    rows: tuple[slice, ...]
    visible: tuple[slice, ...]
    edges: tuple[slice, ...]

    def select_mask(self, mask: Tensor) -> Tensor:
        """Return this part of a mask, shape (B' or 1, 1, R, K')."""
        prompts, rows, visible = self.edges
        return mask[prompts if len(mask) > 1 else slice(None), :, rows, visible]


def _parts(query: Tensor, keys: Tensor) -> Iterator[_Part]:
    """Yield the parts of the matrices in order: rows of as many prompts as fit, or of one prompt."""
    (batch, heads, queries, _), width = query.shape, keys.shape[-2]
    elements = _ELEMENTS.get(query.device.type, _ELEMENTS_DEFAULT)
    rows = max(1, min(-(-queries // _STEPS), elements // (heads * width)))
    prompts = max(1, elements // (heads * rows * width))
    all_heads, prefix_length = slice(None), width - queries
    for first_prompt in range(0, batch, prompts):
        for first_row in range(0, queries, rows):
            prompt_slice, stop = slice(first_prompt, first_prompt + prompts), min(first_row + rows, queries)
            row_slice, key_slice = slice(first_row, stop), slice(prefix_length + stop)
            yield _Part(
                (prompt_slice, all_heads, row_slice), (prompt_slice, all_heads, key_slice), (prompt_slice, row_slice, key_slice)
            )


def _weights(
    scaled: Tensor,  # (B, H, R, d): queries times scale
    keys: Tensor,  # (B, H, K', d)
    mask: Tensor,  # (B or 1, 1, R, K')
    softcap: float | None,
) -> tuple[Tensor, Tensor | None]:
    """Return the attention weights of some rows, and the derivative of the capped scores, shape (B, H, R, K') each.

    The derivative is taken with respect to the uncapped scores. It is None without a cap.
    """
    scores = scaled @ keys.transpose(-1, -2)  # (B, H, R, K')
    slope = None
    if softcap is not None:
        capped = torch.tanh(scores / softcap)  # (B, H, R, K')
        slope = 1 - capped**2
        scores = softcap * capped
    scores += mask
    return scores.softmax(-1), slope


def _repeat_heads(tensor: Tensor, groups: int) -> Tensor:
    """Expand keys or values of H / groups heads to all H query heads, shape (B, H, K, d)."""
    return tensor if groups == 1 else tensor.repeat_interleave(groups, dim=1)


def _sum_groups(gradient: Tensor, groups: int) -> Tensor:
    """Sum gradients over the query heads that share a key: the backward pass of :func:`_repeat_heads`."""
    return gradient if groups == 1 else gradient.unflatten(1, (-1, groups)).sum(2)
