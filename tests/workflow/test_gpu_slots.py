"""Tests of the limit of model jobs by the number of GPUs, on a machine without a GPU."""

import os
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest

from ..conftest import REPOSITORY

CORPUS = "results/corpora/trec.parquet"

# A workflow whose jobs are stand-ins. Each holds its GPU until its standard input ends.
WORKFLOW = f"""
rule all:
    input:
        expand("done/{{number}}", number=range(int(config["jobs"]))),


rule job:
    output:
        touch("done/{{number}}"),
    threads: 1
    retries: 1
    resources:
        gpu=1,
    shell:
        "sleep 2 | {sys.executable} {REPOSITORY / "tests/gpu_job.py"} record {{resources.gpu}}"
"""


def test_as_many_model_jobs_run_as_there_are_gpus_and_more_are_refused(clone):
    (clone.folder / "automatic.yaml").write_text("device: auto\n")
    options = ("--cores", "2", "--configfile", "automatic.yaml", "--forcerun", "corpora")
    done = clone.snakemake(CORPUS, *options, CUDA_VISIBLE_DEVICES="0,2,5")
    assert done.returncode == 0, done.stdout
    assert "At most 3 model jobs run at a time." in done.stdout
    done = clone.snakemake(CORPUS, *options, "--resources", "gpu=4", CUDA_VISIBLE_DEVICES="0,2,5")
    assert done.returncode == 1
    sentence = "the resource gpu is 4, but CUDA_VISIBLE_DEVICES lists 3 GPUs; set it to at most 3"
    assert [line for line in done.stdout.splitlines() if "GPU" in line] == [sentence]
    assert "Traceback" not in done.stdout


def starts(record: Path) -> list[tuple[int, str, float]]:
    """Return the process, GPU and time of each started job."""
    return [
        (int(pid), gpu, float(seconds))
        for event, pid, gpu, seconds in map(str.split, record.read_text().splitlines() if record.exists() else ())
        if event == "start"
    ]


@pytest.mark.long
@pytest.mark.parametrize("slots", [2, 3, 8])
def test_no_two_jobs_of_a_workflow_have_the_same_gpu_even_if_one_is_killed(slots, tmp_path):
    jobs = 3 * slots
    (tmp_path / "Snakefile").write_text(WORKFLOW)
    names = [str(number + 4) for number in range(slots)]
    environment = {
        **os.environ,
        **{"PYTHONPATH": str(REPOSITORY / "src"), "TMPDIR": str(tmp_path), "CUDA_VISIBLE_DEVICES": ",".join(names)},
    }
    command = [
        Path(sys.executable).parent / "snakemake",
        "--cores",
        "16",
        "--resources",
        f"gpu={slots}",
        "--config",
        f"jobs={jobs}",
    ]
    record = tmp_path / "record"
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        while len(starts(record)) < slots:
            assert process.poll() is None, process.stdout.read()
            time.sleep(0.01)
        killed, _, _ = starts(record)[slots - 1]
        os.kill(killed, signal.SIGKILL)
        killed_at = time.monotonic()
        output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    ends = {
        int(pid): float(seconds) for event, pid, _, seconds in map(str.split, record.read_text().splitlines()) if event == "end"
    }
    assert killed not in ends
    ends[killed] = killed_at
    runs = starts(record)
    assert len(runs) == jobs + 1
    for name in names:
        intervals = sorted((begin, ends[pid]) for pid, gpu, begin in runs if gpu == name)
        assert len(intervals) > 1
        assert all(end <= begin for (_, end), (begin, _) in pairwise(intervals))
    assert {gpu for _, gpu, _ in runs} == set(names)
