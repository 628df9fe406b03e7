"""Division of a study's prompts into shards, such that each shard computes the same numbers as a job with all prompts.

The last bits of a number depend on the other prompts of its batch. A shard therefore prepares all prompts, marks those of other
shards as not needed (:attr:`icl_lens.prompts.positions.TokenizedPrompt.needed`), and computes the batches that contain one of
its own prompts. A batch with prompts of two shards is computed twice, so each shard gets consecutive prompts in the order in
which the study reads them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from icl_lens.artifacts.shards import Shard
from icl_lens.errors import InputError
from icl_lens.models.batching import group_by_prefix
from icl_lens.models.language_model import LanguageModel
from icl_lens.prompts.positions import TokenizedPrompt

Order = Literal["prefix", "length"]
"""How a study batches its prompts: by shared prefix and then by length, or by length only."""


def prompt_ids(model: LanguageModel, prompts: Sequence[TokenizedPrompt], shard: Shard, order: Order, study: str) -> set[int]:
    """Return the prompt_id of the prompts of a shard. The shards have about the same number of prompts.

    A shard ends at the end of a group with a shared prefix, if it is at most half a shard away.

    Raises:
        InputError: There are more shards than prompts.
    """
    count = len(prompts)
    if shard.of > count:
        raise InputError(
            f"--shard {shard}: {study} of model {model.name} has only {count} prompt{'' if count == 1 else 's'}; set shards "
            f"to at most {count}"
        )
    groups = [group.index for group in group_by_prefix(model, prompts)] if order == "prefix" else [list(range(count))]
    ordered = [i for group in groups for i in sorted(group, key=lambda i: (-len(prompts[i].ids), i))]
    ends = [0]
    for group in groups:
        ends.append(ends[-1] + len(group))
    cuts = [0]
    for number in range(1, shard.of):
        ideal = number * count / shard.of
        nearest = min(ends, key=lambda end: abs(end - ideal))
        cut = nearest if abs(nearest - ideal) < count / shard.of / 2 else int(ideal)
        cuts.append(min(max(cut, cuts[-1] + 1), count - (shard.of - number)))  # no shard is empty
    cuts.append(count)
    return {prompts[i].prompt_id for i in ordered[cuts[shard.number - 1] : cuts[shard.number]]}


def mark(arguments: Mapping[str, Any], needed: Collection[int]) -> dict[str, Any]:
    """Return the arguments of ``compute`` with each list of prompts marked: whether the prompt_id is among the needed ones."""
    return {
        name: [replace(prompt, needed=prompt.prompt_id in needed) for prompt in value] if _are_prompts(value) else value
        for name, value in arguments.items()
    }


def at_most(count: int, advance: Callable[[int], object]) -> Callable[[int], None]:
    """Return a function that reports progress up to ``count`` prompts, because a batch can have prompts of other shards."""
    done = 0

    def advance_up_to_count(finished: int) -> None:
        nonlocal done
        finished = min(finished, count - done)
        if finished:
            done += finished
            advance(finished)

    return advance_up_to_count


def _are_prompts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, TokenizedPrompt) for each in value)
