"""Folders on which the file system refuses writes: a full device, a read-only one, a file-size limit, and no permission."""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def mount(folder: Path, options: str) -> None:
    """Mount a temporary file system, or change its options; skip the test if this user may not mount."""
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"this user may not mount a file system ({done.stderr.strip()})")


@contextmanager
def full(folder: Path, free: int = 0) -> Iterator[Path]:
    """Yield a folder on a device of 1 MB on which only ``free`` bytes are left."""
    folder.mkdir()
    try:
        mount(folder, "size=1m")
    except FileNotFoundError:
        pytest.skip("this system has no command `mount`")
    try:
        (folder / "filler").write_bytes(bytes((1 << 20) - free))
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@contextmanager
def read_only(folder: Path) -> Iterator[Path]:
    """Yield a folder on a read-only device."""
    with full(folder, free=1 << 19):
        mount(folder, "remount,ro,size=1m")
        yield folder


@contextmanager
def limited(folder: Path) -> Iterator[Path]:
    """Yield a folder; meanwhile, this process may not write a file of more than 100 bytes."""
    folder.mkdir()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))  # Python ignores the signal, so a write raises EFBIG
    try:
        yield folder
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def forbidden(folder: Path) -> Iterator[Path]:
    """Yield a folder that this process may not write."""
    folder.mkdir(mode=0o555)
    user = os.geteuid()
    if user == 0:  # root may write anywhere
        for parent in folder.parents[:3]:
            parent.chmod(0o755)
        os.seteuid(65534)
    try:
        yield folder
    finally:
        os.seteuid(user)


# What the sentence says on each of them.
SENTENCES = {
    full: "no space left on the device while writing {path} (",
    read_only: "{path} is on a read-only file system; use another folder",
    limited: "{path} is larger than the file system or `ulimit -f` allows; raise the limit, or use another folder",
    forbidden: "no permission to write {path}; change the permissions, or use another folder",
}
