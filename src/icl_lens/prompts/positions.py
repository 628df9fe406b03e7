"""Tokenization of prompts, with the token positions of the anchors, checked against the text.

By default, the anchor of a label word is its first token, as in the released code: for " Abbreviation", only " Ab" counts. It
can also be the last token, or all tokens are anchors (``anchor``). No word is tokenized in isolation. The anchors are computed
from the token offsets in the prompt, and the token ids of each class are those that follow the last colon of the prompt when
the label word is appended to it.

A class is predicted by the first token of its label word, or by the whole word (``score``, see
:mod:`icl_lens.prompts.label_words`).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from transformers import PreTrainedTokenizerBase

from icl_lens.errors import InputError
from icl_lens.prompts import plain_text
from icl_lens.prompts.forms import Anchor, Bos, Score
from icl_lens.prompts.label_words import LabelWords
from icl_lens.short_repr import is_visible

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TokenizedPrompt:
    """A tokenized prompt. Positions count from 0 and include the BOS token if there is one.

    Attributes:
        prompt_id: The id of the prompt in the prompts table.
        ids: Token ids, shape (T,).
        anchors: Positions of the anchors, ascending, shape (A,): the first or the last token of the label word of each
            demonstration (A = D), or all its tokens.
        demo_labels: Class index of each demonstration, shape (D,).
        label_ids: Id of the first token of each class's label word after the query, shape (C,). It represents the class unless
            ``label_words`` is set.
        gold: Class index of the query.
        unknown: Number of ids that are the tokenizer's unknown token.
        seed: Seed with which the prompt was drawn.
        text: The tokenized text.
        spans: [start, end) characters of each token in the text, shape (T, 2). The span of a BOS token that is not written in
            the text is [0, 0).
        text_spans: [start, end) characters of each demonstration's text, shape (D, 2).
        label_spans: [start, end) characters of each demonstration's label word, including the leading space if the word has
            one in this prompt (:mod:`icl_lens.prompts.chat`), shape (D, 2).
        query_span: [start, end) characters of the query's text, shape (2,).
        label_tokens: [start, stop) positions of the tokens of each demonstration's label word, shape (D, 2).
        label_words: The tokens of the label words, if a class is predicted by its whole label word; otherwise None.
        turn_starts: First character of each demonstration and of the query if each is a turn of a chat
            (:func:`icl_lens.prompts.chat.as_turns`), shape (D + 1,); otherwise empty.
        data_spans: [start, end) characters of the text that no template wrote, shape (S, 2). Control tokens in it are plain
            text (:mod:`icl_lens.prompts.plain_text`).
        control: The control tokens in this part of the text, in order.
        query_index: Row of the query's text in its data; the prompt_id if the prompts table does not have it.
        place: Place among the prompts of the same seed in the prompts table, in ascending order of prompt_id, from 0. It does
            not depend on which of these prompts are run together.
        needed: Whether its results are needed. The other prompts only complete the batches of a shard
            (:mod:`icl_lens.studies.sharding`).
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
    label_tokens: np.ndarray = field(default_factory=lambda: np.empty((0, 2), dtype=np.int64))
    label_words: LabelWords | None = None
    turn_starts: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    data_spans: np.ndarray = field(default_factory=lambda: np.empty((0, 2), dtype=np.int64))
    control: tuple[str, ...] = ()
    query_index: int = -1
    place: int = 0
    needed: bool = True

    @property
    def last(self) -> int:
        """Position that predicts the label: the last token, q in the paper."""
        return len(self.ids) - 1

    @property
    def label_starts(self) -> np.ndarray:
        """Position of the first token of each demonstration's label word, shape (D,)."""
        return self.label_tokens[:, 0] if len(self.label_tokens) else self.anchors

    @property
    def anchor_demonstrations(self) -> np.ndarray:
        """Index of the demonstration of each anchor, shape (A,)."""
        return np.searchsorted(self.label_starts, self.anchors, side="right") - 1

    @property
    def anchor_classes(self) -> np.ndarray:
        """Class index of the demonstration of each anchor, shape (A,)."""
        return self.demo_labels[self.anchor_demonstrations]

    @property
    def anchor_starts(self) -> np.ndarray:
        """For each anchor, the first anchor of the same demonstration, shape (A,)."""
        return self.anchors[np.searchsorted(self.anchor_demonstrations, self.anchor_demonstrations)]

    @property
    def appended(self) -> int:
        """Largest number of tokens that the scores of the classes append to the prompt."""
        return self.label_words.longest if self.label_words else 0


def tokenize(
    prompts: pd.DataFrame,
    tokenizer: PreTrainedTokenizerBase,
    bos: Bos = "auto",
    score: Score = "first",
    anchor: Anchor = "first",
) -> list[TokenizedPrompt]:
    """Tokenize a prompts table and find all anchors.

    Control tokens such as ``<bos>`` in the texts of the demonstrations and the query are plain text
    (:mod:`icl_lens.prompts.plain_text`).

    Args:
        prompts: A prompts table. The function uses the columns prompt_id, seed, text, gold, label_words, demo_labels,
            label_spans, text_spans and query_span, and the column turn_starts of :func:`icl_lens.prompts.chat.as_turns` if
            there is one.
        tokenizer: A fast tokenizer.
        bos: Whether to prepend the BOS token. "auto" follows the tokenizer. No second BOS token is added if the text already
            begins with one, as chat templates write it.
        score: Whether a class is predicted by the first token of its label word (``first``) or by all its tokens (``whole``).
        anchor: Which tokens of the label words in the demonstrations are anchors.

    Raises:
        InputError: One of these errors occurs:

            - ``bos`` is True and the tokenizer has no BOS token, or ``bos`` is False and the text begins with one.
            - The characters of a label span are not the label word.
            - A label word shares a token with the surrounding text, is unknown to the tokenizer, or is tokenized differently in
              a demonstration and after the query.
            - A control token in a text cannot be tokenized as plain text.
            - Two label words have the same first token, or the first token of a label word has no complete character besides
              whitespace; with ``score: whole``, one label word begins with all tokens of another.
            - The table is invalid in another way, such as duplicate ids or class indices without a label word.
    """
    duplicates = prompts["prompt_id"][prompts["prompt_id"].duplicated()]
    if len(duplicates):
        raise InputError(f"duplicate prompt_id {duplicates.iloc[0]} in the prompts table; ids must be unique")
    bos_ids = _bos_ids(tokenizer, bos)
    label_words: dict[tuple[str, ...], LabelWords] = {}
    result = []
    all_data_spans = [[*texts, query] for texts, query in zip(prompts["text_spans"], prompts["query_span"], strict=True)]
    encodings = _encode(prompts, all_data_spans, tokenizer)
    places = prompts.groupby("seed")["prompt_id"].rank().astype(int) - 1
    for row, data_spans, encoding, place in zip(
        prompts.itertuples(index=False), all_data_spans, encodings, places, strict=True
    ):
        words = tuple(row.label_words)
        location = f"prompt {row.prompt_id}"
        ids = encoding.ids
        _check_row(location, row, words)
        prefix_ids = _prefix_ids(location, ids, tokenizer, bos, bos_ids)
        if words not in label_words:
            label_words[words] = _label_words(location, row.text, data_spans, ids, words, tokenizer, score, anchor)
        edges = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)  # (T, 2)
        label_tokens = []
        for label, (start, end) in zip(row.demo_labels, row.label_spans, strict=True):
            if row.text[start:end] != words[label]:
                raise InputError(
                    f"{location}: characters {start} to {end} are {row.text[start:end]!r}, not the label word {words[label]!r}"
                )
            first, stop = _label_tokens(location, edges, start, end, words[label])
            _require_same_tokens(location, words[label], ids[first:stop], label_words[words].tokens[label], tokenizer, score)
            label_tokens.append((first + len(prefix_ids), stop + len(prefix_ids)))
        result.append(
            TokenizedPrompt(
                prompt_id=int(row.prompt_id),
                ids=np.array(prefix_ids + ids, dtype=np.int64),
                anchors=anchors_of(label_tokens, anchor),
                demo_labels=np.array(row.demo_labels, dtype=np.int64),
                label_ids=np.array([tokens[0] for tokens in label_words[words].tokens], dtype=np.int64),
                gold=int(row.gold),
                unknown=0 if tokenizer.unk_token_id is None else ids.count(tokenizer.unk_token_id),
                seed=int(row.seed),
                text=row.text,
                spans=np.concatenate([np.zeros((len(prefix_ids), 2), dtype=np.int64), edges]),
                text_spans=_spans(row.text_spans),
                label_spans=_spans(row.label_spans),
                label_tokens=_spans(label_tokens),
                label_words=label_words[words] if score == "whole" else None,
                query_span=np.array(row.query_span, dtype=np.int64),
                turn_starts=np.array(getattr(row, "turn_starts", []), dtype=np.int64),
                data_spans=_spans(data_spans),
                control=encoding.control,
                query_index=int(getattr(row, "query_index", row.prompt_id)),
                place=int(place),
            )
        )
    return result


def encode(prompts: pd.DataFrame, tokenizer: PreTrainedTokenizerBase, bos: Bos = "auto") -> list[TokenizedPrompt]:
    """Tokenize prompts without label words. The results have no anchors and no classes.

    Args:
        prompts: A table with one row per prompt. The function uses the columns prompt_id, text and seed, and the column
            content_spans of :func:`icl_lens.prompts.chat.wrap` if there is one. Control tokens in these characters, or in the
            whole text if there is no such column, are plain text (:mod:`icl_lens.prompts.plain_text`).
        tokenizer: A fast tokenizer.
        bos: See :func:`tokenize`.

    Raises:
        InputError: ``bos`` is True and the tokenizer has no BOS token, ``bos`` is False and the text begins with one, or a
            control token in a text cannot be tokenized as plain text.
    """
    bos_ids, no_positions = _bos_ids(tokenizer, bos), np.empty(0, dtype=np.int64)
    if "content_spans" in prompts:
        all_data_spans = prompts["content_spans"].tolist()
    else:
        all_data_spans = [[[0, len(text)]] for text in prompts["text"]]
    encodings = _encode(prompts, all_data_spans, tokenizer)
    result = []
    for row, data_spans, encoding in zip(prompts.itertuples(index=False), all_data_spans, encodings, strict=True):
        ids = encoding.ids
        prefix_ids = _prefix_ids(f"prompt {row.prompt_id}", ids, tokenizer, bos, bos_ids)
        result.append(
            TokenizedPrompt(
                prompt_id=int(row.prompt_id),
                ids=np.array(prefix_ids + ids, dtype=np.int64),
                anchors=no_positions,
                demo_labels=no_positions,
                label_ids=no_positions,
                gold=0,
                unknown=0 if tokenizer.unk_token_id is None else ids.count(tokenizer.unk_token_id),
                seed=int(row.seed),
                text=row.text,
                spans=np.array([(0, 0)] * len(prefix_ids) + encoding.offsets, dtype=np.int64),
                data_spans=_spans(data_spans),
                control=encoding.control,
            )
        )
    return result


def _encode(prompts: pd.DataFrame, data_spans: list, tokenizer: PreTrainedTokenizerBase) -> list[plain_text.Encoding]:
    """Tokenize the texts of a table, without the BOS token."""
    locations = [f"prompt {number}" for number in prompts["prompt_id"]]
    return plain_text.encode_batch(locations, prompts["text"].tolist(), data_spans, tokenizer)


def anchors_of(label_tokens: Sequence[tuple[int, int]], anchor: Anchor) -> np.ndarray:
    """Return the positions of the anchors, ascending, shape (A,).

    Args:
        label_tokens: [start, stop) positions of the tokens of each label word.
        anchor: Which of these tokens are anchors.
    """
    if anchor == "first":
        found = [start for start, _ in label_tokens]
    elif anchor == "last":
        found = [stop - 1 for _, stop in label_tokens]
    else:
        found = [position for start, stop in label_tokens for position in range(start, stop)]
    return np.array(found, dtype=np.int64)


def tokens_of(prompt: TokenizedPrompt, spans: Any) -> np.ndarray:
    """Return the positions of the tokens in the given spans, in ascending order.

    A token belongs to a span if it contains at least one non-whitespace character of the span. This includes a token that
    begins with the space before the span, and a token that also contains the punctuation mark after the span.

    Args:
        prompt: The prompt.
        spans: [start, end) characters of its text.
    """
    inside = np.zeros(len(prompt.text) + 1, dtype=np.int64)
    for start, end in spans:
        for character in range(start, end):
            inside[character + 1] = not prompt.text[character].isspace()
    before = inside.cumsum()  # (characters + 1,): number of such characters before each offset
    return np.flatnonzero(before[prompt.spans[:, 1]] > before[prompt.spans[:, 0]])


def token_text(prompt: TokenizedPrompt, position: int, tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the characters of a token in its prompt, or the tokenizer's decoded text if it has no characters."""
    start, end = prompt.spans[position]
    return prompt.text[start:end] if end > start else tokenizer.decode([int(prompt.ids[position])])


def _prefix_ids(location: str, ids: list[int], tokenizer: PreTrainedTokenizerBase, bos: Bos, bos_ids: list[int]) -> list[int]:
    """Return the tokens to prepend to a prompt: ``bos_ids``, or no tokens if the text already begins with the BOS token."""
    has_bos = len(ids) > 0 and ids[0] == tokenizer.bos_token_id
    if has_bos and bos is False:
        raise InputError(
            f"{location}: the text begins with the BOS token {tokenizer.bos_token!r}, as chat templates write it, but bos is "
            "no; set bos: auto"
        )
    return [] if has_bos else bos_ids


def _spans(spans: Any) -> np.ndarray:
    """Convert the [start, end) pairs in a table cell to an array of shape (n, 2)."""
    return np.array([list(span) for span in spans], dtype=np.int64).reshape(-1, 2)


def _check_row(location: str, row: Any, words: tuple[str, ...]) -> None:
    """Check a row of a prompts table for errors that the column types do not detect."""
    if not 0 <= row.gold < len(words) or any(not 0 <= label < len(words) for label in row.demo_labels):
        raise InputError(f"{location}: class indices in gold and demo_labels must be from 0 to {len(words) - 1}")
    if len(row.demo_labels) != len(row.label_spans):
        raise InputError(
            f"{location}: {len(row.demo_labels)} demo_labels but {len(row.label_spans)} label_spans; they must match"
        )
    if any(len(span) != 2 for span in row.label_spans):
        raise InputError(f"{location}: each label span must be a [start, end) pair of character positions")
    if not row.text.strip():
        raise InputError(f"{location}: the text is empty")
    if row.text.endswith(words):
        raise InputError(f"{location}: the text ends with a label word; it must end before the label of the query")


def _bos_ids(tokenizer: PreTrainedTokenizerBase, bos: Bos) -> list[int]:
    """Return a list with the BOS token if it is to be prepended, otherwise an empty list; never an end-of-sequence token."""
    if bos == "auto":
        first = tokenizer("a")["input_ids"][:1]
        return first if first and first[0] == tokenizer.bos_token_id else []
    if bos and tokenizer.bos_token_id is None:
        raise InputError("bos is yes, but the tokenizer has no BOS token; set bos: auto")
    return [tokenizer.bos_token_id] if bos else []


def _label_tokens(location: str, offsets: np.ndarray, start: int, end: int, word: str) -> tuple[int, int]:
    """Return the [start, stop) positions of the tokens of a label word.

    Args:
        location: The description of the prompt in the error message.
        offsets: [start, end) characters of each token, shape (T, 2).
        start: The first character of the label word.
        end: The position after its last character.
        word: The label word.

    Raises:
        InputError: The label word shares a token with the surrounding text.
    """
    first, stop = offsets.T  # (T,) each
    # Tokenizers differ in whether the offsets of a token include its leading space. Therefore a token belongs to the word if it
    # ends inside the word, so that the space belongs to the word for all tokenizers.
    tokens = np.flatnonzero((start < stop) & (stop <= end))
    crosses_end = (first < end) & (end < stop)  # (T,)
    if not len(tokens) or crosses_end.any() or first[tokens[0]] < start:
        raise InputError(f"{location}: the label word {word!r} at character {start} shares a token with the surrounding text")
    return int(tokens[0]), int(tokens[-1]) + 1


def _require_same_tokens(
    location: str,
    word: str,
    shown: list[int],
    scored: tuple[int, ...],
    tokenizer: PreTrainedTokenizerBase,
    score: Score,
) -> None:
    """Require that a label word has the same tokens in a demonstration and after the query, as far as the score uses them.

    Args:
        location: The description of the prompt in the error message.
        word: The label word.
        shown: Its tokens in a demonstration.
        scored: Its tokens after the query.
        tokenizer: The tokenizer.
        score: See :func:`tokenize`.

    Raises:
        InputError: The tokens differ.
    """
    if score == "first":
        shown, scored, compared = shown[:1], scored[:1], "the first token of the label word {word!r} is"
    else:
        compared = "the tokens of the label word {word!r} are"
    if tuple(shown) != scored:
        one, other = (_decoded(tokens, tokenizer) for tokens in (shown, scored))
        raise InputError(
            f"{location}: {compared.format(word=word)} {one} in a demonstration but {other} after the query; choose another "
            "label word"
        )


def _decoded(tokens: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the texts of tokens, in quotes."""
    return ", ".join(repr(tokenizer.decode([token])) for token in tokens)


def _label_words(
    location: str,
    text: str,
    data_spans: list,
    ids: list[int],
    words: tuple[str, ...],
    tokenizer: PreTrainedTokenizerBase,
    score: Score,
    anchor: Anchor,
) -> LabelWords:
    """Return the tokens of each label word when it is appended to the prompt."""
    found: list[tuple[int, ...]] = []
    extended = plain_text.encode_batch(
        [location] * len(words), [text + word for word in words], [data_spans] * len(words), tokenizer
    )
    for word, encoding in zip(words, extended, strict=True):
        extended_ids = encoding.ids
        if extended_ids[: len(ids)] != ids or len(extended_ids) == len(ids):
            raise InputError(
                f"{location}: the label word {word!r} changes the tokens of the prompt before it; choose another label word"
            )
        pieces = extended_ids[len(ids) :]
        if tokenizer.unk_token_id is not None and tokenizer.unk_token_id in pieces:
            raise InputError(f"the label word {word!r} is unknown to the tokenizer; choose another word or another model")
        first = pieces[0]
        if score == "first":
            _require_meaning(word, tokenizer.decode([first], clean_up_tokenization_spaces=False))
            same = next((other for other, tokens in zip(words, found, strict=False) if tokens[0] == first), None)
            if same is not None:
                raise InputError(
                    f"the label words {same!r} and {word!r} begin with the same token {tokenizer.decode([first])!r}, so the "
                    "first token cannot distinguish them; choose other label words, or set labels: {score: whole} "
                    "(--label-score whole)"
                )
        found.append(tuple(pieces))
        if len(pieces) > 1 and score == anchor == "first":
            logger.info(
                "label word %r has %d tokens; its anchor is the first token, %r", word, len(pieces), tokenizer.decode([first])
            )
    label_words = LabelWords(tuple(found))
    shadowed = label_words.shadowed() if score == "whole" else None
    if shadowed:
        shorter, longer = (words[label] for label in shadowed)
        raise InputError(
            f"the tokens of the label word {longer!r} begin with all tokens of the label word {shorter!r}, so {longer!r} never "
            "has the higher probability; choose other label words"
        )
    return label_words


def _require_meaning(word: str, first: str) -> None:
    """Require that the first token of a label word contains at least one complete, visible character.

    A token of whitespace alone precedes many words. A token with only some of the bytes of a character (decoded as U+FFFD) can
    be the beginning of 64 characters or more. A prediction of such a token is not a prediction of the label word.

    Args:
        word: The label word.
        first: Its first token, decoded.

    Raises:
        InputError: The token contains no such character.
    """
    if is_visible(first.replace("▁", "").replace("\ufffd", "")):
        return
    content = "only part of a character" if "\ufffd" in first else "only whitespace"
    raise InputError(
        f"the first token of the label word {word!r} is {first!r}, {content}, and a class is predicted by the first token of "
        "its label word; choose a label word whose first token contains a character of the word, or set labels: {score: whole} "
        "(--label-score whole)"
    )
