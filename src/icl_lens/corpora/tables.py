"""The corpora tables: each source's texts, written with their provenance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd

from icl_lens.artifacts import hashes, parquet, provenance
from icl_lens.corpora import builtin, columns, files, hub
from icl_lens.corpora.columns import Columns
from icl_lens.corpora.hub import HubDataset
from icl_lens.corpora.published import COUNTS
from icl_lens.corpora.schema import CORPORA
from icl_lens.hub.fetched import RECORD
from icl_lens.tasks.task import Task


def write_builtin(task: str, seed: int, out: Path) -> None:
    """Generate a task's built-in look-alike and write its corpora table."""
    corpus = {"source": "builtin", "seed": seed}
    _write(out, builtin, builtin.generate(task, seed), {"task": task}, corpus, seeds=[seed])


def write_files(task: str, train: Path, test: Path, out: Path) -> None:
    """Read a task's original files and write its corpora table; see :func:`icl_lens.corpora.files.read` for the errors."""
    table = files.read(task, train, test)
    subsets = _subsets(task, table)
    corpus = {"source": "files", **({"subsets": subsets} if subsets else {})}
    _write(out, files, table, {"task": task}, corpus, {"train": train, "test": test})


def write_columns(task: Task, layout: Columns, train: Path, test: Path, out: Path) -> None:
    """Read the files of a user's own task and write its corpora table; see :func:`icl_lens.corpora.columns.read`."""
    table = columns.read(task.name, layout, {"train": [train], "test": [test]})
    settings = {"task": task.name, **asdict(layout)}
    _write(out, columns, table, settings, {"source": "files"}, {"train": train, "test": test})


def write_hub(task: Task, dataset: HubDataset, folder: Path, out: Path) -> None:
    """Read a data set that was fetched and write its corpora table; see :func:`icl_lens.corpora.hub.read` for the errors."""
    table, origin = hub.read(task, dataset, folder)
    settings = {"task": task.name, "text": dataset.text, "label": dataset.label, "classes": task.classes, **dataset.splits}
    _write(out, hub, table, settings, {"source": "hub", **origin}, {"fetched": folder / RECORD})


def _subsets(task: str, table: pd.DataFrame) -> dict[str, dict[str, int]]:
    """The splits that hold fewer texts than are published: split -> ``texts`` held and ``published``."""
    held = table["split"].value_counts()
    totals = {split: sum(counts) for split, counts in COUNTS[task].items()}
    return {split: {"texts": int(held[split]), "published": total} for split, total in totals.items() if held[split] < total}


def _write(
    out: Path,
    module: ModuleType,
    table: pd.DataFrame,
    settings: dict[str, Any],
    corpus: dict[str, Any],
    inputs: Mapping[str, Path] | None = None,
    seeds: list[int] | None = None,
) -> None:
    # The files lie outside results/: their names and content tell them, not the place where a machine keeps them.
    found = {f"{split}: {path.name}": hashes.file_hash(path) for split, path in (inputs or {}).items()}
    metadata = provenance.describe(
        CORPORA, [module.__name__], inputs=found, settings=settings, seeds=seeds or [], corpus=corpus
    )
    parquet.write(out, table, CORPORA, metadata)
