import json
from itertools import permutations

import numpy as np
import pandas as pd
import pytest

from icl_lens.errors import InputError
from icl_lens.report import figures
from icl_lens.statistics.ranks import spearman
from icl_lens.studies.anchors.diagnosis.summary import average, compare, correlations, lowest, why_undefined
from tests import artifacts

from ..conftest import REPOSITORY
from ..reference.diagnosis import real as plain_real

KEY = {"model": "m", "set": "ordered-1shot", "task": "trec"}


def answers(seeds=(42, 43), classes=4, count=30, absent=None):
    generator = np.random.default_rng(0)
    rows = []
    for seed in seeds:
        for number in range(count):
            gold = int(generator.integers(classes))
            if (seed, gold) == absent:
                gold = 0
            logits = generator.normal(size=classes) + 1.5 * (np.arange(classes) == gold)
            log_probs = logits - np.log(np.exp(logits).sum())
            rows.append(
                {**KEY, "seed": seed, "prompt_id": number, "gold": gold, "prediction": gold, "class_log_probs": list(log_probs)}
            )
    return pd.DataFrame(rows)


def predicted(values, seeds=(42, 43), classes=4, directions=10):
    """Return a table of predicted confusion; ``values`` maps (seed, a, b) to the confusion."""
    rows = [
        {**KEY, "seed": seed, "prompt_id": 0, "keys": "first", "sets": 1, "layer": 2, "components": directions,
         "components_there": directions, "class_i": a, "class_j": b, "predicted_confusion": values(seed, a, b)}
        for seed in seeds
        for a in range(classes)
        for b in range(a + 1, classes)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_real_confusion_is_that_of_the_plain_reference():
    given = answers()
    compared = compare(predicted(lambda seed, a, b: 0.5), given)
    for seed, part in given.groupby("seed"):
        expected = plain_real(part["class_log_probs"].tolist(), part["gold"].tolist())
        rows = compared[compared["seed"] == seed]
        assert {(r.class_i, r.class_j): r.real for r in rows.itertuples()} == pytest.approx(expected)
        assert (rows["items_i"] == [int((part["gold"] == a).sum()) for a in rows["class_i"]]).all()
        assert (rows["items_j"] == [int((part["gold"] == b).sum()) for b in rows["class_j"]]).all()


def test_a_pair_of_which_a_class_has_no_text_stays_empty_and_is_left_out_of_the_ranks():
    compared = compare(predicted(lambda seed, a, b: a + 0.1 * b), answers(absent=(43, 2)))
    empty = compared[compared["real"].isna()]
    assert set(empty["seed"]) == {43}
    assert list(zip(empty["class_i"], empty["class_j"], strict=True)) == [(0, 2), (1, 2), (2, 3)]
    _, each = correlations(compared)
    assert dict(zip(each["seed"], each["pairs"], strict=True)) == {42: 6, 43: 3}
    # If only one seed has a value for a cell, the average is this value.
    of_42 = compared[(compared["seed"] == 42) & (compared["class_i"] == 0) & (compared["class_j"] == 2)]["real"].item()
    assert average(compared, "real")[0, 2] == of_42
    assert np.isnan(average(compared[compared["seed"] == 43], "real")[0, 2])


def test_ranks_that_agree_correlate_fully_and_no_relabelling_does_better():
    given = answers()
    real = compare(predicted(lambda seed, a, b: 0.0), given).set_index(["seed", "class_i", "class_j"])["real"]
    summary, each = correlations(compare(predicted(lambda seed, a, b: real[seed, a, b] ** 3), given))
    row = summary.iloc[0]
    assert (row["value"], row["high"], row["seeds"], row["pairs"]) == pytest.approx((1, 1, 2, 6))
    assert row["low"] == pytest.approx(1 - (1 - 0.025**0.5)), "two sets that agree leave much unknown"
    assert each["correlation"].tolist() == pytest.approx([1, 1])
    assert row["relabelled"] == pytest.approx(1 / 24)
    against, _ = correlations(compare(predicted(lambda seed, a, b: -real[seed, a, b]), given))
    assert against["value"].item() == pytest.approx(-1)
    assert against["relabelled"].item() == 1


def test_the_share_of_relabellings_is_counted_over_all_of_them():
    generator = np.random.default_rng(1)
    guess = {(seed, a, b): generator.random() for seed in (42, 43) for a in range(4) for b in range(4)}
    compared = compare(predicted(lambda seed, a, b: guess[seed, a, b]), answers())
    values = []
    for order in permutations(range(4)):
        of_seeds = []
        for _, part in compared.groupby("seed"):
            cell = {frozenset((r.class_i, r.class_j)): r.predicted for r in part.itertuples()}
            moved = [cell[frozenset((order[r.class_i], order[r.class_j]))] for r in part.itertuples()]
            of_seeds.append(pd.Series(moved).rank().corr(part["real"].reset_index(drop=True).rank()))
        values.append(np.mean(of_seeds))
    expected = np.mean([value >= values[0] - 1e-12 for value in values])
    summary, _ = correlations(compared)
    assert summary["value"].item() == pytest.approx(values[0])
    assert summary["relabelled"].item() == pytest.approx(expected)
    assert 1 / 24 <= expected < 1


def test_one_demonstration_set_has_no_interval_and_one_pair_no_correlation():
    one, _ = correlations(compare(predicted(lambda seed, a, b: a - b, seeds=(42,)), answers(seeds=(42,))))
    assert not np.isnan(one["value"].item())
    assert one[["low", "high"]].isna().to_numpy().all()
    two, each = correlations(compare(predicted(lambda seed, a, b: 1.0, classes=2), answers(classes=2)))
    assert two[["value", "low", "high", "relabelled"]].isna().to_numpy().all()
    assert each["correlation"].isna().all()


def test_matrices_are_symmetric_with_ones_on_the_diagonal_and_know_their_lowest_pair():
    compared = compare(predicted(lambda seed, a, b: (seed - 40 + a + b) / 10), answers())
    matrix = average(compared, "predicted")
    np.testing.assert_allclose(matrix, matrix.T)
    assert np.diag(matrix).tolist() == [1] * 4
    assert matrix[1, 3] == pytest.approx((0.6 + 0.7) / 2)
    assert lowest(matrix) == (0, 1)
    assert lowest(np.ones((3, 3))) is None
    assert lowest(np.where(np.eye(3), 1, np.nan)) is None
    assert lowest(np.ones((2, 2))) == (0, 1)


def test_a_set_without_any_confusion_has_no_correlation_and_the_reason_is_said():
    given = answers()
    sure = [[0.0 if c == g else -50.0 for c in range(4)] for g in given["gold"]]
    given["class_log_probs"] = given["class_log_probs"].where(given["seed"] == 42, pd.Series(sure))
    summary, each = correlations(compare(predicted(lambda seed, a, b: a + b / 3), given))
    assert each["correlation"].isna().tolist() == [False, True]
    assert (summary["seeds"].item(), np.isnan(summary["low"].item())) == (1, True)
    given["class_log_probs"] = sure
    none, _ = correlations(compare(predicted(lambda seed, a, b: a + b / 3), given))
    assert "the real confusion is the same for all pairs" in why_undefined(none.iloc[0])
    two, _ = correlations(compare(predicted(lambda seed, a, b: 1.0, classes=2), answers(classes=2)))
    assert "this needs two pairs of classes and only 1 can be measured" in why_undefined(two.iloc[0])


def test_a_seed_without_answers_is_said():
    with pytest.raises(InputError, match="the icl table has no predictions of m on trec for seed 43"):
        compare(predicted(lambda seed, a, b: 0.5), answers(seeds=(42,)))


def test_spearman_is_pearson_of_ranks_and_unknown_where_nothing_varies():
    generator = np.random.default_rng(0)
    first, second = generator.integers(0, 4, (3, 9)), generator.normal(size=9)
    expected = [pd.Series(row).rank().corr(pd.Series(second).rank()) for row in first]
    np.testing.assert_allclose(spearman(first, second), expected)
    assert np.isnan(spearman(np.ones(4), np.arange(4)))


def test_figure_14_shows_the_correlations_of_a_model_that_makes_mistakes(tmp_path, monkeypatch):
    sweep = (2, 10)
    tables = {
        "diagnosis": pd.concat([predicted(lambda seed, a, b: (a + b + seed % 2) / 9, directions=m) for m in sweep]),
        "icl": answers().assign(top_tokens=[[0]] * 60),
    }
    facts = {
        "model": {"name": "m", "family": "gpt2"},
        "observed": {
            "untrained": False,
            "left_out": 0,
            "unknown_tokens": 0,
            "next_token_loss": 3.5,
            "uniform_loss": 8.6,
            "prompts": 60,
        },
        "corpus": {"source": "builtin"},
    }
    for kind, rows in tables.items():
        about = artifacts.describe(kind, "icl_lens.studies.anchors.diagnosis.summary", {}, {"sweep": sweep}, [42, 43], **facts)
        artifacts.write(tmp_path / f"{kind}.parquet", rows, about)
    saved = []
    monkeypatch.setattr(figures, "save_figure", lambda figure, plotted, stem, notes: saved.append((plotted, notes)))
    given = {"item": "figure_14", "out": "", "studies": [tmp_path]}
    for cell in json.loads((REPOSITORY / "notebooks/anchors/figure_14.ipynb").read_text())["cells"]:
        if cell["cell_type"] == "code" and "parameters" not in cell["metadata"].get("tags", []):
            exec("".join(cell["source"]), given)  # run in this process, because a kernel takes seconds to start
    plotted, notes = saved[0]
    first = plotted[plotted["keys"] == "first"].drop_duplicates("components")
    assert first["correlation"].notna().all()
    note = " ".join(notes)
    for row in first.itertuples():
        assert f"{row.correlation:.2f} (M = {row.components})" in note
