"""The corpora tables: each source's texts, written with their provenance."""

from __future__ import annotations

from pathlib import Path

from icl_lens import artifacts, provenance
from icl_lens.corpora import builtin, files


def write_builtin(task: str, seed: int, out: Path) -> None:
    """Generate a task's built-in look-alike and write its corpora table."""
    corpus = {"source": "builtin", "seed": seed}
    metadata = artifacts.describe("corpora", builtin.__name__, inputs={}, settings={"task": task}, seeds=[seed], corpus=corpus)
    artifacts.write(out, builtin.generate(task, seed), metadata)


def write_files(task: str, train: Path, test: Path, out: Path) -> None:
    """Read a task's original files and write its corpora table; see :func:`icl_lens.corpora.files.read` for the errors."""
    table = files.read(task, train, test)
    metadata = artifacts.describe(
        "corpora",
        files.__name__,
        # The files lie outside results/: their names and content tell them, not the place where a machine keeps them.
        inputs={f"{split}: {path.name}": provenance.file_hash(path) for split, path in (("train", train), ("test", test))},
        settings={"task": task},
        seeds=[],
        corpus={"source": "files"},
    )
    artifacts.write(out, table, metadata)
