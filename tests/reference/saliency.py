"""Reference implementation of S_wp, S_pq and S_ww, directly from the equations (section 2.1, eq. 1-4).

It shares no code with the package: it uses one prompt at a time, the attention matrices that transformers' own eager attention
returns, and autograd.
"""

from __future__ import annotations

import numpy as np
import torch


def information_flow(model, ids, label_ids, gold) -> list[np.ndarray]:
    """Compute I_l of each layer, shape (T, T) each, including the diagonal as in eq. 1.

    Args:
        model: A causal language model. It is switched to eager attention.
        ids: Token ids of the prompt.
        label_ids: Token id of each class.
        gold: Class of the query.
    """
    model.set_attn_implementation("eager")
    embeddings = model.get_input_embeddings()(torch.tensor([ids], device=model.device)).detach().requires_grad_()
    output = model(inputs_embeds=embeddings, output_attentions=True, use_cache=False)
    logits = output.logits[0, -1, torch.tensor(label_ids, device=model.device)]
    loss = -torch.log_softmax(logits, dim=0)[gold]
    gradients = torch.autograd.grad(loss, output.attentions)
    return [
        (attention[0] * gradient[0]).sum(0).abs().double().detach().cpu().numpy()
        for attention, gradient in zip(output.attentions, gradients, strict=True)
    ]


def saliency(model, ids, anchors, label_ids, gold) -> np.ndarray:
    """Compute the three means in each layer, shape (3, L).

    Args:
        model: A causal language model. It is switched to eager attention.
        ids: Token ids of the prompt.
        anchors: Positions p_1 ... p_D of the label words.
        label_ids: Token id of each class.
        gold: Class of the query.
    """
    q = len(ids) - 1
    c_wp, c_pq = np.zeros((2, q + 1, q + 1), dtype=bool)
    for p in anchors:
        c_wp[p, :p] = True
        c_pq[q, p] = True
    c_ww = np.tril(np.ones_like(c_wp), -1) & ~c_wp & ~c_pq
    flow = information_flow(model, ids, label_ids, gold)
    return np.array([[i_l[edges].mean() for edges in (c_wp, c_pq, c_ww)] for i_l in flow]).T
