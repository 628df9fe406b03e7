"""Commands in processes that begin with their libraries loaded.

Loading torch and transformers takes longer than most studies of a small model, loading pandas and seaborn longer than drawing a
figure. So one process loads them once (:func:`start`), and each command is a fork of it, which has them at no cost.
:func:`main` runs one command there, with its own arguments, folder, environment, standard streams and exit status, or by itself
where no such process is:

    python -SP preloaded.py SOCKET icl_lens saliency --model ...

is ``python -m icl_lens saliency --model ...`` in all but time. This file is run as a script by that short-lived client, so it
imports little, and nothing of the package. A command that runs a model on the CPU is a fork of a process that has the model
loaded, too (:mod:`icl_lens.cli.model_server`, which a command's process imports as it is then).
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

# What the jobs of a run import, besides the package itself: each command imports that, as it is then.
LIBRARIES = (
    "pandas",
    "pyarrow.parquet",
    "torch",
    "transformers.modeling_utils",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "papermill.cli",
    "nbclient",
    "ipykernel.kernelapp",
    "ipykernel.ipkernel",
    "seaborn",
)


# What a process says that can take a command.
READY = b"1"

# What they read when they are loaded: notebooks show their figures, and nothing here touches the network.
TOLD = {"MPLBACKEND": "module://matplotlib_inline.backend_inline", "HF_HUB_OFFLINE": "1"}


def client(folder: str) -> list[str]:
    """The beginning of a command line that goes on with a module's name and arguments; see :func:`start` for the folder."""
    return [sys.executable, "-SP", __file__, os.path.join(folder, "socket")]


def start(folder: str, environment: dict[str, str]) -> object:
    """Start a process that serves a folder until this process ends, however that may be; its handle, to be kept.

    The folder is one for ``JUPYTER_PATH``, too: its kernel ``python3`` is a fork as well.

    Args:
        folder: An existing folder of this user's alone.
        environment: What the libraries are to read when they are loaded.
    """
    import subprocess

    kernel = os.path.join(folder, "kernels", "python3")
    os.makedirs(kernel)
    launch = [*client(folder), "ipykernel_launcher", "-f", "{connection_file}"]
    with open(os.path.join(kernel, "kernel.json"), "w", encoding="utf-8") as file:
        json.dump({"argv": launch, "display_name": "Python 3", "language": "python"}, file)
    command = [sys.executable, "-P", __file__, "--serve", client(folder)[-1]]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, env={**environment, **TOLD})
    with open(_number_file(client(folder)[-1]), "w", encoding="ascii") as file:
        file.write(str(process.pid))
    return process


def main(path: str, module: str, *arguments: str) -> int:
    """Run a module as a command in a fork of the process that serves ``path``; its exit status.

    A command waits while that process loads the libraries, so that it never matters for a result which jobs came first: numpy
    sums with as many threads as it had when it was loaded. Where nobody serves (no more, on another machine) the command takes
    this process's place instead.
    """
    connection = _connected(path)
    if connection is None:
        os.execv(sys.executable, [sys.executable, "-m", module, *arguments])
    # A notebook's kernel ends when the process of that number is not its parent. A fork's never is; it ends with this one.
    environment = {key: value for key, value in os.environ.items() if key != "JPY_PARENT_PID"}
    request = {"module": module, "arguments": arguments, "folder": os.getcwd(), "environment": environment}
    send(connection, request, [0, 1, 2])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the fork is told, too, and says here how it ended
    answer = connection.recv(1)
    if not answer:
        print(f"{module} {' '.join(arguments[:1])}: its process was killed (out of memory?)", file=sys.stderr)
    return answer[0] if answer else 1


def _connected(path: str) -> socket.socket | None:
    """A connection to the process that serves ``path``, as soon as it listens; None where none does or will."""
    while True:
        loading = _is_loading(path)  # before the attempt: it may begin to listen in between
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
    """Whether the process that will serve ``path`` is alive and does not listen yet."""
    try:
        with open(_number_file(path), encoding="ascii") as file:
            number = int(file.read())
        with open(f"/proc/{number}/stat", encoding="utf-8") as file:
            state = file.read().rpartition(")")[2].split()[0]
    except (OSError, ValueError):
        return False
    return state != "Z" and not os.path.exists(path)


def _number_file(path: str) -> str:
    """The file with the number of the process that serves ``path``."""
    return f"{path}.process"


def serve(path: str) -> None:
    """Load the libraries and read the package, then fork a process for each command, until standard input ends."""
    import gc
    import importlib
    import selectors

    for library in LIBRARIES:
        importlib.import_module(library)
    read = _read_package()
    gc.freeze()  # else the first collection in a fork would copy every page of theirs
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started this is told, too, and decides
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # forks answer their clients themselves
    # A command is sent here as soon as the path is there.
    with socket.socket(socket.AF_UNIX) as listener, selectors.DefaultSelector() as waiting:
        try:
            listener.bind(f"{path}.new")
            listener.listen(128)
            os.rename(f"{path}.new", path)
        except FileNotFoundError:  # whoever began this has ended before, and its folder with it
            return
        waiting.register(listener, selectors.EVENT_READ)
        waiting.register(sys.stdin, selectors.EVENT_READ)
        while all(key.fileobj is listener for key, _ in waiting.select()):
            connection = forked(listener)
            if connection:
                sys.exit(_command(connection, os.path.dirname(path), read))


def package_stamps() -> tuple[Any, ...]:
    """What changes when a file of the package does, see :func:`icl_lens.artifacts.hashes.file_stamps`."""
    from icl_lens.artifacts import code, hashes

    files = (path for path in code.PACKAGE.rglob("*") if "__pycache__" not in path.parts and path.is_file())
    return hashes.file_stamps(sorted(files))


def _read_package() -> tuple[Any, ...] | None:
    """Read the package for the hashes of its code, so that forks need not; its stamps, None where it cannot be read."""
    try:
        from icl_lens.artifacts import code

        stamps = package_stamps()
        code.read_all()
    except Exception:  # a file that is no Python, say: a command that needs it says so
        return None
    return stamps


def _forget_package(read: tuple[Any, ...] | None) -> None:
    """Forget what was read of the package if a file of it has changed since, so that the command imports it as it is now."""
    import importlib

    try:
        changed = read is None or package_stamps() != read
    except OSError:  # a file was deleted meanwhile
        changed = True
    if changed:
        for name in [name for name in sys.modules if name.split(".")[0] == "icl_lens"]:
            del sys.modules[name]
        importlib.invalidate_caches()


def forked(listener: socket.socket) -> socket.socket | None:
    """Accept a connection and fork: the connection in the fork, where the listener is closed and signals are a command's."""
    connection, _ = listener.accept()
    if os.fork() == 0:
        # A fork that outlives the listener's process must not keep clients waiting there.
        listener.close()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        return connection
    connection.close()
    return None


def send(connection: socket.socket, request: dict[str, Any], descriptors: list[int]) -> None:
    """Send a command and open files to whoever :func:`receive`s them."""
    packed = json.dumps(request).encode()
    socket.send_fds(connection, [struct.pack("!Q", len(packed))], descriptors)
    connection.sendall(packed)


def receive(connection: socket.socket, count: int) -> tuple[dict[str, Any], list[int]]:
    """A command and so many open files.

    Raises:
        ConnectionError: The sender ended before it had sent them.
    """
    header, descriptors, _, _ = socket.recv_fds(connection, 8, count)
    packed = b""
    while len(header) == 8 and len(packed) < struct.unpack("!Q", header)[0]:
        part = connection.recv(1 << 16)
        if not part:
            break
        packed += part
    if not packed:
        raise ConnectionError("the command was not sent")
    return json.loads(packed), list(descriptors)


def enter(request: dict[str, Any], streams: list[int]) -> None:
    """Take a command's standard streams, folder and environment."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])


def _command(connection: socket.socket, server: str, read: tuple[Any, ...] | None) -> int:
    """Run the command that a client asks for, in this process or in one that has its model; see :func:`run`."""
    import traceback

    lifeline = os.dup(0)
    request, streams = receive(connection, 3)
    enter(request, streams)
    _forget_package(read)
    if request["module"] == "icl_lens":
        try:
            from icl_lens.cli import model_server

            if model_server.hand_over(server, request, connection, lifeline):
                os._exit(0)
        except Exception:  # a package that cannot be imported, say
            traceback.print_exc()
            sys.stderr.flush()
            connection.sendall(b"\1")
            os._exit(1)
    os.close(lifeline)
    # The libraries read this when they are loaded, which was before.
    if threads := os.environ.get("OMP_NUM_THREADS"):
        import torch

        torch.set_num_threads(int(threads))
    return run(connection, request)


def run(connection: socket.socket, request: dict[str, Any]) -> int:
    """Run a command in this process; its exit status, which the client is told at the very end."""
    import atexit
    import runpy
    import threading
    import traceback

    status = 1
    atexit.register(lambda: connection.sendall(bytes([status])))  # registered first, so it runs last
    threading.Thread(target=_end_with, args=(connection,), daemon=True).start()
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


def _end_with(connection: socket.socket) -> None:
    """End this process when its client ends, as a command does that is killed."""
    connection.recv(1)  # a client says nothing more, so this returns when it is gone
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    if sys.argv[1] == "--serve":
        serve(sys.argv[2])
    else:
        sys.exit(main(*sys.argv[1:]))
