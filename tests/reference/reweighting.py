"""Reference implementation of anchor re-weighting, directly from the equations (section 3.1, eq. 9 and 12; appendix H).

It shares no code with the package. It runs one full prompt at a time with transformers' own eager attention. The last row of
the attention weights is multiplied by exp(beta) at the label words after the softmax. Gradients come from autograd through the
full forward pass, and Adam is written out.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager

import torch


def class_logits(model, ids, anchors, label_ids, beta) -> torch.Tensor:
    """Compute the logits of the label words at the last position, shape (C,).

    Args:
        model: A causal language model. It is switched to eager attention.
        ids: Token ids of the prompt.
        anchors: Positions p_1 ... p_D of the label words.
        label_ids: Token id of each class.
        beta: Shape (L, H, D).
    """

    def reweighted(layer, weights):  # (1, H, T, T)
        factors = torch.ones_like(weights)
        for i, p in enumerate(anchors):
            row = torch.zeros_like(weights)
            row[0, :, -1, p] = 1.0
            factors = factors + row * (beta[layer, :, i].exp() - 1.0)[None, :, None, None]
        return weights * factors

    model.set_attn_implementation("eager")
    with _edited_attention(model, reweighted):
        logits = model(input_ids=torch.tensor([ids], device=model.device), use_cache=False).logits[0, -1]
        return logits[torch.tensor(label_ids, device=model.device)]


def train(model, examples, orders, heads, rate) -> tuple[torch.Tensor, list[float]]:
    """Train beta, shape (L, H, D), and return it with the mean loss of each epoch.

    Args:
        model: A causal language model.
        examples: (ids, anchors, label_ids, gold) of each training prompt.
        orders: Order of the examples in each epoch.
        heads: H.
        rate: Learning rate of Adam.
    """
    layers = model.config.get_text_config().num_hidden_layers
    beta = torch.zeros(layers, heads, len(examples[0][1]), device=model.device)
    first, second, step = torch.zeros_like(beta), torch.zeros_like(beta), 0
    losses = []
    for order in orders:
        epoch = []
        for i in order:
            ids, anchors, label_ids, gold = examples[i]
            leaf = beta.clone().requires_grad_()
            loss = -torch.log_softmax(class_logits(model, ids, anchors, label_ids, leaf), dim=0)[gold]
            (gradient,) = torch.autograd.grad(loss, leaf)
            step += 1
            first = 0.9 * first + 0.1 * gradient
            second = 0.999 * second + 0.001 * gradient**2
            beta = beta - rate * (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
            epoch.append(float(loss.detach()))
        losses.append(sum(epoch) / len(epoch))
    return beta, losses


@contextmanager
def _edited_attention(model, edited):
    """Replace the eager attention function of the model's own modelling file by one that edits the weights."""
    attention = next(m for m in model.modules() if type(m).__name__.endswith("Attention") and hasattr(m, "layer_idx"))
    if hasattr(attention, "_attn"):  # GPT-J
        owner, name = type(attention), "_attn"

        def replacement(module, query, key, value, *args, **kwargs):
            _, weights = original(module, query, key, value, *args, **kwargs)
            weights = edited(module.layer_idx, weights)
            return weights @ value, weights
    else:
        owner, name = sys.modules[type(attention).__module__], "eager_attention_forward"

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
