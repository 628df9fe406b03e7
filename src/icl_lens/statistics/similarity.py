"""Representational similarity of prompts, and its alignment with hypotheses about the prompts.

Each dimension of the vectors of P prompts is standardised over the prompts. The similarity of two prompts is the cosine of
their vectors. A hypothesis is also a P x P matrix. The *alignment* is the correlation of the entries above the diagonal of the
two matrices (representational similarity analysis; Kriegeskorte et al., 2008). Its null distribution permutes the prompts, that
is, the rows and columns of the hypothesis together (Mantel, 1967), because pairs that share a prompt are not independent.
*Linear CKA* (Kornblith et al., 2019) compares centred kernels.

A *condensed* matrix is the vector of its M = P (P - 1) / 2 entries above the diagonal, row by row.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from icl_lens.statistics.ranks import rank

# A dimension counts as constant if its standard deviation over the prompts is at most this share of the largest absolute value.
CONSTANT = 1e-5
# Number of permutations per matrix product.
_CHUNK = 100


def standardised(vectors: np.ndarray) -> np.ndarray:
    """Standardise each dimension to mean 0 and standard deviation 1 over the prompts; constant dimensions become 0.

    Args:
        vectors: Vectors of P prompts, shape (..., P, W).
    """
    return standardised_like(vectors)[0]


def standardised_like(vectors: np.ndarray, *others: np.ndarray) -> list[np.ndarray]:
    """Standardise vectors as in :func:`standardised`, and further vectors with the same means and standard deviations.

    A dimension that is constant in ``vectors`` becomes 0 in all results.

    Args:
        vectors: Vectors of P prompts, shape (..., P, W), which determine the means and the standard deviations.
        others: Vectors of other prompts, for example of a test fold, shape (..., N, W) each.
    """
    vectors = np.asarray(vectors, dtype=float)
    mean = vectors.mean(-2, keepdims=True)  # (..., 1, W)
    spread = (vectors - mean).std(-2, keepdims=True)  # (..., 1, W)
    size = np.abs(vectors).max((-2, -1), keepdims=True)  # (..., 1, 1)
    found = []
    for each in (vectors, *others):
        centred = each - mean  # (..., P or N, W)
        found.append(np.divide(centred, spread, out=np.zeros_like(centred), where=spread > CONSTANT * size))
    return found


def cosines(vectors: np.ndarray) -> np.ndarray:
    """Compute the cosine similarity of the standardised vectors of each pair of prompts.

    Args:
        vectors: Vectors of P prompts, shape (..., P, W).

    Returns:
        Condensed similarities, shape (..., M). They are NaN if all prompts have the same vector; a pair with a zero vector has
        similarity 0.
    """
    unit = standardised(vectors)
    norm = np.linalg.norm(unit, axis=-1, keepdims=True)  # (..., P, 1)
    unit = np.divide(unit, norm, out=np.zeros_like(unit), where=norm > 0)
    found = condensed(unit @ np.swapaxes(unit, -1, -2))  # (..., M)
    found[~(norm > 0).any((-2, -1))] = np.nan
    return found


def condensed(matrix: np.ndarray) -> np.ndarray:
    """Return the entries above the diagonal: shape (..., P, P) to (..., M).

    ``scipy.spatial.distance.squareform`` does the same for a single matrix; this function and :func:`square` accept batches.
    """
    rows, columns = np.triu_indices(matrix.shape[-1], 1)
    return matrix[..., rows, columns]


def square(pairs: np.ndarray, diagonal: float = 1.0) -> np.ndarray:
    """Return the symmetric matrix of condensed entries: shape (..., M) to (..., P, P)."""
    size = round((1 + np.sqrt(1 + 8 * pairs.shape[-1])) / 2)
    matrix = np.full((*pairs.shape[:-1], size, size), diagonal, dtype=float)
    rows, columns = np.triu_indices(size, 1)
    matrix[..., rows, columns] = matrix[..., columns, rows] = pairs
    return matrix


def unit_ranks(pairs: np.ndarray) -> np.ndarray:
    """Return ranks along the last axis, centred and scaled to norm 1; NaN where constant.

    The dot product of two results is Spearman's correlation, so one matrix product correlates many vectors with many others.
    """
    return unit_values(rank(pairs))


def unit_values(pairs: np.ndarray) -> np.ndarray:
    """Return values along the last axis, centred and scaled to norm 1; NaN where constant.

    The dot product of two results is Pearson's correlation.
    """
    centred = np.asarray(pairs, dtype=float) - np.mean(pairs, -1, keepdims=True)
    norm = np.linalg.norm(centred, axis=-1, keepdims=True)
    size = np.abs(pairs).max(-1, keepdims=True) if np.size(pairs) else norm
    known = norm > 1e-9 * size * np.sqrt(centred.shape[-1])
    return np.divide(centred, norm, out=np.full_like(centred, np.nan), where=known)


def mantel(unit: np.ndarray, hypothesis: np.ndarray, permutations: int, seed: int) -> np.ndarray:
    """Compute the null distribution of alignments with a hypothesis: rows and columns of its matrix are permuted together.

    Args:
        unit: :func:`unit_ranks` (or :func:`unit_values`) of similarities, shape (S, M).
        hypothesis: Hypothesised similarity matrix, shape (P, P). If ``unit`` contains ranks, pass the result of :func:`ranked`.
        permutations: Number of permutations, R.
        seed: Seed of the permutations.

    Returns:
        Alignments, shape (R, S).
    """
    generator = np.random.default_rng(seed)
    size = len(hypothesis)
    rows, columns = np.triu_indices(size, 1)
    ordered = square(unit_values(condensed(hypothesis)), 0.0)  # a permutation changes neither mean nor norm
    found = []
    for start in range(0, permutations, _CHUNK):
        orders = np.stack([generator.permutation(size) for _ in range(min(_CHUNK, permutations - start))])  # (r, P)
        permuted = ordered[orders[:, rows], orders[:, columns]]  # (r, M)
        found.append(permuted @ unit.T)  # (r, S)
    return np.concatenate(found)


def ranked(hypothesis: np.ndarray) -> np.ndarray:
    """Replace the off-diagonal entries of a symmetric hypothesis by their ranks, shape (P, P); the diagonal becomes 0."""
    return square(rank(condensed(hypothesis)), 0.0)


def p_of(value: np.ndarray, null: np.ndarray) -> np.ndarray:
    """Compute the one-sided p value: the share of a null distribution at least as large as the value; NaN if the value is NaN.

    The value itself counts as one draw of the null distribution.

    Args:
        value: Observed values, shape (...).
        null: Null distribution of each value, shape (R, ...).
    """
    p = (1 + (null >= value - 1e-12).sum(0)) / (1 + len(null))
    return np.where(np.isnan(value), np.nan, p)


def partial(first: np.ndarray, second: np.ndarray, given: Sequence[np.ndarray]) -> np.ndarray:
    """Compute the partial Spearman correlation: the correlation of ranks after regressing out the ranks of other matrices.

    Args:
        first: Condensed matrices, shape (S, M).
        second: Condensed matrix, shape (M,).
        given: Condensed matrices to control for, each of shape (M,).

    Returns:
        Correlations, shape (S,); NaN where the regression leaves no variance in one of the two.
    """
    basis = [np.ones(len(second))]
    for each in given:
        ranks = unit_ranks(each)
        if not np.isnan(ranks).any():
            basis.append(ranks)
    orthonormal, _ = np.linalg.qr(np.stack(basis, 1))  # (M, 1 + G)
    left, right = unit_ranks(np.atleast_2d(first)), unit_ranks(second)  # (S, M), (M,)
    left = left - (left @ orthonormal) @ orthonormal.T
    right = right - orthonormal @ (orthonormal.T @ right)
    norms = np.linalg.norm(left, axis=-1) * np.linalg.norm(right)  # (S,)
    return np.divide(left @ right, norms, out=np.full(len(left), np.nan), where=norms > 1e-6)


def cka(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Compute the centred kernel alignment of two kernels over the same prompts.

    For K = X X' and L = Y Y', this is linear CKA, ||Y' X||^2 / (||X' X|| ||Y' Y||) of centred X and Y.

    Args:
        first: Kernel, shape (..., P, P).
        second: Kernel, of a shape that broadcasts with ``first``.

    Returns:
        Alignment, shape (...); NaN where a centred kernel is zero.
    """
    one, two = (_centred(np.asarray(kernel, dtype=float)) for kernel in (first, second))
    norms = np.sqrt((one**2).sum((-2, -1)) * (two**2).sum((-2, -1)))
    shared = (one * two).sum((-2, -1))
    return np.divide(shared, norms, out=np.full(np.shape(shared), np.nan), where=norms > 1e-12)


def _centred(kernel: np.ndarray) -> np.ndarray:
    """Centre a kernel so that its rows and columns have mean 0, shape (..., P, P)."""
    rows, columns = kernel.mean(-1, keepdims=True), kernel.mean(-2, keepdims=True)
    return kernel - rows - columns + kernel.mean((-2, -1), keepdims=True)
