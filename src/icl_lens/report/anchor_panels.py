"""Panels of the figures of *Label Words are Anchors*, drawn from the tables of the studies' summaries.

The notebooks of the figures and :mod:`icl_lens.api.plot` call these functions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from icl_lens.report import figures
from icl_lens.report.one_prompt import OnePrompt, Rows
from icl_lens.studies.anchors.compression.summary import TOP, TOP_IN_SAMPLE
from icl_lens.studies.anchors.saliency.summary import METRICS

FLOWS = {"s_wp": "text to label words", "s_pq": "label words to last position", "s_ww": "other words"}
"""Names of the three quantities of saliency."""


def shares(axes: Axes, lines: pd.DataFrame) -> None:
    """Draw the shares of S_wp, S_pq and S_ww by layer, with their intervals and their range over seeds.

    Args:
        axes: Axes to draw on.
        lines: Rows of :func:`icl_lens.studies.anchors.saliency.summary.summarise` of one model, task and set.
    """
    for metric in METRICS:
        line = lines[lines["metric"] == metric]
        style = figures.QUANTITIES[metric]
        axes.plot(line["layer"], line["share"], label=f"$S_{{{metric[2:]}}}$: {FLOWS[metric]}", **style.plot)
        axes.fill_between(line["layer"], line["low"], line["high"], color=style.colour, alpha=0.4, lw=0)
        axes.fill_between(line["layer"], line["lowest_seed"], line["highest_seed"], color=style.colour, alpha=0.15, lw=0)
    axes.set_ylim(-0.02, 1.02)


LOYALTIES = {"label_loyalty": "label loyalty", "word_loyalty_5": "word loyalty (top 5 tokens)"}
"""Names of the two loyalties of isolation."""

ISOLATED = {"label": "label words", "random": "random tokens"}
"""Names of the isolated positions that the figures show."""

SIDES = {"first": {"ls": "-"}, "last": {"ls": "--", "markerfacecolor": "white"}}
"""Line style of the first and of the last layers."""

# The lines of the label words are thicker, so that they stay visible under those of the random tokens.
_TARGETS = {
    "label": (figures.SERIES[0], {"lw": 2.2, "markersize": 6}),
    "random": (figures.SERIES[1], {"lw": 1.2, "markersize": 3}),
}


def loyalty_bars(axes: Axes, bars: pd.DataFrame, layers: str) -> None:
    """Draw both loyalties for label words and random tokens that are isolated in the first and in the last k layers.

    Args:
        axes: Axes to draw on.
        bars: Rows of :func:`icl_lens.studies.anchors.isolation.summary.summarise` of one model, task and k.
        layers: The number of isolated layers, as the tick labels show it, for example ``2 of 6``.
    """
    bars = bars.set_index(["target", "side", "metric"])
    groups = [(target, side) for target in ISOLATED for side in SIDES]
    groups = [group for group in groups if group in bars.index.droplevel("metric")]
    places = np.arange(len(groups))
    for number, (metric, label) in enumerate(LOYALTIES.items()):
        shown = bars.loc[[(*group, metric) for group in groups]]
        error = np.maximum(0, [shown["value"] - shown["low"], shown["high"] - shown["value"]])
        axes.bar(
            places + 0.38 * number - 0.19, shown["value"], 0.36, yerr=error, capsize=2, error_kw={"lw": 0.8},
            label=label, **figures.QUANTITIES[metric].bar,
        )  # fmt: skip
    axes.axhline(1, **figures.REFERENCE)
    axes.set_xticks(places, [f"{ISOLATED[target]},\n{side} {layers}" for target, side in groups])
    axes.set(xlabel="isolated tokens and layers", ylabel="loyalty", ylim=(0, 1.05))


def loyalty_curves(axes: Axes, lines: pd.DataFrame, metric: str) -> None:
    """Draw a loyalty by the number of isolated layers, one line for each isolated position and side.

    Args:
        axes: Axes to draw on.
        lines: Rows of :func:`icl_lens.studies.anchors.isolation.summary.summarise` of one model and task.
        metric: One of :data:`LOYALTIES`.
    """
    for target, (style, size) in _TARGETS.items():
        for side, shape in SIDES.items():
            line = lines[(lines["target"] == target) & (lines["side"] == side) & (lines["metric"] == metric)]
            axes.plot(line["layers"], line["value"], **style.plot | size | shape)
            axes.fill_between(line["layers"], line["low"], line["high"], color=style.colour, alpha=0.15, lw=0)
    axes.axhline(1, **figures.REFERENCE)
    axes.set_xticks(sorted(lines["layers"].unique()))
    axes.set_ylim(-0.02, 1.05)


def loyalty_handles() -> list[Artist]:
    """Return the legend of :func:`loyalty_curves`."""
    return [
        Line2D([], [], **style.plot | size | shape, label=f"{ISOLATED[target]}, {side} layers")
        for target, (style, size) in _TARGETS.items()
        for side, shape in SIDES.items()
    ]


def attention_auc(axes: Axes, lines: pd.DataFrame) -> tuple[list[Artist], bool]:
    """Draw AUCROC_l on the left axis, and R_l on a new right axis, by layer.

    Args:
        axes: Axes to draw on.
        lines: Rows of :func:`icl_lens.studies.anchors.deep_attention.summary.summarise` of one model, task and method to score
            two classes.

    Returns:
        The legend handles, and whether an interval extends beyond the panel.
    """
    right = axes.twinx()
    right.spines["right"].set_visible(True)
    handles: list[Artist] = []
    cut = False
    for side, metric, label in ((axes, "auc", "AUCROC$_l$"), (right, "r", "R$_l$")):
        line = lines[lines["metric"] == metric]
        style = figures.QUANTITIES[metric]
        where = "left" if side is axes else "right"
        handles += side.plot(line["layer"], line["value"], label=f"{label} ({where} axis)", **style.plot)
        side.fill_between(line["layer"], line["low"], line["high"], color=style.colour, alpha=0.2, lw=0)
        side.set_ylabel(label)
        # The curve sets the limits, because the intervals of R are very wide where there is almost no signal.
        lowest, highest = (0.4, 1.02) if metric == "auc" else (-0.05, 1.05)
        side.set_ylim(min(lowest, line["value"].min() - 0.05), max(highest, line["value"].max() + 0.05))
        cut |= bool((line["low"] < side.get_ylim()[0]).any() or (line["high"] > side.get_ylim()[1]).any())
    if lines["value"].isna().all():
        text = "all predictions of each seed\nare the same class"
        axes.text(0.5, 0.6, text, ha="center", va="center", fontsize=figures.SMALL, transform=axes.transAxes)
    axes.axhline(0.5, **figures.REFERENCE)
    return handles, cut


ROW_HEIGHT, EDGES = 0.105, 500
"""Height of a row of tokens in inches, and maximum number of edges that are drawn per layer (the strongest ones)."""

_LABEL_WORD, _LAST = "#ffe45c", "0.85"
_DASHES: dict[str, Any] = {"wp": "-", "pq": (0, (4, 1)), "ww": ":"}
_KINDS = {"wp": "into a label word", "pq": "label word to last position", "ww": "other"}
_LEFT, _RIGHT = 0.32, 0.68


def flow(axes: Axes, prompt: OnePrompt, edges: pd.DataFrame, rows: Rows, width: float, spacing: float) -> None:
    """Draw the information flow along the edges of one layer.

    The prompt's tokens are written on both sides. Each line connects a token on the right, into which information flows, with
    an earlier token on the left. Its opacity is the saliency divided by the largest one of the layer.

    Args:
        axes: Axes to draw on.
        prompt: The prompt.
        edges: Rows of :meth:`icl_lens.report.one_prompt.OnePrompt.in_layer`, weakest first. Edges of tokens that ``rows``
            leaves out must not be among them.
        rows: Rows in which the tokens are drawn.
        width: Width of the panel in inches.
        spacing: Minimum distance, in rows, between two tokens that are written.
    """
    letters = int(_LEFT * width / 0.065)
    words = rows.words([word if len(word) <= letters else word[: letters - 1] + "…" for word in prompt.words])
    places = rows.of_position
    anchors, last = [places[anchor] for anchor in prompt.anchors if anchor in places], places[prompt.last]
    lines = [[(_RIGHT, places[e.query]), (_LEFT, places[e.key])] for e in edges.itertuples()]
    colours = [(*to_rgb(figures.QUANTITIES[f"s_{e.kind}"].colour), min(1.0, e.relative)) for e in edges.itertuples()]
    dashes = [_DASHES[kind] for kind in edges["kind"]]
    axes.add_collection(LineCollection(lines, colors=colours, linestyles=dashes, linewidths=1.1))
    for place in _written(len(words), [last, *anchors], spacing):
        if place in rows.left_out:
            axes.axhspan(place - 0.5, place + 0.5, color="0.93", lw=0, zorder=0)
            style = {"ha": "center", "va": "center", "fontsize": figures.SMALL, "style": "italic", "color": "0.35"}
            axes.text(0.5, place, words[place], **style).set_in_layout(False)
            continue
        ground = _LABEL_WORD if place in anchors else _LAST if place == last else "none"
        box = {"boxstyle": "square,pad=0.1", "facecolor": ground, "edgecolor": "none"}
        for x, side in ((_LEFT - 0.02, "right"), (_RIGHT + 0.02, "left")):
            text = axes.text(x, place, words[place], ha=side, va="center", fontsize=figures.SMALL, parse_math=False, bbox=box)
            text.set_in_layout(False)  # the layout need not measure hundreds of words inside the panel
    axes.set(xlim=(0, 1), ylim=(len(words) - 0.5, -0.5))


def _written(count: int, always: Sequence[int], spacing: float) -> list[int]:
    """Return the rows to write: ``always``, and others that are at least ``spacing`` rows apart."""
    chosen = list(always)
    for place in range(count):
        if all(abs(place - other) >= spacing for other in chosen):
            chosen.append(place)
    return chosen


def drawn(edges: pd.DataFrame, rows: Rows) -> pd.Series:
    """Return which edges of a layer are drawn: the strongest ones, if both tokens have a row.

    Args:
        edges: Rows of :meth:`icl_lens.report.one_prompt.OnePrompt.in_layer`, weakest first.
        rows: Rows in which the tokens are drawn.
    """
    places = rows.of_position
    strong = np.arange(len(edges)) >= len(edges) - EDGES
    return strong & edges["query"].isin(places) & edges["key"].isin(places)


def flow_handles() -> list[Artist]:
    """Return the legend of :func:`flow`."""
    lines = [
        Line2D([], [], color=figures.QUANTITIES[f"s_{kind}"].colour, ls=_DASHES[kind], label=label)
        for kind, label in _KINDS.items()
    ]
    return [*lines, Patch(facecolor=_LABEL_WORD, label="label word"), Patch(facecolor=_LAST, label="last position")]


COMPRESSED = {
    "full": "ICL (uncompressed)",
    "text_anchor": "Text_anchor",
    "hidden_random": "Hidden_random",
    TOP: "Hidden_random-top",
    TOP_IN_SAMPLE: "Hidden_random-top (in sample)",
    "hidden_anchor": "Hidden_anchor",
}
"""Names of the methods of compression."""

PREDICTED: Mapping[str, tuple[str, figures.Series]] = {
    "gold": ("gold labels", figures.SERIES[2]),
    "vanilla": ("not re-weighted", figures.SERIES[0]),
    "few_shot": ("more demonstrations", figures.SERIES[3]),
    "reweighted": ("re-weighted", figures.SERIES[1]),
}
"""Names and styles of the methods of re-weighting, and of the gold labels."""


def predicted_classes(axes: Axes, bars: pd.DataFrame, words: Sequence[str]) -> None:
    """Draw the share of each class among the predictions of each method of re-weighting, and among the gold labels.

    Args:
        axes: Axes to draw on.
        bars: Rows of :func:`icl_lens.studies.anchors.reweighting.summary.shares` of one model and task.
        words: Name of each class.
    """
    for shift, (method, (label, style)) in enumerate(PREDICTED.items()):
        part = bars[bars["method"] == method]
        axes.bar(part["class"] + 0.2 * shift - 0.3, part["share"], 0.2, label=label, **style.bar)
    named = [figures.plain(word) for word in words]
    axes.set_xticks(range(len(words)), named, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_ylim(0, None)
