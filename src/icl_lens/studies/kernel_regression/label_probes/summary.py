"""Summary of the probes: accuracy by layer, head and position, and whether the accuracy peaks at the label word.

*In-context learning as kernel regression* (Han et al., TMLR 2025), Figure 5. Accuracies are over all folds together. Intervals
are 95 % bootstrap intervals over prompts; the fitted probes are fixed across resamples.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from icl_lens.errors import InputError
from icl_lens.statistics.resampling import Bootstrap, Estimate

_KEY = ["model", "set", "task"]
_PROBE = ["feature", "target"]


def summarise(rows: pd.DataFrame, plan: Bootstrap | None = None) -> pd.DataFrame:
    """Return all values that the figures show, as tidy rows.

    Args:
        rows: label_probes tables for one or more models and tasks.
        plan: How to resample.

    Raises:
        InputError: A probe is missing or duplicated for some head, layer or position.

    Returns:
        One row per model, set, task, feature, target, metric, offset, layer and head (from 0): value, low, high, majority,
        classes, fitted (mean over folds), demonstrations (number tested), prompts. The metrics are ``accuracy``, of one head;
        ``layer``, the mean over a layer's heads (head missing); ``mean``, over all heads (layer and head missing); and ``peak``
        (layer and head missing), the mean at offset 0 minus the largest mean at another offset, which is the offset of the row.
        A ``peak`` above 0 means that the accuracy is highest at the label word's own position.
    """
    plan = plan or Bootstrap()
    found = []
    for key, part in rows.groupby([*_KEY, *_PROBE], sort=False):
        named = dict(zip([*_KEY, *_PROBE], key, strict=True))
        found += [{**named, **row} for row in _of_probe(part, named["task"], plan)]
    return pd.DataFrame(found).astype({"layer": "Int64", "head": "Int64"})


def _of_probe(rows: pd.DataFrame, task: str, plan: Bootstrap) -> list[dict]:
    places = ["offset", "layer", "head"]
    sizes = [rows[name].nunique() for name in [*places, "fold"]]
    if rows.duplicated([*places, "fold"]).any() or len(rows) != np.prod(sizes):
        raise InputError(
            "the label_probes table has missing or duplicate folds, offsets, layers or heads; delete the table and create it "
            "again"
        )
    counted = rows[[*places, "seed", "members", "asked", "right"]].explode(["members", "asked", "right"])
    wide = counted.pivot(index="members", columns=places, values=["asked", "right"]).fillna(0).astype(float).sort_index(axis=1)
    right, asked = (wide[name].to_numpy() for name in ("right", "asked"))  # (N, O * L * H) each
    # Folds mix the prompts of all seeds, and a row has the prompt_id of only one prompt of its fold. Prompts are therefore
    # resampled as one stratum.
    weights = plan.prompt_weights(task, 0, len(wide))  # (R, N)
    with np.errstate(invalid="ignore"):
        value, drawn = right.sum(0) / asked.sum(0), (weights @ right) / (weights @ asked)
    shape = sizes[:3]
    of_head = Estimate(value.reshape(shape), drawn.reshape(-1, *shape), len(wide), plan.level)
    of_layer, of_all = of_head.apply(lambda v: v.mean(-1)), of_head.apply(lambda v: v.mean((-1, -2)))
    offsets, layers, heads = (sorted(rows[name].unique().tolist()) for name in places)
    by_offset = dict(list(rows.groupby("offset")))
    found = []

    def add(
        metric: str, estimate: Estimate, index: tuple, offset: int, layer: int | None = None, head: int | None = None
    ) -> None:
        of = by_offset[offset]
        one = of[(of["layer"] == layers[0]) & (of["head"] == heads[0])]
        tested = one["asked"].map(sum)
        found.append(
            {
                "metric": metric,
                "offset": offset,
                "layer": layer,
                "head": head,
                "value": float(estimate.value[index]),
                "low": float(estimate.low[index]),
                "high": float(estimate.high[index]),
                "majority": float(np.average(one["majority"], weights=tested)),
                "classes": int(one["classes"].max()),
                "fitted": float(one["fitted"].mean()),
                "demonstrations": int(tested.sum()),
                "prompts": estimate.prompts,
            }
        )

    for o, offset in enumerate(offsets):
        for place, layer in enumerate(layers):
            for number, head in enumerate(heads):
                add("accuracy", of_head, (o, place, number), offset, layer, head)
            add("layer", of_layer, (o, place), offset, layer)
        add("mean", of_all, (o,), offset)
    others = [o for o, offset in enumerate(offsets) if offset != 0]
    if others and 0 in offsets:
        zero, best = offsets.index(0), max(others, key=lambda o: of_all.value[o])
        add("peak", of_all.apply(lambda v: v[..., [zero]] - v[..., [best]]), (0,), offsets[best])
    return found
