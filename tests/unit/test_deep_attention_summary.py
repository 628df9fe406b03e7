"""Tests of the curves of deep attention in figures, against step-by-step calculations without scikit-learn."""

import numpy as np
import pandas as pd
import pytest

from icl_lens.statistics.attention_auc import auc
from icl_lens.statistics.resampling import OVER_TASKS, Bootstrap
from icl_lens.studies.anchors.deep_attention.summary import summarise


@pytest.fixture
def tables():
    """Scores and predictions of two classes, for two tasks and two seeds.

    In the task "flat", all predictions of one seed are one class, and a third class is never predicted.
    """
    generator = np.random.default_rng(1)
    scores, predictions = [], []
    for task, classes in (("flat", 3), ("sst2", 2)):
        for seed in (42, 43):
            for number in range(40):
                key = {"model": "m", "set": "s", "task": task, "seed": seed, "prompt_id": 100 * seed + number}
                predicted = 0 if (task, seed) == ("flat", 43) else number % 2
                predictions.append({**key, "prediction": predicted})
                for layer in range(3):
                    for c in range(classes):
                        attention = generator.random() + layer * 0.5 * (c == predicted)
                        scores.append({**key, "layer": layer, "class": c, "attention": attention})
    return pd.DataFrame(scores), pd.DataFrame(predictions)


def test_curves_are_means_of_each_seeds_auc(tables):
    scores, predictions = tables
    curves, _ = summarise(*tables, Bootstrap(resamples=100))
    curves = curves.set_index(["task", "two_classes", "metric", "layer"])
    for way in ("normalised", "raw"):
        by_task = {}
        for task, seeds in (("flat", [42]), ("sst2", [42, 43])):
            of_seeds = []
            for seed in seeds:
                answered = predictions[(predictions["task"] == task) & (predictions["seed"] == seed)]
                rows = scores[(scores["task"] == task) & (scores["seed"] == seed)]
                wide = rows.pivot(index="prompt_id", columns=["layer", "class"], values="attention")
                positive = answered.set_index("prompt_id")["prediction"].reindex(wide.index).to_numpy() == 1
                second = np.stack([wide[layer, 1] for layer in range(3)])
                if way == "normalised":
                    second /= np.stack([wide[layer, 0] + wide[layer, 1] for layer in range(3)])
                of_seeds.append(auc(second, positive))
            by_task[task] = np.mean(of_seeds, axis=0)
            for layer in range(3):
                shown = curves.loc[task, way, "auc", layer]
                assert shown["value"] == pytest.approx(by_task[task][layer], abs=1e-12)
        mean = (by_task["flat"] + by_task["sst2"]) / 2
        excess = np.cumsum(mean - 0.5)
        for layer in range(3):
            assert curves.loc[OVER_TASKS, way, "auc", layer]["value"] == pytest.approx(mean[layer])
            assert curves.loc[OVER_TASKS, way, "r", layer]["value"] == pytest.approx(excess[layer] / excess[-1])
    both = curves.loc["sst2"]
    assert (both["low"] <= both["high"]).all()
    # The task "flat" has one seed with an AUC, so nothing is known about other demonstration sets.
    assert curves.loc[["flat", OVER_TASKS], ["low", "high"]].isna().all(axis=None)


def test_what_is_missing_or_dropped_is_counted(tables):
    curves, report = summarise(*tables, Bootstrap(resamples=20))
    assert report[report["missing"]][["task", "seed"]].values.tolist() == [["flat", 43]]
    counts = curves.drop_duplicates("task").set_index("task")
    assert counts["seeds_missing"].to_dict() == {OVER_TASKS: 1, "flat": 1, "sst2": 0}
    assert counts["prompts"].to_dict() == {OVER_TASKS: 120, "flat": 40, "sst2": 80}
    assert counts["classes_dropped"].to_dict() == {OVER_TASKS: 3, "flat": 3, "sst2": 0}


def test_nothing_that_can_be_measured_is_empty_cells_and_no_error(tables):
    scores, predictions = tables
    curves, report = summarise(scores, predictions.assign(prediction=1), Bootstrap(resamples=20))
    assert report["missing"].all()
    assert curves[["value", "low", "high"]].isna().all(axis=None)
    assert (curves["prompts"] == 0).all()
