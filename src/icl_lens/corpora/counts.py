"""Numbers of texts per class in the user's files, counted before any job runs."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from icl_lens.artifacts import hashes
from icl_lens.artifacts.files import whole_file
from icl_lens.errors import InputError
from icl_lens.tasks.own import OwnTask
from icl_lens.tasks.task import Task

Counts = dict[str, list[int]]
"""Split -> number of texts of each class, in the order of the class indices."""

LARGEST = 100_000_000
"""Files with more bytes than this in total are not counted in advance, because reading them takes seconds."""


def of_files(task: Task, own: OwnTask | None, splits: Mapping[str, Path], code: str, cache: Path) -> Counts | None:
    """Count the texts of each class in the files of a task. The counts are cached until a file changes.

    Args:
        task: The task.
        own: The definition of the task if it is the user's own.
        splits: ``train`` and ``test`` -> file.
        code: The hash of the code that reads the files.
        cache: Folder of the cached counts.

    Returns:
        The counts, or None if they are unknown: a file is missing, invalid or very large. The job that reads the files
        reports an invalid file.
    """
    try:
        if sum(path.stat().st_size for path in splits.values()) > LARGEST:
            return None
        contents = [[split, path.name, hashes.cached_file_hash(path)] for split, path in sorted(splits.items())]
    except OSError:
        return None
    columns = [own.text, own.label] if own else []
    key = json.dumps([code, task.name, task.classes, columns, contents])
    cached = cache / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"
    with contextlib.suppress(OSError, ValueError):
        return json.loads(cached.read_text(encoding="utf-8"))
    try:
        counts = _count(task, own, splits)
    except InputError:
        return None
    with contextlib.suppress(OSError), whole_file(cached) as temporary:  # the folder may be read-only
        temporary.write_text(json.dumps(counts), encoding="utf-8")
    return counts


def _count(task: Task, own: OwnTask | None, splits: Mapping[str, Path]) -> Counts:
    from icl_lens.corpora import columns, files  # they import pandas, which takes longer than reading the cached counts

    if own:
        layout = columns.Columns(tuple(own.text), own.label, task.classes)
        table = columns.read(task.name, layout, {split: [path] for split, path in splits.items()})
    else:
        table = files.read(task.name, splits["train"], splits["test"])
    return {
        split: [int((part["label"] == label).sum()) for label in range(len(task.classes))]
        for split, part in table.groupby("split")
    }
