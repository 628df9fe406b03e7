"""Tests of the files that belong to the study of components: its claims, its configs, and the script that splits a file."""

import io
import json
import subprocess
import sys
from pathlib import PurePosixPath

import pytest

from icl_lens.config import parse, plan
from icl_lens.organism.recipe import Recipe
from icl_lens.report import claims
from icl_lens.studies import registry
from icl_lens.studies.component_reweighting.components.summary import BAD, BEST, BIASED, CHANCE, GAIN, PAIRS
from icl_lens.studies.component_reweighting.settings import CALIBRATED, FEW_SHOT, REWEIGHTED, STRICT
from icl_lens.studies.component_reweighting.templates import task_templates

from ..conftest import REPOSITORY

CLAIMS = REPOSITORY / "src/icl_lens/resources/claims/component_reweighting.yaml"
DIVIDE = REPOSITORY / "examples/component_reweighting/divide.py"


def test_every_claim_is_about_an_item_of_its_group_and_rows_that_are_made():
    paper = claims.load(CLAIMS)
    known = {
        "method": {f"{a}-{n} - {b}-{n}" for a in (REWEIGHTED, STRICT) for b in (FEW_SHOT, CALIBRATED) for n in (12, 24)},
        "measure": {BEST, GAIN, CHANCE, BAD, BIASED, "r", "r_apart", "sd best", "sd full"},
        "pair": set(PAIRS),
        "task": {"mean of tasks"},
        "step": {0},
    }
    for claim in paper.claims:
        assert registry.items()[claim.item].group == "component_reweighting"
        assert claims.rule_in_words(claim)
        for column, value in {**claim.rule.rows, **(claim.rule.minus or {})}.items():
            assert set(value if isinstance(value, list) else [value]) <= known[column], claim.id
    assert {claim.id[:2] for claim in paper.claims} == {"b1", "b2", "b3", "b4", "b5", "b6"}


def test_the_papers_config_has_its_eight_tasks_three_shifts_and_wordings_of_all():
    overlay = parse.load(REPOSITORY / "config.yaml", REPOSITORY / "config/component_reweighting.yaml")
    tasks = {*overlay.tasks, *overlay.own_tasks}
    assert tasks == {
        *("sst2", "boolq", "qqp", "wic", "rte", "mnli", "agnews", "arc_easy"),
        *("yelp", "boolq_contrast", "mednli"),
    }
    for name in tasks:
        task = overlay.task(name)
        assert len(task_templates(name, task.template, overlay.studies.components.templates)) == 4
    assert set(overlay.own_tasks) == set(overlay.studies.components.templates)


def test_a_figure_of_training_shows_checkpoints_that_the_default_recipe_saves_and_else_nothing():
    default = parse.load(REPOSITORY / "config.yaml")
    assert default.shown("cr_figure_3")[0] == []
    overlay = parse.load(REPOSITORY / "config.yaml", REPOSITORY / "config/training-dynamics.yaml")
    shown = overlay.shown("cr_figure_3")[0]
    assert [model.name for model in overlay.models] == shown
    steps = [model.step for model in overlay.models]
    assert set(steps) <= set(Recipe().checkpoint_steps())
    assert all(model.path == f"results/training/checkpoints/step-{model.step:06d}" for model in overlay.models)


@pytest.mark.parametrize("arc", [False, True])
def test_a_file_is_divided_by_its_seed(tmp_path, arc):
    rows = [{"text": f"t{n}", "label": "a"} for n in range(7)]
    if arc:
        labels = ("A", "B", "C", "D"), ("1", "2", "3", "4"), ("A", "B", "C")
        rows = [
            {"question": {"stem": "Why?", "choices": [{"text": f"w{x}", "label": x} for x in each]}, "answerKey": each[2]}
            for each in labels
        ]
    (tmp_path / "one.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = [sys.executable, str(DIVIDE), str(tmp_path / "one.jsonl"), str(tmp_path / "two"), *(["--arc"] if arc else [])]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    parts = [[*map(json.loads, (tmp_path / "two" / f"{name}.jsonl").read_text().splitlines())] for name in ("train", "test")]
    if arc:
        assert "1 rows for training, 1 for testing, 1 excluded" in said
        assert {row["label"] for part in parts for row in part} == {"C"}
        assert sorted(row["text"] for part in parts for row in part) == [
            "Why? A: w1 B: w2 C: w3 D: w4",
            "Why? A: wA B: wB C: wC D: wD",
        ]
    else:
        assert [len(part) for part in parts] == [3, 4]
        assert sorted(row["text"] for part in parts for row in part) == [row["text"] for row in rows]
        assert [row["text"] for part in parts for row in part] != [row["text"] for row in rows]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ('{"question": {"stem": "Why?"}}\n', "line 1: not a multiple-choice item of ARC"),
        ("\n[1]\n", "line 2: each line must be a JSON object"),
    ],
)
def test_a_file_that_cannot_be_divided_is_told_with_its_line(tmp_path, content, sentence):
    (tmp_path / "one.jsonl").write_text(content)
    command = [sys.executable, str(DIVIDE), str(tmp_path / "one.jsonl"), str(tmp_path / "two"), "--arc"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert sentence in done.stderr
    assert not (tmp_path / "two").exists()


def test_a_plan_counts_the_job_once_and_the_texts_that_it_asks():
    lines = ["output_file\tdate\trule\tlog-file(s)\tstatus\tplan"]
    path = "r/studies/organism/agnews/labelled-24/components"
    lines += [f"{path}.{ending}\t-\tcomponents\t-\tmissing\tupdate pending" for ending in ("parquet", "safetensors")]
    counts, paths = plan.jobs(io.StringIO("\n".join(lines) + "\n"))
    assert counts == {"components": 1}
    assert paths == [PurePosixPath(f"{path}.parquet")]
    default = parse.load(REPOSITORY / "config.yaml")
    overlaid = parse.parse({"queries": 20})
    assert plan.estimate(default, paths[0]).predicted.prompts == len(default.seeds) * default.studies.components.queries
    assert plan.estimate(overlaid, paths[0]).predicted.prompts == len(overlaid.seeds) * 20
