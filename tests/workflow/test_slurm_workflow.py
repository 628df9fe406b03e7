"""The workflow on a real Slurm cluster of one node, whose daemons the test starts; see tests/slurm.py."""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from icl_lens.cli import slurm as checks

from .. import slurm
from .conftest import Clone

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(bool(reason := slurm.reason_to_skip()), reason=str(reason)),
    pytest.mark.skipif(
        importlib.util.find_spec(checks.PLUGIN) is None, reason="the extra `slurm` is not installed (envs/slurm.txt)"
    ),
]

# The embedded model on one task. A study of a table and one of a figure, on two prompt sets.
CONFIG = {
    "models": [{"name": "organism", "path": "models/organism"}],
    "tasks": ["sst2"],
    "seeds": [42, 43],
    "queries": 4,
    "device": "cpu",
    "studies": {"reweighting": {"epochs": 1}},
}
TARGETS = ("table_1", "figure_3")

# The node has two cores. By default, Snakemake first asks for the status of a job after 40 seconds.
PROFILE = (
    *("--workflow-profile", "slurm", "--cores", "2"),
    *("--slurm-init-seconds-before-status-checks", "3", "--seconds-between-status-checks", "3"),
)


class Run:
    """A copy of the repository, and the cluster that it runs on.

    Attributes:
        clone: The copy.
        cluster: The cluster.
        results: The results folder.
    """

    def __init__(self, clone: Clone, cluster: slurm.Cluster) -> None:
        self.clone, self.cluster = clone, cluster
        self.results = clone.folder / "results"
        shutil.copytree(clone.folder / "src/icl_lens/organism/checkpoint", clone.folder / "models/organism")
        (clone.folder / "tiny.yaml").write_text(json.dumps(CONFIG))
        self._count = 0

    def start(self, *arguments: str, profile: tuple[str, ...] = PROFILE) -> "Started":
        """Start Snakemake on the cluster. Its output goes to a file, so that it never waits for a reader."""
        self._count += 1
        return Started(self, self.clone.folder / f"run-{self._count}.log", arguments, profile)

    def tables(self) -> dict[str, bytes]:
        """Return the content of each table and each figure's data, by path."""
        found = (path for path in self.results.rglob("*") if path.suffix in (".parquet", ".safetensors", ".csv", ".md"))
        return {path.relative_to(self.results).as_posix(): path.read_bytes() for path in found}


class Started:
    """A running Snakemake; see :meth:`Run.start`."""

    def __init__(self, run: Run, log, arguments: tuple[str, ...], profile: tuple[str, ...]) -> None:
        self.run, self.log = run, log
        command = [sys.executable, "-m", "snakemake", *arguments, *profile, "--configfile", "tiny.yaml"]
        with log.open("w") as out:
            self.process = subprocess.Popen(
                run.cluster.command(*command),
                cwd=run.clone.folder,
                env={**os.environ, "PYTHONPATH": str(run.clone.folder / "src")},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def end(self, seconds: float = 1800) -> int:
        """Wait until Snakemake ends, and return its exit status."""
        try:
            return self.process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            slurm.end(self.process)
            pytest.fail(f"Snakemake did not end within {seconds} s:\n{self.output[-3000:]}\n{self.run.cluster.logs()}")

    def wait_for(self, condition, what: str, seconds: float = 1200):
        """Wait until a condition has a true value, and return it."""
        deadline = time.monotonic() + seconds
        while not (found := condition()):
            if self.process.poll() is not None or time.monotonic() > deadline:
                slurm.end(self.process)
                pytest.fail(f"{what} did not occur:\n{self.output[-3000:]}\n{self.run.cluster.logs()}")
            time.sleep(0.5)
        return found

    def running_job(self) -> str:
        """Wait until the cluster runs a job of Snakemake, and return its ID."""
        return self.wait_for(lambda: self.run.cluster.jobs("RUNNING"), "a running job")[0]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    with slurm.Cluster() as cluster:
        yield Run(Clone(tmp_path_factory.mktemp("slurm") / "a clone"), cluster)
        processes = cluster.processes
    for process in processes:
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)


def test_a_partition_that_does_not_exist_is_one_sentence(run):
    started = run.start(*TARGETS, "--default-resources", "slurm_partition=nosuch")
    assert started.end() == 1
    sentences = [line for line in started.output.splitlines() if "nosuch" in line and "Command:" not in line]
    assert len(sentences) == 1
    assert f"is not a partition of this cluster (available: {slurm.PARTITION})" in sentences[0]
    assert "Traceback" not in started.output
    assert run.cluster.jobs() == []


def test_an_interrupted_run_cancels_its_jobs_and_a_cancelled_job_is_repeated(run):
    interrupted = run.start(*TARGETS)
    interrupted.running_job()
    os.kill(interrupted.process.pid, signal.SIGINT)
    assert interrupted.end() != 0
    interrupted_jobs = run.cluster.jobs()
    prompts = {path: path.stat().st_mtime_ns for path in run.results.glob("prompts/*/*.parquet")}
    assert (interrupted_jobs, len(prompts) > 0) == ([], True)

    # The studies of a small model are one job of the cluster, with one request.
    started = run.start(*TARGETS)
    job = started.running_job()
    request = run.cluster.request(job)
    logs = run.results / "logs/studies"
    started.wait_for(lambda: list(logs.rglob("*.log")), "a study")
    assert run.cluster.run("scancel", job).returncode == 0

    repeated = started.wait_for(lambda: [each for each in run.cluster.jobs("RUNNING") if each != job], "the repeated job")[0]
    assert memory_mb(run.cluster.request(repeated)) == 2 * memory_mb(request)
    assert started.end() == 0, started.output[-3000:]
    assert "Trying to restart job" in started.output
    assert {path: path.stat().st_mtime_ns for path in run.results.glob("prompts/*/*.parquet")} == prompts  # resumed
    assert run.clone.icl_lens("audit", "results").returncode == 0

    on_slurm = run.tables()
    shutil.rmtree(run.results)
    assert run.clone.snakemake(*TARGETS, "--cores", "2", "--configfile", "tiny.yaml").returncode == 0
    here = run.tables()
    assert sorted(on_slurm) == sorted(here)
    assert [path for path in here if on_slurm[path] != here[path]] == []


def test_jobs_with_a_gpu_in_one_group_request_one(run):
    """PyTorch cannot use the fake GPU, so each job fails and shows its sentence: a failed job does not stop its group."""
    shutil.rmtree(run.results, ignore_errors=True)
    (run.clone.folder / "tiny.yaml").write_text(json.dumps({**CONFIG, "device": "cuda"}))
    started = run.start(*TARGETS, "--retries", "0")
    request = run.cluster.request(started.running_job())
    assert started.end() == 1
    assert request["TresPerJob"] == "gres:gpu:1"
    failed = {study for study in ("icl", "reweighting", "saliency") if f"{study}: device 'cuda' is not" in started.output}
    assert len(failed) == 3


def memory_mb(request: dict[str, str]) -> float:
    """Return the memory that a job requested, in MB."""
    memory = request["MinMemoryNode"]
    return float(memory[:-1]) * {"M": 1, "G": 1024}[memory[-1]]
