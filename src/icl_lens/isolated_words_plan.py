"""How Table 5's label words are isolated; the settings of :mod:`icl_lens.studies.isolated_words`, free of torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from icl_lens.section import Section


class Settings(Section):
    """How label words are isolated, and how many words are kept."""

    layers: int | None = Field(
        default=None,
        ge=1,
        description="The number k of first and of last layers. Empty: 5, or a fifth of the depth rounded up below 14 layers.",
    )
    blocking: Literal["before_softmax", "after_softmax"] = Field(
        default="before_softmax", description="As in `studies.isolation`."
    )
    words: int = Field(default=10, ge=1, description="How many of the likeliest next tokens are kept.")
