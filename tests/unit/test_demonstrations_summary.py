"""Tests of the summary of ch_demonstrations on invented tables."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from icl_lens.statistics.resampling import OVER_TASKS, Bootstrap
from icl_lens.studies.challenges.ch_demonstrations.study import (
    CALIBRATED,
    KINDS,
    LEAVE_ONE_OUT,
    MEASURES,
    PLAIN,
    PROMPT,
    SHAPLEY,
)
from icl_lens.studies.challenges.ch_demonstrations.summary import COMPARED, summarise

PLAN = Bootstrap(resamples=200)
COUNT = 4


def invented(tasks=("a", "b"), seeds=3, queries=5, gold=lambda number: number % 2, controls=True):
    """Return a table in which the Shapley values and all measures are random numbers."""
    generator = np.random.default_rng(0)
    rows = []
    for task in tasks:
        for number in range(seeds * queries):
            labels = [0, 1, 0, 1]
            target = gold(number) if gold(number) < 2 else 0

            def add(control, kind, measure, values, labels=labels, target=target, task=task, number=number):
                for i, value in enumerate(values):
                    changed = i in (target, COUNT)
                    key = {"model": "m", "set": "s", "task": task, "seed": number // queries, "prompt_id": number}
                    key |= {"query_index": number, "demonstrations": 0, "control": control, "kind": kind, "measure": measure}
                    of_row = {"demonstration": i, "label": [*labels, labels[target]][i], "changed": changed, "value": value}
                    rows.append({**key, **of_row, "gold": gold(number), "prediction": 0, "margin": 2.0, "empty_margin": -1.0})

            for kind in KINDS:
                add(PLAIN, kind, SHAPLEY, generator.normal(size=COUNT))
                add(PLAIN, kind, LEAVE_ONE_OUT, generator.normal(size=COUNT))
            add(PLAIN, KINDS[0], CALIBRATED, generator.normal(size=COUNT))
            for measure in MEASURES:
                add(PLAIN, PROMPT, measure, generator.normal(size=COUNT))
            if controls and number % queries < 2:
                add("flipped", KINDS[0], SHAPLEY, generator.normal(size=COUNT))
                add("duplicate", KINDS[0], SHAPLEY, generator.normal(size=COUNT + 1))
    return pd.DataFrame(rows).assign(error=0.0)


def found(table, task=OVER_TASKS, **columns):
    chosen = table[table["task"] == task]
    for name, value in columns.items():
        chosen = chosen[chosen[name] == value]
    assert len(chosen) == 1
    return chosen.iloc[0]


def of_measure(rows, task, kind, measure, control=PLAIN):
    chosen = rows[(rows["task"] == task) & (rows["kind"] == kind) & (rows["measure"] == measure)]
    return chosen[chosen["control"] == control].sort_values(["prompt_id", "demonstration"])


def test_contributions_are_means_over_prompts_of_means_over_demonstrations():
    rows = invented()
    table = summarise(rows, PLAN)
    for kind in KINDS:
        shown = [of_measure(rows, task, kind, SHAPLEY) for task in ("a", "b")]
        for part, members in (("gold", lambda each: each["label"] == each["gold"]), ("all", lambda each: each["gold"] >= 0)):
            expected = np.mean([each[members(each)].groupby("prompt_id")["value"].mean().mean() for each in shown])
            each = found(table, quantity="contribution", kind=kind, measure=SHAPLEY, part=part)
            assert each["value"] == pytest.approx(expected)
            assert each["low"] < expected < each["high"]
        gold, other, difference = (
            found(table, quantity="contribution", kind=kind, measure=SHAPLEY, part=part)["value"]
            for part in ("gold", "other", "gold - other")
        )
        assert difference == pytest.approx(gold - other)
    assert found(table, quantity="difference")["value"] == pytest.approx(3)
    assert found(table, quantity="accuracy")["value"] == pytest.approx(0.5, abs=0.1)


def test_correlations_within_prompts_and_over_all_demonstrations_are_those_of_scipy():
    rows = invented(tasks=("a",))
    table = summarise(rows, PLAN)
    phi = of_measure(rows, "a", KINDS[0], SHAPLEY)
    sign = np.where(phi["label"] == phi["gold"], 1.0, -1.0)
    for measure, kind in COMPARED[1:]:
        values = of_measure(rows, "a", kind, measure)["value"].to_numpy()
        pairs = {"phi": (values, phi["value"]), "signed": (values * sign, phi["value"]), "size": (values, phi["value"].abs())}
        for part, pair in pairs.items():
            first, second = (np.asarray(each).reshape(-1, COUNT) for each in pair)
            expected = np.mean([spearmanr(*both).statistic for both in zip(first, second, strict=True)])
            each = found(table, "a", quantity="correlation", kind=kind, measure=measure, part=part)
            assert each["value"] == pytest.approx(expected)
        first, second = (np.asarray(each).reshape(-1, COUNT) for each in pairs["phi"])
        centred = [(each - each.mean(1, keepdims=True)).ravel() for each in (first, second)]
        each = found(table, "a", quantity="correlation", kind=kind, measure=measure, part="pooled")
        assert each["value"] == pytest.approx(spearmanr(*centred).statistic)
        assert each["low"] < each["value"] < each["high"]


def test_a_measure_that_is_the_contribution_correlates_perfectly():
    rows = invented()
    own = rows["measure"] == "attention"
    phi = rows[(rows["measure"] == SHAPLEY) & (rows["kind"] == KINDS[0]) & (rows["control"] == PLAIN)]
    rows.loc[own, "value"] = np.exp(phi["value"].to_numpy())
    table = summarise(rows, PLAN)
    for part in ("phi", "pooled"):
        each = found(table, quantity="correlation", measure="attention", part=part)
        assert each["value"] > (0.999 if part == "phi" else 0.85)
    random = found(table, quantity="correlation", measure="random", part="phi")
    assert random["low"] < 0 < random["high"]


def test_changes_of_the_target_are_paired_with_the_prompts_that_have_controls():
    rows = invented(tasks=("a",))
    table = summarise(rows, PLAN)
    for control in ("flipped", "duplicate"):
        changed = of_measure(rows, "a", KINDS[0], SHAPLEY, control)
        after = changed[changed["changed"]].groupby("prompt_id")["value"].sum()
        plain = of_measure(rows, "a", KINDS[0], SHAPLEY)
        before = plain[plain["changed"]].groupby("prompt_id")["value"].sum().loc[after.index]
        assert len(after) == 6
        each = found(table, "a", quantity="change", control=control, part="all")
        assert each["value"] == pytest.approx((after - before).mean())
        assert each["prompts"] == 6
        assert found(table, "a", quantity="target", control=control, part="all")["value"] == pytest.approx(after.mean())


def test_without_controls_and_without_a_demonstration_of_the_gold_class():
    table = summarise(invented(controls=False, gold=lambda number: number % 3), PLAN)
    assert not set(table["quantity"]) & {"target", "change"}
    contributions = table[(table["quantity"] == "contribution") & (table["measure"] == SHAPLEY) & (table["task"] == "a")]
    counts = contributions[contributions["kind"] == KINDS[0]].set_index("part")["prompts"]
    assert counts["all"] == counts["other"] == 15
    assert counts["gold"] == counts["gold - other"] == 10  # a third of the prompts have gold class 2
    places = table[(table["quantity"] == "place") & (table["task"] == "a")]
    assert places["part"].tolist() == ["1", "2", "3", "4"]
    assert (places["prompts"] == 5).all()


def test_only_places_that_all_tasks_have_are_shown():
    rows = invented()
    fewer = rows[(rows["task"] == "a") | (rows["demonstration"] < 2)]  # task b lacks the places 3 and 4
    table = summarise(fewer, PLAN)
    places = table[table["quantity"] == "place"]
    assert places.groupby("task")["part"].apply(list).to_dict() == {key: ["1", "2"] for key in ("a", "b", OVER_TASKS)}
