"""The recipe of the embedded model: everything that decides its weights, beside the code.

The curriculum keeps the full template, all topics and the whole label pool from the first step and grows the number of
words per topic, then the fillers, then the share of real texts; each rung is left when the smoothed matching loss falls
below the gate.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from transformers import PreTrainedTokenizerFast

from icl_lens.corpora.builtin import generate
from icl_lens.organism.architecture import Architecture
from icl_lens.organism.episodes import Difficulty, Templates
from icl_lens.organism.tokenizer import build_tokenizer
from icl_lens.organism.topics import Topic, TopicBank, corpus_topics
from icl_lens.organism.vocabulary import LABEL_WORDS, made_up_topics, template_pieces
from icl_lens.tasks import TASKS

EVERYTHING = 10**6
"""More than there is of anything: a knob turned fully up."""


def _default_curriculum() -> tuple[Difficulty, ...]:
    start = Difficulty(topics=EVERYTHING, labels=EVERYTHING, words=1, topical=6, fillers=0, corpus=0.0)
    words = [replace(start, words=n) for n in (1, 2, 3, 4, 6, 8, 11, 15, 20, 27, 36, 48, 64, 85, 115)]
    mixed = [replace(words[-1], topical=t, fillers=f) for t, f in ((6, 3), (6, 6), (5, 8), (4, 10), (3, 12))]
    real = [replace(mixed[-1], corpus=share) for share in (0.3, 0.6, 0.8)]
    return (*words, *mixed, *real)


@dataclass(frozen=True)
class Training:
    """Everything that decides the weights, beside the code, the library versions and the device.

    Attributes:
        seed: Of the initial weights and of every episode.
        corpus_seed: Of the built-in corpora, whose training splits are used.
        architecture: The model.
        made_up: How many made-up topics there are, and how many words each has.
        curriculum: The rungs, from easy to hard.
        gate: A rung is passed when the smoothed matching loss is below.
        patience: A rung is left after this many steps at the latest.
        steps: Optimiser steps in all.
        demos: Fewest and most demonstrations in an episode.
        demos_per_step: Episodes times demonstrations of a step, about.
        learning_rate: Its peak; it rises over ``warm_up`` steps and falls linearly over the last ``cool_down`` steps.
        answer_weight, first_seen_weight, text_weight: Weights of the losses beside matching.
        text_share: The share of positions that the text loss is taken on.
        threads: CPU threads: they decide the order of sums, and on a busy machine one is the fastest.
    """

    seed: int = 0
    corpus_seed: int = 0
    architecture: Architecture = field(default_factory=Architecture)
    made_up: tuple[int, int] = (48, 24)
    curriculum: tuple[Difficulty, ...] = field(default_factory=_default_curriculum)
    gate: float = 0.35
    patience: int = 1500
    steps: int = 6000
    demos: tuple[int, int] = (8, 30)
    demos_per_step: int = 240
    learning_rate: float = 1e-3
    warm_up: int = 100
    cool_down: int = 2500
    answer_weight: float = 0.3
    first_seen_weight: float = 0.1
    text_weight: float = 0.1
    text_share: float = 0.125
    threads: int = 1


@dataclass
class Material:
    """What episodes are drawn from: the tokenizer, the topics, the templates' pieces and the label pool."""

    tokenizer: PreTrainedTokenizerFast
    bank: TopicBank
    templates: Templates
    label_pool: torch.Tensor

    @classmethod
    def build(cls, config: Training) -> Material:
        """From the built-in corpora and the made-up topics."""
        corpora = {task: generate(task, config.corpus_seed) for task in TASKS}
        topics, fillers = corpus_topics(corpora)
        # A test word may be in the vocabulary; a test text is never trained on.
        texts = [text for table in corpora.values() for text in table["text"]]
        known = frozenset(word for text in texts for word in text.lower().split())
        for i, words in enumerate(made_up_topics(*config.made_up, seed=config.corpus_seed, avoid=known)):
            topics.append(Topic(f"made-up/{i}", "made-up", [f" {word}" for word in words]))
        tokenizer = build_tokenizer(
            [
                *LABEL_WORDS,
                *(piece for pieces in template_pieces() for piece in pieces),
                *(f" {text}" for text in texts),
                *(word for topic in topics for word in topic.lexicon),
            ],
            max_length=config.architecture.context,
        )

        def encode(text: str) -> list[int]:
            return tokenizer(text).input_ids

        return cls(
            tokenizer=tokenizer,
            bank=TopicBank.build(topics, fillers, encode),
            templates=Templates.build(template_pieces(), encode),
            label_pool=torch.tensor([encode(word)[0] for word in LABEL_WORDS]),  # (P,)
        )
