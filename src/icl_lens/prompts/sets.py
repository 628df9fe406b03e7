"""How many texts a prompt set draws: what settings and commands must know without drawing one."""

from __future__ import annotations

AUXILIARY = 4
"""Further training texts per class in an auxiliary set, as released."""

DEMONSTRATIONS = 4
"""Demonstrations in a prompt of a labelled set, as near as equally many of each class come to it (3 classes: 3, 6: 6).

It is 4 in *When Parts Are Greater Than Sums*.
"""

LABELLED = 24
"""Labelled texts besides them, at most (rounded up to equally many of each class); the prompt set is ``labelled-24``."""


def per_class(wanted: int, classes: int) -> int:
    """How many of each class are ``wanted`` in all: so many that the sum is not above it, but one at least."""
    return max(1, wanted // classes)
