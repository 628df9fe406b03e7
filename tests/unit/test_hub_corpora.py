"""Tests of corpora from Hub data sets: the published counts, the names of the classes and the record of the fetched files."""

import hashlib
import json
import re

import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, Features, Value

from icl_lens.cli.commands import main
from icl_lens.corpora import hub
from icl_lens.corpora.published import COUNTS
from icl_lens.errors import InputError
from icl_lens.hub.fetched import RECORD, Fetched
from icl_lens.tasks.own import OwnTask
from icl_lens.tasks.task import TASKS
from tests import artifacts

COMMIT = "0123456789abcdef0123456789abcdef01234567"
# The generated files number TREC's classes in a different order from the paper.
SHUFFLED = ("DESC", "ENTY", "ABBR", "HUM", "NUM", "LOC")
SMALL = {"train": (1, 2, 1, 1, 1, 1), "test": (1, 1, 1, 1, 1, 2)}


def write(path, texts, labels, column="coarse_label", names=SHUFFLED):
    """Write a Parquet file as the Hub's library does, with class indices and the names of the classes in the metadata."""
    features = Features({"text": Value("string"), column: ClassLabel(names=list(names))})
    data = {"text": texts, column: [names.index(label) for label in labels]}
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(Dataset.from_dict(data, features=features).data.table, path)


def record(folder, splits, **more):
    """Write fetched.json next to the files."""
    files = {
        path.relative_to(folder).as_posix(): {
            "size": path.stat().st_size,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
        for path in folder.rglob("*.parquet")
    }
    about = {"hub": "CogComp/trec", "revision": hub.PARQUET, "commit": COMMIT, "config": "default", **more}
    (folder / RECORD).write_text(Fetched(files=files, splits=splits, **about).text())


SPLITS = {"train": ["default/train/0000.parquet", "default/train/0001.parquet"], "test": ["default/test/0000.parquet"]}


@pytest.fixture
def trec(tmp_path):
    """Return a fetched folder with the numbers of texts in SMALL, where the training split has two files."""
    folder = tmp_path / "trec"
    classes = TASKS["trec"].classes
    train, test = ([name for name, n in zip(classes, counts, strict=True) for _ in range(n)] for counts in SMALL.values())
    write(folder / SPLITS["train"][0], [f"What {i} ?" for i in range(4)], train[:4])
    write(folder / SPLITS["train"][1], [f"Who {i} ?" for i in range(3)], train[4:])
    write(folder / SPLITS["test"][0], [f"Why {i} ?" for i in range(7)], test)
    record(folder, SPLITS)
    return folder


@pytest.fixture
def small_counts(monkeypatch):
    monkeypatch.setitem(COUNTS, "trec", SMALL)


def read(folder):
    return hub.read(TASKS["trec"], hub.DATASETS["trec"], folder)


def test_a_task_of_the_paper_is_read_by_the_names_of_its_classes(trec, small_counts):
    table, origin = read(trec)
    assert origin == {"hub": "CogComp/trec", "commit": COMMIT, "config": "default"}
    assert table.groupby(["split", "label"]).size().to_dict() == {
        (split, label): count for split, counts in SMALL.items() for label, count in enumerate(counts)
    }
    train = table[table["split"] == "train"]
    assert train["text"].tolist() == ["What 0 ?", "What 1 ?", "What 2 ?", "What 3 ?", "Who 0 ?", "Who 1 ?", "Who 2 ?"]
    assert train["label"].tolist() == [0, 1, 1, 2, 3, 4, 5], "not as the files number them"


def test_another_number_of_texts_than_is_published_is_told_with_both(trec):
    with pytest.raises(
        InputError, match=re.escape("CogComp/trec (default, train) has 1 texts of class ABBR, but the paper's data set has 86")
    ):
        read(trec)


@pytest.mark.parametrize("split", ["train", "test"])
def test_every_class_of_both_splits_is_counted(trec, monkeypatch, split):
    name = hub.DATASETS["trec"].splits[split]
    for number, label in enumerate(TASKS["trec"].classes):
        counts = list(SMALL[split])
        counts[number] += 1
        monkeypatch.setitem(COUNTS, "trec", {**SMALL, split: tuple(counts)})
        found, expected = counts[number] - 1, counts[number]
        said = f"(default, {name}) has {found} texts of class {label}, but the paper's data set has {expected}"
        with pytest.raises(InputError, match=re.escape(said)):
            read(trec)


def test_what_is_published_is_of_the_papers_size():
    """Check the sizes of the published splits.

    SST-2's dev split has 872 texts. The training and test splits have 5452 and 500 texts in TREC, 120,000 and 7600 in AGNews,
    and 30,160 and 5509 in EmoContext.
    """
    sizes = {task: tuple(sum(counts) for counts in splits.values()) for task, splits in COUNTS.items()}
    assert sizes == {"sst2": (67349, 872), "trec": (5452, 500), "agnews": (120000, 7600), "emoc": (30160, 5509)}
    for task, splits in COUNTS.items():
        assert all(len(counts) == len(TASKS[task].classes) for counts in splits.values())
    assert set(hub.DATASETS) == set(TASKS)


def test_a_task_of_ones_own_has_no_published_counts(trec):
    words = {name: f" {letter}" for name, letter in zip(TASKS["trec"].classes, "ABCDEF", strict=True)}
    own = OwnTask(template="{text}:{label}", label_words=words, hub="CogComp/trec", label="coarse_label")
    table, _ = hub.read(own.task("mine", TASKS), hub.own_task_dataset(own), trec)
    assert len(table) == 14


def test_a_task_of_ones_own_must_name_a_data_set():
    own = OwnTask(template="{text}:{label}", label_words={"a": " A", "b": " B"}, train="a.csv", test="b.csv")
    with pytest.raises(ValueError, match="the task has no data set on the Hub"):
        hub.own_task_dataset(own)


def test_other_classes_than_the_papers_are_told_with_both(trec, small_counts):
    names = ["ABBR", "ENTY", "DESC", "HUM", "LOC", "NUMBER"]
    write(trec / SPLITS["test"][0], ["Why ?"], ["HUM"], names=names)
    record(trec, SPLITS)
    with pytest.raises(
        InputError, match="are ABBR, ENTY, DESC, HUM, LOC, NUMBER; task trec expects ABBR, ENTY, DESC, HUM, LOC, NUM"
    ):
        read(trec)


def test_a_folder_that_was_not_fetched_or_is_a_models_is_told(trec, tmp_path):
    with pytest.raises(InputError, match="contains no data set fetched from the Hub; run `icl-lens fetch-dataset`"):
        read(tmp_path)
    record(trec, None)
    with pytest.raises(InputError, match="contains no data set fetched from the Hub"):
        read(trec)


def test_a_split_that_was_not_fetched_is_told(trec):
    record(trec, {"train": SPLITS["train"]})
    with pytest.raises(
        InputError, match=r"split 'test' of CogComp/trec was not fetched; delete fetched\.json and fetch it again"
    ):
        read(trec)


def test_a_file_that_is_not_what_was_fetched_is_told(trec, small_counts):
    path = trec / SPLITS["test"][0]
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))  # the size stays the same
    with pytest.raises(InputError, match=r"test/0000\.parquet differs from the fetched file; delete it and .*fetched\.json"):
        read(trec)
    path.write_bytes(whole + b"x")
    with pytest.raises(InputError, match=f"has {len(whole) + 1} bytes, but fetched.json lists {len(whole)}"):
        read(trec)
    path.unlink()
    with pytest.raises(InputError, match="is missing; delete"):
        read(trec)
    path.write_bytes(whole)
    read(trec)


def test_the_command_writes_the_table_with_its_origin(trec, small_counts, tmp_path):
    out = tmp_path / "corpora/trec.parquet"
    assert main(["corpora", "--task", "trec", "--fetched", str(trec), "--out", str(out)]) == 0
    table, about = artifacts.read(out, "corpora")
    assert len(table) == 14
    assert about["corpus"] == {
        "source": "hub",
        "hub": "CogComp/trec",
        "commit": COMMIT,
        "config": "default",
        "test_duplicates": {"duplicates": 0, "texts": 7, "dropped": False},
    }
    assert about["inputs"] == {f"fetched: {RECORD}": hashlib.sha256((trec / RECORD).read_bytes()).hexdigest()}
    assert about["settings"]["train"] == "train"


def test_the_command_says_what_is_wrong_and_writes_nothing(trec, tmp_path, capsys):
    out = tmp_path / "trec.parquet"
    assert main(["corpora", "--task", "trec", "--fetched", str(trec), "--out", str(out)]) == 1
    assert "but the paper's data set has 86; set another revision under" in capsys.readouterr().err
    assert not out.exists()
    assert main(["corpora", "--task", "trec", "--fetched", str(trec), "--seed", "0", "--out", str(out)]) == 1
    assert "give one of --seed" in capsys.readouterr().err


def test_the_command_reads_a_task_of_ones_own(tmp_path):
    folder = tmp_path / "own"
    write(folder / "data/train-00000-of-00001.parquet", ["up", "down"], ["yes", "no"], "y", ("no", "yes"))
    write(folder / "data/dev-00000-of-00001.parquet", ["left"], ["no"], "y", ("no", "yes"))
    splits = {name: [f"data/{name}-00000-of-00001.parquet"] for name in ("train", "dev")}
    record(folder, splits, hub="me/mine")
    definition = {"template": "{text}:{label}", "label_words": {"yes": " Yes", "no": " No"}, "hub": "me/mine", "label": "y"}
    out = tmp_path / "corpora/mine.parquet"
    command = ["corpora", "--task", "mine", "--definition", json.dumps({**definition, "test": "dev"}), "--fetched", str(folder)]
    assert main([*command, "--out", str(out)]) == 0
    table, about = artifacts.read(out, "corpora")
    assert table["label"].tolist() == [0, 1, 1]
    assert about["corpus"]["hub"] == "me/mine"
