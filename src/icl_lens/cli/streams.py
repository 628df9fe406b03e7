"""The standard streams of a command, in any locale, and if they are closed or cannot be written."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from collections.abc import Iterator
from typing import Any

from icl_lens.errors import InputError


def prepare() -> None:
    """Make the standard streams usable: texts are UTF-8 in any locale, and a closed standard input is empty.

    Raises:
        InputError: Standard output is closed.
    """
    if sys.stdin is None:
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115  (it stays open)
    closed = sys.stdout is None
    # The null device takes the free file descriptors below 3. Otherwise, the next files would have these numbers, and libraries
    # that write to standard output or standard error would write into these files.
    while (descriptor := os.open(os.devnull, os.O_RDWR)) < 3:
        pass
    os.close(descriptor)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  (it stays open)
    if closed:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  (it stays open)
        raise InputError("standard output is closed; redirect it to a file, or to /dev/null")
    # A file name can contain bytes that are not UTF-8.
    text: dict[str, Any] = {"encoding": "utf-8", "errors": "backslashreplace"}
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if not isinstance(stream, io.TextIOWrapper):
            continue
        try:
            stream.reconfigure(**text)
        except OSError:  # the file of an open stream was replaced, as in a fork of a preloaded process
            setattr(sys, name, open(stream.fileno(), "w", buffering=1, closefd=False, **text))  # noqa: SIM115  (it stays open)


@contextlib.contextmanager
def printing() -> Iterator[None]:
    """Write what the block prints.

    Raises:
        InputError: Standard output cannot be written, for example because the device is full.
    """
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, for example `head`, closed the pipe early
        discard_output()
    except OSError as error:
        # An error about a file has its name.
        if error.filename is not None or error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO):
            raise
        discard_output()
        raise InputError(f"standard output cannot be written ({error.strerror}); redirect it to another file") from error


def discard_output() -> None:
    """Discard buffered output that cannot be written. Otherwise, Python would try again and report a second error."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
