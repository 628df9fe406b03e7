"""Tests of the whole workflow with a user's own task: the example of docs/own-task.md without changes."""

import json
import re
import shutil

import pandas as pd
import pytest

from icl_lens.config import parse
from icl_lens.results import audit
from icl_lens.statistics.resampling import OVER_TASKS
from icl_lens.studies import registry
from tests import artifacts

from ..conftest import REPOSITORY
from .test_workflow import jobs, refused

SMALL = ("queries=2", "seeds=[42]", "studies={label_probes: {folds: 2}}")
# Studies of single prompts or of a part of the prompts may have as few as one prompt.
FEW = ("flow", "isolated_words", "diagnosis", "label_probes", "kernel_regression_controls")
EXAMPLE = ("--configfile", "config/own-task.yaml")
# Items of each paper and of both kinds, including Figure 6 with its own rule; `make test-long` makes all items.
SOME = ("figure_3", "figure_4", "figure_6", "table_1", "table_4", "kr_figure_2", "kr_table_2", "cr_figure_1")


EVERY = tuple(registry.items())


def shown(names=EVERY):
    """Return the given items that `all` makes from studies of the task."""
    settings = parse.load(REPOSITORY / "config/own-task.yaml")
    items = [registry.items()[name] for name in names]
    return [item for item in items if item.in_all and item.studies and not item.own_tasks and all(settings.shown(item.name))]


@pytest.fixture(scope="module", params=["some", pytest.param("all", marks=pytest.mark.long)])
def example(clone, request):
    """The clone, the results folder, the items' names and the command's arguments, after a run of config/own-task.yaml."""
    names = SOME if request.param == "some" else tuple(registry.items())
    arguments = ("--cores", "2", *(names if request.param == "some" else ()), *EXAMPLE, "--config", *SMALL)
    done = clone.snakemake(*arguments)
    assert done.returncode == 0, done.stdout
    results = clone.folder / "results/own-task"
    yield clone, results, names, arguments
    # This folder is inside the results of `tiny_run`, and other tests count the files there.
    shutil.rmtree(results)


def test_every_study_of_every_item_works_on_it(example):
    _, results, names, _ = example
    items = shown(names)
    assert {item.group for item in items} == {"anchors", "kernel_regression", "component_reweighting"}
    settings = parse.load(REPOSITORY / "config/own-task.yaml")
    for item in items:
        assert settings.shown(item.name)[1] == ["tickets"]
        for study in item.studies:
            table, about = artifacts.read(results / f"studies/organism/tickets/{item.set}/{study}.parquet", study)
            assert table["prompt_id"].nunique() in ((1, 2) if study in FEW else (2,)), study
            assert about["corpus"]["source"] == "files"
    assert not audit.audit(results, registry.schemas())[1]


def test_every_figure_bears_its_title(example):
    _, results, names, _ = example
    figures = [item for item in shown(names) if item.kind == "figure"]
    assert len(figures) > 3
    for item in figures:
        lines = re.findall(r">([^<>]+)<", (results / f"figures/{item.name}.svg").read_text())
        assert "Support tickets" in " ".join(" ".join(lines).split()), item.name
        assert set(pd.read_csv(results / f"figures/{item.name}.csv")["task"].dropna()) - {OVER_TASKS} == {"tickets"}


def test_table_4_holds_its_template_and_label_words(example):
    _, results, _, _ = example
    table = pd.read_csv(results / "tables/table_4.csv").astype(str)
    (row,) = table.to_numpy().tolist()
    told = "\n".join(row)
    assert "Support tickets" in told
    assert "Ticket:" in told
    assert "Team:" in told
    assert "Business" in told
    assert "Technology" in told


def test_prompts_are_written_by_its_template(example):
    _, results, _, _ = example
    prompts, _ = artifacts.read(results / "prompts/tickets/fresh-1shot.parquet", "prompts")
    for text in prompts["text"]:
        assert text.count("Ticket: ") == 3
        assert text.endswith("\nTeam:")
        assert {line for line in text.splitlines() if line.startswith("Team:")} == {
            "Team: Business",
            "Team: Technology",
            "Team:",
        }


def tables(names):
    """Return the number of tables that show the task's studies."""
    return sum(item.kind == "table" for item in shown(names))


def test_a_second_run_has_nothing_to_do_and_an_edit_of_a_text_reruns_all_of_it(example):
    clone, results, names, arguments = example
    assert "Nothing to be done" in clone.snakemake("-n", *arguments).stdout
    path = clone.folder / "examples/tickets/test.csv"
    whole = path.read_text()
    path.write_text(whole.replace("twice", "three times"))
    try:
        planned = jobs(clone.snakemake("-n", *arguments))
    finally:
        path.write_text(whole)
    assert planned["corpora"] == 1
    studied = sum(planned.get(rule, 0) for rule in {registry.rule(study) for study in registry.studies().values()})
    assert studied == len(list((results / "studies/organism/tickets").rglob("*.parquet")))
    assert planned["table"] == tables(names)  # table_4 and kr_table_3 contain no texts


def test_another_wording_is_told_apart_in_prompts_and_tables(example):
    clone, _, names, arguments = example
    own = json.loads(parse.load(clone.folder / "config/own-task.yaml").own_tasks["tickets"].model_dump_json(exclude_unset=True))
    own["template"] = "Message: {text}\nTeam:{label}"
    planned = jobs(clone.snakemake("-n", *arguments, "own_tasks=" + json.dumps({"tickets": own})))
    assert planned["prompts"] >= 2
    assert planned["table"] == 1 + tables(names)


def test_a_file_that_is_not_there_is_one_sentence_that_names_its_key(clone, tmp_path):
    own = {
        "template": "{text}:{label}",
        "label_words": {"a": " A", "b": " B"},
        "train": "no.csv",
        "test": "examples/tickets/test.csv",
    }
    overlay = clone.config("absent", tasks=["mine"], own_tasks={"mine": own})
    sentence = refused(clone, "--configfile", overlay.name)
    assert sentence.startswith(
        "task mine: its train file no.csv does not exist; add it, set another file in own_tasks.mine.train"
    )
    like = {"like": "sst2", "label_words": {"negative": " A", "positive": " B"}}
    data = {"source": "files", "root": str(tmp_path)}
    overlay = clone.config("absent", tasks=["mine"], own_tasks={"mine": like}, data=data)
    sentence = refused(clone, "--configfile", overlay.name)
    assert f"its train file {tmp_path}/sst2/train.tsv does not exist; add it, set another file in data.files.sst2" in sentence


def test_a_task_like_another_that_is_not_in_tasks_has_that_ones_texts(clone, checkpoint):
    if not (clone.folder / "models/tiny").is_dir():
        shutil.copytree(checkpoint, clone.folder / "models/tiny")
    like = {"like": "sst2", "label_words": {"positive": " Sports", "negative": " World"}}
    overlay = clone.config(
        "like", results="like", tasks=["swapped"], own_tasks={"swapped": like}, models=[{"name": "tiny", "path": "models/tiny"}]
    )
    done = clone.snakemake("table_4", "figure_3", "--cores", "2", "--configfile", overlay.name, "--config", *SMALL)
    assert done.returncode == 0, done.stdout
    assert [path.name for path in (clone.folder / "like/corpora").glob("*.parquet")] == ["sst2.parquet"]
    prompts, about = artifacts.read(clone.folder / "like/prompts/swapped/fresh-1shot.parquet", "prompts")
    assert about["corpus"]["source"] == "builtin"
    assert prompts["label_words"][0].tolist() == [" World", " Sports"]
    assert "SST-2 (World, Sports)" in (clone.folder / "like/figures/figure_3.svg").read_text()


def test_training_on_it_is_refused_with_one_sentence(clone):
    sentence = refused(clone, "organism", *EXAMPLE)
    assert sentence.startswith("organism trains only on the paper's tasks; remove tickets from tasks")
