"""Definitions of content words, and the overlap of a text's content words with those of other texts."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np

from .grammar import words

#: Words with a grammatical function rather than content. The list is short on purpose, because the bound on shared content
#: words applies to all other words.
FUNCTION_WORDS = frozenset(
    words("""
    a an the this that these those and or but so as if not no of in on at to for from by with about over after before
    during out is are was were be been am do does did has have had will would could can it its he she they we you i me
    my your his her their our us them who whom whose what which where when why how there here than then
    """)
)

# Words that are in some lists of English stop words but not in others. The bound is enforced for each choice among them.
_AMBIGUOUS_WORDS = frozenset(
    words("""
    all also always almost again along already although amid among another any anyone around back because become behind
    being below besides between both call cannot come down each early either else even ever every everyone few find
    first five former four further get give go going got has having hers herself him himself however inside into
    itself just keep kind know last late latter least left less like likely look made mainly make makes many may maybe
    might mine more most mostly much must name near nearly never new next none nor nothing now off often old once one
    only other ours own part per perhaps put quite rather real really same say says see seem seems seven several shall
    should show side since six some somehow still such take tell ten thanks three through thus together told too toward
    truly twice two under until up upon use used using various very want way well went whether while whole within
    without yes yet yours im ok oh hey hmm u
    would could us describe described fire found interest move top main big great good detail system possible
    """)
)
_CERTAIN_STOP_WORDS = FUNCTION_WORDS - _AMBIGUOUS_WORDS
_SHORTEST_STOP_LIST = frozenset(words("a an and in is of the to"))

_WORD = re.compile(r"[a-z0-9]+")


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def content_words(text: str) -> set[str]:
    """Return the content words of a text, lower-cased, without punctuation and :data:`FUNCTION_WORDS`."""
    return {word for word in _words(text) if word not in FUNCTION_WORDS}


def long_words(text: str) -> set[str]:
    """Return the lower-cased words of a text with at least four characters, a second definition of content words."""
    return {word for word in _words(text) if len(word) >= 4}


def _possible_content_words(text: str) -> set[str]:
    return set(_words(text)) - _CERTAIN_STOP_WORDS


def _possible_long_content_words(text: str) -> set[str]:
    return long_words(text) - _CERTAIN_STOP_WORDS


def _possible_content_tokens(text: str) -> set[str]:
    """Return content tokens, split at whitespace only: "deal," differs from "deal", and a separate comma is a token."""
    return set(text.lower().split()) - _CERTAIN_STOP_WORDS


def _very_long_words(text: str) -> set[str]:
    return {word for word in _words(text) if len(word) >= 5}


def _non_stop_words(text: str) -> set[str]:
    return set(_words(text)) - _SHORTEST_STOP_LIST


#: The definitions of a content word for which the bound on shared words is enforced, each with the ambiguous words that may or
#: may not count. Definitions that reject the most texts come first, so that the later ones check fewer texts.
DEFINITIONS: tuple[tuple[Callable[[str], set[str]], frozenset[str]], ...] = (
    (_non_stop_words, frozenset()),
    (_possible_content_words, _AMBIGUOUS_WORDS),
    (_possible_content_tokens, _AMBIGUOUS_WORDS),
    (_possible_long_content_words, _AMBIGUOUS_WORDS),
    (long_words, frozenset()),
    (_very_long_words, frozenset()),
)


def repeats_a_word(text: str) -> bool:
    """Return whether a content word, or a word with at least four characters, occurs more than once in the text."""
    checked = [word for word in _words(text) if len(word) >= 4 or word not in FUNCTION_WORDS]
    return len(set(checked)) < len(checked)


def fewest_content_words(text: str) -> int:
    """Return the minimum number of content words under two definitions.

    The definitions count all ambiguous words, or all words with fewer than four characters, as stop words.
    """
    return min(len(_possible_content_words(text) - _AMBIGUOUS_WORDS), len(long_words(text)))


class OverlapIndex:
    """An index of the content words of reference texts, for comparison with other texts.

    Args:
        references: The texts to compare with; each is compared separately.
        definition: Function that returns the content words of a text, for references and other texts.
        ambiguous: Words that may or may not count as content words. The overlap is computed for the worst choice.
    """

    def __init__(
        self,
        references: Sequence[str],
        definition: Callable[[str], set[str]] = content_words,
        ambiguous: frozenset[str] = frozenset(),
    ) -> None:
        self._definition = definition
        self._ambiguous = ambiguous
        rows = [definition(text) for text in references]
        vocabulary = sorted(set().union(*rows))
        self._certain_columns = {word: column for column, word in enumerate(w for w in vocabulary if w not in ambiguous)}
        self._ambiguous_columns = {word: column for column, word in enumerate(w for w in vocabulary if w in ambiguous)}
        self._certain = np.ascontiguousarray(_indicator(rows, self._certain_columns).T)
        self._ambiguous_matrix = np.ascontiguousarray(_indicator(rows, self._ambiguous_columns).T)

    def largest_shares(self, texts: Sequence[str]) -> np.ndarray:
        """Return, for each text, the largest share of its content words that occur in a single reference text.

        Returns:
            One float per text, from 0 to 1; 0 for a text without content words.
        """
        rows = [self._definition(text) for text in texts]
        sizes = np.array([len(row - self._ambiguous) for row in rows], dtype=np.float32).reshape(-1, 1)
        # Counts of about twenty words are exact in float32, in any order of summation.
        certain = _indicator(rows, self._certain_columns) @ self._certain
        possible = _indicator(rows, self._ambiguous_columns) @ self._ambiguous_matrix
        # The worst choice counts the ambiguous words that are shared, and ignores those that are not.
        return ((certain + possible) / np.maximum(sizes + possible, 1)).max(axis=1, initial=0.0).astype(np.float64)


def _indicator(rows: Sequence[set[str]], columns: dict[str, int]) -> np.ndarray:
    matrix = np.zeros((len(rows), len(columns)), dtype=np.float32)
    for index, row in enumerate(rows):
        matrix[index, [columns[word] for word in row if word in columns]] = 1.0
    return matrix
