"""Positions of a prompt that isolation blocks from attending to earlier positions: label words or control positions.

Each target isolates one position per demonstration, D in total. With ``label_anchor: all``, the targets ``label`` and
``random`` isolate as many positions as the label words have tokens. Below, D is then this number.

``label``       The anchors, by default the first token of each label word (*Label Words are Anchors*, section 2.2). If a label
                word has several anchors, they are blocked from all positions before the word, but not from each other, so that
                the word is isolated as a whole.
``random``      D other positions, the paper's control. The released code draws them uniformly from 0 to q - 2 without the
                anchors. Tokens of the template and of the query are therefore eligible, and the last two positions are not. The
                BOS token is not eligible: the paper's models have none, and it has no earlier positions to block.
``newline``     The newline after each label word. It ends the demonstration and is the first token that attends to its label.
                If demonstrations are turns of a chat, it is the first token after the label word with a visible character,
                such as ``<|im_end|>``, because this token ends the demonstration.
``template``    The last template token before each label word (the colon). It corresponds to the query's last token. If
                demonstrations are turns of a chat, it is the last token before the answer of the assistant.

The sampling of random positions lets prompts with the same demonstrations share computation. The D positions of a prompt fall
on both sides of its last anchor. Each task, seed and draw has several *orders* (10 by default). An order consists of a number u
between 0 and 1 and a random order of the positions before the last anchor. The prompts of a seed are divided evenly among the
orders (:func:`order_of`), in the same way for each draw. The number h of positions after the last anchor is the u-quantile of
the hypergeometric distribution, and these h positions are drawn uniformly for each prompt. The other D - h positions are the
first ones of the random order. Each prompt's set is therefore uniform over all sets of D eligible positions, as with
independent sampling. The sets of the prompts with one order are not independent of each other, but those of different orders
are. A confidence interval over prompts must therefore resample orders with their prompts. With ``draw: prompt`` each prompt has
its own order, so that all sets are independent, as in the released code.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable

import numpy as np

from icl_lens.errors import InputError
from icl_lens.prompts.positions import TokenizedPrompt, tokens_of
from icl_lens.studies.anchors.isolating import Settings, Target

# Distinct keys of the random streams.
_ORDER, _AFTER, _DEALING, _PROMPT = 0, 1, 2, 3


def fixed_positions(prompt: TokenizedPrompt, target: Target, decode: Callable[[int], str]) -> np.ndarray:
    """Return the positions that one of the fixed targets isolates: the anchors, shape (A,), or one per demonstration, (D,).

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
        previous = prompt.label_starts - 1
        if previous[0] < 0 or np.isin(previous, [*prompt.label_starts, *prompt.anchors]).any():
            raise InputError(
                f"prompt {prompt.prompt_id}: a label word has no template token before it; remove `template` from the targets"
            )
        return previous
    if len(prompt.turn_starts):
        return _turn_ends(prompt)
    ends = [*prompt.label_starts[1:].tolist(), prompt.last]
    found = []
    for anchor, end in zip(prompt.label_starts.tolist(), ends, strict=True):
        newline = next((p for p in range(anchor + 1, end) if "\n" in decode(int(prompt.ids[p]))), None)
        if newline is None:
            raise InputError(
                f"prompt {prompt.prompt_id}: no token after the label word at position {anchor} contains a newline; remove "
                "`newline` from the targets"
            )
        found.append(newline)
    return np.array(found, dtype=np.int64)


def _turn_ends(prompt: TokenizedPrompt) -> np.ndarray:
    """Return the first token after each label word that contains a visible character of the chat template, shape (D,).

    Raises:
        InputError: The chat template writes no visible character after a label word.
    """
    spans = zip(prompt.label_spans[:, 1].tolist(), prompt.turn_starts[1:].tolist(), strict=True)
    found = [tokens_of(prompt, [(end, next_start)]) for end, next_start in spans]
    for anchor, tokens in zip(prompt.label_starts.tolist(), found, strict=True):
        if not len(tokens):
            raise InputError(
                f"prompt {prompt.prompt_id}: the chat template writes no visible character after the label word at position "
                f"{anchor}; remove `newline` from the targets"
            )
    return np.array([tokens[0] for tokens in found], dtype=np.int64)


def order_of(prompt: TokenizedPrompt, settings: Settings) -> int:
    """Return the number of a prompt's random order, from 0.

    Prompts of a task and seed with the same number have the same order.

    The prompts of a seed are divided into blocks of consecutive places, one prompt per order, and each block is dealt out in a
    random permutation. The numbers of prompts of two orders therefore differ by at most 1, also for the first n prompts of a
    seed. The result does not depend on the draw or on which other prompts are run. With ``draw: prompt``, each prompt has its
    own order.
    """
    if settings.draw == "prompt":
        return prompt.place
    block, place = divmod(prompt.place, settings.orders)
    return int(np.random.default_rng([_DEALING, prompt.seed, block]).permutation(settings.orders)[place])


def random_positions(prompt: TokenizedPrompt, settings: Settings, draw: int, bos: int | None = None) -> np.ndarray:
    """Return the positions of one draw of the random control, ascending, as many as there are anchors, shape (A,).

    They are the same for each layer, side and k.

    Args:
        prompt: A prompt with at least one demonstration.
        settings: The number of orders, and the range of the positions (random_scope): ``prompt``: all but the last two
            positions, as in the released code. ``demonstrations``: the positions before the last anchor.
        draw: Number of the draw, from 0. The random positions depend on it, on the prompt's seed and on its text.
        bos: Id of the BOS token.

    Raises:
        InputError: There are fewer eligible positions than anchors.
    """
    required, boundary = len(prompt.anchors), int(prompt.anchors[-1])
    first = 1 if prompt.ids[0] == bos else 0
    before = np.setdiff1d(np.arange(first, boundary), prompt.anchors)  # (n,)
    after = np.arange(boundary + 1, prompt.last - 1 if settings.random_scope == "prompt" else 0)  # (m,): up to q - 2
    if len(before) + len(after) < required:
        raise InputError(
            f"prompt {prompt.prompt_id}: {required} random positions are required, but only {len(before) + len(after)} are "
            f"eligible (random_scope: {settings.random_scope}); remove `random` from the targets"
        )
    shared = _digest(prompt.ids[: boundary + 1])
    stream = _ORDER if settings.draw == "order" else _PROMPT
    generator = np.random.default_rng([stream, prompt.seed, draw, order_of(prompt, settings), shared])
    n_after = _number_after(generator.random(), len(before), len(after), required)
    order = generator.permutation(before)  # (n,)
    # The digest of the whole prompt distinguishes tasks, which have the same ids and seeds.
    generator = np.random.default_rng([_AFTER, prompt.seed, draw, prompt.prompt_id, _digest(prompt.ids)])
    chosen_after = generator.choice(after, n_after, replace=False)  # (h,)
    return np.sort(np.concatenate([order[: required - n_after], chosen_after]))


def _digest(ids: np.ndarray) -> int:
    """Return a number that identifies token ids."""
    return int.from_bytes(hashlib.sha256(ids.tobytes()).digest()[:8])


def _number_after(u: float, before: int, after: int, required: int) -> int:
    """Return the ``u``-quantile of how many of ``required`` positions are after the last anchor (hypergeometric)."""
    total, cumulative = math.comb(before + after, required), 0
    for number in range(required):
        cumulative += math.comb(after, number) * math.comb(before, required - number)
        if u < cumulative / total:
            return number
    return required
