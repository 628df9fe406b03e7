"""Summary of kernel regression on hidden Markov models: distance and accuracy by n, the trend, and the remaining distance.

*In-context learning as kernel regression* (Han et al., TMLR 2025), appendix C, Table 3. Intervals are those of
:mod:`icl_lens.statistics.resampling`, over models (in place of demonstration sets). Models differ much more than prompts do,
and the paper's models are one draw.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from icl_lens.errors import InputError
from icl_lens.statistics.ranks import spearman
from icl_lens.statistics.resampling import Bootstrap, Estimate, mean

MODEL = "hidden Markov models"
"""Value of the column ``model``; no language model is run."""

# Values printed in Table 3: n -> distance, accuracy.
PAPER: dict[int, tuple[float, float]] = {
    1: (1.322, 0.337),
    2: (0.942, 0.532),
    4: (0.519, 0.745),
    8: (0.218, 0.901),
    16: (0.163, 0.926),
    32: (0.085, 0.968),
    64: (0.093, 0.961),
    128: (0.083, 0.964),
}

METRICS = {
    "distance": "distance",
    "accuracy": "agrees",
    "right": "correct",
    "posterior_right": "posterior_correct",
    "weightless": "weightless",
}
"""Mapping from each metric to the column of the study that it averages."""


def summarise(rows: pd.DataFrame, plan: Bootstrap | None = None) -> pd.DataFrame:
    """Return all values that the table shows, as tidy rows.

    Args:
        rows: A hidden_markov table.
        plan: How to resample.

    Raises:
        InputError: A model or prompt lacks a number of demonstrations.

    Returns:
        One row per metric and n: model, metric, n, limit (whether n represents infinitely many demonstrations), value, the
        columns of :meth:`~icl_lens.statistics.resampling.Estimate.columns`, paper (empty if the paper has no value), models,
        prompts. The metrics are those of :data:`METRICS` and two over all n together (with the n of the limit). ``trend`` is
        the Spearman correlation between n and the mean distance. ``beyond_sampling`` is the mean distance at the limit minus
        the distance expected there if the distance at the largest n decreased with the square root of n from that point on. A
        value above 0 means that a floor remains.
    """
    counts = sorted(rows["n"].unique().tolist())
    limit = int(rows.loc[rows["limit"], "n"].iloc[0])
    wide = rows.pivot(index=["seed", "trial"], columns="n", values=list(METRICS.values()))
    if wide.isna().to_numpy().any():
        raise InputError(
            "the hidden_markov table lacks a number of demonstrations for a prompt; delete the table and create it again"
        )
    columns = [f"{name} {n}" for name, n in wide.columns]
    wide = wide.astype(float).set_axis(columns, axis=1).reset_index().rename(columns={"trial": "prompt_id"})
    estimate = mean(wide.assign(task=MODEL), columns, plan)  # (metrics * n,)
    size = {"models": wide["seed"].nunique(), "prompts": len(wide)}
    place = {column: number for number, column in enumerate(columns)}
    found = []

    def add(metric: str, n: int, one: Estimate, paper: float = np.nan) -> None:
        found.append(
            {
                "model": MODEL,
                "metric": metric,
                "n": n,
                "limit": n == limit,
                "value": float(one.value),
                **one.columns(),
                "paper": paper,
                **size,
            }
        )

    for metric, column in METRICS.items():
        for n in counts:
            of_paper = dict(zip(("distance", "accuracy"), PAPER.get(n, ()), strict=False))
            bounds = (0.0, 2.0) if metric == "distance" else (0.0, 1.0)
            of_metric = estimate.apply(lambda v, at=place[f"{column} {n}"]: v[..., at], bounds)
            add(metric, n, of_metric, of_paper.get(metric, np.nan))
    swept = [n for n in counts if n != limit]
    distances = [place[f"distance {n}"] for n in swept]
    paper = np.array([PAPER[n][0] if n in PAPER else np.nan for n in swept])
    of_paper = float(spearman(np.array(swept), paper)) if len(swept) > 1 and not np.isnan(paper).any() else np.nan
    if len(swept) > 1:
        trend = estimate.apply(lambda v: spearman(np.array(swept), v[..., distances]), (-1.0, 1.0))
        add("trend", limit, trend, of_paper)
    left = np.sqrt(swept[-1] / limit)
    at_limit, last = place[f"distance {limit}"], distances[-1]
    add("beyond_sampling", limit, estimate.apply(lambda v: v[..., at_limit] - left * v[..., last]))
    return pd.DataFrame(found)
