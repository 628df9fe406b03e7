"""Runs in which some positions of a prompt are isolated in some layers, that is, blocked from all earlier positions.

The equations of isolation are in :mod:`icl_lens.studies.anchors.isolation.compute`. Several studies use this module.

Blocking before the softmax applies a mask to the fused kernel. Prompts with the same demonstrations compute them once per
condition (for random positions, once per distinct set of isolated positions within the demonstrations). A condition that
isolates in the last k layers has the same hidden states as the plain run up to these layers. A condition that isolates in the
first k layers has the same states, up to layer k, as a condition that isolates in more of the first layers. Such runs start
from the stored states (:mod:`icl_lens.network.layer_states`).
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
from icl_lens.models.batching import Batch, batches, sharing
from icl_lens.models.language_model import LanguageModel
from icl_lens.models.logits import last_logits
from icl_lens.network import vocabulary
from icl_lens.network.layer_states import State, record, resume
from icl_lens.network.precision import at_least_float32
from icl_lens.progress import Runs
from icl_lens.prompts.positions import TokenizedPrompt
from icl_lens.statistics.overlap import jaccard
from icl_lens.studies.anchors.isolated_positions import isolated, random_positions
from icl_lens.studies.anchors.isolating import WORDS, Condition, Scope, Settings, Target, conditions

# Maximum number of bytes of layer inputs that are stored for the prompts of a group, excluding the shared prefix.
STATE_BYTES = 2**28

# Minimum number of rows that are multiplied by the vocabulary matrix at once.
TOGETHER = 32


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
        prediction (class index), label_agrees, word_jaccard_5, word_jaccard_10.
    """
    planned = conditions(settings, model.layers)
    bare = next((p for p in prompts if not len(p.anchors)), None)
    if bare:
        raise InputError(f"prompt {bare.prompt_id} has no demonstration; isolation needs label words")
    require_supported(model.network)
    sources = sorted({(c.target, c.draw) for c in planned})
    positions = {source: _positions(model, prompts, *source, settings.random_scope) for source in sources}
    predictions = np.empty((len(planned), len(prompts)), dtype=np.int64)  # (C, N)
    overlaps = {k: np.empty((len(planned), len(prompts))) for k in WORDS}  # (C, N) each
    report = Runs(progress, len(planned) + 1)
    plain = np.empty(len(prompts), dtype=np.int64)  # (N,)
    for group in _parts(model, prompts, planned):
        top: dict[int, np.ndarray] = {}
        # A condition in the last k layers shares the plain run's states up to these layers, and starts there.
        unchanged = States({model.layers - c.layers for c in planned if c.side == "last"} if model.resumes else ())
        for batch, logits in runs(model, prompts, group, None, (), settings.blocking, batch_tokens, keep=unchanged):
            plain[batch.index] = _best(batch, logits)
            top |= dict(zip(batch.index, _top(logits), strict=True))
            report(len(batch.index))
        for target, draw in dict.fromkeys((c.target, c.draw) for c in planned):
            of_source = {(c.side, c.layers): i for i, c in enumerate(planned) if (c.target, c.draw) == (target, draw)}
            # A condition in the first k layers shares the states up to layer k with the largest condition, which runs first.
            most = max((k for side, k in of_source if side == "first"), default=0)
            changed = States({k for side, k in of_source if side == "first" and k < most} if model.resumes else ())
            for side, k in sorted(of_source, key=lambda of: -of[1]):
                number = of_source[side, k]
                layers = range(k) if side == "first" else range(model.layers - k, model.layers)
                start, states = (model.layers - k, unchanged) if side == "last" else (k, changed)
                begun = (states, start) if start in states.layers else None
                keep = changed if (side, k) == ("first", most) else None
                cut = positions[target, draw]
                done = runs(model, prompts, group, cut, layers, settings.blocking, batch_tokens, begun, keep)
                for batch, logits in done:
                    predictions[number, batch.index] = _best(batch, logits)
                    after, before = _top(logits), np.stack([top[i] for i in batch.index])  # (B, 10) each
                    for size, overlap in overlaps.items():
                        overlap[number, batch.index] = jaccard(after[:, :size], before[:, :size])
                    report(len(batch.index))
    columns = {name: np.tile([getattr(c, name) for c in planned], len(prompts)) for name in Condition._fields}
    return pd.DataFrame(
        {
            "prompt_id": np.repeat([p.prompt_id for p in prompts], len(planned)),
            **{name: columns[name] for name in ("target", "side", "layers", "draw")},
            "prediction": predictions.T.ravel(),
            "label_agrees": (predictions == plain).T.ravel(),
            **{f"word_jaccard_{size}": overlap.T.ravel() for size, overlap in overlaps.items()},
        }
    )


def _positions(
    model: LanguageModel, prompts: Sequence[TokenizedPrompt], target: Target, draw: int, scope: Scope
) -> list[np.ndarray]:
    """Return the isolated positions of each prompt, shape (D,) each."""
    if target == "random":
        return [random_positions(p, scope, draw, model.tokenizer.bos_token_id) for p in prompts]
    return [isolated(p, target, lambda token: model.tokenizer.decode([token])) for p in prompts]


class States:
    """Inputs of some layers in a run of a group's prompts, for later runs that start at one of these layers.

    Attributes:
        layers: The layers, without the first.
    """

    def __init__(self, layers: Collection[int]) -> None:
        self.layers = {layer for layer in layers if layer > 0}
        self._beginning: dict[tuple[int, int], State | None] = {}  # by layer and prompt; values of shape (1, P, D)
        self._tail: dict[tuple[int, int], Tensor] = {}  # (T - P, D)
        self._wrapped = False

    def keep(self, beginning: Mapping[int, State], batch: Batch, tails: Mapping[int, State]) -> None:
        """Store the states of a batch's prompts and of their shared prefix."""
        for layer, state in tails.items():
            self._wrapped = state.wrapped
            for row, place in enumerate(batch.index):
                self._beginning[layer, place] = beginning.get(layer)
                self._tail[layer, place] = state.values[row, : int(batch.last[row]) - batch.start + 1]

    def of_beginning(self, layer: int, place: int, length: int) -> State:
        """Return the states of the first ``length`` tokens of a prompt's shared prefix, values of shape (1, length, D)."""
        state = self._beginning[layer, place]
        return replace(state, values=state.values[:, :length])

    def of_batch(self, layer: int, batch: Batch) -> State:
        """Return the states of the tokens in a batch, values of shape (B, Q, D), padded with zeros."""
        rows = []
        for place in batch.index:
            beginning, tail = self._beginning[layer, place], self._tail[layer, place]
            if beginning is not None:
                tail = torch.cat([beginning.values[0, batch.start :], tail])  # (T - P, D)
            rows.append(tail)
        return State(layer, nn.utils.rnn.pad_sequence(rows, batch_first=True), self._wrapped)


def _parts(model: LanguageModel, prompts: Sequence[TokenizedPrompt], planned: Sequence[Condition]) -> Iterator[prefixes.Group]:
    """Yield groups of prompts with a shared prefix, split so that :class:`States` stores at most :data:`STATE_BYTES`."""
    kept = 2 * len({c.layers for c in planned}) if model.resumes else 0
    width = model.network.get_input_embeddings().weight
    for group in sharing(model, prompts):
        longest = max(len(prompts[i].ids) for i in group.index) - len(group.ids)
        size = max(1, STATE_BYTES // max(1, kept * longest * width.shape[-1] * width.element_size()))
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
    begun: tuple[States, int] | None = None,
    keep: States | None = None,
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
        begun: States of a run that is identical up to a layer, and this layer, at which the run starts.
        keep: Where to store the states of this run.

    Yields:
        A batch and its next-token logits at each prompt's last position, shape (B, V). Several small batches are multiplied by
        the vocabulary matrix together, so that it is read once for all of them; these batches have no prefix.
    """
    if not model.ends_in_vocabulary:
        yield from _runs(model, prompts, group, positions, layers, blocking, batch_tokens, begun, keep)
        return
    waiting: list[tuple[Batch, Tensor]] = []
    for batch, states in _runs(model, prompts, group, positions, layers, blocking, batch_tokens, begun, keep, late=True):
        waiting.append((replace(batch, prefix=None), states))  # (B, d)
        if sum(len(each) for _, each in waiting) >= TOGETHER:
            yield from _with_logits(model, waiting)
            waiting = []
    yield from _with_logits(model, waiting)


def _with_logits(model: LanguageModel, waiting: Sequence[tuple[Batch, Tensor]]) -> Iterator[tuple[Batch, Tensor]]:
    """Yield each batch with the logits computed from its hidden states."""
    if waiting:
        states = torch.cat([states for _, states in waiting])  # (N, d)
        matrix = model.network.get_output_embeddings()
        logits = at_least_float32(matrix(states.to(matrix.weight.dtype)))  # (N, V)
        yield from zip((batch for batch, _ in waiting), logits.split([len(each) for _, each in waiting]), strict=True)


def _runs(
    model: LanguageModel,
    prompts: Sequence[TokenizedPrompt],
    group: prefixes.Group,
    positions: Sequence[np.ndarray] | None,
    layers: Sequence[int],
    blocking: str,
    batch_tokens: int,
    begun: tuple[States, int] | None,
    keep: States | None,
    late: bool = False,
) -> Iterator[tuple[Batch, Tensor]]:
    """Run one batch at a time, see :func:`runs`. With ``late``, yield the inputs of the vocabulary matrix, shape (B, d)."""
    shared = group.ids
    if positions is not None and len(shared) and _differ_behind_anchors(prompts, group, positions):
        # Isolated positions after the last anchor differ between the prompts, so the shared prefix ends at the last anchor.
        shared = shared[: prompts[group.index[0]].anchors[-1] + 1]
    # Prompts with the same isolated positions within the prefix share its keys and values.
    alike: dict[tuple[int, ...], list[int]] = {}
    for place in group.index:
        early = () if positions is None else tuple(p for p in positions[place].tolist() if p < len(shared))
        alike.setdefault(early, []).append(place)
    network, wanted = model.network, keep.layers if keep else ()
    states, start = begun or (None, 0)
    layers = [layer for layer in layers if layer >= start]  # the stored states cover the earlier layers
    for early, members in alike.items():
        with ExitStack() as stack:
            stack.enter_context(isolate(network, [early], layers, blocking, 0, len(shared), len(shared)))
            if states and len(shared):
                stack.enter_context(resume(network, states.of_beginning(start, members[0], len(shared))))
            of_beginning = stack.enter_context(record(network, wanted if len(shared) else ()))
            prefix = prefixes.read(network, shared)
        for batch in batches(model, prompts, batch_tokens, members, prefix):
            cut = [() if positions is None else positions[i].tolist() for i in batch.index]
            with ExitStack() as stack:
                context = isolate(network, cut, layers, blocking, batch.start, batch.ids.shape[1], batch.mask.shape[1])
                stack.enter_context(context)
                if states:
                    stack.enter_context(resume(network, states.of_batch(start, batch)))
                of_tails = stack.enter_context(record(network, wanted))
                stack.enter_context(vocabulary.late(network) if late else nullcontext())
                found = last_logits(model, batch)  # (B, V) or (B, d)
            if keep:
                keep.keep(of_beginning, batch, of_tails)
            yield batch, found


def _best(batch: Batch, logits: Tensor) -> np.ndarray:
    """Return the predicted classes, shape (B,)."""
    return logits.gather(1, batch.label_ids).argmax(-1).cpu().numpy()


def _top(logits: Tensor) -> np.ndarray:
    """Return the most likely tokens in descending order of probability, shape (B, 10)."""
    return logits.topk(min(max(WORDS), logits.shape[-1]), dim=-1).indices.cpu().numpy()


def _differ_behind_anchors(prompts: Sequence[TokenizedPrompt], group: prefixes.Group, positions: Sequence[np.ndarray]) -> bool:
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
    here = [(row, p) for row, cut in enumerate(positions) for p in cut if start <= p < start + queries]
    if not here or not layers:
        return nullcontext()
    edges = torch.zeros(len(positions), queries, keys, dtype=torch.bool)  # (B, Q, K)
    for row, p in here:
        edges[row, p - start, :p] = True
    edges = edges.to(network.device)
    if blocking == "before_softmax":
        return block(network, dict.fromkeys(layers, edges))
    factors: Mapping[int, Tensor] = dict.fromkeys(layers, (~edges[:, None]).to(network.dtype))  # (B, 1, Q, K)
    return scale(network, factors)
