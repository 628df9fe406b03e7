"""Prompts in the paper's format, assembled as tensors from token ids.

An episode is a row of demonstrations joined by newlines, each ``prefix + text + middle + label``, for instance
``Review: {text}\\nSentiment:{label}``. It is exactly what the tokenizer makes of the same prompt as a string. Every label is
also a query: what stands before it is the prompt that asks for it. Shapes: B episodes of D demonstrations, texts of at most L
tokens, episodes of at most T tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch

from icl_lens.organism.recipe import Difficulty
from icl_lens.organism.topics import PAD, TopicBank, pad
from icl_lens.organism.vocabulary import Pieces


@dataclass
class Templates:
    """The pieces of N templates, right-padded, with their lengths ``(N,)``.

    Attributes:
        prefix: ``(N, P)`` before the text.
        middle: ``(N, Q)`` between text and label.
        separator: ``(N, S)`` after the label of every demonstration but the last.
    """

    prefix: torch.Tensor
    prefix_length: torch.Tensor
    middle: torch.Tensor
    middle_length: torch.Tensor
    separator: torch.Tensor
    separator_length: torch.Tensor

    @classmethod
    def build(cls, templates: Sequence[Pieces], encode: Callable[[str], list[int]]) -> Templates:
        """From each template's strings; ``encode`` turns one into token ids."""
        tensors = {}
        for name in Pieces._fields:
            rows = [encode(getattr(pieces, name)) for pieces in templates]
            tensors[name] = pad(rows)
            tensors[f"{name}_length"] = torch.tensor([len(row) for row in rows])
        return cls(**tensors)


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

    def to(self, device: torch.device) -> Episodes:
        """The same on a device; drawing is the processor's work everywhere, so that every device sees the same episodes."""
        return Episodes(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})


def episode_length(templates: Templates, demonstrations: int, longest_text: int) -> int:
    """Tokens of the longest episode: every text as long as the longest, every demonstration in the longest template."""
    pieces = int((templates.prefix_length + templates.middle_length + templates.separator_length).max())
    return demonstrations * (pieces + longest_text + 1)  # with its label


def prompt_lengths(templates: Templates, template: torch.Tensor, text_length: torch.Tensor) -> torch.Tensor:
    """Tokens of each prompt ``(B,)``, a separator after the query and its label included.

    Args:
        templates: The templates.
        template: ``(B,)`` which of them each prompt uses.
        text_length: ``(B, D)`` tokens of its texts, the query's included.
    """
    pieces = (templates.prefix_length + templates.middle_length + templates.separator_length)[template]  # (B,)
    return (text_length + pieces[:, None] + 1).sum(1)


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
        (spread(templates.separator), spread(templates.separator_length)),
    )
    tokens = torch.cat([piece for piece, _ in pieces], dim=-1)  # (B, D, W)
    valid = torch.cat([torch.arange(piece.shape[-1]) < length[..., None] for piece, length in pieces], dim=-1)  # (B, D, W)
    separator = templates.separator.shape[1]
    valid[:, -1, valid.shape[-1] - separator :] = False  # none after the last label
    target = valid.flatten(1).cumsum(1) - 1  # (B, D * W): where each valid token goes
    length = target[:, -1] + 1  # (B,)
    input_ids = torch.full((batch, int(length.max())), PAD)  # (B, T)
    rows = torch.arange(batch)[:, None].expand_as(target)[valid.flatten(1)]
    input_ids[rows, target[valid.flatten(1)]] = tokens.flatten(1)[valid.flatten(1)]
    label_position = target.view(valid.shape)[..., -1 - separator]  # (B, D)
    return input_ids, length, label_position


class EpisodeSampler:
    """Draws episodes from a bank of topics.

    Args:
        bank: The topics; only those that are labelled stand in episodes.
        templates: The templates.
        label_pool: ``(P,)`` label tokens.
        label_weight: ``(P,)`` how often each is drawn, in any unit.
        seed: Of everything that is drawn.
        made_up_share: The share of the episodes of made-up texts that are about topics without texts of their own.
    """

    def __init__(
        self,
        bank: TopicBank,
        templates: Templates,
        label_pool: torch.Tensor,
        label_weight: torch.Tensor,
        seed: int,
        made_up_share: float = 0.5,
    ) -> None:
        self.bank = bank
        self.templates = templates
        self.label_pool = label_pool
        self.label_weight = label_weight
        self.made_up_share = made_up_share
        self.generator = torch.Generator().manual_seed(seed)
        # Documents are about made-up topics, which are made of nothing but their words.
        self.has_texts, self.has_words = bank.text_count > 0, bank.lexicon_size > 0  # (N,)
        self.document_topics = (self.has_words & ~self.has_texts).nonzero().squeeze(1)  # (M,)

    def __call__(
        self,
        batch: int,
        demos: int,
        difficulty: Difficulty,
        *,
        classes: tuple[int, int] = (2, 6),
        one_of_each_first: float = 0.5,
    ) -> Episodes:
        """A batch of ``batch`` episodes of ``demos`` demonstrations.

        Args:
            batch: Number of episodes.
            demos: Demonstrations in each.
            difficulty: The knobs.
            classes: Fewest and most classes in an episode.
            one_of_each_first: The share of episodes that open with one demonstration of each class; in the others, and after
                that, every demonstration's class is drawn independently, so that the query's class cannot be had by
                elimination.
        """
        real = (self._rand(batch) < difficulty.corpus) & self.has_texts.any()  # (B,)
        topic_of_class, number = self._draw_topics(real, classes)  # (B, K), (B,)
        most = topic_of_class.shape[1]
        order = self._draw_classes(number, demos, one_of_each_first, most)  # (B, D)
        # An exponential race draws without replacement, in proportion to the weights: no word stands for two classes.
        race = -self._rand(batch, len(self.label_pool)).clamp(min=1e-30).log() / self.label_weight  # (B, P)
        class_labels = self.label_pool[race.argsort(1)[:, :most]]  # (B, K)
        text, text_length = self._draw_texts(topic_of_class.gather(1, order), real, difficulty)
        template = self._randint(torch.full((batch,), len(self.templates.prefix)))  # (B,)
        if difficulty.noise:
            wrong = self._rand(batch, demos) < difficulty.noise  # (B, D)
            order = torch.where(wrong, self._randint(number[:, None].expand(batch, demos)), order)  # (B, D)
        label_ids = class_labels.gather(1, order)  # (B, D)
        input_ids, length, label_position = assemble(self.templates, template, text, text_length, label_ids)
        same = label_ids[:, :, None] == label_ids[:, None, :]  # (B, D, D)
        shown = same.tril(-1).any(-1)  # (B, D)
        return Episodes(input_ids, length, label_position, label_ids, shown, order, class_labels)

    def documents(self, batch: int, length: int, topical: float) -> torch.Tensor:
        """Plain text ``(batch, length)``, each row about one topic, labelled elsewhere or not.

        Args:
            batch: Number of documents.
            length: Words of each.
            topical: The share of words that are the topic's; the others are fillers.
        """
        shape = (batch, length)
        topic = self.document_topics[self._randint(torch.full((batch,), len(self.document_topics)))]  # (B,)
        word = self._randint(self.bank.lexicon_size[topic][:, None].expand(shape))  # (B, T)
        word = self.bank.lexicon[topic[:, None], word]  # (B, T)
        filler = self.bank.fillers[self._randint(torch.full(shape, len(self.bank.fillers)))]  # (B, T)
        return torch.where(self._rand(*shape) < topical, word, filler)

    def _rand(self, *shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=self.generator)

    def _randint(self, high: torch.Tensor) -> torch.Tensor:
        """Uniform integers in [0, ``high``), elementwise; 0 where ``high`` is 0."""
        return (self._rand(*high.shape) * high).long().clamp(max=(high - 1).clamp(min=0))

    def _draw_topics(self, real: torch.Tensor, classes: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
        """The topics of each episode ``(B, K)``, all of one group, and how many of them are used ``(B,)``.

        Args:
            real: ``(B,)`` whether the episode is made of a corpus's texts.
            classes: Fewest and most.
        """
        group, batch = self.bank.group, len(real)  # (N,)
        usable = self.bank.labelled & torch.where(real[:, None], self.has_texts, self.has_words)  # (B, N)
        groups = int(group.max()) + 1
        sizes = torch.zeros(batch, groups, dtype=torch.long).scatter_add_(1, group.expand(batch, -1), usable.long())  # (B, G)
        # Half way between equally many episodes for every group and equally many for every topic ...
        weight = torch.where(sizes >= 2, sizes, 0).sqrt()  # (B, G)
        # ... within the corpora, and within what is made up.
        with_texts = torch.zeros(groups).index_fill_(0, group[self.has_texts], 1.0).bool()  # (G,)
        for kind, share in ((with_texts, 1 - self.made_up_share), (~with_texts, self.made_up_share)):
            total = (weight * kind).sum(1, keepdim=True)  # (B, 1)
            weight = torch.where(kind & (total > 0), weight / total.clamp(min=1e-9) * max(share, 1e-9), weight)  # (B, G)
        chosen = torch.multinomial(weight, 1, generator=self.generator)  # (B, 1)
        outside = (group != chosen) | ~usable  # (B, N)
        topics = self._rand(batch, len(group)).masked_fill(outside, 2.0).argsort(1)[:, : classes[1]]  # (B, K)
        most = sizes.gather(1, chosen).squeeze(1).clamp(max=classes[1])  # (B,): the topics after these are of another group
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

    def _draw_texts(self, topic: torch.Tensor, real: torch.Tensor, difficulty: Difficulty) -> tuple[torch.Tensor, torch.Tensor]:
        """A text for each topic of ``topic`` (B, D): token ids (B, D, L) and lengths (B, D); real ones where ``real`` (B,)."""
        text, length = self.make_texts(topic, difficulty)
        if not real.any():
            return text, length
        row = self.bank.text_start[topic] + self._randint(self.bank.text_count[topic])  # (B, D)
        row = torch.where(real[:, None], row, 0)  # (B, D)
        width = max(text.shape[-1], self.bank.texts.shape[-1])
        text = torch.where(real[:, None, None], _widen(self.bank.texts[row], width), _widen(text, width))  # (B, D, L)
        return text, torch.where(real[:, None], self.bank.text_length[row], length)

    def make_texts(self, topic: torch.Tensor, difficulty: Difficulty) -> tuple[torch.Tensor, torch.Tensor]:
        """Texts made of topical words (at least half the difficulty's most) and fillers, in random order."""
        shape = topic.shape  # (B, D)
        size = self.bank.lexicon_size[topic].clamp(min=1, max=difficulty.words)  # (B, D)
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
