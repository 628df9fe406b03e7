"""Slots of GPUs: each job of a run on a machine with several GPUs gets its own.

Snakemake limits the number of jobs that use a GPU at a time (``--resources gpu=N``), but it does not assign a GPU to a job, so
all of them would run on the first. A job therefore reserves a free GPU before it loads a model (:func:`reserve`): it locks a
file with the number of the GPU, and sets ``CUDA_VISIBLE_DEVICES`` to this number. The operating system releases the lock when
the process of the job ends, even if it is killed.

CUDA reads the variable when a process uses a GPU for the first time, so this also works in the fork of a process that has
imported torch (:mod:`icl_lens.cli.preloaded`) and has not used a GPU. This module does not import torch.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import TextIO

from icl_lens.errors import InputError

logger = logging.getLogger(__name__)

VISIBLE = "CUDA_VISIBLE_DEVICES"
"""Environment variable with the GPUs that a process may use, separated by commas. A user or Slurm can set it."""

# Device files of the NVIDIA driver, one per GPU. A container can have some of them, but CUDA numbers those from 0.
_FOLDER, _DEVICE = Path("/dev"), re.compile(r"nvidia[0-9]+")

# Number of seconds between two attempts to reserve a GPU.
_POLL_SECONDS = 0.1

# Open files of the locks that this process holds until it ends.
_LOCKS: list[TextIO] = []


def visible() -> list[str]:
    """Return the names of the GPUs that this process may use, as in ``CUDA_VISIBLE_DEVICES``.

    If the variable is not set, these are the numbers of the GPUs with the NVIDIA driver. Other GPUs are not counted.
    """
    if VISIBLE in os.environ:
        names = [name.strip() for name in os.environ[VISIBLE].split(",")]
        # CUDA ignores an invalid name, such as -1, and all names after it.
        invalid = next((number for number, name in enumerate(names) if not name or name.startswith("-")), len(names))
        return list(dict.fromkeys(names[:invalid]))
    try:
        count = sum(bool(_DEVICE.fullmatch(name)) for name in os.listdir(_FOLDER))
    except OSError:
        return []
    return [str(number) for number in range(count)]


def require(count: int, key: str, device: str = "auto") -> None:
    """Check that this machine has at least the requested number of GPUs.

    Args:
        count: Number of GPUs; 1 is always accepted, because a job can also run on a CPU or on another accelerator.
        key: The option with this number, for the error.
        device: The device from the config; a job on the CPU needs no GPU.

    Raises:
        InputError: There are fewer GPUs.
    """
    names = visible()
    if count <= 1 or count <= len(names) or device in ("cpu", "mps"):
        return
    found = f"{VISIBLE} lists" if VISIBLE in os.environ else "this machine has"
    number = f"{len(names) or 'no'} GPU{'s' if len(names) > 1 else ''}"
    raise InputError(f"{key} is {count}, but {found} {number}; set it to at most {max(1, len(names))}")


def reserve(count: int, device: str) -> None:
    """Reserve GPUs for this process until it ends, and set ``CUDA_VISIBLE_DEVICES`` to them; wait while too few are free.

    If there are no more GPUs than requested, there is nothing to choose, and the environment is unchanged.

    Args:
        count: Number of GPUs that the job uses; 0 for none.
        device: The device from the config. Nothing is reserved for the CPU.

    Raises:
        InputError: There are fewer GPUs, or the lock files cannot be written.
        RuntimeError: This process has already used a GPU (a bug in the caller).
    """
    require(count, "--gpus", device)
    names = visible()
    if count < 1 or count >= len(names) or device in ("cpu", "mps"):
        return
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        raise RuntimeError("a GPU cannot be reserved after the first use of CUDA")
    folder = _folder()
    waiting = False
    while True:
        if locks := _lock(folder, names, count):
            break
        if not waiting:
            logger.info("waiting for %s free GPU%s of %d", count, "" if count == 1 else "s", len(names))
            waiting = True
        time.sleep(_POLL_SECONDS)
    _LOCKS.extend(locks.values())
    os.environ[VISIBLE] = ",".join(locks)
    logger.info("running on GPU %s", os.environ[VISIBLE])


def _folder() -> Path:
    """Return the folder of this user's lock files on this machine.

    Within a Slurm job, the folder is that of the job, because GPUs of two jobs can differ and have the same number.
    """
    name = "-".join(["icl-lens-gpus", str(os.getuid()), *filter(None, [os.environ.get("SLURM_JOB_ID")])])
    folder = Path(tempfile.gettempdir(), name)
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise InputError(
            f"the folder of the GPU locks {folder} cannot be used ({error.strerror}); set TMPDIR to another folder"
        ) from error
    if found.st_uid != os.getuid() or folder.is_symlink():
        raise InputError(f"the folder of the GPU locks {folder} belongs to another user; set TMPDIR to another folder")
    return folder


def _lock(folder: Path, names: list[str], count: int) -> dict[str, TextIO]:
    """Lock the first free GPUs.

    Returns:
        The open lock file of each GPU, by name; empty if fewer than ``count`` are free.
    """
    locks: dict[str, TextIO] = {}
    try:
        # While a process tries the GPUs, no other does, so two processes that need several GPUs do not block each other.
        with (folder / "trying").open("w") as trying:
            fcntl.flock(trying, fcntl.LOCK_EX)
            for name in names:
                file = (folder / f"gpu-{name.replace('/', '-')}").open("w")
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    file.close()
                    continue
                locks[name] = file
                if len(locks) == count:
                    return locks
    except OSError as error:
        raise InputError(
            f"the GPU locks in {folder} cannot be written ({error.strerror}); set TMPDIR to another folder"
        ) from error
    for file in locks.values():
        file.close()
    return {}
