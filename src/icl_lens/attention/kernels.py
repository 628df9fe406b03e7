"""Attention functions that give access to the weights, and the context manager that makes a model use them.

While an edit is open (:func:`edited`), each attention module uses :func:`attend`, which passes its weights to the edits. If the
edits need no attention matrix (:class:`Reader`), the module uses :func:`attend_and_read`, which calls the fused kernel. Model
families that use the attention interface of transformers select these functions by name. GPT-J does not use the interface, so
:func:`attend` replaces its ``_attn`` method.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedConfig, PreTrainedModel
from transformers.masking_utils import eager_mask, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from icl_lens.attention.masks import additive_mask
from icl_lens.network.layers import attention_modules
from icl_lens.network.precision import at_least_float32

NAME = "icl_lens"
NAME_ROWS = "icl_lens_rows"

# (layer, weights (B, H, Q, K)) -> weights of the same shape
Edit = Callable[[int, Tensor], Tensor]

# Attributes of an attention module with its open edits, oldest first, and with the name of its original kernel.
EDITS = "_icl_lens_edits"
_KERNEL = "_icl_lens_kernel"
# Attribute of the last layer's attention module with the positions of the only queries that the layer gets, shape (B,).
ROWS = "_icl_lens_rows"


class Reader(ABC):
    """Base class of edits that read the arguments of the attention function. They change no weight and need no matrix.

    Attributes:
        from_weights: Whether the edit reads the attention weights instead if they are computed anyway.
    """

    from_weights = False

    def __call__(self, layer: int, weights: Tensor) -> Tensor:
        return weights

    @abstractmethod
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
        """Read the arguments of a module's attention function."""


class CustomAttention(ABC):
    """Base class of edits that compute the attention themselves if no other edit is open, without the attention matrix."""

    @abstractmethod
    def __call__(self, layer: int, weights: Tensor) -> Tensor:
        """Return the attention weights after the edit, of the same shape, if another open edit needs them."""

    @abstractmethod
    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float, softcap: float | None
    ) -> Tensor:
        """Return the outputs of the heads, shape (B, H, Q, d). A mask of None is causal."""


class ForwardStopped(Exception):  # noqa: N818 - not an error: it stops a forward pass early
    """Exception that stops a forward pass, with the queries, keys and values of the layer where the pass stopped."""

    def __init__(self, query: Tensor | None, key: Tensor, value: Tensor) -> None:
        super().__init__()
        self.query, self.key, self.value = query, key, value


def attend(
    module: nn.Module,
    query: Tensor,  # (B, H, Q, d)
    key: Tensor,  # (B, H_kv, K, d)
    value: Tensor,  # (B, H_kv, K, d)
    attention_mask: Tensor | None,  # (B or 1, 1, Q, K or more), see additive_mask
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    **_: object,
) -> tuple[Tensor, Tensor | None]:
    """Compute attention and pass the weights to the edits of the module.

    Scores and softmax are float32 even in a half-precision model (as in GPT-J). The weights have the dtype of the model.

    Returns:
        The outputs of the heads, shape (B, Q, H, d), and the weights after all edits, shape (B, H, Q, K). The weights are None
        if an :class:`CustomAttention` is the only edit, because it does not use the matrix.
    """
    edits = getattr(module, EDITS, ())
    for edit in edits:
        if isinstance(edit, Reader) and not edit.from_weights:
            edit.read(module, query, key, attention_mask, value=value)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if len(edits) == 1 and isinstance(edits[0], CustomAttention):
        output = edits[0].attend(module.layer_idx, query, key, value, attention_mask, scale, softcap)  # (B, H, Q, d)
        return output.transpose(1, 2).contiguous(), None
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key = key.repeat_interleave(groups, dim=1)  # (B, H, K, d)
        value = value.repeat_interleave(groups, dim=1)  # (B, H, K, d)
    scores = at_least_float32(query) @ at_least_float32(key).transpose(-1, -2) * scale  # (B, H, Q, K)
    if softcap is not None:  # Gemma 2
        scores = softcap * torch.tanh(scores / softcap)
    # In place, because the matrices dominate time and memory.
    scores += additive_mask(attention_mask, *scores.shape[-2:], scores.dtype, scores.device)  # (B, H, Q, K)
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
    """Compute attention with the fused kernel, after the readers of the module have read its arguments.

    Returns:
        The outputs of the heads, shape (B, Q, H, d), and the second return value of the kernel.
    """
    for reader in getattr(module, EDITS):
        reader.read(module, query, key, attention_mask, value=value, **arguments)
    kernel = ALL_ATTENTION_FUNCTIONS[getattr(module, _KERNEL)]
    return kernel(module, query, key, value, attention_mask, **arguments)


AttentionInterface.register(NAME, attend)
AttentionInterface.register(NAME_ROWS, attend_and_read)
# Without a mask function of the same name, transformers would pass no mask, not even the causal mask.
AttentionMaskInterface.register(NAME, eager_mask)
AttentionMaskInterface.register(NAME_ROWS, sdpa_mask)


@contextmanager
def edited(network: PreTrainedModel, edit: Edit) -> Iterator[None]:
    """Pass the attention weights of each layer to ``edit``, which may replace them."""
    modules = attention_modules(network)
    adapted = [m for m in modules if hasattr(m, "_attn")]  # GPT-J does not use the attention interface
    kernels = _kernels(network.config)
    original_kernel = network.config.get_text_config()._attn_implementation
    outermost = not any(getattr(m, EDITS, ()) for m in modules)
    kernel = NAME_ROWS if isinstance(edit, Reader) and original_kernel in ("sdpa", NAME_ROWS) else NAME
    for module in modules:
        setattr(module, EDITS, (*getattr(module, EDITS, ()), edit))
    try:
        if outermost:
            for module in adapted:
                module._attn = _gptj_attention(module)
            for module in modules:
                setattr(module, _KERNEL, original_kernel)
        if not adapted and kernel != original_kernel:
            network.set_attn_implementation(_kernels(network.config, kernel))
        yield
    finally:
        for module in modules:
            setattr(module, EDITS, getattr(module, EDITS)[:-1])
        if not adapted and kernel != original_kernel:
            network.set_attn_implementation(kernels)
        if outermost:
            for module in adapted:
                del module._attn  # restores the method of the class
            for module in modules:
                delattr(module, EDITS)
                delattr(module, _KERNEL)


def _kernels(config: PreTrainedConfig, kernel: str | None = None) -> dict:
    """Return the argument of ``set_attn_implementation``: the kernels of a model and its submodels, or ``kernel`` for all."""
    parts = {name: getattr(config, name) for name in config.sub_configs}
    # A sub-config without a kernel does not describe a model (MPT stores its attention settings in a sub-config).
    submodels = {name: _kernels(part, kernel) for name, part in parts.items() if part is not None and part._attn_implementation}
    return {"": kernel or config._attn_implementation, **submodels}


def _gptj_attention(module: nn.Module) -> Callable:
    """Return :func:`attend` with the signature of ``GPTJAttention._attn``, which returns heads before positions."""

    def attention(query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None = None) -> tuple:
        output, weights = attend(module, query, key, value, attention_mask)
        return output.transpose(1, 2), weights  # (B, H, Q, d), (B, H, Q, K)

    return attention
