"""Hashes of files, and the names of artifacts inside a results folder."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Iterable
from pathlib import Path

# The variable of the environment that names a folder for the hashes of files that all jobs of a run read.
HASHES = "ICL_LENS_HASHES"

# The top folders of a results tree; they tell where `results/` ends and an artifact's own name begins.
STAGES = ("corpora", "prompts", "training", "synthetic", "studies", "figures", "tables", "notebooks", "report")


def file_hash(path: Path | str) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def files_hash(paths: list[Path]) -> str:
    """One SHA-256 over several files of one folder: their names and their bytes, in the order of the names.

    Where the environment names a folder :data:`HASHES`, as the workflow does for each run, a file is read once per run.
    """
    digest = hashlib.sha256()
    for path in sorted(paths, key=lambda p: p.name):
        digest.update(f"{path.name}\0{_cached_file_hash(path)}\n".encode())
    return digest.hexdigest()


def file_stamps(paths: Iterable[Path]) -> tuple[tuple[str, int, int, int, int, int], ...]:
    """What changes when a file does: path, device, inode, size in bytes, and times of change in ns of each file."""
    stats = ((str(path.resolve()), path.stat()) for path in paths)
    return tuple((path, s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for path, s in stats)


def seconds_until_settled(stamps: Iterable[tuple[str, int, int, int, int, int]]) -> float:
    """Seconds until another change of any of these files would certainly change its stamp; 0 at the least.

    File systems count time in steps, of two seconds at the most, and two changes in one step look the same.
    """
    last = max(max(mtime, ctime) for *_, mtime, ctime in stamps)
    return max(0.0, last / 1e9 + 2 - time.time())


def _cached_file_hash(path: Path) -> str:
    """:func:`file_hash`, from the folder :data:`HASHES` if the file has not changed since."""
    folder = os.environ.get(HASHES)
    if not folder or not os.path.isdir(folder):
        return file_hash(path)
    stamps = file_stamps([path])
    cached = Path(folder) / hashlib.sha256(repr(stamps).encode()).hexdigest()
    with contextlib.suppress(FileNotFoundError):
        return cached.read_text(encoding="ascii")
    found = file_hash(path)
    if not seconds_until_settled(stamps) and file_stamps([path]) == stamps:
        new = cached.with_suffix(f".{os.getpid()}")
        new.write_text(found, encoding="ascii")
        new.rename(cached)
    return found


def artifact_name(path: Path | str, beside: Path | str) -> str:
    """A file's path relative to the results folder that another artifact lies in, e.g. ``prompts/sst2/fresh-1shot.parquet``.

    A file outside that folder keeps its file name only: where a machine holds it is nobody's business.

    Args:
        path: The file to name.
        beside: An artifact, such as ``results/studies/gpt2/sst2/fresh-1shot/icl.parquet``.
    """
    parts = Path(beside).absolute().parts
    # The last folder with a stage's name: the folders below it (models, tasks, sets) have other names, see the config.
    stage = max((i for i, part in enumerate(parts[:-1]) if part in STAGES), default=0)
    results = Path(*parts[:stage])
    path = Path(path).absolute()
    return path.relative_to(results).as_posix() if stage and path.is_relative_to(results) else path.name
