"""Block attention edges before the softmax."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from icl_lens.attention.kernels import ROWS
from icl_lens.attention.masks import causal_mask
from icl_lens.network.layers import attention_modules


@contextmanager
def block(network: PreTrainedModel, edges: Mapping[int, Tensor]) -> Iterator[None]:
    """Block edges before the softmax, in all heads. The other weights of a row are renormalised and sum to 1.

    Args:
        network: Any supported model, with any attention kernel.
        edges: Layer -> mask of shape (B, Q, K), which is True if query position q must not attend to key position k. Each
            position must attend to at least one position, such as itself. After a shared prefix the queries are the last Q of
            the K positions.
    """

    def hook(layer_edges: Tensor) -> Callable:
        def mask_edges(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
            mask = kwargs.get("attention_mask")
            blocked = layer_edges[:, None]  # (B, 1, Q, K)
            rows = getattr(module, ROWS, None)
            if rows is not None:
                prompts, rows = torch.arange(len(rows), device=blocked.device), rows.to(blocked.device)  # (B,) each
                blocked = blocked.expand(len(rows), -1, -1, -1)[prompts, :, rows, None]  # (B, 1, 1, K)
            elif mask is None:
                # The fused kernel applies a causal mask only if it gets no mask.
                mask = causal_mask(*blocked.shape[-2:], blocked.device)  # (1, 1, Q, K)
            # transformers passes a boolean mask (True: visible) to the fused kernel, and an additive mask to eager attention.
            blocked_value = False if mask.dtype == torch.bool else torch.finfo(mask.dtype).min
            mask = mask.masked_fill(blocked.to(mask.device), blocked_value)  # (B, 1, Q, K)
            return args, {**kwargs, "attention_mask": mask}

        return mask_edges

    modules = attention_modules(network)
    handles = [
        modules[layer].register_forward_pre_hook(hook(layer_edges), with_kwargs=True) for layer, layer_edges in edges.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
