"""Positions of a prompt that isolation blocks from attending to all earlier positions: label words or control positions.

Each target isolates D positions, one per demonstration:

``label``       The anchors, that is, the first token of each label word (*Label Words are Anchors*, section 2.2).
``random``      D other positions, the paper's control. The released code draws them uniformly from 0 to q - 2 without the
                anchors. Tokens of the template and of the query are therefore eligible, and the last two positions are not. The
                BOS token is not eligible: the paper's models have none, and it has no earlier positions to block.
``newline``     The newline after each label word. It ends the demonstration and is the first token that attends to its label.
``template``    The last template token before each label word (the colon). It corresponds to the query's last token.

The sampling of random positions lets prompts with the same demonstrations share computation. The D positions of a prompt fall
on both sides of its last anchor. The number h of positions after the last anchor is drawn from the hypergeometric distribution,
separately for each prompt, and these h positions are drawn uniformly. The other D - h positions are the first ones of a random
order of the positions before the last anchor. This order is drawn once for each seed, draw and prefix. Each prompt's set is
therefore uniform over all sets of D eligible positions, as with independent sampling, but prompts with the same prefix have at
most D + 1 different sets within it. The sets of these prompts are not independent of each other; the variation over several
draws shows how much this matters.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np

from icl_lens.errors import InputError
from icl_lens.prompts.positions import TokenizedPrompt
from icl_lens.studies.anchors.isolating import Scope, Target

# Distinct keys of the two random streams.
_ORDER, _AFTER = 0, 1


def fixed_positions(prompt: TokenizedPrompt, target: Target, decode: Callable[[int], str]) -> np.ndarray:
    """Return the positions that one of the fixed targets isolates, one per demonstration, shape (D,).

    Args:
        prompt: A prompt with at least one demonstration.
        target: label, newline or template.
        decode: Function that returns the text of a token id.

    Raises:
        InputError: A demonstration has no such token.
    """
    if target == "label":
        return prompt.anchors
    if target == "template":
        previous = prompt.anchors - 1
        if previous[0] < 0 or np.isin(previous, prompt.anchors).any():
            raise InputError(
                f"prompt {prompt.prompt_id}: a label word has no template token before it; remove `template` from the targets"
            )
        return previous
    ends = [*prompt.anchors[1:].tolist(), prompt.last]
    found = []
    for anchor, end in zip(prompt.anchors.tolist(), ends, strict=True):
        newline = next((p for p in range(anchor + 1, end) if "\n" in decode(int(prompt.ids[p]))), None)
        if newline is None:
            raise InputError(
                f"prompt {prompt.prompt_id}: no token after the label word at position {anchor} contains a newline; remove "
                "`newline` from the targets"
            )
        found.append(newline)
    return np.array(found, dtype=np.int64)


def random_positions(prompt: TokenizedPrompt, scope: Scope, draw: int, bos: int | None = None) -> np.ndarray:
    """Return the positions of one draw of the random control, ascending, shape (D,).

    They are the same for each layer, side and k.

    Args:
        prompt: A prompt with at least one demonstration.
        scope: ``prompt``: all but the last two positions, as in the released code. ``demonstrations``: the positions before the
            last anchor.
        draw: Number of the draw, from 0. The random positions depend on it and on the prompt's seed.
        bos: Id of the BOS token.

    Raises:
        InputError: There are fewer eligible positions than label words.
    """
    required, boundary = len(prompt.anchors), int(prompt.anchors[-1])
    first = 1 if prompt.ids[0] == bos else 0
    before = np.setdiff1d(np.arange(first, boundary), prompt.anchors)  # (n,)
    after = np.arange(boundary + 1, prompt.last - 1 if scope == "prompt" else 0)  # (m,): up to q - 2
    if len(before) + len(after) < required:
        raise InputError(
            f"prompt {prompt.prompt_id}: {required} random positions are required, but only {len(before) + len(after)} are "
            f"eligible (random_scope: {scope}); remove `random` from the targets"
        )
    generator = np.random.default_rng([_AFTER, prompt.seed, draw, prompt.prompt_id])
    n_after = int(generator.hypergeometric(len(after), len(before), required))
    chosen_after = generator.choice(after, n_after, replace=False)  # (h,)
    digest = int.from_bytes(hashlib.sha256(prompt.ids[: boundary + 1].tobytes()).digest()[:8])
    order = np.random.default_rng([_ORDER, prompt.seed, draw, digest]).permutation(before)  # (n,)
    return np.sort(np.concatenate([order[: required - n_after], chosen_after]))
