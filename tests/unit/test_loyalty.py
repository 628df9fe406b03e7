import numpy as np
import pytest

from icl_lens.loyalty import jaccard, label_loyalty, word_loyalty

from ..reference.isolation import jaccard as of_sets


def test_label_loyalty_is_the_share_that_agrees():
    assert label_loyalty([0, 1, 2, 2], [0, 1, 1, 2]) == 0.75


def test_the_overlap_is_that_of_sets_whatever_the_order():
    generator = np.random.default_rng(0)
    first, second = (np.stack([generator.permutation(12)[:5] for _ in range(50)]) for _ in range(2))
    expected = [of_sets(a, b) for a, b in zip(first.tolist(), second.tolist(), strict=True)]
    np.testing.assert_allclose(jaccard(first, second), expected)
    assert jaccard(first, first[:, ::-1]).tolist() == [1.0] * 50
    assert jaccard(first, first + 100).tolist() == [0.0] * 50


def test_word_loyalty_looks_at_the_k_likeliest_alone():
    plain = np.array([[1, 2, 3, 4], [5, 6, 7, 8]])
    changed = np.array([[2, 1, 9, 9 + 1], [5, 0, 7, 8]])
    assert word_loyalty(changed, plain, 2) == pytest.approx((1 + 1 / 3) / 2)
