"""Audit of a results folder: check that each artifact is intact and was made from the current inputs."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from icl_lens.artifacts import hashes, parquet, rows
from icl_lens.artifacts.code import SCHEME, code_hash, module_file
from icl_lens.artifacts.schema import Schema
from icl_lens.errors import InputError

TABLES = ("corpora", "prompts", "training", "studies", "synthetic")
"""Stages with tables as artifacts."""

# Patterns of the paths that a results folder may contain. They follow the grammar at the top of workflow/Snakefile.
_GRAMMAR = (
    r"corpora/[^/]+\.parquet",
    r"prompts/[^/]+/[^/]+\.parquet",
    r"studies/([^/]+/){3}[^/]+\.(parquet|safetensors)",
    r"synthetic/[^/]+\.parquet",
    r"figures/[^/]+\.(pdf|svg|png|csv|txt|json)",
    r"tables/[^/]+\.(csv|md|tex|json)",
    r"notebooks/[^/]+\.ipynb",
    r"report/(index\.(html|json)|incomplete\.json)",
    r"(training|logs|benchmarks)/.+",
)


@dataclass(frozen=True)
class Fault:
    """A problem with one artifact.

    Attributes:
        sentence: The message for the user.
        remove: The files to delete so that the artifact is rebuilt.
    """

    sentence: str
    remove: tuple[Path, ...]


def audit(results: Path, schemas: Collection[Schema]) -> tuple[int, list[Fault]]:
    """Count the artifacts of a results folder and find their faults.

    The audit checks:

    - the schema, checksums and provenance of each table;
    - the content hash of each recorded input that belongs to the folder;
    - that the installed code has the hash of the code that made the table;
    - that a table has no duplicate rows and no non-finite or missing numbers, and that no prompt lacks rows;
    - the recorded inputs and outputs of each figure, each summary table and the report;
    - that the folder contains no other files.

    Nested results folders are skipped. If an earlier version of icl-lens made the folder and hashed code by other rules, the
    audit returns a single fault with this message.

    Args:
        results: The results folder.
        schemas: The schemas of all tables that the folder can contain.

    Returns:
        The number of artifacts, and their faults. The list is empty if all artifacts are intact and up to date.

    Raises:
        InputError: The folder does not exist or contains no artifact.
    """
    tables, records = _artifacts(results)
    if not tables and not records:
        raise InputError(f"{results} contains no artifacts; run `make` to fill results/")
    recorded = [path for path in tables if path.relative_to(results).parts[0] != "training"]
    if recorded and all(map(_from_earlier_version, recorded)):
        sentence = (
            f"{results} was made by an earlier version of icl-lens, and its code hashes are not comparable with those of this "
            "version; rerun the snakemake command that made it"
        )
        return len(tables) + len(records), [Fault(sentence, ())]
    schemas_by_name = {(schema.stage, schema.kind): schema for schema in schemas}
    faults = [fault for path in tables for fault in _table_faults(results, path, schemas_by_name)]
    faults += [fault for path in records for fault in _record_faults(results, path)]
    faults += _unexpected_files(results)
    return len(tables) + len(records), faults


def repair(results: Path, schemas: Collection[Schema]) -> list[Path]:
    """Delete faulty artifacts and then the artifacts that were made from them.

    Snakemake rebuilds a missing target, but not a missing intermediate file of an existing target.

    Returns:
        The deleted files, in the order of deletion.
    """
    deleted: list[Path] = []
    while any(_artifacts(results)):
        remove = {path for fault in audit(results, schemas)[1] for path in fault.remove if path.exists()}
        if not remove:
            break
        for path in sorted(remove):
            path.unlink()
            deleted.append(path)
    return deleted


def _artifacts(results: Path) -> tuple[list[Path], list[Path]]:
    """Return the data tables of a results folder, and the records of its figures, summary tables and report."""
    if not results.is_dir():
        raise InputError(f"{results} is not a folder; run `make` to fill results/")
    tables = [path for stage in TABLES for path in sorted((results / stage).rglob("*.parquet"))]
    # A file name with a leading dot is a temporary file of an interrupted run, not an artifact.
    tables = [path for path in tables if not path.name.startswith(".")]
    return tables, sorted(path for stage in ("figures", "tables", "report") for path in results.glob(f"{stage}/*.json"))


def _from_earlier_version(path: Path) -> bool:
    """Return whether the code hash of a table follows other rules than the current ones."""
    try:
        code = parquet.read_metadata(path).get("code")
    except InputError:  # the file is corrupted, which is a separate fault
        return False
    return isinstance(code, str) and not code.startswith(SCHEME)


def _schema(results: Path, path: Path, schemas: dict[tuple[str, str], Schema]) -> Schema | None:
    """Return the schema of a table, given its stage and its file name."""
    stage = path.relative_to(results).parts[0]
    if stage == "prompts":
        matching = [schema for schema in schemas.values() if path.stem in schema.sets]
        return matching[0] if matching else schemas[(stage, stage)]
    return schemas.get((stage, stage if stage == "corpora" else path.stem))


def _unknown_table(path: Path) -> Fault:
    """Return the fault of a table that no known study makes. Tables of studies outside the package are not removed."""
    with contextlib.suppress(InputError):
        modules = parquet.read_metadata(path).get("modules", [])
        if any(name.startswith("icl_lens.studies.plugins.") for name in modules):
            return Fault(f"{path}: the study is outside the package; pass its folder with --plugin", ())
    return Fault(f"{path}: unknown kind of table, no study is named {path.stem}", (path,))


def _table_faults(results: Path, path: Path, schemas: dict[tuple[str, str], Schema]) -> list[Fault]:
    schema = _schema(results, path, schemas)
    if schema is None:
        return [_unknown_table(path)]
    try:
        table, metadata = parquet.read(path, schema)
    except InputError as error:
        return [Fault(str(error), (path,))]
    if not metadata:
        return [Fault(f"{path}: no provenance in the metadata; icl-lens did not write this file", (path,))]
    faults = [
        Fault(f"{path}: {message}", (path,))
        for message in (*_row_messages(schema, table, metadata), *_code_messages(schema, metadata))
    ]
    # The tensors that were written with the table are removed with it, because neither is valid without the other.
    tensors = metadata.get("beside", {})
    return faults + _changed_files(
        results, path, {**metadata["inputs"], **tensors}, (path, *(results / name for name in tensors))
    )


def _row_messages(schema: Schema, table: pd.DataFrame, metadata: dict[str, Any]) -> Iterator[str]:
    """Yield a message for each problem with the rows of a table."""
    numbers = table.select_dtypes("number")
    invalid = [name for name in numbers if not np.isfinite(numbers[name].to_numpy(dtype=float)).all()]
    if invalid:
        yield f"non-finite or missing numbers in column {', '.join(invalid)}"
    yield from rows.faults(schema, table, metadata["observed"].get("prompts"))


def _code_messages(schema: Schema, metadata: dict[str, Any]) -> Iterator[str]:
    """Yield a message if the code that made a table differs from the installed code.

    Training tables are skipped: only a part of the code determines the weights, and the training's own record names this part.
    """
    if schema.stage == "training":
        return
    if not metadata["code"].startswith(SCHEME):
        yield "made by an earlier version of icl-lens; its code hash is not comparable with those of this version"
        return
    modules = metadata["modules"]
    missing = [name for name in modules if module_file(name) is None]
    if missing:
        yield f"stale: the code that made it ({missing[0]}) is not installed"
    elif metadata["code"] != code_hash(*modules):
        yield f"stale: the code that made it ({modules[0]}) differs from the installed code"
    if metadata["columns"] != {name: str(kind) for name, kind in schema.columns.items()}:
        yield f"stale: its columns differ from those of {schema.kind} tables in this version"


def _unexpected_files(results: Path) -> Iterator[Fault]:
    """Yield a fault for each file that no rule makes.

    File names with a leading dot are skipped: they are temporary files of interrupted runs, or system files.
    """
    for folder, folders, files in os.walk(results):
        directory = Path(folder)
        # A folder with its own stages is a nested results folder.
        nested = directory != results and any(
            (directory / stage).is_dir() for stage in ("corpora", "prompts", "studies", "synthetic")
        )
        if nested:
            folders.clear()
            continue
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            path = (directory / name).relative_to(results).as_posix()
            if not name.startswith(".") and not any(re.fullmatch(pattern, path) for pattern in _GRAMMAR):
                yield Fault(f"{directory / name}: unexpected file, no rule of the workflow writes it", ())
            elif (
                path.endswith(".safetensors")
                and path.startswith("studies/")
                and not (directory / name).with_suffix(".parquet").exists()
            ):
                yield Fault(f"{directory / name}: its table is missing", (directory / name,))


def _record_faults(results: Path, record: Path) -> list[Fault]:
    try:
        facts = json.loads(record.read_text(encoding="utf-8"))
        outputs = (record, *(results / name for name in facts["outputs"]))
        faults = _changed_files(results, record, {**facts["inputs"], **facts["outputs"]}, outputs)
        if missing := facts.get("missing"):  # a failed run wrote this page
            faults.append(Fault(f"{record}: the report is incomplete, missing: {', '.join(missing)}", outputs))
        return faults
    except (ValueError, KeyError, TypeError):
        return [Fault(f"{record}: not a valid record of inputs and outputs", (record,))]


def _changed_files(results: Path, path: Path, recorded: dict[str, str], remove: tuple[Path, ...]) -> list[Fault]:
    """Return a fault for each recorded file of the results folder that is missing or has changed."""
    faults = []
    for name, digest in recorded.items():
        if name.split("/")[0] not in hashes.STAGES:
            continue  # a data file outside the results folder
        if not (results / name).is_file():
            faults.append(Fault(f"{path}: {name} is missing", remove))
        elif hashes.file_hash(results / name) != digest:
            faults.append(Fault(f"{path}: stale, because {name} has changed since this was made", remove))
    return faults
