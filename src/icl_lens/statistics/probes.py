"""Linear probes that test whether logistic regression can predict a component of the task from a prompt's vector.

There is one multinomial logistic regression per fold, with an L2 penalty as in scikit-learn. With K classes, the weights
minimise

    C * sum of the prompts' cross-entropies + ||W||^2 / 2,         W: (K, D), without a penalty on the intercepts.

Each regression is tested on the prompts of its held-out fold. A group (for example a line, or a pair of name and activity) is
never split across folds, so the training folds contain no group of the test fold.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from icl_lens.statistics.similarity import standardised

# The fit stops when the largest absolute derivative is at most TOLERANCE times its initial value, or after MOST_STEPS steps.
TOLERANCE, MOST_STEPS = 1e-5, 1000


def grouped_folds(groups: Sequence[str], folds: int, seed: int) -> np.ndarray:
    """Assign groups to folds: in random order, each group to the fold with the fewest prompts so far.

    Returns:
        The fold of each prompt, shape (P,).
    """
    names, members = np.unique(np.asarray(groups), return_inverse=True)
    sizes, of_group = np.bincount(members), np.empty(len(names), dtype=np.int64)
    filled = np.zeros(folds, dtype=np.int64)
    for group in np.random.default_rng(seed).permutation(len(names)):
        of_group[group] = filled.argmin()
        filled[filled.argmin()] += sizes[group]
    return of_group[members]


def predicted(vectors: np.ndarray, classes: np.ndarray, folds: np.ndarray, penalty: float) -> np.ndarray:
    """Predict the class of each prompt with a probe that is fitted on the other folds.

    Args:
        vectors: Vectors of S layers, shape (S, P, W). Each dimension is standardised over all prompts.
        classes: Class of each prompt, 0 to K - 1, shape (P,).
        folds: Fold of each prompt, shape (P,).
        penalty: C, the weight of the cross-entropy.

    Returns:
        Predicted classes, shape (S, P).
    """
    points = torch.from_numpy(standardised(vectors))  # (S, P, W)
    # The optimal weights are in the span of the prompts, which has at most P dimensions.
    if points.shape[1] < points.shape[2]:
        left, spread, _ = torch.linalg.svd(points, full_matrices=False)  # (S, P, P), (S, P)
        points = left * spread[:, None]  # (S, P, P)
    fitted = torch.stack([torch.from_numpy(folds != fold) for fold in np.unique(folds)])  # (F, P)
    sets, prompts, width = points.shape
    each = points[:, None].expand(-1, len(fitted), -1, -1).reshape(-1, prompts, width)  # (S F, P, D)
    counted = fitted.to(points.dtype).repeat(sets, 1)  # (S F, P)
    weights, intercepts = fit(each, torch.from_numpy(classes), int(classes.max()) + 1, penalty, counted)
    said = (each @ weights.mT + intercepts[:, None]).argmax(-1).view(sets, len(fitted), prompts)  # (S, F, P)
    place = (~fitted).to(torch.int64).argmax(0)  # (P,): the test fold of each prompt
    return said[:, place, torch.arange(prompts)].numpy()


def fit(points: Tensor, classes: Tensor, number: int, penalty: float, counted: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Fit multinomial logistic regressions to S sets of points in one batch.

    The optimiser is accelerated gradient descent with restarts (O'Donoghue and Candes, 2015), preconditioned with Boehning's
    bound (1992): the Hessian of the cross-entropy term is at most C X'X / 2, so the inverse of that bound, computed once,
    scales each step.

    Args:
        points: Points, shape (S, n, D).
        classes: Class of each point, shape (n,), the same for all sets.
        number: Number of classes, K.
        penalty: C, the weight of the cross-entropy.
        counted: Weight of each point's cross-entropy, shape (S, n); 1 by default.

    Returns:
        Weights (S, K, D) and intercepts (S, K).
    """
    sets, _, width = points.shape
    one_hot = torch.nn.functional.one_hot(classes, number).to(points.dtype)  # (n, K)
    # A constant 1 is appended to each point, so that the intercepts are weights without a penalty.
    extended = torch.cat([points, torch.ones_like(points[..., :1])], -1)  # (S, n, D + 1)
    each = torch.ones_like(extended[..., 0]) if counted is None else counted  # (S, n)
    errors = penalty * each[..., None]  # (S, n, 1)
    shrunk = torch.ones(width + 1, dtype=points.dtype)  # (D + 1,)
    shrunk[-1] = 0
    bound = extended.mT @ (errors * extended) / 2 + shrunk.diag()  # (S, D + 1, D + 1)
    bound[:, -1, -1] += 1e-9  # keeps the matrix invertible if all points have weight 0
    inverse = torch.linalg.inv(bound)
    at = torch.zeros(sets, number, width + 1, dtype=points.dtype)  # (S, K, D + 1)
    ahead, momentum = at.clone(), torch.ones(sets, 1, 1, dtype=points.dtype)  # (S, K, D + 1), (S, 1, 1)
    start = None
    for _ in range(MOST_STEPS):
        surplus = errors * ((extended @ ahead.mT).softmax(-1) - one_hot)  # (S, n, K)
        down = surplus.mT @ extended + shrunk * ahead  # (S, K, D + 1)
        new = ahead - down @ inverse
        size = down.abs().amax((1, 2))  # (S,)
        start = size.clamp(min=1e-12) if start is None else start
        # Restart the momentum where the step points uphill (the gradient criterion).
        uphill = (down * (new - at)).sum((1, 2), keepdim=True) > 0  # (S, 1, 1)
        momentum = torch.where(uphill, torch.ones_like(momentum), momentum)
        grown = (1 + (1 + 4 * momentum**2).sqrt()) / 2
        ahead = new + torch.where(uphill, torch.zeros_like(grown), (momentum - 1) / grown) * (new - at)
        at, momentum = new, grown
        if bool((size <= TOLERANCE * start).all()):
            break
    return at[..., :-1], at[..., -1]
