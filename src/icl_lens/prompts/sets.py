"""Sizes of prompt sets, for settings and commands that do not draw prompts."""

from __future__ import annotations

AUXILIARY = 4
"""Number of additional training texts per class in an auxiliary set, as in the released code."""

DEMONSTRATIONS = 4
"""Target number of demonstrations in a prompt of a labelled set, as in *When Parts Are Greater Than Sums*.

The actual number is a multiple of the number of classes, with at least one demonstration per class (3 for 3 classes, 6 for 6).
"""

LABELLED = 24
"""Maximum number of additional labelled texts in the prompt set ``labelled-24``, rounded up to a multiple of the classes."""


ZERO_SHOT = "shared-0shot"
"""The prompt set without demonstrations. Its queries are those of the other sets."""


def per_class(total: int, classes: int) -> int:
    """Return the largest number per class for which the sum over the classes does not exceed ``total``, but at least 1."""
    return max(1, total // classes)
