"""Atomic writing of files and folders, and one-line errors for writes that the file system rejects.

Files and folders are written under a temporary name and renamed, so that an interrupted run leaves no partial artifact.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from icl_lens.errors import InputError

# The sentence for each error number of a failed write. `{path}` is the file or folder that is written.
SENTENCES = {
    errno.ENOSPC: "no space left on the device while writing {path}{free}; free some space, or use another folder",
    errno.EDQUOT: "disk quota exceeded while writing {path}; delete some of your files, or use another folder",
    errno.EFBIG: "{path} is larger than the file system or `ulimit -f` allows; raise the limit, or use another folder",
    errno.EROFS: "{path} is on a read-only file system; use another folder",
    errno.EACCES: "no permission to write {path}; change the permissions, or use another folder",
    errno.EPERM: "no permission to write {path}; change the permissions, or use another folder",
    errno.ENAMETOOLONG: "the name of {path} is too long for the file system; use a shorter name",
    errno.EISDIR: "{path} is a folder; specify a file",
    errno.ENOTDIR: "{path} cannot be written because {file} is a file; use another folder",
    errno.EEXIST: "{path} cannot be written because {file} is a file; use another folder",
    errno.EIO: "input/output error of the device while writing {path}; check the device, or use another folder",
    errno.ESTALE: "stale file handle of the network file system while writing {path}; rerun the command",
}

# Errors that can also come from another operation, such as sending a signal. They count only if they name a path.
NEEDS_PATH = (errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.EISDIR, errno.ENOTDIR, errno.EEXIST)


def error_number(error: BaseException) -> int | None:
    """Return the error number of the operating system that an exception reports, or None if it reports none."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    if isinstance(error, InputError):  # already a sentence
        return None
    # safetensors and tokenizers raise other exceptions, and shutil.copytree collects several errors. All quote the number.
    found = re.search(r"\(os error (\d+)\)|\[[Ee]rrno (\d+)\]", str(error))
    return int(found[1] or found[2]) if found else None


def refusal(error: BaseException, path: Path | str) -> str | None:
    """Return one sentence for an exception that the file system raised while a path was written.

    Args:
        error: The exception of a write.
        path: The file or folder that was to be written.

    Returns:
        What is wrong, where, and what to do; None if the exception is another error.
    """
    number = error_number(error)
    if number not in SENTENCES:
        return None
    path = Path(path)
    blocking = next((parent for parent in (path, *path.parents) if os.path.lexists(parent) and not parent.is_dir()), None)
    if number in (errno.ENOTDIR, errno.EEXIST) and blocking is None:
        return None
    return SENTENCES[number].format(path=path, file=blocking, free=_free(path) if number == errno.ENOSPC else "")


def unreadable(error: BaseException, path: Path | str) -> str | None:
    """Return one sentence if a file cannot be read for a reason that is not its content; None for another error."""
    if isinstance(error, FileNotFoundError):  # raised by safetensors for any file that cannot be opened
        try:
            os.close(os.open(path, os.O_RDONLY))
        except OSError as reason:
            error = reason
    number = error_number(error)
    if number in (errno.EACCES, errno.EPERM):
        return f"no permission to read {path}; change the permissions"
    if number in (errno.EIO, errno.ESTALE):
        return f"device error while reading {path} ({os.strerror(number)}); check the device, and rerun the command"
    return None


def refusal_elsewhere(error: BaseException) -> str | None:
    """Return one sentence for an exception that the file system raised while any path was read or written.

    A command calls it for errors outside :func:`writing`. The exception must name the path, unless it can only come
    from a write.
    """
    number, named = error_number(error), getattr(error, "filename", None)
    if isinstance(named, bytes):
        named = os.fsdecode(named)
    if number in NEEDS_PATH and not isinstance(named, str):
        return None
    if number in (errno.EACCES, errno.EPERM):
        return f"no permission to read or write {named}; change the permissions, or use another path"
    if isinstance(named, str):
        return refusal(error, named)
    return SENTENCES[number].format(path="the output or the log", free="") if number in SENTENCES else None


def _free(path: Path) -> str:
    """Return the free space at a path, in words; empty if it is unknown."""
    folder = next((parent for parent in path.parents if parent.is_dir()), None)
    try:
        return f" ({shutil.disk_usage(folder).free / 1e6:.1f} MB are free)" if folder else ""
    except OSError:
        return ""


@contextmanager
def writing(path: Path | str) -> Iterator[None]:
    """Turn an error of the file system inside the block into a one-line error.

    An error that names another path, such as a file that the block reads, is raised unchanged.

    Args:
        path: The file or folder that the block writes.

    Raises:
        InputError: The file system rejects the write.
    """
    try:
        yield
    except Exception as error:  # libraries raise many types of exceptions, see error_number
        named = getattr(error, "filename", None)
        elsewhere = isinstance(named, str) and not _is_part_of(named, Path(path))
        sentence = None if elsewhere else refusal(error, path)
        if sentence is None:
            raise
        raise InputError(sentence) from error


def _is_part_of(named: str, path: Path) -> bool:
    """Return whether a path is used to write ``path``: the path, a folder above it, a path in it, or a temporary path."""
    found, path = Path(named).absolute(), path.absolute()
    if path.is_relative_to(found) or found.is_relative_to(path):
        return True
    return found.is_relative_to(path.parent) and found.relative_to(path.parent).parts[0].startswith(".")


@contextmanager
def whole_file(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path in the folder of ``path``.

    The temporary file is renamed to ``path`` if the block succeeds, and deleted if the block raises. Temporary files that a
    killed process left for the same ``path`` are deleted.

    Raises:
        InputError: The file system rejects the write, see :func:`writing`.
    """
    path = Path(path)
    # A part of the name is enough. With the random part, a long name would exceed the limit of the file system.
    prefix = f".{path.name[:40]}."
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _delete_abandoned(path.parent, prefix, path.suffix)
        handle, temporary = _locked_temporary(path.parent, prefix, path.suffix)
        try:
            yield temporary
            make_readable(temporary)
            temporary.replace(path)
        finally:
            os.close(handle)
            temporary.unlink(missing_ok=True)


def _locked_temporary(folder: Path, prefix: str, suffix: str) -> tuple[int, Path]:
    """Create a temporary file. The operating system locks it until it is closed or this process ends, even if it is killed."""
    while True:
        handle, name = tempfile.mkstemp(dir=folder, prefix=prefix, suffix=suffix)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            taken = not os.path.exists(name)
        except BlockingIOError:
            taken = True
        except OSError:  # the file system has no locks, so no process deletes the file
            taken = False
        if not taken:
            return handle, Path(name)
        os.close(handle)  # another process deleted the file between its creation and the lock


def _delete_abandoned(folder: Path, prefix: str, suffix: str) -> None:
    """Delete the temporary files of :func:`whole_file` whose process has ended. A file that cannot be locked is left alone."""
    random_name = re.compile(re.escape(prefix) + "[a-z0-9_]{8}" + re.escape(suffix))
    names: list[str] = []
    with suppress(PermissionError):  # a folder can be writable and not readable
        names = os.listdir(folder)
    for name in filter(random_name.fullmatch, names):
        with suppress(OSError):  # locked by its process, or renamed meanwhile
            handle = os.open(folder / name, os.O_RDWR)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                (folder / name).unlink()
            finally:
                os.close(handle)


@contextmanager
def whole_folder(path: Path | str) -> Iterator[Path]:
    """Yield a new temporary folder next to ``path``.

    The temporary folder replaces the folder ``path`` if the block succeeds, and is deleted if the block raises. Its name
    depends only on ``path``, so that a run deletes the folder that a killed run left.

    Raises:
        InputError: The file system rejects the write, see :func:`writing`.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}")
    with writing(path):
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        try:
            yield temporary
            shutil.rmtree(path, ignore_errors=True)
            temporary.rename(path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def require_writable(path: Path | str) -> None:
    """Check that a file can be written, before a long computation starts. Its folder is created if needed.

    Raises:
        InputError: The file system rejects the write, see :func:`writing`.
    """
    path = Path(path)
    with writing(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        _write_test(path.parent)


def require_writable_folder(folder: Path | str) -> None:
    """Check that files can be written to a folder. The folder is created if needed.

    Raises:
        InputError: The file system rejects the write, see :func:`writing`.
    """
    with writing(folder):
        _write_test(Path(folder))


def _write_test(folder: Path) -> None:
    """Write a temporary file to a folder, and delete it."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder, prefix=".") as file:
        file.write(bytes(1024))  # an empty file can be created on a full device
        file.flush()


def temporary_folder(prefix: str) -> tempfile.TemporaryDirectory[str]:
    """Create a folder for temporary files of this process, which is deleted when it is closed.

    Raises:
        InputError: No folder for temporary files can be written.
    """
    try:
        return tempfile.TemporaryDirectory(prefix=prefix)
    except OSError as error:  # tempfile tries several folders and reports only that none is usable
        raise InputError(
            f"no folder for temporary files can be written ({error.strerror or error}); free some space in /tmp, or set TMPDIR "
            "to another folder"
        ) from error


def make_readable(path: Path) -> None:
    """Give a file that only its owner can read the default permissions of a new file."""
    umask = os.umask(0)
    os.umask(umask)
    path.chmod(0o666 & ~umask)
