"""Data and charts for the report's prompt walk, in which the reader chooses a task, a prompt and a layer.

The data are a few dozen prompts per task, read from the artifacts of one prompt set. These are the prompts that have a stored
flow, see :mod:`icl_lens.studies.anchors.flow.compute`. Of a long prompt, only the tokens with the strongest edges are included;
a marked row replaces each run of other tokens. The charts are Vega-Lite specifications without data; the page inserts the data.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import altair
import numpy as np
import pandas as pd
import vl_convert

from icl_lens.artifacts import parquet
from icl_lens.report import figures, one_prompt
from icl_lens.studies.anchors.flow.study import STUDY as FLOW
from icl_lens.studies.anchors.icl.study import STUDY as ICL
from icl_lens.studies.anchors.isolation.study import STUDY as ISOLATION
from icl_lens.studies.anchors.saliency.summary import METRICS
from icl_lens.studies.anchors.tokens.study import STUDY as TOKENS

# Number of edges drawn per layer (the strongest ones), maximum number of rows in which the tokens of a prompt are written, and
# number of decimals of the rounded values.
EDGES, ROWS = 40, 200
_DIGITS = 3

COLOURS = {"s_wp": "#0072b2", "s_pq": "#d55e00", "s_ww": "#7f7f7f"}
"""Colours of the quantities. Unlike those of the figures, they are legible on light and on dark pages."""

KINDS = {"wp": "into a label word", "pq": "from a label word to the last position", "ww": "between other words"}


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
        "task": figures.task_title(metadata, task),
        "labels": labels,
        "layers": int(metadata["model"]["layers"]),
        "prompts": [_prompt(*(tables[number] for tables in by_prompt), metadata, labels) for number in by_prompt[0]],
    }


def _prompt(
    flow: pd.DataFrame, tokens: pd.DataFrame, answer: pd.DataFrame, isolation: pd.DataFrame, metadata: dict, labels: list[str]
) -> dict[str, Any]:
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
    return {
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


def _strongest(edges: pd.DataFrame, measure: str) -> pd.DataFrame:
    """Return the strongest edges of a layer, weakest first, with ``relative``, the share of the layer's largest."""
    edges = edges[edges[measure] > 0].nlargest(EDGES, measure, keep="first")[::-1]
    return edges.assign(relative=edges[measure] / edges[measure].max())


def _as_rows(edges: pd.DataFrame, places: dict[int, int]) -> list[list[Any]]:
    """Return the edges between tokens that are included, as [row of the query, row of the key, share of the largest, kind]."""
    edges = edges[edges["query"].isin(places) & edges["key"].isin(places)]
    return [[places[e.query], places[e.key], round(e.relative, _DIGITS), e.kind] for e in edges.itertuples()]


def charts() -> dict[str, Any]:
    """Return the charts as Vega-Lite specifications.

    The page inserts the named data sets: ``edges`` and ``words``, ``shares`` and ``chosen``, and ``classes``.
    """
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
    colours = altair.Scale(domain=[_metric_label(m) for m in METRICS], range=[COLOURS[metric] for metric in METRICS])
    curves = (
        altair.Chart(altair.NamedData("shares"))
        .mark_line(point=True)
        .encode(
            x=altair.X("layer:Q", axis=altair.Axis(tickMinStep=1, format="d")),
            y=altair.Y("share:Q", scale=altair.Scale(domain=[0, 1])),
            color=altair.Color("metric:N", scale=colours, legend=altair.Legend(title=None, orient="top")),
            tooltip=["metric:N", "layer:Q", "share:Q"],
        )
    )
    mark = altair.Chart(altair.NamedData("chosen")).mark_rule(strokeDash=[4, 3], color="gray").encode(x="layer:Q")
    bars = (
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
    )
    plain = altair.Config(
        background="transparent",
        view=altair.ViewConfig(stroke=None),
        axis=altair.AxisConfig(
            labelColor="#5a6068", titleColor="#5a6068", domainColor="gray", tickColor="gray", gridOpacity=0.2
        ),
        legend=altair.LegendConfig(labelColor="#5a6068"),
    )
    wide = {"width": "container", "config": plain}
    return {
        "flow": altair.layer(lines, left, right).properties(**wide).to_dict(),
        "shares": altair.layer(curves, mark).properties(**wide, height=180).to_dict(),
        "classes": bars.properties(**wide, height=100).to_dict(),
    }


def _metric_label(metric: str) -> str:
    return metric.replace("s_", "S_")


def library() -> str:
    """Return Vega, Vega-Lite and Vega-Embed as one script that defines ``vegaEmbed`` in the page."""
    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
