"""Division of prompts for a choice on one part and its score on the other part.

The best of many heads, components or draws scores too high on the prompts on which it is chosen. It is therefore chosen on some
prompts and scored on others. Prompts with the same test text always belong to the same part, because a text that recurs in
another seed is no new text.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from icl_lens.artifacts.schema import QUERY

if TYPE_CHECKING:
    import pandas as pd


def texts_of(rows: pd.DataFrame) -> np.ndarray:
    """Return the test text of each row as a number: ``query_index``, or ``prompt_id`` in a table without this column."""
    return rows[QUERY if QUERY in rows else "prompt_id"].to_numpy()


def held_out(seeds: Sequence[int], texts: Sequence[int], share: float, seed: int) -> np.ndarray:
    """Select a share of each seed's prompts, so that all prompts with the same test text are selected or none.

    The share of each seed is rounded to a number of prompts: at least one, and never all prompts of a seed that has more than
    one. A seed can have another number only because of texts that recur in other seeds: the share is taken of all recurring
    texts together, and the texts of a single seed complete the number of this seed. A text's rank depends only on ``seed`` and
    the text, so the other prompts of a table affect only how many are selected.

    Args:
        seeds: The run's seed of each prompt, shape (N,).
        texts: The test text of each prompt, shape (N,).
        share: Share of the prompts to select.
        seed: Seed of the draw.

    Returns:
        Boolean mask of the selected prompts, shape (N,).
    """
    ranked = sorted(dict.fromkeys(map(int, texts)), key=lambda text: rank(seed, text))
    return _select(seeds, texts, share, ranked, lambda candidates, count: candidates[:count])


def halves(seeds: Sequence[int], texts: Sequence[int], classes: Sequence[int] | None = None, seed: int = 0) -> np.ndarray:
    """Divide the prompts into two halves, so that all prompts with the same test text are in the same half.

    Each seed has half of its prompts in each half, as in :func:`held_out`. With ``classes``, each class is divided in this way,
    too. Otherwise, a component that always predicts one class would be the best one on the half with more texts of this class,
    and would score below chance on the other half.

    Args:
        seeds: The run's seed of each prompt, shape (N,).
        texts: The test text of each prompt, shape (N,).
        classes: Class of each prompt's text, shape (N,).
        seed: Seed of the draw.

    Returns:
        The half of each prompt, 0 or 1, shape (N,).
    """
    class_of = dict(zip(map(int, texts), [0] * len(texts) if classes is None else map(int, classes), strict=True))
    ranked = sorted(class_of, key=lambda text: (class_of[text], rank(seed, text)))
    return _select(seeds, texts, 0.5, ranked, _evenly_spaced).astype(np.int64)


def _select(
    seeds: Sequence[int],
    texts: Sequence[int],
    share: float,
    ranked: list[int],
    pick: Callable[[list[int], int], list[int]],
) -> np.ndarray:
    """Select prompts as described in :func:`held_out`.

    Args:
        seeds, texts, share: See :func:`held_out`.
        ranked: The distinct texts, in the order in which they are passed to ``pick``.
        pick: Function that selects a number of the given texts.
    """
    pairs = list(zip(map(int, seeds), map(int, texts), strict=True))
    runs = Counter(text for _, text in dict.fromkeys(pairs))  # text -> number of seeds in which it occurs
    recurring = [text for text in ranked if runs[text] > 1]
    selected = set(pick(recurring, _count(share, len(recurring))))
    for run in dict.fromkeys(run for run, _ in pairs):
        of_run = Counter(text for each, text in pairs if each == run)  # text -> number of its prompts
        missing = _count(share, of_run.total()) - sum(number for text, number in of_run.items() if text in selected)
        single = [text for text in ranked if text in of_run and runs[text] == 1]
        selected.update(pick(single, max(0, min(missing, len(single)))))
    return np.array([text in selected for _, text in pairs], dtype=bool)


def _evenly_spaced(candidates: list[int], count: int) -> list[int]:
    """Return ``count`` of the candidates at even distances."""
    return [candidates[(2 * number + 1) * len(candidates) // (2 * count)] for number in range(count)]


def chosen_on_other_half(half: np.ndarray, choose: Callable[[np.ndarray], int]) -> np.ndarray:
    """Choose a candidate on each half, for the score on the other half.

    Args:
        half: The half of each prompt, shape (N,).
        choose: Function that returns the index of the best candidate on the prompts of a mask of shape (N,).

    Returns:
        For each prompt, the index that is chosen on the half without this prompt, shape (N,); -1 if that half is empty.
    """
    chosen = np.full(len(half), -1)
    for number in (0, 1):
        others = half != number
        if others.any() and not others.all():
            chosen[half == number] = choose(others)
    return chosen


def _count(share: float, prompts: int) -> int:
    return max(1, min(round(share * prompts), prompts - 1)) if prompts else 0


def rank(seed: int, text: int) -> bytes:
    """Return a text's rank in the draw as a sortable value."""
    return hashlib.sha256(f"{seed}/{text}".encode()).digest()
