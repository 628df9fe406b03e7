"""How test texts are rewritten; the settings of :mod:`icl_lens.studies.rewritten`, free of torch.

*In-context learning as kernel regression* (Han et al., TMLR 2025), Table 1.
"""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import Field

from icl_lens.section import Section, Seed

Rewriting = Literal["original", "rare_words", "complex_syntax", "typos"]
REWRITINGS: tuple[Rewriting, ...] = get_args(Rewriting)
"""The rows of Table 1, in its order; the first leaves the text as it is."""


class Settings(Section):
    """What is rewritten, and how much."""

    queries: int = Field(
        default=40, ge=1, description="The first so many prompts of each seed are run, or all where there are fewer."
    )
    seed: Seed = Field(default=0, description="Of the typos and of the clauses.")
    typos: float = Field(
        default=0.15, gt=0, le=1, description="The chance of each letter to be swapped, dropped, doubled or mistyped (ours)."
    )
    clauses: int = Field(default=2, ge=1, description="How many clauses are put around each text (ours).")
