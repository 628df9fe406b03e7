import json
import os
import time

import pytest

from icl_lens.artifacts import hashes


def test_an_artifacts_name_is_its_place_in_the_results_tree():
    study = "/home/me/studies/results/studies/gpt2/sst2/fresh-1shot/icl.parquet"
    name = hashes.artifact_name
    assert name("/home/me/studies/results/prompts/sst2/x.parquet", study) == "prompts/sst2/x.parquet"
    assert name("results/figures/figure_3.csv", "results/figures/figure_3.json") == "figures/figure_3.csv"
    assert name("/home/me/prompts/own.parquet", study) == "own.parquet"
    assert name("/home/me/prompts/own.parquet", "/home/me/icl.parquet") == "own.parquet"


def test_the_hash_of_files_tells_their_names_and_content(tmp_path):
    for name, text in (("a", "1"), ("b", "2")):
        (tmp_path / name).write_text(text)
    first = hashes.files_hash([tmp_path / "a", tmp_path / "b"])
    assert hashes.files_hash([tmp_path / "b", tmp_path / "a"]) == first
    (tmp_path / "b").write_text("3")
    assert hashes.files_hash([tmp_path / "a", tmp_path / "b"]) != first


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of hashes, and a function that sets the seconds since the last change of a file."""
    folder = tmp_path / "hashes"
    folder.mkdir()
    monkeypatch.setenv(hashes.HASHES, str(folder))
    start = time.time()
    monkeypatch.setattr(hashes.time, "time", lambda: start + 10)
    return folder


@pytest.fixture
def reads(monkeypatch):
    """The paths of the files whose content was read."""
    paths = []
    read = hashes.file_hash
    monkeypatch.setattr(hashes, "file_hash", lambda path: paths.append(path) or read(path))
    return paths


def test_a_file_is_read_again_only_after_a_change(tmp_path, cache, reads):
    path = tmp_path / "weights"
    path.write_text("a")
    first = hashes.files_hash([path])
    assert hashes.files_hash([path]) == first
    assert len(reads) == 1
    stat = path.stat()
    path.write_text("b")  # the same size
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # the same date; the change time of the inode differs
    assert hashes.files_hash([path]) != first
    assert len(reads) == 2
    other = tmp_path / "other"
    other.write_text("c")
    os.utime(other, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    other.replace(path)
    assert hashes.cached_file_hash(path) == hashes.file_hash(path)
    assert len([entry for entry in cache.iterdir()]) == 1, "one entry per path"


def test_a_file_that_changed_within_two_seconds_is_read_again(tmp_path, cache, reads, monkeypatch):
    path = tmp_path / "weights"
    path.write_text("a")
    changed = path.stat().st_ctime
    for now, read in ((changed + 1.9, 1), (changed + 1.9, 2), (changed - 3600, 3), (changed + 2.1, 4), (changed + 2.1, 4)):
        monkeypatch.setattr(hashes.time, "time", lambda now=now: now)
        hashes.cached_file_hash(path)
        assert len(reads) == read, now


def test_a_damaged_or_read_only_cache_gives_the_right_hash(tmp_path, cache, reads):
    path = tmp_path / "weights"
    path.write_text("a")
    expected = hashes.cached_file_hash(path)
    (entry,) = cache.iterdir()
    for content in ("", "[]", "{}", json.dumps({"stamp": list(hashes.file_stamps([path])[0]), "sha256": "short"}), "\x00"):
        entry.write_text(content)
        assert hashes.cached_file_hash(path) == expected
    entry.unlink()
    entry.mkdir()  # cannot be written
    assert hashes.cached_file_hash(path) == expected
    assert list(cache.iterdir()) == [entry]


def test_reading_a_large_file_shows_progress(tmp_path, cache, monkeypatch, caplog):
    monkeypatch.setattr(hashes, "_LARGE", 100)
    path = tmp_path / "weights"
    path.write_bytes(bytes(1000))
    with caplog.at_level("INFO"):
        assert hashes.cached_file_hash(path) == hashes.file_hash(path)
        assert f"reading {path} (1.0 kB) to detect changes: 1.0 kB of 1.0 kB" in caplog.text
        caplog.clear()
        hashes.cached_file_hash(path)
    assert not caplog.text
