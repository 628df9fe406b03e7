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

    If label words are scored as a whole, each label word has a text of its own: the prompt and all tokens of the word but the
    last. The texts are changed together. A *node* is a token of the prompt, or an appended token together with the appended
    tokens before it: texts that begin alike share their nodes. All matrices have one row and one column per node.

    Args:
        model: A causal language model. It is switched to eager attention.
        ids: Token ids of the prompt, T of them.
        label_ids: Token id of each class.
        words: Token ids of each label word, if label words are scored as a whole.

    Attributes:
        names: The N nodes: the T positions of the prompt, and tuples of appended tokens.
    """

    def __init__(self, model, ids, label_ids, words=None):
        model.set_attn_implementation("eager")
        self.model, self.label_ids, self.words = model, torch.tensor(label_ids, device=model.device), words
        self.last = len(ids) - 1
        self.texts = [torch.tensor([[*ids, *word[:-1]]], device=model.device) for word in words or [()]]
        self.names = [*range(len(ids)), *dict.fromkeys(w[:n] for w in map(tuple, words or []) for n in range(1, len(w)))]
        number = {name: node for node, name in enumerate(self.names)}
        appended = [[tuple(word[:n]) for n in range(1, len(word))] for word in words or [()]]
        self.nodes = [torch.tensor([*range(len(ids)), *(number[name] for name in path)]) for path in appended]
        self.attentions = [m for m in model.modules() if type(m).__name__.endswith("Attention") and hasattr(m, "layer_idx")]
        names = {module: name for name, module in model.named_modules()}
        self.blocks = [model.get_submodule(names[m].rpartition(".")[0]) for m in self.attentions]
        self.length = len(self.names)
        self.text_weights = {}

        def keep(text, layer, weights, values):
            self.text_weights[text, layer] = weights.detach()
            return weights, values

        states: dict[int, list] = {i: [] for i in range(len(self.blocks))}  # layer -> its output in each text
        handles = [
            block.register_forward_hook(lambda _, __, output, i=i: states[i].append(_first(output).detach()))
            for i, block in enumerate(self.blocks)
        ]
        self.before = self.scores(keep)
        for handle in handles:
            handle.remove()
        self.text_states = states
        layers = range(len(self.blocks))
        self.plain_weights = {i: self._joined([self.text_weights[t, i][0] for t in self._numbers], False) for i in layers}

    @property
    def _numbers(self):
        return range(len(self.texts))

    def _joined(self, matrices, add):
        """Join a matrix per text, shape (H, T', T') each, to one of shape (H, N, N), float64."""
        size = len(matrices[0]), self.length, self.length
        joined = torch.zeros(size, dtype=torch.float64, device=matrices[0].device)
        for nodes, matrix in zip(self.nodes, matrices, strict=True):
            index = slice(None), nodes[:, None], nodes
            joined[index] = (joined[index] if add else 0) + matrix.double()
        return joined

    def _of_text(self, text, mask):
        """Return the part of a mask (N, N) for the positions of a text."""
        return mask[self.nodes[text][:, None], self.nodes[text]]

    def scores(self, edit, hidden=None):
        """Compute the scores of the classes, shape (C,): logits, or log-probabilities of label words.

        Args:
            edit: Function (text, layer, weights (1, H, T', T'), values (1, H, T', e)) -> weights and values to use.
            hidden: Layer and edges (N, N) whose scores are masked.
        """
        found = []
        for text, ids in enumerate(self.texts):
            of_text = hidden and (hidden[0], self._of_text(text, hidden[1]))
            with _edited_attention(self.attentions[0], lambda *given, text=text: edit(text, *given), of_text):
                logits = self.model(input_ids=ids, use_cache=False).logits[0].double()  # (T', V)
            if not self.words:
                return logits[-1, self.label_ids]
            log_probs = logits[self.last :].log_softmax(-1)
            found.append(sum(log_probs[n, token] for n, token in enumerate(self.words[text])))
        return torch.stack(found)

    def cut_after(self, layer, edges):
        """Compute the scores with the weights of some edges set to 0, without renormalisation."""

        def edit(text, at, weights, values):
            return (weights.masked_fill(self._of_text(text, edges), 0.0), values) if at == layer else (weights, values)

        with torch.no_grad():
            return self.scores(edit)

    def cut_before(self, layer, edges):
        """Compute the scores with the scores of some edges masked, except the diagonal."""
        with torch.no_grad():
            return self.scores(
                lambda text, at, weights, values: (weights, values),
                (layer, edges & ~torch.eye(len(edges), dtype=bool, device=edges.device)),
            )

    def gradients(self, layer, function, scale=1.0):
        """Compute the derivative of a function of the scores with respect to the weights of a layer, at a multiple of them.

        Returns:
            Shape (H, N, N).
        """
        leaves = [(scale * self.text_weights[text, layer]).requires_grad_() for text in self._numbers]

        def edit(text, at, weights, values):
            return (leaves[text], values) if at == layer else (weights, values)

        gradients = torch.autograd.grad(function(self.scores(edit)), leaves)
        return self._joined([gradient[0] for gradient in gradients], True)

    def zeroed(self, layer):
        """Compute the scores of value zeroing, shape (N, N)."""
        scores = torch.zeros(self.length, self.length, dtype=torch.float64)
        for j in range(self.length):
            states = []

            def edit(text, at, weights, values, j=j):
                if at == layer:
                    values = values.clone()
                    values[:, :, self.nodes[text] == j] = 0.0
                return weights, values

            handle = self.blocks[layer].register_forward_hook(
                lambda _, __, output, states=states: states.append(_first(output))
            )
            with torch.no_grad():
                self.scores(edit)
            handle.remove()
            for nodes, changed, plain in zip(self.nodes, states, self.text_states[layer], strict=True):
                if j in nodes:
                    for position in range(nodes.tolist().index(j), len(nodes)):
                        one, other = changed[0, position].double(), plain[0, position].double()
                        scores[nodes[position], j] = 1 - one @ other / (one.norm() * other.norm())
        return scores / scores.sum(-1, keepdim=True)

    def classes(self, of_prompt, groups):
        """Return the edges of classes with appended tokens, shape (N, N) each.

        Args:
            of_prompt: Name -> edges between tokens of the prompt, shape (T, T), for the classes with rows ``last``, ``query``,
                ``label`` and ``demonstration``.
            groups: The anchors of each demonstration.
        """
        below, length = torch.zeros(self.length, self.length, dtype=bool), self.last + 1
        for nodes in self.nodes:
            below[nodes[:, None], nodes] |= torch.ones(len(nodes), len(nodes), dtype=bool).tril(-1)
        wp, pq = torch.zeros_like(below), torch.zeros_like(below)
        for group in groups:
            for p in group:
                wp[p, : group[0]] = True
                for node, name in enumerate(self.names):
                    pq[node, p] = name == self.last or isinstance(name, tuple)
        found = {"wp": wp, "pq": pq, "ww": below & ~wp & ~pq, "layer": below | torch.eye(self.length, dtype=bool)}
        for name, mask in of_prompt.items():
            found[name] = torch.zeros_like(below)
            found[name][:length, :length] = mask
            if name.startswith(("last", "query")):
                found[name][length:, :length] = mask[self.last]
        return found


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
        edges: Name -> mask (N, N), True at [i, j] for an edge from node j to node i.
        steps: Number of midpoints of the integral.
    """

    def function(logits):
        return FUNCTIONS[quantity](logits, y)

    weights = plain.plain_weights[layer]  # (H, N, N)
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

    found = {"heads_michel": [], "heads_signed": [], "heads_ig": [], "heads_truth": []}
    weights = plain.plain_weights[layer]
    gradient = plain.gradients(layer, function)  # (H, N, N)
    path = sum(plain.gradients(layer, function, (k - 0.5) / steps) for k in range(1, steps + 1)) / steps
    for h in range(len(weights)):
        # z . dL/dz of a row is the sum over its columns of A dL/dA.
        rows = (weights[h] * gradient[h]).sum(-1)
        found["heads_michel"].append(float(rows.abs().sum()))
        found["heads_signed"].append(-float(rows.sum()))
        found["heads_ig"].append(float((weights[h] * path[h]).sum()))

        def without(text, at, weights, values, h=h):
            if at == layer:
                weights = weights.clone()
                weights[:, h] = 0.0
            return weights, values

        with torch.no_grad():
            found["heads_truth"].append(float(function(plain.scores(without)) - function(plain.before)))
    return found


def truths(plain, layer, y, quantity, edges) -> dict[str, tuple[float, float]]:
    """Compute the effect of cutting each class of edges: weights set to 0, and scores masked."""
    function = FUNCTIONS[quantity]
    before = function(plain.before, y)
    return {
        name: tuple(float(function(cut(layer, mask), y) - before) for cut in (plain.cut_after, plain.cut_before))
        for name, mask in edges.items()
    }


def random_edges(edges, seen, numbers, query) -> np.ndarray | None:
    """Draw as many edges per row, among those that exist and are not in the class, not on the diagonal and not from position 0.

    What a row lacks is drawn from all rows before the query.

    Args:
        edges: The class, shape (N, N).
        seen: Edges that exist, shape (N, N).
        numbers: Random numbers for the edges of a row and for the others, shape (2, N, N); those with the smallest are drawn.
        query: First position of the query.
    """
    drawn = np.zeros_like(edges)
    for i, row in enumerate(edges):
        candidates = [j for j in range(1, i) if seen[i, j] and not row[j]]
        for j in sorted(candidates, key=lambda j: numbers[0, i, j])[: row.sum()]:
            drawn[i, j] = True
    others = [(i, j) for i in range(query) for j in range(1, i) if seen[i, j] and not edges[i, j] and not drawn[i, j]]
    missing = edges.sum() - drawn.sum()
    if len(others) < missing:
        return None
    for i, j in sorted(others, key=lambda edge: numbers[1][edge])[:missing]:
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
