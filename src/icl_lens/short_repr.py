"""Representation of any value of the user in an error message: one line of limited length."""

from __future__ import annotations

import reprlib
import unicodedata
from collections.abc import Iterable
from typing import Any

# Limits of a message: characters of a value, of a name and of the reason that a library gives; number of names.
_VALUE, _NAME, _REASON, _NAMES = 400, 120, 200, 20


class _Repr(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 3
        self.maxstring = self.maxother = self.maxlong = _NAME
        self.maxdict = self.maxlist = self.maxtuple = self.maxset = self.maxfrozenset = _NAMES

    def repr_int(self, x: int, level: int) -> str:
        # Python converts no integer with more than 4300 digits to a decimal string.
        return super().repr_int(x, level) if x.bit_length() < 10_000 else f"an integer of {x.bit_length()} bits"


_REPR = _Repr()


def short_repr(value: Any) -> str:
    """Return ``repr(value)`` in one line: long strings are cut, and long or deep collections end in ``...``."""
    return one_line(_REPR.repr(value), _VALUE)


def short_list(names: Iterable[Any]) -> str:
    """Return names, separated by commas, in one line. Characters that cannot be printed are escaped."""
    names = list(names)
    shown = [_name(str(name)) for name in names[:_NAMES]]
    return ", ".join(shown) + (f", ... ({len(names)} in total)" if len(names) > _NAMES else "")


def reason(error: BaseException) -> str:
    """Return the message of a library's error in one line, or the type of the error if it has no message."""
    return one_line(str(error).strip(), _REASON) or type(error).__name__


def one_line(text: str, length: int | None = None) -> str:
    """Replace line breaks and the characters that cannot be printed, and cut the text at the given length."""
    if length is not None and len(text) > length:
        text = f"{text[:length]}..."
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else " " for character in text)


def _name(name: str) -> str:
    return name if name.isprintable() and len(name) <= _NAME else short_repr(name)


def is_visible(text: str) -> bool:
    """Return whether a text contains a character that is neither whitespace nor invisible, such as a control character."""
    return any(not character.isspace() and unicodedata.category(character)[0] != "C" for character in text)
