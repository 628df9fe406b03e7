"""Measure the peak memory of studies: ``python -m tests.peak_memory FOLDER PLACEMENT STUDY ...`` prints JSON, study -> bytes.

FOLDER contains the models ``model`` and ``wide``, and an encoder (:mod:`tests.study_cases`). Each study runs on the small model
first, so that imports and other memory that does not depend on the weights are not counted. Linux only.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import sys
from pathlib import Path

import torch

from icl_lens.artifacts import code

from .study_cases import prompts_writer, run_case


def status(field: str) -> int:
    """Return a field of this process's memory statistics in bytes, for example VmRSS."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def peak_of(study: str, folder: Path, placement: str) -> int:
    """Return by how many bytes the memory of this process grows at most while a study runs on the wide model."""
    write = prompts_writer(folder)
    options = {"device": "cpu", "placement": placement, "batch_tokens": 1}
    if placement == "auto":
        options["max_memory"] = {"cpu": "0KB"}
    run_case(study, write, folder / "small.parquet", **options)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # reset the peak
    before = status("VmRSS")
    run_case(study, write, folder / "wide.parquet", model="wide", **options)
    return status("VmHWM") - before


def main(folder: str, placement: str, *studies: str) -> None:
    torch.set_num_threads(1)
    os.chdir(folder)
    code.code_hash = lambda *modules: ""
    print(json.dumps({study: peak_of(study, Path(folder), placement) for study in studies}))


if __name__ == "__main__":
    main(*sys.argv[1:])
