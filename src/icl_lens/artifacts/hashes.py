"""Hashes of files, and the names of artifacts inside a results folder."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import BinaryIO

from icl_lens.progress import amount, progress

HASHES = "ICL_LENS_HASHES"
"""Environment variable with the path of the folder where the hashes of input files are cached, see :func:`cached_file_hash`."""

CACHE = Path(".snakemake/icl-lens/hashes")
"""The default of :data:`HASHES`, in the working folder of a workflow. It is used only if the folder exists."""

# Files of at least this size are read with a progress message: 1 GB takes about one second from a fast disk.
_LARGE = 10**9

_BLOCK = 2**24

Stamps = tuple[tuple[str, int, int, int, int, int], ...]
"""Stamps of some files, see :func:`file_stamps`."""

# Hashes that this process has read or computed.
_READ: dict[Stamps, str] = {}

# The top-level folders of a results folder. They mark where the path of `results/` ends and the name of an artifact begins.
STAGES = ("corpora", "prompts", "training", "synthetic", "studies", "figures", "tables", "notebooks", "report")


def file_hash(path: Path | str) -> str:
    """Return the SHA-256 of the bytes of a file, in hexadecimal."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def files_hash(paths: Sequence[Path]) -> str:
    """Return one SHA-256 over the names and bytes of several files of one folder, in the order of their names.

    A name is relative to the folder that contains all files. The hashes of the files are cached, see :func:`cached_file_hash`.
    """
    digest = hashlib.sha256()
    for name, path in sorted(_relative_names(paths)):
        digest.update(f"{name}\0{cached_file_hash(path)}\n".encode())
    return digest.hexdigest()


def cached_file_hash(path: Path | str) -> str:
    """Return :func:`file_hash` of an input file, from the cache if the file has not changed since it was read.

    The cache is the folder in the environment variable :data:`HASHES`, or else :data:`CACHE`. It contains one small file per
    path, with the stamp (:func:`file_stamps`) and the hash. A file that changed less than two seconds before it was read is not
    cached, because a later change could have the same stamp. This process also keeps the hashes in memory. A progress bar
    appears for a file of at least 1 GB.
    """
    path = Path(path)
    folder = Path(os.environ.get(HASHES) or CACHE)
    stamps = file_stamps([path])
    if stamps in _READ:
        return _READ[stamps]
    digest = _stored_hash(folder, stamps)
    if digest is None:
        digest = _hash_with_progress(path)
        if seconds_until_settled(stamps) or file_stamps([path]) != stamps:
            return digest
        _store_hash(folder, stamps, digest)
    _READ[stamps] = digest
    return digest


def _stored_hash(folder: Path, stamps: Stamps) -> str | None:
    """Return the stored hash of a file with this stamp; None if there is none."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        entry = json.loads(_stored_place(folder, stamps).read_text(encoding="utf-8"))
        if entry["stamp"] == list(stamps[0]) and len(entry["sha256"]) == 64:
            return entry["sha256"]
    return None


def _store_hash(folder: Path, stamps: Stamps, digest: str) -> None:
    """Store the hash of a file if the folder exists."""
    if not folder.is_dir():
        return
    stored = _stored_place(folder, stamps)
    new = stored.with_suffix(f".{os.getpid()}")
    # If the cache cannot be written, for example on a full disk, the file is read again next time.
    with contextlib.suppress(OSError, ValueError):
        new.write_text(json.dumps({"stamp": stamps[0], "sha256": digest}), encoding="utf-8")
        new.replace(stored)
    with contextlib.suppress(OSError):
        new.unlink(missing_ok=True)


def _stored_place(folder: Path, stamps: Stamps) -> Path:
    return folder / hashlib.sha256(os.fsencode(stamps[0][0])).hexdigest()


def file_stamps(paths: Iterable[Path]) -> Stamps:
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


def _relative_names(paths: Sequence[Path]) -> list[tuple[str, Path]]:
    """Return each file with its path relative to the folder that contains all files."""
    if not paths:
        return []
    common = os.path.commonpath([os.path.abspath(path.parent) for path in paths])
    return [(Path(os.path.relpath(os.path.abspath(path), common)).as_posix(), path) for path in paths]


def _hash_with_progress(path: Path) -> str:
    size = path.stat().st_size
    if size < _LARGE:
        return file_hash(path)
    digest = hashlib.sha256()
    with path.open("rb") as stream, progress(size, f"reading {path} ({amount(size)}) to detect changes", "byte") as advance:
        for block in _blocks(stream):
            digest.update(block)
            advance(len(block))
    return digest.hexdigest()


def _blocks(stream: BinaryIO) -> Iterable[bytes]:
    while block := stream.read(_BLOCK):
        yield block


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
