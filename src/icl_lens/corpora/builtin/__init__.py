"""Built-in corpora: seeded synthetic versions of the four tasks, so that all studies run without a download.

A small grammar (one module per task) generates each text from lexicons written for this package, without third-party text. The
corpora match the originals in the properties that the studies need: classes, proportions, surface style and length. They also
satisfy three constraints that prevent a model trained on them from using shortcuts:

* No test text shares more than half of its content words with any single training text. This holds for several definitions of
  a content word and regardless of the list of stop words (:mod:`.overlap`).
* Counting the words that a query shares with one demonstration per class does not reveal its class, because the classes share
  their sentence frames and each class has many words that only it uses.
* Each test word occurs in the training split, and at least two words of each text indicate its class.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from math import ceil
from types import ModuleType

import numpy as np
import pandas as pd

from ...tasks.task import TASKS
from ..published import COUNTS
from . import dialogues, film_reviews, headlines, questions
from .grammar import Grammar, Writer
from .overlap import DEFINITIONS, OverlapIndex, content_words, fewest_content_words, long_words, repeats_a_word

__all__ = ["class_counts", "content_words", "generate", "indicative_words", "long_words", "texts"]

_MODULES: dict[str, ModuleType] = {
    "sst2": film_reviews,
    "trec": questions,
    "agnews": headlines,
    "emoc": dialogues,
}
# A fixed integer per task for the seed, because hash() of a string differs between processes.
_TASK_KEYS = {"sst2": 1, "trec": 2, "agnews": 3, "emoc": 4}

_SPLIT_SIZES = {"train": 4000, "test": 600}
# Minimum number of texts per class, for classes that are rare in the original.
_SMALLEST_CLASS = {"train": 60, "test": 9}

_MIN_TOKENS, _MAX_TOKENS = 7, 22
_MIN_CONTENT_WORDS = 5
_MIN_INDICATIVE_WORDS = 2
_MAX_OVERLAP = 0.5


def class_counts(task: str) -> dict[str, tuple[int, ...]]:
    """Return the number of texts of each class, in the order of the class indices, that :func:`generate` puts in each split.

    The proportions match the original release, rounded up, with a minimum number of texts per class.

    Raises:
        KeyError: There is no built-in corpus of this name.
    """
    counts = {}
    for split, original in COUNTS[task].items():
        scale = _SPLIT_SIZES[split] / sum(original)
        counts[split] = tuple(max(_SMALLEST_CLASS[split], ceil(scale * count)) for count in original)
    return counts


@cache
def indicative_words(task: str) -> tuple[frozenset[str], ...]:
    """Return, for each class of the task, the lower-cased words that only this class uses and that indicate it.

    Raises:
        KeyError: There is no built-in corpus of this name.
    """
    return tuple(
        frozenset(word.lower() for lexicon in lexicons.values() for word in lexicon if "{" not in word)
        for lexicons in _MODULES[task].LEXICONS
    )


@cache
def _grammar(task: str, label: int) -> Grammar:
    return Grammar(_MODULES[task].rules(label))


def texts(task: str, label: int, rng: np.random.Generator) -> Iterator[str]:
    """Yield an infinite sequence of random texts of one class; the same state of ``rng`` yields the same texts.

    Each text has 7 to 22 space-separated tokens, at least five content words under each definition, at least two words that
    indicate its class, and no duplicate content word. Two texts may be equal, and a text may also occur in the result of
    :func:`generate`.

    Args:
        task: The name of a task in :data:`icl_lens.tasks.task.TASKS`.
        label: The class index.
        rng: Random number generator; its state is advanced.

    Raises:
        KeyError: There is no built-in corpus of this name.
        IndexError: The task has no such class.
    """
    writer, finish = Writer(_grammar(task, label), rng), _MODULES[task].finish
    indicative = indicative_words(task)[label]
    while True:
        text = finish(writer.write("text"))
        if not _MIN_TOKENS <= text.count(" ") + 1 <= _MAX_TOKENS or repeats_a_word(text):
            continue
        if len(content_words(text) & indicative) >= _MIN_INDICATIVE_WORDS and fewest_content_words(text) >= (
            _MIN_CONTENT_WORDS
        ):
            yield text


def generate(task: str, seed: int) -> pd.DataFrame:
    """Return the built-in corpus of one task.

    The training texts are drawn first. Test texts are then drawn until each class has enough texts that share at most half of
    their content words with any training text and that use only words of the training split.

    Args:
        task: The name of a task in :data:`icl_lens.tasks.task.TASKS`.
        seed: Any non-negative integer; the same task and seed give the same table on any machine.

    Returns:
        A table with the columns ``split`` ("train", then "test"), ``index`` (from 0 within the split), ``text`` and ``label``
        (the class index, in the order of the task's label words). Classes are in random order.

    Raises:
        KeyError: There is no built-in corpus of this name.
    """
    counts = class_counts(task)
    rng = np.random.default_rng([seed, _TASK_KEYS[task]])
    seen: set[str] = set()
    train = []
    for label, count in enumerate(counts["train"]):
        train += [(text, label) for text in _distinct(texts(task, label, rng), count, seen)]
    filtered = _TestFilter([text for text, _ in train])
    test = []
    for label, count in enumerate(counts["test"]):
        source, kept = texts(task, label, rng), []
        while len(kept) < count:
            kept += filtered.accepted(_distinct(source, count, seen))
        test += [(text, label) for text in kept[:count]]
    parts = [_table("train", train, rng), _table("test", test, rng)]
    return pd.concat(parts, ignore_index=True)


def _distinct(source: Iterator[str], count: int, seen: set[str]) -> list[str]:
    """Take the next texts that are not in ``seen``, ignoring case, and add them to ``seen``."""
    taken = []
    while len(taken) < count:
        text = next(source)
        if text.lower() not in seen:
            seen.add(text.lower())
            taken.append(text)
    return taken


class _TestFilter:
    """Selects valid test texts, given the training texts."""

    def __init__(self, train: list[str]) -> None:
        self._indexes = [OverlapIndex(train, definition, ambiguous) for definition, ambiguous in DEFINITIONS]
        self._vocabulary = {word for text in train for word in text.split()}

    def accepted(self, candidates: list[str]) -> list[str]:
        """Return the valid candidates, in their original order."""
        kept = [text for text in candidates if self._vocabulary.issuperset(text.split())]
        for index in self._indexes:
            shares = index.largest_shares(kept)
            kept = [text for text, share in zip(kept, shares, strict=True) if share <= _MAX_OVERLAP]
        return kept


def _table(split: str, rows: list[tuple[str, int]], rng: np.random.Generator) -> pd.DataFrame:
    order = rng.permutation(len(rows))
    return pd.DataFrame(
        {
            "split": split,
            "index": np.arange(len(rows), dtype=np.int64),
            "text": [rows[position][0] for position in order],
            "label": np.array([rows[position][1] for position in order], dtype=np.int64),
        }
    )


if set(_MODULES) != set(TASKS):  # pragma: no cover - only if a new task has no module
    raise AssertionError("every task needs a built-in corpus")
