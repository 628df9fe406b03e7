"""Demonstrations and texts from files that a person wrote, for the commands ``compress`` and ``classify``; lines are counted.

Unlike a corpus (:mod:`icl_lens.corpora`), such a file is read as it is: nothing is drawn from it, its order is the prompt's.
"""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from icl_lens.errors import InputError
from icl_lens.tasks.task import Task

Format = Literal["lines", "jsonl", "csv"]

STANDARD_INPUT = "-"


class Text(NamedTuple):
    """A text and where it was read.

    Attributes:
        line: From 1; of a record over several lines the last.
        text: As it stands there.
    """

    line: int
    text: str


def demonstrations(path: Path | str, task: Task) -> tuple[list[str], list[int]]:
    """The demonstrations of a JSONL or CSV file with ``text`` and ``label``, in its order.

    Args:
        path: .jsonl or .csv (by a header, quoted where need be), UTF-8.
        task: A label is one of its label words (the leading blank may be left out), the name of one of its classes or, where no
            class is named by a number, a class index.

    Raises:
        InputError: The file cannot be read, is empty, has a line that is no such record, an empty text or an unknown label.

    Returns:
        Texts and class indices.
    """
    kind = _by_ending(str(path))
    if kind == "lines":
        raise InputError(f"{path}: demonstrations are a .jsonl or a .csv file, with text and label")
    known = {word.strip(): index for index, word in enumerate(task.label_words)}
    known = {**{name: index for index, name in enumerate(task.classes)}, **known}
    if not any(name.isdecimal() for name in known):
        known |= {str(index): index for index in range(len(task.label_words))}
    texts, labels = [], []
    for line, record in _records(str(path), _read(str(path)), kind):
        label = _field(str(path), line, record, "label")
        name = str(label).strip() if isinstance(label, str | int) and not isinstance(label, bool) else None
        if name not in known:
            words = ", ".join(word.strip() for word in task.label_words)
            raise InputError(f"{path}, line {line}: unknown label {label!r}; task {task.name} has {words}")
        texts.append(_text(str(path), line, record))
        labels.append(known[name])
    if not texts:
        raise InputError(f"{path} holds no demonstration; a line is a text with its label")
    return texts, labels


def texts(path: Path | str, kind: Format | None = None) -> list[Text]:
    """The texts of a file, or of standard input.

    Args:
        path: A file; ``-`` for standard input.
        kind: ``lines``, a text a line; ``jsonl``, an object a line with ``text``; ``csv``, a header and a column ``text``. By
            default by the file's ending, lines where it tells nothing.

    Raises:
        InputError: It cannot be read, holds no text, or a line is empty or is no such record.
    """
    name = "standard input" if str(path) == STANDARD_INPUT else str(path)
    kind = kind or _by_ending(name)
    content = _read(str(path))
    if kind == "lines":
        lines = content.removesuffix("\n").split("\n") if content else []
        found = [Text(number, _filled(name, number, line.removesuffix("\r"))) for number, line in enumerate(lines, 1)]
    else:
        found = [Text(line, _text(name, line, record)) for line, record in _records(name, content, kind)]
    if not found:
        raise InputError(f"{name} holds no text")
    return found


def _by_ending(name: str) -> Format:
    ending = Path(name).suffix.lower().removeprefix(".")
    return ending if ending in ("jsonl", "csv") else "lines"


def _read(path: str) -> str:
    name = "standard input" if path == STANDARD_INPUT else path
    try:
        content = sys.stdin.buffer.read() if path == STANDARD_INPUT else Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{name} cannot be read ({error.strerror})") from error
    try:
        return content.decode("utf-8-sig")  # a byte order mark, as spreadsheets write it, is no text
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise InputError(f"{name}, line {line}: not UTF-8 text (byte {error.start})") from error


def _records(name: str, content: str, kind: Format) -> Iterator[tuple[int, dict[str, Any]]]:
    """Each record's last line and fields; empty lines between records are none."""
    if kind == "csv":
        yield from _rows(name, content)
        return
    # Only "\n" ends a line: str.splitlines would also split at characters inside a text.
    for number, line in enumerate(content.split("\n"), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{name}, line {number}: not JSON ({error})") from error
        if not isinstance(record, dict):
            raise InputError(f'{name}, line {number}: a line must be one object, such as {{"text": ...}}')
        yield number, record


def _rows(name: str, content: str) -> Iterator[tuple[int, dict[str, Any]]]:
    # newline="": a line break inside quotes is the text's own.
    reader = csv.reader(io.StringIO(content, newline=""), strict=True)
    header: list[str] | None = None
    try:
        for row in reader:
            if not row:
                continue
            if header is None:
                header = [field.strip() for field in row]
                continue
            if len(row) != len(header):
                raise InputError(
                    f"{name}, line {reader.line_num}: {len(row)} fields where the header names {len(header)} "
                    f"({', '.join(header)}); a text with a comma stands in double quotes"
                )
            yield reader.line_num, dict(zip(header, row, strict=True))
    except csv.Error as error:
        raise InputError(f"{name}, line {reader.line_num}: not CSV ({error})") from error


def _field(name: str, line: int, record: dict[str, Any], field: str) -> Any:
    if field not in record:
        raise InputError(f"{name}, line {line}: no {field!r}; there is {', '.join(map(repr, record)) or 'nothing'}")
    return record[field]


def _text(name: str, line: int, record: dict[str, Any]) -> str:
    text = _field(name, line, record, "text")
    if not isinstance(text, str):
        raise InputError(f"{name}, line {line}: its text is {text!r}, which is no text")
    return _filled(name, line, text)


def _filled(name: str, line: int, text: str) -> str:
    if not text.strip():
        raise InputError(f"{name}, line {line}: the text is empty")
    try:
        text.encode()
    except UnicodeEncodeError as error:  # JSON can write half a character
        raise InputError(f"{name}, line {line}: the text holds half a character (a lone surrogate)") from error
    return text
