"""Whose information flow is kept in full, and how much of it; the settings of :mod:`icl_lens.studies.flow`, free of torch."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from icl_lens.section import Section

PromptIds = list[Annotated[int, Field(ge=0)]]


class Settings(Section):
    """Whose flow is kept, and how much of it."""

    seeds: int = Field(default=5, ge=1, description="The first so many seeds have prompts in it.")
    prompts: int = Field(default=5, ge=1, description="The first so many prompts of each.")
    prompt_ids: PromptIds | None = Field(
        default=None, min_length=1, description="Instead of these: the prompts of these prompt_id."
    )
    also: PromptIds = Field(
        default=[],
        description="Besides: the prompts of these prompt_id. Those that items.figure_1.prompt and items.figure_2.prompt name "
        "are added by themselves.",
    )
    least: float = Field(
        default=0.001,
        ge=0,
        lt=1,
        description="Edges below this share of the layer's largest are left out; 0 keeps all along which anything flows.",
    )
    least_attention: float = Field(
        default=0.05, gt=0, description="Edges with at least this attention weight, mean over heads, are kept all the same."
    )
