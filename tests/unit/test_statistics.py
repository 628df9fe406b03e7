import dataclasses

import numpy as np
import pandas as pd
import pytest
import scipy.special
import scipy.stats
from sklearn.metrics import roc_auc_score

from icl_lens.errors import InputError
from icl_lens.statistics import attention_auc, resampling
from icl_lens.statistics.resampling import Bootstrap

from ..coverage import coverage_of_means, table
from ..reference.deep_attention import auc_by_counting, one_versus_one


def scores_of(generator, classes, layers=4, prompts=40, ties=True):
    """Return scores that favour the predicted class (with many ties by default) and the predictions."""
    predicted = generator.integers(0, classes, prompts)
    scores = generator.random((layers, prompts, classes)) + 0.3 * (predicted[:, None] == np.arange(classes))
    return (np.round(scores, 1) if ties else scores) + 0.1, predicted


@pytest.mark.parametrize("ties", [True, False])
def test_the_auc_is_the_share_of_pairs_in_order(ties):
    scores, predicted = scores_of(np.random.default_rng(0), 2, ties=ties)
    expected = [auc_by_counting(row, predicted == 1) for row in scores[..., 1]]
    np.testing.assert_allclose(attention_auc.auc(scores[..., 1], predicted == 1), expected, rtol=1e-12)


def test_an_auc_without_both_kinds_is_missing():
    assert np.isnan(attention_auc.auc(np.ones((3, 4)), np.ones(4, dtype=bool))).all()
    assert np.isnan(attention_auc.auc(np.ones((3, 4)), np.zeros(4, dtype=bool))).all()
    assert attention_auc.auc(np.ones(4), np.array([True, False, True, False])) == 0.5


@pytest.mark.parametrize("classes", [2, 3, 4, 6])
@pytest.mark.parametrize("two_classes", ["normalised", "raw"])
def test_agreement_is_the_pairwise_average(classes, two_classes):
    scores, predicted = scores_of(np.random.default_rng(classes), classes)
    found = attention_auc.agreement(scores, predicted, two_classes)
    expected = [one_versus_one(row.tolist(), predicted.tolist(), two_classes == "raw") for row in scores]
    np.testing.assert_allclose(found.auc, expected, rtol=1e-12)
    assert found.kept == tuple(range(classes))


@pytest.mark.parametrize("classes", [3, 6])
def test_agreement_is_what_scikit_learn_computes(classes):
    scores, predicted = scores_of(np.random.default_rng(classes), classes)
    shares = scores / scores.sum(-1, keepdims=True)
    expected = [roc_auc_score(predicted, row, multi_class="ovo") for row in shares]
    np.testing.assert_allclose(attention_auc.agreement(scores, predicted).auc, expected, rtol=1e-12)


def test_with_two_classes_the_two_ways_differ_and_normalised_is_symmetric():
    scores, predicted = scores_of(np.random.default_rng(5), 2, ties=False)
    scores *= np.random.default_rng(6).random((4, 40, 1))  # the overall attention is independent of the class
    normalised, raw = (attention_auc.agreement(scores, predicted, way).auc for way in ("normalised", "raw"))
    assert not np.allclose(normalised, raw)
    np.testing.assert_allclose(attention_auc.agreement(scores[..., ::-1], 1 - predicted).auc, normalised, rtol=1e-12)


def test_classes_never_predicted_are_dropped_before_rows_are_normalised():
    scores, predicted = scores_of(np.random.default_rng(7), 6)
    predicted = np.array([0, 2, 5])[predicted % 3]
    found = attention_auc.agreement(scores, predicted)
    assert (found.kept, found.dropped) == ((0, 2, 5), (1, 3, 4))
    np.testing.assert_allclose(found.auc, [one_versus_one(row.tolist(), predicted.tolist()) for row in scores], rtol=1e-12)
    scores[..., [1, 3, 4]] = 1e6
    np.testing.assert_allclose(attention_auc.agreement(scores, predicted).auc, found.auc)


def test_one_predicted_class_has_no_curve():
    scores, _ = scores_of(np.random.default_rng(8), 4)
    found = attention_auc.agreement(scores, np.full(40, 2))
    assert np.isnan(found.auc).all()
    assert found.auc.shape == (4,)
    assert (found.kept, found.dropped) == ((2,), (0, 1, 3))


def test_rows_without_any_attention_prefer_no_class():
    scores, predicted = np.zeros((1, 4, 2)), np.array([0, 1, 0, 1])
    assert attention_auc.agreement(scores, predicted).auc.tolist() == [0.5]


def test_the_cumulative_share_ends_at_one_and_is_missing_without_a_signal():
    curve = np.array([0.5, 0.6, 0.7, 0.8])
    np.testing.assert_allclose(attention_auc.cumulative_share(curve), [0, 1 / 6, 3 / 6, 1])
    assert np.isnan(attention_auc.cumulative_share(np.full(4, 0.5))).all()
    assert np.isnan(attention_auc.cumulative_share(np.array([0.7, 0.3]))).all()
    assert np.isnan(attention_auc.cumulative_share(np.array([[0.5, np.nan], [0.5, 0.6]]))).any(1).tolist() == [True, False]


def test_attention_scores_follow_the_columns_and_not_the_order_of_rows():
    values = np.random.default_rng(0).random((3, 5, 2))  # (L, N, C)
    rows = pd.DataFrame(
        [
            {"prompt_id": 10 + n, "layer": layer, "class": c, "attention": values[layer, n, c]}
            for layer in range(3)
            for n in range(5)
            for c in range(2)
        ]
    ).sample(frac=1, random_state=0)
    np.testing.assert_array_equal(attention_auc.attention_scores(rows, [14, 10, 12]), values[:, [4, 0, 2]])
    with pytest.raises(InputError, match="lacks a requested prompt"):
        attention_auc.attention_scores(rows, [10, 99])
    with pytest.raises(InputError, match="duplicate rows"):
        attention_auc.attention_scores(pd.concat([rows, rows]), [10])


def test_the_mean_is_over_prompts_then_seeds_then_tasks():
    rows = pd.concat([table(np.array([[1.0, 1.0], [0.0, 0.0]])), table(np.array([[0.5, 0.25, 0.0]])).assign(task="other")])
    found = resampling.mean(rows, ["x"], Bootstrap(resamples=10))
    assert found.value == pytest.approx(np.mean([0.5, 0.25]))
    assert found.prompts == 7


def test_several_rows_of_a_prompt_count_as_one():
    rows = pd.concat([table([[0.0, 1.0]]), table([[1.0, 1.0]]).head(1)])
    found = resampling.mean(rows, ["x"], Bootstrap(resamples=10))
    assert (found.value, found.prompts) == (pytest.approx(0.75), 2)


def test_intervals_repeat_and_follow_the_plan():
    rows = table(np.random.default_rng(0).random((3, 20)))
    first = resampling.mean(rows, ["x"])
    again = resampling.mean(rows.sample(frac=1, random_state=1), ["x"])
    for name in ("low", "high", "prompts_low", "prompts_high"):
        assert getattr(first, name) == getattr(again, name)
    assert first.low < first.value < first.high
    assert first.prompts_low < first.value < first.prompts_high
    other = resampling.mean(rows, ["x"], Bootstrap(seed=1))
    assert first.prompts_low != other.prompts_low
    assert first.prompts_low == pytest.approx(other.prompts_low, abs=0.02)


def test_the_main_interval_is_students_t_interval_of_the_seeds():
    rows = table(np.random.default_rng(0).random((5, 20)) + np.arange(5)[:, None] / 10)
    means = rows.groupby("seed")["x"].mean()
    found = resampling.mean(rows, ["x"])
    half = scipy.stats.t.ppf(0.975, 4) * means.std() / np.sqrt(5)
    assert (found.low[0], found.high[0]) == pytest.approx((means.mean() - half, means.mean() + half))
    assert found.high - found.low > 2 * (found.prompts_high - found.prompts_low)
    assert found.sets == 5


def test_variances_of_tasks_are_added_with_satterthwaites_degrees_of_freedom():
    generator = np.random.default_rng(0)
    rows = table(generator.normal(size=(8, 10)) + np.repeat([0, 1], 4)[:, None] * generator.normal(size=(8, 1)), tasks=2)
    variances = rows.groupby(["task", "seed"])["x"].mean().groupby("task").var() / 4
    total = variances.sum() / 4
    freedom = total**2 / ((variances / 4) ** 2 / 3).sum()
    found = resampling.mean(rows, ["x"])
    assert found.high[0] - found.value[0] == pytest.approx(scipy.stats.t.ppf(0.975, freedom) * np.sqrt(total))


def crossed(seeds=6, texts=40, effect=2.0):
    """Return rows in which all seeds have the same texts, and texts differ more than seeds do."""
    generator = np.random.default_rng(0)
    rows = table(effect * generator.normal(size=texts) + generator.normal(size=(seeds, texts)))
    return rows.assign(query_index=rows["prompt_id"] % 1000)


def test_texts_that_recur_in_several_seeds_widen_the_interval():
    rows = crossed()
    found, as_distinct = resampling.mean(rows, ["x"]), resampling.mean(rows.drop(columns="query_index"), ["x"])
    matrix = rows.pivot(index="seed", columns="query_index", values="x").to_numpy()  # (S, T)
    seeds, texts = matrix.shape
    residual = matrix - matrix.mean(0) - matrix.mean(1, keepdims=True) + matrix.mean()
    of_residual = (residual**2).sum() / (seeds - 1) / (texts - 1)
    # The variance of the mean in a two-way layout with random seeds and texts, from its mean squares.
    expected = matrix.mean(1).var(ddof=1) / seeds + matrix.mean(0).var(ddof=1) / texts - of_residual / seeds / texts
    variance = found.left_out.var() * (seeds - 1) + found.over_texts[0].var() - found.over_texts[1].var()
    assert variance == pytest.approx(expected, rel=0.2)
    assert found.high - found.low > 1.5 * (as_distinct.high - as_distinct.low)
    some = rows[(rows["query_index"] < 20) | (rows["seed"] == 42)]  # texts recur in a part of the seeds
    partly, distinct = resampling.mean(some, ["x"]), resampling.mean(some.drop(columns="query_index"), ["x"])
    assert partly.high - partly.low > 1.2 * (distinct.high - distinct.low)


def test_prompts_with_their_own_demonstrations_are_demonstration_sets():
    rows = table(np.random.default_rng(0).random((1, 50)))
    assert np.isnan(resampling.mean(rows.assign(demonstrations=0), ["x"]).low)
    own = resampling.mean(rows.assign(demonstrations=rows["prompt_id"].replace({49: 48})), ["x"])  # two draws are equal
    assert own.sets == 50
    half = scipy.stats.t.ppf(0.975, 49) * rows["x"].std() / np.sqrt(50)
    assert own.high[0] - own.value[0] == pytest.approx(half, rel=0.1)


def test_few_prompts_with_their_own_demonstrations_have_the_variance_of_the_prompts_of_a_seed():
    rows = table(np.random.default_rng(0).random((10, 2)))
    own = resampling.mean(rows.assign(demonstrations=rows["prompt_id"]), ["x"], resampling.Bootstrap(resamples=20_000))
    variance = rows.groupby("seed")["x"].var().sum() / 2 / 10**2  # of each seed's mean, and of the mean of ten seeds
    half = scipy.stats.t.ppf(0.975, 10) * np.sqrt(variance)
    assert own.high[0] - own.value[0] == pytest.approx(half, rel=0.02)


def test_one_demonstration_set_has_no_interval_over_demonstration_sets():
    rows = pd.concat([table(np.random.default_rng(0).random((3, 20))), table([[0.1, 0.2, 0.3]]).assign(task="single")])
    found = resampling.mean(rows, ["x"])
    assert np.isnan([found.low, found.high]).all()
    assert found.prompts_low < found.prompts_high
    assert found.sets == 1


def test_estimates_of_different_prompts_are_not_subtracted():
    rows = table(np.random.default_rng(0).random((3, 20)))
    fewer = resampling.mean(rows[rows["prompt_id"] != 5], ["x"])
    with pytest.raises(ValueError, match="different prompts cannot be paired"):
        resampling.mean(rows, ["x"]) - fewer


def test_seeds_that_agree_by_chance_have_an_interval():
    rows = table([[True, True, True, True, False]] * 2)
    found = resampling.mean(rows, ["x"])
    assert found.value == 0.8
    assert found.high - found.low > found.prompts_high - found.prompts_low > 0.3


def test_an_interval_ends_where_the_values_end():
    rows = table(np.random.default_rng(0).random((4, 5)) < [[0.9], [0.9], [0.2], [0.9]])
    found = resampling.mean(rows, ["x"])
    unbounded = dataclasses.replace(found, bounds=None)
    assert unbounded.high > 1 > found.high > found.value > found.low > 0
    logit = scipy.special.logit
    half = (unbounded.high - unbounded.value) / found.value / (1 - found.value)
    assert logit(found.high) - logit(found.value) == pytest.approx(half)
    assert logit(found.value) - logit(found.low) == pytest.approx(half)
    assert (found - found).bounds == (-1.0, 1.0)
    assert found[0].bounds == (0.0, 1.0)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_an_interval_has_a_width_even_if_all_prompts_agree(value):
    found = resampling.mean(table(np.full((5, 20), bool(value))), ["x"])
    exact = scipy.stats.binomtest(round(100 * value), 100).proportion_ci(method="exact")
    assert (found.low[0], found.high[0]) == pytest.approx((exact.low, exact.high))
    difference = found - found
    width = exact.high - exact.low
    assert (difference.low[0], difference.high[0]) == pytest.approx((-width, width))
    noise = 1e-16 * np.arange(5)[:, None]
    rounded = dataclasses.replace(difference, value=difference.value + 1e-16, left_out=noise)
    assert rounded.high[0] == pytest.approx(width)


def test_rounding_does_not_take_the_width_of_an_interval_of_equal_values():
    found = resampling.mean(table(np.full((10, 21), 1 / 3)), ["x"], bounds=(0.0, 1.0))
    beyond = 1 - 0.025 ** (1 / 210)
    assert (found.low[0], found.high[0]) == pytest.approx((1 / 3 - beyond, 1 / 3 + beyond))


def test_clusters_of_prompts_are_resampled_together():
    rows = table(np.repeat(np.random.default_rng(0).random((2, 5)), 10, axis=1)).assign(
        order=lambda t: t["prompt_id"] % 1000 // 10
    )
    single, together = resampling.mean(rows, ["x"]), resampling.mean(rows, ["x"], cluster="order")
    assert together.prompts_high - together.prompts_low > 2 * (single.prompts_high - single.prompts_low)
    assert (single.low, single.value) == (together.low, together.value)


def test_degenerate_inputs_have_degenerate_intervals_or_are_refused():
    found = resampling.mean(table(np.full((2, 5), 0.4)), ["x"])
    assert found.low == pytest.approx(0.4)
    assert found.high == pytest.approx(0.4)
    single = resampling.mean(table([[0.3]]), ["x"])
    assert (single.prompts_low, single.value, single.prompts_high) == (pytest.approx(0.3),) * 3
    with pytest.raises(InputError, match="no rows to average: x"):
        resampling.mean(table([[0.3]]).head(0), ["x"])
    with pytest.raises(InputError, match="empty cells among x"):
        resampling.mean(table([[0.3, np.nan]]), ["x"])


def binomial_margin(runs, share=0.95):
    """Return three standard errors of a share observed in ``runs`` simulations."""
    return 3 * np.sqrt(share * (1 - share) / runs)


def test_an_interval_holds_the_mean_over_test_texts_as_often_as_it_says():
    share = coverage_of_means(300, seeds=5, prompts=50, between=1.0, truth="these seeds")
    # The interval is slightly too narrow: resampling n prompts gives (n - 1) / n of the variance, and the data are skewed.
    assert 0.95 - binomial_margin(300) - 0.01 <= share <= 0.95 + binomial_margin(300)


@pytest.mark.parametrize("text_effect", [0.0, 1.0])
def test_the_main_interval_covers_the_mean_over_demonstration_sets_and_texts_at_its_level(text_effect):
    share = coverage_of_means(200, seeds=10, prompts=20, between=0.5, truth="all", text_effect=text_effect)
    assert 0.95 - binomial_margin(200) - 0.02 <= share <= 0.95 + binomial_margin(200)


def test_a_difference_on_the_same_prompts_is_paired():
    generator = np.random.default_rng(0)
    base = generator.normal(size=(5, 100))
    shared = table(base)
    better = table(base + 0.1 + 0.01 * generator.normal(size=base.shape))
    plan = Bootstrap(resamples=500)
    first, second = (resampling.mean(rows, ["x"], plan) for rows in (shared, better))
    difference = second - first
    assert difference.value == pytest.approx(0.1, abs=0.005)
    assert difference.high - difference.low < 0.01 < (first.high - first.low) / 5


def deep_rows(generator, seeds=(42, 43), prompts=60, classes=3, layers=2, signal=0.5, tasks=("a",)):
    scores, predictions = [], []
    for task in tasks:
        for seed in seeds:
            predicted = generator.integers(0, classes, prompts)
            values = generator.random((layers, prompts, classes))
            values[1:] += signal * (predicted[:, None] == np.arange(classes))
            for n in range(prompts):
                key = {"task": task, "seed": seed, "prompt_id": 1000 * seed + n}
                predictions.append({**key, "prediction": predicted[n]})
                scores += [
                    {**key, "layer": layer, "class": c, "attention": values[layer, n, c]}
                    for layer in range(layers)
                    for c in range(classes)
                ]
    return pd.DataFrame(scores), pd.DataFrame(predictions)


def test_the_curve_is_the_mean_of_the_seeds_curves_with_an_interval_around_it():
    scores, predictions = deep_rows(np.random.default_rng(0))
    found, report = attention_auc.auc_curve(scores, predictions)
    curves = []
    for _, part in predictions.groupby("seed"):
        matrix = attention_auc.attention_scores(scores[scores["seed"] == part["seed"].iloc[0]], part["prompt_id"])
        curves.append(attention_auc.agreement(matrix, part["prediction"]).auc)
    np.testing.assert_allclose(found.value, np.mean(curves, axis=0))
    assert found.value[1] > 0.6 > found.value[0]
    assert (found.low < found.value).all()
    assert (found.value < found.high).all()
    assert not np.isnan(found.over_prompts).any()
    assert report["prompts"].tolist() == [60, 60]
    share = found.apply(attention_auc.cumulative_share)
    assert share.value[-1] == share.low[-1] == share.high[-1] == 1.0


def test_resampled_curves_are_those_of_the_resampled_prompts():
    scores, predictions = deep_rows(np.random.default_rng(3), seeds=(42,), prompts=25)
    scores["attention"] = scores["attention"].round(1)  # ties
    plan = Bootstrap(resamples=6)
    found, _ = attention_auc.auc_curve(scores, predictions, plan)
    matrix = attention_auc.attention_scores(scores, predictions["prompt_id"])
    predicted = predictions["prediction"].to_numpy()
    for weights, curve in zip(plan.prompt_weights("a", 42, 25).astype(int), found.over_prompts, strict=True):
        drawn = np.repeat(np.arange(25), weights)
        expected = [one_versus_one(layer[drawn].tolist(), predicted[drawn].tolist()) for layer in matrix]
        np.testing.assert_allclose(curve, expected, rtol=1e-12)


def with_third_seed(scores, predictions):
    """Add a copy of seed 42 as seed 44."""
    copied = predictions[predictions["seed"] == 42].assign(seed=44, prompt_id=lambda t: t["prompt_id"] + 10_000)
    of_copied = scores[scores["prompt_id"].isin(copied["prompt_id"] - 10_000)].assign(
        prompt_id=lambda t: t["prompt_id"] + 10_000
    )
    return pd.concat([scores, of_copied]), pd.concat([predictions, copied])


def test_a_seed_that_predicts_one_class_is_left_out_and_said_to_be():
    scores, predictions = deep_rows(np.random.default_rng(0), tasks=("a", "b"))
    found, _ = attention_auc.auc_curve(scores[scores["seed"] == 42], predictions[predictions["seed"] == 42])
    predictions.loc[predictions["seed"] == 43, "prediction"] = 1
    with_missing, report = attention_auc.auc_curve(scores, predictions)
    np.testing.assert_allclose(with_missing.value, found.value)
    assert report.set_index(["task", "seed"])["missing"].to_dict() == {
        ("a", 42): False,
        ("a", 43): True,
        ("b", 42): False,
        ("b", 43): True,
    }
    assert report["dropped"].tolist() == [0, 2, 0, 2]
    three, _ = attention_auc.auc_curve(*with_third_seed(scores, predictions))
    assert (three.groups, three.columns()["sets"].tolist()) == ((3, 3), [2, 2]), "seeds without a value do not count"
    predictions["prediction"] = 1
    nothing, _ = attention_auc.auc_curve(scores, predictions)
    assert np.isnan(nothing.value).all()
    assert np.isnan(nothing.low).all()
    assert np.isnan(nothing.over_prompts).all()
    assert np.isnan(nothing.apply(attention_auc.cumulative_share).value).all()


def test_an_interval_of_a_curve_holds_the_true_auc_as_often_as_it_says():
    # Scores are exponential, with mean 2 for the right class and mean 1 for the other class. The raw AUC is 2 / 3.
    generator, hits, runs = np.random.default_rng(2), 0, 200
    for _ in range(runs):
        predicted = np.arange(100) % 2
        second = generator.exponential(1 + predicted)
        ids = pd.DataFrame({"task": "a", "seed": 42, "prompt_id": np.arange(100)})
        scores = pd.concat([ids.assign(layer=0, **{"class": c, "attention": v}) for c, v in ((0, 1.0), (1, second))])
        plan = Bootstrap(resamples=400)
        found, _ = attention_auc.auc_curve(scores, ids.assign(prediction=predicted), plan, "raw")
        hits += bool(found.prompts_low[0] <= 2 / 3 <= found.prompts_high[0])
    assert 0.95 - binomial_margin(runs) - 0.01 <= hits / runs <= 0.95 + binomial_margin(runs)


def test_a_prompt_without_scores_or_twice_is_refused():
    scores, predictions = deep_rows(np.random.default_rng(0))
    with pytest.raises(InputError, match="lacks a requested prompt"):
        attention_auc.auc_curve(scores[scores["prompt_id"] != 42003], predictions)
    with pytest.raises(InputError, match="have no prompt of task a"):
        attention_auc.auc_curve(scores.assign(task="b"), predictions)
    with pytest.raises(InputError, match="duplicate prompts in the icl rows"):
        attention_auc.auc_curve(scores, pd.concat([predictions, predictions]))


@pytest.mark.filterwarnings("error")
def test_shares_of_a_sum_of_nothing_are_not_known():
    rows = pd.DataFrame({"task": "sst2", "seed": 1, "prompt_id": [0, 1], "a": 0.0, "b": 0.0, "c": [1.0, 2.0], "d": [3.0, 2.0]})
    found = resampling.shares(rows, [["a", "b"], ["c", "d"]])
    assert np.isnan(found.value[0]).all()
    assert found.value[1] == pytest.approx([3 / 8, 5 / 8])
    assert np.isnan(found.low[0]).all()


def test_the_mean_over_tasks_of_statistics_of_all_prompts_is_that_of_means():
    generator = np.random.default_rng(0)
    rows = pd.DataFrame(
        {
            "task": np.repeat(["a", "b"], 60),
            "seed": np.tile(np.repeat([1, 2, 3], 20), 2),
            "prompt_id": np.tile(np.arange(60), 2),
            "query_index": generator.integers(0, 30, 120),
            "value": generator.normal(size=120),
        }
    )
    plan = Bootstrap(resamples=200)
    expected = resampling.mean(rows, ["value"], plan)
    estimates = []
    for _, part in rows.groupby("task"):
        values = part["value"].to_numpy()
        units = part.set_index(resampling.unit_index(rows))
        estimates.append(resampling.of_weights(units, lambda w, v=values: (w @ v / w.sum(1))[:, None], plan))
    found = resampling.over_tasks(estimates)
    assert found.value == pytest.approx(expected.value)
    assert found.left_out == pytest.approx(expected.left_out)
    assert found.groups == expected.groups == (3, 3)
    assert found.prompts == 120
    assert [found.low[0], found.high[0]] == pytest.approx([expected.low[0], expected.high[0]], rel=0.1)


def test_a_task_with_one_seed_leaves_the_mean_over_tasks_without_an_interval():
    plan = Bootstrap(resamples=20)
    estimates = []
    for task, seeds in (("a", [1, 1, 2, 2]), ("b", [1, 1, 1, 1])):
        units = pd.DataFrame({"task": task, "seed": seeds, "prompt_id": range(4)}).set_index(list(resampling.UNIT))
        values = np.arange(4.0)
        estimates.append(resampling.of_weights(units, lambda w, v=values: w @ v / w.sum(1), plan))
    found = resampling.over_tasks(estimates)
    assert found.value == 1.5
    assert np.isnan([found.low, found.high]).all()
