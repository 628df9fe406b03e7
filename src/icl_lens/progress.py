"""How far a long computation or a download is: a bar on a terminal, plain lines in a log."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

from tqdm import tqdm

logger = logging.getLogger(__name__)

# Seconds between two lines in a log.
INTERVAL = 10.0


@contextmanager
def progress(
    total: int, what: str, unit: Literal["prompt", "seed", "byte"] = "prompt", done: int = 0
) -> Iterator[Callable[[int], None]]:
    """Show the progress of a computation over ``total`` prompts or seeds, or of a download of ``total`` bytes.

    The value is told how many more are done (or, below zero, how many must be done again).

    Args:
        total: How many prompts, seeds or bytes there are.
        what: What is shown before the numbers.
        unit: What is counted.
        done: How many were done before, by a run that was interrupted; they do not count as speed.
    """
    if sys.stderr.isatty():
        shown_unit = {"unit": "B", "unit_scale": True} if unit == "byte" else {"unit": unit}
        with tqdm(total=total, desc=what, initial=done, **shown_unit) as bar:
            yield bar.update
        return
    start = shown = time.monotonic()
    finished = done

    def advance(count: int) -> None:
        nonlocal finished, shown
        finished += count
        now = time.monotonic()
        if now - shown >= INTERVAL or finished == total:
            shown = now
            rate = (finished - done) / max(now - start, 1e-9)
            if unit == "byte":
                logger.info("%s: %s of %s, %s a second", what, amount(finished), amount(total), amount(rate))
            else:
                logger.info("%s: %d of %d %ss, %.1f a second", what, finished, total, unit, rate)

    yield advance


class Runs:
    """Counts runs of prompts and tells of prompts, of which each takes several runs.

    Args:
        tell: Told how many more prompts are done.
        runs: How many runs a prompt takes.
    """

    def __init__(self, tell: Callable[[int], object], runs: int) -> None:
        self.tell, self.runs = tell, runs
        self.done = self.told = 0

    def __call__(self, count: int) -> None:
        self.done += count
        more = self.done // self.runs - self.told
        if more:
            self.tell(more)
            self.told += more


def amount(count: float) -> str:
    """A number of bytes for people: ``548.1 MB``."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(count) >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count:.0f} bytes"
