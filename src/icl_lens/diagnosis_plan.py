"""What the error diagnosis looks at: which layer, and how many directions of the queries; its settings, free of torch.

*Label Words are Anchors*, section 3.3 and appendix J. :mod:`icl_lens.studies.diagnosis` does it; the config and the figures
read this alone.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from icl_lens.section import Section


class Settings(Section):
    """Where queries and keys are read, and what is kept of them."""

    layer: int | None = Field(
        default=None,
        ge=0,
        description="The layer whose queries and keys are read, counted from 0. Empty: two thirds of the depth, which is the "
        "released notebook's 32 in a model of 48 layers.",
    )
    directions: int = Field(
        default=10, ge=1, description="How many principal directions of the queries Figure 6 keeps: M, 10 in the paper."
    )
    sweep: list[Annotated[int, Field(ge=1)]] = Field(
        default=[5, 10, 20, 50, 100, 200],
        min_length=1,
        description="The M of Figure 14. More than there are directions (queries of a seed less one, or the width) means all.",
    )


def main_layer(depth: int) -> int:
    """The layer of a model of ``depth`` layers: 32 of GPT2-XL's 48."""
    return 2 * depth // 3


def counts(settings: Settings) -> list[int]:
    """All M, ascending: Figure 6's and Figure 14's."""
    return sorted({settings.directions, *settings.sweep})
