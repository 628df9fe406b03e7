"""Scores of the classes for prompts with some of their demonstrations, for all queries with the same demonstrations.

Versions with *deleted* demonstrations form a tree: each version extends the one without its last demonstration. A node has the
tokens that begin all prompts below it. The tree is built from tokens and not from texts, because the first token of a
demonstration can be another one at the beginning of a prompt. With *masked* or *unlabelled* demonstrations, all prompts have
the same tokens, and a node is a state of the demonstrations so far. In both cases each node is read once for all queries, in a
batch with the other nodes that end with the same demonstration, and each query is a short tail of its nodes. The tokens of
whole label words are appended to these tails (:mod:`icl_lens.prompts.label_words`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Literal

import numpy as np
import torch

from icl_lens.attention.block import block
from icl_lens.models import prefix_trees
from icl_lens.models.language_model import LanguageModel
from icl_lens.models.logits import class_logits, last_logits
from icl_lens.models.prefix_trees import Node, Tail
from icl_lens.prompts.demonstration_places import Places
from icl_lens.prompts.positions import TokenizedPrompt
from icl_lens.studies.challenges.ch_demonstrations.shapley import Coalition
from icl_lens.studies.challenges.ch_demonstrations.versions import Pieces, Version

# Maximum number of versions of a tree that are read at a time, so that the keys and values of a large sample fit in memory.
_VERSIONS = 256

Scores = list[dict[Pieces, np.ndarray]]
"""For each query, version -> scores of the classes, shape (C,)."""


def of_versions(
    model: LanguageModel,
    queries: Sequence[Mapping[Pieces, Version]],
    classes: TokenizedPrompt,
    batch_tokens: int,
    log_probabilities: bool = False,
) -> Scores:
    """Compute the scores of each version of some prompts with the same demonstrations.

    Args:
        model: Any model.
        queries: The versions of each prompt.
        classes: A prompt with the label words of all versions.
        batch_tokens: See :func:`icl_lens.models.batching.batches`.
        log_probabilities: Whether to return log-probabilities over the whole vocabulary instead of logits. The scores of whole
            label words are always log-probabilities.
    """
    found: Scores = [{} for _ in queries]
    every = sorted({pieces for versions in queries for pieces in versions})
    longest = max(len(version.ids) for version in queries[0].values())
    for part in _parts(model, every, longest, batch_tokens):
        chosen = set(part)
        nodes = _read_tree(model, queries, chosen, classes, batch_tokens) if model.shares_prefixes else {}
        keys = [(number, pieces) for number, versions in enumerate(queries) for pieces in versions if pieces in chosen]
        tails = [_tail(nodes.get(pieces), queries[number][pieces].ids, classes) for number, pieces in keys]
        for (number, pieces), scores in zip(keys, _scores(model, tails, batch_tokens, log_probabilities), strict=True):
            found[number][pieces] = scores
    return found


def _parts(model: LanguageModel, every: list[tuple], length: int, batch_tokens: int) -> Iterator[list[tuple]]:
    """Yield parts of the versions whose keys and values are kept at a time, each of at most ``length`` tokens."""
    size = min(_VERSIONS, max(1, model.sizes.max_cached_tokens(batch_tokens) // length))
    for first in range(0, len(every), size):
        yield every[first : first + size]


def _tail(
    prefix: Node | None,
    ids: np.ndarray,
    classes: TokenizedPrompt,
    hidden: np.ndarray | None = None,
    neutral: np.ndarray | None = None,
) -> Tail:
    """Return the tokens of a sequence after a prefix. ``neutral`` refers to the whole sequence, see :class:`Tail`."""
    start = prefix.length if prefix else 0
    return Tail(
        prefix,
        ids[start:],
        classes.label_ids,
        hidden,
        neutral=None if neutral is None else neutral[start:],
        label_words=classes.label_words,
    )


def _read_tree(
    model: LanguageModel,
    queries: Sequence[Mapping[Pieces, Version]],
    chosen: set[Pieces],
    classes: TokenizedPrompt,
    batch_tokens: int,
) -> dict[Pieces, Node | None]:
    """Read the common beginning of the prompts of each node of the tree of the chosen versions."""
    tokens = _common_tokens(queries, chosen)
    read: dict[Pieces, Node | None] = {}
    pending = set(tokens)
    last_pieces = sorted({pieces[-1:] for pieces in tokens})
    while pending:
        for last in last_pieces:
            ready = [pieces for pieces in pending if pieces[-1:] == last and (not pieces or pieces[:-1] in read)]
            ready.sort(key=lambda pieces: (len(pieces), pieces))
            tails = [_tail(read.get(pieces[:-1]) if pieces else None, tokens[pieces], classes) for pieces in ready]
            longer = [number for number, tail in enumerate(tails) if len(tail.ids)]
            prefixes = prefix_trees.read(model, [tails[number] for number in longer], batch_tokens)
            read |= {pieces: tail.prefix for pieces, tail in zip(ready, tails, strict=True)}
            read |= {ready[number]: prefix for number, prefix in zip(longer, prefixes, strict=True)}
            pending -= set(ready)
    return read


def _common_tokens(queries: Sequence[Mapping[Pieces, Version]], chosen: set[Pieces]) -> dict[Pieces, np.ndarray]:
    """Return, for each node of the tree, the tokens that begin all prompts of the node and below it."""
    beginnings: dict[Pieces, list[np.ndarray]] = {}
    for versions in queries:
        for pieces, version in versions.items():
            if pieces in chosen:
                beginnings.setdefault(pieces, []).append(version.ids[: version.query])
    found: dict[Pieces, np.ndarray] = {}
    longest = max(map(len, chosen))
    for size in range(longest, -1, -1):  # from the leaves to the root
        for pieces in sorted(each for each in beginnings if len(each) == size):
            found[pieces] = _common(beginnings[pieces])
            if pieces:
                beginnings.setdefault(pieces[:-1], []).append(found[pieces])
    return found


def _common(sequences: Sequence[np.ndarray]) -> np.ndarray:
    """Return the longest common beginning of some sequences of token ids."""
    first = sequences[0]
    length = len(first)
    for ids in sequences[1:]:
        length = min(length, len(ids))
        length = int(np.append(first[:length] != ids[:length], True).argmax())
    return first[:length]


def of_states(
    model: LanguageModel,
    prompts: Sequence[TokenizedPrompt],
    places: Places,
    coalitions: Iterable[Coalition],
    kind: Literal["masked", "unlabelled"],
    batch_tokens: int,
) -> Scores:
    """Compute the scores of prompts with the same tokens before the query, with masked or unlabelled demonstrations.

    Args:
        model: A model of a supported family.
        prompts: The prompts.
        places: The token positions of their demonstrations.
        coalitions: The demonstrations that are not missing.
        kind: ``masked`` if no later token attends to a missing demonstration; ``unlabelled`` if the tokens of its label word
            have mean embeddings (:mod:`icl_lens.studies.challenges.ch_demonstrations.compute`).
        batch_tokens: See :func:`icl_lens.models.batching.batches`.
    """
    found: Scores = [{} for _ in prompts]
    every, count = sorted(coalitions), len(places.starts)
    for part in _parts(model, every, places.query, batch_tokens):
        chosen = {tuple(i in s for i in range(count)): s for s in part}
        keys = [(number, present) for number in range(len(prompts)) for present in chosen]
        if model.shares_prefixes:
            nodes = _read_states(model, prompts[0], places, list(chosen), kind, batch_tokens)
            begin = places.query
        else:
            nodes, begin = {present: None for present in chosen}, 0
        tails = []
        for number, present in keys:
            absent = _absent(places, present)  # (P,)
            prompt = prompts[number]
            hidden = absent if kind == "masked" and begin else None
            neutral = _neutral(places, present, prompt) if kind == "unlabelled" and not begin else None
            tails.append(_tail(nodes[present], prompt.ids, prompt, hidden, neutral))
        blocked = None
        if kind == "masked" and not begin:
            blocked = [_absent(places, present) for _, present in keys]
        for (number, present), scores in zip(keys, _scores(model, tails, batch_tokens, blocked=blocked), strict=True):
            found[number][chosen[present]] = scores
    return found


_State = tuple[bool, ...]
"""Whether each demonstration so far is present."""


def _read_states(
    model: LanguageModel,
    prompt: TokenizedPrompt,
    places: Places,
    wanted: Sequence[_State],
    kind: Literal["masked", "unlabelled"],
    batch_tokens: int,
) -> dict[_State, Node]:
    """Read the tokens before the query in each state of the demonstrations."""
    starts = [*places.starts.tolist(), places.query]
    root = _tail(None, prompt.ids[: starts[0]], prompt)
    nodes: dict[_State, Node | None] = {(): prefix_trees.read(model, [root], batch_tokens)[0] if starts[0] else None}
    for number, (start, stop) in enumerate(pairwise(starts)):
        needed = list(dict.fromkeys(state[: number + 1] for state in wanted))
        if kind == "masked":
            parents = list(dict.fromkeys(state[:-1] for state in needed))
            tails = [_tail(nodes[state], prompt.ids[:stop], prompt, _absent(places, state)[:start]) for state in parents]
            read = dict(zip(parents, prefix_trees.read(model, tails, batch_tokens), strict=True))
            # A masked demonstration is in the keys and values, but hidden from all later tokens.
            nodes = {state: read[state[:-1]] for state in needed}
            continue
        label = int(places.labels[number])
        parents = list(dict.fromkeys(state[:-1] for state in needed))
        texts = dict(nodes)
        if label > start:
            tails = [_tail(nodes[state], prompt.ids[:label], prompt) for state in parents]
            texts = dict(zip(parents, prefix_trees.read(model, tails, batch_tokens), strict=True))
        tails = [
            _tail(
                texts[state[:-1]],
                prompt.ids[:stop],
                prompt,
                neutral=_neutral(places, state, prompt)[:stop] if not state[-1] else None,
            )
            for state in needed
        ]
        nodes = dict(zip(needed, prefix_trees.read(model, tails, batch_tokens), strict=True))
    return nodes


def _absent(places: Places, present: _State) -> np.ndarray:
    """Return which positions before the query belong to absent demonstrations, shape (P,)."""
    ends = [*places.starts.tolist()[1:], places.query]
    absent = np.zeros(places.query, dtype=bool)
    for start, end, is_present in zip(places.starts.tolist(), ends, present, strict=False):
        absent[start:end] |= not is_present
    return absent


def _neutral(places: Places, present: _State, prompt: TokenizedPrompt) -> np.ndarray:
    """Return the place whose mean embedding each token of an absent demonstration's label word gets, shape (T,).

    It is the place in the label word, or 0 if classes are predicted by first tokens, and -1 for all other tokens.
    """
    neutral = np.full(len(prompt.ids), -1)
    for label, stop, is_present in zip(places.labels.tolist(), places.stops.tolist(), present, strict=False):
        if not is_present:
            neutral[label:stop] = np.arange(stop - label) if prompt.label_words else 0
    return neutral


def _scores(
    model: LanguageModel,
    tails: Sequence[Tail],
    batch_tokens: int,
    log_probabilities: bool = False,
    blocked: Sequence[np.ndarray] | None = None,
) -> Iterator[np.ndarray]:
    """Return the scores of the classes after each tail, shape (C,) each.

    Args:
        model, batch_tokens, log_probabilities: See :func:`of_versions`.
        tails: The tails.
        blocked: For tails without a prefix: the positions that later demonstrations and the query must not attend to.
    """
    found: dict[int, np.ndarray] = {}
    for index, batch, neutral in prefix_trees.batches(model, tails, batch_tokens, score=True):
        with neutral, _blocking(model, blocked, index, batch.ids.shape[1]):
            if log_probabilities and not batch.whole_words:
                logits = last_logits(model, batch)  # (B, V)
                scores = logits.gather(1, batch.label_ids) - logits.logsumexp(-1, keepdim=True)  # (B, C)
            else:
                scores = class_logits(model, batch)  # (B, C)
        found |= dict(zip(index, scores.float().cpu().double().numpy(), strict=True))
    return iter([found[number] for number in range(len(tails))])


def _blocking(model: LanguageModel, blocked: Sequence[np.ndarray] | None, index: Sequence[int], length: int):
    """Return the context that hides the blocked positions of a batch from all positions after their demonstration."""
    if blocked is None:
        return block(model.network, {})
    edges = np.zeros((len(index), length, length), dtype=bool)  # (B, T, T)
    for row, number in enumerate(index):
        columns = np.flatnonzero(blocked[number])
        # Consecutive blocked demonstrations can attend to each other, but no other later token attends to them.
        for column in columns:
            rest = np.flatnonzero(~blocked[number][column:])
            begin = column + int(rest[0]) if len(rest) else len(blocked[number])
            edges[row, begin:, column] = True
    return block(model.network, dict.fromkeys(range(model.layers), torch.from_numpy(edges).to(model.device)))
