"""Functions that read the texts of each source and write corpora tables with their provenance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd

from icl_lens.artifacts import hashes, parquet, provenance
from icl_lens.corpora import builtin, columns, duplicates, files, hub, shuffling
from icl_lens.corpora.columns import Columns
from icl_lens.corpora.hub import HubDataset
from icl_lens.corpora.published import COUNTS
from icl_lens.corpora.schema import CORPORA
from icl_lens.hub.fetched import RECORD
from icl_lens.tasks.task import Task


def write_builtin(task: str, seed: int, out: Path, drop_test_duplicates: bool = False, shuffle: int | None = None) -> None:
    """Generate the built-in corpus of a task and write its corpora table.

    Args:
        task: Name of the task.
        seed: Seed of the generated texts.
        out: File to write.
        drop_test_duplicates: Whether to remove test texts that are also training texts, see
            :func:`icl_lens.corpora.duplicates.count_and_drop`.
        shuffle: Seed for permuting the labels, see :func:`icl_lens.corpora.shuffling.shuffle_labels`; None to keep them.

    Raises:
        InputError: No test text remains.
    """
    corpus = {"source": "builtin", "seed": seed}
    _write(out, builtin, builtin.generate(task, seed), {"task": task}, corpus, drop_test_duplicates, shuffle, seeds=[seed])


def write_files(
    task: str, train: Path, test: Path, out: Path, drop_test_duplicates: bool = False, shuffle: int | None = None
) -> None:
    """Read the original files of a task and write its corpora table; see :func:`icl_lens.corpora.files.read` for errors.

    See :func:`write_builtin` for ``drop_test_duplicates`` and ``shuffle``.
    """
    table = files.read(task, train, test)
    subsets = _subsets(task, table)
    corpus = {"source": "files", **({"subsets": subsets} if subsets else {})}
    _write(out, files, table, {"task": task}, corpus, drop_test_duplicates, shuffle, {"train": train, "test": test})


def write_columns(
    task: Task,
    layout: Columns,
    train: Path,
    test: Path,
    out: Path,
    drop_test_duplicates: bool = False,
    shuffle: int | None = None,
) -> None:
    """Read the files of a user-defined task and write its corpora table; see :func:`icl_lens.corpora.columns.read`.

    See :func:`write_builtin` for ``drop_test_duplicates`` and ``shuffle``.
    """
    table = columns.read(task.name, layout, {"train": [train], "test": [test]})
    settings = {"task": task.name, **asdict(layout)}
    _write(out, columns, table, settings, {"source": "files"}, drop_test_duplicates, shuffle, {"train": train, "test": test})


def write_hub(
    task: Task, dataset: HubDataset, folder: Path, out: Path, drop_test_duplicates: bool = False, shuffle: int | None = None
) -> None:
    """Read a fetched data set and write its corpora table; see :func:`icl_lens.corpora.hub.read` for errors.

    See :func:`write_builtin` for ``drop_test_duplicates`` and ``shuffle``.
    """
    table, origin = hub.read(task, dataset, folder)
    settings = {"task": task.name, "text": dataset.text, "label": dataset.label, "classes": task.classes, **dataset.splits}
    _write(out, hub, table, settings, {"source": "hub", **origin}, drop_test_duplicates, shuffle, {"fetched": folder / RECORD})


def _subsets(task: str, table: pd.DataFrame) -> dict[str, dict[str, int]]:
    """Return the splits with fewer texts than published: split -> number of ``texts`` and ``published`` number."""
    available = table["split"].value_counts()
    totals = {split: sum(counts) for split, counts in COUNTS[task].items()}
    return {
        split: {"texts": int(available[split]), "published": total}
        for split, total in totals.items()
        if available[split] < total
    }


def _write(
    out: Path,
    module: ModuleType,
    table: pd.DataFrame,
    settings: dict[str, Any],
    corpus: dict[str, Any],
    drop_test_duplicates: bool,
    shuffle: int | None,
    inputs: Mapping[str, Path] | None = None,
    seeds: list[int] | None = None,
) -> None:
    table, found = duplicates.count_and_drop(settings["task"], table, drop_test_duplicates)
    corpus = {**corpus, "test_duplicates": found}
    if shuffle is not None:
        table = shuffling.shuffle_labels(table, shuffle)
        corpus["shuffled_labels"] = shuffle
    # Input files are outside results/, so they are identified by name and content; local paths are not recorded.
    input_hashes = {f"{split}: {path.name}": hashes.file_hash(path) for split, path in (inputs or {}).items()}
    metadata = provenance.describe(
        CORPORA,
        [module.__name__, duplicates.__name__, shuffling.__name__],
        inputs=input_hashes,
        settings=settings,
        seeds=seeds or [],
        corpus=corpus,
    )
    parquet.write(out, table, CORPORA, metadata)
