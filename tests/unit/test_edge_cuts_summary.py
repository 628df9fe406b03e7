"""Tests of the means, differences and contrasts of the study ch_edge_cuts, on rows with known values."""

import numpy as np
import pandas as pd
import pytest

from icl_lens.report import claims
from icl_lens.statistics.resampling import OVER_TASKS, Bootstrap
from icl_lens.studies import registry
from icl_lens.studies.challenges.ch_edge_cuts.plans import labelled_conditions
from icl_lens.studies.challenges.ch_edge_cuts.study import UNCUT, Settings
from icl_lens.studies.challenges.ch_edge_cuts.summary import accuracies, summarise

from ..conftest import REPOSITORY

PLAN = Bootstrap(resamples=50)
LAYERS = 6
# Cost of a set, in logits, by rows and columns; all others are 0.
COSTS = {("last", "label"): 3.0, ("query", "template"): 2.0, ("query", "content"): 0.5, ("label", "text"): 1.0}
HALVES = {"first half": 0.25, "second half": 0.75}


def rows_of(task, seeds=(1, 2), queries=4, draws=2):
    """Return rows in which prompt n of a seed loses n times the cost. Odd prompts are right, and wrong when cut at a cost."""
    settings = Settings(draws=draws, window_queries=2)
    found = []
    for seed in seeds:
        for n in range(queries):
            key = {"model": "m", "task": task, "set": "shared-1shot", "seed": seed, "prompt_id": 100 * seed + n}
            key |= {"query_index": 100 * seed + n, "demonstrations": 0, "gold": n % 2}
            uncut = {"rows": UNCUT, "columns": UNCUT, "span": UNCUT, "start": 0, "stop": 0, "variant": UNCUT, "draw": 0}
            found.append({**key, **uncut, "valid": True, "prediction": 1, "effect": 0.0})
            for span, condition in labelled_conditions(LAYERS, settings, n < 2):
                cost = COSTS.get(condition[:2], 0.0) * HALVES.get(span.name, 1.0)
                if condition.variant != "set":
                    cost = 0.1 * (1 + condition.draw) if condition.variant == "random" else 0.0
                valid = condition.variant != "mass" or (condition.columns == "label" and n > 0)
                keys = {**condition._asdict(), "span": span.name, "valid": valid}
                prediction = 0 if valid and condition.variant == "set" and cost else 1
                found.append({**key, **keys, "prediction": prediction, "effect": -cost * n if valid else 0.0})
    rows = pd.DataFrame(found)
    more = {
        "own_effect": rows["effect"],
        "label_agrees": rows["prediction"] == 1,
        "word_jaccard_5": 0.5,
        "mass": 0.2,
        "edges": 12,
    }
    return rows.assign(**more)


def value_of(table, **selected):
    chosen = table[np.logical_and.reduce([table[name] == value for name, value in selected.items()])]
    assert len(chosen) == 1, selected
    return chosen.iloc[0]


def test_losses_are_means_over_prompts_and_draws():
    table = summarise(rows_of("sst2"), ["margin_loss", "accuracy_loss", "edges"], ["all"], PLAN)
    last = {"task": "sst2", "rows": "last", "columns": "label", "span": "all"}
    assert value_of(table, **last, variant="set", metric="margin_loss")["value"] == pytest.approx(3.0 * 1.5)
    assert value_of(table, **last, variant="random", metric="margin_loss")["value"] == pytest.approx(0.15 * 1.5)
    # The difference is paired over the three prompts in which the control is valid.
    mass = value_of(table, **last, variant="set - mass", metric="margin_loss")
    assert mass["value"] == pytest.approx(3.0 * 2.0)
    assert mass["prompts"] == 6
    # Half of the prompts are right, and all of these are wrong when cut. The others become right.
    assert value_of(table, **last, variant="set", metric="accuracy_loss")["value"] == pytest.approx(0.0)
    assert value_of(table, **last, variant="set", metric="edges")["value"] == pytest.approx(2.0)
    # The other controls are never valid.
    assert set(table.loc[table["variant"] == "mass", "columns"]) == {"label"}


def test_windows_that_were_run_for_few_prompts_are_kept():
    table = summarise(rows_of("sst2"), ["margin_loss"], ["window"], PLAN)
    of_query = value_of(table, task="sst2", rows="query", columns="template", start=1, variant="set", metric="margin_loss")
    assert of_query["prompts"] == 4
    assert of_query["value"] == pytest.approx(2.0 * 0.5)  # prompts 0 and 1
    assert of_query["stop"] == 3


def test_contrasts_are_differences_of_the_same_prompts():
    table = summarise(rows_of("sst2"), ["margin_loss"], ["all", "first half", "second half"], PLAN)
    halves = value_of(table, task="sst2", rows="last", columns="label", span="second half - first half")
    assert halves["value"] == pytest.approx(3.0 * 1.5 * 0.5)
    context = value_of(table, task="sst2", rows="label", columns="text", span="first half - second half")
    assert context["value"] == pytest.approx(-1.0 * 1.5 * 0.5)
    template = value_of(table, task="sst2", rows="query", columns="template - content")
    assert template["value"] == pytest.approx(1.5 * 1.5)
    assert template["low"] <= template["value"] <= template["high"]


def test_tasks_count_equally_and_the_uncut_run_has_its_accuracy():
    rows = pd.concat([rows_of("sst2"), rows_of("trec", queries=2)])
    table = summarise(rows, ["margin_loss"], ["all"], PLAN)
    last = {"rows": "last", "columns": "label", "variant": "set", "metric": "margin_loss"}
    assert value_of(table, task=OVER_TASKS, **last)["value"] == pytest.approx((3.0 * 1.5 + 3.0 * 0.5) / 2)
    scores = accuracies(rows, [UNCUT, "all"], PLAN)
    assert value_of(scores, task="sst2", rows=UNCUT, metric="accuracy")["value"] == pytest.approx(0.5)
    assert value_of(scores, task="sst2", rows=UNCUT, metric="balanced_accuracy")["value"] == pytest.approx(0.5)
    cut = {"task": "sst2", "rows": "last", "columns": "label", "variant": "random"}
    assert value_of(scores, **cut, metric="accuracy")["value"] == pytest.approx(0.5)


# Claims about a control that is never valid in these rows.
NEVER_VALID = ("cut-content-small",)


def test_a_control_that_rarely_matches_in_one_task_is_left_out_of_the_mean_of_tasks():
    rows = pd.concat([rows_of("sst2"), rows_of("trec")])
    mass = (rows["task"] == "trec") & (rows["variant"] == "mass") & (rows["rows"] == "last")
    rows.loc[mass & (rows["prompt_id"] % 100 > 1), "valid"] = False  # 1 of 4 prompts of each seed is left
    table = summarise(rows, ["margin_loss"], ["all"], PLAN)
    last = table[(table["rows"] == "last") & (table["columns"] == "label") & (table["variant"] == "mass")]
    assert last["task"].tolist() == ["sst2"]


def test_each_claim_about_cuts_selects_one_row():
    rows = pd.concat([rows_of("sst2"), rows_of("trec")])
    spans = {"ch_figure_cuts": ["all"], "ch_figure_cut_layers": ["first half", "second half", "window"]}
    paper = claims.load(REPOSITORY / "src/icl_lens/resources/claims/challenges.yaml")
    tested = 0
    for claim in paper.claims:
        if claim.item in {item.name for item in registry.study("ch_edge_cuts").items}:
            shown = summarise(rows, ["margin_loss", "accuracy_loss"], spans[claim.item], PLAN)
            found = claims.cells(claim, shown)
            assert len(found) == (claim.id not in NEVER_VALID), claim.id
            tested += 1
    assert tested == 6
