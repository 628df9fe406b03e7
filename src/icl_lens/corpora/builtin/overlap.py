"""What a content word is, and which texts share too many of them with another set of texts."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np

from .grammar import words

#: Words that carry grammar rather than content. Short on purpose: the fewer there are, the more words the bound on
#: shared content words has to hold for.
FUNCTION_WORDS = frozenset(
    words("""
    a an the this that these those and or but so as if not no of in on at to for from by with about over after before
    during out is are was were be been am do does did has have had will would could can it its he she they we you i me
    my your his her their our us them who whom whose what which where when why how there here than then
    """)
)

# Words that some lists of English stop words drop and others keep. The bound is enforced for every choice among them.
_DOUBTFUL_WORDS = frozenset(
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
_SURE_STOP_WORDS = FUNCTION_WORDS - _DOUBTFUL_WORDS
_SHORTEST_STOP_LIST = frozenset(words("a an and in is of the to"))

_WORD = re.compile(r"[a-z0-9]+")


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def content_words(text: str) -> set[str]:
    """Return the content words of a text: lower-cased, without punctuation, without :data:`FUNCTION_WORDS`."""
    return {word for word in _words(text) if word not in FUNCTION_WORDS}


def long_words(text: str) -> set[str]:
    """Return the words of four or more letters of a text, lower-cased: a second definition of content word."""
    return {word for word in _words(text) if len(word) >= 4}


def _surely_or_maybe_content(text: str) -> set[str]:
    return set(_words(text)) - _SURE_STOP_WORDS


def _surely_or_maybe_content_and_long(text: str) -> set[str]:
    return long_words(text) - _SURE_STOP_WORDS


def _surely_or_maybe_content_tokens(text: str) -> set[str]:
    """As a reader who splits at blanks only: "deal," is not "deal", and a comma that stands apart is a word."""
    return set(text.lower().split()) - _SURE_STOP_WORDS


def _very_long_words(text: str) -> set[str]:
    return {word for word in _words(text) if len(word) >= 5}


def _nearly_all_words(text: str) -> set[str]:
    return set(_words(text)) - _SHORTEST_STOP_LIST


#: The definitions of a content word under which the bound on shared words is enforced, each with the words that may or
#: may not count. First those that reject most, which leaves the others less to do.
DEFINITIONS: tuple[tuple[Callable[[str], set[str]], frozenset[str]], ...] = (
    (_nearly_all_words, frozenset()),
    (_surely_or_maybe_content, _DOUBTFUL_WORDS),
    (_surely_or_maybe_content_tokens, _DOUBTFUL_WORDS),
    (_surely_or_maybe_content_and_long, _DOUBTFUL_WORDS),
    (long_words, frozenset()),
    (_very_long_words, frozenset()),
)


def repeats_a_word(text: str) -> bool:
    """Tell whether a content word, or a word of four or more letters, occurs twice in the text."""
    checked = [word for word in _words(text) if len(word) >= 4 or word not in FUNCTION_WORDS]
    return len(set(checked)) < len(checked)


def fewest_content_words(text: str) -> int:
    """Return how many content words the text has when every doubtful word counts as a stop word, or every short one."""
    return min(len(_surely_or_maybe_content(text) - _DOUBTFUL_WORDS), len(long_words(text)))


class OverlapIndex:
    """The content words of a set of reference texts, to compare other texts with.

    Args:
        references: The texts to compare with, each by itself.
        definition: Which words of a text count, for both sides.
        doubtful: Words of which any choice may turn out not to count; the worst choice is assumed.
    """

    def __init__(
        self,
        references: Sequence[str],
        definition: Callable[[str], set[str]] = content_words,
        doubtful: frozenset[str] = frozenset(),
    ) -> None:
        self._definition = definition
        self._doubtful = doubtful
        rows = [definition(text) for text in references]
        present = sorted(set().union(*rows))
        self._sure_columns = {word: column for column, word in enumerate(w for w in present if w not in doubtful)}
        self._doubtful_columns = {word: column for column, word in enumerate(w for w in present if w in doubtful)}
        self._sure = np.ascontiguousarray(_indicator(rows, self._sure_columns).T)
        self._maybe = np.ascontiguousarray(_indicator(rows, self._doubtful_columns).T)

    def largest_shares(self, texts: Sequence[str]) -> np.ndarray:
        """Return, for each text, the largest share of its content words that one reference text holds.

        One float per text, from 0 to 1; 0 for a text without content words.
        """
        rows = [self._definition(text) for text in texts]
        sizes = np.array([len(row - self._doubtful) for row in rows], dtype=np.float32).reshape(-1, 1)
        # Counts of at most some twenty words are exact in float32, whatever the order of the sums.
        sure = _indicator(rows, self._sure_columns) @ self._sure
        maybe = _indicator(rows, self._doubtful_columns) @ self._maybe
        # The worst choice keeps the doubtful words that are shared, and drops those that are not.
        return ((sure + maybe) / np.maximum(sizes + maybe, 1)).max(axis=1, initial=0.0).astype(np.float64)


def _indicator(rows: Sequence[set[str]], columns: dict[str, int]) -> np.ndarray:
    matrix = np.zeros((len(rows), len(columns)), dtype=np.float32)
    for index, row in enumerate(rows):
        matrix[index, [columns[word] for word in row if word in columns]] = 1.0
    return matrix
