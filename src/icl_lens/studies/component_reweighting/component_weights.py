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
class Trained:
    """Result of training R runs.

    Attributes:
        weights: Weights of parts or of classes as they are applied (weights of parts are clipped), shape (R, M).
        epochs: Number of steps of each run, shape (R,).
        loss: CE before the last step in nats, shape (R,).
    """

    weights: Tensor
    epochs: Tensor
    loss: Tensor


def reweight(
    parts: Tensor,
    gold: Tensor,
    counted: Tensor,
    settings: Settings,
    l1: Tensor | None = None,
    stops: Tensor | None = None,
    rest: Tensor | None = None,
) -> Trained:
    """Train the weights of M parts.

    Args:
        parts: Logits g, float32, shape (R, n, M, C).
        gold: Class indices, shape (R, n).
        counted: Mask of the n texts that each run trains on, booleans, shape (R, n).
        settings: See :class:`~icl_lens.studies.component_reweighting.settings.Settings`.
        l1: L1 coefficient of each run, shape (R,). Defaults to the coefficient in the settings.
        stops: Whether each run may stop early, shape (R,). By default all runs may.
        rest: Logits to add with weight 1, shape (R, n, C).
    """
    runs, texts, count, classes = parts.shape
    flat = parts.permute(0, 1, 3, 2).reshape(runs, texts * classes, count).contiguous()  # (R, n C, M)
    l1 = torch.full((runs,), settings.l1) if l1 is None else l1
    added = torch.zeros(runs, texts, classes) if rest is None else rest

    def forward(w: Tensor, alive: Tensor) -> Tensor:
        return torch.bmm(flat[alive], w.clamp(0, 1)[:, :, None]).view(-1, texts, classes) + added[alive]  # (A, n, C)

    def backward(w: Tensor, alive: Tensor, slope: Tensor) -> Tensor:
        inner = torch.bmm(slope.view(-1, 1, texts * classes), flat[alive])[:, 0]  # (A, M)
        return inner * ((w >= 0) & (w <= 1)) + l1[alive, None] * w.sign()

    start = torch.ones(runs, count)
    trained = _descend(start, forward, backward, gold, counted, settings, settings.epochs, stops)
    return Trained(trained.weights.clamp(0, 1), trained.epochs, trained.loss)


def calibrate(logits: Tensor, gold: Tensor, counted: Tensor, settings: Settings, proper: bool = False) -> Trained:
    """Train one factor per class (Calib+ as released) or, with ``proper``, one term per class on log-probabilities.

    Args:
        logits: Logits of the full model over the label words, float32, shape (R, n, C).
        gold: Class indices, shape (R, n).
        counted: Mask of the n texts that each run trains on, booleans, shape (R, n).
        settings: See :class:`~icl_lens.studies.component_reweighting.settings.Settings`.
        proper: Whether to train terms on log-probabilities.
    """
    given = logits.log_softmax(-1) if proper else logits.softmax(-1)  # (R, n, C)

    def forward(w: Tensor, alive: Tensor) -> Tensor:
        return given[alive] + w[:, None] if proper else given[alive] * w[:, None]

    def backward(w: Tensor, alive: Tensor, slope: Tensor) -> Tensor:
        return slope.sum(1) if proper else (slope * given[alive]).sum(1)  # (A, C)

    runs, _, classes = logits.shape
    start = torch.zeros(runs, classes) if proper else torch.ones(runs, classes)
    return _descend(start, forward, backward, gold, counted, settings, settings.calibration_epochs)


def calibrated(logits: Tensor, weights: Tensor, proper: bool = False) -> Tensor:
    """Compute the scores of each class after calibration, shape (N, C), from weights of shape (C,)."""
    return logits.log_softmax(-1) + weights if proper else logits.softmax(-1) * weights


def _descend(
    start: Tensor,
    forward: Callable[[Tensor, Tensor], Tensor],
    backward: Callable[[Tensor, Tensor, Tensor], Tensor],
    gold: Tensor,
    counted: Tensor,
    settings: Settings,
    epochs: int,
    stops: Tensor | None = None,
) -> Trained:
    """Run gradient descent on the mean cross-entropy of each run's texts, with the released stopping rules.

    Args:
        start: Initial weights, shape (R, M).
        forward: Function (weights (A, M), indices of the runs (A,)) -> logits (A, n, C).
        backward: Function (weights, indices of the runs, gradient of the cross-entropy with respect to the logits) -> gradient
            (A, M).
        gold: Class indices, shape (R, n).
        counted: Mask of the texts of each run, shape (R, n).
        settings: Learning rate and stopping rules.
        epochs: Maximum number of steps.
        stops: Whether the stopping rules apply to each run, shape (R,).
    """
    runs = len(start)
    weights, taken, losses = start.clone(), torch.zeros(runs, dtype=torch.int64), torch.zeros(runs)
    stops = torch.ones(runs, dtype=torch.bool) if stops is None else stops
    best, failed = torch.full((runs,), torch.inf), torch.zeros(runs, dtype=torch.int64)
    share = counted / counted.sum(1, keepdim=True)  # (R, n)
    alive = torch.arange(runs)
    hot = torch.nn.functional.one_hot(gold, forward(weights, alive).shape[-1]).float()  # (R, n, C)
    for epoch in range(epochs):
        w, aim, part = weights[alive], hot[alive], share[alive]
        log_probs = forward(w, alive).log_softmax(-1)  # (A, n, C)
        loss = -((log_probs * aim).sum(-1) * part).sum(-1)  # (A,)
        slope = (log_probs.exp() - aim) * part[:, :, None]  # (A, n, C)
        w = w - settings.learning_rate * backward(w, alive, slope)
        weights[alive] = w
        taken[alive] += 1
        losses[alive] = loss
        failed[alive] += loss >= best[alive]
        best[alive] = torch.minimum(best[alive], loss)
        ended = failed[alive] >= settings.patience  # (A,)
        if epoch % settings.check == 0:
            right = forward(w, alive).argmax(-1) == gold[alive]  # (A, n)
            ended |= (right | ~counted[alive]).all(-1)
        alive = alive[~(ended & stops[alive])]
        if not len(alive):
            break
    return Trained(weights, taken, losses)
