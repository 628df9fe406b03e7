"""Margin of a class among the label words, and its loss.

With s_c the score of class c (the logit of the first token of its label word or, with ``label_score: whole``, the
log-probability of the word),

    m = s_y - log sum_{c != y} exp s_c         margin of class y
    loss = log(1 + exp(-m))                    = -log p(y), where p is the softmax over the label words

y is the gold class, or the class that the model predicts without an intervention (the margin of the model's own answer). The
effect of an intervention is the margin with it, minus the margin without it. These definitions are ours.
"""

from __future__ import annotations

from torch import Tensor, nn


def margin(scores: Tensor, classes: Tensor) -> Tensor:
    """Return the margin of one class per row. Gradients flow through the scores.

    Args:
        scores: Scores of the classes, in logits, shape (..., C), with at least two classes.
        classes: Class index y of each row, shape (...).
    """
    index = classes[..., None]  # (..., 1)
    others = scores.scatter(-1, index, float("-inf"))  # (..., C)
    return scores.gather(-1, index)[..., 0] - others.logsumexp(-1)  # (...)


def loss(margins: Tensor) -> Tensor:
    """Return the loss log(1 + exp(-m)) of some margins, of the same shape. It is finite for each finite margin."""
    return nn.functional.softplus(-margins)
