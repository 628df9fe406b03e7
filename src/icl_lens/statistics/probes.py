"""Linear probes that test whether logistic regression can predict a component of the task from a prompt's vector.

Each probe is scikit-learn's ``LogisticRegression`` with an L2 penalty. It is tested on the prompts of a held-out fold. A group
(for example a line, or a pair of name and activity) is never split across folds, so the training folds contain no group of the
test fold.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold

from icl_lens.statistics.similarity import standardised

# docs/precision.md (Numerical libraries) compares solvers and tolerances.
FIT = {"solver": "newton-cg", "tol": 1e-6, "max_iter": 1000}


def predicted(
    vectors: np.ndarray, classes: np.ndarray, groups: Sequence[str], folds: int, penalty: float, seed: int
) -> np.ndarray:
    """Predict the class of each prompt with a probe that is fitted on the other folds.

    Args:
        vectors: Vectors of S layers, shape (S, P, W). Each dimension is standardised over all prompts.
        classes: Class of each prompt, 0 to K - 1, shape (P,).
        groups: Group of each prompt; P values.
        folds: Number of folds; if there are fewer groups, each group is a fold.
        penalty: C of ``LogisticRegression``, the weight of the cross-entropy.
        seed: Seed of the assignment of groups to folds.

    Returns:
        Predicted classes, shape (S, P); class 0 if all prompts are of the same group, because there is nothing to fit on.
    """
    points = standardised(vectors)  # (S, P, W)
    # The optimal weights are in the span of the prompts, which has at most P dimensions.
    if points.shape[1] < points.shape[2]:
        left_vectors, singular_values, _ = np.linalg.svd(points, full_matrices=False)  # (S, P, P), (S, P)
        points = left_vectors * singular_values[:, None]  # (S, P, P)
    probe = LogisticRegression(C=penalty, **FIT)
    predictions = np.zeros(points.shape[:2], dtype=np.int64)
    folds = min(folds, len(set(groups)))
    if folds < 2:
        return predictions
    for train, test in GroupKFold(folds, shuffle=True, random_state=seed).split(classes, groups=groups):
        if np.ptp(classes[train]) == 0:  # LogisticRegression does not accept a single class
            predictions[:, test] = classes[train[0]]
            continue
        for layer, x in enumerate(points):
            predictions[layer, test] = probe.fit(x[train], classes[train]).predict(x[test])
    return predictions
