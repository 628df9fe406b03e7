"""Runs whose folders cannot be written: one sentence before the first job, or the reason of the job that fails."""

from __future__ import annotations

import subprocess

import pytest

from .. import small_device
from .conftest import Clone

CONFIG = {
    "models": [{"name": "organism", "path": "src/icl_lens/organism/checkpoint"}],
    "tasks": ["sst2"],
    "seeds": [42],
    "queries": 3,
    "device": "cpu",
}


def run(clone: Clone, folder, target: str) -> subprocess.CompletedProcess:
    overlay = clone.config("small", **CONFIG, results=str(folder / "results"))
    return clone.snakemake(target, "--cores", "2", "--configfile", overlay.name)


def test_a_results_folder_that_cannot_be_written_is_one_sentence_before_the_first_job(clone, tmp_path):
    with small_device.read_only(tmp_path / "device") as folder:
        done = run(clone, folder, "figure_1")
    assert done.returncode == 1
    lines = done.stdout.strip().splitlines()
    assert lines[-1] == f"results: {folder}/results is on a read-only file system; use another folder"
    assert "Traceback" not in done.stdout
    assert "Error in rule" not in done.stdout


def test_a_state_of_snakemake_that_cannot_be_written_is_one_sentence(tmp_path):
    folder = tmp_path / "device"
    folder.mkdir()
    small_device.mount(folder, "size=60m")
    try:
        clone = Clone(folder / "clone")
        overlay = clone.config("small", **CONFIG)
        small_device.mount(folder, "remount,ro,size=60m")
        done = clone.snakemake("figure_1", "--cores", "2", "--configfile", overlay.name)
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)
    assert done.returncode == 1
    assert done.stdout.strip().splitlines()[-1] == (
        f"Snakemake cannot run in this folder: {clone.folder}/.snakemake is on a read-only file system; use another folder"
    )
    assert "Traceback" not in done.stdout


@pytest.mark.long
@pytest.mark.parametrize("free", [40_000, 150_000])
def test_a_disk_that_fills_during_a_run_is_told_even_if_the_log_cannot_be_written(clone, tmp_path, free):
    with small_device.full(tmp_path / "device", free) as folder:
        done = run(clone, folder, "figure_1")
        left = [path for path in folder.rglob(".*") if path.is_file() and path.name != ".lock"]  # it stays
        empty_logs = [path for path in folder.rglob("*.log") if not path.stat().st_size]
    assert done.returncode == 1
    sentence = f"no space left on the device while writing {folder}/results/"
    assert f": {sentence}" in done.stdout
    assert "free some space, or use another folder" in done.stdout
    assert "Traceback" not in done.stdout
    assert not left
    # With the smaller disk, the sentence fits into the log. With the larger one, the artifacts of earlier jobs fill it.
    assert bool(empty_logs) is (free == 150_000)
