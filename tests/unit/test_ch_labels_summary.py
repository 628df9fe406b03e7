"""Tests of the results of label conditions that the figures show, on invented tables, and of the claims about them."""

import numpy as np
import pandas as pd
import pytest

from icl_lens import resources
from icl_lens.report import claims
from icl_lens.statistics.resampling import OVER_TASKS, Bootstrap
from icl_lens.studies.challenges.ch_labels.study import CONDITIONS, ISOLATED
from icl_lens.studies.challenges.ch_labels.summary import CONTRAST, METRICS, flows, notes_of_conditions, summarise

PLAN = Bootstrap(resamples=200)


def table(tasks=("sst2",), seeds=(0, 1, 2), queries=4, conditions=None, **values):
    """Return a table of the study, in which ``values`` maps a column to a function of (condition, draw, query)."""
    listed = conditions or [
        ("none", 0),
        ("gold", 0),
        ("inverted", 0),
        ("random", 0),
        ("random", 1),
        ("one", 0),
        ("one", 1),
        ("words", 0),
    ]
    defaults = {
        "gold": lambda name, draw, query: query % 2,
        "shown": lambda name, draw, query: {"none": -1, "inverted": 1 - query % 2, "one": draw}.get(name, query % 2),
        "zero_shot": lambda name, draw, query: 0,
        "prediction": lambda name, draw, query: query % 2,
        "calibrated": lambda name, draw, query: query % 2,
        "log_probs": lambda name, draw, query: np.log([0.4, 0.2]),
        "shown_mass": lambda name, draw, query: 0.0 if name == "none" else 0.6,
        "own_mass": lambda name, draw, query: 0.1,
        "gold_share": lambda name, draw, query: 1.0,
        "s_wp": lambda name, draw, query: [] if name == "none" or query else [3.0, 1.0],
        "s_pq": lambda name, draw, query: [] if name == "none" or query else [1.0, 3.0],
        "s_ww": lambda name, draw, query: [] if name == "none" or query else [0.0, 0.0],
        "isolated_agrees": lambda name, draw, query: [] if name == "none" or query else [0, 1, 1, 1],
        "isolated_overlap": lambda name, draw, query: [] if name == "none" or query else [0.25, 1.0, 1.0, 1.0],
    }
    defaults |= {f"shown_{name}": defaults[name] for name in ("s_wp", "s_pq", "s_ww")}
    rows = []
    for task in tasks:
        for seed in seeds:
            for query in range(queries):
                for name, draw in listed:
                    row = {"model": "m", "set": "shared-1shot", "task": task, "seed": seed, "prompt_id": 10 * seed + query}
                    row |= {"query_index": 10 * seed + query, "demonstrations": 0, "condition": name, "draw": draw}
                    rows.append({**row, **{key: of(name, draw, query) for key, of in (defaults | values).items()}})
    return pd.DataFrame(rows)


def values_of(summary, task="sst2"):
    return summary[summary["task"] == task].set_index(["condition", "metric"])["value"]


def test_truth_prompt_prior_and_override():
    # The model follows inverted labels for class 0 only; without demonstrations it predicts 0.
    def prediction(name, draw, query):
        if name == "inverted":
            return 1
        return {"none": 0, "one": draw, "random": query % 2 if draw else 0}.get(name, query % 2)

    found = values_of(summarise(table(prediction=prediction), PLAN))
    assert found["gold", "truth"] == found["gold", "prompt"] == found["words", "prompt"] == 1
    assert found["none", "truth"] == 0.5
    assert (found["inverted", "truth"], found["inverted", "prompt"]) == (0.5, 0.5)
    assert found["inverted", "truth"] + found["inverted", "prompt"] == 1  # two classes
    assert found["inverted", "prior"] == 0
    assert found["gold", "prior"] == 0.5
    assert found["inverted", "override"] == 1  # of the prompts of class 0, which are right without demonstrations
    assert found["random", "truth"] == 0.75  # the mean of both draws
    assert found["random", "accuracy_loss"] == 0.25
    assert (found["one", "truth"], found["one", "truth_others"], found["one", "prompt"]) == (0.5, 0, 1)
    absent = [
        ("none", "prompt"),
        ("none", "prior"),
        ("words", "truth"),
        ("words", "prior"),
        ("gold", "override"),
        ("gold", "accuracy_loss"),
    ]
    assert not [key for key in absent if key in found.index]


def test_entropies_and_probabilities():
    def prediction(name, draw, query):
        return draw if name == "one" else 0 if name == "inverted" else query % 2

    found = values_of(summarise(table(prediction=prediction), PLAN))
    assert found["gold", "answer_entropy"] == pytest.approx(1)
    assert found["inverted", "answer_entropy"] == 0
    assert found["one", "answer_entropy"] == 0  # of each version, not of their mixture
    share = np.array([2 / 3, 1 / 3])
    assert found["gold", "predictive_entropy"] == pytest.approx(-(share * np.log2(share)).sum())
    assert found["gold", "outside_mass"] == pytest.approx(0.4)
    assert (found["gold", "shown_mass"], found["words", "own_mass"]) == pytest.approx((0.6, 0.1))


def test_the_gain_of_calibration_is_paired():
    found = summarise(table(calibrated=lambda name, draw, query: 0), PLAN)
    gain = found[(found["metric"] == "calibration_gain") & (found["condition"] == "gold") & (found["task"] == "sst2")].iloc[0]
    assert gain["value"] == -0.5
    assert values_of(found)["gold", "calibrated"] == 0.5
    assert gain["low"] >= -1


def test_tasks_with_other_numbers_of_classes_are_averaged():
    three = [*((name, 0) for name in ("none", "gold", "words")), ("one", 0), ("one", 1), ("one", 2)]
    rows = pd.concat(
        [
            table(),
            table(("trec",), conditions=three, log_probs=lambda name, draw, query: np.log([0.2, 0.2, 0.2])),
        ]
    )
    found = summarise(rows, PLAN)
    assert values_of(found, "trec")["gold", "answer_entropy"] == pytest.approx(np.log(2) / np.log(3))
    assert values_of(found, OVER_TASKS)["gold", "answer_entropy"] == pytest.approx((1 + np.log(2) / np.log(3)) / 2)
    assert values_of(found, OVER_TASKS)["one", "answer_entropy"] == pytest.approx(
        values_of(found, "sst2")["one", "answer_entropy"] / 2 + values_of(found, "trec")["one", "answer_entropy"] / 2
    )
    assert set(found["metric"]) <= set(METRICS)


def test_loyalties_are_over_the_prompts_that_were_isolated():
    found = summarise(table(), PLAN)
    loyalty = found[
        (found["metric"] == f"loyalty: {ISOLATED[0]}") & (found["task"] == "sst2") & (found["condition"] == "gold")
    ].iloc[0]
    assert (loyalty["value"], loyalty["prompts"]) == (0, 3)
    assert values_of(found)["random", f"overlap: {ISOLATED[0]}"] == 0.25
    assert "none" not in set(found.loc[found["metric"].str.startswith("loyalty"), "condition"])


def test_shares_and_their_difference_in_both_halves():
    rows = table(shown_s_pq=lambda name, draw, query: [9.0, 3.0] if name == "inverted" and not query else [])
    rows = rows.assign(
        **{
            name: [[] if not len(b) else a for a, b in zip(rows[name], rows["shown_s_pq"], strict=True)]
            for name in ("shown_s_wp", "shown_s_ww")
        }
    )
    found = flows(rows, PLAN)
    one = found[found["task"] == "sst2"].set_index(["condition", "loss", "metric", "span", "layer"])["value"]
    assert one["gold", "gold", "s_wp", "layer", 0] == 0.75
    (first,), (second,) = (one["gold", "gold", CONTRAST, f"{half} half"].to_numpy() for half in ("first", "second"))
    assert (first, second) == (-0.5, 0.5)
    assert found.loc[found["metric"] == CONTRAST, "layer"].isna().all()
    assert one["inverted", "shown", "s_pq", "layer", 0] == 0.75
    assert ("gold", "shown", "s_pq", "layer", 0) not in one.index
    assert set(found["condition"]) == {"gold", "inverted", "random", "one", "words"}


def test_the_notes_name_label_words_of_other_lengths():
    about = {
        "settings": {"draws": 2},
        "model": {"name": "m"},
        "new_label_words": {"words": [" Apple", " Bridge"], "strings": [" foo", " bar"]},
        "label_word_tokens": {"gold": [1, 1], "words": [1, 1], "strings": [1, 2]},
    }
    notes = notes_of_conditions([about])
    assert "Other label words, in the order of the classes: words: Apple Bridge; strings: foo bar." in notes
    assert notes[-1] == "Label words with other numbers of tokens: strings (m: 1 to 2 tokens, original 1)."


def test_the_claims_select_rows():
    rows = table(conditions=[*((name, 0) for name in CONDITIONS if name != "one"), ("one", 0), ("one", 1)])
    shown = {"ch_figure_labels": summarise(rows, PLAN), "ch_figure_labels_flow": flows(rows, PLAN)}
    judged = {}
    for claim in claims.load(resources.CLAIMS / "challenges.yaml").claims:
        if claim.item in shown:
            judged[claim.id] = claims.cells(claim, shown[claim.item])
    assert {name: len(cells) for name, cells in judged.items()} == {
        **dict.fromkeys(["random-labels", "override-zero", "one-label", "strings-mass", "calibration"], 1),
        "flow-survives": len(CONDITIONS) - 1,
    }
    assert judged["flow-survives"]["cell"].nunique() == len(CONDITIONS) - 1
    assert not any(cells["value"].isna().any() for cells in judged.values())
