"""A process that loads the libraries once and runs each command in a fork of itself.

Loading torch and transformers takes longer than most studies of a small model, and loading pandas and seaborn takes longer than
drawing a figure. Therefore one process loads them once (:func:`start`). Each command runs in a fork of this process, in which
the libraries are already loaded. :func:`main` runs one command in such a fork, with its own arguments, folder, environment,
standard streams and exit status. If there is no such process, it runs the command directly:

    python -SP preloaded.py SOCKET icl_lens saliency --model ...

gives the same results as ``python -m icl_lens saliency --model ...`` in less time. This short-lived client runs this file as a
script, so the file imports few modules, and none of the package. A command that runs a model on the CPU runs in a fork of a
process that also keeps the model loaded (:mod:`icl_lens.cli.model_server`; the process of a command imports its current
version).
"""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import sys
import time
from typing import Any

# Libraries that the jobs of a run import. The package itself is not listed: each command imports its current version.
LIBRARIES = (
    "pandas",
    "pyarrow.parquet",
    "torch",
    "transformers.modeling_utils",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "papermill",
    "nbclient",
    "ipykernel.kernelapp",
    "ipykernel.ipkernel",
    "seaborn",
    "typer",
    "sklearn.linear_model",
)


# Sent by a process that is ready to receive a command.
READY = b"1"

# Environment variable with the number of an open file descriptor: the standard error of the workflow. The standard error of a
# job is its log. An error that cannot be written to the log, because the disk is full, is written to this file descriptor.
WORKFLOW_STDERR = "ICL_LENS_STDERR"

# Environment variables that the libraries read on import: notebooks display their figures, and nothing uses the network. With
# the third, torch does not initialise CUDA to find out whether there is a GPU. Otherwise, no fork could use or select a GPU.
SERVER_ENVIRONMENT = {
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    "HF_HUB_OFFLINE": "1",
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
}


def client(folder: str) -> list[str]:
    """Return the start of a command line, to which a module name and its arguments are appended.

    Args:
        folder: The folder of the server, see :func:`start`.
    """
    return [sys.executable, "-SP", __file__, os.path.join(folder, "socket")]


def start(folder: str, environment: dict[str, str]) -> object:
    """Start a server process with its socket in a folder. It exits when the calling process ends, for any reason.

    If the folder is added to ``JUPYTER_PATH``, Jupyter starts the kernel ``python3`` as a fork of this process.

    Args:
        folder: An existing folder that only this user can access.
        environment: The environment variables that the libraries read on import.

    Returns:
        The handle of the process. The caller must keep a reference to it.
    """
    import subprocess

    kernel = os.path.join(folder, "kernels", "python3")
    os.makedirs(kernel)
    launch = [*client(folder), "ipykernel_launcher", "-f", "{connection_file}"]
    with open(os.path.join(kernel, "kernel.json"), "w", encoding="utf-8") as file:
        json.dump({"argv": launch, "display_name": "Python 3", "language": "python"}, file)
    command = [sys.executable, "-P", __file__, "--serve", client(folder)[-1]]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, env={**environment, **SERVER_ENVIRONMENT})
    with open(_pid_file(client(folder)[-1]), "w", encoding="ascii") as file:
        file.write(str(process.pid))
    return process


def main(path: str, module: str, *arguments: str) -> int:
    """Run a module as a command in a fork of the process that serves ``path``.

    A command waits while that process loads the libraries, so that the order of the jobs never affects a result: numpy computes
    sums with the number of threads that was set when it was imported. If no process serves ``path`` (because it has ended or
    runs on another machine), the command replaces the current process.

    Returns:
        The exit status of the command.
    """
    connection = _connected(path)
    if connection is None:
        os.execv(sys.executable, [sys.executable, "-m", module, *arguments])
    # A notebook kernel ends if the process with this ID is not its parent, which is always the case in a fork. The variable is
    # not needed, because a fork ends with this process anyway.
    environment = {key: value for key, value in os.environ.items() if key != "JPY_PARENT_PID"}
    request = {"module": module, "arguments": arguments, "folder": os.getcwd(), "environment": environment}
    send(connection, request, [0, 1, 2, _workflow_stderr()])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the fork also receives the signal and then returns its exit status
    status = connection.recv(1)
    if not status:
        command = " ".join([module, *arguments[:1]])
        sentence = f"{command}: the process of the command was killed; it may have run out of memory\n"
        try:
            os.write(2, sentence.encode())
        except OSError:  # the disk with the log of the job is full
            os.write(_workflow_stderr(), sentence.encode())
    return status[0] if status else 1


def _workflow_stderr() -> int:
    """Return the file descriptor of the workflow's standard error, see :data:`WORKFLOW_STDERR`.

    Returns:
        The file descriptor; by default, that of this process's standard error.
    """
    try:
        descriptor = int(os.environ[WORKFLOW_STDERR])
        os.fstat(descriptor)
    except (KeyError, ValueError, OSError):
        return 2
    return descriptor


def _connected(path: str) -> socket.socket | None:
    """Wait until the process that serves ``path`` listens, and connect to it; return None if there is no such process."""
    while True:
        loading = _is_loading(path)  # checked first because the process may start to listen between the two steps
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(path)
            return connection
        except OSError:
            connection.close()
            if not loading:
                return None
            time.sleep(0.05)


def _is_loading(path: str) -> bool:
    """Return True if the process that will serve ``path`` is alive and does not listen yet."""
    try:
        with open(_pid_file(path), encoding="ascii") as file:
            number = int(file.read())
        with open(f"/proc/{number}/stat", encoding="utf-8") as file:
            state = file.read().rpartition(")")[2].split()[0]
    except (OSError, ValueError):
        return False
    return state != "Z" and not os.path.exists(path)


def _pid_file(path: str) -> str:
    """Return the path of the file with the ID of the process that serves ``path``."""
    return f"{path}.process"


def serve(path: str) -> None:
    """Load the libraries and read the package, then fork a process for each command until standard input is closed."""
    import gc
    import importlib
    import selectors

    for library in LIBRARIES:
        importlib.import_module(library)
    stamps = _read_package()
    gc.freeze()  # otherwise the first garbage collection in a fork would copy all memory pages of the libraries
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent process also receives the signal and handles it
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # each fork answers its client itself
    # Clients connect as soon as the path exists, so the socket is renamed to it only after it listens.
    with socket.socket(socket.AF_UNIX) as listener, selectors.DefaultSelector() as selector:
        try:
            listener.bind(f"{path}.new")
            listener.listen(128)
            os.rename(f"{path}.new", path)
        except FileNotFoundError:  # the parent process has already ended and deleted its folder
            return
        selector.register(listener, selectors.EVENT_READ)
        selector.register(sys.stdin, selectors.EVENT_READ)
        while all(key.fileobj is listener for key, _ in selector.select()):
            connection = accept_and_fork(listener)
            if connection:
                sys.exit(_command(connection, os.path.dirname(path), stamps))


def package_stamps() -> tuple[Any, ...]:
    """Return the stamps of all files of the package, see :func:`icl_lens.artifacts.hashes.file_stamps`."""
    from icl_lens.artifacts import code, hashes

    files = (path for path in code.PACKAGE.rglob("*") if "__pycache__" not in path.parts and path.is_file())
    return hashes.file_stamps(sorted(files))


def _read_package() -> tuple[Any, ...] | None:
    """Read the package for the hashes of its code, so that forks need not read it again.

    Returns:
        The stamps of its files; None if the package cannot be read.
    """
    try:
        from icl_lens.artifacts import code

        stamps = package_stamps()
        code.read_all()
    except Exception:  # for example a syntax error, which the command that needs the file reports
        return None
    return stamps


def _discard_changed_package(stamps: tuple[Any, ...] | None) -> None:
    """Discard the imported package if the stamps of its files have changed, so that the command imports the current version."""
    import importlib

    try:
        changed = stamps is None or package_stamps() != stamps
    except OSError:  # a file was deleted in the meantime
        changed = True
    if changed:
        for name in [name for name in sys.modules if name.split(".")[0] == "icl_lens"]:
            del sys.modules[name]
        importlib.invalidate_caches()


def accept_and_fork(listener: socket.socket) -> socket.socket | None:
    """Accept a connection and fork.

    The fork closes the listener and restores the default signal handlers.

    Returns:
        The connection in the fork; None in the original process.
    """
    connection, _ = listener.accept()
    if os.fork() == 0:
        # If the fork outlived the original process with an open listener, clients would wait for it forever.
        listener.close()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        return connection
    connection.close()
    return None


def send(connection: socket.socket, request: dict[str, Any], descriptors: list[int]) -> None:
    """Send a command and open file descriptors to a process that calls :func:`receive`."""
    payload = json.dumps(request).encode()
    socket.send_fds(connection, [struct.pack("!Q", len(payload))], descriptors)
    connection.sendall(payload)


def receive(connection: socket.socket, count: int) -> tuple[dict[str, Any], list[int]]:
    """Receive a command and open file descriptors.

    Args:
        connection: The connection to the sender.
        count: The number of file descriptors.

    Raises:
        ConnectionError: The sender ended before it sent them.
    """
    header, descriptors, _, _ = socket.recv_fds(connection, 8, count)
    payload = b""
    while len(header) == 8 and len(payload) < struct.unpack("!Q", header)[0]:
        part = connection.recv(1 << 16)
        if not part:
            break
        payload += part
    if not payload:
        raise ConnectionError("the sender ended before it sent the command")
    return json.loads(payload), list(descriptors)


def switch_to(request: dict[str, Any], streams: list[int]) -> None:
    """Switch to the streams, folder and environment of a command.

    Args:
        request: The command.
        streams: File descriptors of its standard input, output and error, and of the workflow's standard error.
    """
    *standard, workflow_stderr = streams
    for number, stream in enumerate(standard):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    os.environ[WORKFLOW_STDERR] = str(workflow_stderr)


def _command(connection: socket.socket, server: str, stamps: tuple[Any, ...] | None) -> int:
    """Run a client's command in this process, or pass it to the process that keeps its model loaded; see :func:`run`."""
    import traceback

    end_of_run = os.dup(0)
    request, streams = receive(connection, 4)
    switch_to(request, streams)
    _discard_changed_package(stamps)
    if request["module"] == "icl_lens":
        try:
            from icl_lens.cli import model_server

            if model_server.hand_over(server, request, connection, end_of_run):
                os._exit(0)
        except Exception:  # for example, the package cannot be imported
            traceback.print_exc()
            sys.stderr.flush()
            connection.sendall(b"\1")
            os._exit(1)
    os.close(end_of_run)
    # The libraries read this variable on import, which happened in another environment.
    if threads := os.environ.get("OMP_NUM_THREADS"):
        import torch

        torch.set_num_threads(int(threads))
    return run(connection, request)


def run(connection: socket.socket, request: dict[str, Any]) -> int:
    """Run a command in this process, and send its exit status to the client when this process ends.

    Returns:
        The exit status of the command.
    """
    import atexit
    import runpy
    import threading
    import traceback

    status = 1
    atexit.register(lambda: connection.sendall(bytes([status])))  # registered first, so it runs last
    threading.Thread(target=_exit_with_client, args=(connection,), daemon=True).start()
    sys.argv = [request["module"], *request["arguments"]]
    try:
        runpy.run_module(request["module"], run_name="__main__", alter_sys=True)
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    return status


def _exit_with_client(connection: socket.socket) -> None:
    """End this process when its client ends, so that killing the client kills the command."""
    connection.recv(1)  # the client sends nothing more, so this returns when the client has ended
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    if sys.argv[1] == "--serve":
        serve(sys.argv[2])
    else:
        sys.exit(main(*sys.argv[1:]))
