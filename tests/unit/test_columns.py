"""Tests of corpora from tables with named columns: the same rows from each format, labels by name, and one-line errors."""

import json
import re

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, Features, Value

from icl_lens.cli.commands import main
from icl_lens.corpora import columns
from icl_lens.corpora.columns import Columns
from icl_lens.errors import InputError
from tests import artifacts

LAYOUT = Columns(("text",), "label", ("neg", "pos"))
ROWS = [('a "fine" film, warm', "pos"), ("dull ☃", "neg"), ("NA", "neg"), ("  blanks stay ", "pos")]
ODD = [*ROWS, ("two\nlines and a\ttab", "pos"), ("a return\r\nand a separator\u2028here", "neg")]


def write(path, rows, names=("text", "label")):
    """Write rows in the format that the file extension specifies."""
    frame = pd.DataFrame(rows, columns=list(names))
    if path.suffix == ".csv":
        frame.to_csv(path, index=False)
    elif path.suffix == ".tsv":
        lines = ["\t".join(map(str, row)) for row in (names, *rows)]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="")
    elif path.suffix == ".jsonl":
        lines = [json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=False) for row in rows]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="")
    else:
        frame.to_parquet(path)
    return path


@pytest.fixture
def read(tmp_path):
    """A function that reads a given train file together with a valid test file."""

    def run(path, layout=LAYOUT):
        other = write(
            tmp_path / "other.jsonl",
            [[*["x"] * len(layout.text), name] for name in layout.classes],
            [*layout.text, layout.label],
        )
        return columns.read("mine", layout, {"train": [path], "test": [other]}).query("split == 'train'")

    return run


def texts(table):
    return [(text, ("neg", "pos")[label]) for text, label in zip(table["text"], table["label"], strict=True)]


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_every_format_gives_the_same_rows(ending, tmp_path, read):
    table = read(write(tmp_path / f"train{ending}", ROWS))
    assert texts(table) == ROWS
    assert table["index"].tolist() == [0, 1, 2, 3]
    assert list(table.columns) == ["split", "index", "text", "label"]


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".parquet"])
def test_newlines_and_separators_inside_a_text_stay(ending, tmp_path, read):
    assert texts(read(write(tmp_path / f"train{ending}", ODD))) == ODD


def test_the_splits_are_numbered_apart_and_the_files_of_one_in_order(tmp_path):
    files = [write(tmp_path / f"{name}.jsonl", [(name, "pos")]) for name in "abc"]
    table = columns.read("mine", LAYOUT, {"train": files[:2], "test": files[2:]})
    assert table[["split", "index", "text"]].to_numpy().tolist() == [["train", 0, "a"], ["train", 1, "b"], ["test", 0, "c"]]


def test_a_table_from_a_spreadsheet_is_read(tmp_path, read):
    (tmp_path / "train.csv").write_bytes(b'\xef\xbb\xbftext,label\r\n"a, b",pos\r\n')
    assert texts(read(tmp_path / "train.csv")) == [("a, b", "pos")]
    (tmp_path / "train.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "a", "label": "pos"}\r\n')
    assert texts(read(tmp_path / "train.jsonl")) == [("a", "pos")]


def test_other_columns_are_left_out(tmp_path, read):
    assert texts(read(write(tmp_path / "train.csv", [(1, "a", "pos", "x")], ["id", "text", "label", "more"]))) == [("a", "pos")]


def test_several_text_columns_are_joined_by_one_blank(tmp_path, read):
    layout = Columns(("title", "body"), "team", ("neg", "pos"))
    path = write(tmp_path / "train.csv", [("pos", "long", "T"), ("neg", "", "only")], ["team", "body", "title"])
    assert read(path, layout)["text"].tolist() == ["T long", "only "]


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_numbers_as_labels_are_their_digits(ending, tmp_path, read):
    layout = Columns(("text",), "label", ("1", "0"))
    table = read(write(tmp_path / f"train{ending}", [("a", 0), ("b", 1)]), layout)
    assert table["label"].tolist() == [1, 0]


@pytest.mark.parametrize("ending", [".jsonl", ".parquet"])
def test_truth_values_are_named_as_json_and_yaml_write_them(ending, tmp_path, read):
    layout = Columns(("text",), "label", ("false", "true"))
    assert read(write(tmp_path / f"train{ending}", [("a", True), ("b", False)]), layout)["label"].tolist() == [1, 0]


def labelled(path, texts, labels, names):
    features = Features({"text": Value("string"), "label": ClassLabel(names=names)})
    pq.write_table(Dataset.from_dict({"text": texts, "label": labels}, features=features).data.table, path)
    return path


def test_class_indices_are_read_by_their_names_whatever_their_order(tmp_path, read):
    path = labelled(tmp_path / "train.parquet", ["a", "b", "c"], [0, 1, 0], ["pos", "neg"])
    assert pq.read_table(path)["label"].to_pylist() == [0, 1, 0]
    assert read(path)["label"].tolist() == [1, 0, 1]
    assert texts(read(path)) == [("a", "pos"), ("b", "neg"), ("c", "pos")]


def test_a_withheld_label_is_told(tmp_path, read):
    path = labelled(tmp_path / "train.parquet", ["a", "b"], [0, -1], ["pos", "neg"])
    with pytest.raises(InputError, match=r"row 2: unknown label '-1' \(-1 marks a withheld label; use a split with labels\)"):
        read(path)


def test_an_absent_class_index_is_an_unknown_label(tmp_path, read):
    path = labelled(tmp_path / "train.parquet", ["a", "b"], [0, None], ["pos", "neg"])
    with pytest.raises(InputError, match="row 2: unknown label ''; task mine expects neg, pos"):
        read(path)


def test_other_classes_than_the_tasks_are_told_with_both(tmp_path, read):
    path = labelled(tmp_path / "train.parquet", ["a"], [0], ["pos", "neg", "mixed"])
    with pytest.raises(InputError, match="classes of column 'label' are pos, neg, mixed; task mine expects neg, pos"):
        read(path)


def test_a_parquet_file_of_pandas_may_keep_its_labels_as_categories(tmp_path, read):
    frame = pd.DataFrame({"text": ["a", "b"], "label": pd.Categorical(["pos", "neg"])})
    frame.to_parquet(tmp_path / "train.parquet")
    assert texts(read(tmp_path / "train.parquet")) == [("a", "pos"), ("b", "neg")]


def test_metadata_that_cannot_be_read_is_told(tmp_path, read):
    table = pa.table({"text": ["a"], "label": [0]})
    for metadata in (b"{", b'{"info": {"features": {"text": {"_type": "No"}, "label": {"_type": "No"}}}}', b'{"info": 3}'):
        pq.write_table(table.replace_schema_metadata({b"huggingface": metadata}), tmp_path / "train.parquet")
        with pytest.raises(InputError, match="the metadata of its columns cannot be read"):
            read(tmp_path / "train.parquet")


BAD = [
    ("train.csv", "text,label\nfine,pos\nodd,mixed\n", "line 3: unknown label 'mixed'; task mine expects neg, pos"),
    ("train.csv", 'text,label\n"two\nlines",pos\nodd,mixed\n', "line 4: unknown label 'mixed'"),
    ("train.csv", "text,label\nfine, pos\n", "line 2: unknown label ' pos'"),
    ("train.csv", "text,label\nfine\n", "line 2: 1 field, but the header has 2 (text, label); put a text with a comma"),
    ("train.csv", "text,label\nfine,pos\n  ,pos\n", "line 3: the text is empty"),
    ("train.csv", "text;label\nfine;pos\n", "has no column 'text' (columns: text;label)"),
    ("train.csv", "text,class\nfine,pos\n", "has no column 'label' (columns: text, class)"),
    ("train.csv", "text,label,text\nfine,pos,bad\n", "has 2 columns with the name 'text'; rename or remove all but one"),
    ("train.csv", "", "has no column 'text' (the file is empty)"),
    ("train.csv", "text,label\n", "the train split is empty (train.csv)"),
    ("train.csv", "text,label\nfine,pos\na,b,pos\n", "line 3: 3 fields, but the header has 2 (text, label); put a text"),
    ("train.csv", "text,label\na,b,pos\n", "line 2: 3 fields, but the header has 2"),
    ("train.csv", "text,label\nfine,pos,\n", "line 2: 3 fields, but the header has 2"),
    ("train.csv", 'text,label\n"fine,pos\n', "line 2: not valid CSV (unexpected end of data); put a field with quotes"),
    ("train.csv", 'text,label\n"fine" film,pos\n', "line 2: not valid CSV ("),
    (
        "train.tsv",
        "text\tlabel\na\tb\tpos\n",
        "line 2: 3 fields, but the header has 2 (text, label); a text cannot contain a tab",
    ),
    ("train.jsonl", "", "the train split is empty (train.jsonl)"),
    ("train.jsonl", '{"text": "a", "label": "pos"}\n\n{"text": \n', "line 3: not valid JSON (Expecting value, character"),
    (
        "train.jsonl",
        '["a", "pos"]\n',
        "line 1: each line must be a JSON object such as {\"text\": ..., \"label\": ...}, got ['a', 'pos']",
    ),
    ("train.jsonl", '{"text": "a", "label": "pos"}\n{"text": "b"}\n', "line 2: missing field 'label' (found: 'text')"),
    ("train.jsonl", '{"text": "a", "label": "pos"}\n{"label": "pos"}\n', "line 2: missing field 'text' (found: 'label')"),
    ("train.jsonl", '{"text": "a", "text": "b", "label": "pos"}\n', "line 1: duplicate field 'text'; write it once"),
    ("train.jsonl", '{"text": 3, "label": "pos"}\n', "line 1: 'text' must be a string, got 3"),
    ("train.jsonl", '{"text": null, "label": "pos"}\n', "line 1: 'text' must be a string, got None"),
    ("train.jsonl", '{"text": NaN, "label": "pos"}\n', "line 1: 'text' must be a string, got nan"),
    ("train.jsonl", '{"text": "a\\ud800", "label": "pos"}\n', "line 1: 'text' contains a lone surrogate (half of a character)"),
    ("train.jsonl", '{"text": "a", "label": ["pos"]}\n', "line 1: unknown label \"['pos']\""),
    ("train.jsonl", '{"text": "a", "label": null}\n', "line 1: unknown label ''"),
    ("train.jsonl", '{"text": "a", "label": ' + 5000 * "9" + "}\n", "line 1: not valid JSON (Exceeds the limit"),
    ("train.jsonl", 100_000 * "[" + "\n", "line 1: not valid JSON (it is nested too deeply)"),
    ("train.parquet", "no parquet", "is not a valid Parquet table ("),
    ("train.txt", "text,label\n", "the name of a table must end in .csv, .tsv, .jsonl or .parquet"),
]


@pytest.mark.parametrize(("name", "content", "sentence"), BAD)
def test_a_fault_of_a_file_is_one_sentence_that_says_where(name, content, sentence, tmp_path, read):
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=re.escape(sentence)) as caught:
        read(tmp_path / name)
    assert "\n" not in str(caught.value)
    assert name in str(caught.value)


def test_a_label_that_is_a_list_is_told(tmp_path, read):
    pq.write_table(pa.table({"text": ["a"], "label": [["pos", "neg"]]}), tmp_path / "train.parquet")
    with pytest.raises(InputError, match="row 1: unknown label"):
        read(tmp_path / "train.parquet")


def test_a_file_that_is_not_there_or_not_text_is_told(tmp_path, read):
    with pytest.raises(InputError, match=r"train\.csv cannot be read"):
        read(tmp_path / "train.csv")
    for ending in ("csv", "tsv", "jsonl"):
        (tmp_path / f"latin.{ending}").write_bytes("text,label\ncaf\xe9,pos\n".encode("latin-1"))
        sentence = f"latin.{ending}, line 2: not UTF-8 text (byte 14); save the file as UTF-8"
        with pytest.raises(InputError, match=re.escape(sentence)):
            read(tmp_path / f"latin.{ending}")


def test_one_file_for_both_splits_is_refused_by_whatever_name(tmp_path):
    path = write(tmp_path / "all.csv", ROWS)
    (tmp_path / "link.csv").symlink_to(path)
    for other in (path, tmp_path / "link.csv", tmp_path / "x" / ".." / "all.csv"):
        with pytest.raises(InputError, match=r"both splits use all\.csv; use different files"):
            columns.read("mine", LAYOUT, {"train": [path], "test": [other]})


DEFINITION = {"template": "{text}:{label}", "label_words": {"neg": " bad", "pos": " good"}, "train": "a", "test": "b"}


def test_the_command_writes_the_table_with_its_provenance(tmp_path):
    train, test = write(tmp_path / "t.csv", ROWS), write(tmp_path / "q.tsv", ROWS[:2])
    arguments = [
        "corpora",
        "--task",
        "mine",
        "--definition",
        json.dumps(DEFINITION),
        "--train",
        str(train),
        "--test",
        str(test),
    ]
    assert main([*arguments, "--out", str(tmp_path / "corpora/mine.parquet")]) == 0
    table, about = artifacts.read(tmp_path / "corpora/mine.parquet", "corpora")
    assert texts(table) == [*ROWS, *ROWS[:2]]
    assert about["corpus"] == {"source": "files", "test_duplicates": {"duplicates": 2, "texts": 2, "dropped": False}}
    assert about["settings"]["classes"] == ["neg", "pos"]
    assert set(about["inputs"]) == {"train: t.csv", "test: q.tsv"}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--seed", "0"], "mine is your own task, and has no built-in texts; give --train and --test, or --fetched"),
        (["--fetched", "x"], "--definition of mine names no data set on the Hub"),
        (["--train", "x"], "give one of --seed"),
        ([], "give one of --seed"),
    ],
)
def test_the_command_says_what_a_task_of_ones_own_can_be_made_of(arguments, sentence, tmp_path, capsys):
    command = ["corpora", "--task", "mine", "--definition", json.dumps(DEFINITION), *arguments]
    assert main([*command, "--out", str(tmp_path / "mine.parquet")]) == 1
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "mine.parquet").exists()
