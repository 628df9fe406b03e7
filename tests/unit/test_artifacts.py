import json
import os
import signal

import pandas as pd
import pyarrow as pa
import pytest

from icl_lens.artifacts import files, parquet
from icl_lens.errors import InputError
from tests import artifacts

ROWS = pd.DataFrame({"split": ["train", "test"], "index": [0, 0], "text": ["a ", "b\t'\"<b>"], "label": [0, 1]})


def describe(**more):
    return artifacts.describe("corpora", "icl_lens.corpora.files", inputs={}, settings={}, seeds=[], **more)


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "corpora" / "sst2.parquet"
    artifacts.write(path, ROWS, describe(corpus={"source": "files"}))
    return path


def test_what_is_written_is_read_with_its_provenance(written):
    table, metadata = artifacts.read(written, "corpora")
    pd.testing.assert_frame_equal(table, ROWS, check_dtype=False)
    assert metadata["schema"] == "corpora"
    assert metadata["corpus"] == {"source": "files"}
    assert set(metadata["libraries"]) >= {"torch", "transformers", "pyarrow"}
    json.dumps(metadata)


def test_the_same_table_gives_the_same_bytes(written, tmp_path):
    artifacts.write(tmp_path / "again.parquet", ROWS, describe(corpus={"source": "files"}))
    assert (tmp_path / "again.parquet").read_bytes() == written.read_bytes()


def test_a_failure_while_writing_leaves_nothing(tmp_path):
    path = tmp_path / "x.parquet"
    path.write_text("the old content")
    with pytest.raises(RuntimeError, match="power cut"), files.whole_file(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError("power cut")
    assert [p.name for p in tmp_path.iterdir()] == ["x.parquet"]
    assert path.read_text() == "the old content"


def test_the_temporary_files_of_killed_processes_are_deleted_and_those_of_others_kept(tmp_path):
    path, other = tmp_path / "figure.svg", tmp_path / ".figure.notes.svg"
    other.write_text("a file of the user")
    killed = os.fork()
    if killed == 0:
        with files.whole_file(path):
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(killed, 0)
    assert len(list(tmp_path.iterdir())) == 2
    with files.whole_file(path) as first:
        first.write_text("first")
        with files.whole_file(path) as second:
            assert sorted(tmp_path.iterdir()) == sorted([other, first, second])
            second.write_text("second")
        assert path.read_text() == "second"
    assert sorted(tmp_path.iterdir()) == sorted([other, path])
    assert path.read_text() == "first"


def test_a_table_with_other_columns_is_refused(tmp_path):
    with pytest.raises(ValueError, match="columns"):
        artifacts.write(tmp_path / "x.parquet", ROWS.drop(columns="label"), describe())
    assert not list(tmp_path.iterdir())


def test_a_table_with_an_empty_cell_is_not_written(tmp_path):
    for cell in (None, float("nan")):
        with pytest.raises(ValueError, match="empty cells in column label"):
            artifacts.write(tmp_path / "x.parquet", ROWS.assign(label=[1, cell]), describe())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("keep", [0, 3, 200, -1])
def test_a_file_cut_short_is_told(written, keep):
    written.write_bytes(written.read_bytes()[:keep])
    with pytest.raises(
        InputError,
        match=r"sst2\.parquet is not a valid Parquet file \(truncated or corrupted\); delete it with `icl-lens audit",
    ):
        artifacts.read(written, "corpora")


def test_a_flipped_byte_is_told_wherever_it_is(tmp_path):
    path = tmp_path / "x.parquet"
    table = pd.concat([ROWS] * 200, ignore_index=True)
    table["text"] = [f"text number {i * 7919 % 400}" for i in range(len(table))]
    artifacts.write(path, table, describe())
    whole = path.read_bytes()
    silent = 0
    for place in range(4, len(whole) - 8, 97):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        try:
            read, metadata = artifacts.read(path, "corpora")
        except InputError:
            continue
        # The checksums do not cover all bytes (for example the footer's statistics), so data that can be read must still be
        # correct.
        silent += not read.equals(artifacts_table(table)) or metadata.get("schema") != "corpora"
    assert silent == 0


def artifacts_table(table):
    return (
        table.astype({"index": "int64", "label": "int64"})
        .astype({"split": object, "text": object})
        .astype({"split": "str", "text": "str"})
    )


def test_another_kind_of_table_is_told(written):
    with pytest.raises(InputError, match="is a corpora table; expected a prompts table"):
        artifacts.read(written, "prompts")


def test_a_table_made_elsewhere_needs_the_columns_only(tmp_path):
    path = tmp_path / "own.parquet"
    ROWS.astype({"label": "int32"}).assign(extra=1).to_parquet(path)
    table, metadata = artifacts.read(path, "corpora")
    assert list(table.columns) == list(ROWS.columns)
    assert metadata == {}
    ROWS.drop(columns="text").to_parquet(path)
    with pytest.raises(InputError, match="is not a corpora table: missing column text"):
        artifacts.read(path, "corpora")
    ROWS.assign(label="Positive").to_parquet(path)
    with pytest.raises(InputError, match="is not a corpora table"):
        artifacts.read(path, "corpora")
    ROWS.assign(text=["a", None]).to_parquet(path)
    with pytest.raises(InputError, match="has empty cells in column text"):
        artifacts.read(path, "corpora")
    ROWS.iloc[:0].to_parquet(path)
    with pytest.raises(InputError, match="has no rows"):
        artifacts.read(path, "corpora")


def test_an_absent_file_is_told(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        artifacts.read(tmp_path / "x.parquet", "corpora")


def test_a_flip_of_any_byte_of_a_table_is_found(written):
    whole = written.read_bytes()
    assert parquet.is_unchanged(written)
    for position in range(0, len(whole), 5):
        changed = bytearray(whole)
        changed[position] ^= 0xFF
        written.write_bytes(changed)
        try:
            unchanged = parquet.is_unchanged(written)
        except (pa.ArrowException, OSError, ValueError):  # the footer cannot be parsed
            unchanged = False
        assert not unchanged, position
