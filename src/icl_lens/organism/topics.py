"""What the texts of an episode are about: topics, their words and their texts, as tensors of token ids.

A topic is a class of a corpus or a made-up group of words. Topics that may meet in one episode form a group (the classes of one
task; all made-up topics).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd
import torch
from tokenizers import pre_tokenizers

PAD = 0

# A word tells a class when it stands in so many training texts and, were all classes equally frequent, this share of its
# occurrences would be in that class.
FEWEST_OCCURRENCES = 5
TELLING_SHARE = 0.8


@dataclass
class Topic:
    """One topic before it becomes tensors.

    Attributes:
        name: A name for people, e.g. ``sst2/1``.
        group: The name of the group; topics of one group may meet in one episode.
        lexicon: Its indicative words, each with its leading blank, the most frequent first.
        texts: Its texts as they stand in the corpus; a made-up topic has none.
        labelled: Whether it may stand in a labelled episode; if not, it is seen as plain text only.
    """

    name: str
    group: str
    lexicon: list[str]
    texts: list[str] = field(default_factory=list)
    labelled: bool = True


@dataclass
class TopicBank:
    """Topics as tensors: N topics, at most V words each, F fillers, M texts of at most L tokens.

    Attributes:
        names: The topics' names, in order.
        group: ``(N,)`` index of each topic's group.
        labelled: ``(N,)`` whether the topic may stand in a labelled episode.
        lexicon: ``(N, V)`` token ids, right-padded.
        lexicon_size: ``(N,)`` how many words each topic has.
        fillers: ``(F,)`` token ids of words that belong to no topic.
        texts: ``(M, L)`` token ids, right-padded, texts of one topic in a row.
        text_length: ``(M,)``.
        text_start, text_count: ``(N,)`` where each topic's texts stand in ``texts``; the count may be 0.
    """

    names: list[str]
    group: torch.Tensor
    labelled: torch.Tensor
    lexicon: torch.Tensor
    lexicon_size: torch.Tensor
    fillers: torch.Tensor
    texts: torch.Tensor
    text_length: torch.Tensor
    text_start: torch.Tensor
    text_count: torch.Tensor

    @classmethod
    def build(
        cls,
        topics: Sequence[Topic],
        fillers: Sequence[str],
        encode: Callable[[str], list[int]],
        longest: int | None = None,
    ) -> TopicBank:
        """The bank of ``topics``.

        Args:
            topics: In the order of their indices.
            fillers: Words that belong to no topic.
            encode: Turns a string into token ids; it is called on blank + text.
            longest: Texts with more tokens are left out.
        """
        groups = {name: i for i, name in enumerate(dict.fromkeys(topic.group for topic in topics))}
        encoded = [[encode(" " + text) for text in topic.texts] for topic in topics]
        texts = [[row for row in rows if longest is None or len(row) <= longest] for rows in encoded]
        count = torch.tensor([len(rows) for rows in texts])  # (N,)
        flat = [row for rows in texts for row in rows] or [[PAD]]
        return cls(
            names=[topic.name for topic in topics],
            group=torch.tensor([groups[topic.group] for topic in topics]),
            labelled=torch.tensor([topic.labelled for topic in topics]),
            lexicon=pad([[_one(encode, word) for word in topic.lexicon] or [PAD] for topic in topics]),
            lexicon_size=torch.tensor([len(topic.lexicon) for topic in topics]),
            fillers=torch.tensor([_one(encode, word) for word in fillers], dtype=torch.long),
            texts=pad(flat),
            text_length=torch.tensor([len(row) for row in flat]),
            text_start=count.cumsum(0) - count,
            text_count=count,
        )


def pad(rows: Sequence[Sequence[int]]) -> torch.Tensor:
    """``(len(rows), longest row)``, right-padded with :data:`PAD`."""
    width = max((len(row) for row in rows), default=0)
    return torch.tensor([[*row, *[PAD] * (width - len(row))] for row in rows])


def _one(encode: Callable[[str], list[int]], word: str) -> int:
    ids = encode(word)
    if len(ids) != 1:
        raise ValueError(f"{word!r} must be one token of the tokenizer, it is {len(ids)}")
    return ids[0]


def pre_tokens(text: str) -> list[str]:
    """The words and marks of a text, each with its leading blank; the first word counts as having one."""
    split = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False)
    spaced = " " + text
    return [spaced[start:end] for _, (start, end) in split.pre_tokenize_str(spaced)]


def training_texts(table: pd.DataFrame) -> pd.DataFrame:
    """A corpora table's training texts, each once, less those that are also test texts (TREC has some)."""
    train, test = table[table["split"] == "train"], table[table["split"] == "test"]
    return train[~train["text"].isin(test["text"])].drop_duplicates("text")


def corpus_topics(tables: Mapping[str, pd.DataFrame]) -> tuple[list[Topic], list[str]]:
    """The classes of the corpora as topics, and the words that tell no class, from the training splits only.

    A word of the lexicon or of the fillers stands as in the texts: with its leading blank, in its case.

    Args:
        tables: The corpora table of each task.
    """
    topics: list[Topic] = []
    others: Counter[str] = Counter()
    telling: set[str] = set()
    for task, table in tables.items():
        table = training_texts(table)
        by_class = {label: rows["text"].tolist() for label, rows in table.groupby("label")}
        counts = {label: Counter(word for text in texts for word in set(pre_tokens(text))) for label, texts in by_class.items()}
        every = sum(counts.values(), Counter())
        others.update(every)
        for label, texts in by_class.items():
            words = []
            for word, _ in _by_count(counts[label]):
                rate = {other: counts[other][word] / len(by_class[other]) for other in by_class}
                common = every[word] >= FEWEST_OCCURRENCES and word.startswith(" ")
                if common and rate[label] >= TELLING_SHARE * sum(rate.values()):
                    words.append(word)
            topics.append(Topic(f"{task}/{label}", task, words, texts))
            telling.update(words)
    fillers = [
        word
        for word, count in _by_count(others)
        if count >= FEWEST_OCCURRENCES and word not in telling and word.startswith(" ")
    ]
    return topics, fillers


def _by_count(counts: Counter[str]) -> list[tuple[str, int]]:
    """The entries, the most frequent first; ties in alphabetical order, so that the order is the same everywhere."""
    return sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))
