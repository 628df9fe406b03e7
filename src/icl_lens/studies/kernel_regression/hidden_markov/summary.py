"""What a table shows of kernel regression on hidden Markov models: distance and accuracy by n, the trend, what is left over.

*In-context learning as kernel regression* (Han et al., TMLR 2025), appendix C, Table 3. Intervals are 95 % bootstrap intervals
over models and, within them, prompts: models differ far more than prompts do, and the paper's are one draw of them.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from icl_lens.errors import InputError
from icl_lens.statistics.ranks import spearman
from icl_lens.statistics.resampling import Bootstrap, Estimate, mean

MODEL = "hidden Markov models"
"""Stands in the column ``model``: no language model is run."""

# Table 3 as printed: n -> distance, accuracy.
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
"""Metric -> the column of the study whose mean it is."""


def summarise(rows: pd.DataFrame, plan: Bootstrap | None = None) -> pd.DataFrame:
    """Everything the table shows, tidy.

    Args:
        rows: A hidden_markov table.
        plan: How to resample; models are always resampled.

    Raises:
        InputError: A model or prompt lacks a number of demonstrations.

    Returns:
        One row a metric and n: model, metric, n, limit (whether it stands for infinitely many), value, low, high, paper (empty
        where the paper has none), models, prompts. The metrics of :data:`METRICS`, and of all n together (n is that of the
        limit): ``trend``, Spearman's correlation of n and the mean distance; ``beyond_sampling``, the mean distance at the
        limit less that which would be there if the distance at the largest n fell with the root of n from there on: above 0, a
        floor is left.
    """
    plan = plan or Bootstrap()
    plan = Bootstrap(plan.resamples, plan.seed, plan.level, seeds_too=True)
    counts = sorted(rows["n"].unique().tolist())
    limit = int(rows.loc[rows["limit"], "n"].iloc[0])
    wide = rows.pivot(index=["seed", "trial"], columns="n", values=list(METRICS.values()))
    if wide.isna().to_numpy().any():
        raise InputError("the hidden_markov table lacks a number of demonstrations for some prompt")
    columns = [f"{name} {n}" for name, n in wide.columns]
    wide = wide.astype(float).set_axis(columns, axis=1).reset_index().rename(columns={"trial": "prompt_id"})
    estimate = mean(wide.assign(task=MODEL), columns, plan)  # (metrics * n,)
    size = {"models": wide["seed"].nunique(), "prompts": len(wide)}
    place = {column: number for number, column in enumerate(columns)}
    found = []

    def add(metric: str, n: int, of: Estimate, index: int, paper: float = np.nan) -> None:
        found.append(
            {
                "model": MODEL,
                "metric": metric,
                "n": n,
                "limit": n == limit,
                "value": of.value[index],
                "low": of.low[index],
                "high": of.high[index],
                "paper": paper,
                **size,
            }
        )

    for metric, column in METRICS.items():
        for n in counts:
            of_paper = dict(zip(("distance", "accuracy"), PAPER.get(n, ()), strict=False))
            add(metric, n, estimate, place[f"{column} {n}"], of_paper.get(metric, np.nan))
    swept = [n for n in counts if n != limit]
    distances = [place[f"distance {n}"] for n in swept]
    paper = np.array([PAPER[n][0] if n in PAPER else np.nan for n in swept])
    of_paper = float(spearman(np.array(swept), paper)) if len(swept) > 1 and not np.isnan(paper).any() else np.nan
    if len(swept) > 1:
        add("trend", limit, estimate.apply(lambda v: spearman(np.array(swept), v[..., distances])[..., None]), 0, of_paper)
    left = np.sqrt(swept[-1] / limit)
    at_limit, last = place[f"distance {limit}"], distances[-1]
    add("beyond_sampling", limit, estimate.apply(lambda v: (v[..., at_limit] - left * v[..., last])[..., None]), 0)
    return pd.DataFrame(found)
