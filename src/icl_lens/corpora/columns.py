"""Corpora from tables with named columns: user files, or a data set from the Hub.

A label is identified by its *name*: the value in the label column, or the class name that a Hub Parquet file stores for a class
index. The result therefore does not depend on the order in which a release numbers its classes.
"""

from __future__ import annotations

import csv
import json
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from icl_lens.errors import InputError


@dataclass(frozen=True)
class Columns:
    """The columns with the text and the label, and the names of the labels.

    Attributes:
        text: Names of the text columns; their values are joined by one space.
        label: Name of the label column.
        classes: Names of the labels, in the order of the class indices.
    """

    text: tuple[str, ...]
    label: str
    classes: tuple[str, ...]


def read(task: str, layout: Columns, splits: Mapping[str, Sequence[Path]]) -> pd.DataFrame:
    """Return the corpora table of one task, read from the files of its splits.

    Args:
        task: Name of the task, for error messages.
        layout: The columns of the files.
        splits: ``train`` and ``test`` -> files, in order: .csv (fields may be quoted), .tsv (a quote is part of the text),
            .jsonl (one object per line) or .parquet.

    Returns:
        A table with the columns split, index (position of the row in its split, from 0), text and label (class index).

    Raises:
        InputError: A file cannot be read, lacks a column, or has a row without text or with an unknown label; a split is empty;
            or both splits use the same file.
    """
    paths = [Path(path).resolve() for files in splits.values() for path in files]
    duplicate = next((path for path in paths if paths.count(path) > 1), None)
    if duplicate:
        raise InputError(
            f"task {task}: both splits use {duplicate.name}; use different files, so that no query is its own demonstration"
        )
    parts = []
    for split, files in splits.items():
        frames = [_labelled(task, Path(path), layout) for path in files]
        frame = pd.concat(frames, ignore_index=True)
        if frame.empty:
            raise InputError(
                f"task {task}: the {split} split is empty ({', '.join(Path(path).name for path in files)}); add texts"
            )
        frame.insert(0, "split", split)
        frame.insert(1, "index", range(len(frame)))
        parts.append(frame)
    return pd.concat(parts, ignore_index=True)


def _labelled(task: str, path: Path, layout: Columns) -> pd.DataFrame:
    """Return the texts and class indices of one file."""
    table, names = _table(path)
    missing = [column for column in (*layout.text, layout.label) if column not in table.columns]
    if missing:
        available = ", ".join(map(str, table.columns))
        raise InputError(
            f"{path} has no column {missing[0]!r} ({f'columns: {available}' if available else 'the file is empty'})"
        )
    if names.get(layout.label) and set(names[layout.label]) != set(layout.classes):
        raise InputError(
            f"{path}: the classes of column {layout.label!r} are {', '.join(names[layout.label])}; task {task} expects "
            f"{', '.join(layout.classes)}"
        )
    index = {name: number for number, name in enumerate(layout.classes)}
    rows = []
    for number, row in enumerate(table[[*layout.text, layout.label]].itertuples(index=False), 1):
        *pieces, label = row
        name = _name(label, names.get(layout.label))
        if name not in index:
            hint = " (-1 marks a withheld label; use a split with labels)" if name == "-1" else ""
            raise InputError(
                f"{path}, row {number}: unknown label {name!r}{hint}; task {task} expects {', '.join(layout.classes)}"
            )
        if any(not isinstance(piece, str) for piece in pieces):
            raise InputError(
                f"{path}, row {number}: {', '.join(layout.text)} must contain text, got "
                f"{next(piece for piece in pieces if not isinstance(piece, str))!r}"
            )
        text = " ".join(pieces)
        if not text.strip():
            raise InputError(f"{path}, row {number}: the text is empty; add a text, or remove the row")
        rows.append((text, index[name]))
    return pd.DataFrame(rows, columns=["text", "label"])


def _name(label: Any, names: Sequence[str] | None) -> str:
    """Return a label as text; a class index is replaced by its name if the file stores one."""
    if label is None or (isinstance(label, float) and math.isnan(label)):  # an empty cell is None or NaN
        return ""
    if isinstance(label, bool | np.bool_):
        return str(bool(label)).lower()  # the spelling of JSON and YAML
    if isinstance(label, float) and label.is_integer():  # pandas reads integers as floats if a cell is empty
        label = int(label)
    if names is not None and isinstance(label, int | np.integer):
        return names[label] if 0 <= label < len(names) else str(label)
    return str(label)


def _table(path: Path) -> tuple[pd.DataFrame, dict[str, list[str]]]:
    """Return the table of a file, and the class names of each column with class indices."""
    try:
        match path.suffix:
            case ".csv":
                return _separated(path, sep=","), {}
            case ".tsv":
                return _separated(path, sep="\t", quoting=csv.QUOTE_NONE), {}
            case ".jsonl":
                return _json_lines(path), {}
            case ".parquet":
                return _parquet(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error})") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    except (pd.errors.ParserError, pd.errors.ParserWarning, pd.errors.EmptyDataError, pa.ArrowException) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"{path} is not a {path.suffix.removeprefix('.').upper()} table ({reason})") from error
    raise InputError(f"{path}: the name of a table must end in .csv, .tsv, .jsonl or .parquet")


def _separated(path: Path, **layout: Any) -> pd.DataFrame:
    with warnings.catch_warnings():
        # pandas would drop the last fields of rows that are longer than the header, or use the first field as index.
        warnings.simplefilter("error", pd.errors.ParserWarning)
        return pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8", index_col=False, **layout)


def _json_lines(path: Path) -> pd.DataFrame:
    rows = []
    # Only "\n" ends a line. str.splitlines would also split at other characters, which can occur inside a text.
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InputError(f"{path}, line {number}: not valid JSON ({error})") from error
        if not isinstance(row, dict):
            raise InputError(f'{path}, line {number}: each line must be one JSON object, such as {{"text": ..., "label": ...}}')
        rows.append(row)
    return pd.DataFrame(rows, dtype=object)


def _parquet(path: Path) -> tuple[pd.DataFrame, dict[str, list[str]]]:
    table = pq.read_table(path)
    if b"huggingface" not in (table.schema.metadata or {}):
        return table.to_pandas(), {}  # not written by the Hub's library, so it has no class names
    from datasets import ClassLabel, Features  # imported only here because the library is large

    try:
        features = Features.from_arrow_schema(table.schema)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"{path}: the metadata of its columns cannot be read ({error})") from error
    names = {column: feature.names for column, feature in features.items() if isinstance(feature, ClassLabel)}
    return table.to_pandas(), names
