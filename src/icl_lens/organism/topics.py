"""Topics of an episode's texts, with their words and texts as tensors of token ids.

A topic is a class of a corpus or a made-up group of words. Topics that can occur in the same episode form a group: the classes
of one task, or all made-up topics.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd
import torch
from tokenizers import pre_tokenizers

PAD = 0

# A word is indicative of a class if it occurs in at least FEWEST_OCCURRENCES training texts and at least TELLING_SHARE of its
# occurrences would be in that class if all classes were equally frequent.
FEWEST_OCCURRENCES = 5
TELLING_SHARE = 0.8


@dataclass
class Topic:
    """One topic, before conversion to tensors.

    Attributes:
        name: Readable name, for example ``sst2/1``.
        group: Name of the group. Topics of one group can occur in the same episode.
        lexicon: Indicative words, each with a leading space, the most frequent first.
        texts: Texts of the topic as in the corpus; empty for a made-up topic.
        labelled: Whether the topic can occur in a labelled episode. Otherwise, it occurs as plain text only.
    """

    name: str
    group: str
    lexicon: list[str]
    texts: list[str] = field(default_factory=list)
    labelled: bool = True


@dataclass
class TopicBank:
    """Topics as tensors: N topics with at most V words each, F fillers, and M texts of at most L tokens.

    Attributes:
        names: Names of the topics, in order.
        group: Index of each topic's group, shape (N,).
        labelled: Whether each topic can occur in a labelled episode, shape (N,).
        lexicon: Token ids of each topic's words, right-padded, shape (N, V).
        lexicon_size: Number of words of each topic, shape (N,).
        fillers: Token ids of words that belong to no topic, shape (F,).
        texts: Token ids of the texts, right-padded, shape (M, L). The texts of one topic are consecutive.
        text_length: Number of tokens of each text, shape (M,).
        text_start, text_count: Index of each topic's first text in ``texts`` and the number of its texts, shape (N,). The
            number can be 0.
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
        """Build the bank from topics.

        Args:
            topics: The topics, in the order of their indices.
            fillers: Words that belong to no topic.
            encode: Function that converts a string to token ids. Texts are encoded with a leading space.
            longest: Maximum number of tokens of a text. Longer texts are excluded.
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
    """Right-pad rows with :data:`PAD` to a tensor of shape (number of rows, length of the longest row)."""
    width = max((len(row) for row in rows), default=0)
    return torch.tensor([[*row, *[PAD] * (width - len(row))] for row in rows])


def _one(encode: Callable[[str], list[int]], word: str) -> int:
    ids = encode(word)
    if len(ids) != 1:
        raise ValueError(f"{word!r} must be one token, but the tokenizer encodes it as {len(ids)}")
    return ids[0]


def pre_tokens(text: str) -> list[str]:
    """Split a text into words and marks, each with its leading space. A space is added before the first word."""
    split = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False)
    spaced = " " + text
    return [spaced[start:end] for _, (start, end) in split.pre_tokenize_str(spaced)]


def training_texts(table: pd.DataFrame) -> pd.DataFrame:
    """Return the training texts of a corpora table, without duplicates and without texts of the test split (TREC has some)."""
    train, test = table[table["split"] == "train"], table[table["split"] == "test"]
    return train[~train["text"].isin(test["text"])].drop_duplicates("text")


def corpus_topics(tables: Mapping[str, pd.DataFrame]) -> tuple[list[Topic], list[str]]:
    """Return the classes of the corpora as topics, and the filler words, which are not indicative of any class.

    Only the training splits are used. The words of the lexicons and the fillers are spelled as in the texts, with a leading
    space and with their case.

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
    """Return the entries, the most frequent first. Ties are in alphabetical order, so that the order is deterministic."""
    return sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))
