"""Tidy rows of Figure 2: the attention map bin by bin, and the share of each layer's attention to each part of the prompt.

*In-context learning as kernel regression* (Han et al., TMLR 2025), Figure 2. The bins are those of
:mod:`icl_lens.studies.kernel_regression.kernel_regression.compute`. The bin of a text is an interpolated value between its
tokens' weights, and the bin of a label word is a sum. Use the parts to see how much attention a layer gives to each part of the
prompt. They sum to 1 and have intervals (:mod:`icl_lens.statistics.resampling`).

A claim that at least one layer has a large share is about the best layer. That layer is chosen on one half of the test texts
and scored on the other half (:mod:`icl_lens.statistics.halves`).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from icl_lens.errors import InputError
from icl_lens.statistics import resampling
from icl_lens.statistics.halves import chosen_on_other_half, halves, texts_of
from icl_lens.statistics.resampling import Bootstrap, unit_index
from icl_lens.studies.kernel_regression.settings import PARTS, Settings

TITLES = {
    "first": "first token",
    "texts": "texts $x_i$",
    "labels": "label words $y_i$",
    "rest": "between demonstrations",
    "query": "query",
    "end": "after the query",
}
"""Names of the parts in a legend."""

SHARE, BEST_LAYER = "share", "best layer"
"""Metrics of :func:`parts`."""

LABELS_MINUS_TEXTS = "labels - texts"

# Depth up to which the best layer for the end of the query is chosen: "especially in the first layers".
_FIRST_LAYERS = 0.2


def bins(demonstrations: int, settings: Settings) -> pd.DataFrame:
    """Describe each bin of the map, in order: ``place`` (demonstration from 1, 0 for the query), ``part`` and ``position``."""
    each = range(1, settings.bins + 1)
    rows = [
        (place, part, position)
        for place in range(1, demonstrations + 1)
        for part, positions in (("text", each), ("label", [1]))
        for position in positions
    ]
    return pd.DataFrame([*rows, *((0, "query", position) for position in each)], columns=["place", "part", "position"])


def chart(
    rows: pd.DataFrame, tensors: Mapping[str, np.ndarray], settings: Settings, single: bool = False
) -> tuple[np.ndarray, pd.DataFrame]:
    """Compute the map of one model and task.

    Args:
        rows: Rows of the study kernel_regression.
        tensors: Tensors that are stored with the rows.
        settings: Settings of the study.
        single: Whether to use only the first prompt instead of the mean over prompts, then over seeds.

    Raises:
        InputError: The bins of the tensors do not match the settings.

    Returns:
        The map, shape (L, H, M); and a table with one row per layer and head (from 0) and bin: model, set, task, metric
        (``attention``), these columns, the columns of :func:`bins`, and value.
    """
    values = tensors["map_first"] if single else np.nanmean(tensors["map"], axis=0)  # (L, H, M)
    of_bins = bins(max(map(len, rows["demo_labels"])), settings)
    layers, heads, width = values.shape
    if len(of_bins) != width:
        raise InputError(
            f"the attention map of the kernel_regression table has {width} bins, but its settings give {len(of_bins)}; delete "
            "both files and create them again"
        )
    tidy = pd.concat([of_bins] * (layers * heads), ignore_index=True)
    key = rows.iloc[0][["model", "set", "task"]].to_dict()
    layer, head = (np.repeat(each.ravel(), width) for each in np.indices((layers, heads)))
    tidy = tidy.assign(**key, metric="attention", layer=layer, head=head, value=values.ravel().astype(float))
    return values, tidy


def parts(rows: pd.DataFrame, plan: Bootstrap | None = None, single: bool = False) -> pd.DataFrame:
    """Compute the share of a layer's attention that goes to each part of the prompt, as the mean over its heads.

    Args:
        rows: Rows of the study kernel_regression for one model, set and task.
        plan: How to resample.
        single: Whether to use only the first prompt, without an interval.

    Returns:
        One row per layer (from 0) and part (:data:`~icl_lens.studies.kernel_regression.settings.PARTS`): model, set, task,
        metric (:data:`SHARE`), these columns, value, the columns of
        :meth:`~icl_lens.statistics.resampling.Estimate.columns`, and seeds. Unless ``single``, there are also rows of the
        layer with the largest share, with the metric :data:`BEST_LAYER` and no layer: that of the label words minus that of
        the texts (:data:`LABELS_MINUS_TEXTS` in ``part``), of the first token (``first``), and of the part after the query
        (``end``), the last among the layers of the first fifth of the model. Each prompt is scored in the layer that is chosen
        on the other half of the texts.
    """
    if single:
        rows = rows[rows["prompt_id"] == rows["prompt_id"].iloc[0]]
    columns = [f"on_{name}" for name in PARTS]
    units = rows.groupby([*unit_index(rows), "layer"])[columns].mean().unstack("layer")
    names = [f"{part} {layer}" for part, layer in units.columns]
    units.columns = names
    units = units.reset_index()
    key = {**rows.iloc[0][["model", "set", "task"]].to_dict(), "seeds": rows["seed"].nunique()}
    layers = int(rows["layer"].max()) + 1
    estimate = resampling.mean(units, names, plan).apply(lambda means: means, (0.0, 1.0))
    found = []
    for number, part in enumerate(PARTS):
        for layer in range(layers):
            one = estimate[number * layers + layer]
            # A single prompt has no interval.
            ends = {"low": np.nan, "high": np.nan, "prompts": 1} if single else one.columns()
            found.append({**key, "metric": SHARE, "part": part, "layer": layer, "value": float(one.value), **ends})
    if not single:
        found += [{**key, "metric": BEST_LAYER, **row} for row in _best_layers(units, layers, plan)]
    return pd.DataFrame(found).astype({"layer": "Int64"})


def _best_layers(units: pd.DataFrame, layers: int, plan: Bootstrap | None) -> list[dict]:
    """Return the rows of :data:`BEST_LAYER`: part, value and the columns of the estimate.

    Args:
        units: One row per prompt, with a column ``PART LAYER`` for each part and layer.
        layers: L.
        plan: How to resample.
    """

    def share(part: str) -> np.ndarray:
        return units[[f"on_{part} {layer}" for layer in range(layers)]].to_numpy()  # (N, L)

    quantities = {
        LABELS_MINUS_TEXTS: share("labels") - share("texts"),
        "first": share("first"),
        "end": share("end")[:, : int(_FIRST_LAYERS * layers)],
    }
    half = halves(units["seed"], texts_of(units))
    found = []
    for part, values in quantities.items():
        if not values.shape[1]:
            continue
        chosen = chosen_on_other_half(half, lambda of, values=values: int(values[of].mean(0).argmax()))  # (N,)
        scored = units[unit_index(units)].assign(value=values[np.arange(len(values)), chosen])[chosen >= 0]
        if len(scored):
            bounds = (-1.0, 1.0) if part == LABELS_MINUS_TEXTS else (0.0, 1.0)
            one = resampling.mean(scored, ["value"], plan).apply(lambda means: means[..., 0], bounds)
            found.append({"part": part, "value": float(one.value), **one.columns()})
    return found
