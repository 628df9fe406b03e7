"""Linear probes: can a component of the task be read off a prompt's vector by logistic regression?

One multinomial logistic regression a fold, with an L2 penalty as scikit-learn has it: of K classes the weights minimise

    C * sum of the prompts' cross-entropies + ||W||^2 / 2,         W: (K, D), the intercepts are free,

tested on the prompts of the folds that it was not fitted on. Folds never part a group (a line; a pair of name and activity), so
that nothing is recognised that was seen.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from icl_lens.similarity import standardised

# The fit ends when no derivative is larger than this share of what it was at the start, or after so many steps.
TOLERANCE, MOST_STEPS = 1e-4, 2000


def grouped_folds(groups: Sequence[str], folds: int, seed: int) -> np.ndarray:
    """Deals groups out to folds: in random order, each to the fold that has the fewest prompts so far.

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
    """The class that a probe says of each prompt, fitted on the other folds.

    Args:
        vectors: Of S layers, shape (S, P, W); dimensions are standardised over all prompts.
        classes: Class of each prompt, 0 to K - 1, shape (P,).
        folds: The fold of each prompt, shape (P,).
        penalty: C, the weight of the errors.

    Returns:
        Shape (S, P).
    """
    points = torch.from_numpy(standardised(vectors))  # (S, P, W)
    # No direction that no prompt has can have a weight: in the prompts' own span there are P at most.
    if points.shape[1] < points.shape[2]:
        left, spread, _ = torch.linalg.svd(points, full_matrices=False)  # (S, P, P), (S, P)
        points = left * spread[:, None]  # (S, P, P)
    found = np.empty(points.shape[:2], dtype=np.int64)
    for fold in np.unique(folds):
        tested = torch.from_numpy(folds == fold)  # (P,)
        weights, intercepts = fit(points[:, ~tested], torch.from_numpy(classes)[~tested], int(classes.max()) + 1, penalty)
        scores = points[:, tested] @ weights.mT + intercepts[:, None]  # (S, p, K)
        found[:, tested.numpy()] = scores.argmax(-1).numpy()
    return found


def fit(points: Tensor, classes: Tensor, number: int, penalty: float) -> tuple[Tensor, Tensor]:
    """Multinomial logistic regressions of S sets of points side by side, by accelerated gradient descent with restarts.

    Args:
        points: Shape (S, n, D).
        classes: Shape (n,), the same for all sets.
        number: How many classes, K.
        penalty: C.

    Returns:
        Weights (S, K, D) and intercepts (S, K).
    """
    sets, count, width = points.shape
    one_hot = torch.nn.functional.one_hot(classes, number).to(points.dtype)  # (n, K)
    # With 1 behind each point the intercepts are weights, too, without a penalty.
    extended = torch.cat([points, torch.ones_like(points[..., :1])], -1)  # (S, n, D + 1)
    shrunk = torch.ones(width + 1, dtype=points.dtype)  # (D + 1,)
    shrunk[-1] = 0
    # The softmax's second derivative is at most 1 / 2.
    steepest = penalty / 2 * torch.linalg.matrix_norm(extended, 2) ** 2 + 1  # (S,)
    step = (1 / steepest)[:, None, None]  # (S, 1, 1)
    at = torch.zeros(sets, number, width + 1, dtype=points.dtype)  # (S, K, D + 1)
    ahead, momentum = at.clone(), torch.ones(sets, 1, 1, dtype=points.dtype)  # (S, K, D + 1), (S, 1, 1)

    def slope(weights: Tensor) -> Tensor:
        surplus = (extended @ weights.mT).softmax(-1) - one_hot  # (S, n, K)
        return penalty * surplus.mT @ extended + shrunk * weights  # (S, K, D + 1)

    start = slope(at).abs().amax((1, 2)).clamp(min=1e-12)  # (S,)
    for _ in range(MOST_STEPS):
        down = slope(ahead)  # (S, K, D + 1)
        new = ahead - step * down
        if bool((down.abs().amax((1, 2)) <= TOLERANCE * start).all()):
            return new[..., :-1], new[..., -1]
        # Where the way taken no longer leads down, momentum starts anew (O'Donoghue and Candes, 2015).
        uphill = (down * (new - at)).sum((1, 2), keepdim=True) > 0  # (S, 1, 1)
        momentum = torch.where(uphill, torch.ones_like(momentum), momentum)
        grown = (1 + (1 + 4 * momentum**2).sqrt()) / 2
        ahead = new + torch.where(uphill, torch.zeros_like(grown), (momentum - 1) / grown) * (new - at)
        at, momentum = new, grown
    return at[..., :-1], at[..., -1]
