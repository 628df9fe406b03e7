"""Shared functions for the figures and tables of components: loading of data, panels, formatting of cells, and notes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from icl_lens.artifacts import parquet
from icl_lens.artifacts.tensors import read as read_tensors
from icl_lens.report import figures
from icl_lens.statistics import answers as answered
from icl_lens.studies.component_reweighting.components.study import STUDY
from icl_lens.studies.component_reweighting.components.summary import COMPONENT_KINDS, Answers


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
    parts = []
    for folder in studies:
        stem = Path(folder) / STUDY.name
        rows, metadata = parquet.read(stem.with_suffix(".parquet"), STUDY.schema)
        tensors, _ = read_tensors(stem.with_suffix(".safetensors"))
        answers = Answers.of(metadata["model"]["name"], rows["task"].iloc[0], tensors, rows)
        parts.append(Loaded(rows, metadata, tensors, answers))
    return parts


@dataclass(frozen=True)
class Column:
    """The panels of one model and task, one below the other.

    Attributes:
        part: The data.
        title: Lines of the title of the topmost panel.
        axes: The panels, from top to bottom.
        left: Whether these are the leftmost panels, which show the labels of the y axes.
    """

    part: Loaded
    title: tuple[str, ...]
    axes: tuple[Axes, ...]
    left: bool


# Maximum number of panels side by side, and height in inches, without the caption, that fits on a page.
_MOST_COLUMNS, _PAGE = 7, 7.6


def panels(
    parts: Sequence[Loaded], rows: int, height: float, create: Callable[..., Figure] = plt.figure
) -> tuple[Figure, list[Column]]:
    """Create a figure with one column of panels per model and task.

    The title of a column is the task, and the model if there are several. Each model starts on a new line. A line has up to
    four columns, or more if the figure would not fit on a page otherwise.

    Args:
        parts: The data of each model and task, model by model.
        rows: Number of panels per model and task.
        height: Height of a panel in inches. It is reduced by up to 20 % so that the figure fits on a page.
        create: See :func:`icl_lens.report.figures.panels`.
    """
    models: dict[str, list[Loaded]] = {}
    for part in parts:
        models.setdefault(part.answers.model, []).append(part)
    most = max(map(len, models.values()))

    def lines(width: int) -> list[list[Loaded]]:
        return [own[start : start + width] for own in models.values() for start in range(0, len(own), width)]

    widths = range(min(4, most), min(_MOST_COLUMNS, most) + 1)
    fitting = [width for width in widths if len(lines(width)) * rows * height * 0.8 <= _PAGE]
    fewest = fitting[0] if fitting else widths[-1]
    width = ceil(most / ceil(most / fewest))  # 4 and 2 panels become 3 and 3
    arranged = lines(width)
    height = min(height, max(0.8 * height, _PAGE / (len(arranged) * rows)))
    figure, grid = figures.panels(len(arranged) * rows, width, height=height, create=create)
    columns = []
    for number, line in enumerate(arranged):
        for place in range(width):
            axes = grid[number * rows : (number + 1) * rows, place]
            if place >= len(line):
                for panel in axes:
                    panel.set_axis_off()
                continue
            part = line[place]
            title = [part.answers.model] if len(models) > 1 else []
            title.append(part.task_title)
            if part.metadata["observed"]["untrained"]:
                title.append("(not trained on such text)")
            column = Column(part, tuple(map(figures.plain, title)), tuple(axes), place == 0)
            figures.title(axes[0], *column.title)
            columns.append(column)
    return figure, columns


def label_axes(column: Column, row: int, x: str, y: str) -> None:
    """Set the labels of a panel's axes. Only the leftmost panels show tick labels and a label of the y axis.

    Args:
        column: The panels of a model and task.
        row: Number of the panel in the column, from 0.
        x: Label of the x axis.
        y: Label of the y axis.
    """
    axes = column.axes[row]
    axes.set(xlabel=x, ylabel=y if column.left else "")
    axes.tick_params(labelleft=column.left)


def unit_axes(axes: Axes, x: bool = True) -> None:
    """Set the limits and ticks of axes whose values are shares, from 0 to 1.

    Args:
        axes: Axes to draw on.
        x: Whether to set the x axis as well as the y axis.
    """
    for axis, set_limits in ((axes.yaxis, axes.set_ylim), (axes.xaxis, axes.set_xlim))[: 1 + x]:
        axis.set_ticks([0, 0.5, 1], ["0", "0.5", "1"])
        set_limits(-0.05, 1.05)


_KINDS = {"head": ("head", figures.SERIES[0]), "mlp": ("MLP", figures.SERIES[1])}
_MARKERS = dict(zip(COMPONENT_KINDS, "^vso", strict=True))


def kinds(axes: Axes, dots: pd.DataFrame, classes: int) -> list[Artist]:
    """Draw the accuracy of each component against how often it predicts one label, and the lines to compare it with.

    Args:
        axes: Axes to draw on.
        dots: Rows of :func:`icl_lens.studies.component_reweighting.components.summary.scatter` of one model and task.
        classes: Number of classes C.

    Returns:
        The legend handles.
    """
    for kind in _KINDS:
        for sort, marker in _MARKERS.items():
            chosen = dots[(dots["kind"] == kind) & (dots["type"] == sort)]
            _points(axes, chosen["share"], chosen["accuracy"], kind, marker)
    full = axes.axhline(dots.groupby("seed")["full"].first().mean(), color="0.2", lw=0.9, ls="--", zorder=0)
    chance = axes.axhline(1 / classes, **figures.REFERENCE)
    baseline = majority_line(axes, dots)
    unit_axes(axes)
    full.set_label("full model")
    chance.set_label("1/C")
    baseline.set_label("majority baseline")
    return [full, chance, baseline]


def kind_handles(axes: Axes) -> list[Artist]:
    """Return the legend of the points of :func:`kinds`; ``axes`` are any of the figure's axes."""
    handles: list[Artist] = [_points(axes, [], [], kind, "o", label=name) for kind, (name, _) in _KINDS.items()]
    return handles + [axes.scatter([], [], color="0.4", marker=marker, s=16, label=sort) for sort, marker in _MARKERS.items()]


def _points(axes: Axes, x: Any, y: Any, kind: str, marker: str, **options: Any) -> PathCollection:
    """Draw heads as filled and MLPs as open markers."""
    colour = _KINDS[kind][1].colour
    face = {"facecolors": colour, "lw": 0} if kind == "head" else {"facecolors": "none", "lw": 0.8}
    return axes.scatter(x, y, s=16, marker=marker, edgecolors=colour, alpha=0.6, **face, **options)


def accuracy_image(axes: Axes, accuracies: np.ndarray) -> AxesImage:
    """Draw the accuracy of each head and MLP as a map of layers, from the first (bottom) to the last.

    Args:
        axes: Axes to draw on.
        accuracies: Result of :func:`icl_lens.studies.component_reweighting.components.summary.accuracy_map`, shape (L, H + 1).
    """
    shown = {"vmin": 0, "vmax": 1, "cmap": figures.SEQUENTIAL, "aspect": "auto", "origin": "lower", "interpolation": "nearest"}
    image = axes.imshow(accuracies, **shown)
    heads = accuracies.shape[1] - 1
    ticks = [*np.unique(np.linspace(0, heads - 1, min(heads, 3)).astype(int)), heads]
    axes.set_xticks(ticks, [*map(str, ticks[:-1]), "MLP"])
    axes.yaxis.get_major_locator().set_params(integer=True, nbins=6)
    return image


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


def by_score(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of a table of accuracies, each followed by a row with its balanced accuracy.

    Args:
        table: Table with the columns value, low, high, and those of :func:`icl_lens.statistics.answers.balanced_columns`.

    Returns:
        The rows with a column score (accuracy, balanced accuracy). A row without a balanced accuracy has no second row.
    """
    ends = {"value": "balanced_accuracy", "low": "balanced_accuracy_low", "high": "balanced_accuracy_high"}
    second = table.assign(**{name: table[column] for name, column in ends.items()}, score="balanced accuracy")
    second = second[table["balanced_accuracy"].notna()]
    return pd.concat([table.assign(score="accuracy"), second]).sort_index(kind="stable")


def majority_line(axes: Axes, table: pd.DataFrame, label: str | None = None) -> Any:
    """Draw a horizontal line at the majority baseline of a table's rows, as a mean if seeds have different baselines."""
    return axes.axhline(table["majority_baseline"].mean(), color="0.5", lw=0.8, ls="-.", zorder=0, label=label)


def notes(
    item: str, parts: Sequence[Loaded], marks: str, warnings: Sequence[str] = (), details: Sequence[str] = ()
) -> list[str]:
    """Return the notes of a figure or table, the most important first.

    The first note is the caption: the title, the models and tasks, the numbers of seeds and prompts, and what the marks are.
    Warnings, the notes about unbalanced test sets, the notes from the tables' metadata, and details follow.

    Args:
        item: Name of the figure or table.
        parts: The data that the item was made from.
        marks: Sentences that explain the marks, intervals or cells.
        warnings: Notes without which the item could be misunderstood.
        details: Further notes.
    """
    shown = STUDY.item(item)
    models = ", ".join(dict.fromkeys(part.answers.model for part in parts))
    tasks = joined(list(dict.fromkeys(part.task_title for part in parts)))
    seeds, prompts = (
        span(values) for values in zip(*((len(p.answers.seeds), len(p.answers.gold)) for p in parts), strict=True)
    )
    return [
        f"{shown.title}. Model: {models}; {tasks}; {seeds} seeds (demonstration sets), {prompts} prompts per task. {marks}",
        *warnings,
        *unbalanced_notes(parts),
        *figures.notes([part.metadata for part in parts]),
        *details,
        *([f"The paper uses {shown.paper_models}."] if shown.paper_models else []),
    ]


def unbalanced_notes(parts: Sequence[Loaded]) -> list[str]:
    """Return the notes about accuracies of the full model on unbalanced test sets (:mod:`icl_lens.statistics.answers`)."""
    accuracies = answered.accuracy(pd.concat([part.answers.full_model() for part in parts], ignore_index=True))
    return answered.unbalanced_notes(titled(accuracies, parts))


def joined(names: Sequence[str]) -> str:
    """Join names with commas and "and"."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def span(values: Iterable[int]) -> str:
    """Format a number that is the same everywhere, or the range of several numbers."""
    ends = sorted(set(values))
    return " to ".join(dict.fromkeys((f"{ends[0]:,}", f"{ends[-1]:,}")))
