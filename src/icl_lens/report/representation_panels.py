"""Shared functions for the figures of representation change: loading of data, styles of contrasts, titles, lines, and notes."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
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

STYLES = {
    "none": (figures.SERIES[2], "no examples"),
    "examples": (figures.SERIES[0], "examples"),
    "control": (figures.SERIES[1], "uninformative examples"),
    "examples - none": (figures.SERIES[0], "examples minus none"),
    "control - none": (figures.SERIES[1], "uninformative minus none"),
    "examples - control": (figures.SERIES[4], "examples minus uninformative"),
}
"""Style and legend label of each contrast."""

CONTROL_NOTE = (
    "The control (uninformative examples) has the same number of examples of the same length: the y values of each list are "
    "shuffled, or the answers do not occur in their story."
)

PAGE = 7.6
"""Height in inches, without the caption, of a figure that fits on a page."""


# Characters per line of the label of a row of panels.
_ROW_CHARACTERS = 18


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

    @property
    def model(self) -> str:
        """Name of the model."""
        return self.metadata["model"]["name"]

    @property
    def task(self) -> str:
        """Name of the task."""
        return self.rows["task"].iloc[0]

    @property
    def task_title(self) -> str:
        """Title of the task."""
        return figures.task_title(self.metadata, self.task)


def load(studies: Iterable[Path | str], tensors: bool = False) -> list[Loaded]:
    """Load the table, and optionally the tensors, of each folder, see :class:`Loaded`."""
    return [Loaded(folder, tensors) for folder in studies]


@dataclass(frozen=True)
class Cell:
    """The data of one model, task and number of distractors, and its title.

    Attributes:
        part: Data of the model and task.
        names: Model, task and number of distractors.
        title: Lines of the title: the model if the figure shows several, the task, and the number of distractors if the task
            has several. User text is escaped.
    """

    part: Loaded
    names: dict[str, Any]
    title: tuple[str, ...]

    @property
    def name(self) -> str:
        """Model, task and number of distractors, for a note."""
        return ", ".join([self.part.model, *_task_lines(self.part, self.names["distractors"])])

    def row_label(self, quantity: str) -> str:
        """Return the label of the y axis of a row of panels: the title, wrapped to the height of a row, and the quantity."""
        return "\n".join([part for line in self.title for part in textwrap.wrap(line, _ROW_CHARACTERS)] + [quantity])

    def select(self, table: pd.DataFrame) -> pd.DataFrame:
        """Select the rows of this model, task and number of distractors."""
        return table[(table[list(self.names)] == pd.Series(self.names)).all(axis=1)]


def cells(parts: Sequence[Loaded]) -> list[Cell]:
    """Return the cells of the data, in order. A figure has a panel, or a row or column of panels, for each."""
    several = len({part.model for part in parts}) > 1
    found = []
    for part in parts:
        for names, _ in summary.cells(part.rows):
            lines = [part.model] if several else []
            lines += _task_lines(part, names["distractors"])
            if part.metadata["observed"]["untrained"]:
                lines.append("(not trained on such text)")
            found.append(Cell(part, names, tuple(map(figures.plain, lines))))
    return found


def _task_lines(part: Loaded, distractors: int) -> list[str]:
    """Return the title of the task, and the number of distractors if the task has more than one."""
    if part.rows["distractors"].nunique() == 1:
        return [part.task_title]
    return [part.task_title, f"{distractors} distractor{'s' * (distractors != 1)}"]


def layer_axis(axes: Axes, embeddings: bool, label: bool = True) -> None:
    """Set integer ticks and the label of an x axis that counts layers from 0.

    Args:
        axes: Axes to draw on.
        embeddings: Whether 0 is the embeddings (an axis of hidden states) or the first layer (an axis of attention).
        label: Whether to write the axis label.
    """
    figures.layer_axis(axes, 0, label=False)
    if label:
        space = "\n" if axes.get_subplotspec().get_gridspec().ncols > 3 else " "
        axes.set_xlabel(f"layer{space}(0 = {'embeddings' if embeddings else 'first'})")


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
        style, label = STYLES[contrast]
        places, value, low, high = (line[name].to_numpy(float) for name in (x, "value", "low", "high"))
        # Dashed, so that the control does not hide the examples if both have the same values.
        options = {**style.plot, **({"ls": "--"} if contrast.startswith("control") else {})}
        handles += axes.plot(places, value, label=label, **options)
        axes.fill_between(places, low, high, color=style.colour, alpha=0.18, lw=0)
    return handles


def notes(
    item: str, parts: Sequence[Loaded], marks: str, warnings: Sequence[str] = (), details: Sequence[str] = ()
) -> list[str]:
    """Return the notes of a figure, the most important first.

    The first note is the caption: the title, the models and tasks, the numbers of queries and seeds, and what the marks are.
    Warnings, the notes from the tables' metadata, and details follow.

    Args:
        item: Name of the figure.
        parts: The data that the figure was drawn from.
        marks: Sentences that explain the lines, bands and marks.
        warnings: Notes without which the figure could be misunderstood.
        details: Further notes.
    """
    counts: dict[str, set[int]] = {}
    for part in parts:
        counts.setdefault(part.task_title, set()).update(part.rows.groupby("distractors")["query_id"].nunique())
    queries = ", ".join(f"{task} ({' or '.join(map(str, sorted(found)))} queries)" for task, found in counts.items())
    seeds = len({seed for part in parts for seed in part.rows["seed"]})
    shown = STUDY.item(item)
    models = ", ".join(dict.fromkeys(part.model for part in parts))
    return [
        f"{shown.title}. Model: {models}; {queries}; {seeds} seed{'s' * (seeds != 1)}. {marks}",
        *warnings,
        *figures.notes([part.metadata for part in parts]),
        CONTROL_NOTE,
        "Each query occurs in each condition, so differences are paired.",
        *details,
        *([f"The study uses {shown.paper_models}."] if shown.paper_models else []),
    ]
