import pandas as pd
import pytest

from icl_lens.artifacts import hashes, parquet
from icl_lens.cli.commands import main
from icl_lens.corpora import files, tables
from icl_lens.corpora.schema import CORPORA
from icl_lens.errors import InputError
from tests import artifacts

GOOD = {
    "sst2": (
        'sentence\tlabel\nhide new secretions \t0\nit \'s "fun" \t1\n',
        [("hide new secretions ", 0), ('it \'s "fun" ', 1)],
    ),
    "trec": (
        "DESC:manner How did serfdom develop in and then leave Russia ?\nLOC:city Which sister\xf0city ?\n",
        [("How did serfdom develop in and then leave Russia ?", 2), ("Which sister\xf0city ?", 4)],
    ),
    "agnews": (
        '"3","Wall St. Bears","Short-sellers, seeing ""green""\\band"\n1,Title,Text\n2,"one field, joined already"\n',
        [('Wall St. Bears Short-sellers, seeing "green"\\band', 2), ("Title Text", 0), ("one field, joined already", 1)],
    ),
    "emoc": (
        "id\tturn1\tturn2\tturn3\tlabel\n0\tDon't worry\tI'm not\tgirl ;)\tothers\n1\tu r\u2028 bad\twhy\ti hate u\tangry\n",
        [("Don't worry I'm not girl ;)", 0), ("u r\u2028 bad why i hate u", 3)],
    ),
}


def write(folder, task, text):
    paths = []
    for split in ("train", "test"):
        paths.append(folder / f"{split}.txt")
        paths[-1].write_bytes(text.encode(files.FORMATS[task].encoding))
    return paths


@pytest.mark.parametrize("task", GOOD)
@pytest.mark.parametrize("crlf", [False, True])
def test_the_original_formats_are_read_byte_for_byte(tmp_path, task, crlf):
    text, rows = GOOD[task]
    table = files.read(task, *write(tmp_path, task, text.replace("\n", "\r\n") if crlf else text))
    for split in ("train", "test"):
        part = table[table["split"] == split]
        assert list(zip(part["text"], part["label"], strict=True)) == rows
        assert part["index"].tolist() == list(range(len(rows)))


def test_a_file_without_a_final_newline_loses_nothing(tmp_path):
    text, rows = GOOD["sst2"]
    table = files.read("sst2", *write(tmp_path, "sst2", text.removesuffix("\n")))
    assert len(table) == 2 * len(rows)


@pytest.mark.parametrize(
    ("task", "text", "sentence"),
    [
        ("sst2", "sentence\tlabel\nfine\t1\nno tab here\n", "train.txt, line 3: expected 2 tab-separated fields"),
        ("sst2", "sentence\tlabel\na\tb\t1\n", "train.txt, line 2: expected 2 tab-separated fields (sentence, label), got 3"),
        ("sst2", "text,label\nfine,1\n", "train.txt, line 1: expected a header with 2 tab-separated fields"),
        ("sst2", "sentence\tlabel\nfine\t2\n", "train.txt, line 2: unknown label '2'; known: 0, 1"),
        ("sst2", "sentence\tlabel\n \t1\n", "train.txt, line 2: the text is empty"),
        ("sst2", "sentence\tlabel\n", "task sst2: the train split is empty ("),
        ("sst2", "", "the train split is empty ("),
        ("trec", "DESC:manner How ?\nFOO:bar What ?\n", "train.txt, line 2: unknown label 'FOO'; known: ABBR, ENTY"),
        ("trec", "DESC:manner\n", "train.txt, line 1: expected 2 space-separated fields (label, question), got 1"),
        ("agnews", '"1","a","b"\n"5","a","b"\n', "train.txt, line 2: unknown label '5'"),
        ("agnews", '"1","a","b\n"2","a"\n', "train.txt, line 1: not valid CSV"),
        ("agnews", "1\n", "train.txt, line 1: expected 2 comma-separated fields (label, text (one field or more)), got 1"),
        ("emoc", "id\tturn1\tturn2\tturn3\tlabel\n0\ta\tb\tsad\n", "train.txt, line 2: expected 5 tab-separated fields"),
        ("emoc", "id\tturn1\tturn2\tturn3\tlabel\n0\ta\tb\tc\tfurious\n", "train.txt, line 2: unknown label 'furious'"),
    ],
)
def test_a_malformed_file_is_told_with_its_line(tmp_path, task, text, sentence):
    with pytest.raises(InputError) as caught:
        files.read(task, *write(tmp_path, task, text))
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_line_number_counts_lines_not_records(tmp_path):
    with pytest.raises(InputError, match="line 4: unknown label"):
        files.read("agnews", *write(tmp_path, "agnews", '"1","a\nb\nc"\n"9","d"\n'))


def test_a_missing_file_is_told(tmp_path):
    train, test = write(tmp_path, "sst2", GOOD["sst2"][0])
    test.unlink()
    with pytest.raises(InputError, match=r"test\.txt cannot be read \(No such file or directory\); check the path"):
        files.read("sst2", train, test)


def test_one_file_for_both_splits_is_told(tmp_path):
    train, _ = write(tmp_path, "sst2", GOOD["sst2"][0])
    with pytest.raises(InputError, match="both splits use"):
        files.read("sst2", train, train)


def test_the_table_records_both_files(tmp_path):
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        (tmp_path / split / "data.tsv").write_text(f"sentence\tlabel\n{split}\t1\n")
    out = tmp_path / "sst2.parquet"
    tables.write_files("sst2", tmp_path / "train/data.tsv", tmp_path / "test/data.tsv", out)
    about = artifacts.read(out, "corpora")[1]
    assert about["corpus"]["subsets"] == {
        "train": {"texts": 1, "published": 67349},
        "test": {"texts": 1, "published": 872},
    }
    inputs = about["inputs"]
    assert inputs == {f"{split}: data.tsv": hashes.file_hash(tmp_path / split / "data.tsv") for split in ("train", "test")}


def test_bytes_of_another_encoding_are_told_with_their_line(tmp_path):
    train, test = write(tmp_path, "sst2", GOOD["sst2"][0])
    train.write_bytes(b"sentence\tlabel\nfine\t1\ncaf\xe9\t1\n")
    with pytest.raises(InputError, match="line 3: not UTF-8 text"):
        files.read("sst2", train, test)


# The published numbers of train and test texts per class.
PUBLISHED = {
    "sst2": (None, [29780, 37569], [428, 444]),
    "trec": (None, [86, 1250, 1162, 1223, 835, 896], [9, 94, 138, 65, 81, 113]),
    "agnews": ("agnews/train_subset.csv", [2410, 2517, 2453, 2396], [1900, 1900, 1900, 1900]),
}


@pytest.mark.parametrize("task", PUBLISHED)
def test_the_real_files_have_the_published_counts(shared_data, task):
    train, *counts = PUBLISHED[task]
    layout = files.FORMATS[task]
    table = files.read(task, shared_data / (train or layout.train), shared_data / layout.test)
    for split, expected in zip(("train", "test"), counts, strict=True):
        assert table[table["split"] == split]["label"].value_counts().sort_index().tolist() == expected


def test_the_blank_at_the_end_of_a_real_review_is_kept(shared_data):
    table = files.read("sst2", shared_data / "sst2/train.tsv", shared_data / "sst2/dev.tsv")
    assert table["text"].str.endswith(" ").mean() > 0.99


def test_labels_are_permuted_within_each_split_and_the_seed_is_in_the_metadata(tmp_path):
    plain, shuffled, again = (tmp_path / f"{name}.parquet" for name in ("plain", "shuffled", "again"))
    tables.write_builtin("trec", 0, plain)
    tables.write_builtin("trec", 0, shuffled, shuffle=3)
    assert main(["corpora", "--task", "trec", "--seed", "0", "--shuffle-labels", "3", "--out", str(again)]) == 0
    (before, _), (after, about) = parquet.read(plain, CORPORA), parquet.read(shuffled, CORPORA)
    assert again.read_bytes() == shuffled.read_bytes()
    assert about["corpus"]["shuffled_labels"] == 3
    pd.testing.assert_frame_equal(before.drop(columns="label"), after.drop(columns="label"))
    for split, rows in before.groupby("split"):
        permuted = after.loc[rows.index, "label"]
        assert sorted(permuted) == sorted(rows["label"]), split
        assert (permuted != rows["label"]).mean() > 0.5, split
