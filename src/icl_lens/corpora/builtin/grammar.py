"""A small context-free grammar that generates sentences from the lexicons of a built-in corpus.

A rule set maps each symbol to its alternatives. An alternative is plain text in which ``{symbol}`` is replaced by an expansion
of that symbol. The alternatives of a rule are equally likely; repeat an alternative to double its weight. An empty alternative
makes a phrase optional.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

Rules = Mapping[str, Sequence[str]]

_SLOT = re.compile(r"\{(\w+)\}")
_ARTICLE = re.compile(r"\b([Aa])(?= [aeiouAEIOU])(?! (?:uni|use|eu|one\b))")
_SPACE_BEFORE_PUNCTUATION = re.compile(r" (?=[,.:;!?])")


def words(text: str) -> tuple[str, ...]:
    """Split a block of words at whitespace.

    Raises:
        ValueError: The block contains a duplicate word.
    """
    found = tuple(text.split())
    if len(set(found)) != len(found):
        raise ValueError(f"duplicate words: {sorted({word for word in found if found.count(word) > 1})}")
    return found


def attach_punctuation(text: str) -> str:
    """Return the text without the space before each punctuation mark, as in ordinary writing."""
    return _SPACE_BEFORE_PUNCTUATION.sub("", text)


class Grammar:
    """A parsed rule set, which a :class:`Writer` expands.

    Args:
        rules: The alternatives of each symbol; see the module's docstring.

    Raises:
        ValueError: An alternative contains a symbol without a rule, or a symbol has no alternative.
    """

    def __init__(self, rules: Rules) -> None:
        self.phrases: dict[str, list[tuple[tuple[bool, str], ...]]] = {}
        self.lexicons: dict[str, tuple[str, ...]] = {}
        for symbol, alternatives in rules.items():
            if not alternatives:
                raise ValueError(f"symbol {symbol!r} has no alternatives")
            if all(_is_word(alternative) for alternative in alternatives):
                self.lexicons[symbol] = tuple(alternatives)
            else:
                self.phrases[symbol] = [_parse(alternative) for alternative in alternatives]
        for alternatives in self.phrases.values():
            for is_symbol, value in (piece for pieces in alternatives for piece in pieces):
                if is_symbol and value not in rules:
                    raise ValueError(f"symbol {value!r} has no rule")


class Writer:
    """Expands a grammar with a random number generator.

    The words of a lexicon (a rule with only single words) are drawn without replacement from a shuffled deck, which is refilled
    when needed. All words therefore occur about equally often, and each word occurs often enough in a small corpus for a model
    to learn it.
    """

    def __init__(self, grammar: Grammar, rng: np.random.Generator) -> None:
        self._grammar = grammar
        self._rng = rng
        self._decks: dict[str, list[str]] = {symbol: [] for symbol in grammar.lexicons}

    def write(self, symbol: str) -> str:
        """Return a random text for the symbol.

        Words and punctuation marks are separated by single spaces. The next letter determines "a" or "an".

        Raises:
            KeyError: The grammar has no such symbol.
        """
        pieces: list[str] = []
        self._expand(symbol, pieces)
        return _ARTICLE.sub(r"\1n", " ".join(" ".join(pieces).split()))

    def _expand(self, symbol: str, pieces: list[str]) -> None:
        if symbol in self._decks:
            pieces.append(self._deal(symbol, pieces))
            return
        alternatives = self._grammar.phrases[symbol]
        # Generator.random is faster than Generator.integers for single draws, and equally reproducible.
        for is_symbol, value in alternatives[int(self._rng.random() * len(alternatives))]:
            if is_symbol:
                self._expand(value, pieces)
            else:
                pieces.append(value)

    def _deal(self, symbol: str, pieces: list[str]) -> str:
        """Draw the next word of the lexicon that does not occur in the text yet."""
        deck = self._decks[symbol]
        for position in range(len(deck) - 1, -1, -1):
            if deck[position] not in pieces:
                return deck.pop(position)
        lexicon = self._grammar.lexicons[symbol]
        deck[:0] = [lexicon[position] for position in self._rng.permutation(len(lexicon))]
        return deck.pop()


def _is_word(alternative: str) -> bool:
    return bool(alternative) and "{" not in alternative and " " not in alternative


def _parse(alternative: str) -> tuple[tuple[bool, str], ...]:
    # re.split with one group alternates between the text outside slots and the symbols of the slots.
    pieces = ((position % 2 == 1, piece.strip()) for position, piece in enumerate(_SLOT.split(alternative)))
    return tuple((is_symbol, piece) for is_symbol, piece in pieces if piece)
