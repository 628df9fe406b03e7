"""How far a long computation is: a bar on a terminal, plain lines in a log."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

logger = logging.getLogger(__name__)

# Seconds between two lines in a log.
INTERVAL = 10.0


@contextmanager
def progress(total: int, what: str) -> Iterator[Callable[[int], None]]:
    """Show the progress of a computation over ``total`` prompts; the value is told how many more are done."""
    if sys.stderr.isatty():
        with tqdm(total=total, desc=what, unit="prompt") as bar:
            yield bar.update
        return
    start = shown = time.monotonic()
    finished = 0

    def advance(count: int) -> None:
        nonlocal finished, shown
        finished += count
        now = time.monotonic()
        if now - shown >= INTERVAL or finished == total:
            shown = now
            rate = finished / max(now - start, 1e-9)
            logger.info("%s: %d of %d prompts, %.1f a second", what, finished, total, rate)

    yield advance
