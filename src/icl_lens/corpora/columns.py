"""Corpora from tables with named columns: user files, or a data set from the Hub.

A label is identified by its *name*: the value in the label column, or the class name that a Hub Parquet file stores for a class
index. The result therefore does not depend on the order in which a release numbers its classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from icl_lens.corpora import records
from icl_lens.errors import InputError
from icl_lens.short_repr import short_list, short_repr


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
        splits: ``train`` and ``test`` -> tables, in order; see :mod:`icl_lens.corpora.records` for the formats.

    Returns:
        A table with the columns split, index (position of the row in its split, from 0), text and label (class index).

    Raises:
        InputError: A file cannot be read, see :func:`icl_lens.corpora.records.read`; it has a row without text or with an
            unknown label; a split is empty; or both splits use the same file.
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
    table = records.read(path, (*layout.text, layout.label))
    names = table.class_names.get(layout.label)
    if names and set(names) != set(layout.classes):
        raise InputError(
            f"{path}: the classes of column {layout.label!r} are {short_list(names)}; task {task} expects "
            f"{', '.join(layout.classes)}"
        )
    index = {name: number for number, name in enumerate(layout.classes)}
    rows = []
    for row in table.rows:
        *pieces, label = row.values
        name = label_name(label, names)
        if name not in index:
            hint = " (-1 marks a withheld label; use a split with labels)" if name == "-1" else ""
            raise InputError(
                f"{row.location}: unknown label {short_repr(name)}{hint}; task {task} expects {', '.join(layout.classes)}"
            )
        text = " ".join(records.text_of(row.location, column, piece) for column, piece in zip(layout.text, pieces, strict=True))
        rows.append((records.require_filled(row.location, text), index[name]))
    return pd.DataFrame(rows, columns=["text", "label"])


def label_name(label: Any, names: Sequence[str] | None = None) -> str:
    """Return a label as text.

    Args:
        label: A value of the label column: a string, a number, a boolean, or None for an empty cell.
        names: Names of the classes, if the column contains class indices.
    """
    if label is None or (isinstance(label, float) and math.isnan(label)):
        return ""
    if isinstance(label, bool):
        return str(label).lower()  # as in JSON and YAML
    if isinstance(label, float) and label.is_integer():  # some programs write integers as floats if a cell is empty
        label = int(label)
    if names is not None and isinstance(label, int):
        return names[label] if 0 <= label < len(names) else str(label)
    return short_repr(label) if isinstance(label, list | dict) else str(label)
