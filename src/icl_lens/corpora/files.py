"""Corpora from the files of the data sets in their original release formats.

A :class:`FileFormat` describes a format: how to split a line, which fields are the text, which field is the label, and the
meaning of the label values. Text is preserved byte for byte: for example, the space at the end of a sentence in SST-2 is a
token for the model.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from icl_lens.corpora import records
from icl_lens.errors import InputError
from icl_lens.short_repr import short_repr


@dataclass(frozen=True)
class FileFormat:
    """The file format of one data set.

    Attributes:
        train: File of the training split, relative to the data root.
        test: File of the split that provides the queries, relative to the data root.
        fields: Names of the fields of a line, in order. The last name may be ``*``, which matches one or more fields.
        text: Names of the text fields; their values are joined by one space.
        labels: Value of the field ``label`` -> class index.
        separator: Separator between fields.
        label_detail: Separator between the class and a detail in the label field, such as ":" in TREC's "class:fine". The
            separator and the detail are dropped.
        header: Whether the first line contains the field names.
        quoted: Whether fields may be in double quotes, as in CSV.
        encoding: Text encoding of the files.
    """

    train: str
    test: str
    fields: tuple[str, ...]
    text: tuple[str, ...]
    labels: dict[str, int] = field(hash=False)
    separator: str = "\t"
    label_detail: str = ""
    header: bool = False
    quoted: bool = False
    encoding: str = "utf-8"


FORMATS: dict[str, FileFormat] = {
    # TSV files of GLUE. The test labels are not public, so the paper uses the dev split for queries.
    "sst2": FileFormat(
        train="sst2/train.tsv",
        test="sst2/dev.tsv",
        fields=("sentence", "label"),
        text=("sentence",),
        labels={"0": 0, "1": 1},
        header=True,
    ),
    # "DESC:manner How did serfdom develop ?": coarse and fine label, a space, the question, in Latin-1.
    "trec": FileFormat(
        train="trec/train_5500.label",
        test="trec/TREC_10.label",
        fields=("label", "question"),
        text=("question",),
        labels={"ABBR": 0, "ENTY": 1, "DESC": 2, "HUM": 3, "LOC": 4, "NUM": 5},
        separator=" ",
        label_detail=":",
        encoding="latin-1",
    ),
    # The original CSV (class, title, description), or a CSV with class and text, where title and description are joined.
    "agnews": FileFormat(
        train="agnews/train.csv",
        test="agnews/test.csv",
        fields=("label", "*"),
        text=("*",),
        labels={"1": 0, "2": 1, "3": 2, "4": 3},
        separator=",",
        quoted=True,
    ),
    # EmoContext (SemEval-2019 task 3): three turns of a chat, and the emotion of the last turn.
    "emoc": FileFormat(
        train="emoc/train.txt",
        test="emoc/test.txt",
        fields=("id", "turn1", "turn2", "turn3", "label"),
        text=("turn1", "turn2", "turn3"),
        labels={"others": 0, "happy": 1, "sad": 2, "angry": 3},
        header=True,
    ),
}


def read(task: str, train: Path, test: Path) -> pd.DataFrame:
    """Return the corpora table of one task, read from its two files.

    Args:
        task: A key of :data:`FORMATS`.
        train: File of the training split.
        test: File of the test split.

    Returns:
        A table with the columns split, index (position of the text in its file, from 0), text and label (class index).

    Raises:
        InputError: A file is missing, does not match the format (the message contains the line number), has an unknown label
            or is empty; or both splits use the same file.
    """
    layout = FORMATS[task]
    if Path(train).exists() and Path(test).exists() and Path(train).samefile(test):
        raise InputError(
            f"task {task}: both splits use {train}; use different files, so that no query is its own demonstration"
        )
    parts = []
    for split, path in (("train", train), ("test", test)):
        rows = list(_rows(Path(path), layout))
        if not rows:
            raise InputError(f"task {task}: the {split} split is empty ({path}); add texts")
        frame = pd.DataFrame(rows, columns=["text", "label"])
        frame.insert(0, "split", split)
        frame.insert(1, "index", range(len(frame)))
        parts.append(frame)
    return pd.concat(parts, ignore_index=True)


def _rows(path: Path, layout: FileFormat) -> Iterator[tuple[str, int]]:
    for number, fields in _lines(path, layout):
        value = fields["label"]
        if layout.label_detail:
            value = value.partition(layout.label_detail)[0]
        if value not in layout.labels:
            raise InputError(f"{path}, line {number}: unknown label {short_repr(value)}; known: {', '.join(layout.labels)}")
        location = f"{path}, line {number}"
        text = " ".join(records.text_of(location, name, fields[name]) for name in layout.text)
        yield records.require_filled(location, text), layout.labels[value]


def _lines(path: Path, layout: FileFormat) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the number (from 1) and fields of each line; the header is checked and skipped."""
    text = records.read_text(path, layout.encoding)
    expected = f"expected {_shape(layout)}"
    found = records.csv_records(str(path), text, expected) if layout.quoted else _plain(text, layout)
    for number, parts in found:
        if layout.header and number == 1:
            if tuple(part.strip() for part in parts) != layout.fields:
                raise InputError(f"{path}, line 1: {expected.replace('expected', 'expected a header with')}")
            continue
        if layout.fields[-1] == "*" and len(parts) >= len(layout.fields):
            first = len(layout.fields) - 1
            parts = [*parts[:first], " ".join(parts[first:])]
        if len(parts) != len(layout.fields):
            raise InputError(f"{path}, line {number}: {expected}, got {len(parts)}")
        yield number, dict(zip(layout.fields, parts, strict=True))


def _plain(text: str, layout: FileFormat) -> Iterator[tuple[int, list[str]]]:
    for number, line in records.lines(text):
        # In TREC, a space separates the label from the question, which also contains spaces. A text never contains a tab.
        max_splits = 1 if layout.separator == " " else -1
        yield number, line.split(layout.separator, max_splits)


def _shape(layout: FileFormat) -> str:
    names = {"\t": "tab-separated", " ": "space-separated", ",": "comma-separated"}
    fields = ", ".join("text (one field or more)" if name == "*" else name for name in layout.fields)
    return f"{len(layout.fields)} {names[layout.separator]} fields ({fields})"
