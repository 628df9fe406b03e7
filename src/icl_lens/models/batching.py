"""Batches of prompts, such that neither padding nor batch size changes a prediction.

Prompts are sorted by length, divided into batches by a token budget, and padded on the right, with explicit positions and mask.
Results are returned in the order of the prompts. If prompts share a prefix, the batches can contain only their tails
(:mod:`icl_lens.models.prefixes`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from icl_lens.errors import InputError
from icl_lens.models import prefixes
from icl_lens.models.language_model import LanguageModel
from icl_lens.network import memory
from icl_lens.network.forward_inputs import forward_inputs
from icl_lens.prompts.label_words import LabelWords
from icl_lens.prompts.positions import TokenizedPrompt

logger = logging.getLogger(__name__)

# On devices other than a CPU, a batch with at least this number of tokens ends before a prompt that is shorter than this share
# of its longest prompt. Otherwise, a fifth of the tokens in batches of queries would be padding. A smaller batch would not use
# the whole device. On a CPU the memory limit gives small batches.
_LEAST_SHARE, _BUSY_TOKENS = 0.9, 1024


@dataclass(frozen=True)
class Appended:
    """The tokens of label words that are appended to the rows of a batch, and the terms of the scores.

    A row has the tokens of one path (:mod:`icl_lens.prompts.label_words`). A prompt has one row per path, all in the same
    batch. The *predicting positions* are the last position of the prompt in each row, and the appended tokens.

    Attributes:
        rows: Row of each predicting position, shape (E,). The first B are the last positions of the prompts, in the order of
            the rows.
        positions: Their positions in the rows, shape (E,).
        repeated: True for a predicting position that an earlier row of the same prompt also has, shape (E,).
        entries: Index of the predicting position of each term of the scores, shape (M,).
        tokens: Id of the token that the term predicts, shape (M,).
        terms: Indices of the terms of each score, padded with M, shape (B, C, N) for label words of at most N tokens.
    """

    rows: torch.Tensor
    positions: torch.Tensor
    repeated: torch.Tensor
    entries: torch.Tensor
    tokens: torch.Tensor
    terms: torch.Tensor


@dataclass(frozen=True)
class Batch:
    """Prompts padded on the right to one length, or their tails after a shared prefix, on the device of the model.

    Positions are counted from the beginning of the whole prompt, even with a prefix. The forward pass has a query for each of
    the Q positions P, P + 1, ... and a key for each of the K = P + Q positions 0, 1, .... Without a prefix P is 0.

    Attributes:
        index: Index of each of the B rows in the list of prompts. Rows of the same prompt are consecutive.
        ids: Input token ids, without the prefix, shape (B, Q).
        mask: 1 for a token, 0 for padding, shape (B, K).
        positions: P, P + 1, ... along each row, shape (B, Q).
        last: Position of the last token of each prompt, shape (B,).
        label_ids: Id of the first token of each class's label word, shape (B, C).
        gold: Class index of each query, shape (B,).
        prefix: The shared prefix of all rows, already read.
        padded_left: Whether rows are padded on the left instead (see :func:`last_tokens`).
        whole_words: Whether classes are predicted by their whole label words.
        appended: The appended tokens of label words; None if there are none because classes are predicted by first tokens, or
            because the batch is not for predictions (``score=False``).
    """

    index: list[int]
    ids: torch.Tensor
    mask: torch.Tensor
    positions: torch.Tensor
    last: torch.Tensor
    label_ids: torch.Tensor
    gold: torch.Tensor
    prefix: prefixes.Prefix | None = None
    padded_left: bool = False
    whole_words: bool = False
    appended: Appended | None = None

    @property
    def first_rows(self) -> list[int]:
        """The first row of each prompt."""
        return [row for row, i in enumerate(self.index) if row == 0 or i != self.index[row - 1]]

    @property
    def paths(self) -> list[int]:
        """Number of the path of each row among those of its prompt, from 0."""
        firsts = {self.index[row]: row for row in self.first_rows}
        return [row - firsts[i] for row, i in enumerate(self.index)]

    @property
    def prompts(self) -> list[int]:
        """Index of each prompt of the batch in the list of prompts, in the order of the rows."""
        return [self.index[row] for row in self.first_rows]

    @property
    def start(self) -> int:
        """Position P of the first query, which is the length of the prefix."""
        return self.prefix.length if self.prefix else 0

    def inputs(self) -> dict[str, Any]:
        """Return the arguments of a forward pass."""
        cache = self.prefix.cache(len(self.index)) if self.prefix else None
        return forward_inputs(self.ids, self.positions, cache, self.mask if self.padded_left else None)


def fitting(model: LanguageModel, prompts: Sequence[TokenizedPrompt], answer: int = 1) -> list[TokenizedPrompt]:
    """Return the prompts that fit the context length of the model, and log a warning with the number of the others.

    Args:
        model: The model.
        prompts: Any prompts.
        answer: Number of tokens of an answer. The model reads all of them but the last, so they need positions, too.

    Raises:
        InputError: No prompt fits.
    """
    longest = None if model.context is None else model.context - (answer - 1)
    fits = [p for p in prompts if longest is None or len(p.ids) + p.appended <= longest]
    left_out = len(prompts) - len(fits)
    with_answers = f" with answers of {answer} tokens" if answer > 1 else ""
    if not fits:
        shortest = min(len(p.ids) + p.appended for p in prompts) + answer - 1
        raise InputError(
            f"model {model.name}: all prompts{with_answers} are longer than its context of {model.context} tokens (the "
            f"shortest has {shortest}); remove this task from tasks or items.*.tasks, or use a model with a longer context"
        )
    if left_out:
        logger.warning(
            "%d of %d prompts%s are longer than the context of %s (%d tokens) and are excluded",
            left_out,
            len(prompts),
            with_answers,
            model.name,
            model.context,
        )
    return fits


def group_by_prefix(model: LanguageModel, prompts: Sequence[TokenizedPrompt]) -> list[prefixes.Group]:
    """Group the prompts by shared prefixes, see :func:`icl_lens.models.prefixes.groups`.

    If the model cannot share a prefix, all prompts are in one group with an empty prefix.
    """
    if model.shares_prefixes:
        return prefixes.groups(prompts)
    return prefixes.groups(prompts, min_size=len(prompts) + 1)


def batches(
    model: LanguageModel,
    prompts: Sequence[TokenizedPrompt],
    budget: int,
    index: Sequence[int] | None = None,
    prefix: prefixes.Prefix | None = None,
    kept: memory.Kept = "layer",
    positions: int = 1,
    score: bool = False,
) -> Iterator[Batch]:
    """Yield batches of at most ``budget`` tokens, including padding. A prompt with more tokens is a batch of its own.

    On a CPU the batches are smaller if they would otherwise use more memory than :data:`icl_lens.network.memory.LIMIT`. Prompts
    of similar length are in the same batch. :attr:`Batch.index` gives the index of each prompt. Batches without a needed prompt
    are left out (:attr:`~icl_lens.prompts.positions.TokenizedPrompt.needed`).

    Args:
        model: The model, which determines the device of the batches.
        prompts: Any prompts.
        budget: Tokens per batch. A token of the prefix counts as :data:`icl_lens.network.memory.TOKEN_SHARE` tokens in each
            row.
        index: Indices of the prompts to batch; all by default.
        prefix: Shared prefix of these prompts. The batches contain only the tokens after it.
        kept: Activations that the caller keeps until a batch is done: ``layer`` (none of earlier layers), ``states`` (hidden
            states, or keys and values, of all layers), ``graph`` (those that a backward pass needs).
        positions: Number of positions per prompt for which the caller computes logits over the whole vocabulary.
        score: Whether to append the tokens of label words that the scores of the classes need
            (:func:`icl_lens.models.logits.class_scores`). A prompt then has one row per path.
    """
    model.last_row_mode  # noqa: B018 - run this check on two short rows before a caller opens contexts for a batch
    start = prefix.length if prefix else 0
    selected = range(len(prompts)) if index is None else index
    lengths = {i: len(prompts[i].ids) + (prompts[i].appended if score else 0) for i in selected}
    order = sorted(selected, key=lambda i: (-lengths[i], i))  # longest first, to run out of memory early
    while order:
        longest = lengths[order[0]] - start
        words = prompts[order[0]].label_words if score else None
        paths = len(words.paths) if words else 1
        positions_per_row = positions * (1 + words.longest if words else 1)
        size = max(1, model.sizes.max_rows(budget, longest, start, kept, positions_per_row) // paths)
        # Label words may differ between the prompts of a batch, but not the number of classes.
        classes = len(prompts[order[0]].label_ids)
        rows = []
        for i in order[:size]:
            busy = not model.sizes.bounded and len(rows) * paths * longest >= _BUSY_TOKENS
            if len(prompts[i].label_ids) != classes or (busy and lengths[i] - start < _LEAST_SHARE * longest):
                break
            rows.append(i)
        order = order[len(rows) :]
        if needs_any(prompts, rows):
            yield _pad(rows, [prompts[i] for i in rows], longest, model.device, prefix, score)


def shared_batches(
    model: LanguageModel,
    prompts: Sequence[TokenizedPrompt],
    budget: int,
    score: bool = False,
    complete: bool = False,
) -> Iterator[Batch]:
    """Yield batches of all prompts, for a model without interventions. The model reads each shared prefix once.

    Args:
        model: The model.
        prompts: Any prompts.
        budget: See :func:`batches`.
        score: See :func:`batches`. If a prompt has several paths, the model reads all its tokens but the last once, and each
            row has only the last token of the prompt and those of a path (:func:`last_tokens`).
        complete: Whether each row begins after the shared prefix instead, without padding on the left.
    """
    for group in group_by_prefix(model, prompts):
        if not needs_any(prompts, group.index):
            continue
        prefix = prefixes.read(model.network, group.ids)
        splits = score and not complete and model.shares_prefixes
        several = {i for i in group.index if splits and count_rows(prompts[i]) > 1 and len(prompts[i].ids) > 1}
        others = [i for i in group.index if i not in several]
        yield from batches(model, prompts, budget, others, prefix, score=score)
        yield from _last_token_batches(model, prompts, sorted(several), len(group.ids), prefix, budget)


def _last_token_batches(
    model: LanguageModel,
    prompts: Sequence[TokenizedPrompt],
    index: Sequence[int],
    start: int,
    prefix: prefixes.Prefix | None,
    budget: int,
) -> Iterator[Batch]:
    """Yield batches for the scores of prompts with several paths. The model first reads all tokens of a prompt but the last.

    Args:
        model: The model.
        prompts: All prompts.
        index: Indices of the prompts to batch. They share a prefix.
        start: Number of tokens of this prefix.
        prefix: The prefix, already read.
        budget: See :func:`batches`.
    """
    order = sorted(index, key=lambda i: (-len(prompts[i].ids), i))
    while order:
        first = prompts[order[0]]
        size = model.sizes.max_rows(budget, 1 + first.appended, len(first.ids), "states", 1 + first.appended)
        classes = len(first.label_ids)
        chosen = [i for i in order[: max(1, size // count_rows(first))] if len(prompts[i].label_ids) == classes]
        order = [i for i in order if i not in chosen]
        if needs_any(prompts, chosen):
            continuations = [prompts[i].ids[start:-1] for i in chosen]
            read = prefixes.read_each(model.network, continuations, prefix, budget)
            batch = last_tokens(model, [prompts[i] for i in chosen], read, score=True)
            yield replace(batch, index=[chosen[i] for i in batch.index])


def one_batch(model: LanguageModel, prompts: Sequence[TokenizedPrompt], score: bool = False) -> Batch:
    """Return one batch of all prompts, in their order. They must have the same number of classes.

    Args:
        model: The model.
        prompts: The prompts.
        score: See :func:`batches`.
    """
    longest = max(len(p.ids) + (p.appended if score else 0) for p in prompts)
    return _pad(list(range(len(prompts))), list(prompts), longest, model.device, None, score)


def copies(model: LanguageModel, prompt: TokenizedPrompt, number: int, prefix: prefixes.Prefix | None) -> Batch:
    """Return a batch of several copies of a prompt for scores (``score=True``), each as a separate prompt.

    Args:
        model: The model.
        prompt: The prompt.
        number: Number of copies.
        prefix: Prefix of the rows, already read, with one row or as many as the batch; None for whole prompts.
    """
    length = len(prompt.ids) + prompt.appended - (prefix.length if prefix else 0)
    return _pad(list(range(number)), [prompt] * number, length, model.device, prefix, True)


def count_rows(prompt: TokenizedPrompt) -> int:
    """Return the number of rows of a prompt in a batch for scores, one per path."""
    return len(prompt.label_words.paths) if prompt.label_words else 1


def needs_any(prompts: Sequence[TokenizedPrompt], index: Iterable[int]) -> bool:
    """Return whether the results of any of the indexed prompts are needed."""
    return any(prompts[i].needed for i in index)


def last_tokens(
    model: LanguageModel, prompts: Sequence[TokenizedPrompt], beginnings: Sequence[prefixes.Prefix], score: bool = False
) -> Batch:
    """Return a batch with the last token of each prompt. The prefix of each row contains all earlier tokens, already read.

    The rows are padded on the left. Index K - 1 is the last index of each prompt, and position t of a prompt of T tokens has
    index t + K - T. All prompts must have the same number of classes.

    Args:
        model: The model.
        prompts: The prompts.
        beginnings: The prefix of each prompt.
        score: See :func:`batches`. Appended tokens have the indices K, K + 1, ....
    """
    words = _scored_words(prompts, score)
    rows = path_rows(words)
    lengths = torch.tensor([len(prompts[row].ids) for row, _ in rows], device=model.device)  # (B,)
    width = max(len(p.ids) for p in prompts)
    queries = 1 + max(len(path) for _, path in rows)
    indices = torch.arange(width + queries - 1, device=model.device)  # (K,)
    ids = torch.zeros(len(rows), queries, dtype=torch.int64)  # (B, Q)
    for number, (row, path) in enumerate(rows):
        ids[number, : 1 + len(path)] = torch.tensor([int(prompts[row].ids[-1]), *path])
    last = torch.full_like(lengths, width - 1)
    return Batch(
        index=[row for row, _ in rows],
        ids=ids.to(model.device),
        mask=(indices >= width - lengths[:, None]).long(),
        positions=lengths[:, None] - 1 + torch.arange(queries, device=model.device),
        last=last,
        label_ids=torch.stack([torch.from_numpy(prompts[row].label_ids) for row, _ in rows]).to(model.device),
        gold=torch.tensor([prompts[row].gold for row, _ in rows], device=model.device),
        prefix=prefixes.stack_prefixes([beginnings[row] for row, _ in rows]),
        padded_left=True,
        whole_words=any(p.label_words for p in prompts),
        appended=appended_tokens(rows, words, last, model.device),
    )


def _scored_words(prompts: Sequence[TokenizedPrompt], score: bool) -> list[LabelWords | None]:
    """Return the label words of each prompt whose tokens are appended to it; None if there are none."""
    return [prompt.label_words if score else None for prompt in prompts]


def path_rows(words: Sequence[LabelWords | None]) -> list[tuple[int, tuple[int, ...]]]:
    """Return the number of the prompt and the appended tokens of each row of a batch.

    Args:
        words: The label words of each prompt; None for a prompt without appended tokens, which has one row.
    """
    return [(number, path) for number, each in enumerate(words) for path in (each.paths if each else ((),))]


def appended_tokens(
    rows: Sequence[tuple[int, tuple[int, ...]]], words: Sequence[LabelWords | None], last: torch.Tensor, device: torch.device
) -> Appended | None:
    """Return the appended tokens of a batch, and the terms of its scores; None if a prompt has no appended tokens.

    Args:
        rows: The result of :func:`path_rows`.
        words: Its argument.
        last: Position of the last token of each prompt in each row, shape (B,).
        device: Device of the batch.
    """
    label_words = [each for each in words if each is not None]
    if len(label_words) < len(words):
        return None
    lasts = last.tolist()
    first_rows: dict[int, int] = {}
    for row, (number, _) in enumerate(rows):
        first_rows.setdefault(number, row)
    entry_of: dict[tuple[int, int], int] = {(row, 0): row for row in range(len(rows))}  # row and offset -> entry
    repeated = [row != first_rows[number] for row, (number, _) in enumerate(rows)]
    for row, (number, path) in enumerate(rows):
        branch = label_words[number].branches[row - first_rows[number]]
        for offset in range(1, len(path) + 1):
            entry_of[row, offset] = len(entry_of)
            repeated.append(offset <= branch.length)
    entries, tokens, of_prompt = [], [], []
    longest = max(len(word) for each in label_words for word in each.tokens)
    for number, each in enumerate(label_words):
        terms: list[list[int]] = [[] for _ in each.tokens]
        for term in each.terms:
            terms[term.label].append(len(entries))
            entries.append(entry_of[first_rows[number] + term.path, term.offset])
            tokens.append(term.token)
        of_prompt.append(terms)
    padded = [[term + [len(entries)] * (longest - len(term)) for term in of_prompt[number]] for number, _ in rows]
    return Appended(
        rows=torch.tensor([row for row, _ in entry_of], device=device),
        positions=torch.tensor([lasts[row] + offset for row, offset in entry_of], device=device),
        repeated=torch.tensor(repeated, device=device),
        entries=torch.tensor(entries, device=device),
        tokens=torch.tensor(tokens, device=device),
        terms=torch.tensor(padded, device=device),
    )


def _pad(
    index: list[int],
    prompts: list[TokenizedPrompt],
    longest: int,
    device: torch.device,
    prefix: prefixes.Prefix | None,
    score: bool,
) -> Batch:
    start = prefix.length if prefix else 0
    words = _scored_words(prompts, score)
    rows = path_rows(words)
    ids = torch.zeros(len(rows), longest, dtype=torch.int64)  # (B, Q); padding is masked, so its id has no effect
    mask = torch.zeros(len(rows), start + longest, dtype=torch.int64)  # (B, K)
    for row, (number, path) in enumerate(rows):
        length = len(prompts[number].ids)
        ids[row, : length - start] = torch.from_numpy(prompts[number].ids[start:])
        ids[row, length - start : length - start + len(path)] = torch.tensor(path, dtype=torch.int64)
        mask[row, : length + len(path)] = 1
    last = torch.tensor([prompts[number].last for number, _ in rows])  # (B,)
    return Batch(
        index=[index[number] for number, _ in rows],
        ids=ids.to(device),
        mask=mask.to(device),
        positions=torch.arange(start, start + longest, device=device).expand(len(rows), -1),
        last=last.to(device),
        label_ids=torch.stack([torch.from_numpy(prompts[number].label_ids) for number, _ in rows]).to(device),
        gold=torch.tensor([prompts[number].gold for number, _ in rows], device=device),
        prefix=prefix,
        whole_words=any(p.label_words for p in prompts),
        appended=appended_tokens(rows, words, last, device),
    )
