"""Comparison of heads: what each head reconstructs, and whether two studies select the same heads.

*In-context learning as kernel regression* (Han et al., TMLR 2025), Figure 3: how often each head's reconstruction equals the
model's prediction, and how often it equals the gold label, on all prompts.

*Label Words are Anchors* (Wang et al., EMNLP 2023), section 2.3: how well the attention to each class's label words predicts
the model's prediction (AUCROC). The paper sums over the heads of a layer; this module scores each head separately.

Both measures use the last position's row, so they can be compared. Spearman correlations over heads show whether a head that
reconstructs the prediction is also a head that the anchors study selects, and whether either is only a head that attends to
label words.

The best head is chosen on the prompts that are not held out and scored on the held-out prompts, as in
:mod:`icl_lens.studies.kernel_regression.reconstruction`. The paper's best head, which is chosen and scored on all prompts, is
labelled "in sample"; compare it with its own null only.

Intervals are those of :mod:`icl_lens.statistics.resampling`: they are over demonstration sets and test texts, with the same
heads. All values of one resample come from the same prompts.
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
BEST = "best head vs"
IN_SAMPLE = "best head in sample vs"
BEYOND_NULL = "best head in sample minus null vs"
"""Metrics of :func:`by_head`; all but the first are followed by one of :data:`AGAINST`."""

MEASURES = {
    "reconstruction": "agreement of reconstruction",
    "label_attention": "attention to label words",
    "auc": "AUCROC of attention",
}
"""Measures of a head, and their axis labels."""


def by_head(rows: pd.DataFrame, settings: Settings, plan: Bootstrap | None = None) -> pd.DataFrame:
    """Compute the values of Figure 3 for one model and task.

    Args:
        rows: Rows of the study kernel_regression.
        settings: Settings of the study.
        plan: How to resample.

    Raises:
        InputError: The rows are invalid; see :func:`icl_lens.studies.kernel_regression.reconstruction.attention`.

    Returns:
        One row per ``metric`` (``vs model``, ``vs truth``), layer and head (from 0): model, set, task, these columns, value,
        the columns of :meth:`~icl_lens.statistics.resampling.Estimate.columns`, ``commonest`` (share of the most frequent class
        among the model's predictions or the gold labels), prompts and seeds. The remaining rows have the layer and head of the
        chosen head, which agrees best with the row's target:

        - :data:`BEST` and a target: the head is chosen on the prompts that are not held out, and scored on the held-out ones.
        - :data:`IN_SAMPLE` and a target: the head is chosen and scored on all prompts. ``null_95`` is the 95 % quantile of the
          same value under shuffled labels. :data:`BEYOND_NULL` and a target: the value minus ``null_95``. These rows have no
          interval.
        - :data:`DEPTH`: the mean of (layer + 1) / number of layers over the heads that agree best with the model on all
          prompts. Each resample determines its own best heads. This is the place of a maximum, not its height, so it is not
          biased by the choice.
    """
    found = attention(rows)
    scored = held_out(found.seeds, found.texts, settings)  # (N,)
    shares = votes(found.weights["max"], found.labels, found.classes)  # (N, H, C)
    chance = null(found, scored, settings).best
    shown = []
    for name, target in found.targets.items():
        agreed = agreement(shares, target)  # (N, H)
        every = np.ones_like(scored)  # (N,)
        estimate = _mean(found, agreed, every, plan)
        commonest = {"commonest": _commonest(target)}
        for number, (layer, head) in enumerate(found.heads):
            shown.append(_row(found, f"vs {name}", layer, head, estimate[number]) | commonest)
        best = choose(shares[~scored], target[~scored])
        one = _mean(found, agreed[:, [best]], scored, plan)[0]
        shown.append(_row(found, f"{BEST} {name}", *found.heads[best], one) | {"commonest": _commonest(target[scored])})
        best = choose(shares, target)
        level = float(np.quantile(chance[name], 0.95))
        in_sample = _row(found, f"{IN_SAMPLE} {name}", *found.heads[best], estimate[best], interval=False) | commonest
        shown.append(in_sample | {"null_95": level})
        shown.append(in_sample | {"metric": f"{BEYOND_NULL} {name}", "value": in_sample["value"] - level, "null_95": level})
        if name == AGAINST[0]:
            depths = np.array([layer + 1 for layer, _ in found.heads]) / found.layers
            depth = estimate.apply(partial(_depth, layers=depths), (0.0, 1.0))
            shown.append(_row(found, DEPTH, *found.heads[best], depth) | {"commonest": np.nan})
    return pd.DataFrame(shown)


def _commonest(target: np.ndarray) -> float:
    """Return the share of the most frequent class."""
    return float(np.bincount(target).max() / len(target))


def _depth(values: np.ndarray, layers: np.ndarray) -> np.ndarray:
    """Compute the mean depth of the heads with the largest value, over the last axis."""
    values = ranks.without_rounding_errors(values)
    best = values == values.max(-1, keepdims=True)
    total = (best * layers).sum(-1)
    return np.divide(total, best.sum(-1), out=np.full_like(total, np.nan), where=best.any(-1))  # NaN without a value


def _row(found: Attention, metric: str, layer: int, head: int, estimate: Estimate, interval: bool = True) -> dict:
    return {
        **found.key,
        "metric": metric,
        "layer": layer,
        "head": head,
        "value": float(estimate.value),
        **(estimate.columns() if interval else {}),
        "prompts": estimate.prompts,
        "seeds": len(np.unique(found.seeds)),
    }


def _mean(found: Attention, values: np.ndarray, of: np.ndarray, plan: Bootstrap | None) -> Estimate:
    """Estimate the mean of each head's values, shape (N, H), over the selected prompts."""
    names = [str(number) for number in range(values.shape[1])]
    rows = found.units.join(pd.DataFrame(values, columns=names))[of]
    return resampling.mean(rows, names, plan).apply(lambda means: means, (0.0, 1.0))


def compare(rows: pd.DataFrame, plan: Bootstrap | None = None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Compute both studies' measures for each head of one model, and the correlations between them.

    Args:
        rows: Rows of the study kernel_regression for one model and set, and any number of tasks.
        plan: How to resample.

    Raises:
        InputError: The rows are invalid; see :func:`icl_lens.studies.kernel_regression.reconstruction.attention`.

    Returns:
        Two tables. The first has one row per task (and :data:`~icl_lens.statistics.resampling.OVER_TASKS`), layer, head (from
        0) and ``metric`` (:data:`MEASURES`): model, set, these columns, value and the columns of
        :meth:`~icl_lens.statistics.resampling.Estimate.columns`. The values are empty if the measure is undefined (the model
        predicts fewer than two classes). The second table has one row per task and pair of measures: model, set, task, first,
        second, value (the Spearman correlation), the columns of ``Estimate.columns``, heads (their number) and seeds. The
        values are empty if either measure is the same for all heads.
    """
    parts = {task: attention(part) for task, part in rows.groupby("task", sort=False)}
    shown, correlations = [], []
    for task, founds in [(OVER_TASKS, list(parts.values())), *((task, [found]) for task, found in parts.items())]:
        estimates = _measures(founds, plan)
        found = founds[0]
        key = {**found.key, "task": task}
        for metric, estimate in estimates.items():
            for number, (layer, head) in enumerate(found.heads):
                one = estimate[number]
                shown.append(
                    {**key, "metric": metric, "layer": layer, "head": head, "value": float(one.value), **one.columns()}
                )
        for first, second in combinations(estimates, 2):
            one = Estimate.combine(ranks.spearman, estimates[first], estimates[second], bounds=(-1.0, 1.0))
            correlations.append(
                {**key, "first": first, "second": second, "value": float(one.value), **one.columns()}
                | {"heads": len(found.heads), "seeds": len(np.unique(found.seeds))}
            )
    return pd.DataFrame(shown), pd.DataFrame(correlations)


def _measures(founds: list[Attention], plan: Bootstrap | None) -> dict[str, Estimate]:
    """Estimate each of :data:`MEASURES` for each head, shape (H,), as the mean over tasks."""
    units, agreed, on_labels, scores = [], [], [], []
    for found in founds:
        shares = votes(found.weights["max"], found.labels, found.classes)
        units.append(found.units.assign(prediction=found.prediction))
        agreed.append(pd.DataFrame(agreement(shares, found.prediction)))
        on_labels.append(pd.DataFrame(found.weights["label"].sum(-1)))
        scores.append(_scores(found))
    together = pd.concat(units, ignore_index=True)
    heads = list(agreed[0].columns)
    estimates = {}
    for name, values in (("reconstruction", agreed), ("label_attention", on_labels)):
        estimates[name] = resampling.mean(together.join(pd.concat(values, ignore_index=True)), heads, plan, bounds=(0.0, 1.0))
    estimates["auc"], _ = attention_auc.auc_curve(pd.concat(scores), together, plan)
    return estimates


def _scores(found: Attention) -> pd.DataFrame:
    """Return the attention to each class's label words as deep_attention rows, with heads in place of layers."""
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
