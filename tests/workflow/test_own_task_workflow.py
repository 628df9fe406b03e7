"""A task of the user's own, through the whole workflow: the example of the README, as it is shipped."""

import json
import re
import shutil

import pandas as pd
import pytest

from icl_lens import artifacts, audit, config
from icl_lens.items import ITEMS
from icl_lens.statistics import OVER_TASKS

from ..conftest import REPOSITORY
from .test_workflow import RULES, jobs, refused

SMALL = ("queries=2", "seeds=[42]", "studies={label_probes: {folds: 2}}")
# Studies of single prompts, or of a part of them, keep as few as one.
FEW = ("flow", "isolated_words", "diagnosis", "label_probes", "kernel_regression_controls")
EXAMPLE = ("--configfile", "config/own-task.yaml")


@pytest.fixture(scope="module")
def example(clone):
    """Every item made from config/own-task.yaml; the clone and the results folder."""
    done = clone.snakemake("--cores", "2", *EXAMPLE, "--config", *SMALL)
    assert done.returncode == 0, done.stdout
    results = clone.folder / "results/own-task"
    yield clone, results
    # It lies within the results of `tiny_run`, whose files other tests count.
    shutil.rmtree(results)


@pytest.fixture(scope="module")
def settings():
    return config.load(REPOSITORY / "config/own-task.yaml")


def test_every_study_of_every_item_works_on_it(example, settings):
    _, results = example
    shown = [item for item in ITEMS.values() if item.in_all and all(settings.shown(item.name)) and item.studies]
    shown = [item for item in shown if not item.own_tasks]
    assert {item.group for item in shown} == {"anchors", "kernel_regression", "component_reweighting"}
    for item in shown:
        assert settings.shown(item.name)[1] == ["tickets"]
        for study in item.studies:
            table, about = artifacts.read(results / f"studies/organism/tickets/{item.set}/{study}.parquet", study)
            assert table["prompt_id"].nunique() in ((1, 2) if study in FEW else (2,)), study
            assert about["corpus"] == {"source": "files"}
    assert not audit.audit(results)[1]


def test_every_figure_bears_its_title(example, settings):
    _, results = example
    figures = [item for item in ITEMS.values() if item.kind == "figure" and item.studies and not item.own_tasks]
    figures = [item for item in figures if item.in_all and all(settings.shown(item.name))]
    assert len(figures) > 14
    for item in figures:
        lines = re.findall(r">([^<>]+)<", (results / f"figures/{item.name}.svg").read_text())
        assert "Support tickets" in " ".join(" ".join(lines).split()), item.name
        assert set(pd.read_csv(results / f"figures/{item.name}.csv")["task"].dropna()) - {OVER_TASKS} == {"tickets"}


def test_table_4_holds_its_template_and_label_words(example):
    _, results = example
    table = pd.read_csv(results / "tables/table_4.csv").astype(str)
    (row,) = table.to_numpy().tolist()
    told = "\n".join(row)
    assert "Support tickets" in told
    assert "Ticket:" in told
    assert "Team:" in told
    assert "Business" in told
    assert "Technology" in told


def test_prompts_are_written_by_its_template(example):
    _, results = example
    prompts, _ = artifacts.read(results / "prompts/tickets/fresh-1shot.parquet", "prompts")
    for text in prompts["text"]:
        assert text.count("Ticket: ") == 3
        assert text.endswith("\nTeam:")
        assert {line for line in text.splitlines() if line.startswith("Team:")} == {
            "Team: Business",
            "Team: Technology",
            "Team:",
        }


def tables_of(settings):
    """The tables of `all` that show the task's studies."""
    tables = [item for item in ITEMS.values() if item.kind == "table" and item.in_all and item.studies]
    return [item for item in tables if not item.own_tasks and all(settings.shown(item.name))]


def test_a_second_run_has_nothing_to_do_and_an_edit_of_a_text_reruns_all_of_it(example, settings):
    clone, _ = example
    arguments = ("-n", "--cores", "2", *EXAMPLE, "--config", *SMALL)
    assert "Nothing to be done" in clone.snakemake(*arguments).stdout
    path = clone.folder / "examples/tickets/test.csv"
    whole = path.read_text()
    path.write_text(whole.replace("twice", "three times"))
    try:
        planned = jobs(clone.snakemake(*arguments))
    finally:
        path.write_text(whole)
    assert planned["corpora"] == 1
    studied = sum(planned.get(rule, 0) for rule in {"study", *RULES.values()})
    assert studied == len(list((clone.folder / "results/own-task/studies/organism/tickets").rglob("*.parquet")))
    assert planned["table"] == len(tables_of(settings))  # no text stands in table 4, none in kr_table_3


def test_another_wording_is_told_apart_in_prompts_and_tables(example, settings):
    clone, _ = example
    own = json.loads(
        config.load(clone.folder / "config/own-task.yaml").own_tasks["tickets"].model_dump_json(exclude_unset=True)
    )
    overlay = clone.config("wording", own_tasks={"tickets": {**own, "template": "Message: {text}\nTeam:{label}"}})
    planned = jobs(clone.snakemake("-n", "--configfile", "config/own-task.yaml", overlay.name, "--config", *SMALL))
    assert planned["prompts"] >= 2
    assert planned["table"] == 1 + len(tables_of(settings))


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
        "task mine: its train file no.csv does not exist; put it there, name another under own_tasks.mine.train"
    )
    like = {"like": "sst2", "label_words": {"negative": " A", "positive": " B"}}
    data = {"source": "files", "root": str(tmp_path)}
    overlay = clone.config("absent", tasks=["mine"], own_tasks={"mine": like}, data=data)
    sentence = refused(clone, "--configfile", overlay.name)
    assert (
        f"its train file {tmp_path}/sst2/train.tsv does not exist; put it there, name another under data.files.sst2" in sentence
    )


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
    assert sentence.startswith("organism trains on the paper's tasks only; leave tickets out of tasks")
