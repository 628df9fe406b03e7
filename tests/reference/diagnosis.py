"""Predicted and real confusion from the definitions (section 3.3; the released ``Error_analysis.ipynb``).

It shares nothing with the package: one prompt at a time, vectors caught where a family's own projection gives them, principal
directions from the eigenvectors of the covariance matrix, AUC by counting.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
import torch

from .deep_attention import auc_by_counting


def projections(model, family, ids, layer):
    """What one layer's projections give for one prompt: queries and keys, shape (T, W), heads one after the other."""
    caught = {}

    def catch(name):
        return lambda module, inputs, output: caught.__setitem__(name, output[0].detach().double().cpu().numpy())

    heads = model.config.num_attention_heads
    if family == "gpt2":
        hooks = [model.transformer.h[layer].attn.c_attn.register_forward_hook(catch("all"))]
    elif family == "gptj":
        attention = model.transformer.h[layer].attn
        hooks = [attention.q_proj.register_forward_hook(catch("q")), attention.k_proj.register_forward_hook(catch("k"))]
    elif family == "gpt_neox":
        hooks = [model.gpt_neox.layers[layer].attention.query_key_value.register_forward_hook(catch("all"))]
    elif family == "phi3":
        hooks = [model.model.layers[layer].self_attn.qkv_proj.register_forward_hook(catch("all"))]
    elif family == "opt":
        attention = model.model.decoder.layers[layer].self_attn
        hooks = [attention.q_proj.register_forward_hook(catch("q")), attention.k_proj.register_forward_hook(catch("k"))]
    else:
        attention = model.model.layers[layer].self_attn
        hooks = [attention.q_proj.register_forward_hook(catch("q")), attention.k_proj.register_forward_hook(catch("k"))]
    with torch.inference_mode():
        model(input_ids=torch.tensor([ids], device=model.device), use_cache=False)
    for hook in hooks:
        hook.remove()
    if family == "gpt2":
        width = caught["all"].shape[1] // 3
        return caught["all"][:, :width], caught["all"][:, width : 2 * width]
    if family == "gpt_neox":  # each head's query, key and value stand side by side
        width = caught["all"].shape[1]
        size = width // heads // 3
        by_head = [caught["all"][:, 3 * size * h : 3 * size * (h + 1)] for h in range(heads)]
        return np.hstack([part[:, :size] for part in by_head]), np.hstack([part[:, size : 2 * size] for part in by_head])
    if family == "phi3":
        size = model.config.hidden_size // heads
        queries, rest = caught["all"][:, : heads * size], caught["all"][:, heads * size :]
        keys = rest[:, : model.config.num_key_value_heads * size]
    else:
        queries, keys = caught["q"], caught["k"]
    size = queries.shape[1] // heads
    shared = queries.shape[1] // keys.shape[1]  # query heads that have one key head in common
    return queries, np.hstack([keys[:, (h // shared) * size : (h // shared + 1) * size] for h in range(heads)])


def predicted(queries, keys, directions):
    """Predicted confusion from query vectors (N lists) and one key vector a class, with M directions: {(a, b): confusion}."""
    queries = np.array(queries)
    covariance = np.cov(queries, rowvar=False)
    values, vectors = np.linalg.eigh(covariance)
    widest = sorted(range(len(values)), key=lambda m: -values[m])[: min(directions, len(queries) - 1, len(values))]
    scaled = [[np.sqrt(max(values[m], 0)) * float(vectors[:, m] @ key) for m in widest] for key in keys]
    apart = {
        (a, b): sum((x - y) ** 2 for x, y in zip(scaled[a], scaled[b], strict=True)) ** 0.5
        for a, b in combinations(range(len(keys)), 2)
    }
    return {pair: distance / max(apart.values()) for pair, distance in apart.items()}


def real(log_probs, gold):
    """Of the texts of class a or b the AUC of p_a / (p_a + p_b); pairs without a text of either class are left out."""
    found = {}
    for a, b in combinations(range(len(log_probs[0])), 2):
        both = [(np.exp(p), y) for p, y in zip(log_probs, gold, strict=True) if y in (a, b)]
        rows = [(p[a] / (p[a] + p[b]), y == a) for p, y in both]
        if any(y for _, y in rows) and not all(y for _, y in rows):
            found[a, b] = auc_by_counting([score for score, _ in rows], [y for _, y in rows])
    return found
