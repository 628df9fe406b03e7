"""Tests that planning a run with many models does no work twice, counted in calls. Nothing here asserts a time."""

import json
import re
import shutil
import subprocess
import sys
from collections import Counter

import pytest

from icl_lens.config import panels_per_figure, plan
from icl_lens.config.parse import parse
from icl_lens.errors import InputError

from ..conftest import REPOSITORY

MODELS = 6

# Run `snakemake` and count the calls of functions that read files or go through all models.
COUNTED = """
import collections, json, sys
from icl_lens.artifacts import hashes
from icl_lens.config import parse as config
from icl_lens.config.keys import Config
from icl_lens.hub import checkpoints
from icl_lens.studies import registry

calls = collections.Counter()

def count(owner, name):
    function = getattr(owner, name)
    def counted(*arguments, **options):
        calls[name] += 1
        return function(*arguments, **options)
    setattr(owner, name, counted)

for owner, names in (
    (checkpoints, ("checkpoint_files", "checkpoint_hash")),
    (hashes, ("cached_file_hash",)),
    (Config, ("shown", "settings")),
    (config, ("parse",)),
):
    for name in names:
        count(owner, name)
from snakemake.cli import main
try:
    main(sys.argv[2:])
finally:
    with open(sys.argv[1], "w") as file:
        json.dump(calls, file)
"""


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    """Return the number of calls and the output of a dry run of one task and some models."""
    folder = tmp_path_factory.mktemp("scale")
    for number in range(MODELS):
        shutil.copytree(REPOSITORY / "src/icl_lens/organism/checkpoint", folder / f"model-{number}")
    models = [{"name": f"model-{number}", "path": f"model-{number}"} for number in range(MODELS)]
    config = {"models": models, "tasks": ["sst2"], "device": "cpu", "groups": ["anchors"]}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "counted.py").write_text(COUNTED)
    done = subprocess.run(
        [
            *(
                sys.executable,
                "counted.py",
                "calls.json",
                "studies",
                "-n",
                "--cores",
                "1",
                "--quiet",
                "rules",
                "reason",
                "host",
            ),
            *("--snakefile", REPOSITORY / "Snakefile", "--workflow-profile", REPOSITORY / "profiles/default"),
            *("--configfile", "config.json"),
        ],
        cwd=folder,
        env={"PYTHONPATH": str(REPOSITORY / "src"), "PATH": "/usr/bin:/bin", "HOME": str(folder), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return Counter(json.loads((folder / "calls.json").read_text())), done.stdout


def test_files_of_a_model_are_read_once_for_all_its_jobs(planned):
    calls, output = planned
    jobs = int(re.search(r"^total\s+(\d+)", output, re.MULTILINE)[1])
    assert jobs > 20 * MODELS, "each model has many jobs"
    assert calls["checkpoint_hash"] == MODELS
    assert calls["checkpoint_files"] == 3 * MODELS, "once to check the model, once for the inputs and once for the hash"
    # Five files per model, the notebooks and the parts of the report page.
    assert calls["cached_file_hash"] < 5 * MODELS + 60


def test_the_config_is_read_once_and_not_for_each_job(planned):
    calls, _ = planned
    assert calls["parse"] == 1
    # Once for each item and kind of check, and once for each study of each task.
    assert calls["shown"] < 300
    assert calls["settings"] < 150


def test_the_target_studies_requests_no_figure(planned):
    _, output = planned
    rules = set(re.findall(r"^(\w+)\s+\d+$", output, re.MULTILINE))
    assert {"icl", "saliency", "isolation", "compression"} <= rules
    assert not {"figure", "table", "report"} & rules


def test_a_model_is_found_by_its_name_without_a_search(monkeypatch):
    config = parse({"models": [{"name": f"model-{number}", "path": "folder"} for number in range(300)]})
    compared = Counter()

    class Name(str):
        def __eq__(self, other):
            compared["names"] += 1
            return super().__eq__(other)

        __hash__ = str.__hash__

    assert config.model(Name("model-299")).name == "model-299"
    assert compared["names"] <= 2
    assert config.all_models[-1].name == "reader"


def test_a_copy_of_a_config_finds_its_own_models():
    config = parse({})
    assert config.model("organism").name == "organism"
    copied = config.model_copy(update={"models": [config.models[0].model_copy(update={"name": "other"})]})
    assert copied.model("other").name == "other"
    assert [model.name for model in copied.all_models] == ["other", "reader"]
    with pytest.raises(KeyError):
        copied.model("organism")
    assert config == parse({})


def test_the_plan_goes_through_the_jobs_once(monkeypatch, tmp_path):
    shown = Counter()

    def of_attribute(self, name):
        shown[name] += 1
        return object.__getattribute__(self, name)

    monkeypatch.setattr(plan.StudyJob, "__getattribute__", of_attribute, raising=False)
    models = [{"name": f"model-{number}", "path": "src/icl_lens/organism/checkpoint"} for number in range(20)]
    monkeypatch.chdir(REPOSITORY)
    config = parse({"models": models, "tasks": ["sst2"]})
    paths = [f"results/studies/model-{number}/sst2/fresh-1shot/icl.parquet" for number in range(20)]
    rows = "".join(f"{path}\t-\ticl\t-\tmissing\tupdate pending\n" for path in paths)
    lines = list(plan.report(config, ["output_file\tdate\trule\tlog-file(s)\tstatus\tplan\n", *rows.splitlines(True)]))
    assert sum(line.startswith("| model-") for line in lines) == 20
    assert shown["study"] <= 10 * len(paths), "it reads each job a constant number of times"


@pytest.mark.parametrize("key", ["models", "representation_models"])
def test_a_figure_of_too_many_models_is_one_sentence(key):
    item = "figure_3" if key == "models" else "rc_rsa"
    models = [{"name": f"model-{number}", "path": "folder"} for number in range(panels_per_figure.MOST_MODELS + 1)]
    with pytest.raises(InputError) as error:
        panels_per_figure.require(parse({key: models}), item)
    assert str(error.value) == (
        f"{item} shows 51 models, but a figure shows at most 50; name fewer in items.{item}.models or {key}, or run "
        "`snakemake studies` for the results of all models without figures"
    )
    panels_per_figure.require(parse({key: models[1:]}), item)
    panels_per_figure.require(parse({"models": models}), "table_1")
    panels_per_figure.require(parse({key: models, "items": {item: {"models": ["model-0"]}}}), item)
