"""Tests of ranks: rounding errors must not break ties."""

import numpy as np
import pandas as pd
import pytest

from icl_lens.statistics.ranks import rank, spearman, without_rounding_errors
from icl_lens.statistics.similarity import unit_ranks
from icl_lens.studies.component_reweighting.components import summary
from icl_lens.studies.kernel_regression import heads

# The mean of the same counts, summed in another order.
ONE, OTHER = (1 / 12 + 2 / 12 + 4 / 12) / 3, (7 / 12 + 0 + 0) / 3


def test_equal_means_with_different_rounding_errors_share_their_rank():
    assert ONE != OTHER
    np.testing.assert_array_equal(rank(np.array([ONE, 0.5, OTHER, 0.1])), [2.5, 4, 2.5, 1])
    first, second = np.array([ONE, 0.5, OTHER, 0.1]), np.array([3.0, 1.0, 2.0, 0.0])
    assert spearman(first, second) == spearman(np.array([2.0, 3.0, 2.0, 1.0]), second)
    np.testing.assert_array_equal(unit_ranks(first), unit_ranks(np.array([2.0, 3.0, 2.0, 1.0])))


@pytest.mark.parametrize("scale", [1e-300, 1e-7, 1, 3e11])
def test_the_rounding_is_relative_to_the_largest_value(scale):
    values = scale * np.array([[ONE, OTHER, 1.0, -1 + 1e-9, -1.0], [np.nan, 0, 0, 1e-6, 2e-6]])
    found = without_rounding_errors(values)
    np.testing.assert_allclose(found, values, rtol=1e-11)
    assert found[0, 0] == found[0, 1]
    assert found[0, 3] > found[0, 4]
    np.testing.assert_array_equal(without_rounding_errors(np.zeros((2, 3))), np.zeros((2, 3)))
    assert without_rounding_errors(np.empty((0,))).shape == (0,)


def test_the_depth_of_the_best_heads_counts_each_of_them():
    assert heads._depth(np.array([0.1, ONE, OTHER]), np.array([0.2, 0.4, 0.8])) == pytest.approx(0.6)


def test_the_first_of_equally_good_components_are_the_best():
    first = np.array([ONE, OTHER, ONE, OTHER, ONE, OTHER, OTHER])
    np.testing.assert_array_equal(summary._iou(first, np.array([1.0, 1, 1, 1, 1, 0, 0])), 1)


def test_the_correlation_over_heads_treats_equal_means_as_ties():
    """The reconstruction of two heads is 7 of 36 prompts, in runs with different numbers of them."""
    counts = {0: (1, 2, 4), 1: (7, 0, 0), 2: (3, 3, 3), 3: (12, 1, 1)}  # head -> per template
    components = pd.DataFrame({"kind": "head", "layer": [0, 0, 1, 1], "head": [0, 1, 0, 1]}).astype({"layer": "Int64"})
    templates, prompts = ("f1", "f2", "f3", "contrast"), np.arange(12)
    values = {
        name: np.stack([(prompts < counts[head][min(number, 2)]).astype(float) for head in range(4)], 1)
        for number, name in enumerate(templates)
    }
    attention = {name: np.tile([0.4, 0.3, 0.2, 0.1], (12, 1)) for name in templates}
    answers = summary.Answers(
        *("organism", "sst2", 2, components, templates),
        predictions={name: np.zeros((12, 4), dtype=int) for name in templates},
        full={name: np.zeros(12, dtype=int) for name in templates},
        gold=np.zeros(12, dtype=int),
        seed=np.full(12, 42),
        prompt_id=prompts,
        units=pd.DataFrame({"task": "sst2", "seed": 42, "prompt_id": prompts}),
        half=prompts % 2,
        attention=attention,
        reconstruction=values,
    )
    _, correlations = summary.anchor_heads([answers])
    found = correlations[correlations["pair"] == "reconstruction ~ attention"]["value"].iloc[0]
    assert found == pytest.approx(spearman(np.array([1.0, 1.0, 2.0, 3.0]), np.array([4.0, 3.0, 2.0, 1.0])))
