"""What the figures and tables of components share: what they read, and what is written in a cell and below."""

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
    """What a figure reads of one model and task.

    Attributes:
        rows: Its components table.
        metadata: The table's.
        tensors: Those beside it.
        answers: What the components answer, from the tensors.
    """

    rows: pd.DataFrame
    metadata: dict[str, Any]
    tensors: Mapping[str, np.ndarray]
    answers: Answers

    @property
    def task_title(self) -> str:
        """The task's name as a reader knows it."""
        return figures.task_title(self.metadata, self.answers.task)


def load(studies: Iterable[Path | str]) -> list[Loaded]:
    """The table and the tensors in each folder."""
    found = []
    for folder in studies:
        stem = Path(folder) / STUDY.name
        rows, metadata = parquet.read(stem.with_suffix(".parquet"), STUDY.schema)
        tensors, _ = read_tensors(stem.with_suffix(".safetensors"))
        answers = Answers.of(metadata["model"]["name"], rows["task"].iloc[0], tensors)
        found.append(Loaded(rows, metadata, tensors, answers))
    return found


def titled(table: pd.DataFrame, parts: Iterable[Loaded]) -> pd.DataFrame:
    """A table with the titles of tasks in place of their names."""
    titles = {part.answers.task: part.task_title for part in parts}
    return table.assign(task=table["task"].map(lambda task: titles.get(task, task)))


def cell(row: Mapping[str, Any], digits: int) -> str:
    """A value with its interval, so many decimals each, as ``0.52 [0.40, 0.61]``.

    A value that does not exist (NaN) is ``-``; one without an interval is a number with three significant digits.
    """
    value, low, high = (row[name] for name in ("value", "low", "high"))
    if np.isnan(value):
        return "-"
    return f"{value:.3g}" if np.isnan(low) else f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def notes(item: str, said: Sequence[str], parts: Sequence[Loaded]) -> list[str]:
    """The notes below a figure or table: what it shows, which models, and what the tables' metadata say.

    Args:
        item: The figure or table.
        said: What it shows, one note each.
        parts: What it was made from.
    """
    shown = STUDY.item(item)
    models = ", ".join(dict.fromkeys(part.answers.model for part in parts))
    return [
        *said,
        f"The paper shows {shown.paper_models}, this {shown.kind} {models}.",
        *figures.notes([part.metadata for part in parts]),
    ]
