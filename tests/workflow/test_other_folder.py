"""Tests of runs in another working folder, and of what is checked before the first job: models, texts and targets."""

import json
import shutil

import pytest

from icl_lens.results import audit
from icl_lens.studies import registry

from .test_workflow import jobs, refused

OWN = {"template": "Review: {text}\nVerdict:{label}", "label_words": {"pos": " good", "neg": " bad"}}


@pytest.fixture(scope="module")
def elsewhere(with_model, tmp_path_factory):
    """A function that runs the clone's workflow in an empty folder, with the tiny model in a home folder."""
    folder, home = tmp_path_factory.mktemp("an empty folder"), tmp_path_factory.mktemp("home")
    shutil.copytree(with_model.folder / "my models/tiny", home / "tiny")

    def run(*arguments):
        return with_model.snakemake(
            "--snakefile", with_model.folder / "Snakefile", *arguments, folder=folder, HOME=str(home), DATA=str(home)
        )

    run.folder, run.home = folder, home
    return run


def write(folder, name, **keys):
    (folder / name).write_text(json.dumps(keys))


@pytest.mark.long
def test_a_run_in_an_empty_folder_with_a_model_in_the_home_folder(elsewhere):
    write(
        elsewhere.folder,
        "c.yaml",
        **{"models": [{"name": "tiny", "path": "~/tiny"}], "tasks": ["trec"], "results": "$DATA/results", "seeds": [42]},
        **{"queries": 2, "device": "cpu", "groups": ["anchors"]},
    )
    done = elsewhere("figure_7", "--cores", "2", "--configfile", "c.yaml")
    assert done.returncode == 0, done.stdout
    assert (elsewhere.home / "results/figures/figure_7.pdf").is_file()
    assert not audit.audit(elsewhere.home / "results", registry.schemas())[1]
    assert "profiles/default for setting default" in done.stdout, "the repository's profile applies here, too"


def test_the_defaults_are_found_from_an_empty_folder_and_an_empty_config_means_the_defaults(elsewhere):
    planned = jobs(elsewhere("rc_rsa", "-n"))
    assert planned["representation_change_study"] == 2
    (elsewhere.folder / "config.yaml").touch()
    try:
        assert jobs(elsewhere("rc_rsa", "-n")) == planned
    finally:
        (elsewhere.folder / "config.yaml").unlink()


@pytest.mark.long
def test_only_what_the_requested_items_need_is_checked(clone):
    missing = {"models": [{"name": "x", "path": "no/such/folder"}], "representation_models": [{"name": "y", "path": "none"}]}
    overlay = clone.config("missing-models", **missing, tasks=["sst2"])
    assert clone.snakemake("table_4", "-n", "--configfile", overlay.name).returncode == 0
    assert refused(clone, "figure_3", "--configfile", overlay.name) == "model folder no/such/folder does not exist"
    assert refused(clone, "rc_rsa", "--configfile", overlay.name) == "model folder none does not exist"


def test_a_quantised_checkpoint_is_refused_before_any_job(with_model):
    folder = shutil.copytree(with_model.folder / "my models/tiny", with_model.folder / "quantised")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "gptq", "bits": 4}}))
    overlay = with_model.config("quantised-model", models=[{"name": "q", "path": "quantised"}], tasks=["sst2"])
    sentence = refused(with_model, "figure_3", "--configfile", overlay.name)
    assert sentence.startswith("model folder quantised: config.json describes quantised weights (GPTQ, 4 bits), which are not")


@pytest.mark.parametrize(
    ("target", "sentence"),
    [
        ("figure_99", "'figure_99' is not a target; did you mean 'figure_9'?"),
        (
            "results/figures/figure_3.pfd",
            "'results/figures/figure_3.pfd' is not a target; write figure_3, which makes all files",
        ),
    ],
)
def test_an_unknown_target_is_one_sentence_with_the_nearest_one(clone, target, sentence):
    assert refused(clone, target).startswith(sentence)


@pytest.fixture(scope="module")
def rare(with_model):
    """The config of a task with a single training text of one class, next to a task with enough texts."""
    folder = with_model.folder / "rare"
    folder.mkdir()
    rows = [f"text number {number} is fine,pos" for number in range(12)]
    (folder / "train.csv").write_text("\n".join(["text,label", *rows, "a dull text,neg"]) + "\n")
    (folder / "test.csv").write_text("\n".join(["text,label", *rows[:4], "a slow text,neg"]) + "\n")
    own = {**OWN, "train": "rare/train.csv", "test": "rare/test.csv"}
    keys = {"models": [{"name": "tiny", "path": "my models/tiny"}], "tasks": ["rare", "trec"], "own_tasks": {"rare": own}}
    settings = {"queries": 2, "seeds": [42], "device": "cpu"}
    return with_model, with_model.config("rare-class", **keys, **settings, groups=["anchors"], results="rare/results")


def test_a_rare_class_is_left_out_of_the_items_that_need_more_before_any_job(rare):
    clone, overlay = rare
    done = clone.snakemake("-n", "--configfile", overlay.name)
    assert done.returncode == 0, done.stdout
    told = [line for line in done.stdout.splitlines() if line.startswith("task rare is left out of ")]
    assert len(told) == 3, "two fresh demonstrations, two shared ones, and the training texts of re-weighting"
    assert (
        "task rare is left out of figure_9: class 1 (bad) has 1 training text, but the prompts fresh-2shot need 2 per class; "
        "add texts to rare/train.csv (own_tasks.rare.train) or set items.ITEM.tasks without it or remove rare from tasks"
    ) in told
    assert "Building prompts of rare, fresh-1shot" in done.stdout
    assert "Building prompts of trec, fresh-2shot" in done.stdout
    assert "Building prompts of rare, fresh-2shot" not in done.stdout


@pytest.mark.long
def test_an_item_without_any_task_with_enough_texts_is_refused_by_name(rare):
    clone, overlay = rare
    arguments = ("--configfile", overlay.name, "--config", "tasks=[rare]")
    sentence = refused(clone, "figure_9", *arguments)
    assert sentence == (
        "figure_9 cannot be made: task rare: class 1 (bad) has 1 training text, but the prompts fresh-2shot need 2 per class; "
        "add texts to rare/train.csv (own_tasks.rare.train)"
    )
    assert jobs(clone.snakemake("figure_3", "-n", *arguments))["figure"] == 1
