"""Find the demonstrations, the template pieces and the query in a prompt that is plain text.

:meth:`icl_lens.api.prompt.Prompt.parse` has the rules. In this module, the *lead* is the template piece before each text
("Review:"), and the *tail* is the piece between a text and its label word ("Sentiment:").
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from icl_lens.errors import InputError
from icl_lens.short_repr import short_list, short_repr
from icl_lens.tasks.own import require_template

Span = tuple[int, int]


class Found(NamedTuple):
    """The parts of a text; see :class:`icl_lens.api.prompt.Prompt` for the fields."""

    text: str
    label_words: tuple[str, ...]
    demo_labels: tuple[int, ...]
    label_spans: tuple[Span, ...]
    text_spans: tuple[Span, ...]
    query_span: Span
    prefix_spans: tuple[Span, ...]


class _Word(NamedTuple):
    """A label word in the text: its span, and its class index."""

    start: int
    end: int
    label: int


class _Text:
    """The text without whitespace at its end, and functions for error messages."""

    def __init__(self, text: str, words: list[str]) -> None:
        self.body, self.words = text.rstrip(), words

    def line(self, character: int) -> int:
        """Return the number of the line of a character, from 1."""
        return self.body.count("\n", 0, character) + 1

    def before(self, word: _Word) -> str:
        """Return the text before a label word, without the whitespace at its end."""
        return self.body[: word.start].rstrip()

    def quoted(self, word: _Word) -> str:
        """Return a label word and its line."""
        return f"{self.body[word.start : word.end]!r} (line {self.line(word.start)})"

    def refusal(self, fault: str) -> InputError:
        """Return the error for this text."""
        return InputError(f"text: {fault}")


def parse(text: Any, label_words: Any, template: str | None) -> Found:
    """Find the parts of a text.

    Args:
        text: The text.
        label_words: One label word per class.
        template: The template, if it is known.

    Raises:
        InputError: See :meth:`icl_lens.api.prompt.Prompt.parse`.
    """
    words = [word.strip() for word in checked_words(label_words)]
    if not isinstance(text, str) or not text.strip():
        raise InputError(f"text must be a prompt with demonstrations and a query, got {short_repr(text)}")
    lead, tail = (None, None) if template is None else _pieces(template)
    given = _Text(text, words)
    labels, tail = _labels(given, tail)
    gap = _gap(given, labels)
    space = " " if gap.endswith(" ") else ""
    ends = [*(len(given.before(label)) for label in labels), len(given.body)]  # of the tails
    examples = _examples(given, labels, [end - len(tail) for end in ends])
    lead, starts = _lead(given, examples, lead)
    texts, prefixes = [], []
    for number, ((start, end), at, tail_end) in enumerate(zip(examples, starts, ends, strict=True)):
        begin = at + len(lead) + len(_blank(given.body[at + len(lead) : end]))
        if begin >= end:
            raise _empty(given, labels, number)
        texts.append((begin, end))
        prefixes += [(at, at + len(lead))] if lead else []
        prefixes += [(tail_end - len(tail), tail_end)] if tail else []
        _require_labelled(given, (start, end), tail)
    return Found(
        text=given.body + gap.removesuffix(" "),
        label_words=tuple(space + word for word in words),
        demo_labels=tuple(label.label for label in labels),
        label_spans=tuple((label.start - len(space), label.end) for label in labels),
        text_spans=tuple(texts[:-1]),
        query_span=texts[-1],
        prefix_spans=tuple(prefixes),
    )


def checked_words(label_words: Any) -> list[str]:
    """Return label words as a list.

    Raises:
        InputError: They are not a list of at least two different words.
    """
    if isinstance(label_words, str) or not isinstance(label_words, Sequence):
        raise InputError(f"label_words must be a list with one word per class, got {short_repr(label_words)}")
    words = list(label_words)
    invalid = [word for word in words if not isinstance(word, str) or not word.strip()]
    if invalid:
        raise InputError(f"label_words: {short_repr(invalid[0])} must be a word")
    bare = [word.strip() for word in words]
    if len(set(bare)) < len(bare):
        raise InputError(f"label_words: duplicate word {next(w for w in bare if bare.count(w) > 1)!r}; words must be unique")
    if len(words) < 2:
        raise InputError(f"label_words must contain at least two words, got {short_repr(words)}")
    return words


def _pieces(template: Any) -> tuple[str, str]:
    """Return the lead and the tail of a template."""
    if not isinstance(template, str):
        raise InputError(f"template must be a string with {{text}} and {{label}}, got {short_repr(template)}")
    bare = template.removesuffix("{label}").rstrip() + ("{label}" if template.endswith("{label}") else "")
    try:
        require_template(bare)
    except ValueError as error:
        raise InputError(str(error).replace(repr(bare), repr(template))) from None
    lead, _, tail = bare.removesuffix("{label}").partition("{text}")
    return lead.strip(), tail.strip()


def _labels(given: _Text, tail: str | None) -> tuple[list[_Word], str]:
    """Return the label words of the demonstrations, and the tail."""
    found = list(_occurrences(given))
    known = short_list(given.words)
    if not found:
        raise given.refusal(f"contains none of the label words {known}; check label_words, or add demonstrations with labels")
    if found[-1].end == len(given.body):
        raise given.refusal(
            f"ends with the label word {given.quoted(found[-1])}, so no query follows the demonstrations; end the text with "
            "the query, without its label word"
        )
    if tail is not None:
        if not given.body.endswith(tail):
            raise _unfinished(given, tail)
        labels = [word for word in found if given.before(word).endswith(tail)] if tail else _line_ends(given, found)
    else:
        labels, tail = _with_common_tail(given, found)
        if not labels:
            labels, tail = _line_ends(given, found), ""
            _require_no_tail(given, labels)
    if not labels:
        after = f"follows {tail!r}" if tail else "ends a line, or follows the words that the text ends with"
        raise given.refusal(
            f"none of the label words {known} is the label of a demonstration; such a word {after} (the first is "
            f"{given.quoted(found[0])})"
        )
    for word in _line_ends(given, found):
        prefix = given.before(word).rpartition("\n")[2]
        if word not in labels and tail and _letters(prefix) == _letters(tail):
            raise given.refusal(
                f"the label word {given.quoted(word)} follows {prefix!r}, but the text ends with {tail!r}; use the same"
            )
    for label in labels:
        following = next((word for word in found if word.start >= label.end), None)
        if following and re.fullmatch(r"[^\w\n]*", given.body[label.end : following.start]):
            raise _duplicate(given, label, following)
    return labels, tail


def _occurrences(given: _Text) -> Iterator[_Word]:
    """Yield each label word that is a whole word in the text."""
    forms = [
        (r"(?<!\w)" if re.match(r"\w", word) else "") + re.escape(word) + (r"(?!\w)" if re.search(r"\w$", word) else "")
        for word in sorted(given.words, key=len, reverse=True)  # the longest of the words that begin at a character
    ]
    for match in re.finditer("|".join(forms), given.body):
        yield _Word(match.start(), match.end(), given.words.index(match[0]))


def _line_ends(given: _Text, found: list[_Word]) -> list[_Word]:
    return [word for word in found if re.match(r"[^\w\n]*\n", given.body[word.end :])]


def _with_common_tail(given: _Text, found: list[_Word]) -> tuple[list[_Word], str]:
    """Return the label words that follow the words that the text ends with, and these words: the tail."""
    body = given.body
    marks = re.search(r"[^\w\s]*$", body)[0]  # at the end of the last word, such as "=>"
    lengths: dict[_Word, int] = {}  # number of common characters, from the beginning of a word
    for word in found:
        before = given.before(word)
        common = _common_length([before[::-1], body[::-1]])
        length = next((n for n in range(common, 0, -1) if not body[-n].isspace() and _starts_word(before, n, body)), 0)
        if length and ("\n" not in _space(given, word) or _starts_line(before, body[-length:].rpartition("\n")[2])):
            lengths[word] = length
    tail = body[len(body) - min(lengths.values(), default=0) :]
    last_line = tail.rpartition("\n")[2].lstrip()
    if lengths and all(_starts_line(text, last_line) for text in (body, *map(given.before, lengths))):
        if "\n" in tail and not all(_starts_line(text, tail) for text in (body, *map(given.before, lengths))):
            tail = tail.partition("\n")[2].lstrip()  # the first line is the end of a text that all examples share
        labels = list(lengths)
        return labels, last_line if _some_example_is_empty(given, labels, tail) else tail
    joined = [word for word in found if marks and given.before(word).endswith(marks)]
    missed = [word for word in _line_ends(given, joined) if word not in lengths]
    if missed or (marks and not re.search(r"[:\uff1a?]$", marks)):
        return joined, marks
    if not lengths:
        return joined, marks
    sentence = list(re.finditer(r"[.!?][^\w\s]*\s+", tail))
    return list(lengths), tail[sentence[-1].end() :] if sentence else tail


def _starts_word(before: str, length: int, body: str) -> bool:
    """Return whether the last characters of two texts begin after whitespace, or are the whole text."""
    return all(len(text) == length or text[-length - 1].isspace() for text in (before, body))


def _starts_line(text: str, end: str) -> bool:
    """Return whether the end of a text begins a line."""
    return text[: len(text) - len(end)].rstrip(" \t")[-1:] in ("", "\n")


def _some_example_is_empty(given: _Text, labels: list[_Word], tail: str) -> bool:
    starts = [0, *(label.end for label in labels)]
    ends = [*(len(given.before(label)) for label in labels), len(given.body)]
    return any(not given.body[start : end - len(tail)].strip() for start, end in zip(starts, ends, strict=True))


def _require_no_tail(given: _Text, labels: list[_Word]) -> None:
    """Require that no template piece, such as "Sentiment:", precedes the label words, because the text does not end with it."""
    pieces = {
        given.before(label).rpartition("\n")[2].rpartition(" ")[2] for label in labels if "\n" not in _space(given, label)
    }
    if len(pieces) == 1 and re.search(r"[^\w\s]$", piece := pieces.pop()):
        raise _unfinished(given, piece)


def _unfinished(given: _Text, tail: str) -> InputError:
    end = given.body[-40:].rpartition("\n")[2]
    return given.refusal(
        f"must end with {tail!r}, which precedes the label words, because the next token is the label of the query; it ends "
        f"with {end!r}"
    )


def _space(given: _Text, label: _Word) -> str:
    """Return the whitespace before a label word."""
    return given.body[len(given.before(label)) : label.start]


def _gap(given: _Text, labels: list[_Word]) -> str:
    """Return the whitespace before the label words, which must be the same for all of them."""
    gaps = [_space(given, label) for label in labels]
    for label, gap in zip(labels, gaps, strict=True):
        if gap != gaps[0]:
            raise given.refusal(
                f"whitespace before the label words differs: {gaps[0]!r} before {given.quoted(labels[0])}, {gap!r} before "
                f"{given.quoted(label)}; use the same"
            )
    return gaps[0]


def _examples(given: _Text, labels: list[_Word], ends: list[int]) -> list[Span]:
    """Return the span of each demonstration and of the query, from its lead to the end of its text."""
    spans = []
    for number, (start, end) in enumerate(zip([0, *(label.end for label in labels)], ends, strict=True)):
        if number:  # punctuation after a label word, in its line, belongs to no span
            start += len(re.match(r"[^\w\n]*(?=\n)|", given.body[start:])[0])
        start += len(_blank(given.body[start:]))
        end = len(given.body[:end].rstrip())
        if start >= end:
            raise _empty(given, labels, number)
        spans.append((start, end))
    return spans


def _lead(given: _Text, examples: list[Span], lead: str | None) -> tuple[str, list[int]]:
    """Return the lead and where it begins in each example."""
    first, *later = (given.body[start:end] for start, end in examples)
    starts = [start for start, _ in examples]
    if lead is None:
        common = later[0][: _common_length(later)]
        colon = re.search(r"[:\uff1a](?=\s|$)", common)
        newline = common.find("\n")
        lead = common[: colon.end()] if colon else common[:newline].rstrip() if newline > 0 else ""
        if lead and not _line_starts(first, lead):
            lead = ""
    elif lead:
        for (start, _), example in zip(examples[1:], later, strict=True):
            if not example.startswith(lead):
                raise given.refusal(f"line {given.line(start)} must begin with {lead!r}, as in the template")
        if not _line_starts(first, lead):
            raise given.refusal(f"no line of the first demonstration begins with {lead!r}, as in the template")
    if lead and not first.startswith(lead):  # an instruction precedes the first demonstration
        starts[0] += _line_starts(first, lead)[-1]
    return lead, starts


def _line_starts(text: str, piece: str) -> list[int]:
    return [match.start() for match in re.finditer(rf"^{re.escape(piece)}", text, re.MULTILINE)]


def _require_labelled(given: _Text, example: Span, tail: str) -> None:
    """Require that no tail without a label word is inside an example."""
    if not tail:
        return
    start, end = example
    in_own_line = _starts_line(given.body, tail)
    for match in re.finditer(rf"(?<!\S){re.escape(tail)}(?!\w)[ \t]*([^\n]*)", given.body[start:end]):
        at = start + match.start()
        if in_own_line and not _starts_line(given.body[: at + len(tail)], tail):
            continue
        if not in_own_line and len(match[1].split()) > 1:  # the words are part of a text
            continue
        if not match[1].strip():
            raise given.refusal(
                f"line {given.line(at)} has {tail!r} without a label word, but demonstrations follow; put the query after the "
                "demonstrations"
            )
        raise given.refusal(
            f"{match[1].strip()!r} after {tail!r} (line {given.line(at)}) is none of the label words {short_list(given.words)}"
            "; add it to label_words, or remove this demonstration"
        )


def _empty(given: _Text, labels: list[_Word], number: int) -> InputError:
    """Return the error for an example without a text."""
    if number == len(labels):
        return given.refusal(
            f"no text follows the last label word {given.quoted(labels[-1])}; put the query after the demonstrations"
        )
    if number:
        return _duplicate(given, labels[number - 1], labels[number])
    return given.refusal(
        f"no text precedes the label word {given.quoted(labels[0])}; each demonstration is a text followed by its label word"
    )


def _duplicate(given: _Text, first: _Word, second: _Word) -> InputError:
    return given.refusal(
        f"the label words {given.quoted(first)} and {given.quoted(second)} are in the same demonstration; keep one of them"
    )


def _common_length(texts: Sequence[str]) -> int:
    """Return the number of characters that the beginnings of texts have in common."""
    first, last = min(texts), max(texts)
    return next((n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))


def _letters(text: str) -> str:
    return "".join(text.split()).casefold()


def _blank(text: str) -> str:
    """Return the whitespace at the beginning of a text."""
    return text[: len(text) - len(text.lstrip())]
