"""One run of a prompt, and later runs of the same prompt that start at a layer with other outputs of its heads.

A run that changes the attention weights of one layer differs from the plain run only in the outputs z of this layer's heads, at
the changed rows, and in what follows from them. It therefore starts at this layer, with the recorded input of the layer and the
changed z, and at the first changed row. The keys and values of the earlier rows are those of the plain run. Several such runs
form a batch.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, suppress

import torch
from torch import Tensor, nn

from icl_lens.attention.head_outputs import HeadOutputs, Heads
from icl_lens.attention.last_layer import computed_at
from icl_lens.models import prefixes
from icl_lens.models.batching import Batch
from icl_lens.models.language_model import LanguageModel
from icl_lens.models.logits import class_logits, last_output
from icl_lens.network import layer_states, vocabulary
from icl_lens.network.forward_inputs import forward_inputs
from icl_lens.network.layer_states import State
from icl_lens.network.layers import decoder_layers
from icl_lens.network.placement import recompute_layers
from icl_lens.prompts.positions import TokenizedPrompt


class _LayerDone(Exception):  # noqa: N818 - not an error: it stops a forward pass after a layer
    pass


class Reruns:
    """The plain run of a prompt of T tokens, and runs that start from it.

    Attributes:
        heads: Heads of each layer in the plain run, with a batch of one.
        logits: Logits of the label words in the plain run, shape (C,).
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
        self._ids = torch.from_numpy(prompt.ids).to(model.device)  # (T,)
        self._label_ids = torch.from_numpy(prompt.label_ids).to(model.device)  # (C,)
        batch = self._batch(1, 0)
        with (
            torch.no_grad(),
            edit.recorded() as heads,
            layer_states.record(model.network, range(1, model.layers + 1)) as states,
        ):
            self.logits = self._all_rows(batch)[0]
        self.heads: list[Heads] = [heads[layer] for layer in range(model.layers)]
        self._states = states
        # Some families keep other keys and values in their cache than their attention uses, so they are read separately.
        with torch.no_grad():
            self._read = prefixes.read(model.network, prompt.ids) if self._starts_anywhere else None

    @property
    def length(self) -> int:
        """Number of tokens, T."""
        return len(self._ids)

    @property
    def _starts_anywhere(self) -> bool:
        """Whether a run can start at any layer and row."""
        return self._model.shares_prefixes and self._model.can_resume

    def first_row(self, layer: int, row: int) -> int:
        """Return the first row that a run must compute if it changes the rows of a layer from a given row on.

        In the last layer, only the last row matters. A model whose runs cannot start at a layer or at a row computes all rows.
        """
        if not self._starts_anywhere:
            return 0
        return self.length - 1 if layer == self._model.layers - 1 else row

    @torch.no_grad()
    def run(self, layer: int, start: int, count: int, outputs: Callable[[slice], Tensor]) -> Tensor:
        """Run the prompt with other outputs of the heads of a layer.

        Args:
            layer: The layer.
            start: The first row to compute (:meth:`first_row`).
            count: Number of runs, N.
            outputs: Function that returns z of some runs at the rows from ``start``, shape (n, H, T - start, e).

        Returns:
            Logits of the label words, shape (N, C).
        """
        size = self._model.sizes.max_rows(self._batch_tokens, self.length - start, start)
        found = []
        for first in range(0, count, size):
            part = slice(first, min(first + size, count))
            with self._from_layer(layer, start, part.stop - part.start), self._edit.replaced(layer, outputs(part)):
                found.append(class_logits(self._model, self._batch(part.stop - part.start, start)))  # (n, C)
        return torch.cat(found)

    def differentiate(
        self, layer: int, outputs: Tensor, function: Callable[[Tensor], list[Tensor]], use: Callable[..., None]
    ) -> None:
        """Run the prompt with other outputs of the heads of a layer, and differentiate functions of the logits.

        Args:
            layer: The layer.
            outputs: z of N runs, shape (N, H, T - start, e), with ``start`` from ``first_row(layer, 0)``.
            function: Function of the logits, shape (n, C), that returns values, shape (n,) each.
            use: Called for each batch with the indices of its runs, the logits, shape (n, C), and the gradients of each value
                with respect to z, shape (n, H, T - start, e) each. The indices are a slice.
        """
        start, count = self.first_row(layer, 0), len(outputs)
        size = self._model.sizes.max_rows(self._batch_tokens, self.length - start, 0, "graph")
        network = self._model.network
        for first in range(0, count, size):
            part = slice(first, min(first + size, count))
            leaf = outputs[part].detach().requires_grad_()  # (n, H, T - start, e)
            batch = self._batch(len(leaf), start)
            with ExitStack() as stack:
                stack.enter_context(torch.enable_grad())
                stack.enter_context(self._from_layer(layer, start, len(leaf)))
                stack.enter_context(self._edit.replaced(layer, leaf))
                if start == 0 and self.length > 1 and self._model.supports_single_row:
                    stack.enter_context(computed_at(network, batch.last, self._edit))
                stack.enter_context(recompute_layers(network))
                logits = self._all_rows(batch)  # (n, C)
                values = function(logits)
                gradients = [
                    torch.autograd.grad(value.sum(), leaf, retain_graph=number < len(values) - 1)[0]
                    for number, value in enumerate(values)
                ]
            use(part, logits.detach(), *gradients)

    @torch.no_grad()
    def layer_outputs(self, layer: int, rows: Tensor, outputs: Callable[[slice], Tensor]) -> Tensor:
        """Return the outputs of a layer at single rows, each with other outputs of the heads.

        Args:
            layer: The layer.
            rows: The row of each of N outputs, shape (N,), on the CPU.
            outputs: Function that returns z of some of them, shape (n, H, e).

        Returns:
            Hidden states, shape (N, D).
        """
        network, single = self._model.network, self._model.can_resume
        queries = 1 if single else self.length
        size = self._model.sizes.max_rows(self._batch_tokens, queries)
        found = []

        def stop(module: nn.Module, args: tuple, output: Tensor | tuple) -> None:
            found.append(output[0] if isinstance(output, tuple) else output)  # (n, Q, D)
            raise _LayerDone

        handle = decoder_layers(network)[layer].register_forward_hook(stop)
        try:
            for first in range(0, len(rows), size):
                part = slice(first, min(first + size, len(rows)))
                of_part = rows[part].to(self._ids.device)  # (n,)
                given = outputs(part)  # (n, H, e)
                with ExitStack() as stack:
                    if single:
                        ids, positions, z = self._ids[of_part][:, None], of_part[:, None], given[:, :, None]
                        if layer:
                            state = self._states[layer]
                            values = state.values[0, of_part.to(state.values.device)][:, None]  # (n, 1, D)
                            stack.enter_context(layer_states.resume(network, State(layer, values, state.wrapped)))
                    else:
                        ids = self._ids.expand(len(of_part), -1)  # (n, T)
                        positions = torch.arange(self.length, device=ids.device).expand(len(of_part), -1)
                        z = self.heads[layer].outputs.repeat(len(of_part), 1, 1, 1)  # (n, H, T, e)
                        z[torch.arange(len(of_part), device=z.device), :, of_part.to(z.device)] = given.to(z.dtype)
                    stack.enter_context(self._edit.replaced(layer, z))
                    with suppress(_LayerDone):
                        network(**forward_inputs(ids, positions))
                if not single:
                    states = found[-1]
                    index = torch.arange(len(states), device=states.device), of_part.to(states.device)  # (n,) each
                    found[-1] = states[index][:, None]  # (n, 1, D)
        finally:
            handle.remove()
        return torch.cat(found)[:, 0]

    def plain_output(self, layer: int) -> Tensor:
        """Return the outputs of a layer in the plain run, shape (T, D)."""
        return self._states[layer + 1].values[0]

    def _from_layer(self, layer: int, start: int, rows: int) -> ExitStack:
        """Return a context in which forward passes over the rows from ``start`` begin at a layer, if the model permits."""
        stack = ExitStack()
        if layer and self._model.can_resume:
            state = self._states[layer]
            values = state.values[:, start:].expand(rows, -1, -1)  # (n, T - start, D)
            stack.enter_context(layer_states.resume(self._model.network, State(layer, values, state.wrapped)))
        return stack

    def _batch(self, rows: int, start: int) -> Batch:
        """Return a batch of copies of the prompt without its first tokens, whose keys and values are those of the plain run."""
        prefix = None
        if start:
            keys, values = (tuple(x[:, :, :start] for x in xs) for xs in (self._read.keys, self._read.values))
            prefix = prefixes.Prefix(keys, values, start)
        device = self._ids.device
        return Batch(
            index=list(range(rows)),
            ids=self._ids[start:].expand(rows, -1),
            mask=torch.ones(rows, self.length, dtype=torch.int64, device=device),
            positions=torch.arange(start, self.length, device=device).expand(rows, -1),
            last=torch.full((rows,), self.length - 1, device=device),
            label_ids=self._label_ids.expand(rows, -1),
            gold=torch.zeros(rows, dtype=torch.int64, device=device),
            prefix=prefix,
        )

    def _all_rows(self, batch: Batch) -> Tensor:
        """Return the logits of the label words, shape (n, C), from a pass in which the last layer is not restricted."""
        with vocabulary.restrict_tokens(self._model.network, self._label_ids) as restricted:
            logits = last_output(self._model, batch)[0]  # (n, C) or (n, V)
        return logits if restricted else logits.gather(1, batch.label_ids)
