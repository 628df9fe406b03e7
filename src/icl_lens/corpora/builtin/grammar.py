"""A small context-free grammar: the engine that turns the lexicons of a built-in corpus into sentences.

A rule set maps a symbol to its alternatives. An alternative is plain text in which ``{symbol}`` stands for an expansion of
another rule; each alternative of a rule is equally likely (write one twice to double its weight), and the empty alternative
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
    """Split a block of words at blanks and line ends; raise ValueError if a word is listed twice."""
    found = tuple(text.split())
    if len(set(found)) != len(found):
        raise ValueError(f"listed twice: {sorted({word for word in found if found.count(word) > 1})}")
    return found


def attach_punctuation(text: str) -> str:
    """Return the text with the blank before each punctuation mark removed, as in ordinary print."""
    return _SPACE_BEFORE_PUNCTUATION.sub("", text)


class Grammar:
    """A rule set, parsed once; a :class:`Writer` expands it.

    Args:
        rules: The alternatives of every symbol; see the module's docstring.

    Raises:
        ValueError: An alternative names a symbol that has no rule, or a symbol has no alternative.
    """

    def __init__(self, rules: Rules) -> None:
        self.phrases: dict[str, list[tuple[tuple[bool, str], ...]]] = {}
        self.lexicons: dict[str, tuple[str, ...]] = {}
        for symbol, alternatives in rules.items():
            if not alternatives:
                raise ValueError(f"symbol {symbol!r} has no alternative")
            if all(_is_word(alternative) for alternative in alternatives):
                self.lexicons[symbol] = tuple(alternatives)
            else:
                self.phrases[symbol] = [_parse(alternative) for alternative in alternatives]
        for alternatives in self.phrases.values():
            for is_symbol, value in (piece for pieces in alternatives for piece in pieces):
                if is_symbol and value not in rules:
                    raise ValueError(f"no rule for {value!r}")


class Writer:
    """Expands a grammar with one random generator.

    The words of a lexicon (a rule of single words) are dealt like cards, so that all of them are used about equally often and a
    small corpus still shows each of them enough times to be learned.
    """

    def __init__(self, grammar: Grammar, rng: np.random.Generator) -> None:
        self._grammar = grammar
        self._rng = rng
        self._decks: dict[str, list[str]] = {symbol: [] for symbol in grammar.lexicons}

    def write(self, symbol: str) -> str:
        """Return one text for the symbol: single blanks, punctuation apart, "a" or "an" by the next letter.

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
        # One uniform double per choice: faster than Generator.integers for single draws, and just as reproducible.
        for is_symbol, value in alternatives[int(self._rng.random() * len(alternatives))]:
            if is_symbol:
                self._expand(value, pieces)
            else:
                pieces.append(value)

    def _deal(self, symbol: str, pieces: list[str]) -> str:
        """Take the next word of the lexicon that the text does not have yet."""
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
    # re.split with one group alternates between the text around slots and the slots' symbols.
    pieces = ((position % 2 == 1, piece.strip()) for position, piece in enumerate(_SLOT.split(alternative)))
    return tuple((is_symbol, piece) for is_symbol, piece in pieces if piece)
