"""Tests of the table of number formats as users make it."""

import math

import pandas as pd
import pytest
import torch

from icl_lens.network import precision
from tests import artifacts

from ..reference.deep_attention import one_versus_one
from .test_workflow import jobs, refused

SHARES = ("s_wp", "s_pq", "s_ww")


@pytest.fixture(scope="module")
def two_dtypes(tiny):
    """A config overlay on `tiny` with the tiny model in float32, in bfloat16 and with fast products."""
    clone, overlay = tiny
    path = "my models/tiny"
    models = [{"name": "brain", "path": path, "dtype": "bfloat16"}, {"name": "tiny", "path": path}]
    models.append({"name": "fast", "path": path, "matmul": "fast"})
    return clone, [overlay.name, clone.config("two-dtypes", results="dtypes", models=models).name]


@pytest.fixture(scope="module")
def table(two_dtypes):
    clone, overlays = two_dtypes
    done = clone.snakemake("table_precision", "--cores", "2", "--configfile", *overlays)
    assert done.returncode == 0, done.stdout
    return pd.read_csv(clone.folder / "dtypes/tables/table_precision.csv")


def read(clone, model, study):
    """Return the TREC rows of one study, sorted by prompt."""
    rows, _ = artifacts.read(clone.folder / f"dtypes/studies/{model}/trec/fresh-1shot/{study}.parquet", study)
    return rows.sort_values("prompt_id").to_dict("records")


def test_the_table_has_a_row_for_each_task_and_other_precision(table, two_dtypes):
    with precision.products("fast", torch.device("cpu")) as products:
        pass
    assert table[["model", "task", "dtype", "matmul", "products", "prompts"]].values.tolist() == [
        ["brain", "SST-2", "bfloat16", "exact", "float32", 6],
        ["brain", "TREC", "bfloat16", "exact", "float32", 6],
        ["fast", "SST-2", "float32", "fast", products, 6],
        ["fast", "TREC", "float32", "fast", products, 6],
    ]
    markdown = (two_dtypes[0].folder / "dtypes/tables/table_precision.md").read_text()
    assert "brain | TREC | bfloat16 | exact | float32 | 6 |" in " ".join(markdown.split())


def test_fast_products_move_results_where_the_device_has_them_and_nothing_elsewhere(table):
    moved = table[(table["model"] == "fast") & (table["task"] == "TREC")].iloc[0]
    if moved["products"] == "float32":
        assert (moved["same prediction"], moved["same prediction, isolated"]) == (1, 1)
        assert moved["log probability, largest"] == moved["share of S_wp, largest"] == moved["word loyalty, largest"] == 0
    else:
        assert moved["log probability, largest"] > 0


def test_what_the_answers_move_is_in_the_artifacts(table, two_dtypes):
    exact, other = (read(two_dtypes[0], model, "icl") for model in ("tiny", "brain"))
    right = [sum(row["gold"] == row["prediction"] for row in rows) / 6 for rows in (exact, other)]
    same = sum(first["prediction"] == second["prediction"] for first, second in zip(exact, other, strict=True)) / 6
    moved, overlap = [], 0
    for first, second in zip(exact, other, strict=True):
        moved += [abs(a - b) for a, b in zip(first["class_log_probs"], second["class_log_probs"], strict=True)]
        one, two = set(first["top_tokens"]), set(second["top_tokens"])
        overlap += len(one & two) / len(one | two) / 6
    moved.sort()
    expected = {
        "accuracy, float32": right[0],
        "accuracy": right[1],
        "accuracy, difference": right[1] - right[0],
        "same prediction": same,
        "log probability, median": (moved[len(moved) // 2] + moved[(len(moved) - 1) // 2]) / 2,
        "log probability, largest": moved[-1],
        "top 10 overlap": overlap,
    }
    row = table[table["task"] == "TREC"].iloc[0]
    assert {name: row[name] for name in expected} == pytest.approx(expected, rel=1e-9, abs=1e-12)
    # Balanced accuracy: mean recall over the classes of each seed. Baseline: most frequent class of all prompts.
    recalls = []
    for seed in sorted({each["seed"] for each in exact}):
        gold = sorted({each["gold"] for each in exact if each["seed"] == seed})
        own = [[e["prediction"] == c for e in exact if (e["seed"], e["gold"]) == (seed, c)] for c in gold]
        recalls.append(sum(sum(each) / len(each) for each in own) / len(own))
    assert row["balanced accuracy, float32"] == pytest.approx(sum(recalls) / len(recalls))
    counts = [sum(each["gold"] == c for each in exact) for c in range(6)]
    assert row["majority baseline"] == pytest.approx(max(counts) / len(exact))
    assert moved[-1] > 0, "bfloat16 moves something, or nothing was compared"


def test_what_the_shares_move_is_in_the_artifacts(table, two_dtypes):
    shares = []
    for model in ("tiny", "brain"):
        rows = read(two_dtypes[0], model, "saliency")
        for layer in range(3):
            of_seeds = []
            for seed in (42, 43):
                here = [row for row in rows if (row["layer"], row["seed"]) == (layer, seed)]
                sums = [math.fsum(row[name] for row in here) for name in SHARES]
                of_seeds.append([value / math.fsum(sums) for value in sums])
            shares.append([sum(values) / 2 for values in zip(*of_seeds, strict=True)])
    row = table[table["task"] == "TREC"].iloc[0]
    for number, name in enumerate(SHARES):
        largest = max(abs(shares[layer][number] - shares[3 + layer][number]) for layer in range(3))
        assert row[f"share of S_{name[2:]}, largest"] == pytest.approx(largest, rel=1e-6)
        assert largest > 0


def test_the_share_of_answers_that_isolation_keeps_is_in_the_artifacts(table, two_dtypes):
    found = []
    for model in ("tiny", "brain"):
        rows = read(two_dtypes[0], model, "isolation")
        found.append({(r["prompt_id"], r["target"], r["side"], r["layers"], r["draw"]): r["prediction"] for r in rows})
    same = sum(found[0][key] == found[1][key] for key in found[0]) / len(found[0])
    assert table[table["task"] == "TREC"].iloc[0]["same prediction, isolated"] == pytest.approx(same, rel=1e-9)


def test_what_isolation_moves_is_in_the_artifacts(table, two_dtypes):
    values = []
    for model in ("tiny", "brain"):
        rows = read(two_dtypes[0], model, "isolation")
        found = {}
        for condition in {(row["target"], row["side"], row["layers"]) for row in rows}:
            for name in ("label_agrees", "word_jaccard_5"):
                of_seeds = []
                for seed in (42, 43):
                    here = [r for r in rows if r["seed"] == seed and (r["target"], r["side"], r["layers"]) == condition]
                    of_seeds.append(math.fsum(float(r[name]) for r in here) / len(here))
                found[name, condition] = sum(of_seeds) / 2
        values.append(found)
    row = table[table["task"] == "TREC"].iloc[0]
    for name, column in (("label_agrees", "label loyalty, largest"), ("word_jaccard_5", "word loyalty, largest")):
        moved = [abs(values[0][key] - values[1][key]) for key in values[0] if key[0] == name]
        assert row[column] == pytest.approx(max(moved), rel=1e-9, abs=1e-12)


def test_what_the_attention_curve_moves_is_in_the_artifacts(table, two_dtypes):
    curves = []
    for model in ("tiny", "brain"):
        rows, answers = (read(two_dtypes[0], model, study) for study in ("deep_attention", "icl"))
        layers = sorted({row["layer"] for row in rows})
        of_seeds = []
        for seed in (42, 43):
            here = [answer for answer in answers if answer["seed"] == seed]
            predicted = [answer["prediction"] for answer in here]
            if len(set(predicted)) > 1:
                scores = {(r["layer"], r["prompt_id"], r["class"]): r["attention"] for r in rows}
                matrix = [[[scores[layer, a["prompt_id"], c] for c in range(6)] for a in here] for layer in layers]
                of_seeds.append([one_versus_one(of_layer, predicted) for of_layer in matrix])
        curves.append([sum(values) / len(values) for values in zip(*of_seeds, strict=True)])
    shown = table[table["task"] == "TREC"].iloc[0]["AUCROC, largest"]
    if not all(curves):
        assert math.isnan(shown), "where all answers of every seed are one class there is no curve"
    else:
        assert shown == pytest.approx(max(abs(a - b) for a, b in zip(*curves, strict=True)), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("target", ["table_precision", "precision"])
def test_asked_for_with_one_dtype_it_is_refused_in_one_sentence(tiny, target):
    clone, overlay = tiny
    sentence = refused(clone, target, "--configfile", overlay.name)
    expected = "table_precision compares number formats, but models has no two entries that differ only in dtype"
    assert sentence.startswith(expected)


def test_all_does_not_make_it_and_its_group_does(two_dtypes):
    clone, overlays = two_dtypes
    again = ("-n", "--configfile", *overlays, "--config", "results=nowhere")
    assert jobs(clone.snakemake("all", *again, "groups=[anchors]"))["table"] == 5, "Tables 1, 2, 3, 4 and 6"
    planned = jobs(clone.snakemake("precision", *again))
    assert [planned[name] for name in ("saliency", "isolation", "deep_attention", "icl")] == [6] * 4
    assert planned["table"] == 1
