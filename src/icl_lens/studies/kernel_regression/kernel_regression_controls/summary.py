"""Summary of the kernel regression controls: predictions and reconstructions, compared with those on the unchanged prompts.

The controls are those of :mod:`icl_lens.studies.kernel_regression.kernel_regression_controls.compute`.
:mod:`icl_lens.studies.kernel_regression.reconstruction` chooses the head on prompts that are not held out. All values in this
module are for held-out prompts.

A sum over demonstrations does not depend on their order. If a head's weights were kernels of (x_test, x_i), no reconstruction
would change with the order, and flipped labels would move each reconstruction to the next class.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from icl_lens.errors import InputError
from icl_lens.statistics import resampling
from icl_lens.statistics.answers import balanced_columns, majority_baseline, scores
from icl_lens.statistics.resampling import Bootstrap, unit_index
from icl_lens.statistics.weighted_votes import agreement, votes
from icl_lens.studies.kernel_regression.reconstruction import Attention, attention, choose, shuffled
from icl_lens.studies.kernel_regression.settings import CONTROLS, LABELS_FLIPPED, ORDER, PLAIN, Settings, held_out

METRICS = {
    "accuracy": "prediction is correct",
    "agreement": "reconstruction is the prediction",
    "answer_changed": "prediction changed",
    "reconstruction_changed": "reconstruction changed",
}
"""Metrics, and their names in a legend."""

ANY = "any_order"
"""Value of the column ``control`` for a change in any of the orders."""


def summarise(rows: pd.DataFrame, controls: pd.DataFrame, settings: Settings, plan: Bootstrap | None = None) -> pd.DataFrame:
    """Compute the metrics of each control for one model and task.

    Args:
        rows: Rows of the study kernel_regression.
        controls: Rows of the study kernel_regression_controls for the same model, set and task.
        settings: Settings of both studies.
        plan: How to resample.

    Raises:
        InputError: The controls contain prompts that are not held out, or rows are missing.

    Returns:
        One row per ``control`` and ``metric`` (:data:`METRICS`): model, set, task, these columns, layer and head (from 0),
        value, the columns of :meth:`~icl_lens.statistics.resampling.Estimate.columns`, those of
        :func:`icl_lens.statistics.answers.balanced_columns` (for ``accuracy``), null_95 (for ``agreement``: the 95 %
        quantile of this head's agreement with labels shuffled within prompts), prompts and seeds. For the reordered prompts,
        the value is the mean over the orders. For :data:`ANY`, it is how often at least one order causes a change. With flipped
        labels, ``accuracy`` counts predictions of the class that the demonstrations of the gold class have after flipping.
        Changes are then relative to the prediction and the reconstruction on the unchanged prompt, each moved to the next
        class.
    """
    main = attention(rows)
    scored = held_out(main.seeds, main.texts, settings)
    shares = votes(main.weights["max"], main.labels, main.classes)
    head = choose(shares[~scored], main.prediction[~scored])
    parts = {
        key: attention(part.drop(columns=["control", "draw"]))
        for key, part in controls.groupby(["control", "draw"], sort=False)
    }
    if (PLAIN, 0) not in parts or {control for control, _ in parts} != set(CONTROLS):
        raise InputError("the kernel_regression_controls table lacks a control; delete the table and create it again")
    plain = parts[PLAIN, 0]
    if not np.isin(plain.ids, main.ids[scored]).all():
        raise InputError(
            "the kernel_regression_controls table contains prompts on which a head is chosen; create it and the "
            "kernel_regression table again with the same settings"
        )
    before = _reconstructed(plain, head, main.classes)
    found = []
    for (control, draw), part in parts.items():
        step = int(control == LABELS_FLIPPED)
        shares = votes(part.weights["max"][:, [head]], part.labels, main.classes)
        after = _reconstructed(part, head, main.classes)
        found.append(
            part.units.assign(
                **{
                    "control": control,
                    "draw": draw,
                    "gold": part.gold,
                    "accuracy": part.prediction == (part.gold + step) % main.classes,
                    "agreement": agreement(shares, part.prediction)[:, 0],
                    "answer_changed": part.prediction != (plain.prediction + step) % main.classes,
                    "reconstruction_changed": after != (before + step) % main.classes,
                }
            ).astype({name: float for name in METRICS})
        )
    units = pd.concat(found, ignore_index=True)
    orders = units[units["control"] == ORDER].groupby(unit_index(units), as_index=False)
    changes = ["answer_changed", "reconstruction_changed"]
    layer, number = main.heads[head]
    shown = []
    for control in (*CONTROLS, ANY):
        names = changes if control == ANY else list(METRICS)
        part = orders[changes].max() if control == ANY else units[units["control"] == control]
        estimate = resampling.mean(part, names, plan).apply(lambda means: means, (0.0, 1.0))
        beside = {}
        if control != ANY:
            beside["accuracy"] = balanced_columns(scores(part, ["accuracy"], plan)[1, 0], majority_baseline(part))
        for place, name in enumerate(names):
            quantile = np.nan
            if name == "agreement":
                quantile = _null(main.classes, [run for (of, _), run in parts.items() if of == control], head, settings)
            shown.append(
                {
                    **main.key,
                    "control": control,
                    "metric": name,
                    "layer": layer,
                    "head": number,
                    "value": float(estimate.value[place]),
                    **estimate[place].columns(),
                    **beside.get(name, {}),
                    "null_95": quantile,
                    "seeds": len(np.unique(plain.seeds)),
                }
            )
    return pd.DataFrame(shown)


def _reconstructed(part: Attention, head: int, classes: int) -> np.ndarray:
    """Return the class that a head reconstructs for each prompt, shape (N,)."""
    return votes(part.weights["max"][:, [head]], part.labels, classes)[:, 0].argmax(-1)


def _null(classes: int, parts: list[Attention], head: int, settings: Settings) -> float:
    """Compute the 95 % quantile of a head's agreement (the mean over parts) with labels shuffled within each prompt."""
    generator = np.random.default_rng([settings.seed, 2])
    drawn = []
    for _ in range(settings.permutations):
        values = []
        for part in parts:
            shares = votes(part.weights["max"][:, [head]], shuffled(part.labels, generator), classes)
            values.append(agreement(shares, part.prediction).mean())
        drawn.append(np.mean(values))
    return float(np.quantile(drawn, 0.95))
