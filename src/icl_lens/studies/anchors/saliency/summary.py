"""Results of saliency for the figures: shares of S_wp, S_pq and S_ww in the flow of each layer, with confidence intervals.

The aggregation follows the released ``attention_attr_ana.ipynb`` (*Label Words are Anchors*, section 2.1). It takes the mean of
each raw quantity over the prompts of a seed, divides it by the sum of the three quantities in the layer, and averages over
seeds. A prompt with a large loss therefore has more weight than a prompt with a small loss. The confidence intervals are those
of :mod:`icl_lens.statistics.resampling`. The table also contains the range over seeds, which shows the effect of the
demonstration set.

The paper's quantities are the main result. Their variants (:mod:`icl_lens.studies.anchors.saliency.compute`) are aggregated in
the same way, and are in the result where they differ from the paper's quantities.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np
import pandas as pd

from icl_lens.statistics.resampling import Bootstrap, shares, unit_index

METRICS = ("s_wp", "s_pq", "s_ww")

VARIANTS = {
    "": METRICS,
    "_visible": ("s_wp_visible", "s_pq_visible", "s_ww_visible"),
    "_no_bos": ("s_wp_no_bos", "s_pq", "s_ww"),
}
"""Suffix of the metrics of each variant, and its columns in the order of :data:`METRICS`; the first variant is the paper's."""

FROM_BOS = "s_wp_bos"
"""Metric for the part of S_wp that comes from the BOS token."""


def summarise(rows: pd.DataFrame, plan: Bootstrap | None = None) -> pd.DataFrame:
    """Compute the shares of each layer and their paired differences, for each model, task and prompt set.

    Args:
        rows: Saliency tables of one or more models, tasks and sets.
        plan: Settings of the resampling.

    Returns:
        One row per model, task, set, metric and layer: share, the columns of
        :meth:`~icl_lens.statistics.resampling.Estimate.columns`, lowest_seed, highest_seed, seeds. The metrics are ``s_wp``,
        ``s_pq``, ``s_ww`` and their differences such as ``s_wp - s_pq``. Where some edges cannot exist (sliding windows), the
        same metrics with the suffix ``_visible`` are those of the means over the edges that can exist. Where the prompts begin
        with a BOS token, those with the suffix ``_no_bos`` have an S_wp without this token, and ``s_wp_bos`` is the part of the
        share ``s_wp`` that comes from it.
    """
    found = []
    for (model, task, name), part in rows.groupby(["model", "task", "set"], sort=False):
        key = {"model": model, "task": task, "set": name}
        for suffix, columns in VARIANTS.items():
            if suffix and np.array_equal(part[list(columns)], part[list(METRICS)]):
                continue
            of_metric = {f"{metric}{suffix}": (lambda a, i=i: a[..., i]) for i, metric in enumerate(METRICS)}
            for (i, one), (j, other) in combinations(enumerate(METRICS), 2):
                of_metric[f"{one}{suffix} - {other}{suffix}"] = lambda a, i=i, j=j: a[..., i] - a[..., j]
            found.append(_summarise(part, columns, of_metric, plan).assign(**key))
        if part[FROM_BOS].any():
            divided = part.assign(others=part["s_wp"] - part[FROM_BOS])
            of_metric = {FROM_BOS: lambda a: a[..., 0]}
            found.append(_summarise(divided, (FROM_BOS, "others", *METRICS[1:]), of_metric, plan).assign(**key))
    columns = ["model", "task", "set", "metric", "layer", "share", "low", "high", "prompts_low", "prompts_high"]
    return pd.concat(found, ignore_index=True)[
        [*columns, "lowest_seed", "highest_seed", "seeds", "sets", "prompts", "replicates"]
    ]


def _summarise(
    part: pd.DataFrame, columns: Sequence[str], of_metric: dict[str, Callable[[np.ndarray], np.ndarray]], plan: Bootstrap | None
) -> pd.DataFrame:
    """Compute metrics of the shares of some columns in their sum.

    Args:
        part: Saliency table of one model, task and set.
        columns: P columns of the table, whose shares sum to 1 in each layer.
        of_metric: For each metric, a function of the shares, shape (..., L, P), that returns its values, shape (..., L).
        plan: Settings of the resampling.
    """
    layers = sorted(part["layer"].unique())
    wide = part.pivot(index=unit_index(part), columns="layer", values=list(columns))
    wide.columns = [_name(column, layer) for column, layer in wide.columns]
    groups = [[_name(column, layer) for column in columns] for layer in layers]
    whole = shares(wide.reset_index(), groups, plan)  # values (L, P)
    of_seed = np.stack(
        [shares(one.reset_index(), groups, Bootstrap(resamples=1)).value for _, one in wide.groupby(level="seed")]
    )  # (S, L, P)
    found = []
    for metric, pick in of_metric.items():
        bounds = (-1.0, 1.0) if " - " in metric else (0.0, 1.0)
        estimate, seeds = whole.apply(pick, bounds), pick(of_seed)  # values (L,); (S, L)
        found.append(
            pd.DataFrame(
                {
                    "metric": metric,
                    "layer": layers,
                    "share": estimate.value,
                    **estimate.columns(),
                    "lowest_seed": seeds.min(0),
                    "highest_seed": seeds.max(0),
                    "seeds": len(seeds),
                }
            )
        )
    return pd.concat(found, ignore_index=True)


def notes(summary: pd.DataFrame) -> list[str]:
    """Return one sentence for each variant that is in the result of :func:`summarise`."""
    lines = []
    if summary["metric"].isin(VARIANTS["_visible"]).any():
        lines.append(
            "$S_{wp}$, $S_{pq}$ and $S_{ww}$ count edges outside an attention window as 0, as in the paper's equations; the "
            "metrics *_visible in the CSV are means over the edges that can exist."
        )
    keys = ["model", "task", "set", "layer"]
    parts = summary.pivot(index=keys, columns="metric", values="share")
    if FROM_BOS in parts:
        ratio = (parts[FROM_BOS] / parts["s_wp"])[parts["s_wp"] > 0].dropna()
        lines.append(
            f"The BOS token counts as text, as in the paper's equations, and is the source of {100 * ratio.min():.0f} to "
            f"{100 * ratio.max():.0f} % of $S_{{wp}}$, by layer; the metrics *_no_bos in the CSV exclude it."
        )
    return lines


def _name(metric: str, layer: int) -> str:
    return f"{metric}, layer {layer}"
