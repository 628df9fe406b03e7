"""Run prompts in batches, so that neither padding nor batch size changes an answer.

Prompts are sorted by length, cut into batches by a budget of tokens and padded on the right, with explicit positions and mask;
answers are returned in the order of the prompts. Prompts that share their beginning can be cut into batches of their tails
(:mod:`icl_lens.models.prefixes`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from icl_lens.errors import InputError
from icl_lens.models import prefixes
from icl_lens.models.language_model import LanguageModel
from icl_lens.network import memory
from icl_lens.prompts.positions import TokenizedPrompt

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Batch:
    """Prompts padded on the right to one length, on the model's device; or their tails after a prefix that they share.

    Positions count from the beginning of the whole prompt, with a prefix too. The forward pass has a query for each of the Q
    positions P, P + 1, ... and a key for each of the K = P + Q positions 0, 1, ...; without a prefix P is 0.

    Attributes:
        index: The index of each of the B rows in the list of prompts.
        ids: Token ids of what is read here, shape (B, Q).
        mask: 1 for a token, 0 for padding, shape (B, K).
        positions: P, P + 1, ... along each row, shape (B, Q).
        last: Position of each row's last token, shape (B,).
        label_ids: Token id of each class, shape (B, C).
        gold: Class index of each query, shape (B,).
        prefix: The beginning that all rows share, already read.
        left: Whether rows are padded on the left instead (:func:`last_tokens`).
    """

    index: list[int]
    ids: torch.Tensor
    mask: torch.Tensor
    positions: torch.Tensor
    last: torch.Tensor
    label_ids: torch.Tensor
    gold: torch.Tensor
    prefix: prefixes.Prefix | None = None
    left: bool = False

    @property
    def start(self) -> int:
        """P: the position of the first query, which is the prefix's length."""
        return self.prefix.length if self.prefix else 0

    def inputs(self) -> dict[str, Any]:
        """The arguments of a forward pass."""
        past = {"past_key_values": self.prefix.cache(len(self.index))} if self.prefix else {}
        # A causal model does not attend to the right, so padding there needs no mask.
        mask = {"attention_mask": self.mask} if self.left else {}
        return {"input_ids": self.ids, "position_ids": self.positions, "use_cache": bool(past), **mask, **past}


def fitting(model: LanguageModel, prompts: Sequence[TokenizedPrompt]) -> list[TokenizedPrompt]:
    """The prompts that fit the model's context; a warning says how many do not.

    Raises:
        InputError: None fits.
    """
    fits = [p for p in prompts if model.context is None or len(p.ids) <= model.context]
    left_out = len(prompts) - len(fits)
    if not fits:
        shortest = min(len(p.ids) for p in prompts)
        raise InputError(
            f"model {model.name}: no prompt fits its context of {model.context} tokens (the shortest has {shortest}); "
            "remove this task (tasks, or items.*.tasks) or use a model with a longer context"
        )
    if left_out:
        logger.warning(
            "%d of %d prompts are longer than the context of %s (%d tokens) and are excluded",
            left_out,
            len(prompts),
            model.name,
            model.context,
        )
    return fits


def sharing(model: LanguageModel, prompts: Sequence[TokenizedPrompt]) -> list[prefixes.Group]:
    """The prompts in groups that share their beginning, see :func:`icl_lens.models.prefixes.groups`.

    If the model cannot share a prefix, all prompts are in one group with an empty beginning.
    """
    if model.shares_prefixes:
        return prefixes.groups(prompts)
    return prefixes.groups(prompts, least=len(prompts) + 1)


def batches(
    model: LanguageModel,
    prompts: Sequence[TokenizedPrompt],
    budget: int,
    index: Sequence[int] | None = None,
    prefix: prefixes.Prefix | None = None,
    kept: memory.Kept = "layer",
    positions: int = 1,
) -> Iterator[Batch]:
    """Batches of at most ``budget`` tokens, including padding (a longer prompt is a batch of its own).

    On a CPU they are smaller where such a batch would use more memory than :data:`icl_lens.network.memory.LIMIT`. Prompts of
    similar length are batched together; :attr:`Batch.index` gives the index of each.

    Args:
        model: The batches are on its device.
        prompts: Any prompts.
        budget: Tokens per batch. A token of the prefix counts :data:`icl_lens.network.memory.TOKEN_SHARE` in each row.
        index: Indices of the prompts to batch; all by default.
        prefix: What these prompts begin with; the batches contain only what follows it.
        kept: What the caller keeps until a batch is done: ``layer`` (nothing of earlier layers), ``states`` (hidden states, or
            keys and values, of all layers), ``graph`` (what a backward pass needs).
        positions: Positions of each prompt whose logits over the whole vocabulary the caller makes.
    """
    model.ends_in_last_rows  # noqa: B018 - tested here, on two short rows, before a caller opens contexts for a batch
    start = prefix.length if prefix else 0
    taken = range(len(prompts)) if index is None else index
    order = sorted(taken, key=lambda i: (-len(prompts[i].ids), i))  # longest first, to run out of memory early
    while order:
        longest = len(prompts[order[0]].ids) - start
        size = model.sizes.rows(budget, longest, start, kept, positions)
        # Label words may differ between prompts, but a batch has one number of classes.
        classes = len(prompts[order[0]].label_ids)
        rows = []
        for i in order[:size]:
            if len(prompts[i].label_ids) != classes:
                break
            rows.append(i)
        order = order[len(rows) :]
        yield _pad(rows, [prompts[i] for i in rows], longest, model.device, prefix)


def shared_batches(model: LanguageModel, prompts: Sequence[TokenizedPrompt], budget: int) -> Iterator[Batch]:
    """Batches of all prompts; a shared beginning is read once. For a model without interventions."""
    for group in sharing(model, prompts):
        yield from batches(model, prompts, budget, group.index, prefixes.read(model.network, group.ids))


def last_tokens(model: LanguageModel, prompts: Sequence[TokenizedPrompt], beginnings: Sequence[prefixes.Prefix]) -> Batch:
    """The last token of each prompt, after a beginning of its own: all earlier tokens, already read.

    The rows are padded on the left: index K - 1 is the last of each row, and position t of a prompt of T tokens has index t + K
    - T. All prompts have the same number of classes.
    """
    lengths = torch.tensor([len(p.ids) for p in prompts], device=model.device)  # (B,)
    width = max(len(p.ids) for p in prompts)
    places = torch.arange(width, device=model.device)  # (K,)
    return Batch(
        index=list(range(len(prompts))),
        ids=torch.tensor([[int(p.ids[-1])] for p in prompts], device=model.device),
        mask=(places >= width - lengths[:, None]).long(),
        positions=lengths[:, None] - 1,
        last=torch.full_like(lengths, width - 1),
        label_ids=torch.stack([torch.from_numpy(p.label_ids) for p in prompts]).to(model.device),
        gold=torch.tensor([p.gold for p in prompts], device=model.device),
        prefix=prefixes.side_by_side(beginnings),
        left=True,
    )


def _pad(
    index: list[int],
    prompts: list[TokenizedPrompt],
    longest: int,
    device: torch.device,
    prefix: prefixes.Prefix | None,
) -> Batch:
    start = prefix.length if prefix else 0
    ids = torch.zeros(len(prompts), longest, dtype=torch.int64)  # (B, Q); padding is masked, so any id will do
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
