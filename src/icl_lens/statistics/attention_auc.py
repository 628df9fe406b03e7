"""Agreement of attention to label words with the model's prediction (*Label Words are Anchors*, section 2.3, appendix E).

AUCROC_l measures how well the attention of the last position to each class's label words in layer l predicts the model's own
prediction. R_l (eq. 5) is the share of the summed AUCROC - 0.5 that layers up to l contribute,

    R_l = sum_{i <= l} (AUCROC_i - 0.5) / sum_{i <= N} (AUCROC_i - 0.5)

Confidence intervals are computed as in :mod:`icl_lens.statistics.resampling`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from icl_lens.errors import InputError
from icl_lens.statistics.resampling import UNIT, Bootstrap, Estimate, average, mean_of_known, unit_index

TwoClasses = Literal["normalised", "raw"]

# If the absolute sum of AUCROC_i - 0.5 over N layers is at most N times this value, R_l would be a quotient of rounding errors.
_NO_SIGNAL = 1e-9


def auc(scores: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """Compute the area under the ROC curve: the probability that a positive scores above a negative; a tie counts one half.

    scikit-learn's ``roc_auc_score`` computes one curve per call; this function computes all of them at once.

    Args:
        scores: Scores, shape (..., N).
        positive: Whether each element is positive, shape (N,).

    Returns:
        AUC, shape (...); NaN if there is no positive or no negative.
    """
    scores, positive = np.asarray(scores, dtype=float), np.asarray(positive, dtype=bool)
    positives, negatives = int(positive.sum()), int((~positive).sum())
    if not positives or not negatives:
        return np.full(scores.shape[:-1], np.nan)
    # This is the Mann-Whitney U statistic, computed from the rank sum of the positives and divided by the number of pairs.
    return (rankdata(scores, axis=-1)[..., positive].sum(-1) - positives * (positives + 1) / 2) / (positives * negatives)


@dataclass(frozen=True)
class Agreement:
    """How well attention predicts the model's prediction in each layer.

    Attributes:
        auc: AUCROC_l, shape (L,); NaN in all layers if fewer than two classes are predicted.
        kept: The predicted classes, in ascending order.
        dropped: The classes that are never predicted. They have no positives, so they are excluded (as in the released code).
    """

    auc: np.ndarray
    kept: tuple[int, ...]
    dropped: tuple[int, ...]


def agreement(scores: np.ndarray, predicted: np.ndarray, two_classes: TwoClasses = "normalised") -> Agreement:
    """Compute AUCROC_l, the one-versus-one macro average of the AUC over pairs of predicted classes (Hand and Till, 2001).

    Each row of scores is divided by its sum over the predicted classes. A pair (a, b) uses the prompts with prediction a or b:
    the AUC of score a for class a and the AUC of score b for class b are averaged. Pairs have equal weight. The result equals
    scikit-learn's ``roc_auc_score(multi_class="ovo", average="macro")`` on these rows.

    Args:
        scores: Attention to the label words of each class, shape (L, N, C).
        predicted: The model's predicted class of each prompt, shape (N,).
        two_classes: How to score two predicted classes: ``normalised`` as above, or ``raw``, which uses only the attention to
            the second class, as in the released code.
    """
    return _agreement(scores, predicted, two_classes, lambda s, positive, _: auc(s, positive))


def _agreement(scores: np.ndarray, predicted: np.ndarray, two_classes: TwoClasses, measure: Callable) -> Agreement:
    """Compute :func:`agreement` with a given function for the AUC.

    Args:
        scores: See :func:`agreement`.
        predicted: See :func:`agreement`.
        two_classes: See :func:`agreement`.
        measure: ``measure(scores (L, n), positive (n,), members (n,) of the N prompts)`` -> AUC.
    """
    scores, predicted = np.asarray(scores, dtype=float), np.asarray(predicted)
    kept = np.unique(predicted)
    dropped = np.setdiff1d(np.arange(scores.shape[-1]), kept)
    classes = tuple(kept.tolist()), tuple(dropped.tolist())
    all_prompts = np.arange(len(predicted))
    if len(kept) < 2:
        return Agreement(measure(scores[..., 0], all_prompts < 0, all_prompts), *classes)  # no positives, so the AUC is NaN
    chosen = scores[..., kept]  # (L, N, K)
    if len(kept) == 2 and two_classes == "raw":
        return Agreement(measure(chosen[..., 1], predicted == kept[1], all_prompts), *classes)
    total = chosen.sum(-1, keepdims=True)  # (L, N, 1)
    # If there is no attention to label words, all classes get the same share.
    shares = np.divide(chosen, total, out=np.full_like(chosen, 1 / len(kept)), where=total > 0)  # (L, N, K)
    pairs = []
    for a, b in combinations(range(len(kept)), 2):
        members = np.flatnonzero((predicted == kept[a]) | (predicted == kept[b]))  # (n,)
        for c in (a, b):
            pairs.append(measure(shares[:, members, c], predicted[members] == kept[c], members))
    return Agreement(mean_of_known(pairs), *classes)


def cumulative_share(curve: np.ndarray) -> np.ndarray:
    """Compute R_l, the share of the summed AUCROC - 0.5 that layers up to l contribute (eq. 5).

    Args:
        curve: AUCROC_l of each layer, shape (..., L).

    Returns:
        R_l of each layer, shape (..., L); NaN where the sum is zero (up to rounding) or NaN.
    """
    excess = np.asarray(curve, dtype=float) - 0.5
    total = excess.sum(-1, keepdims=True)
    known = np.abs(total) > _NO_SIGNAL * excess.shape[-1]
    return np.divide(excess.cumsum(-1), total, out=np.full_like(excess, np.nan), where=known)


def attention_scores(rows: pd.DataFrame, prompt_ids: Sequence[int]) -> np.ndarray:
    """Return the rows of a deep_attention table as an array of shape (L, N, C), with the prompts in the given order.

    Layers and classes are read from the columns, not from the order of the rows (bug 16 of the released notebook).

    Raises:
        InputError: A combination of prompt, layer and class is missing or duplicated.
    """
    if rows.duplicated(["prompt_id", "layer", "class"]).any():
        raise InputError("duplicate rows in the deep_attention table; select one model, task and set")
    wide = rows.pivot(index="prompt_id", columns=["layer", "class"], values="attention")
    layers, classes = (sorted(rows[name].unique()) for name in ("layer", "class"))
    wide = wide.reindex(index=prompt_ids, columns=pd.MultiIndex.from_product([layers, classes]))  # (N, L * C)
    if wide.isna().to_numpy().any():
        raise InputError("the deep_attention table lacks a requested prompt, layer or class")
    return wide.to_numpy().reshape(len(prompt_ids), len(layers), len(classes)).transpose(1, 0, 2)


def auc_curve(
    scores: pd.DataFrame, predictions: pd.DataFrame, plan: Bootstrap | None = None, two_classes: TwoClasses = "normalised"
) -> tuple[Estimate, pd.DataFrame]:
    """Compute AUCROC_l of one model and prompt set over all its tasks and seeds, and report what is excluded.

    Args:
        scores: deep_attention rows of one model and prompt set.
        predictions: icl rows of the same model and prompt set, with task, seed, prompt_id and prediction.
        plan: Settings of the resampling.
        two_classes: See :func:`agreement`.

    Returns:
        A tuple of two results. The first is AUCROC_l, shape (L,), averaged over seeds, then tasks. A seed with fewer than two
        predicted classes is excluded from the mean of its task; a task without other seeds is excluded from the mean over
        tasks. The second is a table with one row per task and seed: task, seed, prompts, kept, dropped (numbers of classes)
        and missing (whether the seed is excluded).

    Raises:
        InputError: A prompt has no scores or is duplicated.
    """
    plan = plan or Bootstrap()
    units = predictions.set_index(unit_index(predictions))[["prediction"]].sort_index()
    if predictions.duplicated(list(UNIT)).any():
        raise InputError("duplicate prompts in the icl rows; select one model and prompt set")
    by_task = dict(list(scores.groupby("task")))
    report = {}  # the statistic is called several times

    def seed_auc(part: pd.DataFrame, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        task, seed = part.index[0][:2]
        if task not in by_task:
            raise InputError(f"the deep_attention rows have no prompt of task {task}")
        ids = part.index.get_level_values("prompt_id").tolist()
        seed_scores = by_task[task][by_task[task]["prompt_id"].isin(ids)]
        matrix = attention_scores(seed_scores, ids)  # (L, n, C)
        predicted = part["prediction"].to_numpy()
        original = agreement(matrix, predicted, two_classes)
        excluded = len(original.kept) < 2
        counts = {"prompts": len(ids), "kept": len(original.kept), "dropped": len(original.dropped)}
        report[task, seed] = {"task": task, "seed": seed, **counts, "missing": excluded}
        return original.auc, _agreement(matrix, predicted, two_classes, _ResampledAuc(weights)).auc

    estimate = average(units, seed_auc, plan, bounds=(0.0, 1.0))
    return estimate, pd.DataFrame(report.values())


class _ResampledAuc:
    """Computes the AUC on all resamples with one matrix product per layer.

    Let w be the weights, and let D_ij be 1, 1/2 or 0 if positive i scores above, equal to or below negative j. The AUC is
    w_+' D w_- / (sum w_+ sum w_-). It is NaN for a resample without a positive or without a negative.
    """

    def __init__(self, weights: np.ndarray) -> None:
        self.weights = weights  # (R, N)

    def __call__(self, scores: np.ndarray, positive: np.ndarray, members: np.ndarray) -> np.ndarray:
        """Compute the AUC of each resample and layer.

        Args:
            scores: Scores of the prompts in ``members``, shape (L, n).
            positive: Whether each of these prompts is positive, shape (n,).
            members: Indices of these prompts among all N prompts, shape (n,).

        Returns:
            AUC, shape (R, L).
        """
        weights = self.weights[:, members]
        positive_weights, negative_weights = weights[:, positive], weights[:, ~positive]  # (R, n+), (R, n-)
        pairs = positive_weights.sum(1) * negative_weights.sum(1)  # (R,)
        wins = np.empty((len(weights), len(scores)))  # (R, L)
        for layer, row in enumerate(scores):
            doubled = 1 + np.sign(row[positive][:, None] - row[~positive])  # (n+, n-): 2 D
            wins[:, layer] = np.einsum("rn,rn->r", positive_weights @ doubled, negative_weights) / 2
        return np.divide(wins, pairs[:, None], out=np.full_like(wins, np.nan), where=pairs[:, None] > 0)
