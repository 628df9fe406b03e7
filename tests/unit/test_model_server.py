"""Tests of jobs that use a model held by a server process.

The server is like that of a run. It uses a copy of the package that tests can edit.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch

from icl_lens.artifacts import code, hashes
from icl_lens.cli import model_server, preloaded
from icl_lens.hub.checkpoints import checkpoint_files
from icl_lens.studies import registry
from icl_lens.studies.run import run as run_study
from tests import artifacts

from ..preloading import script_with
from ..prompts_table import prompts_table

ORGANISM = Path(code.PACKAGE) / "organism" / "checkpoint"

linux = pytest.mark.skipif(sys.platform != "linux", reason="processes are forked from a loaded one on Linux only")

# Tests append this to the copy. Each load of the weights writes a line, so that a test can count the loads.
COUNTED = """
_load_uncounted = _load_network
def _load_network(folder, *rest):
    with open({log!r}, "a") as file:
        file.write("loaded\\n")
    return _load_uncounted(folder, *rest)
"""

# A test appends this to the copy during a run.
EDITED = """
_main_unedited = main
def main(arguments=None):
    print("as edited", file=sys.stderr)
    return _main_unedited(arguments)
"""

# Commands run this module. Its operations can deadlock in a fork of a process that has used threads.
PRODUCT = """
import torch
if __name__ == "__main__":
    x = torch.ones(384, 384)
    assert torch.get_num_threads() == 2 and not torch.cuda.is_initialized()
    assert (x @ x).exp().isinf().all()
"""

# Commands run this module. It prints whether the package was imported before.
READ = """
import sys
if __name__ == "__main__":
    print("icl_lens.artifacts.code" in sys.modules)
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Provide a folder with a copy of the package, a model, prompts and the socket of a server that uses them."""
    folder = tmp_path_factory.mktemp("r")
    copy = folder / "icl_lens"
    shutil.copytree(code.PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__", "checkpoint"))
    (folder / "product.py").write_text(PRODUCT)
    (folder / "read.py").write_text(READ)
    (folder / "log").write_text("")
    with open(copy / "models" / "loading.py", "a") as file:
        file.write(COUNTED.format(log=str(folder / "log")))
    script = copy / "cli" / "preloaded.py"
    script.write_text(script_with(name for name in preloaded.LIBRARIES if name.startswith(("pandas", "torch", "transformers"))))
    shutil.copytree(ORGANISM, folder / "model")
    about = artifacts.describe("prompts", "icl_lens.prompts.protocol", inputs={}, settings={}, seeds=[42, 43])
    artifacts.write(folder / "prompts" / "sst2.parquet", prompts_table(count=4), about)
    environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "2", "GOMP_SPINCOUNT": "10000"}
    process = subprocess.Popen(
        [sys.executable, "-P", script, "--serve", folder / "socket"], stdin=subprocess.PIPE, env=environment
    )
    waited = time.monotonic() + 300
    while not (folder / "socket").exists() and process.poll() is None and time.monotonic() < waited:
        time.sleep(0.05)
    yield folder
    process.stdin.close()
    assert process.wait(60) == 0


def icl(run: Path, model: str = "model") -> subprocess.CompletedProcess:
    """Run the icl study in a process of the server, with one thread."""
    options = ("--prompts", "prompts/sst2.parquet", "--out", "out/icl.parquet", "--device", "cpu")
    return asked(run, "icl_lens", "icl", "--model", model, *options)


def asked(run: Path, *command: str) -> subprocess.CompletedProcess:
    """Run a module in a process of the server, with one thread."""
    command = [sys.executable, "-SP", preloaded.__file__, run / "socket", *command]
    environment = {**os.environ, "PYTHONPATH": str(run), "OMP_NUM_THREADS": "1", "GOMP_SPINCOUNT": "10000"}
    return subprocess.run(command, cwd=run, capture_output=True, text=True, timeout=300, env=environment)


def loaded(run: Path) -> int:
    """Return how often the weights have been loaded so far."""
    return len((run / "log").read_text().splitlines())


@linux
def test_jobs_share_one_loaded_model_and_answer_as_if_each_had_loaded_it(run):
    done = asked(run, "read")
    assert done.stdout == "True\n", done.stderr
    before = loaded(run)
    for _ in range(2):
        done = icl(run)
        assert done.returncode == 0, done.stderr
    assert loaded(run) == before + 1
    found, about = artifacts.read(run / "out" / "icl.parquet", "icl")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        own_out = run / "own" / "icl.parquet"
        run_study(registry.study("icl"), run / "model", run / "prompts" / "sst2.parquet", own_out, device="cpu")
    finally:
        torch.set_num_threads(threads)
    own, own_about = artifacts.read(own_out, "icl")
    pd.testing.assert_frame_equal(found, own, check_exact=True)
    assert about["model"] == own_about["model"]
    assert about["threads"] == 1


@linux
def test_two_hundred_forks_in_a_row_compute_with_two_threads(run):
    assert icl(run).returncode == 0
    (model,) = json.loads((run / "models.json").read_text()).values()
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "GOMP_SPINCOUNT": "10000"}
    request = {"module": "product", "arguments": [], "folder": str(run), "environment": environment}
    with open(os.devnull, "w") as nowhere:
        for _ in range(200):
            ours, theirs = socket.socketpair()
            with ours, theirs, socket.socket(socket.AF_UNIX) as link:
                link.connect(model["path"])
                ours.settimeout(60)
                link.settimeout(60)
                assert link.recv(1) == preloaded.READY
                preloaded.send(link, request, [theirs.fileno(), *[nowhere.fileno()] * 4])
                theirs.close()
                assert ours.recv(1) == b"\0", "a fork computes the product and ends"


@linux
def test_changed_weights_and_an_edit_of_the_package_are_seen_by_the_next_job(run):
    assert icl(run).returncode == 0
    before = loaded(run)
    _, about = artifacts.read(run / "out" / "icl.parquet", "icl")
    weights = run / "model" / "model.safetensors"
    changed = bytearray(weights.read_bytes())
    changed[-2] ^= 1  # change the last weight slightly
    weights.write_bytes(changed)
    assert icl(run).returncode == 0
    _, about_changed = artifacts.read(run / "out" / "icl.parquet", "icl")
    assert about_changed["model"]["files"] == hashes.files_hash(checkpoint_files(run / "model")) != about["model"]["files"]
    assert loaded(run) == before + 1
    with open(run / "icl_lens" / "cli" / "commands.py", "a") as file:
        file.write(EDITED)
    done = icl(run)
    assert done.returncode == 0
    assert "as edited" in done.stderr
    assert loaded(run) == before + 2


@linux
def test_a_model_that_cannot_be_loaded_gives_the_jobs_own_sentence(run):
    shutil.copytree(ORGANISM, run / "broken")
    (run / "broken" / "tokenizer.json").write_text("{}")
    for _ in range(2):
        done = icl(run, "broken")
        assert done.returncode == 1
        assert done.stderr.splitlines()[-1].startswith(
            "icl-lens icl: --model: model folder broken: the tokenizer cannot be loaded"
        )
        assert "Traceback" not in done.stderr


@linux
def test_what_was_read_of_the_package_is_forgotten_once_a_file_changes(run):
    before = loaded(run)
    with open(run / "icl_lens" / "artifacts" / "code.py", "a") as file:
        file.write("\n# edited\n")
    assert asked(run, "read").stdout == "False\n"
    assert icl(run).returncode == 0
    assert loaded(run) == before + 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["report", "--out", "x"],
        ["icl", "--model", "no such folder", "--device", "cpu"],
        ["icl", "--model", str(ORGANISM), "--device", "cuda"],
        ["icl", "--model", str(ORGANISM), "--device", "cpu", "--dtype", "int8"],
        ["icl", "--model", str(ORGANISM), "--device", "cpu"],  # the model is too large
    ],
)
def test_other_commands_run_by_themselves(tmp_path, monkeypatch, arguments):
    monkeypatch.setattr(model_server, "machine_memory", lambda: 1_000_000)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert not model_server.hand_over(str(tmp_path), {"arguments": arguments}, theirs, 0)
    assert not [path for path in tmp_path.iterdir() if path.name != "models.json"]


def test_memory_counts_weights_in_the_format_they_are_loaded_in():
    files = checkpoint_files(ORGANISM)
    weights = next(path for path in files if path.suffix == ".safetensors")
    described = sum(path.stat().st_size for path in files) - weights.stat().st_size
    full, half = (model_server.memory(files, dtype) for dtype in ("float32", "bfloat16"))
    assert full - half == half - model_server.TOKENIZER_BYTES * described
    assert 0 <= weights.stat().st_size - 2 * (full - half) < 20_000, "its header"


def test_a_memory_limit_of_the_control_group_counts():
    assert 0 < model_server.machine_memory() <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
