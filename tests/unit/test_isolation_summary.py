"""Tests of the loyalties that the figures show, against means computed one by one."""

import itertools

import numpy as np
import pandas as pd
import pytest

from icl_lens.errors import InputError
from icl_lens.statistics.resampling import OVER_TASKS, Bootstrap
from icl_lens.studies.anchors.isolation.summary import DIFFERENCE, METRICS, summarise


@pytest.fixture
def rows():
    """Return rows for two tasks of unequal size and two seeds.

    The rows cover label words and two draws of random tokens, in one and in two layers.
    """
    generator = np.random.default_rng(0)
    found = []
    for task, prompts in (("sst2", 30), ("trec", 10)):
        for seed, number in itertools.product((42, 43), range(prompts)):
            for target, draw in (("label", 0), ("random", 0), ("random", 1)):
                for side, layers in itertools.product(("first", "last"), (1, 2)):
                    key = {"model": "m", "set": "s", "task": task, "seed": seed, "prompt_id": 100 * seed + number}
                    key |= {"order": number % 10}
                    condition = {"target": target, "side": side, "layers": layers, "draw": draw, "prediction": 0}
                    loyal = {"label_agrees": generator.random() < (0.4 if target == "label" and side == "first" else 0.9)}
                    words = {f"word_jaccard_{size}": generator.random() for size in (5, 10)}
                    found.append({**key, **condition, **loyal, **words})
    return pd.DataFrame(found)


def average(rows, metric):
    """Return the mean over prompts, then seeds, then tasks, as in the paper."""
    tasks = []
    for task in sorted(set(rows["task"])):
        of_task = rows[rows["task"] == task]
        seeds = [of_task[of_task["seed"] == seed][metric].mean() for seed in (42, 43)]
        tasks.append(sum(seeds) / len(seeds))
    return sum(tasks) / len(tasks)


@pytest.fixture
def summary(rows):
    return summarise(rows, Bootstrap(resamples=300)).set_index(["task", "target", "side", "layers", "metric"])


def test_every_mean_is_the_papers(rows, summary):
    for target, side, layers, metric in itertools.product(("label", "random"), ("first", "last"), (1, 2), METRICS):
        part = rows[(rows["target"] == target) & (rows["side"] == side) & (rows["layers"] == layers)]
        for task, chosen in ((OVER_TASKS, part), ("trec", part[part["task"] == "trec"])):
            shown = summary.loc[task, target, side, layers, METRICS[metric]]
            assert shown["value"] == pytest.approx(average(chosen, metric), abs=1e-12)
            assert shown["low"] - 1e-9 < shown["value"] < shown["high"] + 1e-9  # the two seeds can have equal values
            assert shown["prompts_low"] < shown["value"] < shown["prompts_high"]
            assert shown["prompts"] == {OVER_TASKS: 80, "trec": 20}[task]  # draws do not count as prompts
            draws = [average(chosen[chosen["draw"] == draw], metric) for draw in sorted(set(chosen["draw"]))]
            assert shown[["lowest_draw", "highest_draw"]].tolist() == pytest.approx([min(draws), max(draws)])
            assert shown["draws"] == len(draws)
            assert shown["orders"] == 10


def test_the_difference_is_paired(rows, summary):
    one = ("first", 1, "label_loyalty")
    difference = summary.loc[OVER_TASKS, DIFFERENCE, *one]
    label, random = summary.loc[OVER_TASKS, "label", *one], summary.loc[OVER_TASKS, "random", *one]
    assert difference["value"] == pytest.approx(label["value"] - random["value"])
    assert difference["high"] < 0
    # Two conditions that agree on each prompt do not differ in any resample.
    same = rows[rows["target"] == "label"]
    paired = summarise(pd.concat([same, same.assign(target="random")]))
    paired = paired[paired["target"] == DIFFERENCE]
    assert len(paired) == 3 * 2 * 2 * 3  # tasks and their mean, sides, layers, metrics
    assert (paired[["value", "prompts_low", "prompts_high"]] == 0).all(axis=None)


def orders_that_differ(orders, prompts=60, seeds=20):
    """Return rows in which the random control depends only on the order: the first half of all orders changes the label."""
    found = []
    for seed, number in itertools.product(range(seeds), range(prompts)):
        key = {"model": "m", "set": "s", "task": "sst2", "seed": seed, "prompt_id": prompts * seed + number}
        key |= {"side": "first", "layers": 1, "draw": 0, "prediction": 0, "order": number % orders}
        key |= {"word_jaccard_5": 1.0, "word_jaccard_10": 1.0}
        found.append({**key, "target": "label", "label_agrees": False})
        found.append({**key, "target": "random", "label_agrees": number % orders < orders // 2})
    return pd.DataFrame(found)


@pytest.mark.parametrize("target", ["random", DIFFERENCE])
def test_the_interval_over_prompts_resamples_orders(target):
    widths = {}
    for orders in (10, 60):
        summary = summarise(orders_that_differ(orders)).set_index(["task", "target", "metric"])
        shown = summary.loc["sst2", target, "label_loyalty"]
        assert abs(shown["value"]) == 0.5
        widths[orders] = shown["prompts_high"] - shown["prompts_low"]
    # 60 prompts with 10 orders have the interval of 10 independent prompts per seed.
    assert widths[10] == pytest.approx(2 * 1.96 * 0.5 / np.sqrt(10 * 20), rel=0.1)
    assert widths[60] == pytest.approx(2 * 1.96 * 0.5 / np.sqrt(60 * 20), rel=0.1)


def test_prompts_with_different_demonstrations_have_no_order_in_common():
    rows = orders_that_differ(10)
    separate = summarise(rows.assign(demonstrations=rows["prompt_id"]))
    assert (separate["orders"] == 60).all()


def test_without_a_control_there_is_no_difference(rows):
    assert set(summarise(rows[rows["target"] == "label"])["target"]) == {"label"}


def test_models_stay_apart(rows):
    two = summarise(pd.concat([rows, rows.assign(model="n", label_agrees=True)]))
    assert (two[(two["model"] == "n") & (two["metric"] == "label_loyalty") & (two["target"] == "label")]["value"] == 1).all()
    assert len(two[two["model"] == "m"]) == len(two) / 2


def test_a_prompt_that_lacks_a_condition_is_told(rows):
    with pytest.raises(InputError, match="empty cells"):
        summarise(rows.drop(index=rows[rows["target"] == "label"].index[0]))
