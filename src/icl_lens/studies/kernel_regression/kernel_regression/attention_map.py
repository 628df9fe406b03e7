"""Tidy rows of Figure 2: the attention map bin by bin, and the share of each layer's attention to each part of the prompt.

*In-context learning as kernel regression* (Han et al., TMLR 2025), Figure 2. The bins are those of
:mod:`icl_lens.studies.kernel_regression.kernel_regression.compute`. The bin of a text is an interpolated value between its
tokens' weights, and the bin of a label word is a sum. Use the parts to see how much attention a layer gives to each part of the
prompt. They sum to 1 and have intervals (:mod:`icl_lens.statistics.resampling`).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from icl_lens.errors import InputError
from icl_lens.statistics import resampling
from icl_lens.statistics.resampling import Bootstrap
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
        metric (``share``), these columns, value, low, high, prompts and seeds.
    """
    if single:
        rows = rows[rows["prompt_id"] == rows["prompt_id"].iloc[0]]
    columns = [f"on_{name}" for name in PARTS]
    units = rows.groupby(["task", "seed", "prompt_id", "layer"])[columns].mean().unstack("layer")
    names = [f"{part} {layer}" for part, layer in units.columns]
    units.columns = names
    estimate = resampling.mean(units.reset_index(), names, plan)
    key = rows.iloc[0][["model", "set", "task"]].to_dict()
    layers = int(rows["layer"].max()) + 1
    return pd.DataFrame(
        {
            **key,
            "metric": "share",
            "part": part,
            "layer": layer,
            "value": estimate.value[number * layers + layer],
            "low": np.nan if single else estimate.low[number * layers + layer],
            "high": np.nan if single else estimate.high[number * layers + layer],
            "prompts": estimate.prompts,
            "seeds": rows["seed"].nunique(),
        }
        for number, part in enumerate(PARTS)
        for layer in range(layers)
    )
