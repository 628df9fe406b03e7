import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import recall_score

from icl_lens.errors import InputError
from icl_lens.statistics.answers import (
    accuracy,
    balanced,
    majority_baseline,
    scores,
    unbalanced_notes,
    unsolved_note,
    with_gold,
)
from icl_lens.statistics.resampling import OVER_TASKS, Bootstrap, mean


def table(task, gold, prediction, classes=None, seeds=(42, 43)):
    """Return the same answers for each seed."""
    rows = [
        {"model": "m", "set": "s", "task": task, "seed": seed, "prompt_id": 1000 * seed + n, "gold": g, "prediction": p}
        | ({"class_log_probs": [0.0] * classes} if classes else {})
        for seed in seeds
        for n, (g, p) in enumerate(zip(gold, prediction, strict=True))
    ]
    return pd.DataFrame(rows)


def emoc(predicted_as_others=5):
    """Return answers to 85 texts of class 0 and 5 texts of each other class; those of the other classes are correct."""
    gold = [0] * 85 + [1] * 5 + [2] * 5 + [3] * 5
    wrong = [1 + n % 3 for n in range(85 - predicted_as_others)]
    return table("emoc", gold, [0] * predicted_as_others + wrong + gold[85:], classes=4)


def test_accuracy_has_balanced_accuracy_and_majority_baseline_and_tasks_have_equal_weight():
    rows = pd.concat([table("a", [0, 0, 0, 1], [0, 0, 0, 1]), table("b", [1, 0], [0, 0])])
    found = accuracy(rows).set_index("task")
    assert found["accuracy"].to_dict() == {"a": 1, "b": 0.5, OVER_TASKS: 0.75}
    assert found["balanced_accuracy"].to_dict() == {"a": 1, "b": 0.5, OVER_TASKS: 0.75}
    assert found["majority_baseline"].to_dict() == {"a": 0.75, "b": 0.5, OVER_TASKS: 0.625}
    assert found["majority_predicted"].to_dict() == {"a": 0.75, "b": 1, OVER_TASKS: 0.875}
    assert found["chance"].to_dict() == {"a": 0.5, "b": 0.5, OVER_TASKS: 0.5}
    assert unsolved_note(accuracy(rows), "So there.") == ["Accuracy is at or below the majority baseline: b (m). So there."]
    assert unsolved_note(accuracy(rows[rows["task"] == "a"]), "So there.") == []


def test_always_the_majority_class_has_the_balanced_accuracy_of_chance():
    gold = np.repeat(np.arange(4), [85, 5, 5, 5])
    (row,) = accuracy(table("emoc", gold, 0 * gold, classes=4)).query("task == 'emoc'").itertuples()
    assert (row.accuracy, row.majority_baseline) == (0.85, 0.85)
    assert (row.balanced_accuracy, row.chance, row.majority_predicted) == (0.25, 0.25, 1)
    assert row.balanced_accuracy_low < 0.25 < row.balanced_accuracy_high


def test_balanced_accuracy_is_the_mean_recall_over_the_classes_of_each_sample():
    draw = np.random.default_rng(0)
    gold, predictions = draw.integers(0, 3, 40), draw.integers(0, 4, (40, 2))
    gold[gold == 1] = 3  # a class without texts
    correct = predictions == gold[:, None]
    expected = [recall_score(gold, p, labels=[0, 2, 3], average="macro") for p in predictions.T]
    assert balanced(correct, gold) == pytest.approx(expected)
    drawn = draw.integers(0, 40, 40)
    weights = np.bincount(drawn, minlength=40)[None].astype(float)
    expected = [recall_score(gold[drawn], p[drawn], labels=[0, 2, 3], average="macro") for p in predictions.T]
    assert balanced(correct, gold, weights)[0] == pytest.approx(expected)
    # A sample without a text of a class has the mean over the others.
    weights = (gold != 2).astype(float)[None]
    expected = [np.mean([correct[gold == c, m].mean() for c in (0, 3)]) for m in (0, 1)]
    assert balanced(correct, gold, weights)[0] == pytest.approx(expected)


def test_scores_are_means_over_seeds_then_tasks():
    draw = np.random.default_rng(1)
    rows = pd.concat(
        [table(task, draw.integers(0, 2, n), draw.integers(0, 2, n), seeds=(seed,)) for task, n in (("a", 30), ("b", 9))
         for seed in (1, 2)]
    )  # fmt: skip
    rows["right"] = rows["gold"] == rows["prediction"]
    plan = Bootstrap(resamples=50)
    found, expected = scores(rows, ["right"], plan), mean(rows, ["right"], plan)
    assert found.value[0] == pytest.approx(expected.value)
    assert found.low[0] == pytest.approx(expected.low)
    by_seed = rows.groupby(["task", "seed"]).apply(
        lambda part: recall_score(part["gold"], part["prediction"], average="macro"), include_groups=False
    )
    assert found.value[1, 0] == pytest.approx(by_seed.groupby("task").mean().mean())
    assert found.low[1, 0] < found.value[1, 0] < found.high[1, 0]
    # Several rows of a prompt, such as draws, do not count as several prompts.
    twice = pd.concat([rows, rows.assign(right=False)])
    assert scores(twice, ["right"], plan).value == pytest.approx(found.value / 2)
    assert scores(twice, ["right"], plan).prompts == 78


def test_scores_reject_missing_values_and_an_empty_table():
    rows = table("a", [0, 1], [0, 1]).assign(right=[1.0, None, 0.0, 1.0])
    with pytest.raises(InputError, match="empty cells among gold, right"):
        scores(rows, ["right"])
    with pytest.raises(InputError, match="no rows to average: right"):
        scores(rows.iloc[:0], ["right"])


def test_a_low_accuracy_on_an_unbalanced_test_set_has_a_note_with_its_balanced_accuracy():
    found = accuracy(emoc())
    fact = (
        "emoc (m): accuracy 0.20, majority baseline 0.85; balanced accuracy 0.76, chance 0.25; 5 % of the predictions are the "
        "majority class."
    )
    assert unbalanced_notes(found) == [fact]
    # The balanced accuracy is above chance, so the model does solve the task, and the consequence does not apply.
    assert unsolved_note(found, "There, nothing is explained.") == [fact]


def test_a_balanced_accuracy_at_chance_level_is_unsolved():
    gold = np.repeat(np.arange(4), [85, 5, 5, 5])
    found = accuracy(table("emoc", gold, 0 * gold + 1, classes=4))
    first, fact = unsolved_note(found, "So there.")
    assert first == "Accuracy is at or below the majority baseline: emoc (m). So there."
    assert fact.startswith("emoc (m): accuracy 0.05, majority baseline 0.85; balanced accuracy 0.25, chance 0.25; 0 % of")


def test_a_balanced_test_set_has_no_note():
    assert unbalanced_notes(accuracy(table("sst2", [0, 1] * 20, [1, 0] * 20, classes=2))) == []


def test_the_majority_baseline_does_not_depend_on_the_number_of_draws():
    rows = pd.concat([table("a", [0, 0, 0, 1], [0] * 4), table("b", [1, 0], [0, 0])])
    assert majority_baseline(rows) == majority_baseline(pd.concat([rows, rows])) == 0.625


def test_gold_labels_come_from_the_answers_to_the_same_prompts():
    answers = table("a", [0, 1], [0, 0])
    rows = pd.concat([answers, answers])[["model", "set", "task", "seed", "prompt_id"]].iloc[::-1]
    assert with_gold(rows, answers)["gold"].tolist() == [1, 0] * 4
    with pytest.raises(InputError, match="the icl table of m on a, s, lacks prompt 43001 of seed 43"):
        with_gold(rows, answers.iloc[:3])
