"""Readers of the user's files of demonstrations and texts, for the commands that use the user's own texts.

Texts are read with their line numbers. Unlike a corpus (:mod:`icl_lens.corpora`), such a file is used completely: no texts are
sampled, and their order in the file is their order in the prompt.
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
    """A text and its line number.

    Attributes:
        line: The line number, counted from 1. For a record of several lines, the number of the last line.
        text: The unchanged text.
    """

    line: int
    text: str


def demonstrations(path: Path | str, task: Task) -> tuple[list[str], list[int]]:
    """Read demonstrations from a JSONL or CSV file with ``text`` and ``label``, in the order of the file.

    Args:
        path: A .jsonl or .csv file in UTF-8. A CSV file has a header and quotes fields where necessary.
        task: The task. A label is one of its label words (the leading space may be omitted), the name of one of its classes,
            or a class index if no label word or class name is a number.

    Raises:
        InputError: The file cannot be read, is empty, or has an invalid record, an empty text or an unknown label.

    Returns:
        The texts and the class indices.
    """
    kind = _format_by_extension(str(path))
    if kind == "lines":
        raise InputError(f"{path}: demonstrations must be a .jsonl or .csv file with text and label")
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
            raise InputError(f"{path}, line {line}: unknown label {label!r}; labels of task {task.name}: {words}")
        texts.append(_text(str(path), line, record))
        labels.append(known[name])
    if not texts:
        raise InputError(f"{path} contains no demonstrations; add at least one text with its label")
    return texts, labels


def texts(path: Path | str, kind: Format | None = None) -> list[Text]:
    """Read texts from a file or from standard input.

    Args:
        path: The file, or ``-`` for standard input.
        kind: The format: ``lines``, one text per line; ``jsonl``, one object with ``text`` per line; ``csv``, a header and a
            column ``text``. By default, the file extension determines the format; ``lines`` is used for unknown extensions.

    Raises:
        InputError: The input cannot be read or has no text, or a line is empty or is not a valid record.
    """
    name = "standard input" if str(path) == STANDARD_INPUT else str(path)
    kind = kind or _format_by_extension(name)
    content = _read(str(path))
    if kind == "lines":
        lines = content.removesuffix("\n").split("\n") if content else []
        found = [Text(number, _require_filled(name, number, line.removesuffix("\r"))) for number, line in enumerate(lines, 1)]
    else:
        found = [Text(line, _text(name, line, record)) for line, record in _records(name, content, kind)]
    if not found:
        raise InputError(f"{name} contains no texts")
    return found


def _format_by_extension(name: str) -> Format:
    extension = Path(name).suffix.lower().removeprefix(".")
    return extension if extension in ("jsonl", "csv") else "lines"


def _read(path: str) -> str:
    name = "standard input" if path == STANDARD_INPUT else path
    try:
        content = sys.stdin.buffer.read() if path == STANDARD_INPUT else Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{name} cannot be read ({error.strerror})") from error
    try:
        return content.decode("utf-8-sig")  # skips the byte order mark that spreadsheet programs write
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise InputError(f"{name}, line {line}: not UTF-8 text (byte {error.start})") from error


def _records(name: str, content: str, kind: Format) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the number of the last line and the fields of each record. Empty lines between records are skipped."""
    if kind == "csv":
        yield from _rows(name, content)
        return
    # Only "\n" ends a line; str.splitlines would also split at other characters inside a text.
    for number, line in enumerate(content.split("\n"), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{name}, line {number}: not valid JSON ({error})") from error
        if not isinstance(record, dict):
            raise InputError(f'{name}, line {number}: each line must be a JSON object such as {{"text": ...}}')
        yield number, record


def _rows(name: str, content: str) -> Iterator[tuple[int, dict[str, Any]]]:
    # newline="" keeps line breaks inside quotes unchanged.
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
                    f"{name}, line {reader.line_num}: {len(row)} fields, but the header has {len(header)} "
                    f"({', '.join(header)}); put a text with a comma in double quotes"
                )
            yield reader.line_num, dict(zip(header, row, strict=True))
    except csv.Error as error:
        raise InputError(f"{name}, line {reader.line_num}: not valid CSV ({error})") from error


def _field(name: str, line: int, record: dict[str, Any], field: str) -> Any:
    if field not in record:
        raise InputError(f"{name}, line {line}: missing field {field!r} (found: {', '.join(map(repr, record)) or 'none'})")
    return record[field]


def _text(name: str, line: int, record: dict[str, Any]) -> str:
    text = _field(name, line, record, "text")
    if not isinstance(text, str):
        raise InputError(f"{name}, line {line}: 'text' must be a string, got {text!r}")
    return _require_filled(name, line, text)


def _require_filled(name: str, line: int, text: str) -> str:
    if not text.strip():
        raise InputError(f"{name}, line {line}: the text is empty")
    try:
        text.encode()
    except UnicodeEncodeError as error:  # JSON can contain a lone surrogate
        raise InputError(f"{name}, line {line}: the text contains half a character (a lone surrogate)") from error
    return text
