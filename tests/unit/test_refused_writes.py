"""Writes that the file system refuses: one sentence with the path and what to do, and nothing half-written is left."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib import pyplot as plt

from icl_lens.artifacts import execution, files, hashes, notebooks, tensors
from icl_lens.artifacts.signed_file import Kind
from icl_lens.cli.commands import main
from icl_lens.errors import InputError
from icl_lens.hub import download, gguf_conversion
from icl_lens.organism import training
from icl_lens.report import figures, publish
from tests import artifacts, small_device

from ..families import tiny

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="devices are mounted as on Unix")

RANDOM = np.random.default_rng(0)
BIG = RANDOM.random(200_000)  # 1.6 MB, more than fits on the device
ROWS = pd.DataFrame(
    {"split": "train", "index": range(20_000), "text": [bytes(RANDOM.bytes(40)).hex() for _ in range(20_000)], "label": 0}
)
REPOSITORY = download.Repository("model", "owner/name", "main")


def write_table(folder: Path) -> Path:
    about = artifacts.describe("corpora", "icl_lens.corpora.files", inputs={}, settings={}, seeds=[])
    artifacts.write(folder / "corpora/sst2.parquet", ROWS, about)
    return folder / "corpora/sst2.parquet"


def write_tensors(folder: Path) -> Path:
    tensors.write(folder / "a.safetensors", {"a": BIG}, {})
    return folder / "a.safetensors"


def write_signed(folder: Path) -> Path:
    from pydantic import BaseModel

    class Header(BaseModel):
        format: int
        content: str

    Kind("kind", 1, Header, "pt", "", "", "").write(folder / "c.safetensors", {"a": torch.from_numpy(BIG)})
    return folder / "c.safetensors"


def write_figure(folder: Path) -> Path:
    figure, axes = plt.subplots(figsize=(6, 6))
    axes.imshow(BIG.reshape(400, 500))
    try:
        figures.save_figure(figure, pd.DataFrame({"value": BIG}), folder / "figures/figure_1", ["A note."])
    finally:
        plt.close(figure)
    return folder / "figures/figure_1"


def write_printed_table(folder: Path) -> Path:
    figures.save_table(pd.DataFrame({"value": BIG[:60_000]}), folder / "table_1")
    return folder / "table_1"


def write_record(folder: Path) -> Path:
    notebooks.write_record(folder / "figure_1.json", [], [], notebook={"text": BIG[:60_000].tolist()})
    return folder / "figure_1.json"


def write_checkpoint(folder: Path, tokenizer) -> Path:
    training.save(tiny("gpt2", len(tokenizer), context=9000), tokenizer, folder / "step-000001")
    return folder / "step-000001"


def write_copied_folder(folder: Path, source: Path) -> Path:
    with files.whole_folder(folder / "model") as unfinished:
        shutil.copytree(source, unfinished, dirs_exist_ok=True)
    return folder / "model"


def write_download(folder: Path) -> Path:
    with download.locked(folder / "m", REPOSITORY) as place:
        partial = download._Partial(place.path / download.PARTIAL / "0", download.RemoteFile(size=BIG.nbytes, digest="0" * 64))
        try:
            partial.append(BIG.tobytes())
        finally:
            partial.close()
    return folder / "m"


def write_converted(folder: Path) -> Path:
    from safetensors.numpy import save_file

    target = folder / "converted"
    with gguf_conversion._translate_disk_errors(target):
        target.mkdir()
        with gguf_conversion._step("2 of 4", Path("m.gguf"), None):
            save_file({"a": BIG}, target / "model.safetensors")
    return target


WRITERS = {
    "table": write_table,
    "tensors": write_tensors,
    "signed": write_signed,
    "figure": write_figure,
    "printed table": write_printed_table,
    "record": write_record,
    "checkpoint": write_checkpoint,
    "copied folder": write_copied_folder,
    "download": write_download,
    "conversion": write_converted,
}
RESUMED = ("download", "conversion")


@pytest.mark.parametrize("device", small_device.SENTENCES, ids=lambda device: device.__name__)
@pytest.mark.parametrize("writer", WRITERS)
def test_a_refused_write_is_one_sentence_and_leaves_nothing(writer, device, tmp_path, tokenizer):
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "weights").write_bytes(BIG.tobytes())
    more = {"checkpoint": [tokenizer], "copied folder": [tmp_path / "source"]}.get(writer, [])
    folder = tmp_path / "device"
    with device(folder), pytest.raises(InputError) as caught:
        WRITERS[writer](folder, *more)
    path = {
        "table": folder / "corpora/sst2.parquet",
        "tensors": folder / "a.safetensors",
        "signed": folder / "c.safetensors",
        "figure": folder / "figures/figure_1.png",
        "printed table": folder / "table_1.csv",
        "record": folder / "figure_1.json",
        "checkpoint": folder / "step-000001",
        "copied folder": folder / "model",
        "download": folder / "m",
        "conversion": folder / "converted",
    }[writer]
    assert small_device.SENTENCES[device].format(path=path) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    if writer not in RESUMED:
        assert not [path for path in folder.rglob("*") if path.is_file()]


def test_a_full_device_keeps_the_old_file_and_no_temporary_one(tmp_path):
    with small_device.full(tmp_path / "device", free=100_000) as folder:
        (folder / "a.safetensors").write_text("the old content")
        (folder / "model").mkdir()
        (folder / "model" / "config.json").write_text("old")
        with pytest.raises(InputError, match="no space left"):
            write_tensors(folder)
        (tmp_path / "source").mkdir()
        (tmp_path / "source" / "weights").write_bytes(BIG.tobytes())
        with pytest.raises(InputError, match="no space left"):
            write_copied_folder(folder, tmp_path / "source")
        left = sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
        assert left == ["a.safetensors", "filler", "model", "model/config.json"]
        assert (folder / "a.safetensors").read_text() == "the old content"


def test_a_published_page_on_a_read_only_device_is_one_sentence(tmp_path):
    with small_device.read_only(tmp_path / "device") as folder, pytest.raises(InputError) as caught:
        publish.write([tmp_path], folder / "docs", None, [], tmp_path)
    assert str(caught.value) == f"{folder}/docs is on a read-only file system; use another folder"


def notebook(path: Path, *cells: str) -> Path:
    """Write a notebook with code cells."""
    code = [{"cell_type": "code", "source": c, "metadata": {}, "outputs": [], "execution_count": None} for c in cells]
    code[0]["metadata"] = {"tags": ["parameters"]}
    metadata = {
        "kernelspec": {"name": "python3", "display_name": "", "language": "python"},
        "language_info": {"name": "python"},
    }
    path.write_text(json.dumps({"cells": code, "metadata": metadata, "nbformat": 4, "nbformat_minor": 4}))
    return path


def test_an_executed_notebook_that_cannot_be_saved_is_one_sentence(tmp_path):
    source = notebook(tmp_path / "a.ipynb", "x = 1", "print('long' * 100_000)")
    with small_device.full(tmp_path / "device", free=100_000) as folder:
        with pytest.raises(InputError, match=r"no space left on the device while writing .*/b\.ipynb \("):
            execution.execute(source, folder / "b.ipynb", {})
        assert [path.name for path in folder.iterdir()] == ["filler"]


def test_a_notebook_runs_without_ports_and_its_error_is_the_users(tmp_path, monkeypatch):
    def no_ports(*_, **__):
        raise AssertionError("a port is used")

    monkeypatch.setattr(execution, "_loopback_fault", no_ports)
    monkeypatch.setattr("jupyter_client.connect.localhost", no_ports)
    source = notebook(tmp_path / "a.ipynb", "x = 1", "from icl_lens.errors import InputError", "raise InputError(f'x is {x}')")
    with pytest.raises(InputError, match=r"^x is 5$"):
        execution.execute(source, tmp_path / "b.ipynb", {"x": 5})
    assert "x is 5" in (tmp_path / "b.ipynb").read_text(), "it is kept to look at"


def test_without_sockets_and_loopback_a_notebook_fails_at_once_with_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(execution, "LOOPBACK", "192.0.2.1")  # an address that no machine has
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / ("long" * 30)))
    (tmp_path / ("long" * 30)).mkdir()
    with pytest.raises(InputError, match=r"192.0.2.1 cannot be reached \(.*\(AF_UNIX path too long.* TMPDIR") as caught:
        execution.execute(notebook(tmp_path / "a.ipynb", "x = 1"), tmp_path / "b.ipynb", {})
    assert len(str(caught.value).splitlines()) == 1
    assert not list((tmp_path / ("long" * 30)).iterdir())


def test_a_long_path_of_the_temporary_folder_falls_back_to_ports(tmp_path, monkeypatch):
    config, attempts = execution._kernel(str(tmp_path))
    assert config.KernelManager.transport == "ipc" or len(str(tmp_path)) > 85
    config, attempts = execution._kernel(str(tmp_path / ("long" * 30)))
    assert "transport" not in config.KernelManager
    assert attempts == 2


@pytest.mark.skipif(not shutil.which("unshare"), reason="this system has no command `unshare`")
def test_a_notebook_runs_without_a_loopback_interface(tmp_path):
    command = ["unshare", "--net", sys.executable, "-m", "icl_lens", "execute", "--parameters", '{"x": 5}']
    source = notebook(tmp_path / "a.ipynb", "x = 1", "print('x is', x)")
    done = subprocess.run(
        [*command, "--source", source, "--out", tmp_path / "b.ipynb"], capture_output=True, text=True, timeout=50, check=False
    )
    if "unshare" in done.stderr:
        pytest.skip("this user may not create a network namespace")
    assert done.returncode == 0, done.stderr
    assert "x is 5" in (tmp_path / "b.ipynb").read_text()


def test_a_name_as_long_as_the_file_system_allows_is_written(tmp_path):
    path = tmp_path / f"{'x' * 250}.json"
    with files.whole_file(path) as temporary:
        temporary.write_text("{}")
    assert path.read_text() == "{}"
    with (
        pytest.raises(InputError, match="is too long for the file system; use a shorter name"),
        files.whole_file(f"{path}long"),
    ):
        pass


def test_a_folder_or_a_file_in_the_way_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    told = re.escape(f"{tmp_path}/file/a cannot be written because {tmp_path}/file is a file; use another folder")
    with pytest.raises(InputError, match=told), files.whole_file(tmp_path / "file/a"):
        pass
    with pytest.raises(InputError, match="folder is a folder; specify a file"), files.whole_file(tmp_path / "folder"):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_an_error_of_another_file_or_kind_is_not_hidden(tmp_path):
    for error in (
        PermissionError(errno.EACCES, "Permission denied", "/elsewhere/input.csv"),
        FileNotFoundError(errno.ENOENT, "No such file", str(tmp_path / "x")),
        ValueError("a bug"),
    ):
        with pytest.raises(type(error)) as caught, files.writing(tmp_path / "x"):
            raise error
        assert caught.value is error


def test_a_cache_of_hashes_that_cannot_be_written_is_no_error(tmp_path, monkeypatch):
    path = tmp_path / "weights"
    path.write_text("content")
    os.utime(path, (0, 0))
    monkeypatch.setattr(hashes, "seconds_until_settled", lambda stamps: 0.0)
    for device in (small_device.full, small_device.read_only):
        with device(tmp_path / device.__name__) as folder:
            monkeypatch.setenv(hashes.HASHES, str(folder))
            assert len(hashes.files_hash([path])) == 64
            assert [entry.name for entry in folder.iterdir()] == ["filler"]


@pytest.mark.parametrize("device", [small_device.full, small_device.read_only, small_device.forbidden])
def test_a_command_checks_its_output_first(device, tmp_path, capsys):
    with device(tmp_path / "device") as folder:
        assert main(["corpora", "--task", "sst2", "--seed", "0", "--out", str(folder / "sst2.parquet")]) == 1
    said = capsys.readouterr().err
    sentence = small_device.SENTENCES[device].format(path=folder / "sst2.parquet")
    assert said.startswith(f"icl-lens corpora: --out: {sentence}")
    assert len(said.splitlines()) == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_output_to_a_full_device_is_one_sentence():
    with open("/dev/full", "w") as output:
        done = subprocess.run([sys.executable, "-m", "icl_lens", "config"], stdout=output, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert done.stderr == (
        "icl-lens config: no space left on the device while writing the output or the log; free some space, or use another "
        "folder\n"
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_an_error_that_the_log_cannot_hold_goes_to_the_workflow(tmp_path):
    reader, writer = os.pipe()
    command = [sys.executable, "-m", "icl_lens", "plan", "--config", tmp_path / "no.yaml"]
    with open("/dev/full", "w") as log:
        done = subprocess.run(
            command,
            stderr=log,
            stdin=subprocess.DEVNULL,
            pass_fds=[writer],
            env={**os.environ, "ICL_LENS_STDERR": str(writer)},
            check=False,
        )
    os.close(writer)
    with open(reader) as stream:
        said = stream.read()
    assert done.returncode != 0
    assert said.startswith("icl-lens plan: ")
    assert "no.yaml" in said
    assert len(said.splitlines()) == 1


def test_an_artifact_without_permission_is_not_called_corrupted(tmp_path):
    write_tensors(tmp_path)
    table = write_table(tmp_path)
    for path in (tmp_path / "a.safetensors", table):
        path.chmod(0)
    user = os.geteuid()
    if user == 0:
        below = len(Path(tempfile.gettempdir()).parts)
        for parent in (tmp_path, *tmp_path.parents)[: len(tmp_path.parts) - below]:
            parent.chmod(0o755)
        os.seteuid(65534)
    try:
        for read in (lambda: tensors.read(tmp_path / "a.safetensors"), lambda: artifacts.read(table, "corpora")):
            with pytest.raises(InputError, match=r"^no permission to read .*; change the permissions$"):
                read()
    finally:
        os.seteuid(user)
