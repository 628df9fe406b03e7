"""Attention functions that give access to the weights, and the context that makes a model use them.

While an edit is open (:func:`edited`), each attention module computes by :func:`attend`, which passes its weights to the edits,
or, where the edits need no matrix (:class:`Reader`), by :func:`attend_and_read`, which uses the fused kernel. Families built on
transformers' attention interface take these functions by name; GPT-J, which does not use the interface, gets :func:`attend` in
place of its ``_attn`` method.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedConfig, PreTrainedModel
from transformers.masking_utils import eager_mask, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from icl_lens.network.layers import attention_modules
from icl_lens.network.precision import at_least_float32

NAME = "icl_lens"
NAME_ROWS = "icl_lens_rows"

# (layer, weights (B, H, Q, K)) -> weights of the same shape
Edit = Callable[[int, Tensor], Tensor]

# The attributes of an attention module that hold its open edits, oldest first, and the name of its fused kernel.
EDITS = "_icl_lens_edits"
_KERNEL = "_icl_lens_kernel"
# The attribute of the last layer's attention module that holds the only rows of queries it is given, shape (B,).
ROWS = "_icl_lens_rows"


class Reader:
    """An edit that changes no weight and needs no matrix of them: it reads what the attention function is given.

    Attributes:
        from_weights: Whether it takes what it needs from the weights where they are written out anyway.
    """

    from_weights = False

    def __call__(self, layer: int, weights: Tensor) -> Tensor:
        return weights

    def read(
        self,
        module: nn.Module,
        query: Tensor,  # (B, H, Q, d)
        key: Tensor,  # (B, H_kv, K, d)
        attention_mask: Tensor | None = None,  # (B or 1, 1, Q, K or more)
        *,
        value: Tensor,  # (B, H_kv, K, d)
        **arguments: object,
    ) -> None:
        """Read what a module's attention function is given."""
        raise NotImplementedError


class OwnAttention:
    """An edit that computes the attention itself where no other edit is open, so that no weights are made for it."""

    def __call__(self, layer: int, weights: Tensor) -> Tensor:
        raise NotImplementedError

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float, softcap: float | None
    ) -> Tensor:
        """The heads' outputs, shape (B, H, Q, d)."""
        raise NotImplementedError


class Reached(Exception):  # noqa: N818 - not an error: it ends a forward pass that has gone far enough
    """Carries the queries, keys and values at which a forward pass was stopped."""

    def __init__(self, query: Tensor | None, key: Tensor, value: Tensor) -> None:
        super().__init__()
        self.query, self.key, self.value = query, key, value


def attend(
    module: nn.Module,
    query: Tensor,  # (B, H, Q, d)
    key: Tensor,  # (B, H_kv, K, d)
    value: Tensor,  # (B, H_kv, K, d)
    attention_mask: Tensor | None,  # (B or 1, 1, Q, K or more), added to the scores
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    **_: object,
) -> tuple[Tensor, Tensor | None]:
    """Attention that passes its weights to the module's edits.

    Scores and softmax are float32 in a half-precision model too (as in GPT-J); the weights have the model's own dtype.

    Returns:
        The heads' outputs, shape (B, Q, H, d), and the weights after all edits, shape (B, H, Q, K); None where an
        :class:`OwnAttention` is the only edit, for which no weights are made.
    """
    edits = getattr(module, EDITS, ())
    for edit in edits:
        if isinstance(edit, Reader) and not edit.from_weights:
            edit.read(module, query, key, value=value)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if len(edits) == 1 and isinstance(edits[0], OwnAttention):
        output = edits[0].attend(module.layer_idx, query, key, value, attention_mask, scale, softcap)  # (B, H, Q, d)
        return output.transpose(1, 2).contiguous(), None
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key = key.repeat_interleave(groups, dim=1)  # (B, H, K, d)
        value = value.repeat_interleave(groups, dim=1)  # (B, H, K, d)
    scores = at_least_float32(query) @ at_least_float32(key).transpose(-1, -2) * scale  # (B, H, Q, K)
    if softcap is not None:  # Gemma 2
        scores = softcap * torch.tanh(scores / softcap)
    if attention_mask is not None:
        scores += attention_mask[..., : key.shape[-2]]  # (B, H, Q, K), in place: the matrices take most of the time and memory
    weights = scores.softmax(-1).to(value.dtype)  # (B, H, Q, K)
    for edit in edits:
        weights = edit(module.layer_idx, weights)
    return (weights @ value).transpose(1, 2).contiguous(), weights


def attend_and_read(
    module: nn.Module,
    query: Tensor,  # (B, H, Q, d)
    key: Tensor,  # (B, H_kv, K, d)
    value: Tensor,  # (B, H_kv, K, d)
    attention_mask: Tensor | None,  # (B or 1, 1, Q, K or more), True where seen or added to the scores
    **arguments: object,
) -> tuple[Tensor, Tensor | None]:
    """Attention by the fused kernel, after the module's readers have read what it is given.

    Returns:
        The heads' outputs, shape (B, Q, H, d), and whatever else the kernel returns.
    """
    for reader in getattr(module, EDITS):
        reader.read(module, query, key, attention_mask, value=value, **arguments)
    kernel = ALL_ATTENTION_FUNCTIONS[getattr(module, _KERNEL)]
    return kernel(module, query, key, value, attention_mask, **arguments)


AttentionInterface.register(NAME, attend)
AttentionInterface.register(NAME_ROWS, attend_and_read)
# Without a mask function of the same name transformers would pass no mask at all, not even the causal one.
AttentionMaskInterface.register(NAME, eager_mask)
AttentionMaskInterface.register(NAME_ROWS, sdpa_mask)


@contextmanager
def edited(network: PreTrainedModel, edit: Edit) -> Iterator[None]:
    """While open, ``edit`` is given (and may replace) the attention weights of each layer."""
    modules = attention_modules(network)
    adapted = [m for m in modules if hasattr(m, "_attn")]  # GPT-J: no interface to take a function by name
    kernels = _kernels(network.config)
    before = network.config.get_text_config()._attn_implementation
    outermost = not any(getattr(m, EDITS, ()) for m in modules)
    kernel = NAME_ROWS if isinstance(edit, Reader) and before in ("sdpa", NAME_ROWS) else NAME
    for module in modules:
        setattr(module, EDITS, (*getattr(module, EDITS, ()), edit))
    try:
        if outermost:
            for module in adapted:
                module._attn = _gptj_attention(module)
            for module in modules:
                setattr(module, _KERNEL, before)
        if not adapted and kernel != before:
            network.set_attn_implementation(_kernels(network.config, kernel))
        yield
    finally:
        for module in modules:
            setattr(module, EDITS, getattr(module, EDITS)[:-1])
        if not adapted and kernel != before:
            network.set_attn_implementation(kernels)
        if outermost:
            for module in adapted:
                del module._attn  # the class's own method again
            for module in modules:
                delattr(module, EDITS)
                delattr(module, _KERNEL)


def _kernels(config: PreTrainedConfig, kernel: str | None = None) -> dict:
    """For ``set_attn_implementation``: the kernels of a model and of the models in it, or ``kernel`` for all of them."""
    parts = {name: getattr(config, name) for name in config.sub_configs}
    # A part without a kernel is not a model (MPT keeps the settings of its attention so).
    inner = {name: _kernels(part, kernel) for name, part in parts.items() if part is not None and part._attn_implementation}
    return {"": kernel or config._attn_implementation, **inner}


def _gptj_attention(module: nn.Module) -> Callable:
    """:func:`attend` with the signature of ``GPTJAttention._attn``, where heads come before positions."""

    def attention(query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None = None) -> tuple:
        output, weights = attend(module, query, key, value, attention_mask)
        return output.transpose(1, 2), weights  # (B, H, Q, d), (B, H, Q, K)

    return attention
