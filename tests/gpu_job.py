"""A stand-in for a job on a GPU: it reserves GPUs, records which ones and when, and ends when it is told to.

    python gpu_job.py RECORD GPUS

It appends a line with its process id, its GPUs and a time to RECORD when it starts, waits until its standard input has a
line or ends, and appends another line.
"""

import logging
import os
import sys
import time
from pathlib import Path

from icl_lens.cli import gpu_slots


def record(file: Path, event: str) -> None:
    with file.open("a") as stream:
        stream.write(f"{event} {os.getpid()} {os.environ.get(gpu_slots.VISIBLE, 'all')} {time.monotonic()}\n")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    gpu_slots.reserve(int(sys.argv[2]), "auto")
    record(Path(sys.argv[1]), "start")
    print(os.environ.get(gpu_slots.VISIBLE, "all"), flush=True)
    sys.stdin.readline()
    record(Path(sys.argv[1]), "end")
