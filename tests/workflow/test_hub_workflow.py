"""Tests of the workflow with a Hub model and data sets: downloaded once from a local server, then everything runs offline."""

import json
import shutil

import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, Features, Value

from icl_lens.corpora.hub import DATASETS, PARQUET
from icl_lens.hub.fetched import RECORD
from icl_lens.results import audit
from icl_lens.studies import registry
from icl_lens.tasks.task import TASKS
from tests import artifacts

from ..hub_server import Hub
from .test_workflow import jobs, made

# The three layouts of the Hub, and emo2019 in the first layout: task -> file of a split.
LAYOUTS = {
    "sst2": "sst2/{split}-00000-of-00001.parquet",
    "trec": "default/{split}/0000.parquet",
    "agnews": "data/{split}-00000-of-00001.parquet",
    "emoc": "emo2019/{split}/0000.parquet",
}
TEXTS = 3  # for each class and split


def dataset_folder(folder, task):
    """Write a data set as in its repository, with few texts and the class numbers in reverse order."""
    dataset, names = DATASETS[task], list(reversed(TASKS[task].classes))
    features = Features({dataset.text[0]: Value("string"), dataset.label: ClassLabel(names=names)})
    for split in dataset.splits.values():
        texts = [f"{split} text {i} of {name}" for name in names for i in range(TEXTS)]
        labels = [number for number in range(len(names)) for _ in range(TEXTS)]
        table = Dataset.from_dict({dataset.text[0]: texts, dataset.label: labels}, features=features).data.table
        path = folder / LAYOUTS[task].format(split=split)
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, path)
    return folder


def revision_of(task):
    return PARQUET if DATASETS[task].revision == PARQUET else "main"


def own_task(task):
    """Return one of the paper's tasks as a user's own task on the same data set, so that no published numbers apply."""
    dataset = DATASETS[task]
    return {
        "template": TASKS[task].template,
        "label_words": dict(zip(TASKS[task].classes, TASKS[task].label_words, strict=True)),
        "hub": dataset.hub,
        "revision": revision_of(task),
        "config": dataset.config,
        "text": list(dataset.text),
        "label": dataset.label,
        **dataset.splits,
    }


@pytest.fixture(scope="module")
def hub(tmp_path_factory, checkpoint):
    folder = tmp_path_factory.mktemp("hub")
    with Hub() as server:
        server.add("models", "Own/Tiny", checkpoint)
        for task, dataset in DATASETS.items():
            server.add("datasets", dataset.hub, dataset_folder(folder / task, task), branch=revision_of(task))
        yield server


@pytest.fixture(scope="module")
def online(hub, tmp_path_factory):
    """The environment of a user without a token, with the local server as the Hub."""
    with pytest.MonkeyPatch.context() as patch:
        for name in (
            "HF_HUB_OFFLINE",
            "HF_TOKEN",
            "HTTP_PROXY",
            "http_proxy",
            "HTTPS_PROXY",
            "https_proxy",
            "ALL_PROXY",
            "all_proxy",
        ):
            patch.delenv(name, raising=False)
        patch.setenv("HF_ENDPOINT", hub.endpoint)
        patch.setenv("HF_HOME", str(tmp_path_factory.mktemp("home")))
        yield patch


@pytest.fixture(scope="module")
def fetched(clone, online):
    """A clone and its command, after a run on four data sets and a model of the Hub."""
    overlay = clone.config(
        "hub",
        results="from hub",
        downloads="./down loads/",
        models=[{"name": "tiny", "hub": "Own/Tiny"}],
        tasks=[f"my-{task}" for task in DATASETS],
        own_tasks={f"my-{task}": own_task(task) for task in DATASETS},
        seeds=[42],
        queries=2,
        device="cpu",
    )
    corpora = [f"from hub/corpora/my-{task}.parquet" for task in DATASETS]
    study = "from hub/studies/tiny/my-sst2/fresh-1shot/icl.parquet"
    command = [*corpora, study, "--cores", "2", "--configfile", overlay.name]
    done = clone.snakemake(*command)
    assert done.returncode == 0, done.stdout
    return clone, command


def test_every_data_set_and_the_model_are_fetched_and_used(fetched, hub):
    clone, _ = fetched
    for task, dataset in DATASETS.items():
        table, about = artifacts.read(clone.folder / f"from hub/corpora/my-{task}.parquet", "corpora")
        assert about["corpus"]["hub"] == dataset.hub
        assert about["corpus"]["commit"] == hub.repositories["datasets", dataset.hub].branches[revision_of(task)]
        assert len(table) == 2 * TEXTS * len(TASKS[task].classes)
        for text, label in zip(table["text"], table["label"], strict=True):
            assert text.endswith(f"of {TASKS[task].classes[label]}"), "by the class's name, not its number"
    icl, _ = artifacts.read(clone.folder / "from hub/studies/tiny/my-sst2/fresh-1shot/icl.parquet", "icl")
    assert set(icl["model"]) == {"tiny"}
    record = json.loads((clone.folder / f"down loads/models/Own--Tiny/main/{RECORD}").read_text())
    assert record["commit"] == hub.repositories["models", "Own/Tiny"].branches["main"]
    assert not audit.audit(clone.folder / "from hub", registry.schemas())[1]


def test_two_models_of_one_repository_are_fetched_once_and_studied_apart(clone):
    models = [{"name": "a", "hub": "Own/Tiny"}, {"name": "b", "hub": "Own/Tiny", "revision": "main", "dtype": "bfloat16"}]
    overlay = clone.config("two", results="two", downloads=str(clone.folder / "elsewhere"), models=models, tasks=["sst2"])
    studies = [f"two/studies/{model}/sst2/fresh-1shot/icl.parquet" for model in "ab"]
    planned = jobs(clone.snakemake(*studies, "-n", "--configfile", overlay.name))
    assert planned == {"corpora": 1, "prompts": 1, "fetch_model": 1, "icl": 2, "total": 5}


def test_once_fetched_nothing_more_is_asked_of_the_hub(fetched, hub, online):
    clone, command = fetched
    before = made(clone.folder / "from hub")
    asked = len(hub.requests)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # no server listens on this port
        assert "Nothing to be done" in clone.snakemake(*command).stdout
        shutil.rmtree(clone.folder / "from hub")
        done = clone.snakemake(*command)
    assert done.returncode == 0, done.stdout
    assert "fetch_" not in done.stdout
    assert made(clone.folder / "from hub") == before
    assert len(hub.requests) == asked


def test_the_papers_tasks_must_have_the_published_numbers_of_texts(fetched):
    clone, _ = fetched
    overlay = clone.config(
        "papers",
        results="papers",
        downloads=str(clone.folder / "down loads"),
        data={"source": "hub", "revisions": {"sst2": "main", "agnews": "main"}},
    )
    targets = [f"papers/corpora/{task}.parquet" for task in ("sst2", "trec")]
    done = clone.snakemake(*targets, "--cores", "2", "--keep-going", "--configfile", overlay.name)
    assert done.returncode == 1
    assert "Traceback" not in done.stdout
    for said in (
        "nyu-mll/glue (sst2, train) has 3 texts of class negative, but the paper's data set has 29780",
        "CogComp/trec (default, train) has 3 texts of class ABBR, but the paper's data set has 86",
    ):
        assert said in done.stdout
    assert not list((clone.folder / "papers").glob("corpora/*.parquet"))


def test_a_model_that_cannot_be_had_ends_the_run_with_one_sentence(fetched):
    clone, _ = fetched
    overlay = clone.config("no-such", results="no-such", models=[{"name": "x", "hub": "Own/Absent"}], tasks=["sst2"])
    done = clone.snakemake("no-such/studies/x/sst2/fresh-1shot/icl.parquet", "--cores", "2", "--configfile", overlay.name)
    assert done.returncode == 1
    assert "Traceback" not in done.stdout
    (said,) = [line for line in done.stdout.splitlines() if "icl-lens fetch-model: " in line]
    assert "Own/Absent" in said
    assert not (clone.folder / "no-such/studies").is_dir() or not list((clone.folder / "no-such/studies").rglob("*.parquet"))


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"models": [{"name": "x", "hub": "a/b", "revision": "../up"}]}, "'../up' is not a valid revision"),
        ({"data": {"source": "hub", "revisions": {"sst2": "a b"}}}, "'a b' is not a valid revision"),
        (
            {"tasks": ["m"], "own_tasks": {"m": {**own_task("sst2"), "config": "../x"}}},
            "'../x' is not a valid name of a configuration",
        ),
    ],
)
def test_a_name_that_the_hub_cannot_have_is_one_sentence_before_anything_runs(clone, keys, sentence):
    overlay = clone.config("odd", results="odd", **keys)
    done = clone.snakemake("-n", "--configfile", overlay.name)
    assert done.returncode == 1
    assert "Traceback" not in done.stdout
    assert sentence in done.stdout.strip().splitlines()[-1]
