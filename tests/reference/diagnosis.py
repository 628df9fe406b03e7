"""Reference implementation of predicted and real confusion (section 3.3; the released ``Error_analysis.ipynb``).

It shares no code with the package: it uses one prompt at a time, vectors recorded at each family's own projections, principal
directions from the eigenvectors of the covariance matrix, and AUC by counting.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
import torch

from .deep_attention import auc_by_counting


def projections(model, family, ids, layer):
    """Return queries and keys of one layer for one prompt, shape (T, W), with heads concatenated."""
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
    if family == "gpt_neox":  # query, key and value of each head are adjacent
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
    shared = queries.shape[1] // keys.shape[1]  # number of query heads per key head
    return queries, np.hstack([keys[:, (h // shared) * size : (h // shared + 1) * size] for h in range(heads)])


def predicted(queries, keys, directions):
    """Compute predicted confusion from N query vectors and one key vector per class, with M directions.

    Returns:
        {(a, b): confusion}.
    """
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
    """Compute the AUC of p_a / (p_a + p_b) on the texts of class a or b, for each pair of classes.

    Pairs in which one of the classes has no texts are left out.
    """
    found = {}
    for a, b in combinations(range(len(log_probs[0])), 2):
        both = [(np.exp(p), y) for p, y in zip(log_probs, gold, strict=True) if y in (a, b)]
        rows = [(p[a] / (p[a] + p[b]), y == a) for p, y in both]
        if any(y for _, y in rows) and not all(y for _, y in rows):
            found[a, b] = auc_by_counting([score for score, _ in rows], [y for _, y in rows])
    return found
