"""Tests of the slots of GPUs with stand-ins for the jobs (tests/gpu_job.py), on a machine without a GPU."""

import os
import select
import signal
import subprocess
import sys
import tempfile

import pytest
import torch

from icl_lens.cli import gpu_slots
from icl_lens.errors import InputError

from ..conftest import REPOSITORY

# Seconds in which a job that need not wait has started, and in which a job that must wait has not.
STARTED, WAITING = 60, 0.5


@pytest.fixture
def start(tmp_path):
    """Return a function that starts a stand-in for a job."""
    processes = []

    def start(visible, gpus=1, **environment):
        given = {**os.environ, "PYTHONPATH": str(REPOSITORY / "src"), "TMPDIR": str(tmp_path), **environment}
        if visible is not None:
            given[gpu_slots.VISIBLE] = visible
        command = [sys.executable, REPOSITORY / "tests/gpu_job.py", tmp_path / "record", str(gpus)]
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=given, text=True
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def gpus_of(process, seconds=STARTED):
    """Return the GPUs of a job; None if it is still waiting for one after some seconds."""
    ready, _, _ = select.select([process.stdout], [], [], seconds)
    return process.stdout.readline().strip() if ready else None


@pytest.mark.parametrize("slots", [2, 3, 8])
def test_each_job_has_its_own_gpu_and_a_killed_job_frees_it(start, slots):
    names = [str(number) for number in range(slots)]
    visible = ",".join(names)
    jobs = [start(visible) for _ in names]
    given = [gpus_of(job) for job in jobs]
    assert sorted(given) == names

    waiting = start(visible)
    assert gpus_of(waiting, WAITING) is None
    jobs[1].send_signal(signal.SIGKILL)
    assert gpus_of(waiting) == given[1]

    last = start(visible)
    assert gpus_of(last, WAITING) is None
    jobs[0].communicate("\n")
    assert jobs[0].returncode == 0
    assert gpus_of(last) == given[0]


def test_a_job_with_several_gpus_waits_until_all_of_them_are_free(start):
    one, other = start("0,1,2"), start("0,1,2")
    assert {gpus_of(one), gpus_of(other)} == {"0", "1"}
    two = start("0,1,2", gpus=2)
    assert gpus_of(two, WAITING) is None
    small = start("0,1,2")  # the waiting job holds no GPU
    assert gpus_of(small) == "2"
    one.kill()
    small.kill()
    assert gpus_of(two) in ("0,2", "1,2")


def test_the_gpus_that_a_user_or_slurm_set_are_respected(start):
    assert gpus_of(start("3,5")) == "3"
    assert gpus_of(start("3,5")) == "5"
    assert gpus_of(start("5,GPU-8f1c")) == "GPU-8f1c"  # 5 is in use
    assert gpus_of(start("4")) == "4"
    assert gpus_of(start("4")) == "4"  # there is nothing to choose
    assert gpus_of(start("", gpus=1)) == ""
    assert gpus_of(start("0,1", gpus=0)) == "0,1"
    # The GPUs 0 of two Slurm jobs on a machine can be different GPUs.
    assert gpus_of(start("0,1", SLURM_JOB_ID="17")) == "0"
    assert gpus_of(start("0,1", SLURM_JOB_ID="18")) == "0"
    assert gpus_of(start("0,1", SLURM_JOB_ID="17")) == "1"


def test_the_gpus_are_those_of_the_variable_or_of_the_driver(monkeypatch, tmp_path):
    monkeypatch.setattr(gpu_slots, "_FOLDER", tmp_path)
    monkeypatch.delenv(gpu_slots.VISIBLE, raising=False)
    assert gpu_slots.visible() == []
    for name in ("nvidia3", "nvidia5", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    assert gpu_slots.visible() == ["0", "1"]  # CUDA numbers the GPUs of a container from 0
    for value, names in (("", []), ("-1", []), ("2", ["2"]), ("0, 1,-1,3", ["0", "1"]), ("0,0", ["0"])):
        monkeypatch.setenv(gpu_slots.VISIBLE, value)
        assert gpu_slots.visible() == names
    monkeypatch.delenv(gpu_slots.VISIBLE)
    monkeypatch.setattr(gpu_slots, "_FOLDER", tmp_path / "none")
    assert gpu_slots.visible() == []


def test_more_gpus_than_there_are_give_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setattr(gpu_slots, "_FOLDER", tmp_path)
    monkeypatch.setenv(gpu_slots.VISIBLE, "0,1")
    with pytest.raises(InputError) as raised:
        gpu_slots.require(4, "the resource gpu")
    assert str(raised.value) == "the resource gpu is 4, but CUDA_VISIBLE_DEVICES lists 2 GPUs; set it to at most 2"
    monkeypatch.delenv(gpu_slots.VISIBLE)
    with pytest.raises(InputError) as raised:
        gpu_slots.reserve(2, "cuda")
    assert str(raised.value) == "--gpus is 2, but this machine has no GPU; set it to at most 1"
    gpu_slots.require(1, "the resource gpu")
    gpu_slots.require(2, "the resource gpu", "cpu")


def test_a_lock_folder_of_another_user_and_a_used_gpu_are_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.setenv(gpu_slots.VISIBLE, "0,1")
    folder = tmp_path / f"icl-lens-gpus-{os.getuid()}"
    folder.symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    with pytest.raises(InputError, match=r"the folder of the GPU locks .* set TMPDIR to another folder"):
        gpu_slots.reserve(1, "auto")
    folder.unlink()
    folder.write_text("")
    with pytest.raises(InputError, match=r"the folder of the GPU locks .* set TMPDIR to another folder"):
        gpu_slots.reserve(1, "auto")
    folder.unlink()
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    with pytest.raises(RuntimeError, match="after the first use of CUDA"):
        gpu_slots.reserve(1, "auto")
    assert os.environ[gpu_slots.VISIBLE] == "0,1"
