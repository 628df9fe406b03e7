"""Which positions of a prompt an isolation cuts off from all earlier ones: its label words, or others in their place.

As many positions as there are demonstrations (D), whatever the target:

``label``       the anchors, the first token of each label word (*Label Words are Anchors*, section 2.2).
``random``      the paper's control, D other positions. The released code draws them uniformly from 0 to q - 2 less the
                anchors, so template and query tokens are eligible, and the last two positions are not. A beginning-of-sequence
                token is not: the paper's models have none, and there is nothing before it to be cut off from.
``newline``     the newline after each label word, which ends the demonstration and is the first to see its label.
``template``    the template's last token before each label word (the colon), whose place the query's last token has.

The random positions are drawn so that prompts that share their demonstrations can still share what a model computes for them. A
prompt's D positions fall on both sides of its last anchor: how many fall behind it, h, is drawn by the hypergeometric law, for
each prompt anew, and h of the positions behind uniformly. The other D - h are the first of the positions before it in a random
order, which is drawn once for each seed, draw and beginning. So each prompt's set is uniform over all sets of D eligible
positions, as if drawn alone, while prompts with one beginning need it computed for at most D + 1 sets. (Their sets are not
independent of each other: several draws tell how much that matters.)
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np

from icl_lens.errors import InputError
from icl_lens.prompts.positions import TokenizedPrompt
from icl_lens.studies.anchors.isolating import Scope, Target

# What the random numbers are for, so that no two streams are the same.
_ORDER, _BEHIND = 0, 1


def isolated(prompt: TokenizedPrompt, target: Target, read: Callable[[int], str]) -> np.ndarray:
    """The positions that one of the fixed targets isolates, one a demonstration, shape (D,).

    Args:
        prompt: Has at least one demonstration.
        target: label, newline or template.
        read: A token id's text.

    Raises:
        InputError: A demonstration has no such token.
    """
    if target == "label":
        return prompt.anchors
    if target == "template":
        before = prompt.anchors - 1
        if before[0] < 0 or np.isin(before, prompt.anchors).any():
            raise InputError(f"prompt {prompt.prompt_id}: a label word has no template token before it to isolate")
        return before
    ends = [*prompt.anchors[1:].tolist(), prompt.last]
    found = []
    for anchor, end in zip(prompt.anchors.tolist(), ends, strict=True):
        newline = next((p for p in range(anchor + 1, end) if "\n" in read(int(prompt.ids[p]))), None)
        if newline is None:
            raise InputError(
                f"prompt {prompt.prompt_id}: no token after the label word at position {anchor} holds a newline, so there "
                "is none to isolate; leave `newline` out of the targets"
            )
        found.append(newline)
    return np.array(found, dtype=np.int64)


def random_positions(prompt: TokenizedPrompt, scope: Scope, draw: int, bos: int | None = None) -> np.ndarray:
    """The positions of one draw of the random control, ascending, shape (D,); the same for every layer, side and k.

    Args:
        prompt: Has at least one demonstration.
        scope: ``prompt``, all but the last two positions, as released; or ``demonstrations``, those before the last anchor.
        draw: From 0; with the prompt's seed it decides the draw.
        bos: Id of the beginning-of-sequence token.

    Raises:
        InputError: There are fewer eligible positions than label words.
    """
    wanted, boundary = len(prompt.anchors), int(prompt.anchors[-1])
    first = 1 if prompt.ids[0] == bos else 0
    before = np.setdiff1d(np.arange(first, boundary), prompt.anchors)  # (n,)
    behind = np.arange(boundary + 1, prompt.last - 1 if scope == "prompt" else 0)  # (m,): up to q - 2
    if len(before) + len(behind) < wanted:
        raise InputError(
            f"prompt {prompt.prompt_id}: {wanted} random positions are wanted, but only {len(before) + len(behind)} are "
            f"eligible (random_scope: {scope})"
        )
    alone = np.random.default_rng([_BEHIND, prompt.seed, draw, prompt.prompt_id])
    late = int(alone.hypergeometric(len(behind), len(before), wanted))
    chosen_behind = alone.choice(behind, late, replace=False)  # (h,)
    digest = int.from_bytes(hashlib.sha256(prompt.ids[: boundary + 1].tobytes()).digest()[:8])
    order = np.random.default_rng([_ORDER, prompt.seed, draw, digest]).permutation(before)  # (n,)
    return np.sort(np.concatenate([order[: wanted - late], chosen_behind]))
