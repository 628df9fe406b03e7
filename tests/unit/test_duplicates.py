import logging

import pytest

from icl_lens.artifacts import parquet
from icl_lens.cli.commands import main
from icl_lens.corpora import files
from icl_lens.corpora.schema import CORPORA
from icl_lens.prompts import protocol
from icl_lens.tasks.task import TASKS

TRAIN = ["a fine film ", "dull", "clever", "slow"]
TEST = ["warm", " a fine film", "Dull", "slow", "empty"]


@pytest.fixture
def run(tmp_path):
    """Return a function that writes the corpora table of SST-2 from given texts, and returns its table and metadata."""

    def write(*options, train=TRAIN, test=TEST):
        for split, texts in (("train", train), ("test", test)):
            lines = ["sentence\tlabel", *(f"{text}\t{number % 2}" for number, text in enumerate(texts))]
            (tmp_path / f"{split}.tsv").write_text("\n".join(lines) + "\n")
        paths = {split: str(tmp_path / f"{split}.tsv") for split in ("train", "test")}
        out = tmp_path / "corpora/sst2.parquet"
        arguments = ["corpora", "--task", "sst2", "--train", paths["train"], "--test", paths["test"], "--out", str(out)]
        code = main([*arguments, *options])
        return code, parquet.read(out, CORPORA) if out.exists() else None

    return write


def test_test_texts_that_are_training_texts_are_counted_and_told_once(run, caplog):
    with caplog.at_level(logging.WARNING):
        code, (table, about) = run()
    assert code == 0
    assert about["corpus"]["test_duplicates"] == {"duplicates": 2, "texts": 5, "dropped": False}
    assert table.loc[table["split"] == "test", "text"].tolist() == TEST
    assert [line for line in caplog.messages if "training texts" in line] == [
        "task sst2: 2 of 5 test texts are also training texts; set data.drop_test_duplicates: true to remove them"
    ]


def test_they_can_be_removed_and_the_others_keep_their_index(run, caplog):
    with caplog.at_level(logging.WARNING):
        code, (table, about) = run("--drop-test-duplicates")
    assert code == 0
    assert about["corpus"]["test_duplicates"] == {"duplicates": 2, "texts": 5, "dropped": True}
    test = table[table["split"] == "test"]
    assert dict(zip(test["index"], test["text"], strict=True)) == {0: "warm", 2: "Dull", 4: "empty"}
    assert "task sst2: 2 of 5 test texts are also training texts, and are removed" in caplog.messages
    # The sizes of the published splits count them, because they are part of the file.
    assert about["corpus"]["subsets"]["test"]["texts"] == 5
    prompts = protocol.build(TASKS["sst2"], table, "shared-1shot", [0], 10)
    assert sorted(prompts["query_index"]) == [0, 2, 4]


def test_a_copy_of_the_training_file_is_told_and_leaves_nothing(run, caplog, capsys):
    code, (_, about) = run(test=TRAIN)
    assert about["corpus"]["test_duplicates"] == {"duplicates": 4, "texts": 4, "dropped": False}
    assert "4 of 4 test texts are also training texts" in caplog.text
    code, _ = run("--drop-test-duplicates", test=TRAIN)
    assert code == 1
    assert (
        capsys.readouterr()
        .err.splitlines()[-1]
        .endswith(
            "task sst2: all 4 test texts are also training texts, so none remains; use another test file, or set "
            "data.drop_test_duplicates: false"
        )
    )


def test_without_duplicates_nothing_is_told(run, caplog):
    with caplog.at_level(logging.WARNING):
        _, (_, about) = run(test=["warm", "empty"])
    assert about["corpus"]["test_duplicates"] == {"duplicates": 0, "texts": 2, "dropped": False}
    assert "training texts" not in caplog.text


def test_the_real_questions_have_some(shared_data):
    from icl_lens.corpora.duplicates import count_and_drop

    layout = files.FORMATS["trec"]
    table = files.read("trec", shared_data / layout.train, shared_data / layout.test)
    assert count_and_drop("trec", table, drop=False)[1] == {"duplicates": 10, "texts": 500, "dropped": False}
