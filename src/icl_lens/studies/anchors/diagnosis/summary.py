"""Results of the error diagnosis for the figures: predicted and real confusion of each pair, and their rank correlation.

:mod:`icl_lens.studies.anchors.diagnosis.compute` computes the predicted confusion. Real confusion follows the paper (*Label
Words are Anchors*, section 3.3): it is the AUC with which p_a / (p_a + p_b) separates the texts of class a from those of class
b, among the texts of both classes. It is symmetric in a and b. A value of 1 means that the model never confuses the classes,
and 0.5 is chance level. The value is missing for a pair if one of its classes has no text.

The paper compares the two by eye. Here, each demonstration set (a seed) gives Spearman's rank correlation over its pairs. The
estimate is the mean over sets, with a confidence interval over sets. The correlation is undefined for a set in which
the model confuses no pair, because all values are equal. The table also reports how often a random permutation of the classes
agrees at least as well. Pairs that share a class are not independent, so the permutation test permutes classes, not pairs.
"""

from __future__ import annotations

from itertools import combinations, permutations
from math import factorial

import numpy as np
import pandas as pd

from icl_lens.errors import InputError
from icl_lens.statistics.attention_auc import auc
from icl_lens.statistics.ranks import spearman
from icl_lens.statistics.resampling import Bootstrap, mean

_KEY = ["model", "set", "task"]

# Maximum number of class permutations to enumerate. If there are more, this number is sampled.
_PERMUTATIONS = 5040


def compare(predicted: pd.DataFrame, answers: pd.DataFrame) -> pd.DataFrame:
    """Join predicted and real confusion.

    Args:
        predicted: diagnosis tables of one or more models and tasks.
        answers: icl tables of the same prompts.

    Raises:
        InputError: A seed in ``predicted`` has no rows in ``answers``.

    Returns:
        The rows of ``predicted`` without prompt_id, with predicted_confusion renamed to predicted and sets (number of
        demonstration sets of the keys) renamed to key_sets. Additional columns: real
        (missing if a class has no text), items_i and items_j (numbers of texts of the two classes).
    """
    found = pd.concat(
        [_real(part).assign(**dict(zip([*_KEY, "seed"], key, strict=True))) for key, part in answers.groupby([*_KEY, "seed"])]
    )
    # The column sets of a figure is the number of demonstration sets of an interval.
    both = predicted.rename(columns={"predicted_confusion": "predicted", "sets": "key_sets"}).drop(columns="prompt_id")
    both = both.merge(found, on=[*_KEY, "seed", "class_i", "class_j"], how="left", validate="many_to_one")
    if both["items_i"].isna().any():
        missing = both[both["items_i"].isna()].iloc[0]
        raise InputError(
            f"the icl table has no predictions of {missing['model']} on {missing['task']} for seed {missing['seed']}; rerun icl"
        )
    return both.astype({"items_i": int, "items_j": int})


def _real(answers: pd.DataFrame) -> pd.DataFrame:
    """Compute the real confusion of each pair from the predictions of one seed."""
    log_probs = np.stack(answers["class_log_probs"].to_numpy())  # (N, C)
    gold = answers["gold"].to_numpy()  # (N,)
    rows = []
    for a, b in combinations(range(log_probs.shape[1]), 2):
        of_pair = (gold == a) | (gold == b)
        # p_a / (p_a + p_b) increases with log p_a - log p_b, which does not round to 1.
        value = auc(log_probs[of_pair, a] - log_probs[of_pair, b], gold[of_pair] == a)
        rows.append(
            {
                "class_i": a,
                "class_j": b,
                "real": float(value),
                "items_i": int((gold == a).sum()),
                "items_j": int((gold == b).sum()),
            }
        )
    return pd.DataFrame(rows)


def correlations(compared: pd.DataFrame, plan: Bootstrap | None = None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Compute the rank correlation of predicted and real confusion.

    Args:
        compared: The return value of :func:`compare`.
        plan: Settings of the intervals, which are over demonstration sets.

    Returns:
        A pair of tables. The first has one row per model, set, task, source of the keys and M. Its columns: value (mean over
        seeds of Spearman's correlation; missing if it is undefined for all seeds, for example with fewer than two pairs), low
        and high (missing with fewer than two seeds), replicates (the estimate), sets and seeds (both the number of seeds with
        a defined correlation), pairs (minimum over seeds), relabelled (share of class permutations, including the identity,
        that agree at least as well). The second has one row per seed, with the same key columns and seed, pairs, correlation.
    """
    plan = plan or Bootstrap()
    summary, each = [], []
    for key, part in compared.groupby([*_KEY, "keys", "components"], sort=False):
        named = dict(zip([*_KEY, "keys", "components"], key, strict=True))
        matrices = {seed: (_square(of_seed, "predicted"), _square(of_seed, "real")) for seed, of_seed in part.groupby("seed")}
        rows = [{**named, "seed": seed, **_of_seed(*both)} for seed, both in matrices.items()]
        each += rows
        known = pd.DataFrame(rows).dropna(subset="correlation")
        known_matrices = [matrices[seed] for seed in known["seed"]]
        estimate = mean(known.assign(prompt_id=0), ["correlation"], plan, bounds=(-1.0, 1.0)) if len(known) else None
        summary.append(
            {
                **named,
                "value": float(estimate.value[0]) if estimate else np.nan,
                "low": float(estimate.low[0]) if estimate else np.nan,
                "high": float(estimate.high[0]) if estimate else np.nan,
                "replicates": estimate[0] if estimate else None,
                "sets": len(known),
                "seeds": len(known),
                "pairs": min(row["pairs"] for row in rows),
                "relabelled": _share_of_permutations(known_matrices, plan.seed) if estimate else np.nan,
            }
        )
    return pd.DataFrame(summary), pd.DataFrame(each)


def average(compared: pd.DataFrame, column: str) -> np.ndarray:
    """Return the mean over seeds of one column, as a matrix with ones on the diagonal as in the paper, shape (C, C).

    The mean of a cell ignores seeds with a missing value. It is NaN if the value is missing for all seeds.

    Args:
        compared: The return value of :func:`compare`, for one model, set, task, source of the keys and M.
        column: predicted or real.
    """
    return _square(compared.groupby(["class_i", "class_j"], as_index=False)[column].mean(), column)


def lowest(matrix: np.ndarray) -> tuple[int, int] | None:
    """Return the most confused pair of classes, that is, the pair with the lowest non-missing cell above the diagonal.

    Return None if all cells are missing, or if there are several cells and all are equal, for example for a model that
    confuses no classes.
    """
    above = np.where(np.triu(np.ones_like(matrix, dtype=bool), 1), matrix, np.nan)
    known = above[~np.isnan(above)]
    if not len(known) or (len(known) > 1 and np.ptp(known) == 0):
        return None
    return tuple(int(place) for place in np.unravel_index(np.nanargmin(above), above.shape))


def why_undefined(row: pd.Series) -> str:
    """Return a phrase that explains why a row of :func:`correlations` has no value."""
    if row["pairs"] < 2:
        return f"no rank correlation, because this needs two pairs of classes and only {row['pairs']} can be measured"
    return "no rank correlation, because the real confusion is the same for all pairs in each demonstration set"


def _square(rows: pd.DataFrame, column: str) -> np.ndarray:
    classes = int(rows["class_j"].max()) + 1
    matrix = np.eye(classes)
    a, b = rows["class_i"].to_numpy(), rows["class_j"].to_numpy()
    matrix[a, b] = matrix[b, a] = rows[column].to_numpy()
    return matrix


def _of_seed(predicted: np.ndarray, real: np.ndarray) -> dict[str, float]:
    a, b = _known_pairs(real)
    return {"pairs": len(a), "correlation": float(spearman(predicted[a, b], real[a, b])) if len(a) > 1 else np.nan}


def _known_pairs(real: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.nonzero(np.triu(~np.isnan(real), 1))


def _share_of_permutations(matrices: list[tuple[np.ndarray, np.ndarray]], seed: int) -> float:
    """Return the share of permutations of the predicted classes with a mean correlation at least as high as the original."""
    classes = len(matrices[0][0])
    if factorial(classes) <= _PERMUTATIONS:
        orders = np.array(list(permutations(range(classes))))  # (P, C), identity first
    else:
        generator = np.random.default_rng(seed)
        orders = np.stack([np.arange(classes), *(generator.permutation(classes) for _ in range(_PERMUTATIONS - 1))])
    values = []
    for predicted, real in matrices:
        a, b = _known_pairs(real)
        values.append(spearman(predicted[orders[:, a], orders[:, b]], real[a, b]))  # (P,)
    agreed = np.mean(values, axis=0)
    return float((agreed >= agreed[0] - 1e-12).mean())
