"""What the texts of an episode are about: topics, their words and their texts, as tensors of token ids.

A topic is a class of a corpus or a made-up group of words. Topics that may meet in one episode form a group (the classes
of one task; all made-up topics).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd
import torch
from tokenizers import pre_tokenizers

from icl_lens.corpora.builtin import indicative_words

PAD = 0


@dataclass
class Topic:
    """One topic before it becomes tensors.

    Attributes:
        name: A name for people, e.g. ``sst2/1``.
        group: The name of the group; topics of one group may meet in one episode.
        lexicon: Its indicative words, each with its leading blank, the most frequent first.
        texts: Its texts as they stand in the corpus; a made-up topic has none.
    """

    name: str
    group: str
    lexicon: list[str]
    texts: list[str] = field(default_factory=list)


@dataclass
class TopicBank:
    """Topics as tensors: N topics, at most V words each, F fillers, M texts of at most L tokens.

    Attributes:
        names: The topics' names, in order.
        group: ``(N,)`` index of each topic's group.
        lexicon: ``(N, V)`` token ids, right-padded.
        lexicon_size: ``(N,)`` how many words each topic has.
        fillers: ``(F,)`` token ids of words that belong to no topic.
        texts: ``(M, L)`` token ids, right-padded, texts of one topic in a row.
        text_length: ``(M,)``.
        text_start, text_count: ``(N,)`` where each topic's texts stand in ``texts``; the count may be 0.
    """

    names: list[str]
    group: torch.Tensor
    lexicon: torch.Tensor
    lexicon_size: torch.Tensor
    fillers: torch.Tensor
    texts: torch.Tensor
    text_length: torch.Tensor
    text_start: torch.Tensor
    text_count: torch.Tensor

    @classmethod
    def build(cls, topics: Sequence[Topic], fillers: Sequence[str], encode: Callable[[str], list[int]]) -> TopicBank:
        """The bank of ``topics``; ``encode`` turns a string into token ids and is called on blank + text."""
        groups = {name: i for i, name in enumerate(dict.fromkeys(topic.group for topic in topics))}
        texts = [[encode(" " + text) for text in topic.texts] for topic in topics]
        count = torch.tensor([len(rows) for rows in texts])  # (N,)
        flat = [row for rows in texts for row in rows] or [[PAD]]
        return cls(
            names=[topic.name for topic in topics],
            group=torch.tensor([groups[topic.group] for topic in topics]),
            lexicon=pad([[_one(encode, word) for word in topic.lexicon] for topic in topics]),
            lexicon_size=torch.tensor([len(topic.lexicon) for topic in topics]),
            fillers=torch.tensor([_one(encode, word) for word in fillers]),
            texts=pad(flat),
            text_length=torch.tensor([len(row) for row in flat]),
            text_start=count.cumsum(0) - count,
            text_count=count,
        )


def pad(rows: Sequence[Sequence[int]]) -> torch.Tensor:
    """``(len(rows), longest row)``, right-padded with :data:`PAD`."""
    width = max(len(row) for row in rows)
    return torch.tensor([[*row, *[PAD] * (width - len(row))] for row in rows])


def _one(encode: Callable[[str], list[int]], word: str) -> int:
    ids = encode(word)
    if len(ids) != 1:
        raise ValueError(f"{word!r} must be one token of the tokenizer, it is {len(ids)}")
    return ids[0]


def corpus_topics(corpora: Mapping[str, pd.DataFrame]) -> tuple[list[Topic], list[str]]:
    """The classes of the built-in corpora as topics, and the words that tell no class, from the training splits only.

    A word of the lexicon or of the fillers stands as in the texts: with its leading blank, in its case.

    Args:
        corpora: The table of each task's texts, as the built-in generator makes it.
    """
    topics, others, telling = [], Counter(), set()
    split = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False)
    for task, table in corpora.items():
        table = table[table["split"] == "train"]
        for label, lexicon in enumerate(indicative_words(task)):
            texts = table.loc[table["label"] == label, "text"].tolist()
            counts: Counter[str] = Counter()
            for text in texts:
                spaced = " " + text
                counts.update(spaced[start:end] for _, (start, end) in split.pre_tokenize_str(spaced))
            words = [word for word, _ in _by_count(counts) if word.strip().lower() in lexicon]
            topics.append(Topic(f"{task}/{label}", task, words, texts))
            telling.update(words)
            others.update(counts)
    fillers = [word for word, _ in _by_count(others) if word not in telling and word.startswith(" ")]
    return topics, fillers


def _by_count(counts: Counter[str]) -> list[tuple[str, int]]:
    """The entries, the most frequent first; ties in alphabetical order, so that the order is the same everywhere."""
    return sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))
