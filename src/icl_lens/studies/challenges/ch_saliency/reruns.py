"""One run of a prompt, and later runs of the same prompt that start at a layer with other outputs of its heads.

A run that changes the attention weights of one layer differs from the plain run only in the outputs z of this layer's heads, at
the changed rows, and in what follows from them. It therefore starts at this layer, with the recorded input of the layer and the
changed z, and at the first changed row. The keys and values of the earlier rows are those of the plain run. Several such runs
form a batch.

If classes are predicted by their whole label words, a run has one row per path. All tensors that this module takes and returns
have each appended token once (:mod:`icl_lens.studies.challenges.ch_saliency.token_tree`): N is the number of nodes, of which
the first T are the tokens of the prompt. With first tokens, N is T.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, suppress

import torch
from torch import Tensor, nn

from icl_lens.attention.head_outputs import HeadOutputs, Heads
from icl_lens.attention.last_layer import computed_at
from icl_lens.models import prefixes
from icl_lens.models.batching import Batch, copies
from icl_lens.models.language_model import LanguageModel
from icl_lens.models.logits import class_logits, class_scores, last_output, predictive_output
from icl_lens.network import layer_states, vocabulary
from icl_lens.network.forward_inputs import forward_inputs
from icl_lens.network.layer_states import State
from icl_lens.network.layers import decoder_layers
from icl_lens.network.memory import Kept
from icl_lens.network.placement import recompute_layers
from icl_lens.prompts.positions import TokenizedPrompt
from icl_lens.studies.challenges.ch_saliency.token_tree import token_tree


class _LayerDone(Exception):  # noqa: N818 - not an error: it stops a forward pass after a layer
    pass


class Reruns:
    """The plain run of a prompt of T tokens, and runs that start from it.

    Attributes:
        heads: Heads of each layer in the plain run at the N nodes, with a batch of one.
        scores: Scores of the classes (:mod:`icl_lens.models.logits`) in the plain run, shape (C,).
    """

    def __init__(self, model: LanguageModel, prompt: TokenizedPrompt, edit: HeadOutputs, batch_tokens: int) -> None:
        """Run the prompt.

        Args:
            model: Any supported model.
            prompt: The prompt.
            edit: Open access to the heads of the model (:func:`icl_lens.attention.head_outputs.head_outputs`).
            batch_tokens: See :func:`icl_lens.models.batching.batches`.
        """
        self._model, self._edit, self._batch_tokens = model, edit, batch_tokens
        self._prompt, tree = prompt, token_tree(prompt)
        self._nodes = torch.from_numpy(tree.nodes).to(model.device)  # (P, T')
        self._rows = torch.from_numpy(tree.rows).to(model.device)  # (N,)
        self._positions = torch.from_numpy(tree.positions).to(model.device)  # (N,)
        self._read = None
        batch = self._batch(1, 0)
        self._ids = batch.ids  # (P, T')
        with (
            torch.no_grad(),
            edit.recorded() as heads,
            layer_states.record(model.network, range(1, model.layers + 1)) as states,
        ):
            self.scores = self._all_rows(batch)[0]
        sees = torch.from_numpy(tree.sees)  # (N, N)
        self.heads = [self._at_nodes(heads[layer], sees) for layer in range(model.layers)]
        self._states = states
        # Some families keep other keys and values in their cache than their attention uses, so they are read separately.
        if self._starts_anywhere:
            with torch.no_grad():
                self._read = prefixes.read(model.network, prompt.ids)

    @property
    def length(self) -> int:
        """Number of nodes, N."""
        return len(self._rows)

    @property
    def _appends(self) -> bool:
        """Whether there are appended tokens."""
        return self.length > len(self._prompt.ids)

    @property
    def _starts_anywhere(self) -> bool:
        """Whether a run can start at any layer and row."""
        return self._model.shares_prefixes and self._model.can_resume

    def first_row(self, layer: int, row: int) -> int:
        """Return the first node that a run must compute if it changes a layer from a given node of the prompt on.

        In the last layer, only the last position of the prompt and appended tokens matter. A model whose runs cannot start at a
        layer or at a row computes all nodes.
        """
        if not self._starts_anywhere:
            return 0
        return self._prompt.last if layer == self._model.layers - 1 else row

    @torch.no_grad()
    def run(self, layer: int, start: int, count: int, outputs: Callable[[slice], Tensor]) -> Tensor:
        """Run the prompt with other outputs of the heads of a layer.

        Args:
            layer: The layer.
            start: The first node to compute (:meth:`first_row`).
            count: Number of runs, R.
            outputs: Function that returns z of some runs at the nodes from ``start``, shape (n, H, N - start, e).

        Returns:
            Scores of the classes, shape (R, C).
        """
        size = self._size(start, start)
        found = []
        for first in range(0, count, size):
            part = slice(first, min(first + size, count))
            batch, z = self._batch(part.stop - part.start, start), self._to_rows(outputs(part), start)
            with self._from_layer(layer, start, part.stop - part.start), self._edit.replaced(layer, z):
                found.append(class_logits(self._model, batch)[batch.first_rows])  # (n, C)
        return torch.cat(found)

    def differentiate(
        self, layer: int, outputs: Tensor, function: Callable[[Tensor], list[Tensor]], use: Callable[..., None]
    ) -> None:
        """Run the prompt with other outputs of the heads of a layer, and differentiate functions of the scores.

        Args:
            layer: The layer.
            outputs: z of R runs, shape (R, H, N - start, e), with ``start`` from ``first_row(layer, 0)``.
            function: Function of the scores, shape (n, C), that returns values, shape (n,) each.
            use: Called for each batch with the indices of its runs, the scores, shape (n, C), and the gradients of each value
                with respect to z, shape (n, H, N - start, e) each. The indices are a slice. The gradients of a token that
                several paths share are added.
        """
        start, count = self.first_row(layer, 0), len(outputs)
        size = self._size(start, 0, "graph")
        network = self._model.network
        for first in range(0, count, size):
            part = slice(first, min(first + size, count))
            leaf = outputs[part].detach().requires_grad_()  # (n, H, N - start, e)
            batch = self._batch(len(leaf), start)
            with ExitStack() as stack:
                stack.enter_context(torch.enable_grad())
                stack.enter_context(self._from_layer(layer, start, len(leaf)))
                stack.enter_context(self._edit.replaced(layer, self._to_rows(leaf, start)))
                if start == 0 and self.length > 1 and self._model.supports_single_row and not self._appends:
                    stack.enter_context(computed_at(network, batch.last, self._edit))
                stack.enter_context(recompute_layers(network))
                scores = self._all_rows(batch)[batch.first_rows]  # (n, C)
                values = function(scores)
                gradients = [
                    torch.autograd.grad(value.sum(), leaf, retain_graph=number < len(values) - 1)[0]
                    for number, value in enumerate(values)
                ]
            use(part, scores.detach(), *gradients)

    @torch.no_grad()
    def layer_outputs(self, layer: int, rows: Tensor, outputs: Callable[[slice], Tensor]) -> Tensor:
        """Return the outputs of a layer at single nodes, each with other outputs of the heads.

        Args:
            layer: The layer.
            rows: The node of each of R outputs, shape (R,), on the CPU.
            outputs: Function that returns z of some of them, shape (n, H, e).

        Returns:
            Hidden states, shape (R, D).
        """
        network, single = self._model.network, self._model.can_resume
        queries = 1 if single else self._ids.shape[1]
        size = self._model.sizes.max_rows(self._batch_tokens, queries)
        found = []

        def stop(module: nn.Module, args: tuple, output: Tensor | tuple) -> None:
            found.append(output[0] if isinstance(output, tuple) else output)  # (n, Q, D)
            raise _LayerDone

        handle = decoder_layers(network)[layer].register_forward_hook(stop)
        try:
            for first in range(0, len(rows), size):
                part = slice(first, min(first + size, len(rows)))
                nodes = rows[part].to(self._ids.device)  # (n,)
                row, position = self._rows[nodes], self._positions[nodes]  # (n,) each
                given = outputs(part)  # (n, H, e)
                with ExitStack() as stack:
                    if single:
                        ids, positions, z = self._ids[row, position][:, None], position[:, None], given[:, :, None]
                        if layer:
                            state = self._states[layer]
                            values = _at(state.values, row, position)[:, None]  # (n, 1, D)
                            stack.enter_context(layer_states.resume(network, State(layer, values, state.wrapped)))
                    else:
                        ids = self._ids[row]  # (n, T')
                        positions = torch.arange(queries, device=ids.device).expand(len(nodes), -1)
                        z = self._to_rows(self.heads[layer].outputs, 0)  # (P, H, T', e)
                        z = z[row.to(z.device)]  # (n, H, T', e)
                        z[torch.arange(len(nodes), device=z.device), :, position.to(z.device)] = given.to(z.dtype)
                    stack.enter_context(self._edit.replaced(layer, z))
                    with suppress(_LayerDone):
                        network(**forward_inputs(ids, positions))
                if not single:
                    found[-1] = _at(found[-1], torch.arange(len(nodes), device=position.device), position)[:, None]  # (n, 1, D)
        finally:
            handle.remove()
        return torch.cat(found)[:, 0]

    def plain_output(self, layer: int) -> Tensor:
        """Return the outputs of a layer in the plain run, shape (N, D)."""
        return _at(self._states[layer + 1].values, self._rows, self._positions)

    def _size(self, start: int, prefix: int, kept: Kept = "layer") -> int:
        """Return the number of runs from a node of the prompt on that form a batch.

        Args:
            start: The node.
            prefix: Number of tokens of the prefix; 0 without one.
            kept: See :func:`icl_lens.models.batching.batches`.
        """
        paths, length = self._nodes.shape
        predicting = 1 + self._prompt.appended
        return max(1, self._model.sizes.max_rows(self._batch_tokens, length - start, prefix, kept, predicting) // paths)

    def _at_nodes(self, heads: Heads, sees: Tensor) -> Heads:
        """Return the heads of a layer at the N nodes, with a batch of one.

        Args:
            heads: The heads at the positions of each row.
            sees: :attr:`icl_lens.studies.challenges.ch_saliency.token_tree.TokenTree.sees`, on the CPU.
        """
        if not self._appends:
            return heads
        device = heads.query.device
        row, position, sees = (x.to(device) for x in (self._rows, self._positions, sees))
        query, key, value, outputs = (
            x.transpose(1, 2)[row, position].transpose(0, 1)[None] for x in (heads.query, heads.key, heads.value, heads.outputs)
        )  # (1, H or H_kv, N, d or e) each
        # All rows have the same mask. It depends only on the positions.
        mask = heads.mask[0, 0][position[:, None], position].masked_fill(~sees, torch.finfo(heads.mask.dtype).min)  # (N, N)
        return heads._replace(query=query, key=key, value=value, mask=mask[None, None], outputs=outputs)

    def _to_rows(self, outputs: Tensor, start: int) -> Tensor:
        """Return z at the positions from ``start`` of each row, shape (n P, H, T' - start, e). Gradients flow through it.

        Args:
            outputs: z at the nodes from ``start``, shape (n, H, N - start, e).
            start: A node of the prompt.
        """
        if not self._appends:
            return outputs
        index = (self._nodes[:, start:] - start).to(outputs.device)  # (P, T' - start)
        return outputs[:, :, index].transpose(1, 2).flatten(0, 1)

    def _from_layer(self, layer: int, start: int, runs: int) -> ExitStack:
        """Return a context in which passes over the positions from ``start`` begin at a layer, if the model permits."""
        stack = ExitStack()
        if layer and self._model.can_resume:
            state = self._states[layer]
            values = state.values[None, :, start:].expand(runs, -1, -1, -1).flatten(0, 1)  # (n P, T' - start, D)
            stack.enter_context(layer_states.resume(self._model.network, State(layer, values, state.wrapped)))
        return stack

    def _batch(self, runs: int, start: int) -> Batch:
        """Return a batch of copies of the prompt without its first tokens, whose keys and values are those of the plain run."""
        prefix = None
        if start:
            keys, values = (tuple(x[:, :, :start] for x in xs) for xs in (self._read.keys, self._read.values))
            prefix = prefixes.Prefix(keys, values, start)
        return copies(self._model, self._prompt, runs, prefix)

    def _all_rows(self, batch: Batch) -> Tensor:
        """Return the scores of the classes, shape (n P, C), from a pass in which the last layer is not restricted."""
        if batch.whole_words:
            return class_scores(batch, predictive_output(self._model, batch)[0])
        with vocabulary.restrict_tokens(self._model.network, batch.label_ids[0]) as restricted:
            logits = last_output(self._model, batch)[0]  # (n, C) or (n, V)
        return logits if restricted else logits.gather(1, batch.label_ids)


def _at(values: Tensor, rows: Tensor, positions: Tensor) -> Tensor:
    """Return values, shape (B, T, ...), at some rows and positions, shape (n,) each on any device; the result is (n, ...)."""
    return values[rows.to(values.device), positions.to(values.device)]
