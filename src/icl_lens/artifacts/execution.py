"""Execution of a notebook with papermill. The kernel is connected by Unix sockets, or by ports of the loopback interface."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from pathlib import Path
from typing import Any

from icl_lens.artifacts.files import temporary_folder, writing
from icl_lens.errors import InputError

# The kernel that runs the notebooks, by its name in Jupyter. The workflow starts it as a fork of a loaded process.
KERNEL = "python3"

# Seconds to wait until a kernel answers. It may be slow to start on a busy machine.
START_SECONDS = 60

LOOPBACK = "127.0.0.1"


def execute(source: Path, out: Path, parameters: dict[str, Any]) -> None:
    """Execute a notebook, and save it after each cell.

    If a cell fails, ``out`` keeps the notebook with the error of the cell.

    Args:
        source: The notebook.
        out: The executed notebook to write.
        parameters: Values for the cell that is tagged ``parameters``.

    Raises:
        InputError: ``source`` is not a notebook, a cell raised an InputError, the kernel does not start or ends, or ``out``
            cannot be written.
        PapermillExecutionError: A cell raised another error. The message is the traceback of the cell.
    """
    import papermill
    from jupyter_client.kernelspec import NoSuchKernel
    from papermill.exceptions import PapermillExecutionError

    _require_notebook(source)
    logging.getLogger("papermill").setLevel(logging.WARNING)
    with temporary_folder("icl-lens-") as folder, writing(out):
        kernel, attempts = _kernel(folder)
        while True:
            attempts -= 1
            try:
                papermill.execute_notebook(
                    source,
                    out,
                    parameters,
                    kernel_name=KERNEL,
                    progress_bar=False,
                    start_timeout=START_SECONDS,
                    config=kernel,
                )
                return
            except PapermillExecutionError as error:
                if error.ename == InputError.__name__:
                    raise InputError(error.evalue) from error
                raise
            except OSError:  # only a part of the notebook could be saved
                with contextlib.suppress(OSError):
                    out.unlink(missing_ok=True)
                raise
            except NoSuchKernel as error:
                raise InputError(f"Jupyter has no kernel {KERNEL}; install ipykernel in the environment of icl-lens") from error
            except RuntimeError as error:  # from jupyter_client: the kernel did not start in time, or ended
                if not attempts:
                    raise InputError(f"{source}: the kernel of the notebook failed ({error}); rerun the command") from error


def _require_notebook(source: Path) -> None:
    """Check that a file is a notebook.

    Raises:
        InputError: The file cannot be read, or it is not a notebook.
    """
    import nbformat

    try:
        nbformat.validate(nbformat.read(source, as_version=4))
    except OSError as error:
        raise InputError(f"{source} cannot be read ({error.strerror}); check the path") from error
    except (ValueError, KeyError, TypeError, AttributeError, nbformat.ValidationError) as error:
        raise InputError(f"{source} is not a notebook; specify an .ipynb file") from error


def _kernel(folder: str) -> tuple[Any, int]:
    """Return how to connect to a kernel, and how often to try.

    Ports of the loopback interface need two attempts, because kernels that start at the same time can select the same port.

    Args:
        folder: An empty folder that only this user can access.

    Returns:
        The configuration of ``jupyter_client``, and the number of attempts.

    Raises:
        InputError: Neither Unix sockets nor the loopback interface can be used.
    """
    from traitlets.config import Config

    connection_file = os.path.join(folder, "kernel.json")
    # Jupyter appends "-ipc-N" to the name, with N from 1 to 5.
    fault = _socket_fault(os.path.join(folder, "kernel-ipc-1"))
    if fault is None:
        return Config(KernelManager={"transport": "ipc", "connection_file": connection_file}), 1
    loopback_fault = _loopback_fault()
    if loopback_fault is not None:
        raise InputError(
            f"notebooks cannot be executed: {LOOPBACK} cannot be reached ({loopback_fault}), and no Unix socket can be "
            f"created in {folder} ({fault}); turn on the loopback interface (`ip link set lo up`), or set TMPDIR to a local "
            "folder with a short path"
        )
    return Config(KernelManager={"connection_file": connection_file}), 2


def _socket_fault(path: str) -> str | None:
    """Return why zmq cannot listen at a path, or None if it can."""
    import zmq

    if not zmq.has("ipc") or not hasattr(socket, "AF_UNIX"):
        return "not supported on this system"
    # Python binds the socket, because zmq does not report all errors. The path may be at most 107 bytes long (103 on macOS).
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
    except OSError as error:
        return error.strerror or str(error)
    finally:
        with contextlib.suppress(OSError):
            os.unlink(path)
    return None


def _loopback_fault() -> str | None:
    """Return why this machine cannot be reached at the loopback address, or None if it can."""
    try:
        with (
            socket.create_server((LOOPBACK, 0)) as listener,
            socket.create_connection(listener.getsockname(), timeout=START_SECONDS),
        ):
            return None
    except OSError as error:
        return os.strerror(error.errno) if error.errno else str(error)
