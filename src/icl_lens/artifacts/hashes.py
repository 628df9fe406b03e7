"""Hashes of files, and the names of artifacts inside a results folder."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Iterable
from pathlib import Path

# Environment variable with the path of a folder where the jobs of a run share the hashes of the files that they read.
HASHES = "ICL_LENS_HASHES"

# The top-level folders of a results folder. They mark where the path of `results/` ends and the name of an artifact begins.
STAGES = ("corpora", "prompts", "training", "synthetic", "studies", "figures", "tables", "notebooks", "report")


def file_hash(path: Path | str) -> str:
    """Return the SHA-256 of the bytes of a file, in hexadecimal."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def files_hash(paths: list[Path]) -> str:
    """Return one SHA-256 over the names and bytes of several files of one folder, in the order of their names.

    If the environment variable :data:`HASHES` names a folder, each file is read once per run. The workflow sets this variable
    for each run.
    """
    digest = hashlib.sha256()
    for path in sorted(paths, key=lambda p: p.name):
        digest.update(f"{path.name}\0{_cached_file_hash(path)}\n".encode())
    return digest.hexdigest()


def file_stamps(paths: Iterable[Path]) -> tuple[tuple[str, int, int, int, int, int], ...]:
    """Return a stamp for each file, which changes if the file changes.

    A stamp has the path, device, inode, size in bytes, modification time in ns, and change time of the inode in ns.
    """
    stats = ((str(path.resolve()), path.stat()) for path in paths)
    return tuple((path, s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for path, s in stats)


def seconds_until_settled(stamps: Iterable[tuple[str, int, int, int, int, int]]) -> float:
    """Return the seconds, at least 0, after which any further change of these files is certain to change their stamps.

    The time stamps of file systems have a resolution of up to two seconds, and two changes within one step look the same.
    """
    last = max(max(mtime, ctime) for *_, mtime, ctime in stamps)
    return max(0.0, last / 1e9 + 2 - time.time())


def _cached_file_hash(path: Path) -> str:
    """Return :func:`file_hash`, from the folder :data:`HASHES` if the file has not changed since it was cached."""
    folder = os.environ.get(HASHES)
    if not folder or not os.path.isdir(folder):
        return file_hash(path)
    stamps = file_stamps([path])
    cached = Path(folder) / hashlib.sha256(repr(stamps).encode()).hexdigest()
    with contextlib.suppress(FileNotFoundError):
        return cached.read_text(encoding="ascii")
    digest = file_hash(path)
    if not seconds_until_settled(stamps) and file_stamps([path]) == stamps:
        new = cached.with_suffix(f".{os.getpid()}")
        new.write_text(digest, encoding="ascii")
        new.rename(cached)
    return digest


def artifact_name(path: Path | str, artifact: Path | str) -> str:
    """Return the path of a file relative to the results folder of another artifact, e.g. ``prompts/sst2/fresh-1shot.parquet``.

    For a file outside this folder, return only the file name, so that no local path is recorded.

    Args:
        path: The file to name.
        artifact: An artifact in the results folder, such as ``results/studies/gpt2/sst2/fresh-1shot/icl.parquet``.
    """
    parts = Path(artifact).absolute().parts
    # Take the last folder with the name of a stage. The config ensures that the folders below it have other names.
    stage = max((i for i, part in enumerate(parts[:-1]) if part in STAGES), default=0)
    results = Path(*parts[:stage])
    path = Path(path).absolute()
    return path.relative_to(results).as_posix() if stage and path.is_relative_to(results) else path.name
