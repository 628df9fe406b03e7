"""Batches of prompts, such that neither padding nor batch size changes a prediction.

Prompts are sorted by length, divided into batches by a token budget, and padded on the right, with explicit positions and mask.
Results are returned in the order of the prompts. If prompts share a prefix, the batches can contain only their tails
(:mod:`icl_lens.models.prefixes`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from icl_lens.errors import InputError
from icl_lens.models import prefixes
from icl_lens.models.language_model import LanguageModel
from icl_lens.network import memory
from icl_lens.network.forward_inputs import forward_inputs
from icl_lens.prompts.positions import TokenizedPrompt

logger = logging.getLogger(__name__)

# On devices other than a CPU, a batch with at least this number of tokens ends before a prompt that is shorter than this share
# of its longest prompt. Otherwise, a fifth of the tokens in batches of queries would be padding. A smaller batch would not use
# the whole device. On a CPU the memory limit gives small batches.
_LEAST_SHARE, _BUSY_TOKENS = 0.9, 1024


@dataclass(frozen=True)
class Batch:
    """Prompts padded on the right to one length, or their tails after a shared prefix, on the device of the model.

    Positions are counted from the beginning of the whole prompt, even with a prefix. The forward pass has a query for each of
    the Q positions P, P + 1, ... and a key for each of the K = P + Q positions 0, 1, .... Without a prefix P is 0.

    Attributes:
        index: Index of each of the B rows in the list of prompts.
        ids: Input token ids, without the prefix, shape (B, Q).
        mask: 1 for a token, 0 for padding, shape (B, K).
        positions: P, P + 1, ... along each row, shape (B, Q).
        last: Position of the last token of each row, shape (B,).
        label_ids: Token id of each class, shape (B, C).
        gold: Class index of each query, shape (B,).
        prefix: The shared prefix of all rows, already read.
        padded_left: Whether rows are padded on the left instead (see :func:`last_tokens`).
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
    fits = [p for p in prompts if longest is None or len(p.ids) <= longest]
    left_out = len(prompts) - len(fits)
    with_answers = f" with answers of {answer} tokens" if answer > 1 else ""
    if not fits:
        shortest = min(len(p.ids) for p in prompts) + answer - 1
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
    """
    model.last_row_mode  # noqa: B018 - run this check on two short rows before a caller opens contexts for a batch
    start = prefix.length if prefix else 0
    selected = range(len(prompts)) if index is None else index
    order = sorted(selected, key=lambda i: (-len(prompts[i].ids), i))  # longest first, to run out of memory early
    while order:
        longest = len(prompts[order[0]].ids) - start
        size = model.sizes.max_rows(budget, longest, start, kept, positions)
        # Label words may differ between the prompts of a batch, but not the number of classes.
        classes = len(prompts[order[0]].label_ids)
        rows = []
        for i in order[:size]:
            busy = not model.sizes.bounded and len(rows) * longest >= _BUSY_TOKENS
            if len(prompts[i].label_ids) != classes or (busy and len(prompts[i].ids) - start < _LEAST_SHARE * longest):
                break
            rows.append(i)
        order = order[len(rows) :]
        if needs_any(prompts, rows):
            yield _pad(rows, [prompts[i] for i in rows], longest, model.device, prefix)


def shared_batches(model: LanguageModel, prompts: Sequence[TokenizedPrompt], budget: int) -> Iterator[Batch]:
    """Yield batches of all prompts, for a model without interventions. The model reads each shared prefix once."""
    for group in group_by_prefix(model, prompts):
        if needs_any(prompts, group.index):
            yield from batches(model, prompts, budget, group.index, prefixes.read(model.network, group.ids))


def one_batch(model: LanguageModel, prompts: Sequence[TokenizedPrompt]) -> Batch:
    """Return one batch of all prompts, in their order. They must have the same number of classes."""
    return _pad(list(range(len(prompts))), list(prompts), max(len(p.ids) for p in prompts), model.device, None)


def needs_any(prompts: Sequence[TokenizedPrompt], index: Iterable[int]) -> bool:
    """Return whether the results of any of the indexed prompts are needed."""
    return any(prompts[i].needed for i in index)


def last_tokens(model: LanguageModel, prompts: Sequence[TokenizedPrompt], beginnings: Sequence[prefixes.Prefix]) -> Batch:
    """Return a batch with the last token of each prompt. The prefix of each row contains all earlier tokens, already read.

    The rows are padded on the left. Index K - 1 is the last index of each row, and position t of a prompt of T tokens has index
    t + K - T. All prompts must have the same number of classes.
    """
    lengths = torch.tensor([len(p.ids) for p in prompts], device=model.device)  # (B,)
    width = max(len(p.ids) for p in prompts)
    indices = torch.arange(width, device=model.device)  # (K,)
    return Batch(
        index=list(range(len(prompts))),
        ids=torch.tensor([[int(p.ids[-1])] for p in prompts], device=model.device),
        mask=(indices >= width - lengths[:, None]).long(),
        positions=lengths[:, None] - 1,
        last=torch.full_like(lengths, width - 1),
        label_ids=torch.stack([torch.from_numpy(p.label_ids) for p in prompts]).to(model.device),
        gold=torch.tensor([p.gold for p in prompts], device=model.device),
        prefix=prefixes.stack_prefixes(beginnings),
        padded_left=True,
    )


def _pad(
    index: list[int],
    prompts: list[TokenizedPrompt],
    longest: int,
    device: torch.device,
    prefix: prefixes.Prefix | None,
) -> Batch:
    start = prefix.length if prefix else 0
    ids = torch.zeros(len(prompts), longest, dtype=torch.int64)  # (B, Q); padding is masked, so its id has no effect
    mask = torch.zeros(len(prompts), start + longest, dtype=torch.int64)  # (B, K)
    for row, prompt in enumerate(prompts):
        ids[row, : len(prompt.ids) - start] = torch.from_numpy(prompt.ids[start:])
        mask[row, : len(prompt.ids)] = 1
    return Batch(
        index=index,
        ids=ids.to(device),
        mask=mask.to(device),
        positions=torch.arange(start, start + longest, device=device).expand(len(prompts), -1),
        last=torch.tensor([p.last for p in prompts], device=device),
        label_ids=torch.stack([torch.from_numpy(p.label_ids) for p in prompts]).to(device),
        gold=torch.tensor([p.gold for p in prompts], device=device),
        prefix=prefix,
    )
