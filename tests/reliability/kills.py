"""SIGKILL at random moments of a small run: the same command must then make the same bytes as an uninterrupted run."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from .tiny_run import TinyRun

# What is killed: each process of the run, only the process of Snakemake, or one process of a job.
TARGETS = ("all processes", "only Snakemake", "one job")
KILLS = 20
SEED = 7


@dataclass(frozen=True)
class Kill:
    """One kill.

    Attributes:
        number: Number of the kill.
        target: What is killed, see :data:`TARGETS`.
        moment: When, as the fraction of the files of an uninterrupted run (with logs) that exist. The load of the machine does
            not change this measure.
        delay: Seconds to wait after that.
    """

    number: int
    target: str
    moment: float
    delay: float

    @property
    def name(self) -> str:
        """The name of the case."""
        return f"{self.target} killed when {self.moment:.0%} of the files exist"


def plan(count: int = KILLS) -> list[Kill]:
    """Return the kills, at seeded random moments."""
    draw = random.Random(SEED)
    return [
        Kill(number, TARGETS[number % len(TARGETS)], draw.uniform(0.02, 0.98), draw.uniform(0, 1)) for number in range(count)
    ]


def check(kill: Kill, tiny: TinyRun, expected: dict[str, str], files: int) -> tuple[str, tuple[str, ...]]:
    """Kill a new run, resume it with the same command, and compare the results.

    Args:
        kill: The kill.
        tiny: The run.
        expected: Hashes of the results of an uninterrupted run.
        files: Number of files of an uninterrupted run.

    Returns:
        What was killed and what was left, and what differs from an uninterrupted run (nothing if the case passed).
    """
    killed, threshold = None, kill.moment * files
    while killed is None:  # if the run ended before the kill, try an earlier moment
        tiny.clear()
        killed = _kill(kill, tiny, threshold)
        threshold *= 0.9
    left = tiny.hashes() if tiny.results.exists() else {}
    resumed = tiny.run()  # immediately, while jobs of the killed Snakemake are still running
    faults = []
    if "Traceback" in killed:
        faults.append("the killed run printed a traceback")
    if resumed.returncode != 0:
        faults.append(f"the same command ended with status {resumed.returncode}: {resumed.stdout[-800:]}")
    faults += different(tiny.hashes(), expected)
    audited = tiny.audit()
    if audited.returncode != 0:
        faults.append(f"audit: {audited.stdout.splitlines()[0]}")
    if not faults and "Nothing to be done" not in tiny.run("-n").stdout:
        faults.append("a further run has something to do")
    return f"{len(left)} of {len(expected)} files existed; the same command made the others", tuple(faults)


def different(found: dict[str, str], expected: dict[str, str]) -> list[str]:
    """Return a sentence for each file that is missing, unexpected or of other content."""
    return [
        f"{name} " + ("is missing" if name not in found else "is unexpected" if name not in expected else "differs")
        for name in sorted(found.keys() | expected.keys())
        if found.get(name) != expected.get(name)
    ]


def _kill(kill: Kill, tiny: TinyRun, threshold: float) -> str | None:
    """Start a run and kill it when a number of its files exist.

    Returns:
        The output of the run; None if it ended before the kill.
    """
    with tiny.start() as process:
        while tiny.count() < threshold and process.poll() is None:
            time.sleep(0.02)
        time.sleep(kill.delay)
        victims: list[int] = []
        while not victims and process.poll() is None:
            victims = _victims(kill, process)
        if process.poll() is not None:
            process.communicate()
            return None
        for number in victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        # A job that continues after Snakemake is killed keeps its standard output open, so do not wait for its end.
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(300)
        if kill.target == "only Snakemake":
            return ""
        output, _ = process.communicate()
        return output


def _victims(kill: Kill, process: subprocess.Popen) -> list[int]:
    """Return the processes to kill."""
    if kill.target == "only Snakemake":
        return [process.pid]
    below = descendants(process.pid)
    if kill.target == "all processes":
        return [process.pid, *below]
    jobs = [number for number in below if b"ipykernel" in command(number) or b"icl_lens" in command(number)]
    jobs = [number for number in jobs if b"--serve" not in command(number)]
    return [random.Random(kill.number).choice(jobs)] if jobs else []


def descendants(number: int) -> list[int]:
    """Return the processes that a process started, and those that these started."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(folder.name))
    found, waiting = [], [number]
    while waiting:
        waiting += (new := children.get(waiting.pop(), []))
        found += new
    return found


def command(number: int) -> bytes:
    """Return the command line of a process; empty if it has ended."""
    try:
        return Path(f"/proc/{number}/cmdline").read_bytes()
    except OSError:
        return b""
