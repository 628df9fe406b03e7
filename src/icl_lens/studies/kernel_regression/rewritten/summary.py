"""Summary of predictions for rewritten test texts: accuracy, and the drop for each rewriting on the same prompts.

*In-context learning as kernel regression* (Han et al., TMLR 2025), Table 1. Intervals are those of
:mod:`icl_lens.statistics.resampling`; differences are paired.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from icl_lens.statistics.answers import balanced_columns, majority_baseline, scores
from icl_lens.statistics.resampling import Bootstrap, unit_index
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
        One row per model, set, task, metric and rewriting: value, the columns of
        :meth:`~icl_lens.statistics.resampling.Estimate.columns` and of :func:`icl_lens.statistics.answers.balanced_columns`
        (without a majority baseline for a drop), paper (the paper's accuracy or drop for that rewriting), tokens (mean number
        of tokens in the query's text), replaced (mean share of words with a rare synonym), and commonest_answer (share of the
        most frequent prediction). The metrics are ``accuracy`` and ``drop``, the accuracy on the original minus the accuracy on
        this rewriting.
    """
    found = []
    for key, part in rows.groupby(["model", "set", "task"], sort=False):
        right = part.assign(right=part["gold"] == part["prediction"])
        wide = right.pivot(index=[*unit_index(right), "gold"], columns="rewriting", values="right").astype(float)
        both = scores(wide.reset_index(), list(REWRITINGS), plan)  # (2, rewritings)
        drop = both.apply(lambda v: v[..., [0]] - v, (-1.0, 1.0))
        for place, how in enumerate(REWRITINGS):
            of = part[part["rewriting"] == how]
            facts = {
                "tokens": float(of["query_tokens"].mean()),
                "replaced": float(of["replaced"].mean()),
                "commonest_answer": float(of["prediction"].value_counts(normalize=True).max()),
            }
            for metric, of_metric, paper in (
                ("accuracy", both, PAPER[how]),
                ("drop", drop, round(PAPER["original"] - PAPER[how], 3)),
            ):
                if metric == "drop" and not place:
                    continue
                found.append(
                    {
                        **dict(zip(("model", "set", "task"), key, strict=True)),
                        "metric": metric,
                        "rewriting": how,
                        "value": float(of_metric.value[0, place]),
                        **of_metric[0, place].columns(),
                        **balanced_columns(of_metric[1, place], majority_baseline(of) if metric == "accuracy" else np.nan),
                        "paper": paper,
                        **facts,
                    }
                )
    return pd.DataFrame(found)
