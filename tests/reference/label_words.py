"""Reference implementation of label words that are scored as a whole, and of label words with several anchors.

It shares no code with the package. Each label word is appended to its prompt on its own, and each such text is one forward pass
with transformers' own eager attention:

    s_c = sum over the tokens of label word c of log p(token | prompt, earlier tokens of the word)

Attention weights are edited after the softmax. A text's *predicting positions* are the last position of the prompt and the
appended tokens.
"""

from __future__ import annotations

from collections import defaultdict
from contextlib import nullcontext

import numpy as np
import torch

from .isolation import _edited_attention


def scores(model, ids, words, edited=None) -> torch.Tensor:
    """Compute the score of each class, shape (C,), with gradients if they are enabled.

    Args:
        model: A causal language model. It is switched to eager attention.
        ids: Token ids of the prompt.
        words: Token ids of each label word.
        edited: Function (layer, attention weights (1, H, T, T)) -> weights.
    """
    model.set_attn_implementation("eager")
    with _edited_attention(model, edited) if edited else nullcontext():
        return torch.stack([_log_probs(model(**_inputs(model, ids, word)).logits, ids, word).sum() for word in words])


def next_token_logits(model, ids, edited=None) -> torch.Tensor:
    """Compute the logits at the last position of a prompt, shape (V,). The arguments are those of :func:`scores`."""
    model.set_attn_implementation("eager")
    with torch.inference_mode(), _edited_attention(model, edited) if edited else nullcontext():
        return model(**_inputs(model, ids, [])).logits[0, -1]


def isolating(anchors, layers, blocking="before_softmax"):
    """Return the edit that isolates label words.

    Args:
        anchors: The anchors of each demonstration. They are blocked from all positions before the first of them.
        layers: Layers in which they are isolated.
        blocking: ``before_softmax`` or ``after_softmax``.
    """

    def edited(layer, weights):
        weights = weights.clone()
        if layer in layers:
            for group in anchors:
                for p in group:
                    weights[:, :, p, : group[0]] = 0.0
                    if blocking == "before_softmax":
                        weights[:, :, p] = weights[:, :, p] / weights[:, :, p].sum(-1, keepdim=True)
        return weights

    return edited


def reweighting(last, anchors, beta):
    """Return the edit that multiplies the weights of the predicting positions by exp(beta) at the label words.

    Args:
        last: The last position of the prompt.
        anchors: The anchors of each demonstration.
        beta: Shape (L, H, D).
    """

    def edited(layer, weights):
        factors = torch.ones_like(weights)
        for demonstration, group in enumerate(anchors):
            for p in group:
                column = torch.zeros_like(weights)
                column[:, :, last:, p] = 1.0
                factors = factors + column * (beta[layer, :, demonstration].exp() - 1.0)[None, :, None, None]
        return weights * factors

    return edited


def flow(model, ids, words, gold) -> list[dict[tuple, float]]:
    """Compute I_l of each layer: (position, earlier position) -> flow."""
    return [{edge: abs(value) for edge, value in layer.items()} for layer in signed_flow(model, ids, words, gold)]


def signed_flow(model, ids, words, gold) -> list[dict[tuple, float]]:
    """Compute the sum over heads of A_{h,l} * dL/dA_{h,l} of each layer: (position, earlier position) -> value.

    A position of the prompt is its number. An appended token is the tuple of the appended tokens up to it, which all label
    words with this beginning share.
    """
    model.set_attn_implementation("eager")
    runs = []
    for word in words:
        inputs = _inputs(model, ids, word)
        embeddings = model.get_input_embeddings()(inputs.pop("input_ids")).detach().requires_grad_()
        output = model(inputs_embeds=embeddings, output_attentions=True, **inputs)
        runs.append((_log_probs(output.logits, ids, word).sum(), output.attentions))
    scores = torch.stack([score for score, _ in runs])
    others = torch.cat([scores[:gold], scores[gold + 1 :]]).logsumexp(0)
    # -log p(gold). The derivative of log_softmax rounds to 0 where p(gold) is almost 1.
    loss = torch.nn.functional.softplus(others - scores[gold])
    layers = len(runs[0][1])
    gradients = torch.autograd.grad(loss, [attention for _, attentions in runs for attention in attentions])
    found = []
    for layer in range(layers):
        total: dict[tuple, float] = defaultdict(float)
        for number, (word, (_, attentions)) in enumerate(zip(words, runs, strict=True)):
            names = [*range(len(ids)), *(tuple(word[: n + 1]) for n in range(len(word) - 1))]
            product = (attentions[layer] * gradients[number * layers + layer])[0].double().sum(0).detach().numpy()  # (T, T)
            for i, name in enumerate(names):
                for j in range(i):
                    total[name, names[j]] += product[i, j]
        found.append(total)
    return found


def saliency(model, ids, anchors, words, gold) -> np.ndarray:
    """Compute S_wp, S_pq and S_ww in each layer, shape (3, L), edge by edge.

    Args:
        model: A causal language model.
        ids: Token ids of the prompt.
        anchors: The anchors of each demonstration.
        words: Token ids of each label word.
        gold: Class of the query.
    """
    last = len(ids) - 1
    group_of = {p: group for group in anchors for p in group}
    means = []
    for of_layer in flow(model, ids, words, gold):
        kinds = {"wp": [], "pq": [], "ww": []}
        for (i, j), value in of_layer.items():
            is_target = i == last or isinstance(i, tuple)
            if i in group_of and j < group_of[i][0]:
                kinds["wp"].append(value)
            elif is_target and j in group_of:
                kinds["pq"].append(value)
            else:
                kinds["ww"].append(value)
        means.append([np.mean(values) for values in kinds.values()])
    return np.array(means).T


def _inputs(model, ids, word) -> dict:
    return {"input_ids": torch.tensor([[*ids, *word[:-1]]], device=model.device), "use_cache": False}


def _log_probs(logits, ids, word) -> torch.Tensor:
    """Return the log-probability of each token of a label word, from the logits of one text, shape (1, T, V)."""
    predicting = logits[0, len(ids) - 1 :].double().log_softmax(-1)  # (n, V)
    return predicting[torch.arange(len(word)), torch.tensor(word, device=logits.device)]
