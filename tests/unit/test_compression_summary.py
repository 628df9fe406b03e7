"""Tests of the averages in tables 2, 3 and 6 against means that are computed step by step."""

import itertools

import numpy as np
import pandas as pd
import pytest

from icl_lens.errors import InputError
from icl_lens.statistics.halves import halves
from icl_lens.statistics.resampling import OVER_TASKS, Bootstrap
from icl_lens.studies.anchors.compression.summary import METRICS, TOP, TOP_IN_SAMPLE, best_draws, summarise
from icl_lens.studies.anchors.latency.study import METHODS
from icl_lens.studies.anchors.latency.summary import accelerations

CONDITIONS = [("full", 0, "own"), ("text_anchor", 0, "own")] + [
    (*method, positions)
    for positions in ("continued", "restarted")
    for method in (("hidden_random", 0), ("hidden_random", 1), ("hidden_random", 2), ("hidden_anchor", 0))
]


@pytest.fixture
def rows():
    """A table with two tasks of different sizes, two seeds and all methods."""
    generator = np.random.default_rng(0)
    found = []
    for task, prompts in (("sst2", 30), ("trec", 10)):
        for seed, number in itertools.product((42, 43), range(prompts)):
            for method, draw, positions in CONDITIONS:
                key = {"model": "m", "set": "s", "task": task, "seed": seed, "prompt_id": 100 * seed + number}
                plain = method == "full"
                answer = {"prediction": generator.integers(2), "gold": int(number % 3 == 0)}
                answer["correct"] = answer["prediction"] == answer["gold"]
                loyal = {
                    "label_agrees": plain or generator.random() < 0.6,
                    "word_jaccard_5": 1.0 if plain else generator.random(),
                }
                found.append({**key, "method": method, "draw": draw, "positions": positions, **answer, **loyal})
    return pd.DataFrame(found)


def average(rows, values):
    """Return the mean over prompts, then over seeds, then over tasks, as in the paper."""
    tasks = []
    for task in sorted(set(rows["task"])):
        seeds = [values[(rows["task"] == task) & (rows["seed"] == seed)].mean() for seed in (42, 43)]
        tasks.append(sum(seeds) / len(seeds))
    return sum(tasks) / len(tasks)


def test_every_mean_is_the_papers(rows):
    summary = summarise(rows, Bootstrap(resamples=300)).set_index(["task", "method", "positions"])
    for method, positions in {(method, positions) for method, _, positions in CONDITIONS}:
        part = rows[(rows["method"] == method) & (rows["positions"] == positions)]
        for task, chosen in ((OVER_TASKS, part), ("trec", part[part["task"] == "trec"])):
            shown = summary.loc[task, method, positions]
            for column, metric in METRICS.items():
                assert shown[metric] == pytest.approx(average(chosen, chosen[column].astype(float)), abs=1e-12)
                if method != "full":
                    assert shown[f"{metric}_low"] <= shown[metric] <= shown[f"{metric}_high"]
                    assert shown[f"{metric}_prompts_low"] < shown[metric] < shown[f"{metric}_prompts_high"]
                    assert shown[f"{metric}_replicates"].value == shown[metric]
                draws = [chosen[chosen["draw"] == draw] for draw in sorted(set(chosen["draw"]))]
                draws = [average(one, one[column].astype(float)) for one in draws]
                ends = [shown[f"{metric}_lowest_draw"], shown[f"{metric}_highest_draw"]]
                assert ends == pytest.approx([min(draws), max(draws)])
            assert shown["prompts"] == {OVER_TASKS: 80, "trec": 20}[task]  # draws do not count as prompts
            assert shown["draws"] == (3 if method == "hidden_random" else 1)
    assert (summary.loc[(OVER_TASKS, "full", "own"), ["label_loyalty", "word_loyalty"]] == 1).all()


def test_accuracy_has_balanced_accuracy_and_majority_baseline(rows):
    summary = summarise(rows, Bootstrap(resamples=300)).set_index(["task", "method", "positions"])
    part = rows[(rows["method"] == "full") & (rows["task"] == "trec")]
    recalls = part.groupby(["seed", "gold"])["correct"].mean()
    shown = summary.loc["trec", "full", "own"]
    assert shown["balanced_accuracy"] == pytest.approx(recalls.groupby("seed").mean().mean())
    assert shown["balanced_accuracy"] != pytest.approx(shown["accuracy"])
    assert shown["balanced_accuracy_low"] < shown["balanced_accuracy"] < shown["balanced_accuracy_high"]
    assert shown["majority_baseline"] == 0.6
    assert summary.loc[(OVER_TASKS, TOP, "continued"), "majority_baseline"] == pytest.approx((0.6 + 2 / 3) / 2)


def test_the_top_draw_in_sample_is_chosen_for_each_task_seed_and_positions(rows):
    best = best_draws(rows, in_sample=True)
    for task, seed, positions in itertools.product(("sst2", "trec"), (42, 43), ("continued", "restarted")):
        part = rows[(rows["task"] == task) & (rows["seed"] == seed) & (rows["positions"] == positions)]
        loyalty = part[part["method"] == "hidden_random"].groupby("draw")["label_agrees"].mean()
        chosen = best[(best["task"] == task) & (best["seed"] == seed) & (best["positions"] == positions)]
        assert set(chosen["draw"]) == {loyalty[loyalty == loyalty.max()].index[0]}
        assert chosen["prompt_id"].is_unique
        assert chosen["label_agrees"].mean() == loyalty.max()
    summary = summarise(rows, Bootstrap(resamples=2)).set_index(["task", "method", "positions"])
    value = summary.loc[(OVER_TASKS, TOP_IN_SAMPLE, "continued"), "label_loyalty"]
    part = best[best["positions"] == "continued"]
    assert value == pytest.approx(average(part, part["label_agrees"].astype(float)))
    assert value > summary.loc[(OVER_TASKS, "hidden_random", "continued"), "label_loyalty"]
    assert np.isnan(summary.loc[(OVER_TASKS, TOP_IN_SAMPLE, "continued"), "label_loyalty_low"])


def test_the_top_draw_is_chosen_on_the_half_of_the_texts_that_does_not_evaluate_it(rows):
    best = best_draws(rows)
    random = rows[rows["method"] == "hidden_random"]
    for key, chosen in best.groupby(["task", "seed", "positions"]):
        part = random[(random[["task", "seed", "positions"]] == list(key)).all(axis=1)]
        prompts = part.drop_duplicates("prompt_id")
        both = rows[(rows["method"] == "full") & (rows["task"] == key[0])]
        half = pd.Series(halves(both["seed"], both["prompt_id"], both["prediction"]), index=both["prompt_id"])
        half = half[prompts["prompt_id"]]
        assert half.sum() == len(half) / 2
        assert sorted(chosen["prompt_id"]) == sorted(prompts["prompt_id"])
        for number in (0, 1):
            other = part[part["prompt_id"].map(half) != number].groupby("draw")["label_agrees"].mean()
            assert set(chosen.loc[chosen["prompt_id"].map(half) == number, "draw"]) == {other.idxmax()}


def test_the_top_of_equal_draws_is_as_loyal_as_each_of_them():
    generator = np.random.default_rng(0)
    prompts = pd.DataFrame({"seed": np.repeat(np.arange(20), 40), "prompt_id": np.arange(800)})
    rows = prompts.merge(pd.DataFrame({"draw": range(10)}), how="cross").assign(
        model="m", set="s", task="t", positions="own", method="hidden_random"
    )
    rows["label_agrees"] = generator.random(len(rows)) < 0.5
    full = prompts.assign(model="m", set="s", task="t", positions="own", method="full", draw=0, prediction=0, label_agrees=True)
    rows = pd.concat([rows, full], ignore_index=True)
    assert best_draws(rows, in_sample=True)["label_agrees"].mean() > 0.6
    assert best_draws(rows)["label_agrees"].mean() == pytest.approx(0.5, abs=0.05)


def test_methods_stand_as_in_the_paper_and_models_apart(rows):
    two = summarise(pd.concat([rows, rows.assign(model="n", label_agrees=False)]), Bootstrap(resamples=2))
    assert two["model"].is_monotonic_increasing
    of_task = two[(two["model"] == "n") & (two["task"] == "sst2")]
    methods = ["hidden_random", TOP, TOP_IN_SAMPLE, "hidden_anchor"]
    assert of_task["method"].tolist() == ["full", "text_anchor", *methods, *methods]
    assert of_task["positions"].tolist() == ["own", "own", *["continued"] * 4, *["restarted"] * 4]
    assert (of_task["label_loyalty"] == 0).all()


def latencies(**seconds):
    """Return three repeats for each of two prompts of two seeds, and three for the two prompts of each seed together."""
    found = []
    for seed, number in itertools.product((42, 43), (0, 1, 2)):
        for method, repeat in itertools.product(METHODS, range(3)):
            lengths = {"cache_tokens": 10 if method == "hidden_anchor" else 40, "demo_words": 30}
            of_query = {"prompt_tokens": 50.0 + number, "query_tokens": 10.0 + number, "query_words": 5.0 + number}
            key = {"model": "m", "task": "sst2", "set": "s", "seed": seed, "prompt_id": seed * 10 + number % 2}
            together = 2 if number == 2 else 1
            value = seconds[method] * together * (1 + number % 2) * (1.1 if seed == 43 and method == "full" else 1)
            found.append(
                {**key, "method": method, "prompts": together, "repeat": repeat, "seconds": value * (1, 2, 9)[repeat]}
                | lengths
                | of_query
            )
    return pd.DataFrame(found)


def test_an_acceleration_is_the_ratio_of_the_means_of_medians():
    table = accelerations(latencies(full=6.0, hidden_anchor=2.0, shared=3.0)).set_index("together")
    alone, together = table.loc[False], table.loc[True]
    for row in (alone, together):
        assert row["ratio"] == pytest.approx(3 * 1.05)
        assert [row["lowest"], row["highest"]] == pytest.approx([3, 3.3])
        assert [row["shared"], row["shared_lowest"], row["shared_highest"]] == pytest.approx([2 * 1.05, 2, 2.2])
        assert row["spread_full"] == pytest.approx(8 / 2)
        assert row["seeds"] == 2
    assert alone["seconds_hidden_anchor"] == pytest.approx(2 * 2 * 1.5)
    assert together["seconds_hidden_anchor"] == pytest.approx(2 * 2)  # seconds per prompt
    assert (alone["passes"], together["passes"]) == (4, 2)
    assert (alone["demo_tokens"], alone["cache_tokens"], alone["query_tokens"]) == (40, 10, 10.5)
    assert (alone["demo_words"], alone["query_words"]) == (30, 5.5)


def test_a_table_without_one_of_the_methods_is_refused():
    rows = latencies(full=6.0, hidden_anchor=2.0, shared=3.0)
    with pytest.raises(InputError, match="the latency table of m on sst2 has the methods full, hidden_anchor; expected full"):
        accelerations(rows[rows["method"] != "shared"])
