"""Tests of the values of single seeds: their mean is the item's value, and each follows from the seed's own prompts."""

import math

import numpy as np
import pandas as pd
import pytest

from icl_lens import resources
from icl_lens.report import claims, publish, seed_spread
from icl_lens.report.seed_spread import OneSeed
from icl_lens.statistics.answers import with_gold
from icl_lens.statistics.resampling import Bootstrap
from icl_lens.studies import registry
from icl_lens.studies.anchors.compression import summary as compression_summary
from icl_lens.studies.anchors.compression.study import OWN, POSITIONS
from icl_lens.studies.anchors.compression.summary import TOP_IN_SAMPLE
from icl_lens.studies.anchors.deep_attention.summary import summarise as attention_curves
from icl_lens.studies.anchors.isolation import summary as isolation_summary
from icl_lens.studies.anchors.latency.study import METHODS as TIMED
from icl_lens.studies.anchors.latency.summary import accelerations
from icl_lens.studies.anchors.reweighting import summary as reweighting_summary
from icl_lens.studies.anchors.reweighting.study import METHODS as WEIGHTED
from icl_lens.studies.anchors.saliency import summary as saliency_summary
from tests import artifacts

SEEDS = (42, 43)
TASKS = {"sst2": 2, "trec": 6}
SET = "shared-1shot"


def prompts(task):
    """Yield the keys of four prompts for each seed."""
    for seed in SEEDS:
        for number in range(4):
            yield {"model": "m", "task": task, "set": SET, "seed": seed, "prompt_id": 10 * seed + number}


def answers(task, draw):
    classes = TASKS[task]
    return [
        {
            **key,
            "gold": int(draw.integers(classes)),
            # Each class is predicted in each seed, so that each seed has an AUCROC.
            "prediction": key["prompt_id"] % 10 % 2,
            "class_log_probs": [-1.0] * classes,
            "top_tokens": [0] * 10,
        }
        for key in prompts(task)
    ]


def study(kind, task, draw):
    """Return a study's rows with random values."""

    def of_prompts(*conditions, **measured):
        return [
            {**k, **c, **{name: draw_one() for name, draw_one in measured.items()}} for k in prompts(task) for c in conditions
        ]

    def yes():
        return bool(draw.integers(2))

    def answer():
        return int(draw.integers(2))

    if kind == "saliency":
        rows = of_prompts({"layer": 0}, {"layer": 1})
        return [{**row, **artifacts.saliency_columns(*draw.random(3))} for row in rows]
    if kind == "deep_attention":
        return of_prompts(*({"layer": n, "class": c} for n in (0, 1) for c in range(TASKS[task])), attention=draw.random)
    if kind == "isolation":
        where = ({"target": target, "side": side} for target in ("label", "random") for side in ("first", "last"))
        words = {f"word_jaccard_{size}": draw.random for size in (5, 10)}
        return of_prompts(
            *({**w, "layers": 2, "draw": 0, "order": 0, "prediction": 0} for w in where), label_agrees=yes, **words
        )
    if kind == "reweighting":
        ways = ({"method": m, "shots": 1, "gold": 0, "correct": True, "class_log_probs": [0.0] * 2} for m in WEIGHTED)
        return of_prompts(*ways, prediction=answer)
    if kind == "compression":
        ways = [("full", OWN, 0), *(("hidden_random", POSITIONS[0], n) for n in (0, 1))]
        ways = [dict(zip(("method", "positions", "draw"), way, strict=True)) | {"prediction": 0} for way in ways]
        return of_prompts(*ways, correct=yes, label_agrees=yes, word_jaccard_5=draw.random)
    lengths = dict.fromkeys(("prompt_tokens", "cache_tokens", "query_tokens", "demo_words", "query_words"), 5)
    ways = ({"method": m, "prompts": 1, "repeat": 0, **lengths} for m in TIMED)
    return of_prompts(*ways, seconds=lambda: 1 + draw.random())


FEW = Bootstrap(resamples=2)
SUMMARIES = {
    "figure_3": ("saliency", lambda rows, _: saliency_summary.summarise(rows, FEW), "share"),
    "figure_8": ("isolation", lambda rows, _: isolation_summary.summarise(rows, FEW), "value"),
    "figure_5": ("deep_attention", lambda rows, icl: attention_curves(rows, icl, FEW)[0], "value"),
    "table_1": ("reweighting", lambda rows, _: reweighting_summary.summarise(rows, TASKS, FEW), "accuracy"),
    "table_2": ("compression", lambda rows, icl: compression_summary.summarise(with_gold(rows, icl), FEW), "word_loyalty"),
    "table_3": ("latency", lambda rows, _: accelerations(rows), "ratio"),
}


def written(results, kind):
    """Write a study and the answers of both tasks to a results folder; return the rows, the answers and the paths."""
    draw = np.random.default_rng(0)
    rows, icl, paths = [], [], []
    for task in TASKS:
        for name, made, kept in ((kind, study(kind, task, draw), rows), ("icl", answers(task, draw), icl)):
            path = f"studies/m/{task}/{SET}/{name}.parquet"
            about = artifacts.describe(name, "icl_lens.artifacts.parquet", {}, {}, list(SEEDS), model={"name": "m"})
            artifacts.write(results / path, pd.DataFrame(made), about)
            kept.append(artifacts.read(results / path, name)[0])
            paths.append(path)
    return pd.concat(rows), pd.concat(icl), paths


@pytest.mark.parametrize("item", SUMMARIES)
def test_the_item_shows_the_mean_of_the_seeds(tmp_path, item):
    kind, summarise, column = SUMMARIES[item]
    rows, icl, paths = written(tmp_path, kind)
    shown = summarise(rows, icl)
    found = seed_spread.by_seed(tmp_path, item, shown, paths)
    assert list(found) == list(SEEDS)
    values = np.stack([one[column] for one in found.values()])  # (S, rows)
    assert (np.ptp(values, axis=0) > 0).any(), "seeds differ"
    linear = (
        shown["metric"] != "r" if item == "figure_5" else pd.Series(item != "table_3", index=shown.index)
    )  # all other values are quotients
    if item == "table_2":
        linear &= shown["method"] != TOP_IN_SAMPLE  # has neither an interval nor a spread over seeds
    np.testing.assert_allclose(values.mean(0)[linear], shown[column][linear], atol=1e-12)
    # Each value follows from that seed's prompts only. (The draws of hidden_random_top are chosen separately per seed anyway.)
    alone = summarise(rows[rows["seed"] == SEEDS[1]], icl[icl["seed"] == SEEDS[1]])
    kept = linear | (item in ("figure_5", "table_3"))
    np.testing.assert_allclose(found[SEEDS[1]][column][kept], alone[column][kept], atol=1e-12)


def test_published_claims_read_columns_that_each_seed_has_values_of():
    every = [claim for paper in registry.papers() for claim in claims.load(resources.CLAIMS / f"{paper}.yaml").claims]
    items = {*publish.PUBLISHED, *(name for others in publish._EXTRA_CLAIM_ITEMS.values() for name in others)}
    read = {(claim.item, claim.rule.column) for claim in every if claim.item in items and seed_spread.columns(claim.item)}
    assert len(read) > 9
    assert {(item, column) for item, column in read if column not in seed_spread.columns(item)} == set()


def test_of_one_seed_and_of_an_item_without_any_there_is_no_spread(tmp_path):
    rows, _, paths = written(tmp_path, "saliency")
    shown = saliency_summary.summarise(rows, FEW)
    assert seed_spread.by_seed(tmp_path, "rc_rsa", shown, paths) == {}
    for path in paths:
        kind = path.rpartition("/")[2].removesuffix(".parquet")
        table, about = artifacts.read(tmp_path / path, kind)
        artifacts.write(tmp_path / path, table[table["seed"] == 42], about)
    assert seed_spread.by_seed(tmp_path, "figure_3", shown, paths) == {}


def test_tasks_with_different_seeds_have_no_spread(tmp_path):
    rows, _, paths = written(tmp_path, "saliency")
    table, about = artifacts.read(tmp_path / paths[0], "saliency")
    artifacts.write(tmp_path / paths[0], table[table["seed"] != 42], about)
    assert seed_spread.by_seed(tmp_path, "figure_3", saliency_summary.summarise(rows, FEW), paths) == {}


def test_spread_of_what_is_known():
    assert seed_spread.spread([0.2, math.nan, 0.6]) == (0.2, 0.6, pytest.approx(0.4 / math.sqrt(2)), 2)
    assert seed_spread.spread([0.2, math.nan])[3] == 1
    assert math.isnan(seed_spread.spread([0.2, math.nan])[2])


def test_accuracies_stand_beside_the_majority_baseline():
    rows = pd.DataFrame(answers("sst2", np.random.default_rng(1)))
    (row,) = seed_spread.accuracies(rows).itertuples()
    right = rows["gold"] == rows["prediction"]
    assert row.accuracy == pytest.approx(right.mean())
    assert (row.seed_lowest, row.seed_highest) == (
        right.groupby(rows["seed"]).mean().min(),
        right.groupby(rows["seed"]).mean().max(),
    )
    assert row.majority_baseline == max(rows["gold"].mean(), 1 - rows["gold"].mean())
    assert row.low < row.prompts_low < row.accuracy < row.prompts_high < row.high
    recalls = right.groupby([rows["seed"], rows["gold"]]).mean()
    assert row.balanced_accuracy == pytest.approx(recalls.groupby("seed").mean().mean())
    assert row.balanced_accuracy_low <= row.balanced_accuracy <= row.balanced_accuracy_high


def test_one_seed_leaves_the_others_out():
    plan = OneSeed(place=1)
    np.testing.assert_array_equal(plan.seed_weights("sst2", 3), [[0, 1, 0]])
    np.testing.assert_array_equal(plan.prompt_weights("sst2", 42, 2), [[1, 1]])
