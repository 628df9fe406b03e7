"""Runs of prompts in which some positions are isolated in some layers, that is, blocked from attending to earlier positions.

*Label Words are Anchors*, section 2.2. :mod:`icl_lens.studies.anchors.isolation.compute` has the equations.

Blocking before the softmax applies a mask to the fused kernel. Prompts with the same demonstrations compute them once per
condition (for random positions, once per distinct set of isolated positions within the demonstrations, several sets in one
forward pass). A run whose first layers equal those of another run can start from the stored states of that run
(:mod:`icl_lens.network.layer_states`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from icl_lens.attention.block import block
from icl_lens.attention.scale import scale
from icl_lens.models import prefixes
from icl_lens.models.batching import Batch, batches
from icl_lens.models.language_model import LanguageModel
from icl_lens.models.logits import predictive_logits
from icl_lens.network import vocabulary
from icl_lens.network.layer_states import State, record, resume
from icl_lens.network.placement import device_of
from icl_lens.network.precision import at_least_float32
from icl_lens.prompts.positions import TokenizedPrompt

# Minimum number of rows that are multiplied by the vocabulary matrix at once.
MIN_LOGIT_ROWS = 32


class BlockedEdges(NamedTuple):
    """Edges of an isolated position.

    Attributes:
        position: The isolated position.
        end: It is blocked from positions 0 to ``end`` - 1.
    """

    position: int
    end: int


def blocked_edges(prompt: TokenizedPrompt, positions: np.ndarray) -> list[BlockedEdges]:
    """Return the edges that isolation blocks.

    Args:
        prompt: The prompt.
        positions: The isolated positions, shape (n,). An anchor is blocked from the positions before the first anchor of its
            demonstration, any other position from all earlier positions.
    """
    ends = dict(zip(prompt.anchors.tolist(), prompt.anchor_starts.tolist(), strict=True))
    return [BlockedEdges(position, ends.get(position, position)) for position in positions.tolist()]


class States:
    """Inputs of some layers in a run of a group's prompts, for later runs that start at one of these layers.

    Attributes:
        layers: The layers, without the first.
    """

    def __init__(self, layers: Collection[int]) -> None:
        self.layers = {layer for layer in layers if layer > 0}
        self._prefix: dict[tuple[int, int], State | None] = {}  # by layer and prompt; values of shape (1, P, D)
        self._tail: dict[tuple[int, int, int], Tensor] = {}  # by layer, prompt and path; (T - P, D) with appended tokens
        self._wrapped = False

    def add(self, prefixes: Sequence[Mapping[int, State]], batch: Batch, tails: Mapping[int, State]) -> None:
        """Store the states of a batch's prompts, and those of the prefix of each prompt."""
        for layer, state in tails.items():
            self._wrapped = state.wrapped
            lengths = batch.mask.sum(1).tolist()  # (B,)
            for row, (i, path) in enumerate(zip(batch.index, batch.paths, strict=True)):
                self._prefix[layer, i] = prefixes[row].get(layer)
                self._tail[layer, i, path] = state.values[row, : lengths[row] - batch.start]

    def copy(self, source: int, targets: Collection[int]) -> None:
        """Use the states of a prompt also for other prompts with the same tokens."""
        for target in targets:
            self._prefix |= {(layer, target): state for (layer, i), state in self._prefix.items() if i == source}
            self._tail |= {(layer, target, path): tail for (layer, i, path), tail in self._tail.items() if i == source}

    def prefix_state(self, layer: int, i: int, length: int) -> State:
        """Return the states of the first ``length`` tokens of a prompt's shared prefix, values of shape (1, length, D)."""
        state = self._prefix[layer, i]
        return replace(state, values=state.values[:, :length])

    def batch_state(self, layer: int, batch: Batch) -> State:
        """Return the states of the tokens in a batch, values of shape (B, Q, D), padded with zeros."""
        rows = []
        for i, path in zip(batch.index, batch.paths, strict=True):
            prefix, tail = self._prefix[layer, i], self._tail[layer, i, path]
            if prefix is not None:
                tail = torch.cat([prefix.values[0, batch.start :], tail])  # (T - P, D)
            rows.append(tail)
        return State(layer, nn.utils.rnn.pad_sequence(rows, batch_first=True), self._wrapped)


def runs(
    model: LanguageModel,
    prompts: Sequence[TokenizedPrompt],
    group: prefixes.Group,
    positions: Sequence[np.ndarray] | None,
    layers: Sequence[int],
    blocking: str,
    batch_tokens: int,
    resume_from: tuple[States, int] | None = None,
    recorded: States | None = None,
) -> Iterator[tuple[Batch, Tensor]]:
    """Run a group's prompts with some positions of each prompt isolated in some layers. A shared prefix is computed once.

    Args:
        model: Any supported model.
        prompts: All prompts.
        group: Indices of the prompts to run, and their shared prefix.
        positions: Isolated positions of each prompt; None for the plain run.
        layers: Layers in which the positions are isolated.
        blocking: See :class:`icl_lens.studies.anchors.isolating.Settings`.
        batch_tokens: See :func:`icl_lens.models.batching.batches`.
        resume_from: States of a run that is identical up to a layer, and this layer, at which the run starts.
        recorded: Where to store the states of this run.

    Yields:
        A batch and its next-token logits at the predicting positions, shape (E, V), see
        :func:`icl_lens.models.logits.predictive_logits`. Several small batches are multiplied by the vocabulary matrix
        together, so that it is read once for all of them; these batches have no prefix.
    """
    if not model.defers_logits:
        yield from _runs(model, prompts, group, positions, layers, blocking, batch_tokens, resume_from, recorded)
        return
    pending: list[tuple[Batch, Tensor]] = []
    for batch, states in _runs(
        model, prompts, group, positions, layers, blocking, batch_tokens, resume_from, recorded, defer_logits=True
    ):
        pending.append((replace(batch, prefix=None), states))  # (E, d)
        if sum(len(each) for _, each in pending) >= MIN_LOGIT_ROWS:
            yield from _with_logits(model, pending)
            pending = []
    yield from _with_logits(model, pending)


def _with_logits(model: LanguageModel, pending: Sequence[tuple[Batch, Tensor]]) -> Iterator[tuple[Batch, Tensor]]:
    """Yield each batch with the logits computed from its hidden states."""
    if pending:
        states = torch.cat([states for _, states in pending])  # (N, d)
        matrix = model.network.get_output_embeddings()
        logits = at_least_float32(matrix(states.to(matrix.weight.dtype))).to(states.device)  # (N, V)
        yield from zip((batch for batch, _ in pending), logits.split([len(each) for _, each in pending]), strict=True)


def _runs(
    model: LanguageModel,
    prompts: Sequence[TokenizedPrompt],
    group: prefixes.Group,
    positions: Sequence[np.ndarray] | None,
    layers: Sequence[int],
    blocking: str,
    batch_tokens: int,
    resume_from: tuple[States, int] | None,
    recorded: States | None,
    defer_logits: bool = False,
) -> Iterator[tuple[Batch, Tensor]]:
    """Run one batch at a time, see :func:`runs`. With ``defer_logits``, yield inputs of the vocabulary matrix (E, d)."""
    shared = group.ids
    if positions is not None and len(shared) and _differ_after_anchors(prompts, group, positions):
        # Isolated positions after the last anchor differ between the prompts, so the shared prefix ends at the last anchor.
        shared = shared[: prompts[group.index[0]].anchors[-1] + 1]
    # Prompts with the same isolated positions within the prefix share its keys and values.
    blocked = {i: [] if positions is None else blocked_edges(prompts[i], positions[i]) for i in group.index}
    members_by_prefix: dict[tuple[BlockedEdges, ...], list[int]] = {}
    for i in group.index:
        prefix_positions = tuple(edges for edges in blocked[i] if edges.position < len(shared))
        members_by_prefix.setdefault(prefix_positions, []).append(i)
    network, layers_to_record = model.network, recorded.layers if recorded else ()
    states, start = resume_from or (None, 0)
    layers = [layer for layer in layers if layer >= start]  # the stored states cover the earlier layers
    distinct = list(members_by_prefix.items())
    size = model.sizes.max_rows(batch_tokens, len(shared), kept="states") if len(shared) else 1
    for part in (distinct[first : first + size] for first in range(0, len(distinct), size)):
        with ExitStack() as stack:
            prefix_positions = [each for each, _ in part]
            stack.enter_context(isolate(network, prefix_positions, layers, blocking, 0, len(shared), len(shared)))
            if states and len(shared):
                prefix_inputs = [states.prefix_state(start, members[0], len(shared)) for _, members in part]
                values = torch.cat([each.values for each in prefix_inputs])  # (S, P, D)
                stack.enter_context(resume(network, replace(prefix_inputs[0], values=values)))
            prefix_states = stack.enter_context(record(network, layers_to_record if len(shared) else ()))
            read = prefixes.read_each(network, [shared] * len(part))
        row_of = {i: row for row, (_, members) in enumerate(part) for i in members}
        # Rows with different prefixes hold the keys and values of their prefix in all layers.
        kept = "states" if len(part) > 1 else "layer"
        for batch in batches(model, prompts, batch_tokens, list(row_of), read[0], kept, score=True):
            rows = [row_of[i] for i in batch.index]
            if len(set(rows)) > 1:
                batch = replace(batch, prefix=prefixes.stack_prefixes([read[row] for row in rows]))
            else:
                batch = replace(batch, prefix=read[rows[0]])
            batch_positions = [blocked[i] for i in batch.index]
            with ExitStack() as stack:
                context = isolate(
                    network, batch_positions, layers, blocking, batch.start, batch.ids.shape[1], batch.mask.shape[1]
                )
                stack.enter_context(context)
                if states:
                    stack.enter_context(resume(network, states.batch_state(start, batch)))
                tail_states = stack.enter_context(record(network, layers_to_record))
                stack.enter_context(vocabulary.defer(network) if defer_logits else nullcontext())
                output = predictive_logits(model, batch)  # (E, V) or (E, d)
            if recorded:
                recorded.add([_row(prefix_states, row) for row in rows], batch, tail_states)
            yield batch, output


def _row(states: Mapping[int, State], row: int) -> dict[int, State]:
    """Return one row of recorded states, values of shape (1, T, D) each."""
    return {layer: replace(state, values=state.values[row : row + 1]) for layer, state in states.items()}


def _differ_after_anchors(prompts: Sequence[TokenizedPrompt], group: prefixes.Group, positions: Sequence[np.ndarray]) -> bool:
    """Return whether the isolated positions between the last anchor and the end of the shared prefix differ in a group."""
    start = prompts[group.index[0]].anchors[-1]
    inside = {tuple(p for p in positions[i].tolist() if start < p < len(group.ids)) for i in group.index}
    return len(inside) > 1


def isolate(
    network: PreTrainedModel,
    positions: Sequence[Sequence[BlockedEdges]],
    layers: Sequence[int],
    blocking: str,
    start: int,
    queries: int,
    keys: int,
) -> AbstractContextManager:
    """Return a context manager that blocks some positions from attending to earlier positions.

    Args:
        network: The model.
        positions: Isolated positions of each of the B rows. Positions without a query are ignored.
        layers: Layers in which the positions are isolated.
        blocking: See :class:`icl_lens.studies.anchors.isolating.Settings`.
        start: Position of the first query.
        queries: Number of queries, Q.
        keys: Number of keys, K.
    """
    isolated = [
        (row, *each)
        for row, row_positions in enumerate(positions)
        for each in row_positions
        if start <= each.position < start + queries
    ]
    if not isolated or not layers:
        return nullcontext()
    edges = torch.zeros(len(positions), queries, keys, dtype=torch.bool)  # (B, Q, K)
    for row, position, end in isolated:
        edges[row, position - start, :end] = True
    edges = edges.to(device_of(network))
    if blocking == "before_softmax":
        return block(network, dict.fromkeys(layers, edges))
    factors: Mapping[int, Tensor] = dict.fromkeys(layers, (~edges[:, None]).to(network.dtype))  # (B, 1, Q, K)
    return scale(network, factors)
