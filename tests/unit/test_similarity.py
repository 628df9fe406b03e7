import math
from itertools import product

import numpy as np
import pytest
from scipy import stats as scipy_stats
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from icl_lens.statistics import probes, significance, similarity
from icl_lens.studies.representation_change import hypotheses, lines, reading
from icl_lens.studies.representation_change.settings import Lines, Reading

from ..reference import representation_change as reference

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def of_lines():
    return hypotheses.matrices(lines.build(Lines(), 42).query("examples == 0"))


@pytest.fixture(scope="module")
def of_stories():
    return hypotheses.matrices(reading.build(Reading(), 42).query("examples == 0 and distractors == 1"))


def test_hypotheses_differ_and_have_a_rank_above_one(of_lines, of_stories):
    for matrices in (of_lines, of_stories):
        names = list(matrices)
        for i, first in enumerate(names):
            assert np.linalg.matrix_rank(matrices[first]) > 1
            assert np.array_equal(matrices[first], matrices[first].T)
            for second in names[i + 1 :]:
                assert abs(similarity_of(matrices[first], matrices[second])) < 0.999


def similarity_of(first, second):
    return float(np.corrcoef(similarity.condensed(first), similarity.condensed(second))[0, 1])


def test_hypotheses_are_what_they_say(of_lines, of_stories):
    table = lines.build(Lines(), 42).query("examples == 0")
    parts = [tuple(map(float, row)) for row in table["components"]]
    for i, j in ((0, 1), (0, 5), (3, 40), (10, 60)):
        (m, b), (n, c) = parts[i], parts[j]
        assert of_lines["line"][i, j] == float((m, b) == (n, c))
        assert of_lines["average"][i, j] == ((m == n) + (b == c)) / 2
        assert of_lines["slope distance"][i, j] == -abs(m - n)
    assert np.allclose(of_stories["average"], (of_stories["name"] + of_stories["activity"]) / 2)
    assert "distractor" not in hypotheses.names("reading", 0)


def test_a_hypothesis_is_aligned_with_itself(of_lines):
    for matrix in of_lines.values():
        pairs = similarity.condensed(matrix)
        assert similarity.unit_ranks(pairs) @ similarity.unit_ranks(pairs) == pytest.approx(1)
        assert similarity.cka(matrix, matrix) == pytest.approx(1)


def test_cosines_agree_with_the_definition():
    vectors = RNG.normal(size=(7, 5)) * [1, 5, 0.1, 2, 1]
    vectors[:, 3] = 4.0  # a constant column makes no difference
    plain = reference.cosines(vectors)
    assert similarity.cosines(vectors) == pytest.approx(plain[np.triu_indices(7, 1)])
    assert np.isnan(similarity.cosines(np.ones((4, 3)))).all()
    assert similarity.square(similarity.condensed(plain)) == pytest.approx(plain)


def test_linear_cka_agrees_with_the_definition():
    x, y = RNG.normal(size=(9, 4)), RNG.normal(size=(9, 6))
    assert similarity.cka(x @ x.T, y @ y.T) == pytest.approx(reference.linear_cka(x, y))


def test_the_mantel_null_is_calibrated():
    """Check that 5 % of the p values are below 0.05 for similarities that are independent of the hypothesis."""
    hypothesis = hypotheses.equality(np.arange(24) % 4)
    unit = similarity.unit_ranks(similarity.cosines(RNG.normal(size=(400, 24, 3))))
    value = unit @ similarity.unit_ranks(similarity.condensed(hypothesis))
    p = similarity.p_of(value, similarity.mantel(unit, similarity.ranked(hypothesis), 199, 0))
    assert 0.02 < (p <= 0.05).mean() < 0.09
    assert abs(p.mean() - 0.5) < 0.06


def test_the_mantel_null_finds_what_is_there():
    groups = np.arange(24) % 4
    vectors = RNG.normal(size=(24, 8)) + 2 * RNG.normal(size=(4, 8))[groups]
    unit = similarity.unit_ranks(similarity.cosines(vectors[None]))
    value = unit @ similarity.unit_ranks(similarity.condensed(hypotheses.equality(groups)))
    null = similarity.mantel(unit, similarity.ranked(hypotheses.equality(groups)), 99, 0)
    assert similarity.p_of(value, null) == pytest.approx(0.01)


def test_a_partial_correlation_takes_out_what_is_given():
    given = RNG.normal(size=300)
    first, second = given + 0.1 * RNG.normal(size=300), given + 0.1 * RNG.normal(size=300)
    assert reference.pearson(reference.ranks(first), reference.ranks(second)) > 0.9
    assert abs(similarity.partial(first, second, [given])[0]) < 0.3
    a, b, c = (
        reference.pearson(reference.ranks(u), reference.ranks(v)) for u, v in ((first, second), (first, given), (second, given))
    )
    assert similarity.partial(first, second, [given])[0] == pytest.approx((a - b * c) / math.sqrt((1 - b**2) * (1 - c**2)))
    assert np.isnan(similarity.partial(first, given, [given])[0])


def test_benjamini_hochberg_agrees_with_its_definition():
    p = np.array([0.01, 0.04, 0.03, np.nan, 0.5, 0.005])
    found = significance.benjamini_hochberg(p)
    known = sorted(x for x in p if x == x)
    for value, adjusted in zip(p, found, strict=True):
        if value != value:
            assert adjusted != adjusted
            continue
        wanted = min(min(1.0, each * len(known) / (rank + 1)) for rank, each in enumerate(known) if each >= value)
        assert adjusted == pytest.approx(wanted)


def test_a_paired_t_test_is_calibrated_and_has_a_known_value():
    t, p = significance.paired_t(np.array([1.0, 2.0, 3.0, 4.0, -1.0]))
    assert t == pytest.approx(1.8 / (math.sqrt(3.7) / math.sqrt(5)))
    # Student's t distribution with four degrees of freedom has a closed form.
    u = t / math.sqrt(t * t + 4)
    assert p == pytest.approx(1 - 1.5 * u + u**3 / 2)
    draws = [significance.paired_t(row)[1] for row in RNG.normal(size=(500, 10))]
    assert 0.02 < np.mean(np.array(draws) <= 0.05) < 0.09
    assert all(math.isnan(x) for x in significance.paired_t(np.ones(5)))
    assert all(math.isnan(x) for x in significance.paired_t(np.array([0.3, 0.1 + 0.2, 0.3])))


def test_wilcoxons_test_is_calibrated():
    draws = np.array([significance.wilcoxon(row) for row in RNG.normal(size=(500, 20))])
    assert 0.02 < (draws <= 0.05).mean() < 0.09
    assert significance.wilcoxon(np.arange(1, 21)) < 1e-3
    assert math.isnan(significance.wilcoxon(np.zeros(4)))
    # Few differences have an exact p: of the 2^5 signs, two have a rank sum as extreme as all of one sign.
    assert significance.wilcoxon([0.1, 0.2, 0.3, 0.4, 0.5, 0.0]) == pytest.approx(2 / 32)


@pytest.mark.parametrize(
    "differences",
    [
        [0.3, -0.1, 0.7, 1.1, -0.2, 0.5, 0.9, 1.3, 0.4],
        [1, 1, 1, -1, 2, 2, -2, 3, 0, 0, 1, 1, 2, -1, 1],  # ties and zeros, more than 13 differences
        [1.0] * 14 + [-1.0] * 2,
        [0.3, 0.1 + 0.2, -0.3, 0.6, 0.3 * 2 - 1e-17, 0.9, -0.2 * 3, 0.5],  # ties up to rounding
        [0.5, -0.5],
        [2.0],
    ],
)
def test_wilcoxons_p_is_that_of_all_assignments_of_signs(differences):
    values = [round(each, 9) for each in differences if each]
    sizes = reference.ranks([abs(each) for each in values])
    middle = sum(sizes) / 2
    observed = abs(sum(rank for rank, each in zip(sizes, values, strict=True) if each > 0) - middle)
    sums = [sum(r for r, sign in zip(sizes, signs, strict=True) if sign) for signs in product([0, 1], repeat=len(sizes))]
    expected = sum(abs(each - middle) >= observed - 1e-9 for each in sums) / len(sums)
    assert significance.wilcoxon(differences) == pytest.approx(expected, rel=1e-9)


def test_wilcoxons_p_of_many_differences_is_near_the_exact_one(monkeypatch):
    differences = np.random.default_rng(0).normal(0.15, size=200)  # the same whatever other tests have drawn
    exact = significance.wilcoxon(differences)
    assert exact == pytest.approx(scipy_stats.wilcoxon(differences, method="exact").pvalue)
    monkeypatch.setattr(significance, "EXACT_DIFFERENCES", 10)
    assert significance.wilcoxon(differences) == pytest.approx(exact, rel=0.05)


def test_a_correlations_p_is_of_permutations():
    x = np.arange(12.0)
    value, p = significance.spearman_test(x, x**3, 199)
    assert (value, p) == (pytest.approx(1), pytest.approx(1 / 200))
    assert math.isnan(significance.spearman_test(x, np.ones(12))[0])
    # All 24 orders of four values are used: two of them are as extreme.
    assert significance.spearman_test(x[:4], x[:4])[1] == pytest.approx(2 / 24)


def test_folds_are_fitted_on_the_others_only():
    """Check that a probe never predicts a component that equals the group, because the test groups are unseen."""
    groups = np.arange(30) % 6
    vectors = np.eye(6)[groups] + 0.01 * RNG.normal(size=(30, 6))
    names = [str(g) for g in groups]
    assert not (probes.predicted(vectors[None], groups, names, 3, 1.0, 0)[0] == groups).any()
    easy = np.arange(30) // 6 % 2
    vectors = RNG.normal(size=(30, 6))
    vectors[:, 0] += 9 * easy
    found = probes.predicted(np.stack([vectors, vectors]), easy, names, 3, 1.0, 0)
    assert (found == easy).mean() > 0.9
    # More folds than groups are as many as there are groups.
    split = probes.predicted(vectors[None], easy, names, 6, 1.0, 0)
    np.testing.assert_array_equal(probes.predicted(vectors[None], easy, names, 50, 1.0, 0), split)
    assert not probes.predicted(vectors[None], easy, ["a"] * 30, 3, 1.0, 0).any()


@pytest.mark.parametrize("width", [5, 300])
def test_a_probe_is_scikit_learns_on_the_standardised_vectors(width):
    """Check that fitting in the span of the prompts gives the predictions of a fit on the vectors themselves."""
    classes, groups = np.arange(60) % 4, np.arange(60) // 2
    vectors = RNG.normal(size=(2, 60, width)) + 0.5 * RNG.normal(size=(4, width))[classes]
    vectors[..., 0] = 7  # a constant dimension makes no difference
    fits = LogisticRegression(C=0.7, tol=1e-7, max_iter=10_000)
    folds = GroupKFold(5, shuffle=True, random_state=3)
    pipeline = make_pipeline(StandardScaler(), fits)  # fits both steps on the training folds only
    plain = [cross_val_predict(pipeline, x, classes, groups=groups, cv=folds) for x in vectors]
    np.testing.assert_array_equal(probes.predicted(vectors, classes, groups, 5, 0.7, 3), plain)


def test_a_prediction_of_a_probe_does_not_depend_on_other_prompts_of_its_fold():
    classes, groups = (np.arange(40) % 4 == 0).astype(int), np.arange(40) // 4
    vectors = RNG.normal(size=(1, 40, 6)) + 3 * classes[:, None]
    ((_, test), *_) = GroupKFold(5, shuffle=True, random_state=0).split(classes, groups=groups)
    changed = vectors.copy()
    changed[0, test[0]] += 1e4  # it would move the mean of each dimension far from the other prompts
    before, after = (probes.predicted(x, classes, groups, 5, 1.0, 0)[0, test[1:]] for x in (vectors, changed))
    assert len(set(before)) == 2
    np.testing.assert_array_equal(after, before)


@pytest.mark.parametrize("kinds", [2, 3])
def test_a_probe_agrees_with_the_plain_reference(kinds):
    classes, groups = np.arange(24) % kinds, np.arange(24) // 3
    vectors = RNG.normal(size=(24, 4)) + RNG.normal(size=(kinds, 4))[classes]
    vectors[:, 3] = 2.0
    found = probes.predicted(vectors[None], classes, groups, 4, 0.7, 1)[0]
    for train, test in GroupKFold(4, shuffle=True, random_state=1).split(classes, groups=groups):
        plain = reference.probe(vectors[train], classes[train].tolist(), vectors[test], 0.7)
        assert found[test].tolist() == plain


def test_a_probe_that_is_fitted_on_one_class_predicts_it():
    classes, groups = np.array([0, 0, 0, 1, 1, 1]), list("aaabbb")
    found = probes.predicted(RNG.normal(size=(2, 6, 3)), classes, groups, 2, 1.0, 0)
    np.testing.assert_array_equal(found, np.broadcast_to(1 - classes, (2, 6)))
