"""Tests of what is counted before any job runs: texts per class, and tasks with too few of them for an item."""

import os

import pandas as pd
import pytest

from icl_lens.config import parse, shortage
from icl_lens.corpora import counts
from icl_lens.errors import InputError
from icl_lens.prompts import protocol
from icl_lens.tasks.own import OwnTask

OWN = {
    "template": "Review: {text}\nVerdict:{label}",
    "label_words": {"pos": " good", "neg": " bad", "mixed": " mixed"},
    "train": "train.csv",
    "test": "test.csv",
}


def configured(**keys):
    return parse.parse({"tasks": ["mine", "sst2"], "own_tasks": {"mine": OWN}, **keys})


def counted(*train, test=(9, 9, 9)):
    return {"train": list(train), "test": list(test)}


def test_an_item_lacks_a_task_exactly_if_its_prompts_cannot_be_built():
    config = configured()
    corpus = pd.DataFrame(
        [
            {"split": split, "index": number, "text": f"text {number}", "label": label}
            for split, sizes in (("train", [20, 20, 3]), ("test", [4, 4, 4]))
            for number, label in enumerate(label for label, size in enumerate(sizes) for _ in range(size))
        ]
    )
    sets = (
        "fresh-1shot",
        "fresh-2shot",
        "fresh-4shot",
        "shared-3shot",
        "pooled-1shot",
        "shared-1shot-auxiliary",
        "labelled-24",
    )
    for name in sets:
        if shortage.of_set(config, name, "mine", counted(20, 20, 3)):
            with pytest.raises(InputError, match="task mine: "):
                protocol.build(config.task("mine"), corpus, name, [42], 2)
        else:
            assert len(protocol.build(config.task("mine"), corpus, name, [42], 2)) > 0, name


def test_the_sentence_names_task_class_count_need_and_keys():
    config = configured()
    assert shortage.of_item(config, "figure_9", "mine", counted(20, 20, 1)) == (
        "task mine: class 2 (mixed) has 1 training text, but the prompts fresh-2shot need 2 per class; add texts to "
        "train.csv (own_tasks.mine.train) or set items.figure_9.tasks without it or remove mine from tasks"
    )
    assert shortage.of_item(config, "table_1", "mine", counted(20, 4, 20)) == (
        "task mine: class 1 (bad) has 4 training texts, but the prompts shared-1shot-auxiliary need 5 per class; add "
        "texts to train.csv (own_tasks.mine.train) or change studies.reweighting.auxiliary or set "
        "items.table_1.tasks without it or remove mine from tasks"
    )
    alone = configured(tasks=["mine"])
    assert shortage.of_item(alone, "figure_9", "mine", counted(20, 20, 0)).endswith(
        "fresh-2shot need 2 per class; add texts to train.csv (own_tasks.mine.train)"
    )
    assert shortage.of_item(config, "figure_9", "mine", counted(20, 20, 2)) == ""
    assert shortage.of_item(config, "figure_9", "mine", None) == "", "unknown counts lack nothing"


def test_too_few_prompts_for_a_study_are_told_with_the_keys():
    config = configured(queries=2, seeds=[1, 2])
    assert shortage.of_item(config, "kr_figure_5", "mine", counted(20, 20, 20)) == (
        "task mine: 4 prompts cannot be divided into 5 folds; increase queries, seeds or studies.label_probes.queries, or "
        "reduce studies.label_probes.folds"
    )
    assert shortage.of_item(configured(queries=3, seeds=[1, 2]), "kr_figure_5", "mine", counted(20, 20, 20)) == ""
    assert "4 prompts cannot be divided" in shortage.of_item(config, "kr_figure_5", "mine", None), "the config alone tells it"
    single = configured(queries=1, items={"figure_6": {"tasks": ["mine"]}})
    assert "error diagnosis requires at least 2 prompts per seed, got 1" in shortage.of_item(
        single, "figure_6", "mine", counted(20, 20, 20)
    )


def test_items_with_the_same_reason_share_a_sentence():
    config = configured()
    left_out = {
        item: {"mine": shortage.of_item(config, item, "mine", counted(20, 20, 1))}
        for item in ("figure_9", "figure_10", "table_1")
    }
    sentences = shortage.summary(left_out)
    assert [items for _, items in sentences] == [["figure_9"], ["figure_10"], ["table_1"]]
    left_out = {
        item: {"mine": shortage.of_item(config, item, "mine", counted(9, 9, 1))} for item in ("kr_figure_2", "kr_table_2")
    }
    ((sentence, items),) = shortage.summary(left_out)
    assert items == ["kr_figure_2", "kr_table_2"]
    assert sentence.startswith("task mine is left out of kr_figure_2, kr_table_2: class 2 (mixed) has 1 training text, but the")
    assert "set items.ITEM.tasks without it" in sentence


@pytest.fixture
def files(tmp_path):
    for split, rows in (("train", ["a,pos", "b,pos", "c,neg"]), ("test", ["d,pos", "e,neg"])):
        (tmp_path / f"{split}.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    return {split: tmp_path / f"{split}.csv" for split in ("train", "test")}


def test_files_are_counted_once_until_they_change(files, tmp_path, monkeypatch):
    own = OwnTask(**OWN)
    task, cache = own.task("mine", {}), tmp_path / "cache"
    expected = {"train": [2, 1, 0], "test": [1, 1, 0]}
    assert counts.of_files(task, own, files, "code", cache) == expected
    monkeypatch.setattr(counts, "_count", lambda *arguments: pytest.fail("read again"))
    assert counts.of_files(task, own, files, "code", cache) == expected
    monkeypatch.undo()
    with files["train"].open("a") as file:
        file.write("f,mixed\n")
    assert counts.of_files(task, own, files, "code", cache) == {**expected, "train": [2, 1, 1]}


def test_what_cannot_be_counted_is_left_to_the_job(files, tmp_path, monkeypatch):
    own = OwnTask(**OWN)
    task, cache = own.task("mine", {}), tmp_path / "cache"
    assert counts.of_files(task, own, {**files, "test": tmp_path / "none.csv"}, "code", cache) is None
    monkeypatch.setattr(counts, "LARGEST", 10)
    assert counts.of_files(task, own, files, "code", cache) is None
    monkeypatch.undo()
    with files["train"].open("a") as file:
        file.write("f,unknown\n")
    assert counts.of_files(task, own, files, "code", cache) is None
    assert not os.listdir(cache) if cache.exists() else True
