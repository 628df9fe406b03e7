"""What figures show of saliency: how the flow of each layer divides into S_wp, S_pq and S_ww, with intervals.

The aggregation is the released ``attention_attr_ana.ipynb``'s (*Label Words are Anchors*, section 2.1): the mean of each raw
quantity over a seed's prompts, divided by the sum of the three in that layer, then the mean over seeds. A prompt with a large
loss weighs more than one with a small loss. Intervals are those of :mod:`icl_lens.statistics.resampling`; the range over seeds,
which says what another demonstration set would do, stands beside them.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd

from icl_lens.statistics.resampling import Bootstrap, shares

METRICS = ("s_wp", "s_pq", "s_ww")


def summarise(rows: pd.DataFrame, plan: Bootstrap | None = None) -> pd.DataFrame:
    """The shares of every layer, for each model, task and prompt set, and their paired differences.

    Args:
        rows: Saliency tables, of one or more models, tasks and sets.
        plan: How to resample.

    Returns:
        One row a model, task, set, metric (``s_wp``, ..., and differences such as ``s_wp - s_pq``) and layer: share, low and
        high (the interval's ends), lowest_seed, highest_seed, seeds, prompts.
    """
    found = []
    for (model, task, name), part in rows.groupby(["model", "task", "set"], sort=False):
        key = {"model": model, "task": task, "set": name}
        layers = sorted(part["layer"].unique())
        wide = part.pivot(index=["task", "seed", "prompt_id"], columns="layer", values=list(METRICS))
        wide.columns = [_name(metric, layer) for metric, layer in wide.columns]
        groups = [[_name(metric, layer) for metric in METRICS] for layer in layers]
        whole = shares(wide.reset_index(), groups, plan)  # values (L, 3)
        of_seed = np.stack(
            [shares(one.reset_index(), groups, Bootstrap(resamples=1)).value for _, one in wide.groupby(level="seed")]
        )  # (S, L, 3)
        picks = {metric: (lambda a, i=i: a[..., i]) for i, metric in enumerate(METRICS)}
        for (i, one), (j, other) in combinations(enumerate(METRICS), 2):
            picks[f"{one} - {other}"] = lambda a, i=i, j=j: a[..., i] - a[..., j]
        for metric, pick in picks.items():
            estimate, seeds = whole.apply(pick), pick(of_seed)  # values (L,); (S, L)
            found.append(
                pd.DataFrame(
                    {
                        **key,
                        "metric": metric,
                        "layer": layers,
                        "share": estimate.value,
                        "low": estimate.low,
                        "high": estimate.high,
                        "lowest_seed": seeds.min(0),
                        "highest_seed": seeds.max(0),
                        "seeds": len(seeds),
                        "prompts": estimate.prompts,
                    }
                )
            )
    return pd.concat(found, ignore_index=True)


def _name(metric: str, layer: int) -> str:
    return f"{metric}, layer {layer}"
