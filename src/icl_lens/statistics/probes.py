"""Linear probes that test whether logistic regression can predict a component of the task from a prompt's vector.

Each probe standardises the vectors and then applies scikit-learn's ``LogisticRegression`` with an L2 penalty. It is tested on
the prompts of a held-out fold. A group (for example a line, or a pair of name and activity) is never split across folds, so the
training folds contain no group of the test fold. Both steps are fitted on the training folds only, as in a scikit-learn
``Pipeline``, so the prediction for a prompt depends on no other prompt of its fold.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold

from icl_lens.statistics.similarity import standardised_like

# docs/precision.md (Numerical libraries) compares solvers and tolerances.
FIT = {"solver": "newton-cg", "tol": 1e-6, "max_iter": 1000}


def predicted(
    vectors: np.ndarray, classes: np.ndarray, groups: Sequence[str], folds: int, penalty: float, seed: int
) -> np.ndarray:
    """Predict the class of each prompt with a probe that is fitted on the other folds.

    Args:
        vectors: Vectors of S layers, shape (S, P, W). Each dimension is standardised with the mean and the standard deviation
            of the training folds; dimensions that are constant there become 0.
        classes: Class of each prompt, 0 to K - 1, shape (P,).
        groups: Group of each prompt; P values.
        folds: Number of folds; if there are fewer groups, each group is a fold.
        penalty: C of ``LogisticRegression``, the weight of the cross-entropy.
        seed: Seed of the assignment of groups to folds.

    Returns:
        Predicted classes, shape (S, P); class 0 if all prompts are of the same group, because there is nothing to fit on.
    """
    vectors = np.asarray(vectors, dtype=float)
    probe = LogisticRegression(C=penalty, **FIT)
    predictions = np.zeros(vectors.shape[:2], dtype=np.int64)
    folds = min(folds, len(set(groups)))
    if folds < 2:
        return predictions
    for train, test in GroupKFold(folds, shuffle=True, random_state=seed).split(classes, groups=groups):
        if np.ptp(classes[train]) == 0:  # LogisticRegression does not accept a single class
            predictions[:, test] = classes[train[0]]
            continue
        fitted, tested = standardised_like(vectors[:, train], vectors[:, test])  # (S, n, W), (S, m, W)
        # The optimal weights are in the span of the n training prompts, so coordinates in this span give the same predictions.
        if fitted.shape[1] < fitted.shape[2]:
            basis, coordinates = np.linalg.qr(np.swapaxes(fitted, 1, 2))  # (S, W, n), (S, n, n)
            fitted, tested = np.swapaxes(coordinates, 1, 2), tested @ basis  # (S, n, n), (S, m, n)
        for layer, (x, held_out) in enumerate(zip(fitted, tested, strict=True)):
            predictions[layer, test] = probe.fit(x, classes[train]).predict(held_out)
    return predictions
