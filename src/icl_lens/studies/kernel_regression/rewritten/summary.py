"""Summary of predictions for rewritten test texts: accuracy, and the drop for each rewriting on the same prompts.

*In-context learning as kernel regression* (Han et al., TMLR 2025), Table 1. Intervals are 95 % bootstrap intervals over
prompts; differences are paired.
"""

from __future__ import annotations

import pandas as pd

from icl_lens.statistics.resampling import Bootstrap, mean
from icl_lens.studies.kernel_regression.rewritten.study import REWRITINGS

# Values printed in Table 1: GPT-J on SST-2, with texts rewritten by GPT-3.5-turbo.
PAPER: dict[str, float] = {"original": 0.805, "rare_words": 0.677, "complex_syntax": 0.788, "typos": 0.534}

NAMES = {
    "original": "original",
    "rare_words": "rare words",
    "complex_syntax": "more complex syntax",
    "typos": "typos",
}


def summarise(rows: pd.DataFrame, plan: Bootstrap | None = None) -> pd.DataFrame:
    """Compute the accuracy and its drop for each rewriting.

    Args:
        rows: rewritten tables for one or more models and tasks.
        plan: How to resample.

    Returns:
        One row per model, set, task, metric and rewriting: value, low, high, paper (the paper's accuracy or drop for that
        rewriting), tokens (mean number of tokens in the query's text), replaced (mean share of words with a rare synonym),
        commonest_answer (share of the most frequent prediction), commonest_class (share of the most frequent gold class),
        prompts. The metrics are ``accuracy`` and ``drop``, the accuracy on the original minus the accuracy on this rewriting.
    """
    found = []
    for key, part in rows.groupby(["model", "set", "task"], sort=False):
        right = part.assign(right=part["gold"] == part["prediction"])
        wide = right.pivot(index=["task", "seed", "prompt_id"], columns="rewriting", values="right").astype(float)
        estimate = mean(wide.reset_index(), list(REWRITINGS), plan)
        drop = estimate.apply(lambda v: v[..., [0]] - v)
        for place, how in enumerate(REWRITINGS):
            of = part[part["rewriting"] == how]
            facts = {
                "tokens": float(of["query_tokens"].mean()),
                "replaced": float(of["replaced"].mean()),
                "commonest_answer": float(of["prediction"].value_counts(normalize=True).max()),
                "commonest_class": float(of["gold"].value_counts(normalize=True).max()),
                "prompts": estimate.prompts,
            }
            for metric, of_metric, paper in (
                ("accuracy", estimate, PAPER[how]),
                ("drop", drop, round(PAPER["original"] - PAPER[how], 3)),
            ):
                if metric == "drop" and not place:
                    continue
                found.append(
                    {
                        **dict(zip(("model", "set", "task"), key, strict=True)),
                        "metric": metric,
                        "rewriting": how,
                        "value": float(of_metric.value[place]),
                        "low": float(of_metric.low[place]),
                        "high": float(of_metric.high[place]),
                        "paper": paper,
                        **facts,
                    }
                )
    return pd.DataFrame(found)
