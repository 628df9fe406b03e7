"""Reference implementation of compressed demonstrations, directly from the paper (section 3.2).

It computes the next-token logits of one query. It shares no code with the package: it uses one prompt at a time, transformers'
own eager attention, and no cache. The model reads the full prompt, and in each layer the query's tokens cannot attend to the
demonstrations' tokens that are not kept. The demonstrations themselves are computed as usual. In a causal model their
computation does not depend on what follows, so nothing else needs to be changed.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager

import torch


def compressed_logits(model, ids, length, kept) -> torch.Tensor:
    """Compute the logits at the last position, shape (V,); the query's positions continue after the demonstrations.

    Args:
        model: A causal language model. It is switched to eager attention.
        ids: Token ids of the prompt.
        length: Number of these tokens that are demonstrations.
        kept: Positions among the demonstrations that the query can attend to.
    """
    dropped = [p for p in range(length) if p not in set(kept)]

    def edited(weights):
        weights = weights.clone()
        for q in range(length, len(ids)):
            weights[:, :, q, dropped] = 0.0
            weights[:, :, q] /= weights[:, :, q].sum(-1, keepdim=True)
        return weights

    model.set_attn_implementation("eager")
    with torch.inference_mode(), _edited_attention(model, edited):
        return model(input_ids=torch.tensor([ids], device=model.device), use_cache=False).logits[0, -1]


def restarted_logits(model, ids, length, kept) -> torch.Tensor:
    """Compute the same logits with the query's positions restarting at 0.

    The demonstrations are read with their own positions in the same pass.
    """
    dropped = [p for p in range(length) if p not in set(kept)]

    def edited(weights):
        weights = weights.clone()
        for q in range(length, len(ids)):
            weights[:, :, q, dropped] = 0.0
            weights[:, :, q] /= weights[:, :, q].sum(-1, keepdim=True)
        return weights

    positions = [*range(length), *range(len(ids) - length)]
    model.set_attn_implementation("eager")
    with torch.inference_mode(), _edited_attention(model, edited):
        return model(
            input_ids=torch.tensor([ids], device=model.device),
            attention_mask=torch.ones(1, len(ids), dtype=torch.int64, device=model.device),
            position_ids=torch.tensor([positions], device=model.device),
            use_cache=False,
        ).logits[0, -1]


@contextmanager
def _edited_attention(model, edited):
    """Replace the eager attention function of the model's own modelling file by one that edits the weights."""
    attention = next(m for m in model.modules() if type(m).__name__.endswith("Attention") and hasattr(m, "layer_idx"))
    source = sys.modules[type(attention).__module__]
    if hasattr(attention, "_attn"):  # GPT-J
        owner, name = type(attention), "_attn"

        def replacement(module, query, key, value, *args, **kwargs):
            _, weights = original(module, query, key, value, *args, **kwargs)
            weights = edited(weights)
            return weights @ value, weights
    else:
        owner, name = source, "eager_attention_forward"

        def replacement(module, query, key, value, *args, **kwargs):
            _, weights = original(module, query, key, value, *args, **kwargs)
            weights = edited(weights)
            heads = value.repeat_interleave(query.shape[1] // value.shape[1], dim=1)
            return (weights @ heads).transpose(1, 2).contiguous(), weights

    original = getattr(owner, name)
    setattr(owner, name, replacement)
    try:
        yield
    finally:
        setattr(owner, name, original)
