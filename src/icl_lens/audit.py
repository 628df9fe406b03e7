"""Does a results folder hang together: is each artifact whole, and made from the inputs that lie there now?"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from icl_lens import artifacts, provenance
from icl_lens.errors import InputError

TABLES = ("corpora", "prompts", "training", "studies", "synthetic")
"""The stages whose artifacts are tables."""

# What may lie in a results folder, as patterns of its paths: the grammar at the head of workflow/Snakefile.
_GRAMMAR = (
    r"corpora/[^/]+\.parquet",
    r"prompts/[^/]+/[^/]+\.parquet",
    r"studies/([^/]+/){3}[^/]+\.(parquet|safetensors)",
    r"synthetic/[^/]+\.parquet",
    r"figures/[^/]+\.(pdf|svg|png|csv|json)",
    r"tables/[^/]+\.(csv|md|tex|json)",
    r"notebooks/[^/]+\.ipynb",
    r"report/(index\.(html|json)|incomplete\.json)",
    r"(training|logs|benchmarks)/.+",
)

# Columns that together tell one row of a table from every other, where a table has them.
_KEYS = (
    *("model", "task", "set", "seed", "prompt_id", "split", "index", "step", "measure", "on", "classes", "shots"),
    *("layer", "layers", "class", "target", "side", "draw", "method", "positions", "repeat", "position", "query", "key"),
    *("head", "control", "keys", "components", "class_i", "class_j", "prompts", "template"),
    *("trial", "n", "limit", "feature", "offset", "fold", "rewriting"),
)

# Studies that keep every prompt which fits the model's context, each with the same number of rows.
_EVERY_PROMPT = (
    *("icl", "saliency", "isolation", "deep_attention", "kernel_regression", "prediction_similarity", "rewritten"),
    "representation_change",
)


@dataclass(frozen=True)
class Fault:
    """What is wrong with one artifact.

    Attributes:
        sentence: For a person.
        remove: The files to delete so that the artifact is made anew.
    """

    sentence: str
    remove: tuple[Path, ...]


def audit(results: Path) -> tuple[int, list[Fault]]:
    """How many artifacts a results folder holds, and their faults; none when it hangs together.

    Checked are: each table's schema, checksums and provenance; each input it names that lies in the folder, by content
    hash; the code it was made by, by the hash of that which is installed; that no row stands twice, no number is infinite or
    missing, and no prompt lacks rows; the record of inputs and outputs of each figure, each table and the report; and that
    nothing else lies in the folder. Another results folder inside it is another's affair.

    Raises:
        InputError: There is no such folder, or nothing in it to audit.
    """
    tables, records = _artifacts(results)
    if not tables and not records:
        raise InputError(f"{results} holds no artifact; `make` fills results/")
    faults = [fault for path in tables for fault in _table_faults(results, path)]
    faults += [fault for path in records for fault in _record_faults(results, path)]
    faults += _strangers(results)
    return len(tables) + len(records), faults


def repair(results: Path) -> list[Path]:
    """Delete what is at fault and, in turn, what was made from it; the deleted files, in order.

    Snakemake makes a missing target anew, but not a missing link behind a target that is there.
    """
    deleted: list[Path] = []
    while any(_artifacts(results)):
        remove = {path for fault in audit(results)[1] for path in fault.remove if path.exists()}
        if not remove:
            break
        for path in sorted(remove):
            path.unlink()
            deleted.append(path)
    return deleted


def _artifacts(results: Path) -> tuple[list[Path], list[Path]]:
    """The tables, and the records of figures, tables and the report, in a results folder."""
    if not results.is_dir():
        raise InputError(f"{results} is no folder; `make` fills results/")
    tables = [path for stage in TABLES for path in sorted((results / stage).rglob("*.parquet"))]
    # A name with a dot in front is what a killed run was writing: never an artifact.
    tables = [path for path in tables if not path.name.startswith(".")]
    return tables, sorted(path for stage in ("figures", "tables", "report") for path in results.glob(f"{stage}/*.json"))


def _table_faults(results: Path, path: Path) -> list[Fault]:
    stage = path.relative_to(results).parts[0]
    kind = stage if stage in ("corpora", "prompts") else path.stem
    if stage == "prompts":
        kind = artifacts.PROMPT_SETS.get(path.stem, kind)
    if kind not in artifacts.SCHEMAS:
        return [Fault(f"{path}: no study makes a {kind} table", (path,))]
    try:
        table, metadata = artifacts.read(path, kind)
    except InputError as error:
        return [Fault(str(error), (path,))]
    if not metadata:
        return [Fault(f"{path}: holds no provenance, so it was not made by icl-lens", (path,))]
    faults = [Fault(f"{path}: {said}", (path,)) for said in (*_rows(kind, table, metadata), *_code(stage, metadata))]
    # What was written with the table (tensors) goes with it: neither is right without the other.
    beside = metadata.get("beside", {})
    return faults + _changed(results, path, {**metadata["inputs"], **beside}, (path, *(results / name for name in beside)))


def _rows(kind: str, table: pd.DataFrame, metadata: dict[str, Any]) -> Iterator[str]:
    """What is wrong with a table's rows."""
    schema = artifacts.SCHEMAS[kind][1]
    keys = [name for name in _KEYS if name in table and not pa.types.is_list(schema.field(name).type)]
    twice = int(table.duplicated(keys).sum())
    if twice:
        yield f"{twice} rows stand twice (same {', '.join(keys)})"
    numbers = table.select_dtypes("number")
    bad = [name for name in numbers if not np.isfinite(numbers[name].to_numpy(dtype=float)).all()]
    if bad:
        yield f"column {', '.join(bad)} holds infinite or missing numbers"
    if kind in _EVERY_PROMPT:
        counts = table.groupby("prompt_id").size()
        if counts.nunique() > 1:
            short = counts[counts < counts.max()]
            yield f"{len(short)} prompts have fewer rows than the others, {short.index[0]} among them"
        expected = metadata["observed"].get("prompts")
        if expected is not None and len(counts) != expected:
            yield f"{len(counts)} prompts have rows, {expected} were run"


def _code(stage: str, metadata: dict[str, Any]) -> Iterator[str]:
    """Whether other code made a table than is installed.

    A training's table is left alone: what decides the weights is a part of the code only, and its own record says which.
    """
    if stage != "training" and metadata["code"] != provenance.code_hash(metadata["module"]):
        yield f"the code that made it ({metadata['module']}) is not the code that is installed"


def _strangers(results: Path) -> Iterator[Fault]:
    """Files that no rule makes. Names with a dot in front are what a killed run left, or the system's own."""
    for folder, folders, files in os.walk(results):
        here = Path(folder)
        # Another results folder: it has stages of its own.
        inside = here != results and any((here / stage).is_dir() for stage in ("corpora", "prompts", "studies", "synthetic"))
        if inside:
            folders.clear()
            continue
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            path = (here / name).relative_to(results).as_posix()
            if not name.startswith(".") and not any(re.fullmatch(pattern, path) for pattern in _GRAMMAR):
                yield Fault(f"{here / name}: no rule makes such a file", ())
            elif (
                path.endswith(".safetensors")
                and path.startswith("studies/")
                and not (here / name).with_suffix(".parquet").exists()
            ):
                yield Fault(f"{here / name}: the table that it belongs to is gone", (here / name,))


def _record_faults(results: Path, record: Path) -> list[Fault]:
    try:
        facts = json.loads(record.read_text(encoding="utf-8"))
        outputs = (record, *(results / name for name in facts["outputs"]))
        faults = _changed(results, record, {**facts["inputs"], **facts["outputs"]}, outputs)
        if missing := facts.get("missing"):  # a page that a failed run wrote
            faults.append(Fault(f"{record}: the report is incomplete, {', '.join(missing)} missing from it", outputs))
        return faults
    except (ValueError, KeyError, TypeError):
        return [Fault(f"{record}: is not a record of inputs and outputs", (record,))]


def _changed(results: Path, path: Path, hashes: dict[str, str], remove: tuple[Path, ...]) -> list[Fault]:
    """Faults of the recorded files that should lie in the results folder."""
    faults = []
    for name, digest in hashes.items():
        if name.split("/")[0] not in provenance.STAGES:
            continue  # a data file: it lies outside
        if not (results / name).is_file():
            faults.append(Fault(f"{path}: {name} is gone", remove))
        elif provenance.file_hash(results / name) != digest:
            faults.append(Fault(f"{path}: {name} is not what it was when this was made", remove))
    return faults
