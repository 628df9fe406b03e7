"""Reader of the user's files: CSV, TSV, JSON Lines and Parquet tables, and plain lines of text.

All commands that read texts of the user read them here, so a file has the same meaning everywhere. Any content gives rows or
a one-line :class:`~icl_lens.errors.InputError`. The rules:

- Text is UTF-8. A UTF-8 byte order mark at the beginning is skipped. A NUL character is an error, because it occurs only in
  UTF-16 and in binary files.
- A line ends with LF or CR LF. If a file contains no LF, CR ends a line. No other character ends a line, because it can occur
  inside a text. In a CSV file, CR also ends a record outside quotes.
- The first record of a CSV or TSV file contains the names of the columns; spaces around a name are ignored. Each record must
  have as many fields as the header. Empty lines are skipped. In a TSV file, a quote is part of the text.
- A line of a JSON Lines file is an object. Empty lines are skipped.
- A column that is read must occur once. Other columns are ignored.
"""

from __future__ import annotations

import codecs
import csv
import io
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import pyarrow as pa
import pyarrow.parquet as pq

from icl_lens import json_text
from icl_lens.errors import InputError
from icl_lens.short_repr import is_visible, reason, short_list, short_repr

Format = Literal["csv", "tsv", "jsonl", "parquet"]
"""A format of tables."""

STANDARD_INPUT = "-"
"""The path that means standard input."""

MAX_CHARACTERS = 10_000_000
"""Maximum number of characters of a field. No model has such a context, so a longer field is a mistake."""

_CSV_LOCK = threading.Lock()
_NO_LIMIT = 2**31 - 1  # the largest C long on all platforms


class Row(NamedTuple):
    """A row of a table.

    Attributes:
        number: Line number of its first line, from 1; for Parquet, the row number, from 1.
        location: The file with the number, for error messages.
        values: The values of the requested columns, in the requested order.
    """

    number: int
    location: str
    values: tuple[Any, ...]


@dataclass(frozen=True)
class Table:
    """The rows of a file.

    Attributes:
        rows: The rows, in the order of the file.
        class_names: Column with class indices -> names of the classes, if a Parquet file of the Hub stores them.
    """

    rows: list[Row]
    class_names: dict[str, list[str]] = field(default_factory=dict)


def format_of(path: Path | str) -> Format | None:
    """Return the format of a table by its file extension, or None if the extension is not that of a table."""
    extension = Path(path).suffix.lower().removeprefix(".")
    return extension if extension in get_args(Format) else None


def title(path: Path | str) -> str:
    """Return the name of a file in error messages."""
    return "standard input" if str(path) == STANDARD_INPUT else str(path)


def read(path: Path | str, columns: Sequence[str], kind: Format | None = None) -> Table:
    """Read the given columns of a table.

    Args:
        path: The file, or ``-`` for standard input.
        columns: Names of the columns to read.
        kind: The format. By default, the file extension determines it.

    Raises:
        InputError: The file cannot be read, has another format, lacks a column, or has a column twice.
    """
    kind = kind or format_of(path)
    if kind is None:
        raise InputError(f"{title(path)}: the name of a table must end in .csv, .tsv, .jsonl or .parquet")
    content = _content(path)
    if kind == "parquet":
        return _parquet(title(path), content, columns)
    text = _decode(title(path), content, "utf-8")
    if kind == "jsonl":
        return Table(list(_json_lines(title(path), text, columns)))
    records = csv_records(title(path), text) if kind == "csv" else tsv_records(text)
    return Table(list(_with_header(title(path), records, columns, kind)))


def read_text(path: Path | str, encoding: str = "utf-8") -> str:
    """Read a text file, without changes to its line ends.

    Args:
        path: The file, or ``-`` for standard input.
        encoding: The encoding of a file without byte order mark.

    Raises:
        InputError: The file cannot be read, or has another encoding.
    """
    return _decode(title(path), _content(path), encoding)


def lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield the number, from 1, and the content of each line, without its line end."""
    end = "\n" if "\n" in text or "\r" not in text else "\r"
    parts = text.split(end)
    if parts[-1] == "":
        parts.pop()
    for number, line in enumerate(parts, 1):
        yield number, line.removesuffix("\r")


def csv_records(name: str, text: str, advice: str = "") -> Iterator[tuple[int, list[str]]]:
    """Yield the number of the first line and the fields of each record of a CSV file; an empty line has no fields.

    Args:
        name: Name of the file in error messages.
        text: The content of the file.
        advice: What to do about an invalid file. By default, how to write quotes.

    Raises:
        InputError: A quote is not closed, or text follows a closing quote.
    """
    advice = advice or "put a field with quotes, commas or line breaks in double quotes, and double each quote inside it"
    # With newline="", line breaks inside quotes are not changed.
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    start = 1
    while True:
        try:
            with _any_field_size():
                fields = next(reader, None)
        except csv.Error as error:
            raise InputError(f"{name}, line {start}: not valid CSV ({error}); {advice}") from error
        if fields is None:
            return
        yield start, fields
        start = reader.line_num + 1


def tsv_records(text: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the number and the fields of each line of a TSV file; an empty line has no fields."""
    for number, line in lines(text):
        yield number, line.split("\t") if line else []


class JsonObject(dict[str, Any]):
    """A JSON object that remembers duplicate keys; a dict keeps only the last value.

    Attributes:
        duplicates: The keys that occur more than once.
    """

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.duplicates = {key for key, count in Counter(key for key, _ in pairs).items() if count > 1}


def json_objects(name: str, text: str, fields: str = "...") -> Iterator[tuple[int, JsonObject]]:
    """Yield the line number and the object of each line of a JSON Lines file.

    Args:
        name: Name of the file in error messages.
        text: The content of the file.
        fields: The expected fields of an object, for error messages.

    Raises:
        InputError: A line is not a JSON object.
    """
    for number, line in lines(text):
        if not line.strip():
            continue
        location, expected = f"{name}, line {number}", f"each line must be a JSON object such as {{{fields}}}"
        try:
            record = json_text.loads(line, object_pairs_hook=JsonObject)
        except ValueError as error:
            raise InputError(f"{location}: not valid JSON ({reason(error)}); {expected}") from error
        if not isinstance(record, JsonObject):
            raise InputError(f"{location}: {expected}, got {short_repr(record)}")
        yield number, record


def text_of(location: str, column: str, value: Any) -> str:
    """Return a value of a text column, unchanged. It may be empty.

    Raises:
        InputError: The value is not a string, is too long, or contains a lone surrogate.
    """
    if not isinstance(value, str):
        raise InputError(f"{location}: {column!r} must be a string, got {short_repr(value)}")
    _require_size(location, column, value)
    try:
        value.encode()
    except UnicodeEncodeError as error:  # JSON can contain a lone surrogate
        raise InputError(
            f"{location}: {column!r} contains a lone surrogate (half of a character) at character {error.start}; remove it"
        ) from error
    return value


def require_filled(location: str, text: str) -> str:
    """Return a text if it contains a visible character.

    Raises:
        InputError: It contains no visible character.
    """
    if not is_visible(text):
        raise InputError(f"{location}: the text is empty; add a text, or remove it")
    return text


def _require_size(location: str, column: str, value: str) -> None:
    if len(value) > MAX_CHARACTERS:
        raise InputError(
            f"{location}: {column!r} has {len(value):,} characters, but a field can have at most {MAX_CHARACTERS:,}; shorten "
            "it, or add a missing quote"
        )


def _content(path: Path | str) -> bytes:
    try:
        return sys.stdin.buffer.read() if str(path) == STANDARD_INPUT else Path(path).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: the path contains a NUL character
        raise InputError(
            f"{title(path)} cannot be read ({getattr(error, 'strerror', None) or error}); check the path"
        ) from error


def _decode(name: str, content: bytes, encoding: str) -> str:
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)):
        raise InputError(f"{name} is UTF-16 or UTF-32 text; save it as UTF-8")
    if content.startswith(codecs.BOM_UTF8):  # spreadsheet programs write it
        content, encoding = content.removeprefix(codecs.BOM_UTF8), "utf-8"
    nul = content.find(b"\0")
    if nul >= 0:
        raise InputError(f"{name}, line {_line_at(content, nul)}: not text (a NUL byte, as in UTF-16); save it as UTF-8")
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        location = f"{name}, line {_line_at(content, error.start)}"
        expected = encoding.upper()
        raise InputError(f"{location}: not {expected} text (byte {error.start}); save the file as {expected}") from error


def _line_at(content: bytes, position: int) -> int:
    return content.count(b"\n" if b"\n" in content else b"\r", 0, position) + 1


def _with_header(name: str, records: Iterator[tuple[int, list[str]]], columns: Sequence[str], kind: Format) -> Iterator[Row]:
    header: list[str] | None = None
    positions: list[int] = []
    for number, fields in records:
        if header is None:
            if not fields or (len(fields) == 1 and not fields[0].strip()):
                continue
            header = [column.strip() for column in fields]
            positions = _positions(name, header, columns)
            continue
        # A line of spaces is an empty line, unless it can be the only field of a record.
        if not fields or (len(fields) == 1 < len(header) and fields[0].isspace()):
            continue
        location = f"{name}, line {number}"
        if len(fields) != len(header):
            advice = (
                "put a text with a comma or a line break in double quotes"
                if kind == "csv"
                else "a text cannot contain a tab or a line break; write the table as CSV"
            )
            raise InputError(
                f"{location}: {len(fields)} {'field' if len(fields) == 1 else 'fields'}, but the header has {len(header)} "
                f"({short_list(header)}); {advice}"
            )
        values = tuple(fields[position] for position in positions)
        for column, value in zip(columns, values, strict=True):
            _require_size(location, column, value)
        yield Row(number, location, values)
    if header is None:
        _positions(name, [], columns)


def _positions(name: str, header: Sequence[str], columns: Sequence[str]) -> list[int]:
    """Return the position of each column in a header."""
    positions = []
    for column in columns:
        label = column if column in header else column.strip()
        if label not in header:
            found = f"columns: {short_list(header)}" if header else "the file is empty"
            raise InputError(f"{name} has no column {column!r} ({found}); rename a column, or add it")
        if header.count(label) > 1:
            raise InputError(f"{name} has {header.count(label)} columns with the name {column!r}; rename or remove all but one")
        positions.append(header.index(label))
    return positions


def _json_lines(name: str, text: str, columns: Sequence[str]) -> Iterator[Row]:
    for number, record in json_objects(name, text, ", ".join(f'"{column}": ...' for column in columns)):
        location = f"{name}, line {number}"
        for column in columns:
            if column not in record:
                raise InputError(f"{location}: missing field {column!r} (found: {short_list(map(repr, record)) or 'none'})")
            if column in record.duplicates:
                raise InputError(f"{location}: duplicate field {column!r}; write it once")
        yield Row(number, location, tuple(record[column] for column in columns))


def _parquet(name: str, content: bytes, columns: Sequence[str]) -> Table:
    try:
        table = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True).read()
        names = table.column_names
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError(f"{name} is not a valid Parquet table ({reason(error)}); copy or create the file again") from error
    positions = _positions(name, names, columns)
    values = [_values(name, column, table.column(position)) for column, position in zip(columns, positions, strict=True)]
    rows = [Row(number, f"{name}, row {number}", row) for number, row in enumerate(zip(*values, strict=True), 1)]
    return Table(rows, _class_names(name, table.schema))


def _values(name: str, column: str, values: pa.ChunkedArray) -> list[Any]:
    """Return the values of a column as Python objects."""
    faults = (pa.ArrowException, ValueError, TypeError, OverflowError)  # such as text that is not UTF-8, or the year 10000
    try:
        return values.to_pylist()
    except faults:
        for number, value in enumerate(values, 1):
            try:
                value.as_py()
            except faults as error:
                raise InputError(
                    f"{name}, row {number}: {column!r} cannot be read ({reason(error)}); correct the value"
                ) from error
        raise


def _class_names(name: str, schema: pa.Schema) -> dict[str, list[str]]:
    """Return the names of the classes of each column that the Hub's library declares as class indices."""
    if b"huggingface" not in (schema.metadata or {}):
        return {}
    from datasets import ClassLabel, Features  # imported only here because the library is large

    try:
        features = Features.from_arrow_schema(schema)
    except Exception as error:  # The metadata can be any JSON, and the library does not document what it raises.
        raise InputError(
            f"{name}: the metadata of its columns cannot be read ({reason(error)}); create the file again with the library "
            "datasets"
        ) from error
    return {column: list(feature.names) for column, feature in features.items() if isinstance(feature, ClassLabel)}


@contextmanager
def _any_field_size() -> Iterator[None]:
    """Allow CSV fields of any size. The default limit is 128 KiB. It is global, so it is restored."""
    with _CSV_LOCK:
        limit = csv.field_size_limit(_NO_LIMIT)
        try:
            yield
        finally:
            csv.field_size_limit(limit)
