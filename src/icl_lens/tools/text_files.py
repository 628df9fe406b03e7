"""The user's files of demonstrations and texts, for the commands that use the user's own texts.

:mod:`icl_lens.corpora.records` reads the files. Unlike a corpus (:mod:`icl_lens.corpora`), such a file is used completely: no
texts are sampled, and their order in the file is their order in the prompt.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple

from icl_lens.corpora import records
from icl_lens.corpora.columns import label_name
from icl_lens.errors import InputError
from icl_lens.short_repr import short_repr
from icl_lens.tasks.labels import label_indices
from icl_lens.tasks.task import Task

Format = Literal["lines", "jsonl", "csv", "tsv", "parquet"]

# Extensions of formats that would be misread as one text per line.
_NOT_LINES = (".json", ".ndjson")


class Text(NamedTuple):
    """A text and its line number.

    Attributes:
        line: The number of its first line, from 1; for Parquet, the row number, from 1.
        text: The unchanged text.
    """

    line: int
    text: str


def demonstrations(path: Path | str, task: Task) -> tuple[list[str], list[int]]:
    """Read demonstrations from a table with the columns ``text`` and ``label``, in the order of the file.

    Args:
        path: A .csv, .tsv, .jsonl or .parquet file.
        task: The task. A label is one of its label words (the leading space may be omitted), the name of one of its classes,
            or a class index if no label word or class name is a number.

    Raises:
        InputError: The file cannot be read, see :func:`icl_lens.corpora.records.read`; it is empty, or has an empty text or an
            unknown label.

    Returns:
        The texts and the class indices.
    """
    if records.format_of(path) is None:
        raise InputError(f"{path}: demonstrations must be a .csv, .tsv, .jsonl or .parquet file with text and label")
    known = label_indices(task)
    table = records.read(path, ("text", "label"))
    texts, labels = [], []
    for row in table.rows:
        text, label = row.values
        name = label_name(label, table.class_names.get("label")).strip()
        if name not in known:
            words = ", ".join(word.strip() for word in task.label_words)
            raise InputError(f"{row.location}: unknown label {short_repr(label)}; labels of task {task.name}: {words}")
        texts.append(records.require_filled(row.location, records.text_of(row.location, "text", text)))
        labels.append(known[name])
    if not texts:
        raise InputError(f"{path} contains no demonstrations; add at least one text with its label")
    return texts, labels


def texts(path: Path | str, kind: Format | None = None) -> list[Text]:
    """Read texts from a file or from standard input.

    Args:
        path: The file, or ``-`` for standard input.
        kind: The format: ``lines``, one text per line, or a table with a column ``text``, see :mod:`icl_lens.corpora.records`.
            By default, the file extension determines the format; ``lines`` is used for unknown extensions.

    Raises:
        InputError: The input cannot be read, see :func:`icl_lens.corpora.records.read`; or it has no text, or an empty text.
    """
    name = records.title(path)
    if kind is None and Path(name).suffix.lower() in _NOT_LINES:
        raise InputError(
            f"{path} is JSON; add --format jsonl if each line is an object with text, or --format lines if each line is a text"
        )
    kind = kind or records.format_of(name) or "lines"
    if kind == "lines":
        rows = [(number, f"{name}, line {number}", line) for number, line in records.lines(records.read_text(path))]
    else:
        rows = [(row.number, row.location, row.values[0]) for row in records.read(path, ("text",), kind).rows]
    found = [
        Text(number, records.require_filled(location, records.text_of(location, "text", text)))
        for number, location, text in rows
    ]
    if not found:
        raise InputError(f"{name} contains no texts; add at least one")
    return found
