"""The training recipe of a model that learns in context: the config keys under ``organism``.

Together with the texts, the code, the library versions and the device, the recipe determines the weights. The curriculum uses
full templates, all topics and the whole label pool from the first step. It increases the number of words per topic, then the
number of fillers, then the share of real texts. The next rung begins when the smoothed matching loss falls below the gate.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Literal

from pydantic import Field, model_validator

from icl_lens.section import Section, Seed

Share = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=0)]
Range = Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=2, max_length=2)]
"""Minimum and maximum."""


@dataclass(frozen=True)
class Difficulty:
    """Difficulty of the episodes: the parameters that the curriculum changes.

    Attributes:
        words: Number of words of each topic's lexicon in use (the first ones).
        topical: Maximum number of topical words in a made-up text. The minimum is half of it.
        fillers: Maximum number of fillers in a made-up text.
        corpus: Share of episodes with training texts of a corpus. The other episodes have made-up texts.
        noise: Share of demonstrations with a class that is redrawn independently of the text.
    """

    words: int
    topical: int
    fillers: int
    corpus: float
    noise: float


class Architecture(Section):
    """Shape of the model and scales of its initial weights (see :mod:`icl_lens.organism.architecture`)."""

    width: int = Field(default=64, ge=4, description="Hidden size.")
    layers: int = Field(default=6, ge=1, description="Number of decoder layers.")
    heads: int = Field(default=2, ge=1, description="Number of attention heads per layer.")
    feed_forward: int = Field(default=128, ge=1, description="Width of the feed-forward layers.")
    context: int = Field(default=1024, ge=16, description="Context length, in tokens.")
    rope_theta: float = Field(default=10000.0, gt=1, description="Base of the rotary frequencies.")
    local_layers: int = Field(
        default=2, ge=0, description="Number of the lowest layers that are initialised with local attention."
    )
    locality: float = Field(
        default=1.2, ge=0, description="Query and key biases of these layers; larger values make attention more local."
    )
    similarity: float = Field(
        default=2.0, ge=0, description="Scale of the equal query and key projections of the other layers."
    )
    copying: float = Field(default=1.0, ge=0, description="Scale of the value and output projections.")
    embedding: float = Field(default=0.5, gt=0, description="Standard deviation of the embeddings.")
    readout: float = Field(
        default=0.3, gt=0, description="Gain of the last normalisation layer; a small value keeps the initial logits small."
    )
    noise: float = Field(
        default=0.02,
        ge=0,
        description="Standard deviation of all other weights, and of the noise added to the query and key projections.",
    )

    @model_validator(mode="after")
    def _shapes_fit(self) -> Architecture:
        if self.width % (2 * self.heads):
            raise ValueError(
                f"organism.architecture: width {self.width} cannot be divided into {self.heads} heads of even width; "
                f"use a multiple of {2 * self.heads}"
            )
        if self.local_layers > self.layers:
            raise ValueError(
                f"organism.architecture: local_layers must be at most layers ({self.layers}), got {self.local_layers}"
            )
        return self


class Episodes(Section):
    """Composition of an episode: demonstrations of several classes, each of which is also a query."""

    demonstrations: Range = Field(
        default_factory=lambda: [8, 30], description="Minimum and maximum number of demonstrations per episode."
    )
    demonstrations_per_step: int = Field(
        default=240, ge=1, description="Approximate number of demonstrations per step, over all episodes."
    )
    classes: Range = Field(default_factory=lambda: [2, 6], description="Minimum and maximum number of classes per episode.")
    one_of_each_first: Share = Field(
        default=0.5, description="Share of episodes that begin with one demonstration of each class."
    )
    longest_text: int = Field(
        default=26, ge=1, description="Maximum number of tokens of a training text; longer texts are excluded."
    )
    label_word_spread: float = Field(
        default=20.0,
        ge=1,
        description="Ratio of the sampling frequencies of the most and the least frequent label word.",
    )
    made_up_share: Share = Field(
        default=0.5,
        description="Share of made-up texts about made-up topics; all others are about the classes of the corpora.",
    )
    made_up_templates: int = Field(
        default=60, ge=0, description="Number of made-up templates, in addition to those of the tasks."
    )
    made_up_topics: int = Field(default=60, ge=2, description="Number of made-up topics, that is, groups of made-up words.")
    made_up_words: int = Field(default=40, ge=1, description="Number of words per made-up topic.")
    plain_text_topics: int = Field(
        default=12, ge=0, description="Number of made-up topics that occur only in plain text, never in labelled episodes."
    )

    @model_validator(mode="after")
    def _ranges_rise(self) -> Episodes:
        for key in ("demonstrations", "classes"):
            fewest, most = getattr(self, key)
            if fewest > most:
                raise ValueError(f"organism.episodes.{key}: the minimum must come first, got [{fewest}, {most}]")
        if self.demonstrations[0] < 2:
            raise ValueError("organism.episodes.demonstrations: the minimum must be at least 2")
        if self.classes[0] < 2:
            raise ValueError("organism.episodes.classes: the minimum must be at least 2")
        if self.made_up_topics - self.plain_text_topics < self.classes[1]:
            raise ValueError(
                f"organism.episodes: made_up_topics minus plain_text_topics must be at least {self.classes[1]} (the maximum of "
                f"classes), got {self.made_up_topics} - {self.plain_text_topics}"
            )
        return self


class Rung(Section):
    """One step of the curriculum: the difficulty parameters that it changes. All others keep their values."""

    words: int | None = Field(default=None, ge=1, description="Number of words in use per topic.")
    topical: int | None = Field(default=None, ge=1, description="Maximum number of topical words per made-up text.")
    fillers: int | None = Field(default=None, ge=0, description="Maximum number of fillers per made-up text.")
    corpus: Share | None = Field(default=None, description="Share of episodes with training texts of a corpus.")
    noise: Share | None = Field(default=None, description="Share of demonstrations with a randomly redrawn class.")


class Curriculum(Section):
    """The rungs, from easy to hard, and the conditions for moving to the next rung."""

    gate: float = Field(default=0.35, gt=0, description="A rung is passed when the smoothed matching loss is below this value.")
    patience: int = Field(default=1500, ge=1, description="Maximum number of steps on one rung.")
    rungs: list[Rung] = Field(
        min_length=1,
        default_factory=lambda: [
            Rung(words=1, topical=6, fillers=0, corpus=0.0, noise=0.0),
            *(Rung(words=words) for words in (2, 3, 4, 6, 8, 11, 15, 20, 27, 36, 48, 64, 85, 115)),
            Rung(fillers=3),
            Rung(fillers=6),
            Rung(topical=5, fillers=8),
            Rung(topical=4, fillers=10),
            Rung(topical=3, fillers=12),
            *(Rung(corpus=share) for share in (0.2, 0.4, 0.6)),
            Rung(noise=0.03),
        ],
        description="The rungs. Each gives the values that it changes: words, topical, fillers, corpus, noise.",
    )

    def difficulties(self) -> list[Difficulty]:
        """Return the full difficulty of each rung."""
        current, resolved = Difficulty(words=1, topical=6, fillers=0, corpus=0.0, noise=0.0), []
        for rung in self.rungs:
            current = replace(current, **rung.model_dump(exclude_none=True))
            resolved.append(current)
        return resolved


class Loss(Section):
    """Weights of the loss terms (see :mod:`icl_lens.organism.optimisation`). The weight of the matching loss is 1."""

    answer: Weight = Field(
        default=0.3, description="Weight of the cross-entropy of shown label words over the whole vocabulary."
    )
    first_seen: Weight = Field(
        default=0.3, description="Weight of the cross-entropy with the label word frequencies, for classes not shown yet."
    )
    text: Weight = Field(default=0.1, description="Weight of the next-token loss in episodes.")
    text_share: Share = Field(default=0.125, description="Share of positions on which the text loss is computed.")
    documents: Weight = Field(default=0.2, description="Weight of the next-token loss in plain text about one topic.")


class Measurement(Section):
    """Number of prompts for the evaluation of the trained model."""

    prompts: int = Field(default=1000, ge=1, description="Number of prompts per cell of the model card's table.")
    curve_prompts: int = Field(default=200, ge=1, description="Number of prompts per cell for each earlier checkpoint.")


STEPS = {"quick": 4000, "long": 40000}
"""Optimiser steps of each budget. The quick budget takes 15 to 30 minutes on a laptop, the long budget as much on a GPU."""


class Recipe(Section):
    """Training settings of the model."""

    seed: Seed = Field(default=0, description="Random seed of the initial weights and of all episodes.")
    budget: Literal["quick", "long"] = Field(
        default="quick", description=f"quick: {STEPS['quick']} steps, for a CPU. long: {STEPS['long']} steps, for a GPU."
    )
    steps: int | None = Field(
        default=None, ge=1, description="Number of optimiser steps; by default, the budget determines it."
    )
    learning_rate: float = Field(default=1e-3, gt=0, description="Peak learning rate of AdamW.")
    warm_up: int = Field(default=100, ge=1, description="Number of steps over which the learning rate increases.")
    cool_down: Share = Field(
        default=0.4, description="Share of the steps, at the end, over which the learning rate decreases to zero."
    )
    checkpoints: int = Field(
        default=18,
        ge=3,
        description="Number of checkpoints: the untrained model, then log-spaced from step 10 to the last step.",
    )
    threads: int = Field(
        default=1,
        ge=1,
        description="Number of CPU threads, which determines the order of sums. One is the fastest on a busy machine.",
    )
    architecture: Architecture = Field(default_factory=Architecture, description="Shape of the model.")
    episodes: Episodes = Field(default_factory=Episodes, description="Training episodes.")
    vocabulary: int = Field(
        default=8000,
        ge=1,
        description="Maximum number of words that are one token each, the most frequent ones of the training texts.",
    )
    subwords: int = Field(default=400, ge=1, description="Number of sub-words for all other words, in addition to bytes.")
    loss: Loss = Field(default_factory=Loss, description="Weights of the loss terms.")
    curriculum: Curriculum = Field(
        default_factory=Curriculum, description="Difficulty of the episodes during training, from easy to hard."
    )
    evaluation: Measurement = Field(default_factory=Measurement, description="Size of the evaluation.")

    @property
    def total_steps(self) -> int:
        """Total number of optimiser steps."""
        return self.steps or STEPS[self.budget]

    def checkpoint_steps(self) -> list[int]:
        """Return the steps after which a checkpoint is kept: 0 (untrained), then log-spaced from step 10 to the last step."""
        last, gaps = self.total_steps, self.checkpoints - 2
        first = min(10, last)
        return [0, *sorted({round(first * (last / first) ** (i / gaps)) for i in range(gaps + 1)})]
