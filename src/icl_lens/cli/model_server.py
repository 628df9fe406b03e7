"""Processes that keep a model loaded, one per model, number format and adapter; CPU jobs run as forks of these processes.

Before a job that uses a language model computes anything, it spends seconds on imports, loading the tokenizer, hashing the
model files and checking the model. The first job of a model in a run therefore starts a process that does this once
(:func:`hand_over`). This process serves the first job and all later jobs of the model. Each job is a fork, which shares the
memory of the weights and copies only the pages that it changes. The process ends with the run, or after :data:`IDLE_SECONDS`
without a job.

A model is kept in memory only if the job runs on the CPU and the total size of all such models stays within
:data:`MEMORY_SHARE` of the memory. All other jobs load their model themselves. A job also loads the model itself if the process
failed to load it, so that the job reports the error. A model is reloaded when its files, a file of this package or a file of a
plugin change.

The process loads the model with one thread. If torch had used several threads before the fork, the fork could wait forever for
threads that do not exist in it.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from icl_lens.artifacts import code, hashes
from icl_lens.cli import preloaded
from icl_lens.errors import InputError
from icl_lens.hub.adapters import adapter_files
from icl_lens.hub.checkpoints import checkpoint_files
from icl_lens.network import accelerators

MEMORY_SHARE = 0.25
"""Maximum fraction of the memory for all models that are kept loaded."""

IDLE_SECONDS = 300
"""Seconds without a new job after which a process that keeps a model loaded ends."""

POLL_SECONDS = 5

# Approximate bytes of memory of a loaded tokenizer per byte of its files (Gemma 3: 0.4 GB for 33 MB).
TOKENIZER_BYTES = 13

# Bytes per weight. A checkpoint is loaded in the number format that the job requests, not in the format of its files.
ITEM_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


def hand_over(server: str, request: dict[str, Any], connection: socket.socket, end_of_run: int) -> bool:
    """Pass a command to the process that keeps its model loaded, and start this process if there is none.

    The calling process already has the command's folder, environment and standard streams.

    Args:
        server: The folder of the run's server, see :func:`icl_lens.cli.preloaded.start`.
        request: The command that the client sent.
        connection: The connection to the client, which waits for the exit status.
        end_of_run: A file descriptor that becomes readable when the run ends.

    Returns:
        True if the command was passed on. If False, the caller must run the command itself.
    """
    requested = _requested_model(request["arguments"])
    if requested is None:
        return False
    folder, dtype, adapter = requested
    try:
        files = [*checkpoint_files(folder), *([] if adapter is None else adapter_files(adapter))]
        stamp = _stamp(files)
        size = memory(files, dtype)
    except (InputError, OSError, ValueError):  # the job itself reports the error of the model
        return False
    key = hashlib.sha256(f"{folder.resolve()}\0{dtype}\0{adapter and adapter.resolve()}".encode()).hexdigest()[:12]
    path = os.path.join(server, f"{key}-{stamp[:12]}")
    listener = None
    link = socket.socket(socket.AF_UNIX)
    try:
        with _models(server) as models:
            known = models.get(key)
            if known and known["stamp"] != stamp:
                # The process with the outdated model serves the jobs that already wait for it, and then ends.
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(known["path"])
                del models[key]
                known = None
            if known and known["failed"]:
                return False
            try:
                if not known:
                    if size + sum(model["bytes"] for model in models.values()) > MEMORY_SHARE * machine_memory():
                        return False
                    listener = socket.socket(socket.AF_UNIX)
                    listener.bind(path)
                    listener.listen(128)
                    models[key] = {"stamp": stamp, "path": path, "bytes": size, "failed": False}
                link.connect(path)
            except OSError:  # the process was killed, or the path is too long for a socket
                if listener:
                    listener.close()
                models[key] = {"stamp": stamp, "path": path, "bytes": 0, "failed": True}
                return False
    except OSError:  # the disk with the folder of the server is full
        link.close()
        if listener:
            listener.close()
        return False
    if listener:
        if os.fork() == 0:
            link.close()
            connection.close()
            _serve_model(server, key, path, listener, end_of_run, requested)
        listener.close()
    with link:
        try:
            if link.recv(1) != preloaded.READY:
                return False
            preloaded.send(link, request, [connection.fileno(), 0, 1, 2, int(os.environ[preloaded.WORKFLOW_STDERR])])
        except ConnectionError:
            return False
    return True


def machine_memory() -> int:
    """Return the bytes of memory of this machine, or the memory limit of this process's control group if it is lower."""
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):  # no such file, or "max"
            limits.append(int(Path(path).read_text()))
    return min(limits)


def memory(files: list[Path], dtype: str) -> int:
    """Estimate the bytes of memory of a loaded model and its tokenizer.

    Args:
        files: The files of the checkpoint.
        dtype: The number format in which the model is loaded.

    Raises:
        ValueError: A weights file is corrupted.
    """
    total = 0
    for path in files:
        if path.suffix == ".safetensors":
            total += _weights(path, ITEM_BYTES[dtype])
        elif path.suffix == ".bin":  # at least two bytes per weight
            total += path.stat().st_size // 2 * ITEM_BYTES[dtype]
        else:
            total += path.stat().st_size * TOKENIZER_BYTES
    return total


def _weights(path: Path, item_bytes: int) -> int:
    """Return the bytes of the weights in a safetensors file, from its header. Quantised weights keep their one byte each."""
    import math

    with open(path, "rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if length > path.stat().st_size:
            raise ValueError(f"{path} is truncated")
        header = json.loads(stream.read(length))
    tensors = [tensor for name, tensor in header.items() if name != "__metadata__"]
    return sum(math.prod(tensor["shape"]) * (1 if tensor["dtype"] in ("U8", "I8") else item_bytes) for tensor in tensors)


class Request(NamedTuple):
    """What a command loads: the arguments of :func:`icl_lens.models.loading.preload`."""

    folder: Path
    dtype: str
    adapter: Path | None


def _requested_model(arguments: list[str]) -> Request | None:
    """Return the model that a command loads on the CPU as a whole; None if it loads none."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--model")
    parser.add_argument("--adapter", type=Path)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="float32", choices=ITEM_BYTES)
    parser.add_argument("--placement", default="device")
    try:
        options, _ = parser.parse_known_args(arguments)
    except argparse.ArgumentError:  # the command itself reports the error
        return None
    if options.model is None or accelerators.expected(options.device) or not os.path.isdir(options.model):
        return None
    if options.placement != "device":  # a model that is larger than the memory must not be kept in memory
        return None
    return Request(Path(options.model), options.dtype, options.adapter)


def _stamp(files: list[Path]) -> str:
    """Return a hash that changes with the files of a checkpoint and with the code of this package and of the plugins.

    Raises:
        InputError: A plugin named in the environment is invalid.
    """
    from icl_lens.studies import plugins

    folders = sorted(plugins.FOLDERS.values())
    plugin_files = [path for folder in folders for path in sorted(folder.rglob("*.py"))]
    stamps = (hashes.file_stamps([*files, *plugin_files]), preloaded.package_stamps(), [str(folder) for folder in folders])
    return hashlib.sha256(repr(stamps).encode()).hexdigest()


@contextlib.contextmanager
def _models(server: str) -> Iterator[dict[str, dict[str, Any]]]:
    """Open the run's records of the loaded models for reading and writing, under an exclusive lock."""
    with open(os.path.join(server, "models.json"), "a+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        try:
            models = json.loads(file.read() or "{}")
        except ValueError:  # the disk was full when another process wrote it
            models = {}
        before = json.dumps(models)
        yield models
        after = json.dumps(models)
        if after != before:
            file.truncate(0)
            file.write(after)


def _serve_model(server: str, key: str, path: str, listener: socket.socket, end_of_run: int, requested: Request) -> None:
    """Load a model and serve its jobs until the run ends. Only a job leaves this function, by SystemExit."""
    import gc

    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    null = os.open(os.devnull, os.O_RDWR)
    # Otherwise, a reader of the streams of the first job would wait until this process ends.
    for stream in (0, 1, 2, int(os.environ[preloaded.WORKFLOW_STDERR])):
        os.dup2(null, stream)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        with open(os.path.join(server, "loading"), "w") as lock:  # one model at a time
            fcntl.flock(lock, fcntl.LOCK_EX)
            _load(requested)
    except Exception:  # the waiting job hits the same error and reports it
        with contextlib.suppress(OSError), _models(server) as models:
            if models.get(key, {}).get("path") == path:
                models[key] |= {"bytes": 0, "failed": True}
        os._exit(1)
    gc.collect()
    gc.freeze()
    last_used = time.monotonic()
    while True:
        ready, _, _ = select.select([listener, end_of_run], [], [], POLL_SECONDS)
        if end_of_run in ready:
            os._exit(0)
        if ready:
            link = preloaded.accept_and_fork(listener)
            if link:
                os.close(end_of_run)
                _run(link, threads)
            last_used = time.monotonic()
        elif not os.path.exists(path):  # the model or code files changed, or the run has ended
            os._exit(0)
        elif time.monotonic() - last_used > IDLE_SECONDS:
            with contextlib.suppress(OSError), _models(server) as models:
                if not select.select([listener], [], [], 0)[0]:
                    if models.get(key, {}).get("path") == path:
                        del models[key]
                    os.unlink(path)


def _load(requested: Request) -> None:
    """Import the modules of this package that jobs need, and load the model.

    Raises:
        RuntimeError: Other threads exist afterwards, so forking is not safe.
    """
    import importlib
    import pkgutil

    import transformers

    from icl_lens import cli
    from icl_lens.models import loading
    from icl_lens.studies import registry, run

    transformers.utils.logging.disable_progress_bar()  # the progress bar starts a thread
    os.environ["HF_DEACTIVATE_ASYNC_LOAD"] = "1"  # asynchronous loading starts threads, too
    commands = [module.name for module in pkgutil.iter_modules(cli.__path__, f"{cli.__name__}.")]
    study_modules = [study.module for study in registry.studies().values() if not registry.is_plugin(study.name)]
    for module in (*commands, run.__name__, *study_modules):
        importlib.import_module(module)
    with contextlib.suppress(InputError):  # the error may be in a file that no job needs
        code.read_all()
    loading.preload(*requested)
    if threading.active_count() > 1:
        raise RuntimeError("other threads exist, and a fork would not have them")


def _run(link: socket.socket, threads: int) -> None:
    """Receive a job from another process and run it in this process."""
    import torch

    link.sendall(preloaded.READY)
    try:
        request, (connection, *streams) = preloaded.receive(link, 5)
    except (ConnectionError, ValueError):  # the sender was killed
        os._exit(1)
    link.close()
    preloaded.switch_to(request, streams)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or threads))
    sys.exit(preloaded.run(socket.socket(fileno=connection), request))
