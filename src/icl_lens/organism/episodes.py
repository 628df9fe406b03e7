"""Sampling of prompts in the paper's format, assembled as tensors from token ids.

An episode is a sequence of demonstrations joined by separators. Each demonstration is ``prefix + text + middle + label``, for
example ``Review: {text}\\nSentiment:{label}``. The token ids are identical to those of the tokenized prompt string. Each label
is also a query: the tokens that precede it form its prompt. Shapes: B episodes of D demonstrations, texts of at most L tokens,
episodes of at most T tokens.
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
    """The pieces of N templates as token ids, right-padded.

    Attributes:
        prefix: Tokens before the text, shape (N, P).
        middle: Tokens between text and label, shape (N, Q).
        separator: Tokens after the label of each demonstration except the last, shape (N, S).
        prefix_length, middle_length, separator_length: Number of tokens of each piece, shape (N,).
    """

    prefix: torch.Tensor
    prefix_length: torch.Tensor
    middle: torch.Tensor
    middle_length: torch.Tensor
    separator: torch.Tensor
    separator_length: torch.Tensor

    @classmethod
    def build(cls, templates: Sequence[Pieces], encode: Callable[[str], list[int]]) -> Templates:
        """Build the templates from their strings.

        Args:
            templates: The strings of each template.
            encode: Function that converts a string to token ids.
        """
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
        input_ids: Token ids, right-padded, shape (B, T).
        length: Number of tokens of each episode, including the last label, shape (B,).
        label_position: Position of each label, shape (B, D). The model predicts a label at the preceding position.
        label_ids: Label tokens, shape (B, D).
        shown: Whether an earlier demonstration of the episode has the same label, shape (B, D).
        classes: Index of each demonstration's class among the episode's classes, shape (B, D).
        class_labels: Label token of each class, shape (B, K).
    """

    input_ids: torch.Tensor
    length: torch.Tensor
    label_position: torch.Tensor
    label_ids: torch.Tensor
    shown: torch.Tensor
    classes: torch.Tensor
    class_labels: torch.Tensor

    def to(self, device: torch.device) -> Episodes:
        """Move the episodes to a device.

        Episodes are always sampled on the CPU, so that they are the same for all devices.
        """
        return Episodes(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})


def episode_length(templates: Templates, demonstrations: int, longest_text: int) -> int:
    """Return the number of tokens of the longest episode: each text has maximum length and the template is the longest one."""
    pieces = int((templates.prefix_length + templates.middle_length + templates.separator_length).max())
    return demonstrations * (pieces + longest_text + 1)  # + 1 for the label


def prompt_lengths(templates: Templates, template: torch.Tensor, text_length: torch.Tensor) -> torch.Tensor:
    """Return the number of tokens of each prompt, including the query's label and a separator after it, shape (B,).

    Args:
        templates: The templates.
        template: Index of each prompt's template, shape (B,).
        text_length: Number of tokens of each text, including the query, shape (B, D).
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
    """Join demonstrations to episodes.

    Args:
        templates: The templates.
        template: Index of each episode's template, shape (B,).
        text: Token ids of the texts, right-padded, shape (B, D, L).
        text_length: Number of tokens of each text, shape (B, D).
        label_ids: Label tokens, shape (B, D).

    Returns:
        ``input_ids``, shape (B, T); ``length``, shape (B,); and ``label_position``, shape (B, D).
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
    valid[:, -1, valid.shape[-1] - separator :] = False  # no separator after the last label
    target = valid.flatten(1).cumsum(1) - 1  # (B, D * W): target position of each valid token
    length = target[:, -1] + 1  # (B,)
    input_ids = torch.full((batch, int(length.max())), PAD)  # (B, T)
    rows = torch.arange(batch)[:, None].expand_as(target)[valid.flatten(1)]
    input_ids[rows, target[valid.flatten(1)]] = tokens.flatten(1)[valid.flatten(1)]
    label_position = target.view(valid.shape)[..., -1 - separator]  # (B, D)
    return input_ids, length, label_position


class EpisodeSampler:
    """Sampler of episodes from a bank of topics.

    Args:
        bank: The topics. Only labelled topics occur in episodes.
        templates: The templates.
        label_pool: Label tokens, shape (P,).
        label_weight: Relative sampling frequency of each label token, shape (P,). It need not be normalised.
        seed: Random seed of the sampler.
        made_up_share: Among the episodes with made-up texts, the share about topics without corpus texts.
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
        # Documents are about made-up topics, which have a lexicon but no texts.
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
        """Sample a batch of episodes.

        Args:
            batch: Number of episodes.
            demos: Number of demonstrations per episode.
            difficulty: Difficulty of the episodes.
            classes: Minimum and maximum number of classes in an episode.
            one_of_each_first: Share of episodes that begin with one demonstration of each class. The class of each other
                demonstration is drawn independently, so that a query's class cannot be inferred by elimination.
        """
        real = (self._rand(batch) < difficulty.corpus) & self.has_texts.any()  # (B,)
        topic_of_class, number = self._draw_topics(real, classes)  # (B, K), (B,)
        most = topic_of_class.shape[1]
        order = self._draw_classes(number, demos, one_of_each_first, most)  # (B, D)
        # An exponential race samples without replacement, in proportion to the weights, so no two classes of an episode have
        # the same label word.
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
        """Sample plain text, with each document about one made-up topic, labelled or not.

        Args:
            batch: Number of documents.
            length: Number of words per document.
            topical: Probability that a word belongs to the topic. All other words are fillers.

        Returns:
            Token ids, shape (batch, length).
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
        """Sample uniform integers in [0, ``high``) for each element of ``high``; 0 where ``high`` is 0."""
        return (self._rand(*high.shape) * high).long().clamp(max=(high - 1).clamp(min=0))

    def _draw_topics(self, real: torch.Tensor, classes: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Sample the topics of each episode from one group.

        Args:
            real: Whether each episode has corpus texts, shape (B,).
            classes: Minimum and maximum number of classes in an episode.

        Returns:
            The topics of each episode, shape (B, K), and the number of topics in use (the first ones), shape (B,).
        """
        group, batch = self.bank.group, len(real)  # (N,)
        usable = self.bank.labelled & torch.where(real[:, None], self.has_texts, self.has_words)  # (B, N)
        groups = int(group.max()) + 1
        sizes = torch.zeros(batch, groups, dtype=torch.long).scatter_add_(1, group.expand(batch, -1), usable.long())  # (B, G)
        # A compromise between the same number of episodes for each group and the same number for each topic ...
        weight = torch.where(sizes >= 2, sizes, 0).sqrt()  # (B, G)
        # ... applied separately to the groups with texts and to the groups without texts.
        with_texts = torch.zeros(groups).index_fill_(0, group[self.has_texts], 1.0).bool()  # (G,)
        for kind, share in ((with_texts, 1 - self.made_up_share), (~with_texts, self.made_up_share)):
            total = (weight * kind).sum(1, keepdim=True)  # (B, 1)
            weight = torch.where(kind & (total > 0), weight / total.clamp(min=1e-9) * max(share, 1e-9), weight)  # (B, G)
        chosen = torch.multinomial(weight, 1, generator=self.generator)  # (B, 1)
        outside = (group != chosen) | ~usable  # (B, N)
        topics = self._rand(batch, len(group)).masked_fill(outside, 2.0).argsort(1)[:, : classes[1]]  # (B, K)
        most = sizes.gather(1, chosen).squeeze(1).clamp(max=classes[1])  # (B,): later topics are of another group
        least = most.clamp(max=classes[0])  # (B,)
        return topics, least + self._randint(most - least + 1)

    def _draw_classes(self, number: torch.Tensor, demos: int, one_of_each_first: float, most: int) -> torch.Tensor:
        """Sample the class of each demonstration, shape (B, D).

        Args:
            number: Number of classes of each episode, shape (B,).
            demos: Number of demonstrations per episode (D).
            one_of_each_first: Share of episodes that begin with one demonstration of each class.
            most: Maximum number of classes of an episode (K).
        """
        batch = len(number)
        free = self._randint(number[:, None].expand(batch, demos))  # (B, D)
        key = self._rand(batch, most).masked_fill(torch.arange(most) >= number[:, None], 2.0)  # (B, K)
        permuted = key.argsort(1)  # (B, K): the classes in random order, followed by the unused ones
        opening = torch.nn.functional.pad(permuted, (0, max(0, demos - most)))[:, :demos]  # (B, D)
        in_opening = (torch.arange(demos) < number[:, None]) & (self._rand(batch, 1) < one_of_each_first)  # (B, D)
        return torch.where(in_opening, opening, free)

    def _draw_texts(self, topic: torch.Tensor, real: torch.Tensor, difficulty: Difficulty) -> tuple[torch.Tensor, torch.Tensor]:
        """Sample a text for each demonstration.

        Args:
            topic: Topic of each demonstration, shape (B, D).
            real: Whether each episode has corpus texts, shape (B,). The other episodes have made-up texts.
            difficulty: Difficulty of the made-up texts.

        Returns:
            Token ids, shape (B, D, L), and lengths, shape (B, D).
        """
        text, length = self.make_texts(topic, difficulty)
        if not real.any():
            return text, length
        row = self.bank.text_start[topic] + self._randint(self.bank.text_count[topic])  # (B, D)
        row = torch.where(real[:, None], row, 0)  # (B, D)
        width = max(text.shape[-1], self.bank.texts.shape[-1])
        text = torch.where(real[:, None, None], _widen(self.bank.texts[row], width), _widen(text, width))  # (B, D, L)
        return text, torch.where(real[:, None], self.bank.text_length[row], length)

    def make_texts(self, topic: torch.Tensor, difficulty: Difficulty) -> tuple[torch.Tensor, torch.Tensor]:
        """Generate texts from topical words (at least half of ``difficulty.topical``) and fillers, in random order.

        Args:
            topic: Topic of each text, shape (B, D).
            difficulty: Difficulty of the texts.

        Returns:
            Token ids, shape (B, D, L), and lengths, shape (B, D).
        """
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
        order = self._rand(*tokens.shape).masked_fill(~used, 2.0).argsort(-1)  # (B, D, L): unused tokens last
        return tokens.gather(-1, order), topical + fillers


def _widen(text: torch.Tensor, width: int) -> torch.Tensor:
    """Right-pad ``text`` from shape (..., L) to shape (..., width)."""
    return torch.nn.functional.pad(text, (0, width - text.shape[-1]), value=PAD)
