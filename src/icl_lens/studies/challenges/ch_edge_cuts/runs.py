"""Runs of a model without some attention edges, from the states and keys of the uncut run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from icl_lens.attention.block import block
from icl_lens.attention.record import record as record_attention
from icl_lens.models import prefixes
from icl_lens.models.batching import Batch, copies, count_rows
from icl_lens.models.language_model import LanguageModel
from icl_lens.models.logits import class_scores, predictive_logits, predictive_output
from icl_lens.network import layer_states
from icl_lens.network.forward_inputs import forward_inputs
from icl_lens.network.layer_states import State
from icl_lens.network.placement import logits_to_keep
from icl_lens.prompts.positions import TokenizedPrompt
from icl_lens.studies.challenges.ch_edge_cuts.plans import Condition, Planned

WORDS = 5
"""Number of most likely tokens that are kept of each run."""


class Answer(NamedTuple):
    """Result of a run.

    Attributes:
        scores: Scores of the classes (:mod:`icl_lens.models.logits`), shape (C,).
        top: Ids of the most likely tokens, most likely first, shape (:data:`WORDS`,).
    """

    scores: np.ndarray
    top: np.ndarray


@dataclass(frozen=True)
class Uncut:
    """An uncut run of consecutive positions of a prompt.

    Attributes:
        begin: The first position.
        states: Inputs of the layers at which cuts can start, values of shape (R, Q, D) for Q positions, including appended
            tokens of label words, and R rows, one per path (:mod:`icl_lens.prompts.label_words`).
        attention: Attention of these positions, averaged over the heads, shape (L, Q, begin + Q).
        prefix: Keys and values of the positions before ``begin``, if there are any.
    """

    begin: int
    states: Mapping[int, State]
    attention: np.ndarray
    prefix: prefixes.Prefix | None


class Runner:
    """Runs of one model.

    Args:
        model: Any supported model.
        batch_tokens: See :func:`icl_lens.models.batching.batches`.
        starts: Layers at which cuts can start.
    """

    def __init__(self, model: LanguageModel, batch_tokens: int, starts: Sequence[int]) -> None:
        self.model, self.batch_tokens = model, batch_tokens
        model.last_row_mode  # noqa: B018 - run this check on two short rows before contexts for a batch are open
        # A cut in the demonstrations affects the query from the next layer on.
        needed = {layer for start in starts for layer in (start, start + 1)}
        self.recorded = sorted(layer for layer in needed if 0 < layer < model.layers) if model.can_resume else []

    def uncut_demonstrations(self, ids: np.ndarray) -> tuple[Uncut, prefixes.Prefix]:
        """Run the demonstrations of a prompt, and return the run with their keys and values.

        Args:
            ids: Token ids before the query, shape (T,).
        """
        network = self.model.network
        tokens = torch.from_numpy(ids)[None].to(self.model.device)  # (1, T)
        with record_attention(network) as weights, layer_states.record(network, self.recorded) as states:
            network(**forward_inputs(tokens), logits_to_keep=logits_to_keep(network))
        prefix = prefixes.read(network, ids)
        return Uncut(0, states, _averaged(weights), None), prefix

    def uncut(self, prompt: TokenizedPrompt, begin: int, prefix: prefixes.Prefix | None) -> tuple[Uncut, Answer]:
        """Run the positions of a prompt from ``begin`` on."""
        batch = copies(self.model, prompt, 1, prefix)
        network = self.model.network
        with record_attention(network) as weights, layer_states.record(network, self.recorded) as states:
            logits, _ = predictive_output(self.model, batch)  # (E, V)
        attention = _averaged(weights)[:, : len(prompt.ids) - begin, : len(prompt.ids)]
        return Uncut(begin, states, attention, prefix), self._answers(batch, logits)[0]

    def before_last(self, prompt: TokenizedPrompt, uncut: Uncut) -> Uncut:
        """Return the uncut run of the last position and of appended tokens, with the keys and values of all others."""
        middle = prompt.ids[uncut.begin : -1]
        prefix = prefixes.read(self.model.network, middle, uncut.prefix)
        states = {layer: replace(state, values=state.values[:, len(middle) :]) for layer, state in uncut.states.items()}
        return Uncut(prompt.last, states, uncut.attention[:, -1:], prefix)

    def cut(
        self, prompt: TokenizedPrompt, planned: Mapping[Condition, Planned], uncut: Uncut
    ) -> Iterator[tuple[Condition, Answer]]:
        """Run a prompt under each condition. All rows are among the positions of the uncut run."""
        length = len(prompt.ids) + prompt.appended
        queries, paths = length - uncut.begin, count_rows(prompt)
        size = max(1, self.model.sizes.max_rows(self.batch_tokens, queries, uncut.begin) // paths)
        for start, chosen in self._by_start(planned, size):
            batch = copies(self.model, prompt, len(chosen), uncut.prefix)
            edges = self._edges(chosen, planned, uncut.begin, queries, length, prompt.last, paths)
            with ExitStack() as stack:
                stack.enter_context(block(self.model.network, edges))
                self._resume(stack, uncut.states.get(start), len(chosen))
                answers = self._answers(batch, predictive_logits(self.model, batch))
            yield from zip(chosen, answers, strict=True)

    def cut_demonstrations(
        self,
        ids: np.ndarray,
        planned: Mapping[Condition, Planned],
        demonstrations: Uncut,
        queries: Sequence[tuple[TokenizedPrompt, Uncut]],
    ) -> Iterator[tuple[int, Condition, Answer]]:
        """Run some prompts with the same demonstrations under each condition. All rows are in the demonstrations.

        Args:
            ids: Token ids before the query, shape (T,).
            planned: The edges of each condition, shape (R, T).
            demonstrations: The uncut run of the demonstrations.
            queries: The prompts, and the uncut runs of their queries.

        Yields:
            The number of the prompt in ``queries``, the condition and the answer.
        """
        model, network = self.model, self.model.network
        longest = max(len(prompt.ids) + prompt.appended for prompt, _ in queries) - len(ids)
        most = max(count_rows(prompt) for prompt, _ in queries)
        size = min(
            model.sizes.max_rows(self.batch_tokens, len(ids), kept="states"),
            max(1, model.sizes.max_rows(self.batch_tokens, longest, len(ids), kept="states") // most),
        )
        for start, chosen in self._by_start(planned, size):
            with ExitStack() as stack:
                stack.enter_context(block(network, self._edges(chosen, planned, 0, len(ids), len(ids))))
                self._resume(stack, demonstrations.states.get(start), len(chosen))
                read = prefixes.read_each(network, [ids] * len(chosen))
            stacked: dict[int, prefixes.Prefix] = {}  # number of paths -> prefix of each row
            for number, (prompt, uncut) in enumerate(queries):
                paths = count_rows(prompt)
                if paths not in stacked:
                    stacked[paths] = prefixes.stack_prefixes([each for each in read for _ in range(paths)])
                batch = copies(model, prompt, len(chosen), stacked[paths])
                with ExitStack() as stack:
                    # The query itself is not cut, so the inputs of the next layer are the first that can change.
                    state = uncut.states.get(start + 1, uncut.states.get(start))
                    self._resume(stack, state, len(chosen))
                    answers = self._answers(batch, predictive_logits(model, batch))
                for condition, answer in zip(chosen, answers, strict=True):
                    yield number, condition, answer

    def _by_start(self, planned: Mapping[Condition, Planned], size: int) -> Iterator[tuple[int, list[Condition]]]:
        """Yield batches of at most ``size`` conditions with the same lowest layer (0 if runs cannot start later)."""
        groups: dict[int, list[Condition]] = {}
        for condition in planned:
            groups.setdefault(condition.start if condition.start in self.recorded else 0, []).append(condition)
        for start, of_start in groups.items():
            for first in range(0, len(of_start), size):
                yield start, of_start[first : first + size]

    def _edges(
        self,
        chosen: Sequence[Condition],
        planned: Mapping[Condition, Planned],
        begin: int,
        queries: int,
        keys: int,
        last: int | None = None,
        paths: int = 1,
    ) -> dict[int, Tensor]:
        """Return the edges of each layer for a batch of conditions, shape (B, Q, K), on the device of the model.

        Args:
            chosen: The conditions.
            planned: Their edges.
            begin: Position of the first query.
            queries: Number of queries, Q.
            keys: Number of keys, K.
            last: Last position of the prompt. The same edges are cut for the appended tokens after it.
            paths: Number of rows of each condition.
        """
        edges = np.zeros((len(chosen), queries, keys), dtype=bool)  # (conditions, Q, K)
        for number, condition in enumerate(chosen):
            rows, of_rows = planned[condition][:2]
            edges[number, rows - begin, : of_rows.shape[1]] = of_rows
            if last is not None:
                edges[number, last + 1 - begin :] = edges[number, last - begin]
        whole = torch.from_numpy(edges.repeat(paths, axis=0)).to(self.model.device)  # (B, Q, K)
        found: dict[int, Tensor] = {}
        of_members: dict[tuple[bool, ...], Tensor] = {}
        for layer in range(min(c.start for c in chosen), max(c.stop for c in chosen)):
            members = tuple(c.start <= layer < c.stop for c in chosen)
            if members not in of_members:
                of_rows = torch.tensor(members, device=whole.device).repeat_interleave(paths)  # (B,)
                of_members[members] = whole & of_rows[:, None, None]  # (B, Q, K)
            found[layer] = of_members[members]
        return found

    def _resume(self, stack: ExitStack, state: State | None, size: int) -> None:
        """Start the runs of a batch at a layer with a recorded input, if there is one."""
        if state is not None:
            values = state.values.repeat(size, 1, 1)  # (B, Q, D)
            stack.enter_context(layer_states.resume(self.model.network, replace(state, values=values)))

    def _answers(self, batch: Batch, logits: Tensor) -> list[Answer]:
        rows = batch.first_rows
        scores = class_scores(batch, logits)[rows].cpu().double().numpy()  # (N, C)
        top = logits[rows].topk(min(WORDS, logits.shape[-1]), dim=-1).indices.cpu().numpy()  # (N, 5)
        return [Answer(*pair) for pair in zip(scores, top, strict=True)]


def _averaged(weights: Mapping[int, Tensor]) -> np.ndarray:
    """Average the attention weights of one prompt over the heads, shape (L, Q, K)."""
    return np.stack([weights[layer][0].float().mean(0).cpu().numpy() for layer in sorted(weights)])
