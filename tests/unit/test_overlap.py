import numpy as np

from icl_lens.statistics.overlap import jaccard

from ..reference.isolation import jaccard as of_sets


def test_the_overlap_is_that_of_sets_whatever_the_order():
    generator = np.random.default_rng(0)
    first, second = (np.stack([generator.permutation(12)[:5] for _ in range(50)]) for _ in range(2))
    expected = [of_sets(a, b) for a, b in zip(first.tolist(), second.tolist(), strict=True)]
    np.testing.assert_allclose(jaccard(first, second), expected)
    assert jaccard(first, first[:, ::-1]).tolist() == [1.0] * 50
    assert jaccard(first, first + 100).tolist() == [0.0] * 50
