"""Tests of kernel regression on hidden Markov models.

They compare it with enumeration and plain loops, and check the properties of a run.
"""

import numpy as np
import pandas as pd
import pytest

from icl_lens.cli import commands
from icl_lens.config import parse
from icl_lens.errors import InputError
from icl_lens.results import audit
from icl_lens.studies import registry
from icl_lens.studies.kernel_regression.hidden_markov import compute as hidden_markov
from icl_lens.studies.kernel_regression.hidden_markov.compute import (
    compute,
    draw_model,
    draw_sequences,
    features,
    forward,
    inverse_moment,
    log_next,
    posterior,
    regression,
)
from icl_lens.studies.kernel_regression.hidden_markov.study import STUDY, Settings
from icl_lens.studies.kernel_regression.hidden_markov.summary import PAPER, summarise
from icl_lens.studies.run_synthetic import run_synthetic
from tests import artifacts

from ..reference import hidden_markov as reference

# The model is small, and its distributions are flat enough that each path matters.
TINY = Settings(
    tasks=2,
    states=4,
    observations=4,
    length=3,
    transition_concentration=1.0,
    emission_concentration=0.5,
    demonstrations=[1, 2],
    limit=4,
    trials=3,
    seeds=[0],
    pretraining=50,
)
SMALL = Settings(
    tasks=4,
    states=16,
    observations=20,
    length=5,
    demonstrations=[1, 4, 16, 64],
    limit=512,
    trials=40,
    seeds=[0, 1, 2],
    pretraining=500,
)


@pytest.fixture(scope="module")
def tiny():
    """Return a model, and sequences with their labels and tasks."""
    generator = np.random.default_rng(3)
    model = draw_model(TINY, generator)
    tasks = np.array([0, 1, 1, 0, 1])
    return model, draw_sequences(model, tasks, TINY.length + 1, generator)


@pytest.fixture(scope="module")
def small():
    return compute(SMALL)


def test_the_forward_algorithm_agrees_with_the_sum_over_all_paths(tiny):
    model, sequences = tiny
    matrices = reference.merged(model.transitions, model.emissions)
    for length in (1, 2, 4):
        found = forward(model, sequences[:, :length])
        for row, tokens in enumerate(sequences[:, :length].tolist()):
            for task in range(TINY.tasks):
                plain = reference.sequence_probability(*matrices, task * (TINY.states // TINY.tasks), tokens)
                assert np.exp(found.log_evidence[row, task]) == pytest.approx(plain, rel=1e-10, abs=1e-15)
    longer = log_next(model, forward(model, sequences[:, :3]), sequences[:, 3])
    assert np.allclose(longer, forward(model, sequences).log_evidence, rtol=1e-10)


def test_the_posterior_agrees_with_the_enumeration_of_the_whole_mixture(tiny):
    model, sequences = tiny
    evidence = forward(model, sequences).log_evidence  # joint evidence of x and y
    for count in (1, 3):
        found = posterior(model, evidence[:count].sum(0)[None], forward(model, sequences[4:, :3]))[0]
        plain = reference.posterior(
            model.transitions, model.emissions, sequences[:count, :3].tolist(), sequences[:count, 3], sequences[4, :3].tolist()
        )
        assert found == pytest.approx(plain, rel=1e-9)
        assert found.sum() == pytest.approx(1)


@pytest.mark.parametrize("clip", [True, False])
def test_equation_6_agrees_with_plain_loops(tiny, clip):
    model, sequences = tiny
    found = features(forward(model, sequences[:, :3]))
    plain = [reference.vec(model.transitions, model.emissions, tokens) for tokens in sequences[:, :3].tolist()]
    assert np.allclose(found, plain, rtol=1e-9)

    drawn = np.random.default_rng(5)
    inverse = inverse_moment(model, TINY, drawn)
    again = np.random.default_rng(5)
    tasks = again.integers(0, TINY.tasks, TINY.pretraining)
    pretraining = draw_sequences(model, tasks, TINY.length, again).tolist()
    vectors = [reference.vec(model.transitions, model.emissions, tokens) for tokens in pretraining]
    sigma_inverse = reference.inverse(vectors, TINY.ridge)
    assert np.allclose(inverse, sigma_inverse, rtol=1e-6)

    kernel = found[:1] @ inverse @ found[1:].T  # (1, 4)
    voted = regression(kernel.clip(min=0) if clip else kernel, sequences[None, 1:, 3], TINY.observations)[0]
    expected = reference.eq_6(plain[0], plain[1:], sequences[1:, 3], sigma_inverse, TINY.observations, clip)
    assert voted == pytest.approx(expected, rel=1e-6)


def test_a_kernel_of_zeros_lets_every_demonstration_weigh_the_same():
    assert regression(np.zeros((1, 4)), np.array([[0, 1, 1, 2]]), 4).tolist() == [[0.25, 0.5, 0.25, 0.0]]


def test_a_sequence_that_a_task_cannot_emit_rules_that_task_out():
    transitions = np.eye(2)[None].repeat(2, 0)  # each chain stays in its initial state
    emissions = np.zeros((2, 2, 3))
    emissions[0, 0, 0] = emissions[1, 0, 1] = emissions[:, 1, 2] = 1
    found = forward(hidden_markov.Model(transitions, emissions), np.array([[0, 0], [1, 1]]))
    assert found.log_evidence.tolist() == [[0, -np.inf], [-np.inf, 0]]
    assert features(found).tolist() == [[2, 0, 0, 0], [0, 0, 2, 0]]


def test_no_token_is_drawn_that_has_no_chance():
    model = draw_model(SMALL, np.random.default_rng(0))
    tasks = np.repeat(np.arange(4), 200)
    tokens = draw_sequences(model, tasks, 6, np.random.default_rng(1))
    evidence = forward(model, tokens).log_evidence
    assert np.isfinite(evidence[np.arange(len(tasks)), tasks]).all()


def test_with_one_demonstration_the_distance_is_twice_what_the_posterior_leaves_its_label(small):
    one = small[small["n"] == 1]
    # With a unit vector, the L1 distance is 2 (1 - p of its label). Where both agree, p is the confidence.
    both = one[one["agrees"]]
    assert len(both) > 10
    assert np.allclose(both["distance"], 2 * (1 - both["confidence"]))


def test_the_distance_falls_with_n_to_a_floor_and_the_accuracy_rises(small):
    distance = small.groupby("n")["distance"].mean().tolist()
    assert distance == sorted(distance, reverse=True)
    assert 0 < distance[-1] < 0.2 * distance[0]
    agrees = small.groupby("n")["agrees"].mean()
    assert agrees[64] > agrees[1] + 0.1


def test_rows_come_seed_by_seed_trial_by_trial_with_the_limit_last(small):
    assert len(small) == 3 * 40 * 5
    assert small["seed"].tolist() == np.repeat([0, 1, 2], 200).tolist()
    assert small["trial"].head(10).tolist() == [0] * 5 + [1] * 5
    assert small["n"].head(5).tolist() == [1, 4, 16, 64, 512]
    assert small["limit"].head(5).tolist() == [False] * 4 + [True]


def test_the_same_seeds_give_the_same_bytes_and_others_do_not(tmp_path):
    for name in "ab":
        run_synthetic(STUDY, tmp_path / f"synthetic/{name}.parquet", TINY)
    assert (tmp_path / "synthetic/a.parquet").read_bytes() == (tmp_path / "synthetic/b.parquet").read_bytes()
    # Each model is drawn from its own seed, so the other seeds of a run do not change it.
    both = compute(TINY.model_copy(update={"seeds": [0, 9]}))
    assert both[both["seed"] == 0].equals(compute(TINY))
    assert not both[both["seed"] == 9]["distance"].reset_index(drop=True).equals(compute(TINY)["distance"])
    table, about = artifacts.read(tmp_path / "synthetic/a.parquet", "hidden_markov")
    assert about["seeds"] == [0]
    assert about["settings"]["clip"] is True
    assert len(table) == 9


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ("states: 81", "states must be a multiple of tasks, got 81 states and 8 tasks"),
        ("seeds: [1, 1]", "seeds must not contain duplicates, got [1, 1]"),
        ("demonstrations: [1, 1]", "demonstrations must not contain duplicates, got [1, 1]"),
        ("limit: 128", "limit must be greater than the largest number of demonstrations, 128, got 128"),
        ("ridge: 0.0", "greater than 0"),
        ("trails: 3", "unknown key 'studies.hidden_markov.trails'"),
    ],
)
def test_settings_that_cannot_be_used_are_refused_in_one_sentence(changed, said, tmp_path, capsys):
    out = tmp_path / "synthetic/hidden_markov.parquet"
    assert commands.main(["hidden-markov", "--settings", f"{{{changed}}}", "--out", str(out)]) == 1
    assert said in capsys.readouterr().err
    assert not out.exists()


def test_weights_that_cancel_are_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(hidden_markov, "_model_rows", lambda settings, seed: pd.DataFrame({"distance": [1e9]}))
    with pytest.raises(InputError, match=r"positive and negative kernel values cancel.*clip to true"):
        run_synthetic(STUDY, tmp_path / "x.parquet", TINY)
    assert not (tmp_path / "x.parquet").exists()


def test_a_log_says_how_many_seeds_are_done(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: False, raising=False)
    with caplog.at_level("INFO"):
        run_synthetic(STUDY, tmp_path / "synthetic/x.parquet", TINY)
    assert caplog.messages[0].startswith("hidden_markov: 1 of 1 seeds, ")
    assert caplog.messages[-1].endswith("x.parquet: 9 rows")


def test_a_study_that_reads_prompts_is_not_run_without_them(tmp_path):
    with pytest.raises(ValueError, match="study rewritten reads prompts"):
        run_synthetic(registry.study("rewritten"), tmp_path / "x.parquet")


def test_the_command_writes_what_its_settings_say(tmp_path):
    out = tmp_path / "synthetic/hidden_markov.parquet"
    given = TINY.model_dump_json()
    assert commands.main(["hidden-markov", "--settings", given, "--out", str(out)]) == 0
    assert parse.parse_settings("hidden_markov", given) == TINY
    assert artifacts.read(out, "hidden_markov")[0]["distance"].tolist() == compute(TINY)["distance"].tolist()


def test_the_audit_knows_the_table_and_finds_what_is_wrong_with_it(tmp_path):
    out = tmp_path / "synthetic/hidden_markov.parquet"
    run_synthetic(STUDY, out, TINY)
    assert audit.audit(tmp_path, [STUDY.schema]) == (1, [])
    table, about = artifacts.read(out, "hidden_markov")
    artifacts.write(out, pd.concat([table, table.head(2)]), about)
    assert "duplicate rows: 2 (same seed, trial, task, n, limit)" in audit.audit(tmp_path, [STUDY.schema])[1][0].sentence
    (tmp_path / "synthetic/notes.txt").write_text("")
    assert any("unexpected file" in fault.sentence for fault in audit.audit(tmp_path, [STUDY.schema])[1])


def test_the_summary_has_the_means_their_intervals_and_the_papers_values(small):
    table = summarise(small)
    distance = table[table["metric"] == "distance"].set_index("n")
    assert distance["value"].tolist() == pytest.approx(small.groupby("n")["distance"].mean().tolist())
    assert (distance["low"] < distance["value"]).all()
    assert (distance["value"] < distance["high"]).all()
    assert distance.loc[1, "paper"] == PAPER[1][0] == 1.322
    assert distance["limit"].tolist() == [False] * 4 + [True]
    assert np.isnan(distance.loc[512, "paper"])
    assert (distance["models"] == 3).all()
    one = table.set_index("metric")
    assert one.loc["trend", "value"] == one.loc["trend", "low"] == -1
    expected = distance.loc[512, "value"] - distance.loc[64, "value"] * np.sqrt(64 / 512)
    assert one.loc["beyond_sampling", "value"] == pytest.approx(expected)


def test_a_table_that_lacks_an_n_is_refused(small):
    with pytest.raises(InputError, match="lacks a number of demonstrations"):
        summarise(small.drop(index=1))
