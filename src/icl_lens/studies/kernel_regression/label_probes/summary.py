"""Summary of the probes: accuracy by layer, head and position, and whether the accuracy peaks at the label word.

*In-context learning as kernel regression* (Han et al., TMLR 2025), Figure 5. Accuracies are over all folds together. Intervals
are those of :mod:`icl_lens.statistics.resampling`, with each prompt as a demonstration set of its own: a probe reads only the
demonstrations, and the paper's prompts do not share them. The fitted probes are the same in each resample.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from icl_lens.artifacts.schema import DEMONSTRATIONS
from icl_lens.errors import InputError
from icl_lens.statistics.resampling import Bootstrap, Estimate, of_weights, unit_index

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
        One row per model, set, task, feature, target, metric, offset, layer and head (from 0): value, the columns of
        :meth:`~icl_lens.statistics.resampling.Estimate.columns`, majority, classes, fitted (mean over folds), demonstrations
        (number tested). The metrics are ``accuracy``, of one head; ``layer``, the mean over a layer's heads (head missing);
        ``mean``, over all heads (layer and head missing); and ``peak`` (layer and head missing), the mean at offset 0 minus the
        mean at the offset of the row, for each other offset. The accuracy is highest at the label word's own position if
        ``peak`` is above 0 for all other offsets. No offset is selected.
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
    members = pd.DataFrame({"task": task, "seed": 0, "prompt_id": wide.index.astype(int), DEMONSTRATIONS: range(len(wide))})
    shape = sizes[:3]

    def accuracies(weights: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore"):
            return ((weights @ right) / (weights @ asked)).reshape(-1, *shape)  # (K, O, L, H)

    of_head = of_weights(members.set_index(unit_index(members)), accuracies, plan, (0.0, 1.0))
    of_layer, of_all = (of_head.apply(lambda v, axes=axes: v.mean(axes), (0.0, 1.0)) for axes in (-1, (-1, -2)))  # (O, L), (O,)
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
                "value": float(estimate[index].value),
                **estimate[index].columns(),
                "majority": float(np.average(one["majority"], weights=tested)),
                "classes": int(one["classes"].max()),
                "fitted": float(one["fitted"].mean()),
                "demonstrations": int(tested.sum()),
            }
        )

    for o, offset in enumerate(offsets):
        for place, layer in enumerate(layers):
            for number, head in enumerate(heads):
                add("accuracy", of_head, (o, place, number), offset, layer, head)
            add("layer", of_layer, (o, place), offset, layer)
        add("mean", of_all, (o,), offset)
    if 0 in offsets:
        zero = offsets.index(0)
        peak = of_all.apply(lambda v: v[..., [zero]] - v, (-1.0, 1.0))  # (O,)
        for o, offset in enumerate(offsets):
            if o != zero:
                add("peak", peak, (o,), offset)
    return found
