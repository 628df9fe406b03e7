"""Classification scores that do not reward a constant prediction of the most frequent class.

Both scores average over the classes of the gold labels. A class without a text in the test set has no recall, so it is
excluded. A prediction of such a class still counts as an error for the gold class of the text.
"""

from __future__ import annotations

import numpy as np


def balanced_accuracy(gold: np.ndarray, predicted: np.ndarray) -> float:
    """Compute the balanced accuracy: the mean over classes of the recall of each class.

    Args:
        gold: Class indices, shape (N,), N at least 1.
        predicted: Class indices, shape (N,).
    """
    gold, predicted = np.asarray(gold), np.asarray(predicted)
    return float(np.mean([(predicted[gold == c] == c).mean() for c in np.unique(gold)]))


def macro_f1(gold: np.ndarray, predicted: np.ndarray) -> float:
    """Compute macro F1: the mean over classes of F1 = 2 TP / (2 TP + FP + FN), the harmonic mean of precision and recall.

    Args:
        gold: Class indices, shape (N,), N at least 1.
        predicted: Class indices, shape (N,).
    """
    gold, predicted = np.asarray(gold), np.asarray(predicted)
    # 2 TP + FP + FN is the number of texts of a class plus the number of predictions of it.
    scores = [
        2 * ((gold == c) & (predicted == c)).sum() / ((gold == c).sum() + (predicted == c).sum()) for c in np.unique(gold)
    ]
    return float(np.mean(scores))
