"""Fuzz tests of everything that reads a file or text of the user.

The property: any content gives a result, or one InputError that is one printable line. What is written in a format is read
unchanged.
"""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from icl_lens.artifacts import parquet, tensors
from icl_lens.cli.commands import main
from icl_lens.config import parse, plan
from icl_lens.corpora import columns, files, records
from icl_lens.corpora.columns import Columns
from icl_lens.corpora.schema import CORPORA
from icl_lens.errors import InputError
from icl_lens.hub import converted, fetched
from icl_lens.organism.training import read_facts
from icl_lens.report import claims
from icl_lens.short_repr import is_visible
from icl_lens.tasks.task import TASKS
from icl_lens.tools import component_file, demo_cache, text_files

LAYOUT = Columns(("text",), "label", ("neg", "pos"))
TABLES = ("csv", "tsv", "jsonl", "parquet")

QUICK = settings(derandomize=True, max_examples=60, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
LONG = settings(QUICK, max_examples=1000)

# --- contents

FRAGMENTS = [
    *(b"text,label\n", b"text\tlabel\n", b"text,text,label\n", b" text , label\n", b"label,text\r\n", b"text\n", b"fine,pos\n"),
    *(
        b"fine\tpos\n",
        b"fine",
        b",",
        b"\t",
        b'"',
        b'""',
        b"\n",
        b"\r",
        b"\r\n",
        b"\n\n",
        b"  \n",
        b"\0",
        b"\x1a",
        b"\x85",
        b"\x7f",
    ),
    *(
        b"\xef\xbb\xbf",
        b"\xff\xfe",
        b"\xfe\xff",
        b"\xff\xfe\0\0",
        b"\xed\xa0\x80",
        b"\xc3",
        b"\xe2\x80\xa8",
        b"\xf0\x9f\x98\x80",
    ),
    *(b'{"text": "a", "label": "pos"}\n', b'{"text": "\\ud800", "label": "neg"}\n', b'{"text": "a", "text": "b"}', b"{", b"}"),
    *(b"[" * 400, b'{"a":' * 1100, b'{"text": NaN, "label": Infinity}\n', b'{"text": ', b'"label": ', b"9" * 5000, b"1e999"),
    *(b"true", b"null", b"-", b"'", b": ", b"- ", b"&a ", b"*a", b"<<: ", b"!!bool x", b"2001-99-99", b"0x" + b"F" * 5000),
    *(b"template: '{text}:{label}'\n", b"label_words: {neg: ' bad', pos: ' good'}\n", b"train: a.csv\ntest: b.csv\n", b"? "),
    *(b"sentence\tlabel\n", b"fine\t1\n", b"DESC:manner How ?\n", b'"1","a","b"\n', b"id\tturn1\tturn2\tturn3\tlabel\n"),
    *(b"output_file\trule\tplan\n", b"a/b\tcorpora\tupdate pending\n", b"PAR1", b"\x10\0\0\0\0\0\0\0", b'{"__metadata__":{}}'),
]


def parquet_bytes(table):
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


PARQUET = parquet_bytes(pa.table({"text": ["fine", "dull"], "label": ["pos", "neg"]}))

encoded = st.builds(
    lambda text, encoding: text.encode(encoding, errors="replace"),
    st.sampled_from(
        ["text,label\nfin\u00e9,pos\n", '{"text": "fin\u00e9", "label": "pos"}\n', "fin\u00e9\n", "text\tlabel\na\tpos\n"]
    ),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1", "cp037"]),
)


def flips(whole):
    """Return a strategy of the given bytes with a few changes, and possibly cut."""
    return st.builds(
        lambda changes, end: bytes(changes.get(n, byte) for n, byte in enumerate(whole))[:end],
        st.dictionaries(st.integers(0, len(whole) - 1), st.integers(0, 255), max_size=4),
        st.one_of(st.none(), st.integers(0, len(whole))),
    )


flipped = flips(PARQUET)
METADATA = {b"icl_lens": b'{"schema": "corpora", "version": 1}'}
CORPUS = pa.table({"split": ["train"], "index": [0], "text": ["fine"], "label": [1]}, schema=CORPORA.arrow)
corpora = flips(parquet_bytes(CORPUS.replace_schema_metadata(METADATA)))
contents = st.one_of(st.lists(st.sampled_from(FRAGMENTS), max_size=8).map(b"".join), st.binary(max_size=60), encoded, flipped)

# --- structures

any_text = st.text(st.characters(), max_size=12) | st.sampled_from(["", " ", "\n", "\ud800", "\0", "\u2028", "x" * 500])
leaves = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(10**300, 10**301), st.floats(), any_text, st.just(10**4000)
)
structures = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(any_text, inner, max_size=4), max_leaves=8
)
nested = st.integers(0, 3000).map(lambda depth: "[" * depth + "]" * depth)
labels = st.one_of(structures, st.sampled_from(["pos", "neg", " pos", 0, 1, -1, 1.0, True]))
objects = st.fixed_dictionaries({"text": st.one_of(any_text, structures), "label": labels})
json_lines = st.lists(st.one_of(objects, structures).map(json.dumps) | nested, max_size=4).map("\n".join)

KEYS = ["title", "template", "label_words", "text", "label", "train", "test", "hub", "revision", "config", "like", "other"]
words = st.dictionaries(any_text | st.integers(0, 3), any_text | st.sampled_from([" good", " bad"]), max_size=3)
definitions = st.dictionaries(
    st.sampled_from(KEYS) | any_text | st.integers() | st.none(),
    structures | words | st.sampled_from(["{text}:{label}", "sst2", ["text"]]),
    max_size=6,
)

sensible = st.fixed_dictionaries(
    {
        "template": st.just("{text}:{label}") | any_text.map("{{text}}{}:{{label}}".format),
        "label_words": st.dictionaries(any_text, any_text.map(" a{}z".format), min_size=2, max_size=3),
        **{"train": any_text, "test": any_text},
    },
    optional={"title": any_text, "text": st.lists(any_text, max_size=2), "label": any_text},
)

# --- properties


def answer(read, *arguments):
    """Return the result, or None if the input is refused with one printable line."""
    try:
        return read(*arguments)
    except InputError as error:
        said = str(error)
        assert said
        assert said.isprintable()
        assert len(said) < 12_000
        return None


def written(folder, name, content):
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder / name


def table_of_a_task(folder, kind, content):
    other = written(folder, "other.jsonl", '{"text": "a", "label": "pos"}\n')
    read = answer(columns.read, "mine", LAYOUT, {"train": [written(folder, f"t.{kind}", content)], "test": [other]})
    assert read is None or all(text.strip() and text.encode() for text in read["text"])


def demonstrations(folder, kind, content):
    answer(text_files.demonstrations, written(folder, f"t.{kind}", content), TASKS["sst2"])


def texts(folder, kind, content):
    found = answer(text_files.texts, written(folder, f"t.{kind}", content))
    assert found is None or all(one.text.strip() and one.text.encode() and one.line >= 1 for one in found)


def original_files(folder, task, content):
    path = written(folder, "train", content)
    answer(files.read, task, path, written(folder, "test", content))


def definition(folder, _, content):
    answer(parse.parse_task, "mine", content.decode("utf-8", errors="replace"))


def written_definition(folder, _, keys):
    task = answer(lambda: parse.parse_task("mine", json.dumps(keys))[0])
    assert task is None or "".join([task.title, task.template, *task.label_words, *task.classes]).encode()


def config_file(folder, _, content):
    answer(parse.load, written(folder, "config.yaml", content))
    answer(claims.load, folder / "config.yaml")


def structured_definition(folder, _, keys):
    answer(parse.parse, {"tasks": ["mine"], "own_tasks": {"mine": keys}})


def structured_json_lines(folder, _, content):
    for name in ("jsonl", "csv", "tsv"):
        table_of_a_task(folder, name, content)
    demonstrations(folder, "jsonl", content)


def summary(folder, _, content):
    answer(plan.jobs, io.StringIO(content.decode("utf-8", errors="replace")))


def records_of_downloads(folder, _, content):
    for module in (fetched, converted):
        written(folder, module.RECORD, content)
        answer(module.read, folder)
        (folder / module.RECORD).unlink()
    answer(read_facts, written(folder, "facts.json", content))


MADE_BY = {"name": "m", "family": "gpt2", "layers": 1, "model": "x", "tokenizer": "x"}
SHARED = {
    **{"made_by": MADE_BY, "dtype": "float32", "task": "mine", "template": "{text}:{label}", "label_words": [" a", " b"]},
    **{"texts": ["x"], "labels": [0], "bos": "auto", "chat": False, "format": 1, "content": "0"},
}
HEADERS = {
    demo_cache: {**SHARED, "kept": [0], "ids": [5, 6], "start": 2},
    component_file: {**SHARED, "trained_on": 1, "epochs": 1, "right_before": 0, "right_after": 0},
}
changes = st.dictionaries(
    st.sampled_from([*HEADERS[demo_cache], "trained_on", "other"]), structures | st.integers(-1, 10**30), max_size=2
)


def headers(folder, _, changed):
    for module, header in HEADERS.items():
        packed = json.dumps({**header, **changed}).encode("utf-8", errors="replace").decode()
        save_file({"weights": np.zeros(1, np.float32)}, folder / "file", {module.KIND.key: packed})
        read = answer(module.read_header, folder / "file")
        if read is not None:
            answer(module.KIND.read_tensors, folder / "file", read, ["weights"])


def tensor_bytes(folder, _, content):
    path = folder / "whole"
    for module, header in HEADERS.items():
        save_file({"weights": np.zeros(1, np.float32)}, path, {module.KIND.key: json.dumps(header)})
        whole = path.read_bytes()
        place = sum(content) % len(whole)
        for changed in (content, content + whole, whole[:place] + content[:2] + whole[place + 2 :], whole[:place]):
            read = answer(module.read_header, written(folder, "file", changed))
            if read is not None:
                answer(module.KIND.read_tensors, folder / "file", read, ["weights"])
        answer(tensors.read, written(folder, "file", content))


def corpora_table(folder, _, content):
    answer(parquet.read, written(folder, "c.parquet", content), CORPORA)
    answer(parquet.read_metadata, folder / "c.parquet")


PROPERTIES = [
    *((table_of_a_task, kind, contents) for kind in TABLES),
    *((demonstrations, kind, contents) for kind in TABLES),
    *((texts, kind, contents) for kind in (*TABLES, "txt")),
    *((original_files, task, contents) for task in files.FORMATS),
    (structured_json_lines, "", json_lines),
    (definition, "", contents),
    (config_file, "", contents),
    (structured_definition, "", definitions),
    (written_definition, "", sensible),
    (summary, "", contents),
    (records_of_downloads, "", contents | json_lines.map(str.encode)),
    (headers, "", changes),
    (tensor_bytes, "", contents),
    (corpora_table, "", contents | corpora),
]
NAMES = [f"{check.__name__}-{kind}".rstrip("-") for check, kind, _ in PROPERTIES]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzzed")


def run(profile, check, kind, strategy, folder):
    @profile
    @given(strategy)
    def property_(content):
        check(folder, kind, content)

    property_()


@pytest.mark.parametrize(("check", "kind", "strategy"), PROPERTIES, ids=NAMES)
def test_any_input_gives_a_result_or_one_line(check, kind, strategy, folder):
    run(QUICK, check, kind, strategy, folder)


@pytest.mark.long
@pytest.mark.parametrize(("check", "kind", "strategy"), PROPERTIES, ids=NAMES)
def test_any_of_many_inputs_gives_a_result_or_one_line(check, kind, strategy, folder):
    run(LONG, check, kind, strategy, folder)


# --- round trips

whole = st.characters(exclude_categories=["Cs"])
KEPT = {  # the characters that a text in this format can contain
    "csv": st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0") | st.sampled_from('",\r\n')),
    "tsv": st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\t\n") | st.sampled_from('",\r')),
    "jsonl": st.text(whole | st.sampled_from('"\\\0\r\n\u2028')),
    "parquet": st.text(whole),
    "txt": st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r\n\ufeff")),
}


def save(path, rows):
    match path.suffix:
        case ".csv":
            with path.open("w", encoding="utf-8", newline="") as file:
                csv.writer(file).writerows([("text", "label"), *rows])
        case ".tsv":
            path.write_bytes("".join("\t".join(row) + "\n" for row in [("text", "label"), *rows]).encode())
        case ".jsonl":
            path.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows))
        case ".parquet":
            pd.DataFrame(rows, columns=["text", "label"]).to_parquet(path)
        case ".txt":
            path.write_bytes("".join(text + "\n" for text, _ in rows).encode())
    return path


def round_trip(folder, kind, rows):
    path = save(folder / f"rows.{kind}", rows)
    assert [one.text for one in text_files.texts(path)] == [text for text, _ in rows]
    if kind == "txt":
        return
    table = columns.read("mine", LAYOUT, {"train": [path], "test": [save(folder / "other.jsonl", [("a", "pos")])]})
    train = table[table["split"] == "train"]
    assert [(text, LAYOUT.classes[label]) for text, label in zip(train["text"], train["label"], strict=True)] == rows
    assert text_files.demonstrations(path, TASKS["sst2"].__class__("m", "m", "", (" neg", " pos"), LAYOUT.classes)) == (
        [text for text, _ in rows],
        [LAYOUT.classes.index(label) for _, label in rows],
    )


@pytest.mark.parametrize("kind", KEPT)
def test_what_is_written_is_read_unchanged(kind, folder):
    filled = KEPT[kind].filter(is_visible)
    run(QUICK, round_trip, kind, st.lists(st.tuples(filled, st.sampled_from(LAYOUT.classes)), min_size=1, max_size=4), folder)


# --- single faults

FAULTS = [
    ("t.csv", b"\xff\xfet\0e\0", "is UTF-16 or UTF-32 text; save it as UTF-8"),
    ("t.txt", "fine\n".encode("utf-16-le"), "line 1: not text (a NUL byte, as in UTF-16); save it as UTF-8"),
    (
        "t.jsonl",
        b'{"text": "\\ud800"}\n',
        "line 1: 'text' contains a lone surrogate (half of a character) at character 0",
    ),
    ("t.jsonl", b"\n" + b"[" * 100_000, "line 2: not valid JSON (it is nested too deeply)"),
    ("t.jsonl", b'{"text": "a", "text": "b"}', "line 1: duplicate field 'text'; write it once"),
    ("t.csv", b"text,text\na,b\n", "has 2 columns with the name 'text'; rename or remove all but one"),
    ("t.csv", b"text,n\na,1\nb,2,3\n", "line 3: 3 fields, but the header has 2 (text, n); put a text with a comma"),
    ("t.tsv", b"text\tn\na\t1\nb\n", "line 3: 1 field, but the header has 2 (text, n); a text cannot contain a tab"),
    ("t.tsv", b"text\nfine\n\ndull\n", None),
    ("t.json", b'{"text": "a"}\n', "is JSON; add --format jsonl if each line is an object with text"),
]


@pytest.mark.parametrize(("name", "content", "sentence"), FAULTS)
def test_a_fault_is_told_with_its_line_and_a_remedy(name, content, sentence, tmp_path):
    path = written(tmp_path, name, content)
    if sentence is None:
        assert [one.text for one in text_files.texts(path)] == ["fine", "dull"]
        return
    with pytest.raises(InputError) as caught:
        text_files.texts(path)
    assert str(caught.value).startswith(str(path))
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"\xef\xbb\xbftext,label\nfine,pos\n", b"text,label\rfine,pos\r", b"\n\ntext , label\nfine,pos"]
)
def test_a_byte_order_mark_old_line_ends_and_blanks_around_names_are_read_the_same_everywhere(content, tmp_path):
    path = written(tmp_path, "t.csv", content)
    task = TASKS["sst2"].__class__("m", "m", "", (" neg", " pos"), LAYOUT.classes)
    assert text_files.demonstrations(path, task) == (["fine"], [1])
    assert [one.text for one in text_files.texts(path)] == ["fine"]
    other = written(tmp_path, "o.csv", b"text,label\ndull,neg\n")
    assert columns.read("mine", LAYOUT, {"train": [path], "test": [other]})["text"].tolist() == ["fine", "dull"]


@pytest.mark.parametrize("kind", [*TABLES, "txt"])
def test_a_long_text_is_read_and_one_without_end_is_told(kind, tmp_path, monkeypatch):
    limit = csv.field_size_limit()
    assert [one.text for one in text_files.texts(save(tmp_path / f"t.{kind}", [("x" * 300_000, "pos")]))] == ["x" * 300_000]
    assert csv.field_size_limit() == limit
    monkeypatch.setattr(records, "MAX_CHARACTERS", 200_000)
    with pytest.raises(InputError, match="'text' has 300,000 characters, but a field can have at most 200,000; shorten it"):
        text_files.texts(tmp_path / f"t.{kind}")


@pytest.mark.parametrize("text", ["{a: 1, a: 2}", "{template: x, 'template': y}", "x: [{b: 1, b: 1}]"])
def test_a_duplicate_key_in_a_definition_is_told(text):
    with pytest.raises(InputError, match=r"--definition is not valid YAML: duplicate key '\w+' \(line 1, column \d+\)"):
        parse.parse_task("mine", text)


def test_the_surrogate_pairs_of_json_are_characters_and_a_half_is_told():
    keys = {"template": "{text} 😀:{label}", "label_words": {"neg": " 😡", "pos": " 好"}, "train": "a", "test": "b"}
    definition = json.dumps(keys)
    assert "\\ud83d\\ude21" in definition
    assert parse.parse_task("mine", definition)[0].label_words == (" 😡", " 好")
    with pytest.raises(InputError, match=r"config: ' \\ud83d' contains a lone surrogate \(half of a character\); remove it"):
        parse.parse_task("mine", definition.replace("\\ude21", ""))


def test_a_value_that_contains_itself_is_told():
    with pytest.raises(InputError, match=r"config: .* contains itself; remove the alias"):
        parse.parse_task("mine", "{label_words: &a {neg: *a}}")


def test_a_key_may_override_a_merged_one():
    merged = parse.yaml_text.loads("x", "{a: &a {k: 1, l: 2}, b: &b {<<: *a, k: 3}, c: {<<: *b, k: 4}}")
    assert merged["c"] == {"k": 4, "l": 2}


def test_a_text_from_standard_input_is_read_like_a_file(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"text\nfine\0\n")))
    assert main(["classify", "--model", str(Path(__file__).parent), "--cache", "none", "--format", "csv"]) == 1
    assert "standard input, line 2: not text (a NUL byte" in capsys.readouterr().err
