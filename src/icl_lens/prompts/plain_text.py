"""Tokenization of prompts in which the texts are plain text, and only the templates can contain control tokens.

A tokenizer converts the characters of a control token, such as ``<bos>`` or ``<|im_end|>``, to this token wherever they occur.
In a text of a data set, they are ordinary characters. This module therefore tokenizes them like any other characters. Control
tokens outside of these texts, such as those of a chat template, stay control tokens. The tokens of a prompt whose texts contain
no control token are those of the tokenizer itself.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from tokenizers import AddedToken, Tokenizer
from transformers import PreTrainedTokenizerBase

from icl_lens.errors import InputError

# Delimiters of control tokens. Some tokenizers do not mark such a token as special.
_DELIMITED = re.compile(r"<[|\uff5c].+[|\uff5c]>")

# The first of the private characters that replace control tokens. They never occur in a text with an agreed meaning.
_PRIVATE = 0x100000


@dataclass(frozen=True)
class Encoding:
    """Tokens of a text.

    Attributes:
        ids: Token ids, T of them.
        offsets: [start, end) characters of each token, T pairs.
        control: The control tokens that occur in the data and are tokenized as plain text, in order.
    """

    ids: list[int]
    offsets: list[tuple[int, int]]
    control: tuple[str, ...] = ()


def encode_batch(
    locations: Sequence[str], texts: Sequence[str], data_spans: Sequence[Any], tokenizer: PreTrainedTokenizerBase
) -> list[Encoding]:
    """Tokenize texts without adding a token, with control tokens inside the data as plain text.

    Args:
        locations: Description of each text in an error message.
        texts: The texts.
        data_spans: [start, end) characters of the data in each text.
        tokenizer: A fast tokenizer.

    Raises:
        InputError: A control token in the data cannot be tokenized as plain text.
    """
    control = control_tokens(tokenizer)
    encoded = tokenizer(list(texts), add_special_tokens=False, return_offsets_mapping=True)
    result = []
    for location, text, data, ids, offsets in zip(
        locations, texts, data_spans, encoded["input_ids"], encoded["offset_mapping"], strict=True
    ):
        encoding = Encoding(ids, [(int(start), int(end)) for start, end in offsets])
        if not control.keys().isdisjoint(ids):
            encoding = _with_plain_data(location, text, data, encoding, tokenizer, control)
        result.append(encoding)
    return result


def control_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[int, AddedToken]:
    """Return the control tokens of a tokenizer by their ids.

    These are the added tokens that are marked as special, have the form ``<|...|>`` or are written by the chat template. Other
    added tokens, such as HTML tags, are part of the ordinary vocabulary. So are whitespace, single characters and words, such
    as ``!`` as the padding token.
    """
    template = str(tokenizer.chat_template or "")
    return {
        number: token
        for number, token in tokenizer.added_tokens_decoder.items()
        if (token.special or _DELIMITED.fullmatch(token.content) or token.content in template)
        and len(token.content.strip()) > 1
        and not token.content.strip().isalnum()
    }


def _with_plain_data(
    location: str,
    text: str,
    data: Any,
    encoding: Encoding,
    tokenizer: PreTrainedTokenizerBase,
    control: dict[int, AddedToken],
) -> Encoding:
    """Return the tokens of a text that contains control tokens."""
    unknown = getattr(tokenizer.backend_tokenizer.model, "unk_token", None)
    spans = _control_spans(text, encoding, control, unknown)
    inside = [(number, span) for number, span in spans if _overlaps(span, data)]
    if not inside:
        return encoding
    kept = [(number, span) for number, span in spans if not _overlaps(span, data)]
    names = tuple(control[number].content for number, _ in inside)
    start = inside[0][1][0]
    refusal = InputError(
        f"{location}: {names[0]!r} at character {start} cannot be tokenized as plain text; remove it from the data"
    )
    if any(ord(character) >= _PRIVATE for character in text):
        raise refusal
    reader, placeholders = _plain_reader(tokenizer, frozenset(control))
    for number in {number for number, _ in kept} - set(placeholders.values()):
        token = control[number]
        like = {name: getattr(token, name) for name in ("single_word", "lstrip", "rstrip", "normalized")}
        placeholder = chr(_PRIVATE + len(placeholders))
        reader.add_tokens([AddedToken(placeholder, special=False, **like)])
        placeholders[reader.token_to_id(placeholder)] = number
    characters = {number: reader.id_to_token(own) for own, number in placeholders.items()}
    replaced, origins, last = "", [], 0  # origins: span of each character of ``replaced`` in ``text``
    for number, (start, end) in [*kept, (None, (len(text), len(text)))]:
        replaced += text[last:start] + characters.get(number, "")
        origins += [(place, place + 1) for place in range(last, start)] + ([] if number is None else [(start, end)])
        last = end
    found = reader.encode(replaced, add_special_tokens=False)
    ids = [placeholders.get(number, number) for number in found.ids]
    offsets = [(origins[a][0], origins[b - 1][1]) if a < b else (0, 0) for a, b in found.offsets]
    plain = Encoding(ids, offsets, names)
    if [number for number, _ in _control_spans(text, plain, control, unknown)] != [number for number, _ in kept]:
        raise refusal
    return plain


def _control_spans(
    text: str, encoding: Encoding, control: dict[int, AddedToken], unknown: str | None
) -> list[tuple[int, tuple[int, int]]]:
    """Return the id and the [start, end) characters, without whitespace at the edges, of each control token in a text.

    The unknown token counts only where its characters occur in the text, and not where it replaces an unknown character.
    """
    found = []
    for number, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
        if number not in control:
            continue
        part = text[start:end]
        if control[number].content == unknown and part.strip() != unknown:
            continue
        found.append((number, (start + len(part) - len(part.lstrip()), end - len(part) + len(part.rstrip()))))
    return found


def _overlaps(span: tuple[int, int], data: Any) -> bool:
    return any(start < span[1] and span[0] < end for start, end in data)


@lru_cache(maxsize=1)
def _plain_reader(tokenizer: PreTrainedTokenizerBase, control: frozenset[int]) -> tuple[Tokenizer, dict[int, int]]:
    """Return a copy of a tokenizer that tokenizes control tokens as plain text, and its placeholders.

    A placeholder is a character that replaces a control token of a template: id in the copy -> id in the tokenizer.
    """
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    for token in state["added_tokens"]:
        token["special"] = token["id"] in control
    reader = Tokenizer.from_str(json.dumps(state))
    reader.no_padding()
    reader.no_truncation()
    reader.encode_special_tokens = True
    return reader, {}
