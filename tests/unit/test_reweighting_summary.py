import numpy as np
import pandas as pd
import pytest

from icl_lens.statistics.resampling import OVER_TASKS
from icl_lens.studies.anchors.reweighting.study import METHODS
from icl_lens.studies.anchors.reweighting.summary import DIFFERENCE, _macro_f1, shares, summarise


def table(task, classes, golds, predictions, shots=(1, 5, 1)):
    """Return rows of two seeds; ``predictions`` maps each method to its predictions."""
    rows = []
    for seed in (42, 43):
        for number, gold in enumerate(golds):
            for method, k in zip(METHODS, shots, strict=True):
                rows.append(
                    {
                        "model": "m", "task": task, "seed": seed, "prompt_id": 100 * seed + number, "method": method,
                        "shots": k,
                        "gold": gold, "prediction": predictions[method][number], "class_log_probs": [-1.0] * classes,
                    }
                )  # fmt: skip
    return pd.DataFrame(rows)


def two_tasks():
    one = table("sst2", 2, [0, 1, 1, 1], {"vanilla": [0, 0, 0, 1], "few_shot": [0, 1, 1, 0], "reweighted": [0, 1, 1, 1]})
    other = table("emoc", 4, [0, 0, 1, 3], {m: [0, 0, 0, 0] for m in METHODS}, shots=(1, 3, 1))
    return pd.concat([one, other])


@pytest.mark.filterwarnings("error")
def test_macro_f1_is_computed_over_the_classes_that_are_present():
    rows = pd.DataFrame({"seed": 1, "gold": [0, 0, 0, 2, 2, 3], "prediction": [0, 0, 1, 2, 0, 3]})
    # F1 of class 0: precision 2/3, recall 2/3. F1 of class 2: precision 1, recall 1/2. F1 of class 3: 1. Class 1 has no text.
    assert _macro_f1(rows) == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)
    rows = pd.DataFrame({"seed": 1, "gold": [0] * 90 + [1] * 5 + [2] * 5, "prediction": 0})
    assert _macro_f1(rows) == pytest.approx(2 * 90 / 190 / 3)


def test_accuracies_intervals_and_the_paired_difference():
    found = summarise(two_tasks(), {"sst2": 2, "emoc": 4}).set_index(["task", "method"])
    assert found.index.tolist() == [(task, m) for task in ("sst2", "emoc", OVER_TASKS) for m in (*METHODS, DIFFERENCE)]
    assert found.loc[("sst2", "vanilla"), "accuracy"] == 0.5
    assert found.loc[("sst2", "reweighted"), "accuracy"] == 1
    assert found.loc[("sst2", DIFFERENCE), "accuracy"] == 0.5
    assert 0 < found.loc[("sst2", DIFFERENCE), "prompts_low"] < 0.5 < found.loc[("sst2", DIFFERENCE), "prompts_high"] < 1
    assert found.loc[(OVER_TASKS, "few_shot"), "accuracy"] == pytest.approx((0.75 + 0.5) / 2)
    assert found.loc[(OVER_TASKS, "few_shot"), "shots"] == "3 to 5"
    assert found.loc[("emoc", "few_shot"), "shots"] == "3"
    assert found.loc[("emoc", "vanilla"), "balanced_accuracy"] == pytest.approx(1 / 3)
    assert found.loc[(OVER_TASKS, "reweighted"), "balanced_accuracy"] == pytest.approx((1 + 1 / 3) / 2)
    assert found.loc[(OVER_TASKS, DIFFERENCE), "balanced_accuracy"] == pytest.approx((1 - 2 / 3) / 2)
    assert (found["balanced_accuracy_low"] <= found["balanced_accuracy"] + 1e-12).all()
    assert (found["balanced_accuracy_high"] >= found["balanced_accuracy"] - 1e-12).all()
    balanced = found.loc[("sst2", DIFFERENCE)]
    assert (
        balanced["balanced_accuracy_prompts_low"] < balanced["balanced_accuracy"] < balanced["balanced_accuracy_prompts_high"]
    )
    assert balanced["balanced_accuracy_replicates"].value == balanced["balanced_accuracy"]
    assert found.xs(DIFFERENCE, level="method")["majority_baseline"].isna().all()
    assert found["absent"].unstack()["vanilla"].to_dict() == {"sst2": "0 of 4", "emoc": "2 of 8", OVER_TASKS: "2 of 12"}
    assert found.loc[(OVER_TASKS, "vanilla"), "majority_baseline"] == pytest.approx((0.75 + 0.5) / 2)
    assert found.loc[(OVER_TASKS, "vanilla"), "prompts"] == 16


def test_shares_of_answers_sum_to_one_beside_the_gold_labels():
    found = shares(two_tasks())
    assert np.allclose(found.groupby(["task", "method"])["share"].sum(), 1)
    of_emoc = found[found["task"] == "emoc"].pivot(index="method", columns="class", values="share")
    assert of_emoc.loc["gold"].tolist() == [0.5, 0.25, 0, 0.25]
    assert of_emoc.loc["reweighted"].tolist() == [1, 0, 0, 0]
