"""Representational similarity of prompts, and its agreement with hypotheses about them.

Each dimension of the vectors of P prompts is standardised over the prompts; their similarity is the cosine of two vectors. A
hypothesis is also a P x P matrix. The *alignment* is the correlation of the two matrices' entries above the diagonal
(Kriegeskorte et al., 2008, call it representational similarity analysis); its null distribution permutes the prompts, the rows
and columns of the hypothesis together (Mantel, 1967), since pairs that share a prompt are not independent. *Linear CKA*
(Kornblith et al., 2019) compares centred kernels.

The M = P (P - 1) / 2 entries above the diagonal, row by row, are called condensed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from icl_lens.statistics.ranks import midranks

# A dimension whose standard deviation over the prompts is below this share of the largest value is constant up to rounding.
CONSTANT = 1e-5
# Permutations per matrix product.
_CHUNK = 100


def standardised(vectors: np.ndarray) -> np.ndarray:
    """Each dimension with mean 0 and standard deviation 1 over the prompts; 0 where it is constant.

    Args:
        vectors: Shape (..., P, W).
    """
    vectors = np.asarray(vectors, dtype=float)
    centred = vectors - vectors.mean(-2, keepdims=True)  # (..., P, W)
    spread = centred.std(-2, keepdims=True)  # (..., 1, W)
    size = np.abs(vectors).max((-2, -1), keepdims=True)  # (..., 1, 1)
    return np.divide(centred, spread, out=np.zeros_like(centred), where=spread > CONSTANT * size)


def cosines(vectors: np.ndarray) -> np.ndarray:
    """The cosine of every two prompts' standardised vectors, condensed.

    Args:
        vectors: Shape (..., P, W).

    Returns:
        Shape (..., M); NaN where all prompts have the same vector, 0 for a pair with a vector of zeros.
    """
    unit = standardised(vectors)
    norm = np.linalg.norm(unit, axis=-1, keepdims=True)  # (..., P, 1)
    unit = np.divide(unit, norm, out=np.zeros_like(unit), where=norm > 0)
    found = condensed(unit @ np.swapaxes(unit, -1, -2))  # (..., M)
    found[~(norm > 0).any((-2, -1))] = np.nan
    return found


def condensed(matrix: np.ndarray) -> np.ndarray:
    """The entries above the diagonal, shape (..., P, P) to (..., M)."""
    rows, columns = np.triu_indices(matrix.shape[-1], 1)
    return matrix[..., rows, columns]


def square(pairs: np.ndarray, diagonal: float = 1.0) -> np.ndarray:
    """The symmetric matrix of condensed entries, shape (..., M) to (..., P, P)."""
    size = round((1 + np.sqrt(1 + 8 * pairs.shape[-1])) / 2)
    matrix = np.full((*pairs.shape[:-1], size, size), diagonal, dtype=float)
    rows, columns = np.triu_indices(size, 1)
    matrix[..., rows, columns] = matrix[..., columns, rows] = pairs
    return matrix


def unit_ranks(pairs: np.ndarray) -> np.ndarray:
    """Ranks along the last axis, centred and of length 1, so that products are Spearman's correlations; NaN where constant."""
    return unit_values(midranks(pairs))


def unit_values(pairs: np.ndarray) -> np.ndarray:
    """Values along the last axis, centred and of length 1, so that products are Pearson's correlations; NaN where constant."""
    centred = np.asarray(pairs, dtype=float) - np.mean(pairs, -1, keepdims=True)
    norm = np.linalg.norm(centred, axis=-1, keepdims=True)
    size = np.abs(pairs).max(-1, keepdims=True) if np.size(pairs) else norm
    known = norm > 1e-9 * size * np.sqrt(centred.shape[-1])
    return np.divide(centred, norm, out=np.full_like(centred, np.nan), where=known)


def mantel(unit: np.ndarray, hypothesis: np.ndarray, permutations: int, seed: int) -> np.ndarray:
    """Alignments with a hypothesis whose prompts are permuted.

    Args:
        unit: :func:`unit_ranks` (or ``unit_values``) of similarities, shape (S, M).
        hypothesis: Shape (P, P); its entries are ranked first where ``unit`` holds ranks.
        permutations: Number of permutations, R.
        seed: Of the permutations.

    Returns:
        Shape (R, S).
    """
    generator = np.random.default_rng(seed)
    size = len(hypothesis)
    rows, columns = np.triu_indices(size, 1)
    ordered = square(unit_values(condensed(hypothesis)), 0.0)  # a permutation does not change mean and length
    found = []
    for start in range(0, permutations, _CHUNK):
        orders = np.stack([generator.permutation(size) for _ in range(min(_CHUNK, permutations - start))])  # (r, P)
        dealt = ordered[orders[:, rows], orders[:, columns]]  # (r, M)
        found.append(dealt @ unit.T)  # (r, S)
    return np.concatenate(found)


def ranked(hypothesis: np.ndarray) -> np.ndarray:
    """A hypothesis whose entries above the diagonal are replaced by their ranks, shape (P, P)."""
    return square(midranks(condensed(np.asarray(hypothesis, dtype=float))), 0.0)


def p_of(value: np.ndarray, null: np.ndarray) -> np.ndarray:
    """The share of a null distribution that is at least as large as the value, including the value itself; NaN for NaN.

    Args:
        value: Shape (...).
        null: Shape (R, ...).
    """
    p = (1 + (null >= value - 1e-12).sum(0)) / (1 + len(null))
    return np.where(np.isnan(value), np.nan, p)


def partial(first: np.ndarray, second: np.ndarray, given: Sequence[np.ndarray]) -> np.ndarray:
    """Partial Spearman correlation: the correlation of ranks after regressing the ranks of other matrices out of both.

    Args:
        first: Condensed, shape (S, M).
        second: Condensed, shape (M,).
        given: Condensed matrices to control for, each of shape (M,).

    Returns:
        Shape (S,); NaN where one side has no variance left.
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
    """Centred kernel alignment of two kernels over the same prompts.

    With K = X X' and L = Y Y' it is linear CKA, ||Y' X||^2 / (||X' X|| ||Y' Y||) of centred X and Y.

    Args:
        first: Shape (..., P, P).
        second: A shape that broadcasts with it.

    Returns:
        Shape (...); NaN where a kernel is constant.
    """
    one, two = (_centred(np.asarray(kernel, dtype=float)) for kernel in (first, second))
    norms = np.sqrt((one**2).sum((-2, -1)) * (two**2).sum((-2, -1)))
    shared = (one * two).sum((-2, -1))
    return np.divide(shared, norms, out=np.full(np.shape(shared), np.nan), where=norms > 1e-12)


def _centred(kernel: np.ndarray) -> np.ndarray:
    """A kernel with rows and columns of mean 0, shape (..., P, P)."""
    rows, columns = kernel.mean(-1, keepdims=True), kernel.mean(-2, keepdims=True)
    return kernel - rows - columns + kernel.mean((-2, -1), keepdims=True)
