"""The training recipe of the second model: the config keys under ``reader_organism``."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from icl_lens.organism.recipe import Architecture
from icl_lens.section import Section, Seed

Share = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=0)]


class Rules(Section):
    """Relative frequency of each rule in the prompts of a task. Only the examples of a prompt determine its rule."""

    line: Weight = Field(default=0.45, description="Lists: the last point lies on the line.")
    repeated: Weight = Field(default=0.55, description="Lists: its y repeats its x, whatever the line.")
    named: Weight = Field(default=0.38, description="Stories: the answer is what the named person is doing.")
    asked: Weight = Field(default=0.52, description="Stories: it repeats the name that is asked about.")
    opening: Weight = Field(default=0.05, description="Stories: it is what stands in the first sentence.")
    closing: Weight = Field(default=0.05, description="Stories: it is what stands in the last sentence.")


class Recipe(Section):
    """Training settings of the model."""

    seed: Seed = Field(default=0, description="Of the initial weights and of every prompt.")
    steps: int = Field(default=1000, ge=1, description="Optimiser steps.")
    learning_rate: float = Field(default=2e-3, gt=0, description="Peak learning rate of AdamW.")
    warm_up: int = Field(default=100, ge=1, description="Steps over which the learning rate rises.")
    cool_down: Share = Field(default=0.4, description="The share of the steps, at the end, over which it falls to zero.")
    checkpoints: int = Field(default=11, ge=2, description="How many: the untrained model, then evenly spaced to the last.")
    threads: int = Field(default=1, ge=1, description="CPU threads: they decide the order of sums.")
    architecture: Architecture = Field(
        default_factory=lambda: Architecture(width=128, layers=4, heads=4, feed_forward=256),
        description="The model's shape; the keys are those of organism.architecture.",
    )
    list_tokens: int = Field(default=1800, ge=1, description="Tokens of lists in one step, about.")
    story_tokens: int = Field(default=1200, ge=1, description="Tokens of stories in one step, about.")
    list_examples: list[Annotated[int, Field(ge=0)]] = Field(
        default=[0, 1, 1, 2, 2, 4, 4, 8], min_length=1, description="Complete lists before the last one; a step takes one."
    )
    story_examples: list[Annotated[int, Field(ge=0)]] = Field(
        default=[0, 1, 2, 2, 3, 4], min_length=1, description="Solved examples before a story; a step takes one."
    )
    mute: Share = Field(
        default=0.15, description="The share of prompts whose examples tell nothing: y shuffled, answers from elsewhere."
    )
    rules: Rules = Field(default_factory=Rules, description="How often each rule completes a task's prompts.")
    text: Weight = Field(default=0.05, description="Weight in the loss of a token that is neither an answer nor a shown y.")
    shown: Weight = Field(default=1.0, description="Weight of the y that a list shows, from the third point on.")

    def checkpoint_steps(self) -> list[int]:
        """Return the steps after which a checkpoint is kept."""
        gaps = self.checkpoints - 1
        return sorted({round(self.steps * i / gaps) for i in range(gaps + 1)})
