"""Prompts in the paper's format, assembled as tensors from token ids.

An episode is a row of demonstrations joined by newlines, each ``prefix + text + middle + label``, for instance
``Review: {text}\\nSentiment:{label}``. It is exactly what the tokenizer makes of the same prompt as a string. Every label
is also a query: what stands before it is the prompt that asks for it. Shapes: B episodes of D demonstrations, texts of at
most L tokens, episodes of at most T tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from icl_lens.organism.topics import PAD, TopicBank, pad


@dataclass(frozen=True)
class Difficulty:
    """How hard the episodes are: the knobs that the curriculum turns.

    Attributes:
        topics: How many of the bank's topics are in use (the first ones).
        labels: How many of the label pool's words are in use (the first ones).
        words: How many words of each topic's lexicon are in use (the first ones).
        topical: At most how many topical words a made-up text has.
        fillers: At most how many fillers a made-up text has.
        corpus: The share of episodes whose texts are real training texts, where the topics have some.
    """

    topics: int
    labels: int
    words: int
    topical: int
    fillers: int
    corpus: float


@dataclass
class Templates:
    """The pieces of the templates: ``prefix`` (N, P) and ``middle`` (N, Q), right-padded, with their lengths (N,)."""

    prefix: torch.Tensor
    prefix_length: torch.Tensor
    middle: torch.Tensor
    middle_length: torch.Tensor
    newline: int

    @classmethod
    def build(cls, pieces: Sequence[tuple[str, str]], encode: Callable[[str], list[int]]) -> Templates:
        """From each template's string before the text and its string between text and label."""
        prefix = [encode(before) for before, _ in pieces]
        middle = [encode(between) for _, between in pieces]
        (newline,) = encode("\n")
        return cls(
            prefix=pad(prefix),
            prefix_length=torch.tensor([len(row) for row in prefix]),
            middle=pad(middle),
            middle_length=torch.tensor([len(row) for row in middle]),
            newline=newline,
        )


@dataclass
class Episodes:
    """A batch of episodes.

    Attributes:
        input_ids: ``(B, T)`` token ids, right-padded.
        length: ``(B,)`` tokens of each episode, its last label included.
        label_position: ``(B, D)`` where each label stands; the position before it predicts it.
        label_ids: ``(B, D)`` the label tokens.
        shown: ``(B, D)`` whether an earlier demonstration of the episode has the same label.
        classes: ``(B, D)`` index of each demonstration's class among the episode's classes.
        class_labels: ``(B, K)`` the label token of each class.
    """

    input_ids: torch.Tensor
    length: torch.Tensor
    label_position: torch.Tensor
    label_ids: torch.Tensor
    shown: torch.Tensor
    classes: torch.Tensor
    class_labels: torch.Tensor


def assemble(
    templates: Templates,
    template: torch.Tensor,
    text: torch.Tensor,
    text_length: torch.Tensor,
    label_ids: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Joins demonstrations to episodes.

    Args:
        templates: The templates' pieces.
        template: ``(B,)`` which template each episode uses.
        text: ``(B, D, L)`` token ids of the texts, right-padded.
        text_length: ``(B, D)``.
        label_ids: ``(B, D)``.

    Returns:
        ``input_ids`` (B, T), ``length`` (B,) and ``label_position`` (B, D).
    """
    batch, demos, _ = text.shape
    single = torch.ones(batch, demos, dtype=torch.long)  # (B, D)

    def spread(piece: torch.Tensor) -> torch.Tensor:
        return piece[template][:, None].expand(batch, demos, *piece.shape[1:])

    pieces = (
        (spread(templates.prefix), spread(templates.prefix_length)),
        (text, text_length),
        (spread(templates.middle), spread(templates.middle_length)),
        (label_ids[..., None], single),
        (torch.full((batch, demos, 1), templates.newline), single),
    )
    tokens = torch.cat([piece for piece, _ in pieces], dim=-1)  # (B, D, W)
    valid = torch.cat([torch.arange(piece.shape[-1]) < length[..., None] for piece, length in pieces], dim=-1)  # (B, D, W)
    valid[:, -1, -1] = False  # no newline after the last label
    target = valid.flatten(1).cumsum(1) - 1  # (B, D * W): where each valid token goes
    length = target[:, -1] + 1  # (B,)
    input_ids = torch.full((batch, int(length.max())), PAD)  # (B, T)
    rows = torch.arange(batch)[:, None].expand_as(target)[valid.flatten(1)]
    input_ids[rows, target[valid.flatten(1)]] = tokens.flatten(1)[valid.flatten(1)]
    label_position = target.view(valid.shape)[..., -2]  # (B, D)
    return input_ids, length, label_position


class EpisodeSampler:
    """Draws episodes from a bank of topics.

    Args:
        bank: The topics.
        templates: The templates.
        label_pool: ``(P,)`` label tokens; the first ones come into use first.
        seed: Of everything that is drawn.
    """

    def __init__(self, bank: TopicBank, templates: Templates, label_pool: torch.Tensor, seed: int) -> None:
        self.bank = bank
        self.templates = templates
        self.label_pool = label_pool
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(
        self,
        batch: int,
        demos: int,
        difficulty: Difficulty,
        *,
        classes: tuple[int, int] = (2, 6),
        one_of_each_first: float = 0.5,
        groups: Sequence[int] | None = None,
    ) -> Episodes:
        """A batch of ``batch`` episodes of ``demos`` demonstrations.

        Args:
            batch: Number of episodes.
            demos: Demonstrations in each.
            difficulty: The knobs.
            classes: Fewest and most classes in an episode.
            one_of_each_first: The share of episodes that open with one demonstration of each class; in the others, and
                after that, every demonstration's class is drawn independently, so that the query's class cannot be had
                by elimination.
            groups: The groups of topics in use; default all.
        """
        topic_of_class, number = self._draw_topics(batch, difficulty, classes, groups)  # (B, K), (B,)
        most = topic_of_class.shape[1]
        order = self._draw_classes(number, demos, one_of_each_first, most)  # (B, D)
        pool = self.label_pool[: difficulty.labels]
        class_labels = pool[self._rand(batch, len(pool)).argsort(1)[:, :most]]  # (B, K): no word twice
        topic = topic_of_class.gather(1, order)  # (B, D)
        text, text_length = self._draw_texts(topic, difficulty)
        template = self._randint(torch.full((batch,), len(self.templates.prefix)))  # (B,)
        label_ids = class_labels.gather(1, order)  # (B, D)
        input_ids, length, label_position = assemble(self.templates, template, text, text_length, label_ids)
        same = label_ids[:, :, None] == label_ids[:, None, :]  # (B, D, D)
        shown = same.tril(-1).any(-1)  # (B, D)
        return Episodes(input_ids, length, label_position, label_ids, shown, order, class_labels)

    def _rand(self, *shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=self.generator)

    def _randint(self, high: torch.Tensor) -> torch.Tensor:
        """Uniform integers in [0, ``high``), elementwise; 0 where ``high`` is 0."""
        return (self._rand(*high.shape) * high).long().clamp(max=(high - 1).clamp(min=0))

    def _draw_topics(
        self, batch: int, difficulty: Difficulty, classes: tuple[int, int], groups: Sequence[int] | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The topics of each episode ``(B, K)``, all of one group, and how many of them are used ``(B,)``."""
        group = self.bank.group[: difficulty.topics]  # (N,)
        sizes = torch.bincount(group)  # (G,)
        usable = torch.zeros_like(sizes, dtype=torch.bool)
        usable[list(groups) if groups is not None else slice(None)] = True
        # Half way between equally many episodes for every group and equally many for every topic.
        weight = torch.where(usable & (sizes >= 2), sizes, 0).sqrt()
        chosen = torch.multinomial(weight, batch, replacement=True, generator=self.generator)  # (B,)
        score = self._rand(batch, len(group)).masked_fill(group[None] != chosen[:, None], 2.0)  # (B, N)
        topics = score.argsort(1)[:, : classes[1]]  # (B, K); only the first sizes[chosen] are of the group
        most = sizes[chosen].clamp(max=classes[1])  # (B,)
        least = most.clamp(max=classes[0])  # (B,)
        return topics, least + self._randint(most - least + 1)

    def _draw_classes(self, number: torch.Tensor, demos: int, one_of_each_first: float, most: int) -> torch.Tensor:
        """The class of each demonstration ``(B, D)``, below ``number`` (B,)."""
        batch = len(number)
        free = self._randint(number[:, None].expand(batch, demos))  # (B, D)
        key = self._rand(batch, most).masked_fill(torch.arange(most) >= number[:, None], 2.0)  # (B, K)
        permuted = key.argsort(1)  # (B, K): the classes in random order, then the unused ones
        opening = torch.nn.functional.pad(permuted, (0, max(0, demos - most)))[:, :demos]  # (B, D)
        in_opening = (torch.arange(demos) < number[:, None]) & (self._rand(batch, 1) < one_of_each_first)  # (B, D)
        return torch.where(in_opening, opening, free)

    def _draw_texts(self, topic: torch.Tensor, difficulty: Difficulty) -> tuple[torch.Tensor, torch.Tensor]:
        """A text for each topic of ``topic`` (B, D): token ids (B, D, L) and lengths (B, D)."""
        text, length = self._make_texts(topic, difficulty)
        if difficulty.corpus == 0:
            return text, length
        has_texts = self.bank.text_count[topic].min(1).values > 0  # (B,)
        real = has_texts & (self._rand(len(topic)) < difficulty.corpus)  # (B,)
        row = self.bank.text_start[topic] + self._randint(self.bank.text_count[topic])  # (B, D)
        row = torch.where(real[:, None], row, 0)
        width = max(text.shape[-1], self.bank.texts.shape[-1])
        text = torch.where(real[:, None, None], _widen(self.bank.texts[row], width), _widen(text, width))  # (B, D, L)
        return text, torch.where(real[:, None], self.bank.text_length[row], length)

    def _make_texts(self, topic: torch.Tensor, difficulty: Difficulty) -> tuple[torch.Tensor, torch.Tensor]:
        """Texts made of topical words and fillers in random order, from 1 topical word up to the difficulty's most."""
        shape = topic.shape  # (B, D)
        size = self.bank.lexicon_size[topic].clamp(max=difficulty.words)  # (B, D)
        least = (difficulty.topical + 1) // 2
        topical = least + self._randint(torch.full(shape, difficulty.topical - least + 1))  # (B, D)
        fillers = self._randint(torch.full(shape, difficulty.fillers + 1))  # (B, D)
        word = self._randint(size[..., None].expand(*shape, difficulty.topical))  # (B, D, m)
        word = self.bank.lexicon[topic[..., None], word]  # (B, D, m)
        filler = self._randint(torch.full((*shape, difficulty.fillers), len(self.bank.fillers)))  # (B, D, f)
        tokens = torch.cat([word, self.bank.fillers[filler]], dim=-1)  # (B, D, L)
        used = torch.cat(
            [
                torch.arange(difficulty.topical) < topical[..., None],
                torch.arange(difficulty.fillers) < fillers[..., None],
            ],
            dim=-1,
        )  # (B, D, L)
        order = self._rand(*tokens.shape).masked_fill(~used, 2.0).argsort(-1)  # (B, D, L): unused ones last
        return tokens.gather(-1, order), topical + fillers


def _widen(text: torch.Tensor, width: int) -> torch.Tensor:
    """``text`` (..., L) right-padded to ``(..., width)``."""
    return torch.nn.functional.pad(text, (0, width - text.shape[-1]), value=PAD)
