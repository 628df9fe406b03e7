"""From characters to tokens: where the anchors of a tokenised prompt are, read in context and checked against the text.

A label word's anchor is its first token (the released code does the same: of " Abbreviation" only " Ab" counts). Nothing is
looked up by tokenising a word alone: the anchors come from the prompt's own token offsets, and the ids that stand for the
classes are those that follow the prompt's last colon when a label word is written there.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd
from transformers import PreTrainedTokenizerBase

from icl_lens.errors import InputError

logger = logging.getLogger(__name__)

# Whether a beginning-of-sequence token is put before a prompt; "auto" does as the tokenizer does by itself.
Bos = Literal["auto"] | bool


@dataclass(frozen=True)
class TokenizedPrompt:
    """One prompt as a model reads it; positions count from 0 and include a beginning-of-sequence token if there is one.

    Attributes:
        prompt_id: From the prompts table.
        ids: Token ids, shape (T,).
        anchors: Position of each demonstration's label word (its first token), shape (D,).
        demo_labels: Class index of each demonstration, shape (D,).
        label_ids: For each class, the id of the token that names it after the query, shape (C,).
        gold: The query's class index.
        unknown: How many of the ids are the tokenizer's unknown token.
        seed: The seed that drew the prompt.
        text: What was tokenised.
        spans: Each token's [start, end) characters of the text, shape (T, 2); a beginning-of-sequence token that is not written
            in the text has none, [0, 0).
        text_spans: [start, end) characters of each demonstration's text, shape (D, 2).
        label_spans: [start, end) characters of each demonstration's label word, leading blank included, shape (D, 2).
        query_span: [start, end) characters of the query's text, shape (2,).
    """

    prompt_id: int
    ids: np.ndarray
    anchors: np.ndarray
    demo_labels: np.ndarray
    label_ids: np.ndarray
    gold: int
    unknown: int
    seed: int
    text: str
    spans: np.ndarray
    text_spans: np.ndarray = field(default_factory=lambda: np.empty((0, 2), dtype=np.int64))
    label_spans: np.ndarray = field(default_factory=lambda: np.empty((0, 2), dtype=np.int64))
    query_span: np.ndarray = field(default_factory=lambda: np.zeros(2, dtype=np.int64))

    @property
    def last(self) -> int:
        """The position that predicts the label: the last token, q in the paper."""
        return len(self.ids) - 1


def tokenize(prompts: pd.DataFrame, tokenizer: PreTrainedTokenizerBase, bos: Bos = "auto") -> list[TokenizedPrompt]:
    """Tokenise a prompts table and find every anchor.

    Args:
        prompts: A prompts table; of its columns prompt_id, text, gold, label_words, demo_labels and the spans but for
            prefix_spans are read.
        tokenizer: A fast tokenizer.
        bos: Whether a beginning-of-sequence token is put first; never a second one, where the text itself begins with it (chat
            templates write it). "auto" follows the tokenizer.

    Raises:
        InputError: The tokenizer has no beginning-of-sequence token to put, or the text begins with an unwanted one; a span is
            not where its label word is, a label word does not begin or end with a token, is unknown to the tokenizer, is read
            differently in a demonstration and after the query, or two share their first token; or the table is not in order
            otherwise (ids that stand twice, class indices without a label word, ...).
    """
    twice = prompts["prompt_id"][prompts["prompt_id"].duplicated()]
    if len(twice):
        raise InputError(f"prompt_id {twice.iloc[0]} stands twice in the prompts table; it must name one prompt")
    beginning = _beginning(tokenizer, bos)
    label_ids: dict[tuple[str, ...], np.ndarray] = {}
    result = []
    encodings = tokenizer(prompts["text"].tolist(), add_special_tokens=False, return_offsets_mapping=True)
    for row, ids, offsets in zip(
        prompts.itertuples(index=False), encodings["input_ids"], encodings["offset_mapping"], strict=True
    ):
        words = tuple(row.label_words)
        place = f"prompt {row.prompt_id}"
        _check(place, row, words)
        before = _before(place, ids, tokenizer, bos, beginning)
        if words not in label_ids:
            label_ids[words] = _label_ids(place, row.text, ids, words, tokenizer)
        edges = np.array(offsets, dtype=np.int64).reshape(-1, 2)  # (T, 2)
        anchors = []
        for label, (start, end) in zip(row.demo_labels, row.label_spans, strict=True):
            if row.text[start:end] != words[label]:
                raise InputError(
                    f"{place}: characters {start} to {end} are {row.text[start:end]!r}, not the label word {words[label]!r}"
                )
            anchor = _anchor(place, edges, start, end, words[label])
            if ids[anchor] != label_ids[words][label]:
                raise InputError(
                    f"{place}: the tokenizer reads the label word {words[label]!r} as "
                    f"{tokenizer.decode([ids[anchor]])!r} in a demonstration but as "
                    f"{tokenizer.decode([label_ids[words][label]])!r} after the query, so no token stands for the class"
                )
            anchors.append(anchor + len(before))
        result.append(
            TokenizedPrompt(
                prompt_id=int(row.prompt_id),
                ids=np.array(before + ids, dtype=np.int64),
                anchors=np.array(anchors, dtype=np.int64),
                demo_labels=np.array(row.demo_labels, dtype=np.int64),
                label_ids=label_ids[words],
                gold=int(row.gold),
                unknown=0 if tokenizer.unk_token_id is None else ids.count(tokenizer.unk_token_id),
                seed=int(row.seed),
                text=row.text,
                spans=np.concatenate([np.zeros((len(before), 2), dtype=np.int64), edges]),
                text_spans=_spans(row.text_spans),
                label_spans=_spans(row.label_spans),
                query_span=np.array(row.query_span, dtype=np.int64),
            )
        )
    return result


def encode(prompts: pd.DataFrame, tokenizer: PreTrainedTokenizerBase, bos: Bos = "auto") -> list[TokenizedPrompt]:
    """Tokenise prompts that have no label words: no anchors, no classes.

    Args:
        prompts: One row a prompt; prompt_id, text and seed are read.
        tokenizer: A fast tokenizer.
        bos: As in :func:`tokenize`.

    Raises:
        InputError: The tokenizer has no beginning-of-sequence token to put, or the text begins with an unwanted one.
    """
    beginning, nothing = _beginning(tokenizer, bos), np.empty(0, dtype=np.int64)
    encodings = tokenizer(prompts["text"].tolist(), add_special_tokens=False, return_offsets_mapping=True)
    result = []
    for row, ids, offsets in zip(
        prompts.itertuples(index=False), encodings["input_ids"], encodings["offset_mapping"], strict=True
    ):
        before = _before(f"prompt {row.prompt_id}", ids, tokenizer, bos, beginning)
        result.append(
            TokenizedPrompt(
                prompt_id=int(row.prompt_id),
                ids=np.array(before + ids, dtype=np.int64),
                anchors=nothing,
                demo_labels=nothing,
                label_ids=nothing,
                gold=0,
                unknown=0 if tokenizer.unk_token_id is None else ids.count(tokenizer.unk_token_id),
                seed=int(row.seed),
                text=row.text,
                spans=np.array([(0, 0)] * len(before) + list(offsets), dtype=np.int64),
            )
        )
    return result


def tokens_of(prompt: TokenizedPrompt, spans: Any) -> np.ndarray:
    """Positions of the tokens of some stretches of text, ascending.

    A token belongs to a stretch when it holds one of its characters that is no blank: a token that begins with the blank before
    the stretch is its own, and so is one that it shares with the mark behind it.

    Args:
        prompt: The prompt.
        spans: [start, end) characters of its text.
    """
    inside = np.zeros(len(prompt.text) + 1, dtype=np.int64)
    for start, end in spans:
        for character in range(start, end):
            inside[character + 1] = not prompt.text[character].isspace()
    before = inside.cumsum()  # (characters + 1,): how many such characters come before each place
    return np.flatnonzero(before[prompt.spans[:, 1]] > before[prompt.spans[:, 0]])


def _before(place: str, ids: list[int], tokenizer: PreTrainedTokenizerBase, bos: Bos, beginning: list[int]) -> list[int]:
    """What is put before a prompt's tokens: the beginning-of-sequence token, unless the text begins with it."""
    written = len(ids) > 0 and ids[0] == tokenizer.bos_token_id
    if written and bos is False:
        raise InputError(
            f"{place}: no beginning-of-sequence token is wanted (bos: no), but the text begins with one, "
            f"{tokenizer.bos_token!r}, as chat templates write it"
        )
    return [] if written else beginning


def _spans(spans: Any) -> np.ndarray:
    """[start, end) pairs of a table's cell, shape (n, 2)."""
    return np.array([list(span) for span in spans], dtype=np.int64).reshape(-1, 2)


def _check(place: str, row: Any, words: tuple[str, ...]) -> None:
    """What a prompts table may have wrong that its columns' types do not tell."""
    if not 0 <= row.gold < len(words) or any(not 0 <= label < len(words) for label in row.demo_labels):
        raise InputError(f"{place}: a class index is outside its {len(words)} label words")
    if len(row.demo_labels) != len(row.label_spans):
        raise InputError(f"{place}: {len(row.demo_labels)} demo_labels, but {len(row.label_spans)} label_spans")
    if any(len(span) != 2 for span in row.label_spans):
        raise InputError(f"{place}: a label span is not a [start, end) pair of characters")
    if not row.text.strip():
        raise InputError(f"{place}: its text is empty")
    if row.text.endswith(words):
        raise InputError(f"{place}: its text ends with a label word, where the model's answer should come")


def _beginning(tokenizer: PreTrainedTokenizerBase, bos: Bos) -> list[int]:
    """The beginning-of-sequence token, in a list, if one is to be put first; never an end-of-sequence token."""
    if bos == "auto":
        first = tokenizer("a")["input_ids"][:1]
        return first if first and first[0] == tokenizer.bos_token_id else []
    if bos and tokenizer.bos_token_id is None:
        raise InputError("a beginning-of-sequence token is wanted (bos: yes), but the tokenizer has none")
    return [tokenizer.bos_token_id] if bos else []


def _anchor(place: str, offsets: np.ndarray, start: int, end: int, word: str) -> int:
    """Position of the first token of the label word at characters [start, end); offsets are [start, end) too, shape (T, 2)."""
    first, stop = offsets.T  # (T,) each
    # Families differ in whether a token's offsets hold its leading blank, so a token belongs to the word when it ends inside
    # it: the blank is then the word's, wherever the tokenizer counts it.
    tokens = np.flatnonzero((start < stop) & (stop <= end))
    spill = (first < end) & (end < stop)  # (T,)
    if not len(tokens) or spill.any() or first[tokens[0]] < start:
        raise InputError(f"{place}: the label word {word!r} at character {start} shares a token with the text around it")
    return int(tokens[0])


def _label_ids(place: str, text: str, ids: list[int], words: tuple[str, ...], tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    """The token that names each class when its label word is written after the prompt, shape (C,)."""
    found: dict[int, str] = {}
    for word in words:
        longer = tokenizer(text + word, add_special_tokens=False)["input_ids"]
        if longer[: len(ids)] != ids or len(longer) == len(ids):
            raise InputError(f"{place}: the label word {word!r} changes how the tokenizer reads the prompt before it")
        pieces = longer[len(ids) :]
        if tokenizer.unk_token_id is not None and tokenizer.unk_token_id in pieces:
            raise InputError(f"the tokenizer does not know the label word {word!r}; choose another word or another model")
        first = pieces[0]
        if first in found:
            raise InputError(
                f"the label words {found[first]!r} and {word!r} begin with the same token {tokenizer.decode([first])!r}, "
                "so a prediction could not tell them apart; choose other label words"
            )
        found[first] = word
        if len(pieces) > 1:
            logger.info(
                "label word %r is %d tokens; its first, %r, is its anchor", word, len(pieces), tokenizer.decode([first])
            )
    return np.array(list(found), dtype=np.int64)
