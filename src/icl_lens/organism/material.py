"""The material from which episodes are sampled: the tokenizer, the topics, the templates and the label pool."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd
import torch
from transformers import PreTrainedTokenizerFast

from icl_lens.errors import InputError
from icl_lens.organism.episodes import Templates, episode_length
from icl_lens.organism.recipe import Recipe
from icl_lens.organism.tokenizer import build_tokenizer
from icl_lens.organism.topics import Topic, TopicBank, corpus_topics, pre_tokens, training_texts
from icl_lens.organism.vocabulary import LABEL_WORDS, made_up_templates, made_up_topics, task_templates
from icl_lens.tasks.task import TASKS

log = logging.getLogger(__name__)

MADE_UP = "made-up"
PLAIN_TEXT = "plain text only"
"""Groups of made-up topics: those that occur in labelled episodes, and those that occur as plain text only."""


@dataclass
class Material:
    """The material from which episodes are sampled.

    Attributes:
        tokenizer: Tokenizer that encodes each label word, topical word and word or mark of a template as one token.
        bank: The topics.
        templates: The tasks' own templates, in the order of the tasks, followed by made-up ones.
        label_pool: Label tokens, shape (P,).
        label_weight: Relative sampling frequency of each label token, shape (P,). Label words differ in frequency, as words do
            in natural language, so that a model that has seen no demonstration makes the same guess for any text.
    """

    tokenizer: PreTrainedTokenizerFast
    bank: TopicBank
    templates: Templates
    label_pool: torch.Tensor
    label_weight: torch.Tensor

    @classmethod
    def build(cls, recipe: Recipe, tables: Mapping[str, pd.DataFrame]) -> Material:
        """Build the material from made-up topics and the training splits of the tasks' corpora.

        Args:
            recipe: The recipe.
            tables: The corpora table of each task.

        Raises:
            InputError: If there are too few training texts, if a task's training texts have fewer than two classes, or if the
                longest episode does not fit into the context.
        """
        episodes = recipe.episodes
        texts = [text for table in tables.values() for text in training_texts(table)["text"]]
        words = Counter(word for text in texts for word in pre_tokens(text))
        frequent = sorted(words, key=lambda word: (-words[word], word))[: recipe.vocabulary]
        topics, fillers = corpus_topics(tables)
        known = frozenset(word.strip().lower() for word in words)
        # An indicative word can be too rare to have its own token.
        whole = set(frequent)
        for topic in topics:
            topic.lexicon = [word for word in topic.lexicon if word in whole]
        fillers = [word for word in fillers if word in whole]
        if not fillers:
            raise InputError(
                f"organism: the training texts of {', '.join(tables)} contain no filler words for made-up texts (frequent "
                "words that do not indicate a class); add training texts"
            )
        made_up = made_up_topics(episodes.made_up_topics, episodes.made_up_words, seed=recipe.seed, avoid=known)
        for i, group in enumerate(made_up):
            labelled = i < episodes.made_up_topics - episodes.plain_text_topics
            kind = MADE_UP if labelled else PLAIN_TEXT
            topics.append(Topic(f"{kind}/{i}", kind, [f" {word}" for word in group], labelled=labelled))
        templates = [*task_templates(), *made_up_templates(episodes.made_up_templates, seed=recipe.seed)]
        tokenizer = build_tokenizer(
            [
                *LABEL_WORDS,
                *(piece for pieces in templates for piece in pieces),
                *frequent,
                *(f" {word}" for group in made_up for word in group),
            ],
            words,
            subwords=recipe.subwords,
            max_length=recipe.architecture.context,
        )

        def encode(text: str) -> list[int]:
            return tokenizer(text).input_ids

        rank = torch.randperm(len(LABEL_WORDS), generator=torch.Generator().manual_seed(recipe.seed))  # (P,)
        material = cls(
            tokenizer=tokenizer,
            bank=TopicBank.build(topics, fillers, encode, longest=episodes.longest_text),
            templates=Templates.build(templates, encode),
            label_pool=torch.tensor([encode(word)[0] for word in LABEL_WORDS]),  # (P,)
            label_weight=episodes.label_word_spread ** (-rank / (len(rank) - 1)),  # (P,): evenly spaced logarithms
        )
        for task in tables:
            material._require_classes(task, episodes.longest_text)
        material._require_room(recipe)
        return material

    def _require_classes(self, task: str, longest: int) -> None:
        """Check that at least two classes of a task have sufficiently short training texts.

        Raises:
            InputError: If fewer than two classes have such texts.
        """
        there = [i for i, name in enumerate(self.bank.names) if name.startswith(f"{task}/") and self.bank.text_count[i]]
        left = int(self.bank.text_count[there].sum())
        log.info("%s: %d training texts of at most %d tokens, of %d classes", task, left, longest, len(there))
        if len(there) < 2:
            words = [TASKS[task].label_words[int(self.bank.names[i].rpartition("/")[2])].strip() for i in there]
            raise InputError(
                f"corpus of {task}: the training texts of at most {longest} tokens have {len(there)} classes "
                f"({', '.join(words) or 'none'}), but at least 2 are needed; remove {task} from tasks, or increase "
                "organism.episodes.longest_text"
            )

    def _require_room(self, recipe: Recipe) -> None:
        """Check that the longest episode fits into the context.

        Raises:
            InputError: If it does not.
        """
        difficulties = recipe.curriculum.difficulties()
        made_up = max(d.topical + d.fillers for d in difficulties)
        real = int(self.bank.text_length.max()) if any(d.corpus for d in difficulties) else 0
        demonstrations = recipe.episodes.demonstrations[1]
        longest = episode_length(self.templates, demonstrations, max(made_up, real))
        if longest > recipe.architecture.context:
            raise InputError(
                f"organism: an episode of {demonstrations} demonstrations can have {longest} tokens, but the context has only "
                f"{recipe.architecture.context}; increase organism.architecture.context, or decrease "
                "organism.episodes.demonstrations or organism.episodes.longest_text"
            )


def content_hash(table: pd.DataFrame) -> str:
    """Return the SHA-256 of the splits, indices, texts and labels of a corpora table, independently of the file format."""
    return hashlib.sha256(table[["split", "index", "text", "label"]].to_csv(index=False).encode()).hexdigest()
