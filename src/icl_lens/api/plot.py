"""Drawings of the studies' tables, in the style of the figures of the report.

Each function draws the table that the function of the same name in :mod:`icl_lens` returns, with one panel per model, task and
prompt set:

    frame = icl_lens.saliency(model, prompts)
    icl_lens.plot.saliency(frame)

The functions compute the same summaries as the notebooks of the figures (``summary.py`` of each study), with the same 95 %
confidence intervals over demonstration sets. Prompts with one demonstration set have no such interval, and the panels then show
none. To put several models, tasks or seeds into one figure, concatenate their tables with :func:`pandas.concat`.

A study without a function here has a notebook instead; calling its name raises an error that names this notebook.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from icl_lens.api.prompt import NAME
from icl_lens.api.results import Result
from icl_lens.errors import InputError
from icl_lens.report import anchor_panels, component_panels, figures, kernel_panels, one_prompt
from icl_lens.short_repr import short_repr
from icl_lens.statistics import answers as answered
from icl_lens.statistics.resampling import OVER_TASKS
from icl_lens.studies import registry
from icl_lens.studies.anchors.compression import summary as compression_summary
from icl_lens.studies.anchors.deep_attention import summary as deep_attention_summary
from icl_lens.studies.anchors.isolation import summary as isolation_summary
from icl_lens.studies.anchors.reweighting import summary as reweighting_summary
from icl_lens.studies.anchors.saliency import summary as saliency_summary
from icl_lens.studies.component_reweighting.components import summary as components_summary
from icl_lens.studies.component_reweighting.settings import OWN, PLAIN, REWEIGHTED
from icl_lens.studies.kernel_regression import heads
from icl_lens.studies.kernel_regression.settings import Settings as KernelSettings
from icl_lens.tasks.task import TASKS

__all__ = [
    "components",
    "compress",
    "compression",
    "deep_attention",
    "flow",
    "icl",
    "isolation",
    "kernel_regression",
    "reweight",
    "reweighting",
    "saliency",
]

Panels = Axes | Iterable[Axes] | None

_CELL = ["model", "task", "set"]

# Maximum height of a figure in inches, so that it fits on a page.
_PAGE = 7.5


class NotebookFigure(Figure):
    """Figure that pyplot does not manage. Notebooks show it even if pyplot is not in use."""

    def _repr_png_(self) -> bytes:
        buffer = BytesIO()
        self.savefig(buffer, format="png", dpi=self.dpi)
        return buffer.getvalue()


def saliency(frame: pd.DataFrame, answers: pd.DataFrame | None = None, axes: Panels = None) -> Figure:
    """Draw the shares of S_wp, S_pq and S_ww in the information flow of each layer (Figure 3 of *Label Words are Anchors*).

    Dark bands are confidence intervals over demonstration sets and test texts, pale bands the range over seeds. Prompts with
    one demonstration set have no bands.

    Args:
        frame: Result of ``icl_lens.saliency``.
        answers: Result of ``icl_lens.icl`` on the same prompts, to write the accuracy above each panel.
        axes: Axes to draw on, one per model, task and set; by default those of a new figure.

    Returns:
        The figure.

    Raises:
        InputError: The frame is empty or lacks a column, or the number of axes does not match.
    """
    frame = _checked("saliency", frame, ("layer", *dict.fromkeys(sum(saliency_summary.VARIANTS.values(), ()))))
    summary = saliency_summary.summarise(frame)
    cells = _cells(frame)
    with _figure("saliency", cells, axes, sharey=True) as (figure, panels):
        for panel, cell in zip(panels, cells, strict=True):
            lines = _of(summary, cell)
            anchor_panels.shares(panel, lines)
            panel.set_ylabel("share" if _is_left(panel) else "")
            figures.layer_axis(panel, lines["layer"].max() + 1)
            _title(panel, cell, cells, answers)
        _legend(figure, axes, panels[0].get_legend_handles_labels()[0], 3)
    return figure


def isolation(
    frame: pd.DataFrame, answers: pd.DataFrame | None = None, layers: int | None = None, axes: Panels = None
) -> Figure:
    """Draw how often the prediction stays the same when label words, or random tokens, are isolated.

    By default, the figure shows label loyalty and word loyalty by the number of isolated layers, two panels per model, task and
    set (Figure 8 of *Label Words are Anchors*). With ``layers``, or if the frame has one number of layers only, it shows both
    loyalties as bars in one panel (Figure 4). Bands and bars are confidence intervals over demonstration sets and test texts.

    Args:
        frame: Result of ``icl_lens.isolation``.
        answers: Result of ``icl_lens.icl`` on the same prompts, to write the accuracy above each panel.
        layers: Number of isolated layers, to draw bars.
        axes: Axes to draw on, two per model, task and set for curves and one for bars; by default those of a new figure.

    Returns:
        The figure.

    Raises:
        InputError: The frame is empty, lacks a column, has neither label words nor random tokens or lacks this number of
            layers, or the number of axes does not match.
    """
    columns = ("target", "side", "layers", "draw", "order", *isolation_summary.METRICS)
    frame = _checked("isolation", frame, columns)
    frame = frame[frame["target"].isin(anchor_panels.ISOLATED)]
    if frame.empty:
        raise InputError(
            "plot.isolation: the frame has neither label words nor random tokens; compute it with the targets label and random"
        )
    found = sorted(frame["layers"].unique())
    if layers is not None and layers not in found:
        raise InputError(
            f"plot.isolation: the frame has no rows with {layers} isolated layers; choose layers from "
            f"{', '.join(map(str, found))}"
        )
    bars = found[0] if layers is None and len(found) == 1 else layers
    cells = _cells(frame)
    summary = pd.concat([isolation_summary.summarise(_of(frame, cell)) for cell in cells])
    summary = summary[summary["task"] != OVER_TASKS]
    with _figure("isolation", cells, axes, each=1 if bars else 2, height=2.4, sharey=True) as (figure, panels):
        for number, cell in enumerate(cells):
            lines = _of(summary, cell)
            if bars:
                panel = panels[number]
                anchor_panels.loyalty_bars(panel, lines[lines["layers"] == bars], str(bars))
                _title(panel, cell, cells, answers)
                continue
            for panel, (metric, label) in zip(panels[2 * number :], anchor_panels.LOYALTIES.items(), strict=False):
                anchor_panels.loyalty_curves(panel, lines, metric)
                panel.set(xlabel="number of isolated layers", ylabel=label.replace(" (", "\n("))
            _title(panels[2 * number], cell, cells, answers)
        handles = panels[0].get_legend_handles_labels()[0] if bars else anchor_panels.loyalty_handles()
        _legend(figure, axes, handles, 2)
    return figure


def deep_attention(frame: pd.DataFrame, answers: pd.DataFrame | None = None, axes: Panels = None) -> Figure:
    """Draw the attention of the last position to the label words.

    With ``answers``, the figure shows in each layer how well this attention predicts the model's prediction (AUCROC_l), and the
    share R_l that layers up to l contribute, with confidence intervals over demonstration sets and test texts (Figure 5 of
    *Label Words are Anchors*). AUCROC is undefined if the model predicts the same class for all prompts of a seed. Without
    ``answers``, the figure shows the attention to the label words of each class, summed over heads and averaged over prompts.

    Args:
        frame: Result of ``icl_lens.deep_attention``.
        answers: Result of ``icl_lens.icl`` on the same prompts.
        axes: Axes to draw on, one per model, task and set; by default those of a new figure.

    Returns:
        The figure.

    Raises:
        InputError: The frame is empty or lacks a column, a prompt is missing in one of the two tables, or the number of axes
            does not match.
    """
    frame = _checked("deep_attention", frame, ("layer", "class", "attention"))
    cells = _cells(frame)
    if answers is not None:
        answers = _answers("deep_attention", answers, frame)
    handles: list = []
    with _figure("deep_attention", cells, axes, height=2.4) as (figure, panels):
        for panel, cell in zip(panels, cells, strict=True):
            of_cell = _of(frame, cell)
            if answers is None:
                means = of_cell.groupby(["class", "layer"])["attention"].mean().unstack()
                words = _words(cell, len(means))
                for place, (number, line) in enumerate(means.iterrows()):
                    style = figures.SERIES[place % len(figures.SERIES)]
                    panel.plot(line.index, line, label=figures.plain(words[number]), **style.plot)
                panel.set_ylabel("attention to label words,\nsum over heads")
                panel.set_ylim(0, None)
                panel.legend(loc="best", fontsize=figures.SMALL, title="class", title_fontsize=figures.SMALL)
            else:
                curves, _ = deep_attention_summary.summarise(of_cell, _of(answers, cell))
                lines = curves[(curves["task"] != OVER_TASKS) & (curves["two_classes"] == "normalised")]
                handles, _ = anchor_panels.attention_auc(panel, lines)
            figures.layer_axis(panel, of_cell["layer"].max() + 1)
            _title(panel, cell, cells, answers)
        if handles:
            _legend(figure, axes, handles, 2)
    return figure


def flow(
    frame: pd.DataFrame,
    tokens: pd.DataFrame,
    prompt_id: int | None = None,
    layers: Sequence[int | str] = ("shallow", "deep"),
    axes: Panels = None,
) -> Figure:
    """Draw the information flow of one prompt along the edges of some layers (Figure 1 of *Label Words are Anchors*).

    Each line connects a token on the right, into which information flows, with an earlier token on the left. Its opacity is
    the saliency divided by the largest one of the layer. The 500 strongest edges of a layer are drawn. In a long prompt, one
    row replaces each run of tokens without strong edges.

    Args:
        frame: Result of ``icl_lens.flow``.
        tokens: Result of ``icl_lens.tokens`` on the same prompts.
        prompt_id: The prompt, by default the first one in the frame.
        layers: Indices of layers from 0, or ``shallow`` (a fifth of the depth) or ``deep`` (four fifths); one panel each.
        axes: Axes to draw on, one per layer; by default those of a new figure.

    Returns:
        The figure.

    Raises:
        InputError: A frame is empty, lacks a column or the prompt, the model does not have one of the layers, or the number of
            axes does not match.
    """
    frame = _checked("flow", frame, ("layer", "query", "key", "saliency", "layer_total"))
    tokens = _checked("flow", tokens, ("position", "token", "start", "end", "class"), "tokens")
    key = [*_CELL, "seed", "prompt_id"]
    found = frame["prompt_id"].unique().tolist()
    if prompt_id is not None and prompt_id not in found:
        raise InputError(f"plot.flow: prompt {prompt_id} is not in the frame; choose from {', '.join(map(str, found))}")
    of_prompt = frame if prompt_id is None else frame[frame["prompt_id"] == prompt_id]
    unit = of_prompt[key].iloc[0]
    edges = frame[(frame[key] == unit).all(axis=1)].reset_index(drop=True)
    of_tokens = tokens[(tokens[key] == unit).all(axis=1)].sort_values("position", ignore_index=True)
    if of_tokens.empty:
        raise InputError(f"plot.flow: tokens: the table lacks prompt {unit['prompt_id']}; compute it with the same prompts")
    depth = int(edges["layer"].max()) + 1
    prompt = one_prompt.OnePrompt(of_tokens, edges, unit, {"model": {"name": unit["model"], "layers": depth}}, {})
    try:
        names = one_prompt.layer_names(layers, depth)
    except (InputError, KeyError, TypeError):
        names = {}
    if not names:
        raise InputError(
            f"plot.flow: invalid layers {short_repr(layers)}; use a list of numbers from 0 to {depth - 1}, 'shallow' or 'deep'"
        )
    in_layers = [prompt.in_layer(layer) for layer in names]
    rows = prompt.rows(
        pd.concat([edges.tail(anchor_panels.EDGES) for edges in in_layers]), int(_PAGE / anchor_panels.ROW_HEIGHT)
    )
    height = anchor_panels.ROW_HEIGHT * len(rows.spans)
    options = {"figsize": (figures.WIDTH, height + 0.65), "columns": min(3, len(names))}
    cells = [dict(unit[_CELL])] * len(names)
    with _figure("flow", cells, axes, per="layer", **options) as (figure, panels):
        for panel, edges, (layer, name) in zip(panels, in_layers, names.items(), strict=True):
            shown = edges[anchor_panels.drawn(edges, rows)]
            width = (
                panel.get_position().width * figure.get_figwidth() if axes is not None else figures.WIDTH / options["columns"]
            )
            anchor_panels.flow(panel, prompt, shown, rows, width, 1)
            panel.set_axis_off()
            figures.title(panel, f"{name} layer {layer} (of 0 to {depth - 1})".strip())
        _legend(figure, axes, anchor_panels.flow_handles(), 3)
    return figure


def compression(frame: pd.DataFrame, axes: Panels = None) -> Figure:
    """Draw loyalties and accuracy with compressed demonstrations (Table 2 of *Label Words are Anchors*).

    Error bars are confidence intervals over demonstration sets and test texts.

    Args:
        frame: Result of ``icl_lens.compress``.
        axes: Axes to draw on, one per model, task and set; by default those of a new figure.

    Returns:
        The figure.

    Raises:
        InputError: The frame is empty or lacks a column, or the number of axes does not match.
    """
    metrics = compression_summary.METRICS
    frame = _checked("compression", frame, ("method", "draw", "positions", "prediction", *metrics))
    cells = _cells(frame)
    names = {"label_loyalty": figures.SERIES[0], "word_loyalty": figures.SERIES[1], "accuracy": figures.SERIES[2]}
    if frame["correct"].isna().any():  # a prompt without a gold label
        frame, names = frame.assign(correct=False), {name: names[name] for name in ("label_loyalty", "word_loyalty")}
    shown_methods = [name for name in anchor_panels.COMPRESSED if name not in ("full", compression_summary.TOP_IN_SAMPLE)]
    with _figure("compression", cells, axes, height=2.4, sharey=True) as (figure, panels):
        for panel, cell in zip(panels, cells, strict=True):
            summary = compression_summary.summarise(_of(frame, cell))
            summary = summary[summary["task"] != OVER_TASKS]
            rows = summary[summary["method"].isin(shown_methods)]
            several = rows["positions"].nunique() > 2  # Text_anchor has its own value
            labels = [
                anchor_panels.COMPRESSED[row.method] + (f"\n({row.positions})" if several and row.positions != "own" else "")
                for row in rows.itertuples()
            ]
            series = {
                metric.replace("_", " "): (
                    *(rows[f"{metric}{end}"].to_numpy(float) for end in ("", "_low", "_high")),
                    style,
                )
                for metric, style in names.items()
            }
            _bars(panel, labels, series)
            full = summary.loc[summary["method"] == "full", "accuracy"]
            if len(full) and "accuracy" in names:
                panel.axhline(full.iloc[0], **figures.REFERENCE | {"color": "0.3"}, label="accuracy (uncompressed)")
            panel.set_ylabel("share" if _is_left(panel) else "")
            _title(panel, cell, cells, None)
        _legend(figure, axes, panels[0].get_legend_handles_labels()[0], 4)
    return figure


def reweighting(frame: Result | pd.DataFrame, axes: Panels = None) -> Figure:
    """Draw predictions with re-weighted attention to label words.

    Two panels per model, task and set show the accuracy of each method with its confidence interval over demonstration sets
    and test texts (Table 1 of *Label Words are Anchors*), and the share of each class among its predictions. For a result with
    tensors, a third panel shows the trained factors beta of each layer and head, averaged over demonstrations and seeds.

    Args:
        frame: Result of ``icl_lens.reweight``, or only its rows.
        axes: Axes to draw on, three per model, task and set, or two for rows; by default those of a new figure.

    Returns:
        The figure.

    Raises:
        InputError: The frame is empty or lacks a column, the tensors belong to another run, or the number of axes does not
            match.
    """
    tensors = frame.tensors if isinstance(frame, Result) else None
    frame = _checked("reweighting", frame, ("method", "shots", "gold", "prediction", "class_log_probs"))
    cells = _cells(frame)
    beta = None if tensors is None else _beta(frame, cells, tensors)
    each = 2 if beta is None else 3
    with _figure("reweighting", cells, axes, each=each, height=2.4) as (figure, panels):
        for number, cell in enumerate(cells):
            of_cell = _of(frame, cell)
            left, right, *third = panels[each * number : each * (number + 1)]
            classes = len(of_cell["class_log_probs"].iloc[0])
            table = reweighting_summary.summarise(of_cell, {cell["task"]: classes})
            table = table[(table["task"] != OVER_TASKS) & (table["method"] != reweighting_summary.DIFFERENCE)]
            for place, row in enumerate(table.itertuples()):
                error = _error(*(np.array([number]) for number in (row.accuracy, row.low, row.high)))
                style = anchor_panels.PREDICTED[row.method][1]
                left.bar(place, row.accuracy, 0.7, yerr=error, capsize=2, error_kw={"lw": 0.8}, **style.bar)
            left.set_xticks([])
            left.set_ylim(0, 1.05)
            left.axhline(table["majority_baseline"].iloc[0], color="0.5", lw=0.8, ls="-.", zorder=0)
            left.set_ylabel("accuracy")
            _title(left, cell, cells, None, f"majority baseline {table['majority_baseline'].iloc[0]:.2f}")
            anchor_panels.predicted_classes(right, reweighting_summary.shares(of_cell), _words(cell, classes))
            right.set_ylabel("share of predictions")
            if third:
                limit = np.abs(beta).max()
                image = third[0].imshow(
                    beta.T, cmap=figures.SIGNED, vmin=-limit, vmax=limit, aspect="auto", origin="lower", interpolation="none"
                )
                figure.colorbar(image, ax=third[0], shrink=0.8)
                figures.layer_axis(third[0], 0)
                third[0].yaxis.get_major_locator().set_params(integer=True)
                third[0].set_ylabel("head (0 = first)")
                figures.title(third[0], "mean $\\beta$")
        _legend(figure, axes, panels[1].get_legend_handles_labels()[0], len(anchor_panels.PREDICTED))
    return figure


def components(frame: Result | pd.DataFrame, axes: Panels = None) -> Figure:
    """Draw the accuracy of heads and MLPs, or of weighted sums of them.

    For a result with tensors, the figure shows each head and MLP of *When Parts Are Greater Than Sums*: its accuracy against
    how often it predicts the second class, and a map of the accuracies (Figure 1). For rows, one panel per model, task and set
    shows the accuracy of the full model (icl), and of each method that uses a few labels, with its confidence interval over
    demonstration sets and test texts (main table).

    Args:
        frame: Result of ``icl_lens.components``, or only its rows.
        axes: Axes to draw on, two for a result with tensors, or one per model, task and set for rows; by default those of a new
            figure.

    Returns:
        The figure.

    Raises:
        InputError: The frame is empty or lacks a column, the tensors belong to another run, or the number of axes does not
            match.
    """
    tensors = frame.tensors if isinstance(frame, Result) else None
    frame = _checked("components", frame, ("template", "method", "labels", "gold", "prediction"))
    cells = _cells(frame)
    if tensors is not None:
        _require_one("components", cells)
        return _component_map(frame, cells, tensors, axes)
    # The numbers of epochs and of weights at 0, which the table also has, need the tensors.
    tables = [components_summary.methods(_of(frame, cell), defaultdict(dict)) for cell in cells]
    tables = [table[(table["task"] != OVER_TASKS) & table["majority_baseline"].notna()] for table in tables]
    height = 0.8 + 0.14 * max(map(len, tables))
    with _figure("components", cells, axes, height=height, sharex=True) as (figure, panels):
        for panel, cell, table in zip(panels, cells, tables, strict=True):
            places = np.arange(len(table))
            value, low, high = (table[name].to_numpy(float) for name in ("value", "low", "high"))
            colours = [
                figures.SERIES[0].colour
                if name.startswith(REWEIGHTED)
                else figures.SERIES[1].colour
                if name == PLAIN
                else figures.SERIES[2].colour
                for name in table["method"]
            ]
            panel.barh(places, value, 0.75, xerr=_error(value, low, high), color=colours, capsize=1.5, error_kw={"lw": 0.8})
            panel.axvline(table["majority_baseline"].iloc[0], color="0.5", lw=0.8, ls="-.", zorder=0)
            panel.set_yticks(places, table["method"], parse_math=False)
            panel.set(xlabel="accuracy", xlim=(0, 1.02), ylim=(len(places) - 0.5, -0.5))
            _title(panel, cell, cells, None, f"majority baseline {table['majority_baseline'].iloc[0]:.2f}")
    return figure


def kernel_regression(frame: Result | pd.DataFrame, axes: Panels = None) -> Figure:
    """Draw how often the label that a head reconstructs is the prediction, and how often it is the gold label.

    Two maps of layers and heads per model, task and set (Figure 3 of *In-context learning as kernel regression*). The null is
    the 95 % quantile of the best head if labels are permuted within prompts.

    Args:
        frame: Result of ``icl_lens.kernel_regression``, or only its rows.
        axes: Axes to draw on, two per model, task and set; by default those of a new figure.

    Returns:
        The figure.

    Raises:
        InputError: The frame is empty, lacks a column or has too few prompts, or the number of axes does not match.
    """
    columns = ("layer", "head", "gold", "prediction", "demo_labels", "max", "mean", "label")
    frame = _checked("kernel_regression", frame, columns)
    cells = _cells(frame)
    layers = frame["layer"].max() + 1
    height = min(1.0 + 0.14 * max(layers, 8), _PAGE / len(cells))
    with _figure("kernel_regression", cells, axes, each=2, height=height, sharey=True) as (figure, panels):
        for number, cell in enumerate(cells):
            found = heads.by_head(_of(frame, cell), KernelSettings())
            pair = panels[2 * number : 2 * number + 2]
            for panel, (name, (what, baseline)) in zip(pair, kernel_panels.TARGETS.items(), strict=True):
                shown = found[found["metric"] == f"vs {name}"]
                null = found.loc[found["metric"] == f"{heads.IN_SAMPLE} {name}", "null_95"].item()
                image = kernel_panels.head_map(panel, shown.pivot(index="layer", columns="head", values="value").to_numpy())
                figures.title(
                    panel,
                    *(_names(cell, cells) if name == "model" else []),
                    what,
                    f"{baseline} {shown['commonest'].iloc[0]:.2f}",
                    f"null {null:.2f}",
                )
            pair[0].set_ylabel("layer (0 = first)")
            figure.colorbar(image, ax=list(pair), label="share of prompts", pad=0.02)
    return figure


def icl(frame: pd.DataFrame, label_words: Sequence[str] | None = None, axes: Panels = None) -> Figure:
    """Draw the predictions: the mean probability of each class for the prompts of each gold label.

    The panels also show the accuracy and the majority baseline. The rows are gold labels, the columns are classes.

    Args:
        frame: Result of ``icl_lens.icl``.
        label_words: Name of each class, in the order of the class indices; by default those of the task, or numbers.
        axes: Axes to draw on, one per model, task and set; by default those of a new figure.

    Returns:
        The figure.

    Raises:
        InputError: The frame is empty or lacks a column, or the number of axes does not match.
    """
    frame = _checked("icl", frame, ("gold", "prediction", "class_log_probs"))
    cells = _cells(frame)
    with _figure("icl", cells, axes, height=2.6) as (figure, panels):
        for panel, cell in zip(panels, cells, strict=True):
            of_cell = _of(frame, cell)
            probabilities = np.exp(np.stack(of_cell["class_log_probs"].tolist()))  # (N, C)
            classes = probabilities.shape[1]
            words = _words(cell, classes) if label_words is None else [word.strip() for word in label_words]
            if len(words) != classes:
                raise InputError(f"plot.icl: label_words has {len(words)} words, but the frame has {classes} classes")
            gold = of_cell["gold"].fillna(-1).astype(int).to_numpy()  # (N,); -1 if it is unknown
            rows = sorted(set(gold.tolist()))
            means = np.stack([probabilities[gold == label].mean(0) for label in rows])  # (golds, C)
            image = panel.imshow(means, cmap=figures.SEQUENTIAL, vmin=0, vmax=1, aspect="auto", interpolation="nearest")
            if classes <= figures.ANNOTATED:
                for (row, column), value in np.ndenumerate(means):
                    colour = "white" if value > 0.6 else "black"
                    panel.text(column, row, f"{value:.2f}", ha="center", va="center", color=colour, fontsize=figures.SMALL)
            panel.set_xticks(range(classes), words, rotation=40, ha="right", rotation_mode="anchor", parse_math=False)
            counts = [f"{words[label] if label >= 0 else 'unknown'} ({(gold == label).sum()})" for label in rows]
            panel.set_yticks(range(len(rows)), counts, parse_math=False)
            panel.tick_params(length=0)
            panel.set(xlabel="class", ylabel="gold label (prompts)")
            _title(panel, cell, cells, frame)
        figure.colorbar(image, ax=list(panels), label="mean probability", pad=0.02)
    return figure


compress, reweight = compression, reweighting


def __getattr__(name: str) -> Callable[..., Figure]:
    """Return a function that says where the tables of a study without a function here are drawn."""
    if name.startswith("_") or name not in registry.packages():
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def refuse(*_: Any, **__: Any) -> Figure:
        raise InputError(_elsewhere(name))

    refuse.__name__ = refuse.__qualname__ = name
    refuse.__doc__ = _elsewhere(name)
    return refuse


def __dir__() -> list[str]:
    return [*__all__]


def _elsewhere(name: str) -> str:
    """Return where the table of a study is drawn, as one sentence."""
    items = registry.study(name).items or [item for item in registry.items().values() if name in item.studies]
    known = ", ".join(other for other in __all__ if other not in ("compress", "reweight"))
    if not items:
        return f"plot has no function for the study {name}, and no figure shows it; plot draws {known}"
    item = items[0]
    return (
        f"plot has no function for the study {name}; its {item.name} is drawn by notebooks/{item.notebook}.ipynb "
        f"(snakemake {item.name})"
    )


def _checked(name: str, frame: Any, columns: Iterable[str], argument: str = "frame") -> pd.DataFrame:
    """Return the frame if it is a table with rows and with the columns of a study.

    Raises:
        InputError: It is not.
    """
    source = argument if argument == "tokens" else name
    if isinstance(frame, Result):
        frame = frame.rows
    where = f"plot.{name}: {argument}"
    if not isinstance(frame, pd.DataFrame):
        raise InputError(f"{where} must be the DataFrame that icl_lens.{source} returns, got {type(frame).__name__}")
    for column in (*_CELL, "seed", "prompt_id", *columns):
        if column not in frame:
            raise InputError(f"{where}: column {column!r} is missing; pass the DataFrame that icl_lens.{source} returns")
    if frame.empty:
        raise InputError(f"{where} has no rows; compute it for at least one prompt")
    return frame


def _answers(name: str, answers: Any, frame: pd.DataFrame) -> pd.DataFrame:
    """Return the answers to the prompts of a frame.

    Raises:
        InputError: They are not the table of icl, or a prompt has no answer.
    """
    if not isinstance(answers, pd.DataFrame) or not {*_CELL, "seed", "prompt_id", "gold", "prediction"} <= {*answers}:
        raise InputError(f"plot.{name}: answers must be the DataFrame that icl_lens.icl returns")
    key = [*_CELL, "seed", "prompt_id"]
    units = frame[key].drop_duplicates()
    found = answers.merge(units, on=key)
    if len(found) < len(units):
        lost = units.merge(answers[key], on=key, how="left", indicator=True).query("_merge == 'left_only'").iloc[0]
        raise InputError(
            f"plot.{name}: answers: prompt {lost['prompt_id']} of {lost['task']} ({lost['model']}) is missing; compute "
            "icl_lens.icl on the same prompts"
        )
    return found


def _cells(frame: pd.DataFrame) -> list[dict[str, str]]:
    """Return model, task and set of each panel, in the order of the frame."""
    return frame[_CELL].drop_duplicates().to_dict("records")


def _of(table: pd.DataFrame, cell: Mapping[str, str]) -> pd.DataFrame:
    """Return the rows of one model, task and set."""
    return table[np.logical_and.reduce([table[name] == value for name, value in cell.items() if name in table])]


def _require_one(name: str, cells: Sequence[Mapping[str, str]]) -> None:
    if len(cells) > 1:
        raise InputError(
            f"plot.{name}: tensors belong to one model, task and set, but the frame has {len(cells)}; pass one of them"
        )


def _beta(frame: pd.DataFrame, cells: Sequence[Mapping[str, str]], tensors: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the mean factors over demonstrations and seeds, shape (L, H)."""
    _require_one("reweighting", cells)
    names = [f"beta_{seed}" for seed in sorted(frame["seed"].unique())]
    missing = [name for name in names if name not in tensors]
    if missing:
        raise InputError(f"plot.reweighting: tensors: {missing[0]!r} is missing; pass the tensors of the same run as the frame")
    return np.mean([np.asarray(tensors[name]).mean(-1) for name in names], axis=0)


def _component_map(
    frame: pd.DataFrame, cells: Sequence[Mapping[str, str]], tensors: Mapping[str, np.ndarray], axes: Panels
) -> Figure:
    """Draw each head and MLP, see :func:`components`."""
    (cell,) = cells
    try:
        answers = components_summary.Answers.of(cell["model"], cell["task"], tensors, frame)
    except KeyError as error:
        raise InputError(
            f"plot.components: tensors: {error} is missing; pass the tensors of the same run as the frame"
        ) from error
    dots = components_summary.scatter(answers, OWN)
    with _figure("components", cells, axes, each=2, height=2.6) as (figure, (left, right)):
        lines = component_panels.kinds(left, dots, answers.classes)
        left.set(xlabel=figures.plain(f'share of "{_words(cell, answers.classes)[1]}"'), ylabel="accuracy")
        _title(left, cell, cells, None)
        image = component_panels.accuracy_image(right, components_summary.accuracy_map(answers))
        right.set(xlabel="head", ylabel="layer (0 = first)")
        figure.colorbar(image, ax=right, label="accuracy", ticks=[0, 0.5, 1])
        _legend(figure, axes, [*component_panels.kind_handles(left), *lines], 5)
    return figure


@contextmanager
def _figure(
    name: str,
    cells: Sequence[Any],
    axes: Panels,
    each: int = 1,
    height: float = 2.2,
    columns: int | None = None,
    per: str = "model, task and set",
    **options: Any,
) -> Iterator[tuple[Figure, list[Axes]]]:
    """Give the figure and its panels, in the style of the figures inside this context only.

    Args:
        name: Name of the function, for an error message.
        cells: One entry per model, task and set.
        axes: The user's axes, or None for a new figure.
        each: Number of panels per entry.
        height: Height of a row of panels in inches.
        columns: Number of panels side by side; 2 by default, or one if there is one panel.
        per: What each entry is, for an error message.
        options: Further arguments of :func:`icl_lens.report.figures.panels`.
    """
    count = each * len(cells)
    with figures.style():
        if axes is None:
            wide = columns or (each if each > 1 else min(2, count))
            rows = -(-count // wide)
            figure, grid = figures.panels(rows, wide, min(height, max(1.4, _PAGE / rows)), create=NotebookFigure, **options)
            panels = list(grid.flat)
            for unused in panels[count:]:
                unused.set_axis_off()
        else:
            panels = [axes] if isinstance(axes, Axes) else list(np.asarray(axes, dtype=object).flat)
            if len(panels) != count or not all(isinstance(panel, Axes) for panel in panels):
                raise InputError(
                    f"plot.{name}: axes must be {count} Matplotlib axes ({each} per {per}), got {len(panels)} objects"
                )
            figure = panels[0].figure
        yield figure, panels[:count]
        if axes is None:
            # This creates the tick labels and the layout in this style, even if the figure is shown in another one.
            figure.draw_without_rendering()


def _legend(figure: Figure, axes: Panels, handles: Sequence[Any], columns: int) -> None:
    """Add the legend above the panels of a new figure, or inside the first of the user's axes."""
    if axes is None:
        figure.legend(handles=list(handles), loc="outside upper center", ncols=columns)
    else:
        first = axes if isinstance(axes, Axes) else next(iter(np.asarray(axes, dtype=object).flat))
        first.legend(handles=list(handles), fontsize=figures.SMALL)


def _is_left(panel: Axes) -> bool:
    """Return whether a panel is in the first column of its figure."""
    place = panel.get_subplotspec()
    return place is None or place.is_first_col()


def _names(cell: Mapping[str, str], cells: Sequence[Mapping[str, str]]) -> list[str]:
    """Return the names that distinguish a panel from the others: the task, and the model or set if there are several.

    A single task of the user without a name has none.
    """
    if len(cells) == 1 and cell["task"] == NAME:
        return []
    task = TASKS[cell["task"]].title if cell["task"] in TASKS else cell["task"]
    several = [name for name in ("model", "set") if len({other[name] for other in cells}) > 1]
    return [figures.plain(", ".join([*(cell[name] for name in several if name == "model"), task]))] + [
        figures.plain(cell[name]) for name in several if name == "set"
    ]


def _title(
    panel: Axes, cell: Mapping[str, str], cells: Sequence[Mapping[str, str]], answers: pd.DataFrame | None, *lines: str
) -> None:
    """Write the title of a panel: its names, the accuracy if there are answers, and further lines."""
    if answers is not None:
        of_cell = _of(answers, cell)
        if len(of_cell) and of_cell["gold"].notna().all():
            row = answered.accuracy(of_cell).iloc[0]
            counts = f"{len(of_cell)} prompt{'s' * (len(of_cell) != 1)}"
            lines = (f"accuracy {row['accuracy']:.2f} ({counts})", f"majority baseline {row['majority_baseline']:.2f}", *lines)
    figures.title(panel, *_names(cell, cells), *lines)


def _words(cell: Mapping[str, str], classes: int) -> list[str]:
    """Return the name of each class: the label words of a built-in task, or numbers."""
    task = TASKS.get(cell["task"])
    if task and len(task.label_words) == classes:
        return [word.strip() for word in task.label_words]
    return [f"class {number}" for number in range(classes)]


def _error(value: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray | None:
    """Return the lengths of error bars, shape (2, n); None if there is no interval."""
    if np.isnan([low, high]).all():
        return None
    return np.maximum(0, [value - low, high - value])


def _bars(
    panel: Axes, labels: Sequence[str], series: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray, figures.Series]]
) -> None:
    """Draw groups of bars of shares with their intervals.

    Args:
        panel: Axes to draw on.
        labels: Label of each group.
        series: Name -> values, lower and upper ends, shape (groups,) each, and the style.
    """
    width = 0.8 / len(series)
    places = np.arange(len(labels))
    for number, (name, (value, low, high, style)) in enumerate(series.items()):
        panel.bar(
            places + (number - (len(series) - 1) / 2) * width, value, 0.95 * width, yerr=_error(value, low, high), capsize=2,
            error_kw={"lw": 0.8}, label=name, **style.bar,
        )  # fmt: skip
    panel.set_xticks(
        places, [label.replace("_", "_\u200b") for label in labels], rotation=25, ha="right", rotation_mode="anchor"
    )
    panel.set_ylim(0, 1.05)
