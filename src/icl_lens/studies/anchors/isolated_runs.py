"""Runs in which some positions of a prompt are isolated in some layers, that is, blocked from all earlier positions.

The equations of isolation are in :mod:`icl_lens.studies.anchors.isolation.compute`. Several studies use this module.

Blocking before the softmax applies a mask to the fused kernel. Prompts with the same demonstrations compute them once per
condition (for random positions, once per distinct set of isolated positions within the demonstrations, several sets in one
forward pass). A condition that isolates in the last k layers has the same hidden states as the plain run up to these layers. A
condition that isolates in the first k layers has the same states, up to layer k, as a condition that isolates in more of the
first layers. Such runs start from the stored states (:mod:`icl_lens.network.layer_states`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from icl_lens.attention.block import block
from icl_lens.attention.scale import scale
from icl_lens.attention.supported import require_supported
from icl_lens.errors import InputError
from icl_lens.models import prefixes
from icl_lens.models.batching import Batch, batches, group_by_prefix, needs_any
from icl_lens.models.language_model import LanguageModel
from icl_lens.models.logits import last_logits
from icl_lens.network import vocabulary
from icl_lens.network.layer_states import State, record, resume
from icl_lens.network.placement import device_of
from icl_lens.network.precision import at_least_float32
from icl_lens.progress import Runs
from icl_lens.prompts.positions import TokenizedPrompt
from icl_lens.statistics.overlap import jaccard
from icl_lens.studies.anchors.isolated_positions import fixed_positions, order_of, random_positions
from icl_lens.studies.anchors.isolating import WORDS, Condition, Settings, Target, conditions

# Maximum number of bytes of layer inputs that are stored for the prompts of a group, excluding the shared prefix.
STATE_BYTES = 2**28

# Minimum number of rows that are multiplied by the vocabulary matrix at once.
MIN_LOGIT_ROWS = 32


@torch.inference_mode()
def compare(
    model: LanguageModel,
    prompts: Sequence[TokenizedPrompt],
    batch_tokens: int,
    progress: Callable[[int], object],
    settings: Settings,
) -> pd.DataFrame:
    """Compare the predictions for each prompt under each condition with the plain run of the same prompt.

    Args:
        model: Any supported model.
        prompts: Prompts that fit the model's context.
        batch_tokens: See :func:`icl_lens.models.batching.batches`.
        progress: Called with the number of further prompts that are completed in all conditions.
        settings: See :class:`~icl_lens.studies.anchors.isolating.Settings`.

    Raises:
        InputError: A prompt has no demonstration or lacks the tokens to isolate, the settings request more layers than the
            model has, or the model's family is not supported.

    Returns:
        One row per prompt and condition, in this order: prompt_id, target, side, layers (k), draw (always 0 except for random),
        order (number of the prompt's random order, also for the other targets, so that conditions can be paired; see
        :func:`~icl_lens.studies.anchors.isolated_positions.order_of`), prediction (class index), label_agrees, word_jaccard_5,
        word_jaccard_10.
    """
    planned = conditions(settings, model.layers)
    zero_shot = next((p for p in prompts if not len(p.anchors)), None)
    if zero_shot:
        raise InputError(
            f"prompt {zero_shot.prompt_id} has no demonstration, but isolation requires label words; use prompts with "
            "demonstrations"
        )
    require_supported(model.network)
    sources = sorted({(c.target, c.draw) for c in planned})
    positions = {source: _positions(model, prompts, *source, settings) for source in sources}
    predictions = np.empty((len(planned), len(prompts)), dtype=np.int64)  # (C, N)
    overlaps = {k: np.empty((len(planned), len(prompts))) for k in WORDS}  # (C, N) each
    report = Runs(progress, len(planned) + 1)
    plain = np.empty(len(prompts), dtype=np.int64)  # (N,)
    # Batches within a part depend on each other, so a part with a needed prompt is computed completely.
    parts = [part for part in _parts(model, prompts, planned) if needs_any(prompts, part.index)]
    prompts = [replace(prompt, needed=True) for prompt in prompts]
    for group in parts:
        top: dict[int, np.ndarray] = {}
        # A condition in the last k layers shares the plain run's states up to these layers, and starts there.
        unchanged = States({model.layers - c.layers for c in planned if c.side == "last"} if model.can_resume else ())
        for batch, logits in runs(model, prompts, group, None, (), settings.blocking, batch_tokens, recorded=unchanged):
            plain[batch.index] = _predictions(batch, logits)
            top |= dict(zip(batch.index, _top_tokens(logits), strict=True))
            report(len(batch.index))
        for target, draw in dict.fromkeys((c.target, c.draw) for c in planned):
            numbers = {(c.side, c.layers): i for i, c in enumerate(planned) if (c.target, c.draw) == (target, draw)}
            # A condition in the first k layers shares the states up to layer k with the largest condition, which runs first.
            largest_k = max((k for side, k in numbers if side == "first"), default=0)
            changed = States({k for side, k in numbers if side == "first" and k < largest_k} if model.can_resume else ())
            for side, k in sorted(numbers, key=lambda key: -key[1]):
                number = numbers[side, k]
                layers = range(k) if side == "first" else range(model.layers - k, model.layers)
                start, states = (model.layers - k, unchanged) if side == "last" else (k, changed)
                resume_from = (states, start) if start in states.layers else None
                keep = changed if (side, k) == ("first", largest_k) else None
                target_positions = positions[target, draw]
                results = runs(
                    model, prompts, group, target_positions, layers, settings.blocking, batch_tokens, resume_from, keep
                )
                for batch, logits in results:
                    predictions[number, batch.index] = _predictions(batch, logits)
                    after, before = _top_tokens(logits), np.stack([top[i] for i in batch.index])  # (B, 10) each
                    for size, overlap in overlaps.items():
                        overlap[number, batch.index] = jaccard(after[:, :size], before[:, :size])
                    report(len(batch.index))
    columns = {name: np.tile([getattr(c, name) for c in planned], len(prompts)) for name in Condition._fields}
    return pd.DataFrame(
        {
            "prompt_id": np.repeat([p.prompt_id for p in prompts], len(planned)),
            **{name: columns[name] for name in ("target", "side", "layers", "draw")},
            "order": np.repeat([order_of(p, settings) for p in prompts], len(planned)),
            "prediction": predictions.T.ravel(),
            "label_agrees": (predictions == plain).T.ravel(),
            **{f"word_jaccard_{size}": overlap.T.ravel() for size, overlap in overlaps.items()},
        }
    )


def _positions(
    model: LanguageModel, prompts: Sequence[TokenizedPrompt], target: Target, draw: int, settings: Settings
) -> list[np.ndarray]:
    """Return the isolated positions of each prompt, shape (D,) each."""
    if target == "random":
        return [random_positions(p, settings, draw, model.tokenizer.bos_token_id) for p in prompts]
    return [fixed_positions(p, target, lambda token: model.tokenizer.decode([token])) for p in prompts]


class States:
    """Inputs of some layers in a run of a group's prompts, for later runs that start at one of these layers.

    Attributes:
        layers: The layers, without the first.
    """

    def __init__(self, layers: Collection[int]) -> None:
        self.layers = {layer for layer in layers if layer > 0}
        self._prefix: dict[tuple[int, int], State | None] = {}  # by layer and prompt; values of shape (1, P, D)
        self._tail: dict[tuple[int, int], Tensor] = {}  # (T - P, D)
        self._wrapped = False

    def add(self, prefixes: Sequence[Mapping[int, State]], batch: Batch, tails: Mapping[int, State]) -> None:
        """Store the states of a batch's prompts, and those of the prefix of each prompt."""
        for layer, state in tails.items():
            self._wrapped = state.wrapped
            for row, i in enumerate(batch.index):
                self._prefix[layer, i] = prefixes[row].get(layer)
                self._tail[layer, i] = state.values[row, : int(batch.last[row]) - batch.start + 1]

    def copy(self, source: int, targets: Collection[int]) -> None:
        """Use the states of a prompt also for other prompts with the same tokens."""
        for stored in (self._prefix, self._tail):
            stored |= {(layer, target): stored[layer, source] for layer in self.layers for target in targets}

    def prefix_state(self, layer: int, i: int, length: int) -> State:
        """Return the states of the first ``length`` tokens of a prompt's shared prefix, values of shape (1, length, D)."""
        state = self._prefix[layer, i]
        return replace(state, values=state.values[:, :length])

    def batch_state(self, layer: int, batch: Batch) -> State:
        """Return the states of the tokens in a batch, values of shape (B, Q, D), padded with zeros."""
        rows = []
        for i in batch.index:
            prefix, tail = self._prefix[layer, i], self._tail[layer, i]
            if prefix is not None:
                tail = torch.cat([prefix.values[0, batch.start :], tail])  # (T - P, D)
            rows.append(tail)
        return State(layer, nn.utils.rnn.pad_sequence(rows, batch_first=True), self._wrapped)


def _parts(model: LanguageModel, prompts: Sequence[TokenizedPrompt], planned: Sequence[Condition]) -> Iterator[prefixes.Group]:
    """Yield groups of prompts with a shared prefix, split so that :class:`States` stores at most :data:`STATE_BYTES`."""
    stored_layers = 2 * len({c.layers for c in planned}) if model.can_resume else 0
    width = model.network.get_input_embeddings().weight
    for group in group_by_prefix(model, prompts):
        longest = max(len(prompts[i].ids) for i in group.index) - len(group.ids)
        size = max(1, STATE_BYTES // max(1, stored_layers * longest * width.shape[-1] * width.element_size()))
        for first in range(0, len(group.index), size):
            yield replace(group, index=group.index[first : first + size])


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
        blocking: See :class:`~icl_lens.studies.anchors.isolating.Settings`.
        batch_tokens: See :func:`icl_lens.models.batching.batches`.
        resume_from: States of a run that is identical up to a layer, and this layer, at which the run starts.
        recorded: Where to store the states of this run.

    Yields:
        A batch and its next-token logits at each prompt's last position, shape (B, V). Several small batches are multiplied by
        the vocabulary matrix together, so that it is read once for all of them; these batches have no prefix.
    """
    if not model.defers_logits:
        yield from _runs(model, prompts, group, positions, layers, blocking, batch_tokens, resume_from, recorded)
        return
    pending: list[tuple[Batch, Tensor]] = []
    for batch, states in _runs(
        model, prompts, group, positions, layers, blocking, batch_tokens, resume_from, recorded, defer_logits=True
    ):
        pending.append((replace(batch, prefix=None), states))  # (B, d)
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
    """Run one batch at a time, see :func:`runs`. With ``defer_logits``, yield inputs of the vocabulary matrix (B, d)."""
    shared = group.ids
    if positions is not None and len(shared) and _differ_after_anchors(prompts, group, positions):
        # Isolated positions after the last anchor differ between the prompts, so the shared prefix ends at the last anchor.
        shared = shared[: prompts[group.index[0]].anchors[-1] + 1]
    # Prompts with the same isolated positions within the prefix share its keys and values.
    members_by_prefix: dict[tuple[int, ...], list[int]] = {}
    for i in group.index:
        prefix_positions = () if positions is None else tuple(p for p in positions[i].tolist() if p < len(shared))
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
        for batch in batches(model, prompts, batch_tokens, list(row_of), read[0], kept):
            rows = [row_of[i] for i in batch.index]
            if len(set(rows)) > 1:
                batch = replace(batch, prefix=prefixes.stack_prefixes([read[row] for row in rows]))
            else:
                batch = replace(batch, prefix=read[rows[0]])
            batch_positions = [() if positions is None else positions[i].tolist() for i in batch.index]
            with ExitStack() as stack:
                context = isolate(
                    network, batch_positions, layers, blocking, batch.start, batch.ids.shape[1], batch.mask.shape[1]
                )
                stack.enter_context(context)
                if states:
                    stack.enter_context(resume(network, states.batch_state(start, batch)))
                tail_states = stack.enter_context(record(network, layers_to_record))
                stack.enter_context(vocabulary.defer(network) if defer_logits else nullcontext())
                output = last_logits(model, batch)  # (B, V) or (B, d)
            if recorded:
                recorded.add([_row(prefix_states, row) for row in rows], batch, tail_states)
            yield batch, output


def _row(states: Mapping[int, State], row: int) -> dict[int, State]:
    """Return one row of recorded states, values of shape (1, T, D) each."""
    return {layer: replace(state, values=state.values[row : row + 1]) for layer, state in states.items()}


def _predictions(batch: Batch, logits: Tensor) -> np.ndarray:
    """Return the predicted classes, shape (B,)."""
    return logits.gather(1, batch.label_ids).argmax(-1).cpu().numpy()


def _top_tokens(logits: Tensor) -> np.ndarray:
    """Return the most likely tokens in descending order of probability, shape (B, 10)."""
    return logits.topk(min(max(WORDS), logits.shape[-1]), dim=-1).indices.cpu().numpy()


def _differ_after_anchors(prompts: Sequence[TokenizedPrompt], group: prefixes.Group, positions: Sequence[np.ndarray]) -> bool:
    """Return whether the isolated positions between the last anchor and the end of the shared prefix differ in a group."""
    start = prompts[group.index[0]].anchors[-1]
    inside = {tuple(p for p in positions[i].tolist() if start < p < len(group.ids)) for i in group.index}
    return len(inside) > 1


def isolate(
    network: PreTrainedModel,
    positions: Sequence[Sequence[int]],
    layers: Sequence[int],
    blocking: str,
    start: int,
    queries: int,
    keys: int,
) -> AbstractContextManager:
    """Return a context manager that blocks some positions from attending to all earlier positions.

    Args:
        network: The model.
        positions: Isolated positions of each of the B rows. Positions without a query are ignored.
        layers: Layers in which the positions are isolated.
        blocking: See :class:`~icl_lens.studies.anchors.isolating.Settings`.
        start: Position of the first query.
        queries: Number of queries, Q.
        keys: Number of keys, K.
    """
    isolated = [(row, p) for row, row_positions in enumerate(positions) for p in row_positions if start <= p < start + queries]
    if not isolated or not layers:
        return nullcontext()
    edges = torch.zeros(len(positions), queries, keys, dtype=torch.bool)  # (B, Q, K)
    for row, p in isolated:
        edges[row, p - start, :p] = True
    edges = edges.to(device_of(network))
    if blocking == "before_softmax":
        return block(network, dict.fromkeys(layers, edges))
    factors: Mapping[int, Tensor] = dict.fromkeys(layers, (~edges[:, None]).to(network.dtype))  # (B, 1, Q, K)
    return scale(network, factors)
