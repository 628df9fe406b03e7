"""Tests of changed inputs: Snakemake and the audit compare the content of files outside the results folder, not their dates."""

import os
import shutil

import pytest

from .conftest import TINY, Clone
from .test_workflow import jobs

CONFIG = {
    **TINY,
    "models": [{"name": "tiny", "path": "downloads/tiny", "chat": True}],
    "tasks": ["mine"],
    "seeds": [42],
    "queries": 2,
    "own_tasks": {
        "mine": {
            "title": "Mine",
            "template": "Review: {text}\nSentiment:{label}",
            "label_words": {"good": " Business", "bad": " Technology"},
            "train": "own/train.csv",
            "test": "own/test.csv",
        }
    },
}
TARGET = ("figure_4", "--cores", "2", "--configfile", "changed.yaml")
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% if not loop.last %}\n{% endif %}{% endfor %}"
OLD = 1_000_000_000  # seconds since 1970, long before any result


def texts(rows):
    return "text,label\n" + "".join(f"{text},{label}\n" for text, label in rows)


@pytest.fixture(scope="module")
def run(tmp_path_factory, checkpoint):
    """A clone that has made Figure 4 of an own task with a chat model, which the user copied into the folder of downloads."""
    clone = Clone(tmp_path_factory.mktemp("changed") / "clone")
    shutil.copytree(checkpoint, clone.folder / "downloads/tiny")
    (clone.folder / "downloads/tiny/chat_template.jinja").write_text(TEMPLATE)
    (clone.folder / "own").mkdir()
    first = [("a fine film", "good"), ("dull and slow", "bad"), ("warm and clever", "good"), ("empty", "bad")]
    (clone.folder / "own/train.csv").write_text(texts(first))
    (clone.folder / "own/test.csv").write_text(texts([("so funny", "good"), ("a poor film", "bad")]))
    clone.config("changed", **CONFIG)
    done = clone.snakemake(*TARGET)
    assert done.returncode == 0, done.stdout
    assert not jobs(clone.snakemake(*TARGET, "-n"))
    return clone


@pytest.fixture
def kept(run):
    """The clone; its files and their dates are restored after the test."""
    folders = ("downloads", "own", "notebooks", "src/icl_lens/resources")
    files = [path for name in folders for path in (run.folder / name).rglob("*")]
    before = {path: (path.read_bytes(), path.stat()) for path in files if path.is_file()}
    yield run
    for path, (content, stat) in before.items():
        path.unlink(missing_ok=True)
        path.write_bytes(content)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def replace(path, content):
    """Replace a file as `mv` does: the new file has another inode and its own, old date."""
    new = path.with_name("new")
    new.write_bytes(content)
    os.utime(new, (OLD, OLD))
    new.replace(path)


def edit_weights(path):
    """Change one weight; the file keeps its size and its date."""
    stat = path.stat()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


CHANGES = {
    "own/train.csv": lambda path: replace(path, texts([("a fine film", "good"), ("dull and slow", "bad")]).encode()),
    "downloads/tiny/model.safetensors": edit_weights,
    "downloads/tiny/chat_template.jinja": lambda path: replace(path, b"A chat. " + path.read_bytes()),
    "notebooks/anchors/figure_4.ipynb": lambda path: replace(path, path.read_bytes().replace(b'"cells": [', b'"cells":  [')),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_input_is_noticed_whatever_its_date(kept, name):
    CHANGES[name](kept.folder / name)
    planned = jobs(kept.snakemake(*TARGET, "-n"))
    expected = {"own/train.csv": "corpora", "notebooks/anchors/figure_4.ipynb": "figure"}.get(name, "isolation")
    assert planned[expected], planned
    audit = kept.icl_lens("audit", "results")
    assert audit.returncode == 1, audit.stdout
    (fault, *others) = [line for line in audit.stdout.splitlines() if "has changed" in line]
    made = {"own/train.csv": "corpora/mine.parquet", "notebooks/anchors/figure_4.ipynb": "figures/figure_4.json"}
    assert name.rpartition("/")[0] in fault, fault
    assert made.get(name, "icl.parquet") in fault, fault
    assert len(others) <= 1


def test_a_new_date_alone_causes_no_run(kept):
    for name in CHANGES:
        (kept.folder / name).touch()
    assert not jobs(kept.snakemake(*TARGET, "-n"))
    assert kept.icl_lens("audit", "results").returncode == 0


def test_a_link_to_another_file_is_noticed(kept):
    train = kept.folder / "own/train.csv"
    other = kept.folder / "own/other.csv"
    shutil.copy2(train, other)
    train.unlink()
    train.symlink_to(other)
    assert not jobs(kept.snakemake(*TARGET, "-n")), "the same content through a link"
    replace(other, texts([("a fine film", "good"), ("dull and slow", "bad")]).encode())
    assert jobs(kept.snakemake(*TARGET, "-n"))["corpora"]


def test_the_audit_says_which_inputs_it_cannot_compare(kept):
    (kept.folder / "own/train.csv").unlink()
    audit = kept.icl_lens("audit", "results")
    assert audit.returncode == 0
    assert "not compared: own/train.csv does not exist" in audit.stdout
