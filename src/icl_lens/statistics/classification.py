"""Scores of predictions that do not reward always predicting the most frequent class.

Both average over the classes of the gold labels: a class without a text in the test set has no recall, so it is excluded (a
prediction of it still counts against the class of its text).
"""

from __future__ import annotations

import numpy as np


def balanced_accuracy(gold: np.ndarray, predicted: np.ndarray) -> float:
    """The mean, over classes, of the share of a class's texts that are predicted correctly.

    Args:
        gold: Class indices, shape (N,), N at least 1.
        predicted: Class indices, shape (N,).
    """
    gold, predicted = np.asarray(gold), np.asarray(predicted)
    return float(np.mean([(predicted[gold == c] == c).mean() for c in np.unique(gold)]))


def macro_f1(gold: np.ndarray, predicted: np.ndarray) -> float:
    """The mean, over classes, of F1 = 2 TP / (2 TP + FP + FN), the harmonic mean of precision and recall.

    Args:
        gold: Class indices, shape (N,), N at least 1.
        predicted: Class indices, shape (N,).
    """
    gold, predicted = np.asarray(gold), np.asarray(predicted)
    # 2 TP + FP + FN counts a class's texts and its predictions.
    scores = [
        2 * ((gold == c) & (predicted == c)).sum() / ((gold == c).sum() + (predicted == c).sum()) for c in np.unique(gold)
    ]
    return float(np.mean(scores))
