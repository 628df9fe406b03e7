"""What decides an artifact's content, and nothing else: hashes of inputs and code, settings, versions.

Time, memory and host are left to the rule's benchmark file, so that the same run gives the same bytes.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterable
from functools import cache
from importlib import metadata
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent

# The variable of the environment that names a folder for the hashes of files that all jobs of a run read.
HASHES = "ICL_LENS_HASHES"

# The libraries whose version can change a number or a picture.
LIBRARIES = (
    "matplotlib",
    "numpy",
    "pandas",
    "pyarrow",
    "safetensors",
    "seaborn",
    "tokenizers",
    "torch",
    "transformers",
)

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


def notebook_sources(notebook: Path | str) -> tuple[Path, ...]:
    """The package's source files that a notebook runs: those of every module that its code cells import."""
    cells = json.loads(Path(notebook).read_text(encoding="utf-8"))["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    return tuple(sorted({path for name in _imported(code, "") for path in source_files(name)}))


@cache
def source_files(module: str) -> tuple[Path, ...]:
    """The package's source files that a module runs: itself and, transitively, every module of the package it imports.

    Args:
        module: A dotted name such as ``icl_lens.studies.saliency``.

    Returns:
        The files, sorted. They are the subject of the code hash, which is a rule's ``params: code=``, so that an edit reruns
        exactly what it can change.
    """
    found: dict[str, Path] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if not name or name in found:
            continue
        path = _module_file(name)
        if path is None:  # `from icl_lens.tasks import TASKS` names an attribute, not a module
            continue
        found[name] = path
        waiting += [name.rpartition(".")[0], *_imports(path, name)]  # importing a module runs its packages too
    return tuple(sorted(set(found.values())))


def code_hash(module: str) -> str:
    """SHA-256 over the source files of :func:`source_files`."""
    return sources_hash(source_files(module))


def sources_hash(paths: Iterable[Path]) -> str:
    """One SHA-256 over some of the package's source files: their places in the package and their bytes."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{path.relative_to(PACKAGE).as_posix()}\0{file_hash(path)}\n".encode())
    return digest.hexdigest()


def library_versions() -> dict[str, str]:
    """The installed versions of the libraries that can change a result; torch's says which build (CPU or CUDA)."""
    return {name: metadata.version(name) for name in LIBRARIES}


def _module_file(name: str) -> Path | None:
    relative = Path(*name.split(".")[1:])
    for candidate in (PACKAGE / relative / "__init__.py", (PACKAGE / relative).with_suffix(".py")):
        if candidate.is_file():
            return candidate
    return None


def _imports(path: Path, name: str) -> list[str]:
    """The dotted names inside the package that a source file imports, at the top or inside a function."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    return _imported(path.read_text(encoding="utf-8"), package)


def _imported(code: str, package: str) -> list[str]:
    names: list[str] = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                anchor = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*anchor, base] if base else anchor)
            names += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return [n for n in names if n.split(".")[0] == PACKAGE.name]
