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
    return [np.abs(product.sum(0)) for product, _ in head_products(model, ids, label_ids, gold)]


def head_products(model, ids, label_ids, gold) -> list[tuple[np.ndarray, np.ndarray]]:
    """Compute A_{h,l} * dL/dA_{h,l} and A_{h,l} of each layer, shape (H, T, T) each, see :func:`information_flow`."""
    model.set_attn_implementation("eager")
    embeddings = model.get_input_embeddings()(torch.tensor([ids], device=model.device)).detach().requires_grad_()
    output = model(inputs_embeds=embeddings, output_attentions=True, use_cache=False)
    logits = output.logits[0, -1, torch.tensor(label_ids, device=model.device)]
    loss = -torch.log_softmax(logits, dim=0)[gold]
    gradients = torch.autograd.grad(loss, output.attentions)
    return [
        tuple(each[0].double().detach().cpu().numpy() for each in (attention * gradient, attention))
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


def variants(model, ids, anchors, label_ids, gold, windows, bos) -> dict[str, np.ndarray]:
    """Compute the variants of the three means in each layer, shape (L,) each, edge by edge.

    Args:
        model: A causal language model. It is switched to eager attention.
        ids: Token ids of the prompt.
        anchors: Positions p_1 ... p_D of the label words.
        label_ids: Token id of each class.
        gold: Class of the query.
        windows: For each layer, the number of positions that a position attends to, including itself; None for all.
        bos: Token id of the BOS token, or None.
    """
    q = len(ids) - 1
    names = ("s_wp_visible", "s_pq_visible", "s_ww_visible", "s_wp_bos", "s_wp_no_bos")
    found = {name: [] for name in names}
    for i_l, window in zip(information_flow(model, ids, label_ids, gold), windows, strict=True):
        visible = {"wp": [], "pq": [], "ww": []}
        wp, from_bos, from_others = [], [], []
        for i in range(q + 1):
            for j in range(i):
                kind = "wp" if i in anchors else "pq" if i == q and j in anchors else "ww"
                if window is None or i - j < window:
                    visible[kind].append(i_l[i, j])
                else:
                    assert i_l[i, j] == 0
                if kind == "wp":
                    wp.append(i_l[i, j])
                    (from_bos if j == 0 and ids[0] == bos else from_others).append(i_l[i, j])
        for kind, values in visible.items():
            found[f"s_{kind}_visible"].append(sum(values) / len(values) if values else 0)
        found["s_wp_bos"].append(sum(from_bos) / len(wp))
        found["s_wp_no_bos"].append(sum(from_others) / len(from_others))
    return {name: np.array(values) for name, values in found.items()}
