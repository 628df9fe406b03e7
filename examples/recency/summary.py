"""Shares of attention by task, layer and place, with intervals, for the figure.

The share of place i in layer l is a_{l,i} / sum_j a_{l,j}, computed from the means over the prompts of a seed, then averaged
over seeds.
:mod:`icl_lens.statistics.resampling` computes the intervals.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from icl_lens.errors import InputError
from icl_lens.statistics import resampling
from icl_lens.statistics.resampling import Bootstrap, unit_index


def summarise(rows: pd.DataFrame, plan: Bootstrap | None = None) -> pd.DataFrame:
    """Compute the share of each place for each model, prompt set and task.

    Args:
        rows: recency tables of one or more models, tasks and prompt sets.
        plan: Settings of the resampling.

    Raises:
        InputError: The prompts of a table differ in their number of demonstrations.

    Returns:
        One row per model, set, task, layer (from 0) and place (from 1): share, the columns of
        :meth:`~icl_lens.statistics.resampling.Estimate.columns` (all empty where the layer attends to no demonstration),
        uniform (the share with equal attention to all tokens of all demonstrations) and seeds.
    """
    found = [_of_table(part, plan) for _, part in rows.groupby(["model", "set", "task"], sort=False)]
    return pd.concat(found, ignore_index=True)


def _of_table(rows: pd.DataFrame, plan: Bootstrap | None) -> pd.DataFrame:
    first = rows.iloc[0]
    if rows.groupby("prompt_id")["place"].max().nunique() > 1:
        raise InputError(
            f"the prompts of {first['model']} on {first['task']}, {first['set']}, differ in their number of demonstrations; "
            "use a prompt set with the same number for all prompts"
        )
    wide = rows.pivot(index=unit_index(rows), columns=["layer", "place"], values=["attention", "tokens"])
    layers, places = (sorted(rows[name].unique()) for name in ("layer", "place"))
    wide.columns = [" ".join(map(str, column)) for column in wide.columns]
    groups = [[f"attention {layer} {place}" for place in places] for layer in layers]
    groups.append([f"tokens {layers[0]} {place}" for place in places])
    estimate = resampling.shares(wide.reset_index(), groups, plan)  # (L + 1, D)
    attention = estimate[:-1]  # (L, D)
    return pd.DataFrame(
        {
            **first[["model", "set", "task"]],
            "layer": np.repeat(layers, len(places)),
            "place": np.tile(places, len(layers)),
            "share": attention.value.ravel(),
            **attention.columns(),
            "uniform": np.tile(estimate.value[-1], len(layers)),
            "seeds": rows["seed"].nunique(),
        }
    )
