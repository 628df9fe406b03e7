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

    line: Weight = Field(default=0.45, description="Lists: the last point is on the line.")
    repeated: Weight = Field(default=0.55, description="Lists: the y of the last point repeats its x.")
    named: Weight = Field(default=0.38, description="Stories: the answer is the activity of the named person.")
    asked: Weight = Field(default=0.52, description="Stories: the answer repeats the name in the question.")
    opening: Weight = Field(default=0.05, description="Stories: the answer is the activity in the first sentence.")
    closing: Weight = Field(default=0.05, description="Stories: the answer is the activity in the last sentence.")


class Recipe(Section):
    """Training settings of the model."""

    seed: Seed = Field(default=0, description="Random seed of the initial weights and of all prompts.")
    steps: int = Field(default=1000, ge=1, description="Number of optimiser steps.")
    learning_rate: float = Field(default=2e-3, gt=0, description="Peak learning rate of AdamW.")
    warm_up: int = Field(default=100, ge=1, description="Number of steps over which the learning rate increases.")
    cool_down: Share = Field(
        default=0.4, description="Share of the steps, at the end, over which the learning rate decreases to zero."
    )
    checkpoints: int = Field(
        default=11, ge=2, description="Number of checkpoints, evenly spaced from the untrained model to the last step."
    )
    threads: int = Field(default=1, ge=1, description="Number of CPU threads, which determines the order of sums.")
    architecture: Architecture = Field(
        default_factory=lambda: Architecture(width=128, layers=4, heads=4, feed_forward=256),
        description="Shape of the model; the keys are those of organism.architecture.",
    )
    list_tokens: int = Field(default=1800, ge=1, description="Approximate number of tokens of lists per step.")
    story_tokens: int = Field(default=1200, ge=1, description="Approximate number of tokens of stories per step.")
    list_examples: list[Annotated[int, Field(ge=0)]] = Field(
        default=[0, 1, 1, 2, 2, 4, 4, 8],
        min_length=1,
        description="Numbers of complete lists before the last list; each step draws one.",
    )
    story_examples: list[Annotated[int, Field(ge=0)]] = Field(
        default=[0, 1, 2, 2, 3, 4],
        min_length=1,
        description="Numbers of solved examples before the story; each step draws one.",
    )
    mute: Share = Field(
        default=0.15,
        description="Share of prompts with uninformative examples (y shuffled, or answers that are not in the story).",
    )
    rules: Rules = Field(default_factory=Rules, description="Relative frequency of each rule in the prompts of a task.")
    text: Weight = Field(default=0.05, description="Loss weight of a token that is neither an answer nor a shown y.")
    shown: Weight = Field(default=1.0, description="Loss weight of the shown y of a list, from the third point on.")

    def checkpoint_steps(self) -> list[int]:
        """Return the steps after which a checkpoint is kept."""
        gaps = self.checkpoints - 1
        return sorted({round(self.steps * i / gaps) for i in range(gaps + 1)})
