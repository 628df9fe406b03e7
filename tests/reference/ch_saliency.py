"""Reference implementation of attributions to attention edges and of the effect of cutting them, from the equations.

It shares no code with the package: one full prompt at a time, transformers' own eager attention with other weights, scores or
values in one layer, and autograd. Each cut, each zeroed value and each point of an integral is a run of the whole model.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager

import numpy as np
import torch


class Plain:
    """Runs of one prompt in which one layer's attention can be changed.

    Args:
        model: A causal language model. It is switched to eager attention.
        ids: Token ids of the prompt.
        label_ids: Token id of each class.
    """

    def __init__(self, model, ids, label_ids):
        model.set_attn_implementation("eager")
        self.model, self.label_ids = model, torch.tensor(label_ids, device=model.device)
        self.ids = torch.tensor([ids], device=model.device)
        self.attentions = [m for m in model.modules() if type(m).__name__.endswith("Attention") and hasattr(m, "layer_idx")]
        names = {module: name for name, module in model.named_modules()}
        self.blocks = [model.get_submodule(names[m].rpartition(".")[0]) for m in self.attentions]
        self.length = len(ids)
        self.plain_weights, self.plain_heads, self.plain_states = {}, {}, {}

        def keep(layer, weights, values):
            self.plain_weights[layer], self.plain_heads[layer] = weights.detach(), (weights @ values).detach()
            return weights, values

        handles = [
            block.register_forward_hook(lambda _, __, output, i=i: self.plain_states.update({i: _first(output).detach()}))
            for i, block in enumerate(self.blocks)
        ]
        self.before = self.logits(keep)
        for handle in handles:
            handle.remove()

    def logits(self, edit, hidden=None):
        """Compute the logits of the label words, shape (C,).

        Args:
            edit: Function (layer, weights (1, H, T, T), values (1, H, T, e)) -> weights and values to use.
            hidden: Layer and edges (T, T) whose scores are masked.
        """
        with _edited_attention(self.attentions[0], edit, hidden):
            output = self.model(input_ids=self.ids, use_cache=False)
        return output.logits[0, -1, self.label_ids].double()

    def cut_after(self, layer, edges):
        """Compute the logits with the weights of some edges set to 0, without renormalisation."""

        def edit(at, weights, values):
            return (weights.masked_fill(edges, 0.0), values) if at == layer else (weights, values)

        with torch.no_grad():
            return self.logits(edit)

    def cut_before(self, layer, edges):
        """Compute the logits with the scores of some edges masked, except the diagonal."""
        with torch.no_grad():
            return self.logits(
                lambda at, weights, values: (weights, values), (layer, edges & ~torch.eye(len(edges), dtype=bool))
            )

    def gradients(self, layer, function, scale=1.0):
        """Compute the derivative of a function of the logits with respect to the weights of a layer, at a multiple of them.

        Returns:
            Shape (H, T, T).
        """
        leaf = (scale * self.plain_weights[layer]).requires_grad_()

        def edit(at, weights, values):
            return (leaf, values) if at == layer else (weights, values)

        (gradient,) = torch.autograd.grad(function(self.logits(edit)), leaf)
        return gradient[0].double()

    def zeroed(self, layer):
        """Compute the scores of value zeroing, shape (T, T)."""
        scores = torch.zeros(self.length, self.length, dtype=torch.float64)
        for j in range(self.length):
            states = []

            def edit(at, weights, values, j=j):
                if at == layer:
                    values = values.clone()
                    values[:, :, j] = 0.0
                return weights, values

            handle = self.blocks[layer].register_forward_hook(
                lambda _, __, output, states=states: states.append(_first(output))
            )
            with torch.no_grad():
                self.logits(edit)
            handle.remove()
            for i in range(j, self.length):
                one, other = states[0][0, i].double(), self.plain_states[layer][0, i].double()
                scores[i, j] = 1 - one @ other / (one.norm() * other.norm())
        return scores / scores.sum(-1, keepdim=True)


def margin(logits, y):
    others = [s for c, s in enumerate(logits) if c != y]
    return logits[y] - torch.stack(others).logsumexp(0)


def loss(logits, y):
    return -torch.log_softmax(logits, 0)[y]


FUNCTIONS = {"loss": loss, "margin": margin}


def attributions(plain, layer, y, quantity, edges, steps) -> dict[str, dict[str, float]]:
    """Compute the attributions of each class of edges, without value zeroing, and those per head, for one layer.

    Args:
        plain: Runs of the prompt.
        layer: The layer.
        y: The class whose loss or margin is attributed.
        quantity: ``loss`` or ``margin``.
        edges: Name -> mask (T, T), True at [i, j] for an edge from position j to position i.
        steps: Number of midpoints of the integral.
    """

    def function(logits):
        return FUNCTIONS[quantity](logits, y)

    weights = plain.plain_weights[layer][0].double()  # (H, T, T)
    product = weights * plain.gradients(layer, function)
    total = torch.zeros_like(product)
    for k in range(1, steps + 1):
        total += plain.gradients(layer, function, (k - 0.5) / steps)
    integral = weights * total / steps
    found = {}
    for name, mask in edges.items():
        heads = [float(head[mask].abs().sum()) for head in product]
        found[name] = {
            "count": int(mask.sum()),
            "attention": float(weights.mean(0)[mask].sum()),
            "abs_of_sum": float(product.sum(0).abs()[mask].sum()),
            "sum_of_abs": sum(heads),
            "largest_head": max(heads),
            "signed": -float(product.sum(0)[mask].sum()),
            "ig": float(integral.sum(0)[mask].sum()),
            "heads": heads,
        }
    return found


def heads(plain, layer, y, quantity, steps) -> dict[str, list[float]]:
    """Compute the attributions of each head of a layer, and the effect of removing its output."""

    def function(logits):
        return FUNCTIONS[quantity](logits, y)

    z = plain.plain_heads[layer]  # (1, H, T, e)
    found = {"heads_michel": [], "heads_signed": [], "heads_ig": [], "heads_truth": []}
    weights = plain.plain_weights[layer][0].double()
    gradient = plain.gradients(layer, function)  # (H, T, T)
    path = sum(plain.gradients(layer, function, (k - 0.5) / steps) for k in range(1, steps + 1)) / steps
    for h in range(z.shape[1]):
        # z . dL/dz of a row is the sum over its columns of A dL/dA.
        rows = (weights[h] * gradient[h]).sum(-1)
        found["heads_michel"].append(float(rows.abs().sum()))
        found["heads_signed"].append(-float(rows.sum()))
        found["heads_ig"].append(float((weights[h] * path[h]).sum()))

        def without(at, weights, values, h=h):
            if at == layer:
                weights = weights.clone()
                weights[:, h] = 0.0
            return weights, values

        with torch.no_grad():
            found["heads_truth"].append(float(function(plain.logits(without)) - function(plain.before)))
    return found


def truths(plain, layer, y, quantity, edges) -> dict[str, tuple[float, float]]:
    """Compute the effect of cutting each class of edges: weights set to 0, and scores masked."""
    function = FUNCTIONS[quantity]
    before = function(plain.before, y)
    return {
        name: tuple(float(function(cut(layer, mask), y) - before) for cut in (plain.cut_after, plain.cut_before))
        for name, mask in edges.items()
    }


def random_edges(edges, seen, numbers) -> np.ndarray | None:
    """Draw as many edges per row, among those that exist and are not in the class, not on the diagonal and not from position 0.

    Args:
        edges: The class, shape (T, T).
        seen: Edges that exist, shape (T, T).
        numbers: Random numbers, shape (T, T); those with the smallest ones are drawn.
    """
    drawn = np.zeros_like(edges)
    for i, row in enumerate(edges):
        candidates = [j for j in range(1, i) if seen[i, j] and not row[j]]
        if len(candidates) < row.sum():
            return None
        for j in sorted(candidates, key=lambda j: numbers[i, j])[: row.sum()]:
            drawn[i, j] = True
    return drawn


def _first(output):
    return output[0] if isinstance(output, tuple) else output


@contextmanager
def _edited_attention(attention, edit, hidden):
    """Replace the eager attention function of the model's own modelling file by one that edits weights, scores or values."""
    source = sys.modules[type(attention).__module__]
    on_class = hasattr(attention, "_attn")  # GPT-J
    owner, name = (type(attention), "_attn") if on_class else (source, "eager_attention_forward")

    def replacement(module, query, key, value, attention_mask=None, *args, **kwargs):
        if hidden and hidden[0] == module.layer_idx:
            length = query.shape[2]
            if attention_mask is None:
                attention_mask = torch.zeros(length, length, dtype=query.dtype).masked_fill(
                    ~torch.ones(length, length, dtype=bool).tril(), torch.finfo(query.dtype).min
                )
            attention_mask = attention_mask[..., :length].masked_fill(hidden[1], torch.finfo(attention_mask.dtype).min)
        _, weights = original(module, query, key, value, attention_mask, *args, **kwargs)
        values = value.repeat_interleave(query.shape[1] // value.shape[1], dim=1)
        weights, values = edit(module.layer_idx, weights, values)
        output = weights @ values
        return (output if on_class else output.transpose(1, 2).contiguous()), weights

    original = getattr(owner, name)
    setattr(owner, name, replacement)
    try:
        yield
    finally:
        setattr(owner, name, original)
