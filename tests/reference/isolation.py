"""Reference implementation of isolated positions, directly from the paper (section 2.2).

It computes the next-token logits of one prompt. It shares no code with the package: it uses one prompt at a time and
transformers' own eager attention, and overwrites the attention weights row by row after the softmax. Blocking all edges from a
position to earlier ones *before* the softmax leaves only the position itself, with weight 1. Blocking them *after* the softmax
sets them to 0 and does not change the weight on the position itself.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager

import torch


def isolated_logits(model, ids, positions, layers, blocking) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Compute the logits at the last position, shape (V,), and each layer's attention weights as used, shape (H, T, T).

    Args:
        model: A causal language model. It is switched to eager attention.
        ids: Token ids of the prompt.
        positions: Positions that are isolated from all earlier ones.
        layers: Layers in which they are isolated.
        blocking: ``before_softmax`` or ``after_softmax``.
    """

    def edited(layer, weights):
        weights = weights.clone()
        used.append(weights[0])
        if layer in layers:
            for p in positions:
                weights[:, :, p, :p] = 0.0
                if blocking == "before_softmax":
                    weights[:, :, p, p] = 1.0
        return weights

    used: list[torch.Tensor] = []
    model.set_attn_implementation("eager")
    with torch.inference_mode(), _edited_attention(model, edited):
        logits = model(input_ids=torch.tensor([ids], device=model.device), use_cache=False).logits[0, -1]
    return logits, used


@contextmanager
def _edited_attention(model, edited):
    """Replace the eager attention function of the model's own modelling file by one that edits the weights."""
    attention = next(m for m in model.modules() if type(m).__name__.endswith("Attention") and hasattr(m, "layer_idx"))
    source = sys.modules[type(attention).__module__]
    if hasattr(attention, "_attn"):  # GPT-J
        owner, name = type(attention), "_attn"

        def replacement(module, query, key, value, *args, **kwargs):
            _, weights = original(module, query, key, value, *args, **kwargs)
            weights = edited(module.layer_idx, weights)
            return weights @ value, weights
    else:
        owner, name = source, "eager_attention_forward"

        def replacement(module, query, key, value, *args, **kwargs):
            _, weights = original(module, query, key, value, *args, **kwargs)
            weights = edited(module.layer_idx, weights)
            heads = value.repeat_interleave(query.shape[1] // value.shape[1], dim=1)
            return (weights @ heads).transpose(1, 2).contiguous(), weights

    original = getattr(owner, name)
    setattr(owner, name, replacement)
    try:
        yield
    finally:
        setattr(owner, name, original)


def released_random_positions(generator, length: int, anchors, first: int = 0) -> list[int]:
    """Draw the positions of the random control as in the released code: uniformly, without the anchors and the last two tokens.

    Args:
        generator: A ``random.Random``.
        length: Number of tokens of the prompt.
        anchors: Positions of the label words.
        first: First position that can be drawn; 1 if the prompt begins with a BOS token.
    """
    eligible = [position for position in range(first, length - 2) if position not in list(anchors)]
    return sorted(generator.sample(eligible, len(anchors)))


def jaccard(first, second) -> float:
    """Compute the Jaccard index of two sets."""
    return len(set(first) & set(second)) / len(set(first) | set(second))
