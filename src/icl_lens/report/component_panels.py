"""Shared functions for the figures and tables of components: loading of data, formatting of cells, and notes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from icl_lens.artifacts import parquet
from icl_lens.artifacts.tensors import read as read_tensors
from icl_lens.report import figures
from icl_lens.studies.component_reweighting.components.study import STUDY
from icl_lens.studies.component_reweighting.components.summary import Answers


@dataclass(frozen=True)
class Loaded:
    """The data of one model and task that a figure reads.

    Attributes:
        rows: The ``components`` table.
        metadata: Metadata of the table.
        tensors: Tensors saved with the table.
        answers: Predictions of the components, computed from the tensors.
    """

    rows: pd.DataFrame
    metadata: dict[str, Any]
    tensors: Mapping[str, np.ndarray]
    answers: Answers

    @property
    def task_title(self) -> str:
        """Title of the task."""
        return figures.task_title(self.metadata, self.answers.task)


def load(studies: Iterable[Path | str]) -> list[Loaded]:
    """Load the table and the tensors of each folder."""
    found = []
    for folder in studies:
        stem = Path(folder) / STUDY.name
        rows, metadata = parquet.read(stem.with_suffix(".parquet"), STUDY.schema)
        tensors, _ = read_tensors(stem.with_suffix(".safetensors"))
        answers = Answers.of(metadata["model"]["name"], rows["task"].iloc[0], tensors)
        found.append(Loaded(rows, metadata, tensors, answers))
    return found


def titled(table: pd.DataFrame, parts: Iterable[Loaded]) -> pd.DataFrame:
    """Return a table with task names replaced by task titles."""
    titles = {part.answers.task: part.task_title for part in parts}
    return table.assign(task=table["task"].map(lambda task: titles.get(task, task)))


def cell(row: Mapping[str, Any], digits: int) -> str:
    """Format a value with its interval, for example ``0.52 [0.40, 0.61]``.

    A missing value (NaN) is formatted as ``-``, and a value without an interval with three significant digits.

    Args:
        row: Mapping with the keys value, low, high.
        digits: Number of decimals of the value and of the interval's ends.
    """
    value, low, high = (row[name] for name in ("value", "low", "high"))
    if np.isnan(value):
        return "-"
    return f"{value:.3g}" if np.isnan(low) else f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def notes(item: str, said: Sequence[str], parts: Sequence[Loaded]) -> list[str]:
    """Return the notes below a figure or table: its content, the models, and the notes from the tables' metadata.

    Args:
        item: Name of the figure or table.
        said: Notes that describe the content.
        parts: The data that the item was made from.
    """
    shown = STUDY.item(item)
    models = ", ".join(dict.fromkeys(part.answers.model for part in parts))
    return [
        *said,
        f"The paper shows {shown.paper_models}, this {shown.kind} {models}.",
        *figures.notes([part.metadata for part in parts]),
    ]
