"""Trees of prefixes: the model reads each common beginning of many token sequences once.

:mod:`icl_lens.models.prefixes` shares one prefix among prompts. Here, each row of a batch continues a prefix of its own, such
as the prompts with different subsets of the same demonstrations. Some tokens of a prefix can be hidden, so that no later token
attends to them although they keep their positions.

If a tail has several paths of label words (:mod:`icl_lens.prompts.label_words`), all its tokens but the last are read once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from icl_lens.models import prefixes
from icl_lens.models.batching import Batch, appended_tokens, path_rows
from icl_lens.models.language_model import LanguageModel
from icl_lens.models.prefixes import Prefix
from icl_lens.network.embeddings import replaced_embeddings
from icl_lens.prompts.label_words import LabelWords


@dataclass(frozen=True, eq=False)
class _Stored:
    """Keys and values of a batch that was read.

    Attributes:
        keys: Keys in each layer, shape (B, H_kv, K, d). The rows are padded on both sides.
        values: Values in each layer, of the same shape.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]


@dataclass(frozen=True, eq=False)
class Node:
    """A prefix that was read in a batch, with all of its tokens.

    Attributes:
        stored: The keys and values of the batch.
        row: Its row in the batch.
        end: Index after its last token in the batch.
        length: Number of tokens P, which are the last P before ``end``.
    """

    stored: _Stored
    row: int
    end: int
    length: int


@dataclass(frozen=True, eq=False)
class Tail:
    """Tokens after a prefix.

    Attributes:
        prefix: The prefix, P tokens; None if there is none.
        ids: Token ids of the tail, at least one, shape (Q,).
        label_ids: Ids of the first tokens of the label words, shape (C,).
        hidden: True for a token of the prefix to which the tail does not attend, shape (P,); None if there is none.
        neutral: For each token of the tail, its place in a label word, from 0, if its embedding is replaced by the mean of the
            label words' embeddings at this place (:func:`~icl_lens.network.embeddings.replaced_embeddings`), otherwise -1,
            shape (Q,); None if no embedding is replaced. Without ``label_words``, the only place is 0.
        label_words: The tokens of the label words, if a class is predicted by its whole label word; otherwise None.
    """

    prefix: Node | None
    ids: np.ndarray
    label_ids: np.ndarray
    hidden: np.ndarray | None = None
    neutral: np.ndarray | None = None
    label_words: LabelWords | None = None

    @property
    def start(self) -> int:
        """Number of tokens of the prefix."""
        return self.prefix.length if self.prefix else 0

    @property
    def paths(self) -> int:
        """Number of its rows in a batch for scores."""
        return len(self.label_words.paths) if self.label_words else 1

    @property
    def appended(self) -> int:
        """Largest number of tokens that the scores of the classes append to it."""
        return self.label_words.longest if self.label_words else 0

    def split(self, prefix: Node) -> Tail:
        """Return the last token as a tail of its own. ``prefix`` contains all tokens before it, already read."""
        hidden, neutral = self.hidden, self.neutral
        if hidden is not None:
            hidden = np.append(hidden, np.zeros(len(self.ids) - 1, dtype=bool))  # (P + Q - 1,)
        return replace(self, prefix=prefix, ids=self.ids[-1:], hidden=hidden, neutral=None if neutral is None else neutral[-1:])

    def before_last(self) -> Tail:
        """Return the tail without its last token."""
        return replace(self, ids=self.ids[:-1], neutral=None if self.neutral is None else self.neutral[:-1])


def read(model: LanguageModel, tails: Sequence[Tail], budget: int) -> list[Node]:
    """Read the tails, and return each with its prefix as a longer prefix.

    Args:
        model: A model that shares prefixes.
        tails: The tails.
        budget: Tokens per batch (:meth:`icl_lens.network.memory.Sizes.max_rows`).
    """
    found: dict[int, Node] = {}
    for index, batch, neutral in batches(model, tails, budget):
        cache = batch.prefix.cache(len(index), growing=True) if batch.prefix else None
        mask = batch.mask if batch.padded_left else None
        with neutral:
            stored = _Stored(*prefixes.fill(model.network, batch.ids, batch.positions, cache, mask))
        for row, i in enumerate(index):
            length = len(tails[i].ids)
            found[i] = Node(stored, row, batch.start + length, tails[i].start + length)
    return [found[i] for i in range(len(tails))]


def batches(
    model: LanguageModel, tails: Sequence[Tail], budget: int, score: bool = False
) -> Iterator[tuple[list[int], Batch, AbstractContextManager[None]]]:
    """Yield batches of tails: the index of the tail of each row, the batch, and the context in which to run it.

    The prefixes are padded on the left and the tails on the right. All tails must have the same number of classes. The last
    position of :attr:`~icl_lens.models.batching.Batch.last` counts the padding on the left.

    Args:
        model, tails, budget: See :func:`read`.
        score: Whether to append the tokens of label words that the scores of the classes need
            (:func:`icl_lens.models.logits.class_scores`). A tail then has one row per path.
    """
    model.last_row_mode  # noqa: B018 - run this check on two short rows before contexts for a batch are open
    splits = score and model.shares_prefixes
    several = [i for i, tail in enumerate(tails) if splits and tail.paths > 1 and len(tail.ids) > 1]
    yield from _batches(model, tails, sorted(set(range(len(tails))) - set(several)), budget, score)
    order = sorted(several, key=lambda i: (-len(tails[i].ids), -tails[i].start, i))
    while order:
        appended = max(tails[i].appended for i in order)
        length = max(tails[i].start + len(tails[i].ids) for i in order)
        size = model.sizes.max_rows(budget, 1 + appended, length, "states", 1 + appended) // max(tails[i].paths for i in order)
        chosen, order = order[: max(1, size)], order[max(1, size) :]
        prefixes_of_last = read(model, [tails[i].before_last() for i in chosen], budget)
        last_tokens = [tails[i].split(prefix) for i, prefix in zip(chosen, prefixes_of_last, strict=True)]
        for rows, batch, context in _batches(model, last_tokens, range(len(chosen)), budget, score):
            index = [chosen[number] for number in rows]
            yield index, replace(batch, index=index), context


def _batches(
    model: LanguageModel, tails: Sequence[Tail], index: Sequence[int], budget: int, score: bool
) -> Iterator[tuple[list[int], Batch, AbstractContextManager[None]]]:
    """Yield batches of the indexed tails, see :func:`batches`. The tokens of a tail are read once per path."""
    # Prefixes of the same length in one batch need no padding, and queries of the same length neither.
    order = sorted(index, key=lambda i: (-len(tails[i].ids), -tails[i].start, i))
    while order:
        appended = max(tails[i].appended for i in order) if score else 0
        paths = max(tails[i].paths for i in order) if score else 1
        longest = len(tails[order[0]].ids) + appended
        size = model.sizes.max_rows(budget, longest, max(tails[i].start for i in order), "states", 1 + appended)
        size = max(1, size // paths)
        chosen, order = order[:size], order[size:]
        batch, context = _batch(model, chosen, [tails[i] for i in chosen], score)
        yield batch.index, batch, context


def _batch(
    model: LanguageModel, index: Sequence[int], tails: Sequence[Tail], score: bool
) -> tuple[Batch, AbstractContextManager[None]]:
    """Return a batch of tails, and the context in which to run it."""
    words = [tail.label_words if score else None for tail in tails]
    of_rows = path_rows(words)
    rows = [tails[number] for number, _ in of_rows]
    width = max(tail.start for tail in tails)
    longest = max(len(tails[number].ids) + len(path) for number, path in of_rows)
    ids = np.zeros((len(rows), longest), dtype=np.int64)  # (B, Q); the id of padding has no effect
    mask = np.ones((len(rows), width + longest), dtype=np.int64)  # (B, K); a causal model does not attend to later padding
    neutral = np.full((len(rows), longest), -1, dtype=np.int64)  # (B, Q)
    for row, (tail, (_, path)) in enumerate(zip(rows, of_rows, strict=True)):
        padding, length = width - tail.start, len(tail.ids)
        ids[row, :length] = tail.ids
        ids[row, length : length + len(path)] = path
        mask[row, :padding] = 0
        if tail.hidden is not None:
            mask[row, padding:width][tail.hidden] = 0
        if tail.neutral is not None:
            neutral[row, :length] = tail.neutral
    starts = np.array([tail.start for tail in rows])  # (B,)
    last = torch.tensor([width + len(tail.ids) - 1 for tail in rows], device=model.device)  # (B,)
    batch = Batch(
        index=[index[number] for number, _ in of_rows],
        ids=torch.from_numpy(ids).to(model.device),
        mask=torch.from_numpy(mask).to(model.device),
        positions=torch.from_numpy(starts[:, None] + np.arange(longest)).to(model.device),
        last=last,
        label_ids=torch.from_numpy(np.stack([tail.label_ids for tail in rows])).to(model.device),
        gold=torch.zeros(len(rows), dtype=torch.int64, device=model.device),
        prefix=_stacked([tail.prefix for tail in rows]),
        padded_left=not mask.all(),
        whole_words=any(tail.label_words for tail in tails),
        appended=appended_tokens(of_rows, words, last, model.device),
    )
    if (neutral < 0).all():
        return batch, nullcontext()
    places = torch.from_numpy(neutral).to(model.device)
    return batch, replaced_embeddings(model.network, places, _word_tokens(rows).to(model.device))


def _word_tokens(tails: Sequence[Tail]) -> Tensor:
    """Return the tokens of the label words of each tail, padded with -1, shape (B, C, N). Without whole words, N is 1."""
    words = [tail.label_words.tokens if tail.label_words else tail.label_ids[:, None].tolist() for tail in tails]
    longest = max(len(word) for each in words for word in each)
    return torch.tensor([[[*word, *[-1] * (longest - len(word))] for word in each] for each in words])


def _stacked(nodes: Sequence[Node | None]) -> Prefix | None:
    """Return the prefixes as a batch, padded on the left; None if no row has a prefix."""
    known = [node for node in nodes if node is not None]
    if not known:
        return None
    width = max(node.length for node in known)
    if len(known) == len(nodes) and len({(id(node.stored), node.row, node.end) for node in known}) == 1:
        first = known[0]
        index = slice(first.row, first.row + 1), slice(None), slice(first.end - width, first.end)
        keys, values = (tuple(x[index] for x in each) for each in (first.stored.keys, first.stored.values))
        return Prefix(keys, values, width)  # one row, which is expanded without a copy
    # Rows of one batch that end at the same index are selected together.
    groups: dict[tuple[int, int], list[int]] = {}
    for number, node in enumerate(nodes):
        node = node or known[0]  # a row without a prefix has only padding, so its keys have no effect
        groups.setdefault((id(node.stored), node.end), []).append(number)
    order = torch.tensor([number for numbers in groups.values() for number in numbers]).argsort()  # (B,)
    parts = [
        (nodes[numbers[0]] or known[0], torch.tensor([(nodes[n] or known[0]).row for n in numbers]))
        for numbers in groups.values()
    ]

    def stack(layers: Callable[[_Stored], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        stacked = []
        for layer in zip(*(layers(node.stored) for node, _ in parts), strict=True):
            selected = [
                _padded(x[:, :, : node.end].index_select(0, rows.to(x.device)), width)
                for x, (node, rows) in zip(layer, parts, strict=True)
            ]
            whole = selected[0] if len(selected) == 1 else torch.cat(selected).index_select(0, order.to(layer[0].device))
            stacked.append(whole)  # (B, H_kv, P, d)
        return tuple(stacked)

    return Prefix(stack(lambda each: each.keys), stack(lambda each: each.values), width)


def _padded(tensor: Tensor, width: int) -> Tensor:
    """Pad the positions of a tensor on the left, or remove padding there, so that it has ``width`` positions."""
    return nn.functional.pad(tensor, (0, 0, width - tensor.shape[2], 0))
