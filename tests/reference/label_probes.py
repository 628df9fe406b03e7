"""Reference implementation of probes of keys and values (Figure 5), one prompt, head and demonstration at a time.

It shares no code with the package. Keys and values are recorded at each family's own projections (keys before their rotary
embedding) or read from the model's own KV cache (keys after it). Ridge regression solves the normal equations with an intercept
among the unknowns.
"""

from __future__ import annotations

import numpy as np
import torch


def projected(model, family, ids, layer):
    """Return keys before the rotary embedding, and values, of one layer, shape (T, H_kv, d) each."""
    caught = {}

    def catch(name):
        return lambda module, inputs, output: caught.__setitem__(name, output[0].detach().double().numpy())

    heads = model.config.num_attention_heads
    if family == "gpt2":
        hooks = [model.transformer.h[layer].attn.c_attn.register_forward_hook(catch("all"))]
    elif family == "gptj":
        attention = model.transformer.h[layer].attn
        hooks = [attention.k_proj.register_forward_hook(catch("k")), attention.v_proj.register_forward_hook(catch("v"))]
    elif family == "gpt_neox":
        hooks = [model.gpt_neox.layers[layer].attention.query_key_value.register_forward_hook(catch("all"))]
    else:
        attention = model.model.layers[layer].self_attn
        hooks = [attention.k_proj.register_forward_hook(catch("k")), attention.v_proj.register_forward_hook(catch("v"))]
    with torch.inference_mode():
        model(input_ids=torch.tensor([ids]), use_cache=False)
    for hook in hooks:
        hook.remove()
    if family == "gpt2":  # queries, keys and values are concatenated
        _, keys, values = np.split(caught["all"], 3, axis=1)
    elif family == "gpt_neox":  # query, key and value of each head are adjacent
        by_head = caught["all"].reshape(len(ids), heads, 3, -1)
        return by_head[:, :, 1], by_head[:, :, 2]
    else:
        keys, values = caught["k"], caught["v"]
        heads = getattr(model.config, "num_key_value_heads", heads)
    return keys.reshape(len(ids), heads, -1), values.reshape(len(ids), heads, -1)


def cached(model, ids, layer):
    """Return keys after the rotary embedding, and values, of one layer, shape (T, H_kv, d) each."""
    with torch.inference_mode():
        cache = model(input_ids=torch.tensor([ids]), use_cache=True).past_key_values
    stored = cache.layers[layer]
    return tuple(part[0].transpose(0, 1).double().numpy() for part in (stored.keys, stored.values))


def ridge(fitted, classes, tested, penalty) -> list[int]:
    """Predict the class of each tested vector by ridge regression; the intercept has no penalty."""
    kinds = sorted(set(classes))
    width = len(fitted[0])
    x = np.array([[*v, 1.0] for v in fitted])
    y = np.array([[float(c == kind) for kind in kinds] for c in classes])
    penalties = np.diag([penalty] * width + [0.0])
    weights = np.linalg.solve(x.T @ x + penalties, x.T @ y)
    return [kinds[int(np.argmax(np.array([*v, 1.0]) @ weights))] for v in tested]
