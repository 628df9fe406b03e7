"""Emulation of a device with bfloat16 products, for machines that do not support them.

Inside :func:`emulated`, products of float32 matrices behave as on a CPU with AMX. If torch is configured for it (the format of
the oneDNN backend is bf16), both factors are rounded to bfloat16, and products are computed and accumulated in float32. If
torch is set to full precision, and outside the context, nothing changes. The summation order is that of the current machine,
not of AMX hardware.
"""

import torch
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten

# Products of two matrices, with the indices of the factors among the arguments.
FACTORS = {
    aten.mm.default: (0, 1),
    aten.bmm.default: (0, 1),
    aten.matmul.default: (0, 1),
    aten.linear.default: (0, 1),
    aten.addmm.default: (1, 2),
    aten.baddbmm.default: (1, 2),
}
FUSED = aten._scaled_dot_product_flash_attention_for_cpu.default
WHOLE = aten.scaled_dot_product_attention.default


def emulated() -> TorchDispatchMode:
    """Return a context in which this machine has bfloat16 products."""
    return _BFloat16Products()


class _BFloat16Products(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if torch.backends.mkldnn.matmul.fp32_precision == "bf16":
            if func in FACTORS:
                args = tuple(_rounded(x) if place in FACTORS[func] else x for place, x in enumerate(args))
            elif func in (FUSED, WHOLE):
                output, total = _attention(*args, **kwargs)
                return (output, total) if func is FUSED else output
        return func(*args, **kwargs)


def _rounded(factor: torch.Tensor) -> torch.Tensor:
    return factor.bfloat16().float() if factor.dtype == torch.float32 else factor


def _attention(query, key, value, *given, attn_mask=None, is_causal=False, scale=None, enable_gqa=False, dropout_p=0.0):
    """Compute softmax attention with both products rounded.

    Returns:
        The outputs of the heads, and the logarithm of each row's sum.
    """
    # Positional arguments are dropout_p and is_causal for the fused kernel, and the mask and those two for the composite one.
    for entry in given:
        if isinstance(entry, bool):
            is_causal = entry
        elif isinstance(entry, torch.Tensor):
            attn_mask = entry
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = (x.repeat_interleave(groups, dim=1) for x in (key, value))
    scores = _rounded(query) @ _rounded(key).transpose(-1, -2) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        seen = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        scores = scores.masked_fill(~seen, -torch.inf)
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, -torch.inf) if attn_mask.dtype == torch.bool else scores + attn_mask
    return _rounded(scores.softmax(-1)) @ _rounded(value), scores.logsumexp(-1)
