"""Results of saliency for the figures: shares of S_wp, S_pq and S_ww in the flow of each layer, with confidence intervals.

The aggregation follows the released ``attention_attr_ana.ipynb`` (*Label Words are Anchors*, section 2.1). It takes the mean of
each raw quantity over the prompts of a seed, divides it by the sum of the three quantities in the layer, and averages over
seeds. A prompt with a large loss therefore has more weight than a prompt with a small loss. The confidence intervals are those
of :mod:`icl_lens.statistics.resampling`. The table also contains the range over seeds, which shows the effect of the
demonstration set.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd

from icl_lens.statistics.resampling import Bootstrap, shares

METRICS = ("s_wp", "s_pq", "s_ww")


def summarise(rows: pd.DataFrame, plan: Bootstrap | None = None) -> pd.DataFrame:
    """Compute the shares of each layer and their paired differences, for each model, task and prompt set.

    Args:
        rows: Saliency tables of one or more models, tasks and sets.
        plan: Bootstrap settings.

    Returns:
        One row per model, task, set, metric (``s_wp``, ..., and differences such as ``s_wp - s_pq``) and layer: share, low and
        high (the ends of the confidence interval), lowest_seed, highest_seed, seeds, prompts.
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
