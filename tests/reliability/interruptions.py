"""Two runs in one folder, clock changes, and signals: each function returns a description and the faults."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from .kills import command, descendants, different
from .tiny_run import TinyRun

Result = tuple[str, tuple[str, ...]]

DAY = 86_400


def two_runs_in_one_folder(tiny: TinyRun, expected: dict[str, str]) -> Result:
    """Start a second run while the first is running."""
    tiny.clear()
    return _second_run(tiny, tiny, expected)


def two_runs_from_two_folders(tiny: TinyRun, expected: dict[str, str]) -> Result:
    """Start a second run from another copy of the repository that writes to the same results through a link."""
    tiny.clear()
    other = TinyRun(tiny.clone.folder.with_name("another copy"))
    tiny.results.mkdir()
    other.results.unlink(missing_ok=True)
    other.results.symlink_to(tiny.results)
    return _second_run(tiny, other, expected)


def _second_run(tiny: TinyRun, other: TinyRun, expected: dict[str, str]) -> Result:
    with tiny.start() as process:
        while not list(tiny.results.glob("logs/*")) and process.poll() is None:
            time.sleep(0.05)
        second = other.run()
        first, _ = process.communicate()
    refusal = re.search("another run .*", second.stdout)
    faults = [] if refusal and second.returncode == 1 else [f"the second run was not refused: {second.stdout[-300:]}"]
    faults += ["traceback"] if "Traceback" in first + second.stdout else []
    faults += ["the first run failed"] if process.returncode else []
    return refusal[0] if refusal else "", _finished(tiny, expected, faults)


def clock_set_back(tiny: TinyRun, expected: dict[str, str]) -> Result:
    """Make half of the results, then resume with a clock that was set back two days."""
    tiny.clear()
    half = tiny.clone.snakemake("table_1", "kr_table_3", *tiny.arguments[-4:])
    faults = ["the first half failed"] if half.returncode else []
    _shift(tiny.results, 2 * DAY)  # as if these results were made before the clock was set back
    done = tiny.run()
    faults += [f"status {done.returncode}: {done.stdout[-500:]}"] if done.returncode else []
    return "half of the results dated two days after the other half: same bytes", _finished(tiny, expected, faults)


def faketime(tiny: TinyRun, expected: dict[str, str]) -> Result:
    """The same with a clock that libfaketime sets back, if it is installed."""
    program = shutil.which("faketime")
    if program is None:
        return "not tried: faketime is not installed", ()
    tiny.clear()
    half = tiny.clone.snakemake("table_1", "kr_table_3", *tiny.arguments[-4:])
    faults = ["the first half failed"] if half.returncode else []
    with tiny.start(program, "-f", "-2d") as process:
        output, _ = process.communicate(timeout=900)
    faults += [f"status {process.returncode}: {output[-500:]}"] if process.returncode else []
    return "second half with a clock set back two days: same bytes", _finished(tiny, expected, faults)


def dates_in_the_future(tiny: TinyRun, expected: dict[str, str]) -> Result:
    """Run with inputs dated to 2100, then date all results to 1980."""
    tiny.clear()
    future = time.mktime((2100, 1, 1, 0, 0, 0, 0, 0, -1))
    folders = ("examples", "models", "notebooks", "src/icl_lens/resources")
    inputs = [path for name in folders for path in (tiny.clone.folder / name).rglob("*")]
    for path in inputs:
        os.utime(path, (future, future))
    done = tiny.run()
    faults = ["the run failed: " + done.stdout[-500:]] if done.returncode else []
    for path in tiny.results.rglob("*"):
        os.utime(path, (10 * 365 * DAY, 10 * 365 * DAY))
    faults = _finished(tiny, expected, faults)
    for path in inputs:
        os.utime(path)
    return "same bytes, and a further run has nothing to do", faults


def signalled(number: signal.Signals, during: str = "") -> Callable[[TinyRun, dict[str, str]], Result]:
    """Return a function that ends a run by a signal that a user or a scheduler sends, and resumes it.

    Args:
        number: The signal.
        during: The program that the run executes when the signal arrives; by default, the signal arrives when prompts exist.
    """

    def run(tiny: TinyRun, expected: dict[str, str]) -> Result:
        tiny.clear()
        if number == signal.SIGHUP:
            signal.signal(number, signal.SIG_DFL)  # `nohup` ignores this signal, and so would the run
        with tiny.start() as process:
            while not _has_reached(tiny, process, during) and process.poll() is None:
                time.sleep(0 if during else 0.05)
            process.send_signal(number)
            ended = _ends(process)
            output, _ = process.communicate()
        faults = [] if ended else ["the run did not end within two minutes after the signal"]
        faults += ["traceback: " + output[-500:]] if "Traceback" in output else []
        faults += [] if process.returncode else ["the interrupted run ended with status 0"]
        done = tiny.run()
        faults += [f"status {done.returncode}: {done.stdout[-500:]}"] if done.returncode else []
        return f"{number.name} ended the run; the same command made the remaining files", _finished(tiny, expected, faults)

    return run


def _has_reached(tiny: TinyRun, process: subprocess.Popen, program: str) -> bool:
    """Return whether a run executes a program, or has made prompts if no program is given."""
    if not program:
        return bool(list(tiny.results.glob("prompts/*/*.parquet")))
    return any(os.path.basename(command(number).split(b"\0")[0]) == program.encode() for number in descendants(process.pid))


def _ends(process: subprocess.Popen) -> bool:
    """Wait until a run ends, and kill its session if it does not; return whether it ended."""
    try:
        process.wait(120)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return False
    return True


def _shift(folder: Path, seconds: float) -> None:
    for path in folder.rglob("*"):
        moved = path.stat().st_mtime + seconds
        os.utime(path, (moved, moved))


def _finished(tiny: TinyRun, expected: dict[str, str], faults: list[str]) -> tuple[str, ...]:
    """Return all faults: those given, and those of the finished results."""
    audited = tiny.audit()
    again = tiny.run("-n")
    return (
        *faults,
        *different(tiny.hashes(), expected),
        *([] if audited.returncode == 0 else [f"audit: {audited.stdout.splitlines()[:1]}"]),
        *([] if "Nothing to be done" in again.stdout else ["a further run has something to do: " + again.stdout[-600:]]),
    )


CASES: dict[str, Callable[[TinyRun, dict[str, str]], Result]] = {
    "two runs at once in one folder": two_runs_in_one_folder,
    "two runs at once that write to one folder, one of them through a link": two_runs_from_two_folders,
    "a clock that is set back two days during a run (file dates)": clock_set_back,
    "a clock that is set back two days during a run (libfaketime)": faketime,
    "inputs dated to 2100 and results dated to 1980": dates_in_the_future,
    "Ctrl-C (SIGINT)": signalled(signal.SIGINT),
    "the end of a scheduled job (SIGTERM)": signalled(signal.SIGTERM),
    "SIGTERM while Snakemake's solver selects jobs": signalled(signal.SIGTERM, during="cbc"),
    "a closed terminal (SIGHUP)": signalled(signal.SIGHUP),
}
