"""Heads side by side: what each reconstructs, and whether the heads of two studies are the same.

*In-context learning as kernel regression* (Han et al., TMLR 2025), Figure 3: how often each head's reconstruction is the
model's answer, and the right one, on all prompts. *Label Words are Anchors* (Wang et al., EMNLP 2023), section 2.3: how well
attention to each class's label words tells the answer (AUCROC), there summed over the heads of a layer, here of each head by
itself. Both read the last position's row, so it can be asked whether a head that reconstructs the answer is one that the
anchors study would name, and whether either is just a head that attends to label words at all. Spearman's correlations over
heads say how far.

Intervals are those of :mod:`icl_lens.statistics.resampling`: prompts are resampled, heads are not. A correlation's interval
says what other prompts would have given with these heads, and every value of one resample is of the same prompts.
"""

from __future__ import annotations

from functools import partial
from itertools import combinations

import numpy as np
import pandas as pd

from icl_lens.statistics import attention_auc, ranks, resampling
from icl_lens.statistics.resampling import OVER_TASKS, Bootstrap, Estimate
from icl_lens.statistics.weighted_votes import agreement, votes
from icl_lens.studies.kernel_regression.reconstruction import AGAINST, Attention, attention, choose, null
from icl_lens.studies.kernel_regression.settings import Settings, held_out

DEPTH = "depth of the best heads"

MEASURES = {
    "reconstruction": "reconstruction of the answer",
    "label_attention": "attention to label words",
    "auc": "AUCROC of that attention",
}


def by_head(rows: pd.DataFrame, settings: Settings, plan: Bootstrap | None = None) -> pd.DataFrame:
    """Figure 3 for one model and task.

    Args:
        rows: kernel_regression rows.
        settings: The study's.
        plan: How to resample.

    Raises:
        InputError: As :func:`icl_lens.studies.kernel_regression.reconstruction.attention`.

    Returns:
        One row a ``metric`` (``vs model``, ``vs truth``), layer and head (from 1): model, set, task, these, value, low, high,
        commonest (the share of the commonest answer, the model's or the right one), prompts and seeds. Then, layer and head
        being those of the head chosen on the same prompts, ``best head vs model`` and ``best head vs truth``, with null_95, the
        95 % quantile of the largest agreement of any head under shuffled labels; and :data:`DEPTH`: of the heads that agree
        best with the model, the mean of layer by number of layers, on each resample the best of that.
    """
    found = attention(rows)
    shares = votes(found.weights["max"], found.labels, found.classes)  # (N, H, C)
    chance = null(found, held_out(found.seeds, found.ids, settings), settings).in_sample
    shown = []
    for name, target in found.targets.items():
        estimate = _mean(found, agreement(shares, target), plan)
        commonest = float(np.bincount(target).max() / len(target))
        for number, (layer, head) in enumerate(found.heads):
            one = estimate.apply(lambda values, n=number: values[..., n])
            shown.append(_row(found, f"vs {name}", layer, head, one) | {"commonest": commonest})
        best = choose(shares, target)
        one = estimate.apply(lambda values, n=best: values[..., n])
        level = float(np.quantile(chance[name], 0.95))
        shown.append(_row(found, f"best head vs {name}", *found.heads[best], one) | {"commonest": commonest, "null_95": level})
        if name == AGAINST[0]:
            depth = estimate.apply(partial(_depth, layers=np.array([layer + 1 for layer, _ in found.heads]) / found.layers))
            shown.append(_row(found, DEPTH, *found.heads[best], depth) | {"commonest": np.nan})
    return pd.DataFrame(shown)


def _depth(values: np.ndarray, layers: np.ndarray) -> np.ndarray:
    """Mean depth of the heads with the largest value, over the last axis."""
    best = values == values.max(-1, keepdims=True)
    return (best * layers).sum(-1) / best.sum(-1)


def _row(found: Attention, metric: str, layer: int, head: int, estimate: Estimate) -> dict:
    return {
        **found.key,
        "metric": metric,
        "layer": layer + 1,
        "head": head + 1,
        "value": float(estimate.value),
        "low": float(estimate.low),
        "high": float(estimate.high),
        "prompts": len(found.ids),
        "seeds": len(np.unique(found.seeds)),
    }


def _mean(found: Attention, values: np.ndarray, plan: Bootstrap | None) -> Estimate:
    """The mean over prompts of each head's values, shape (N, H)."""
    names = [str(number) for number in range(values.shape[1])]
    return resampling.mean(_units(found).join(pd.DataFrame(values, columns=names)), names, plan)


def _units(found: Attention) -> pd.DataFrame:
    return pd.DataFrame({"task": found.key["task"], "seed": found.seeds, "prompt_id": found.ids})


def compare(rows: pd.DataFrame, plan: Bootstrap | None = None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Both studies' measures of every head of one model, and how they go together.

    Args:
        rows: kernel_regression rows of one model and set, of any tasks.
        plan: How to resample.

    Raises:
        InputError: As :func:`icl_lens.studies.kernel_regression.reconstruction.attention`.

    Returns:
        One row a task (and :data:`~icl_lens.statistics.resampling.OVER_TASKS`), layer, head (from 1) and ``metric``
        (:data:`MEASURES`): model, set, these, value, low and high; empty where a measure does not exist (fewer than two classes
        are answered). And one row a task and pair of measures: model, set, task, first, second, value (Spearman's), low, high,
        heads (how many), prompts and seeds; empty where either measure is the same for all heads.
    """
    parts = {task: attention(part) for task, part in rows.groupby("task", sort=False)}
    shown, correlations = [], []
    for task, founds in [(OVER_TASKS, list(parts.values())), *((task, [found]) for task, found in parts.items())]:
        estimates = _measures(founds, plan)
        found = founds[0]
        key = {**found.key, "task": task}
        for metric, estimate in estimates.items():
            for number, (layer, head) in enumerate(found.heads):
                one = estimate.apply(lambda values, n=number: values[..., n])
                shown.append(
                    {**key, "metric": metric, "layer": layer + 1, "head": head + 1}
                    | {"value": float(one.value), "low": float(one.low), "high": float(one.high)}
                )
        for first, second in combinations(estimates, 2):
            one = Estimate(
                ranks.spearman(estimates[first].value, estimates[second].value),
                ranks.spearman(estimates[first].resampled, estimates[second].resampled),
                estimates[first].prompts,
                estimates[first].level,
            )
            correlations.append(
                {**key, "first": first, "second": second}
                | {"value": float(one.value), "low": float(one.low), "high": float(one.high)}
                | {"heads": len(found.heads), "prompts": one.prompts, "seeds": len(np.unique(found.seeds))}
            )
    return pd.DataFrame(shown), pd.DataFrame(correlations)


def _measures(founds: list[Attention], plan: Bootstrap | None) -> dict[str, Estimate]:
    """By :data:`MEASURES`, an estimate of every head, shape (H,), the mean over tasks."""
    units, agreed, on_labels, scores = [], [], [], []
    for found in founds:
        shares = votes(found.weights["max"], found.labels, found.classes)
        units.append(_units(found).assign(prediction=found.prediction))
        agreed.append(pd.DataFrame(agreement(shares, found.prediction)))
        on_labels.append(pd.DataFrame(found.weights["label"].sum(-1)))
        scores.append(_scores(found))
    together = pd.concat(units, ignore_index=True)
    heads = list(agreed[0].columns)
    estimates = {}
    for name, values in (("reconstruction", agreed), ("label_attention", on_labels)):
        estimates[name] = resampling.mean(together.join(pd.concat(values, ignore_index=True)), heads, plan)
    estimates["auc"], _ = attention_auc.auc_curve(pd.concat(scores), together, plan)
    return estimates


def _scores(found: Attention) -> pd.DataFrame:
    """Attention to each class's label words as deep_attention rows, a head in a layer's place."""
    one_hot = (found.labels[..., None] == np.arange(found.classes)).astype(float)  # (N, D, C)
    summed = found.weights["label"] @ one_hot  # (N, H, C)
    prompts, heads, classes = summed.shape
    return pd.DataFrame(
        {
            "task": found.key["task"],
            "prompt_id": np.repeat(found.ids, heads * classes),
            "layer": np.tile(np.repeat(np.arange(heads), classes), prompts),
            "class": np.tile(np.arange(classes), prompts * heads),
            "attention": summed.ravel(),
        }
    )
