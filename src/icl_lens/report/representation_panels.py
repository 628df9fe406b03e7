"""Shared drawing functions for the figures of representation change: styles of contrasts, panels of cells and of layers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from icl_lens.artifacts import parquet
from icl_lens.artifacts.tensors import read as read_tensors
from icl_lens.report import figures
from icl_lens.studies.representation_change.representation_change import summary
from icl_lens.studies.representation_change.representation_change.study import STUDY

LOOKS = {
    "none": ("0.35", "o", "no examples"),
    "examples": ("#0072b2", "o", "examples"),
    "control": ("#d55e00", "s", "as many that tell nothing"),
    "examples - none": ("#0072b2", "o", "examples less none"),
    "control - none": ("#d55e00", "s", "control less none"),
    "examples - control": ("#009e73", "^", "examples less control"),
}
"""Colour, marker and legend label of each contrast."""

CONTROL_NOTE = (
    "The control has as many examples, as long, that tell nothing: the y of each list shuffled, or answers that stand nowhere "
    "in their story."
)


class Loaded:
    """The data of one model and task that a figure reads.

    Attributes:
        rows: The ``representation_change`` table.
        metadata: Metadata of the table.
        tensors: Tensors saved with the table; empty if they are not requested.
    """

    def __init__(self, folder: Path | str, tensors: bool) -> None:
        stem = Path(folder) / STUDY.name
        self.rows, self.metadata = parquet.read(stem.with_suffix(".parquet"), STUDY.schema)
        self.tensors: dict[str, np.ndarray] = read_tensors(stem.with_suffix(".safetensors"))[0] if tensors else {}


def load(studies: Iterable[Path | str], tensors: bool = False) -> list[Loaded]:
    """Load the table, and optionally the tensors, of each folder, see :class:`Loaded`."""
    return [Loaded(folder, tensors) for folder in studies]


def cells(parts: Iterable[Loaded]) -> list[tuple[Loaded, dict[str, Any]]]:
    """Return the source data and the names (model, task, number of distractors) of each panel or row of panels."""
    return [(part, names) for part in parts for names, _ in summary.cells(part.rows)]


def of_cell(table: pd.DataFrame, names: dict[str, Any]) -> pd.DataFrame:
    """Select the rows of one model, task and number of distractors, see :func:`cells`."""
    return table[(table[list(names)] == pd.Series(names)).all(axis=1)]


def cell_title(loaded: Loaded, distractors: int) -> tuple[str, str]:
    """Return the two title lines of a panel: the model, and the task.

    The second line includes the number of distractors if the table has more than one.
    """
    task = figures.task_title(loaded.metadata, loaded.rows["task"].iloc[0])
    several = loaded.rows["distractors"].nunique() > 1
    return figures.model_title(
        loaded.metadata
    ), f"{task}, {distractors} distractor{'s' * (distractors != 1)}" if several else task


def curves(axes: Axes, table: pd.DataFrame, shown: Sequence[str], x: str = "layer") -> list[Any]:
    """Draw one line with its interval band for each contrast in the table.

    Args:
        axes: Axes to draw on.
        table: Table with the columns contrast, ``x``, value, low, high.
        shown: The contrasts to draw, in order.
        x: Column that is plotted along the x axis.

    Returns:
        The legend handles.
    """
    handles = []
    for contrast in shown:
        line = table[table["contrast"] == contrast].sort_values(x)
        if line.empty:
            continue
        colour, marker, label = LOOKS[contrast]
        # Dashed, so that the control does not hide the examples when both have the same values.
        style = "--" if contrast.startswith("control") else "-"
        handles += axes.plot(line[x], line["value"], style, color=colour, marker=marker, markersize=3, label=label)
        axes.fill_between(
            line[x].astype(float), line["low"].astype(float), line["high"].astype(float), color=colour, alpha=0.18, lw=0
        )
    axes.xaxis.get_major_locator().set_params(integer=True)
    return handles


def notes(item: str, said: str, parts: Sequence[Loaded]) -> list[str]:
    """Return the notes below a figure: its title, the number of queries, and the notes from the tables' metadata.

    Args:
        item: Name of the figure.
        said: Sentences that are specific to the figure.
        parts: The data that the figure was drawn from.
    """
    counts = []
    for part in parts:
        task = figures.task_title(part.metadata, part.rows["task"].iloc[0])
        queries = sorted(set(part.rows.groupby("distractors")["query_id"].nunique()))
        counts.append(f"{part.metadata['model']['name']}, {task}: {' or '.join(map(str, queries))} queries")
    shown = STUDY.item(item)
    theirs = shown.paper_models
    first = (
        f"{shown.title}. {said} {CONTROL_NOTE} {'; '.join(counts)}; each stands in every condition, so differences are "
        f"paired.{f' The study shows {theirs}.' if theirs else ''}"
    )
    return [first, *figures.notes([part.metadata for part in parts])]
