"""Tests of training as users run it: from scratch, after a kill, and only on request."""

import json
import os
import re
import signal
import time
from pathlib import Path

import pandas as pd
import pytest

from icl_lens.artifacts import audit
from icl_lens.studies import registry
from tests import artifacts

from .test_workflow import jobs, refused

ORGANISM = {
    "steps": 120,
    "warm_up": 5,
    "checkpoints": 5,
    "architecture": {"width": 16, "layers": 2, "feed_forward": 16},
    "episodes": {"demonstrations": [8, 12], "demonstrations_per_step": 120},
    "curriculum": {"patience": 3},
    "evaluation": {"prompts": 24, "curve_prompts": 12},
}


@pytest.fixture(scope="module")
def overlay(clone) -> Path:
    return clone.config(
        "training-of-mine",
        results="trained",
        models=[{"name": "mine", "path": "trained/training/model"}],
        tasks=["sst2", "trec"],
        seeds=[42],
        queries=3,
        device="cpu",
        organism=ORGANISM,
        groups=["anchors"],
    )


@pytest.fixture(scope="module")
def trained(clone, overlay) -> tuple[str, str]:
    """The log before the kill and the final log of a training target that was killed once and then resumed."""
    work, log = clone.folder / "trained/training/unfinished", clone.folder / "trained/logs/training/training.log"
    arguments = ["organism", "--cores", "1", "--configfile", overlay.name]
    with clone.start(*arguments) as process:
        deadline = time.monotonic() + 120
        while not (work / "checkpoints/step-000052").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
    before = log.read_text()
    assert not (clone.folder / "trained/training/model").exists()
    done = clone.snakemake(*arguments)
    assert done.returncode == 0, done.stdout
    return before, log.read_text()


@pytest.mark.long
def test_a_killed_training_goes_on_where_it_was(trained, clone):
    before, after = trained
    assert "goes on" not in before
    assert int(re.search(r"goes on after step (\d+)", after)[1]) >= 23
    assert not (clone.folder / "trained/training/unfinished").exists()


@pytest.mark.long
def test_the_target_makes_checkpoints_card_and_learning_curve(trained, clone):
    results = clone.folder / "trained"
    assert [folder.name for folder in sorted((results / "training/checkpoints").glob("step-*"))] == [
        f"step-{step:06d}" for step in (0, 10, 23, 52, 120)
    ]
    card = json.loads((results / "training/model/card.json").read_text())
    assert card["training"]["steps"] == 120
    assert "| paper's label words" in (results / "training/model/README.md").read_text()
    for ending in ("pdf", "svg", "png", "csv"):
        assert (results / f"figures/organism_learning_curve.{ending}").stat().st_size > 0
    assert "built-in look-alikes" in (results / "figures/organism_learning_curve.svg").read_text()
    table, _ = artifacts.read(results / "training/training.parquet", "training")
    assert table["step"].tolist() == [50, 100, 120]


@pytest.mark.long
def test_what_was_trained_hangs_together(trained, clone):
    checked, faults = audit.audit(clone.folder / "trained", registry.schemas())
    assert checked == 5  # two corpora, the training and evaluation tables, the figure
    assert not faults


@pytest.mark.long
def test_it_is_not_trained_again(trained, clone, overlay):
    assert "Nothing to be done" in clone.snakemake("organism", "--cores", "1", "--configfile", overlay.name).stdout


@pytest.mark.long
def test_the_trained_model_is_studied_and_never_trained_by_all(trained, clone, overlay):
    planned = jobs(clone.snakemake("-n", "--configfile", overlay.name))
    # For 2 tasks: 2 fresh prompt sets with 2 studies and 2 shared sets with 3 studies. In addition: 3 studies of SST-2 with
    # labels A and B, 2 of one prompt, 2 of each task for the interactive prompts. For each task: controls of 2 studies,
    # compression and latency. Finally, 1 of real confusion.
    others = ("reweighting", "diagnosis")
    studied = [planned.get(registry.rule(study), 0) for name, study in registry.studies().items() if name not in others]
    assert sum(studied) == 8 + 12 + 3 + 2 + 4 + 8 + 1
    assert (planned["reweighting"], planned["diagnosis"]) == (2, 1)
    assert "training" not in planned
    # A changed recipe does not trigger training either.
    planned = jobs(clone.snakemake("-n", "--configfile", overlay.name, "--config", "organism={seed: 9}"))
    assert "training" not in planned
    planned = jobs(clone.snakemake("-n", "organism", "--configfile", overlay.name, "--config", "organism={seed: 9}"))
    assert planned["training"] == 1
    done = clone.snakemake("figure_7", "--cores", "1", "--configfile", overlay.name)
    assert done.returncode == 0, done.stdout
    assert (clone.folder / "trained/figures/figure_7.pdf").is_file()


@pytest.mark.long
def test_its_checkpoints_are_studied_by_all_once_they_are_there(trained, clone, overlay):
    groups = ("--config", "groups=[component_reweighting]")
    planned = jobs(clone.snakemake("-n", "--configfile", overlay.name, *groups))
    saved = len(list((clone.folder / "trained/training/checkpoints").glob("step-*")))
    assert saved > 2
    assert planned["components"] == 2 * (1 + saved)
    assert "training" not in planned
    done = clone.snakemake(
        "cr_figure_3", "--cores", "2", "--configfile", overlay.name,
        "--config", "tasks=[sst2]", "studies={components: {queries: 2, epochs: 5, calibration_epochs: 5, sweep: []}}",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    shown = pd.read_csv(clone.folder / "trained/figures/cr_figure_3.csv")
    assert shown.loc[shown["step"] >= 0, "step"].nunique() == saved  # the summary over training has step -1


def test_the_default_never_trains(clone):
    assert "training" not in jobs(clone.snakemake("-n"))


def test_a_model_that_is_not_trained_yet_is_one_sentence(clone):
    path = "untrained/training/model"
    overlay = clone.config("untrained", results="untrained", models=[{"name": "mine", "path": path}])
    sentence = f"model mine: {path} is not trained yet; `snakemake organism` with this config trains it"
    assert refused(clone, "--configfile", overlay.name) == sentence


def test_an_architecture_that_cannot_hold_its_episodes_is_told_by_the_failed_run(clone):
    overlay = clone.config("small", tasks=["sst2", "trec"], organism=ORGANISM)
    done = clone.snakemake(
        "organism", "--cores", "1", "--configfile", overlay.name,
        "--config", "results=small", "organism={architecture: {context: 64}}",
    )  # fmt: skip
    assert done.returncode == 1
    assert re.search(r"an episode of 12 demonstrations can have \d+ tokens.* holds 64; raise", done.stdout)
    assert "Traceback" not in done.stdout
