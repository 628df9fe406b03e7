"""Label words as sequences of tokens, and the token sequences that are appended to a prompt to compute their scores.

With ``label_score: whole``, the score of class c is the log-probability of its whole label word w_c after the prompt x,

    s_c = sum over i of log p(w_{c,i} | x, w_{c,1}, ..., w_{c,i-1})

without a division by the number of tokens. The tokens of a label word except its last one are appended to the prompt. A label
word of one token needs no appended tokens.

The beginnings of the label words form a tree. Each *path* is a sequence of appended tokens, from the prompt to a leaf of the
tree. Most sets of label words have few paths, for example one path (" very") for " very positive" and " very negative", which
then share the token and its log-probability.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple


class Term(NamedTuple):
    """A term of the score of a class.

    Attributes:
        path: Index of the path with the tokens before this one.
        offset: Number of these tokens, that is, of appended tokens before the position that predicts the token.
        token: Id of the predicted token.
        label: Class index.
    """

    path: int
    offset: int
    token: int
    label: int


class Branch(NamedTuple):
    """Where a path branches off an earlier path.

    Attributes:
        path: Index of the earlier path; -1 for the first path.
        length: Number of appended tokens that both paths begin with.
    """

    path: int
    length: int


@dataclass(frozen=True)
class LabelWords:
    """Label words of a prompt, which are scored as a whole.

    Attributes:
        tokens: Token ids of the label word of each class, C sequences of at least one token.
    """

    tokens: tuple[tuple[int, ...], ...]

    @cached_property
    def paths(self) -> tuple[tuple[int, ...], ...]:
        """The P token sequences to append to a prompt, in the order of the classes; one empty path if no tokens are needed."""
        beginnings = list(dict.fromkeys(word[:-1] for word in self.tokens))
        return tuple(
            path
            for path in beginnings
            if not any(len(other) > len(path) and other[: len(path)] == path for other in beginnings)
        )

    @cached_property
    def branches(self) -> tuple[Branch, ...]:
        """Where each path branches off the earlier path with which it shares most tokens, shape (P,)."""
        found = []
        for number, path in enumerate(self.paths):
            shared = [(_common_length(path, earlier), -other) for other, earlier in enumerate(self.paths[:number])]
            length, other = max(shared, default=(0, 1))
            found.append(Branch(-other, length))
        return tuple(found)

    @cached_property
    def terms(self) -> tuple[Term, ...]:
        """The terms of all scores. The terms of a beginning that several label words share are on the same path."""
        return tuple(
            Term(self._path_of(word[:offset]), offset, token, label)
            for label, word in enumerate(self.tokens)
            for offset, token in enumerate(word)
        )

    @property
    def longest(self) -> int:
        """Number of tokens of the longest path."""
        return max(map(len, self.paths))

    def shadowed(self) -> tuple[int, int] | None:
        """Return the classes of two label words of which the second begins with the first, or None if there are none.

        The score of the second word is at most that of the first, so its class is never predicted.
        """
        for first, word in enumerate(self.tokens):
            for second, other in enumerate(self.tokens):
                if first != second and other[: len(word)] == word:
                    return first, second
        return None

    def _path_of(self, beginning: tuple[int, ...]) -> int:
        return next(number for number, path in enumerate(self.paths) if path[: len(beginning)] == beginning)


def _common_length(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    """Return the number of tokens that the beginnings of two sequences have in common."""
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
