"""Data and charts for the report's prompt walk, in which the reader chooses a task, a prompt and a layer.

The data are a few dozen prompts per task, read from the artifacts of one prompt set. These are the prompts that have a stored
flow, see :mod:`icl_lens.studies.anchors.flow.compute`. Of a long prompt, only the tokens with the strongest edges are included;
a marked row replaces each run of other tokens. The charts are Vega-Lite specifications without data; the page inserts the data.

The page of one prompt (:mod:`icl_lens.report.prompt_page`) has the same data, with further entries (:data:`FURTHER`).
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import altair
import numpy as np
import pandas as pd
import vl_convert

from icl_lens.artifacts import parquet
from icl_lens.report import descriptions, one_prompt
from icl_lens.studies.anchors.flow.study import STUDY as FLOW
from icl_lens.studies.anchors.icl.study import STUDY as ICL
from icl_lens.studies.anchors.isolation.study import STUDY as ISOLATION
from icl_lens.studies.anchors.saliency.summary import METRICS
from icl_lens.studies.anchors.tokens.study import STUDY as TOKENS

# Number of edges drawn per layer (the strongest ones), maximum number of rows in which the tokens of a prompt are written, and
# number of decimals of the rounded values.
EDGES, ROWS = 40, 200
_DIGITS = 3

# Height of a head in the heat map of heads, in pixels.
_HEAD_HEIGHT = 14

COLOURS = {"s_wp": "#0072b2", "s_pq": "#d55e00", "s_ww": "#7f7f7f"}
"""Colours of the quantities. Unlike those of the figures, they are legible on light and on dark pages."""

KINDS = {"wp": "into a label word", "pq": "from a label word to the last position", "ww": "between other words"}

LABEL_COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#7f7f7f", "#8a6d00", "#56b4e9", "#5b3fa0"]
"""Colours of the label words, in the order of the classes; they repeat if there are more classes."""

FURTHER = ("heads", "lens", "attention")
"""Charts of the page of one prompt that the report does not have."""


def read(folders: Sequence[Path]) -> list[dict[str, Any]]:
    """Return the data of the prompt walk as JSON-compatible objects, one entry per folder of studies.

    Raises:
        InputError: If a table cannot be read.
    """
    return [_task(folder) for folder in folders]


def _task(folder: Path) -> dict[str, Any]:
    (flow, metadata), (tokens, _), (answers, _), (isolation, _) = (
        parquet.read(folder / f"{study.name}.parquet", study.schema) for study in (FLOW, TOKENS, ICL, ISOLATION)
    )
    words = (metadata.get("task") or {}).get("label_words") or []
    task = flow["task"].iloc[0]
    by_prompt = [dict(list(table.groupby("prompt_id"))) for table in (flow, tokens, answers, isolation)]
    classes = len(answers["class_log_probs"].iloc[0])
    labels = [words[c].strip() if words else str(c) for c in range(classes)]
    return {
        "model": metadata["model"]["name"],
        "task": descriptions.task_title(metadata, task),
        "labels": labels,
        "layers": int(metadata["model"]["layers"]),
        "prompts": [of_prompt(*(tables[number] for tables in by_prompt), metadata, labels)[0] for number in by_prompt[0]],
    }


def of_prompt(
    flow: pd.DataFrame, tokens: pd.DataFrame, answer: pd.DataFrame, isolation: pd.DataFrame, metadata: dict, labels: list[str]
) -> tuple[dict[str, Any], dict[int, int]]:
    """Return the data of a prompt, and the row of each of its tokens that is included.

    Args:
        flow: The prompt's rows of the flow table.
        tokens: The prompt's rows of the tokens table.
        answer: The prompt's row of the icl table.
        isolation: The prompt's rows of the isolation table.
        metadata: Metadata of the flow table.
        labels: The label word of each class, without surrounding spaces.
    """
    prompt = one_prompt.OnePrompt(
        tokens=tokens.sort_values("position", ignore_index=True),
        edges=flow,
        answer=answer.iloc[0],
        about=metadata,
        label_words=dict(enumerate(labels)),
    )
    layers = range(prompt.layers)
    strongest = {
        measure: [_strongest(prompt.in_layer(layer), measure) for layer in layers] for measure in ("saliency", "attention")
    }
    rows = prompt.rows(pd.concat([edges for of_layer in strongest.values() for edges in of_layer]), ROWS)
    places = rows.of_position
    means = flow.groupby("layer")[list(METRICS)].first()
    shares = means.div(means.sum(axis=1).where(lambda total: total > 0), axis=0).fillna(0)
    mean_jaccard = isolation.groupby(["target", "side", "layers"], sort=False).agg(
        agrees=("label_agrees", "mean"),
        words=("word_jaccard_5", "mean"),
        draws=("draw", "nunique"),
        prediction=("prediction", "first"),
    )
    data = {
        "id": int(flow["prompt_id"].iloc[0]),
        "seed": int(flow["seed"].iloc[0]),
        "gold": int(prompt.answer["gold"]),
        "prediction": int(prompt.answer["prediction"]),
        "probabilities": np.exp(prompt.answer["class_log_probs"]).round(_DIGITS).tolist(),
        "tokens": len(prompt.tokens),
        "words": rows.words(prompt.words),
        "anchors": [places[anchor] for anchor in prompt.anchors if anchor in places],
        "runs": list(rows.left_out.items()),
        "left_out": sum(rows.left_out.values()),
        "flow": {measure: [_as_rows(edges, places) for edges in of_layer] for measure, of_layer in strongest.items()},
        "shares": shares.loc[list(layers)].round(_DIGITS).to_numpy().tolist(),
        "isolation": [
            {
                "target": target,
                "side": side,
                "layers": int(k),
                "label": labels[int(row.prediction)] if row.draws == 1 else "",
                "agrees": round(float(row.agrees), _DIGITS),
                "words": round(float(row.words), _DIGITS),
                "draws": int(row.draws),
            }
            for (target, side, k), row in mean_jaccard.iterrows()
        ],
    }
    return data, places


def strongest_of_heads(layer: np.ndarray, places: dict[int, int], kinds: np.ndarray, most: int) -> list[list[list[Any]]]:
    """Return the strongest edges of each head of a layer between the tokens that are included, as :func:`of_prompt` does.

    Args:
        layer: A measure of each edge and head, zero on and above the diagonal, shape (H, T, T).
        places: Row of each token that is included.
        kinds: Kind of each edge, see :func:`icl_lens.report.one_prompt.kinds`.
        most: Maximum number of edges per head.
    """
    included = np.zeros(layer.shape[1:], dtype=bool)  # (T, T)
    included[np.ix_(list(places), list(places))] = True
    result = []
    for matrix in layer:  # (T, T)
        values = np.where(included, matrix, 0)  # (T, T)
        order = np.argsort(values, axis=None, kind="stable")[-most:]  # (most,)
        queries, keys = np.unravel_index(order[values.ravel()[order] > 0], values.shape)
        shares = (values[queries, keys] / max(matrix.max(), np.finfo(float).tiny)).round(_DIGITS).tolist()
        columns = _rows(queries, places), _rows(keys, places), shares, kinds[queries, keys].tolist()
        result.append([list(edge) for edge in zip(*columns, strict=True)])
    return result


def _rows(positions: np.ndarray, places: dict[int, int]) -> list[int]:
    return [places[position] for position in positions.tolist()]


def _strongest(edges: pd.DataFrame, measure: str) -> pd.DataFrame:
    """Return the strongest edges of a layer, weakest first, with ``relative``, the share of the layer's largest."""
    edges = edges[edges[measure] > 0].nlargest(EDGES, measure, keep="first")[::-1]
    return edges.assign(relative=edges[measure] / edges[measure].max())


def _as_rows(edges: pd.DataFrame, places: dict[int, int]) -> list[list[Any]]:
    """Return the edges between tokens that are included, as [row of the query, row of the key, share of the largest, kind]."""
    edges = edges[edges["query"].isin(places) & edges["key"].isin(places)]
    return [[places[e.query], places[e.key], round(e.relative, _DIGITS), e.kind] for e in edges.itertuples()]


def charts(labels: Sequence[str] = (), heads: int = 0, attention: float = 1.0) -> dict[str, Any]:
    """Return the charts as Vega-Lite specifications.

    The page inserts the named data sets: ``edges`` and ``words``, ``shares`` and ``chosen``, and ``classes``; and in the
    further charts ``heads``, ``lens`` and ``attention``.

    Args:
        labels: Label words in the charts of :data:`FURTHER`.
        heads: Number of heads in these charts; 0 for the charts of the report only.
        attention: Largest value of the chart ``attention``.
    """
    drawn = {"flow": _flow_chart(), "shares": _shares_chart(), "classes": _classes_chart()}
    if heads:
        drawn |= {
            "heads": _heads_chart(heads),
            "lens": _label_lines("lens", "probability", 1, labels),
            "attention": _label_lines("attention", "attention", attention, labels),
        }
    plain = altair.Config(
        background="transparent",
        view=altair.ViewConfig(stroke=None),
        axis=altair.AxisConfig(
            labelColor="#5a6068", titleColor="#5a6068", domainColor="gray", tickColor="gray", gridOpacity=0.2
        ),
        legend=altair.LegendConfig(labelColor="#5a6068", titleColor="#5a6068"),
    )
    return {name: chart.properties(width="container", config=plain).to_dict() for name, chart in drawn.items()}


def _layer_axis() -> altair.X:
    return altair.X("layer:Q", scale=altair.Scale(nice=False), axis=altair.Axis(tickMinStep=1, format="d"))


def _chosen_layer() -> altair.Chart:
    return altair.Chart(altair.NamedData("chosen")).mark_rule(strokeDash=[4, 3], color="gray").encode(x="layer:Q")


def _flow_chart() -> altair.LayerChart:
    position = {"scale": altair.Scale(reverse=True, nice=False, zero=False), "axis": None}
    side = altair.Scale(domain=[0, 1])
    kinds = altair.Scale(domain=list(KINDS.values()), range=[COLOURS[f"s_{kind}"] for kind in KINDS])
    lines = (
        altair.Chart(altair.NamedData("edges"))
        .mark_rule(strokeCap="round")
        .encode(
            x=altair.X("from:Q", scale=side, axis=None),
            x2="to:Q",
            y=altair.Y("key:Q", **position),
            y2="query:Q",
            strokeWidth=altair.StrokeWidth("share:Q", scale=altair.Scale(domain=[0, 1], range=[0.3, 4]), legend=None),
            opacity=altair.Opacity("share:Q", scale=altair.Scale(domain=[0, 1], range=[0.12, 1]), legend=None),
            color=altair.Color("kind:N", scale=kinds, legend=None),
            tooltip=["read:N", "by:N", "share:Q"],
        )
    )
    text = altair.Chart(altair.NamedData("words")).encode(y=altair.Y("position:Q", **position), text="word:N")
    font = {"fontSize": 11, "font": "ui-monospace, monospace", "limit": 95}
    bold = altair.condition("datum.anchor", altair.value(COLOURS["s_wp"]), altair.value("currentColor"))
    left = text.mark_text(align="right", dx=-6, **font).encode(x=altair.datum(0, type="quantitative"), color=bold)
    right = text.mark_text(align="left", dx=6, **font).encode(x=altair.datum(1, type="quantitative"), color=bold)
    return altair.layer(lines, left, right)


def _shares_chart() -> altair.LayerChart:
    colours = altair.Scale(domain=[_metric_label(m) for m in METRICS], range=[COLOURS[metric] for metric in METRICS])
    curves = (
        altair.Chart(altair.NamedData("shares"))
        .mark_line(point=True)
        .encode(
            x=_layer_axis(),
            y=altair.Y("share:Q", scale=altair.Scale(domain=[0, 1])),
            color=altair.Color("metric:N", scale=colours, legend=altair.Legend(title=None, orient="top")),
            tooltip=["metric:N", "layer:Q", "share:Q"],
        )
    )
    return altair.layer(curves, _chosen_layer()).properties(height=180)


def _classes_chart() -> altair.Chart:
    return (
        altair.Chart(altair.NamedData("classes"))
        .mark_bar()
        .encode(
            x=altair.X("probability:Q", scale=altair.Scale(domain=[0, 1])),
            y=altair.Y("label:N", sort=None, title=None),
            color=altair.Color(
                "role:N",
                scale=altair.Scale(domain=["right", "wrong"], range=[COLOURS["s_wp"], COLOURS["s_ww"]]),
                legend=None,
            ),
            tooltip=["label:N", "probability:Q"],
        )
        .properties(height=100)
    )


def _heads_chart(heads: int) -> altair.LayerChart:
    """Return a heat map of the heads. The field ``label`` marks the chosen layer and head."""
    cells = altair.Chart(altair.NamedData("heads")).encode(
        x=altair.X("layer:O", axis=altair.Axis(labelAngle=0, labelOverlap=True)),
        y=altair.Y("head:O", axis=altair.Axis(labelOverlap=True)),
    )
    colour = altair.Color(
        "share:Q",
        scale=altair.Scale(scheme="blues", domainMin=0),
        legend=altair.Legend(title="share", orient="right", gradientLength=80, format=".2f"),
    )
    marked = cells.transform_filter("datum.chosen").mark_rect(filled=False, stroke="#d55e00", strokeWidth=2)
    drawn = cells.mark_rect(cursor="pointer").encode(color=colour, tooltip=["layer:O", "head:O", "share:Q"])
    return altair.layer(drawn, marked).properties(height=_HEAD_HEIGHT * max(heads, 4))


def _label_lines(name: str, value: str, largest: float, labels: Sequence[str]) -> altair.LayerChart:
    """Return a chart with one line per label word over the layers, for values from 0 to ``largest``."""
    curves = (
        altair.Chart(altair.NamedData(name))
        .mark_line(point=True)
        .encode(
            x=_layer_axis(),
            y=altair.Y(f"{value}:Q", scale=altair.Scale(domain=[0, largest])),
            color=altair.Color(
                "label:N",
                scale=altair.Scale(domain=list(labels), range=LABEL_COLOURS),
                legend=altair.Legend(title=None, orient="top"),
            ),
            tooltip=["label:N", "layer:Q", f"{value}:Q"],
        )
    )
    return altair.layer(curves, _chosen_layer()).properties(height=180)


def _metric_label(metric: str) -> str:
    return metric.replace("s_", "S_")


def packed(data: Any) -> str:
    """Return data as compressed JSON in base64, for embedding in a page. The result is deterministic."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


@cache
def library() -> str:
    """Return Vega, Vega-Lite and Vega-Embed as one script that defines ``vegaEmbed`` in the page."""
    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
