"""Progress of long computations and downloads: a progress bar on a terminal or in a notebook, plain lines in a log."""

from __future__ import annotations

import logging
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

from tqdm import tqdm

logger = logging.getLogger(__name__)

# Minimum number of seconds between two lines in a log.
INTERVAL = 10.0

# Number of seconds before a bar appears in a notebook.
NOTEBOOK_DELAY = 1.0


@contextmanager
def progress(
    total: int, description: str, unit: Literal["prompt", "seed", "byte"] = "prompt", done: int = 0
) -> Iterator[Callable[[int], None]]:
    """Show the progress of a computation over ``total`` prompts or seeds, or of a download of ``total`` bytes.

    The context manager returns a function. Call it with the number of newly finished units, or with a negative number if units
    must be processed again.

    Args:
        total: The total number of prompts, seeds or bytes.
        description: The text before the numbers.
        unit: The unit that is counted.
        done: The number of units that an interrupted run finished before; they are excluded from the displayed speed.
    """
    in_notebook = _in_notebook()
    if in_notebook or sys.stderr.isatty():
        shown_unit: dict[str, Any] = {"unit": "B", "unit_scale": True} if unit == "byte" else {"unit": unit}
        if in_notebook:  # a cell may call many short computations
            shown_unit["delay"] = NOTEBOOK_DELAY
        with _bar(in_notebook)(total=total, desc=description, initial=done, **shown_unit) as bar:
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
                logger.info("%s: %s of %s, %s per second", description, amount(finished), amount(total), amount(rate))
            else:
                logger.info("%s: %d of %d %ss, %.1f per second", description, finished, total, unit, rate)

    yield advance


def _in_notebook() -> bool:
    """Return whether this process is the kernel of a notebook, such as Jupyter or Colab."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return shell is not None and getattr(shell, "kernel", None) is not None


def _bar(in_notebook: bool) -> type[tqdm]:
    """Return the class of the progress bar. In a notebook it is a widget, or text if ipywidgets is not installed."""
    if not in_notebook:
        return tqdm
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that ipywidgets is not installed
        from tqdm import auto
    return auto.tqdm


class Runs:
    """Counter that converts finished runs to finished prompts, for computations with several runs per prompt.

    Args:
        advance: A function that is called with the number of newly finished prompts.
        runs: The number of runs per prompt.
    """

    def __init__(self, advance: Callable[[int], object], runs: int) -> None:
        self.advance, self.runs = advance, runs
        self.done = self.reported = 0

    def __call__(self, count: int) -> None:
        self.done += count
        finished = self.done // self.runs - self.reported
        if finished:
            self.advance(finished)
            self.reported += finished


def amount(count: float) -> str:
    """Format a number of bytes in a readable unit, such as ``548.1 MB``."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(count) >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count:.0f} bytes"
