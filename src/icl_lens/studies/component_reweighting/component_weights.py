"""Training of component weights, and of the calibration baseline, by gradient descent on a few labelled texts.

The method is that of *When Parts Are Greater Than Sums* (Chang et al., EMNLP 2024), section 5, with the rules of the released
code. With g_j the logits of part j over the label words, the model and the loss are

    z = sum_j clip(w_j, 0, 1) g_j,        loss = CE(z, y) + l1 sum_j |w_j|

The L1 term uses the weights before clipping. Training starts at w_j = 1 and uses plain full-batch gradient descent.

Training stops if one of two conditions is met:

* every text is classified correctly after the step of an epoch that is a multiple of ``check`` (epoch 0 included);
* CE has failed ``patience`` times in total to fall below its lowest value so far. The count is never reset.

The last weights are used. There are no validation texts.

**Calib+** trains one factor per class on the probabilities p = softmax(logits). The released code passes p w to the
cross-entropy *as logits*, so a softmax is applied to probabilities; ``calib+`` keeps this behaviour. ``calib_log`` implements
what is meant: log p + b, with one term b per class.

Many runs are trained in parallel. The runs are independent: each gives the same result as if it were trained on its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from icl_lens.studies.component_reweighting.settings import Settings


@dataclass(frozen=True)
class TrainedWeights:
    """Result of training R runs.

    Attributes:
        weights: Applied weights of parts or of classes (weights of parts are clipped), shape (R, M).
        epochs: Number of steps of each run, shape (R,).
        loss: CE before the last step in nats, shape (R,).
    """

    weights: Tensor
    epochs: Tensor
    loss: Tensor


def reweight(
    parts: Tensor,
    gold: Tensor,
    mask: Tensor,
    settings: Settings,
    l1: Tensor | None = None,
    early_stopping: Tensor | None = None,
    rest: Tensor | None = None,
) -> TrainedWeights:
    """Train the weights of M parts.

    Args:
        parts: Logits g, float32, shape (R, n, M, C).
        gold: Class indices, shape (R, n).
        mask: Mask of the n texts that each run trains on, booleans, shape (R, n).
        settings: See :class:`~icl_lens.studies.component_reweighting.settings.Settings`.
        l1: L1 coefficient of each run, shape (R,). Defaults to the coefficient in the settings.
        early_stopping: Whether each run may stop early, shape (R,). By default all runs may.
        rest: Logits to add with weight 1, shape (R, n, C).
    """
    runs, texts, count, classes = parts.shape
    flat = parts.permute(0, 1, 3, 2).reshape(runs, texts * classes, count).contiguous()  # (R, n C, M)
    l1 = torch.full((runs,), settings.l1) if l1 is None else l1
    offset = torch.zeros(runs, texts, classes) if rest is None else rest

    def forward(w: Tensor, active: Tensor) -> Tensor:
        return torch.bmm(flat[active], w.clamp(0, 1)[:, :, None]).view(-1, texts, classes) + offset[active]  # (A, n, C)

    def backward(w: Tensor, active: Tensor, gradient: Tensor) -> Tensor:
        product = torch.bmm(gradient.view(-1, 1, texts * classes), flat[active])[:, 0]  # (A, M)
        return product * ((w >= 0) & (w <= 1)) + l1[active, None] * w.sign()

    start = torch.ones(runs, count)
    trained = _descend(start, forward, backward, gold, mask, settings, settings.epochs, early_stopping)
    return TrainedWeights(trained.weights.clamp(0, 1), trained.epochs, trained.loss)


def calibrate(logits: Tensor, gold: Tensor, mask: Tensor, settings: Settings, on_log_probs: bool = False) -> TrainedWeights:
    """Train one factor per class (Calib+ as released) or, with ``on_log_probs``, one term per class on log-probabilities.

    Args:
        logits: Logits of the full model over the label words, float32, shape (R, n, C).
        gold: Class indices, shape (R, n).
        mask: Mask of the n texts that each run trains on, booleans, shape (R, n).
        settings: See :class:`~icl_lens.studies.component_reweighting.settings.Settings`.
        on_log_probs: Whether to train terms on log-probabilities.
    """
    inputs = logits.log_softmax(-1) if on_log_probs else logits.softmax(-1)  # (R, n, C)

    def forward(w: Tensor, active: Tensor) -> Tensor:
        return inputs[active] + w[:, None] if on_log_probs else inputs[active] * w[:, None]

    def backward(w: Tensor, active: Tensor, gradient: Tensor) -> Tensor:
        return gradient.sum(1) if on_log_probs else (gradient * inputs[active]).sum(1)  # (A, C)

    runs, _, classes = logits.shape
    start = torch.zeros(runs, classes) if on_log_probs else torch.ones(runs, classes)
    return _descend(start, forward, backward, gold, mask, settings, settings.calibration_epochs)


def apply_calibration(logits: Tensor, weights: Tensor, on_log_probs: bool = False) -> Tensor:
    """Compute the scores of each class after calibration, shape (N, C), from weights of shape (C,)."""
    return logits.log_softmax(-1) + weights if on_log_probs else logits.softmax(-1) * weights


def _descend(
    start: Tensor,
    forward: Callable[[Tensor, Tensor], Tensor],
    backward: Callable[[Tensor, Tensor, Tensor], Tensor],
    gold: Tensor,
    mask: Tensor,
    settings: Settings,
    epochs: int,
    early_stopping: Tensor | None = None,
) -> TrainedWeights:
    """Run gradient descent on the mean cross-entropy of each run's texts, with the released stopping rules.

    Args:
        start: Initial weights, shape (R, M).
        forward: Function (weights (A, M), indices of the runs (A,)) -> logits (A, n, C).
        backward: Function (weights, indices of the runs, gradient of the cross-entropy with respect to the logits) -> gradient
            (A, M).
        gold: Class indices, shape (R, n).
        mask: Mask of the texts of each run, shape (R, n).
        settings: Learning rate and stopping rules.
        epochs: Maximum number of steps.
        early_stopping: Whether the stopping rules apply to each run, shape (R,).
    """
    runs = len(start)
    weights, steps, losses = start.clone(), torch.zeros(runs, dtype=torch.int64), torch.zeros(runs)
    early_stopping = torch.ones(runs, dtype=torch.bool) if early_stopping is None else early_stopping
    best, failures = torch.full((runs,), torch.inf), torch.zeros(runs, dtype=torch.int64)
    shares = mask / mask.sum(1, keepdim=True)  # (R, n)
    active = torch.arange(runs)
    one_hot = torch.nn.functional.one_hot(gold, forward(weights, active).shape[-1]).float()  # (R, n, C)
    for epoch in range(epochs):
        w, targets, share = weights[active], one_hot[active], shares[active]
        log_probs = forward(w, active).log_softmax(-1)  # (A, n, C)
        loss = -((log_probs * targets).sum(-1) * share).sum(-1)  # (A,)
        gradient = (log_probs.exp() - targets) * share[:, :, None]  # (A, n, C)
        w = w - settings.learning_rate * backward(w, active, gradient)
        weights[active] = w
        steps[active] += 1
        losses[active] = loss
        failures[active] += loss >= best[active]
        best[active] = torch.minimum(best[active], loss)
        finished = failures[active] >= settings.patience  # (A,)
        if epoch % settings.check == 0:
            correct = forward(w, active).argmax(-1) == gold[active]  # (A, n)
            finished |= (correct | ~mask[active]).all(-1)
        active = active[~(finished & early_stopping[active])]
        if not len(active):
            break
    return TrainedWeights(weights, steps, losses)
