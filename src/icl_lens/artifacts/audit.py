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
    r"figures/[^/]+\.(pdf|svg|png|csv|json)",
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
        raise InputError(f"{results} holds no artifact; `make` fills results/")
    recorded = [path for path in tables if path.relative_to(results).parts[0] != "training"]
    if recorded and all(map(_is_of_earlier_version, recorded)):
        said = (
            f"{results} was made by an earlier version of icl-lens, whose hashes of code cannot be compared with those of this "
            "version; the snakemake command that made it makes it again"
        )
        return len(tables) + len(records), [Fault(said, ())]
    by_place = {(schema.stage, schema.kind): schema for schema in schemas}
    faults = [fault for path in tables for fault in _table_faults(results, path, by_place)]
    faults += [fault for path in records for fault in _record_faults(results, path)]
    faults += _strangers(results)
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
        raise InputError(f"{results} is no folder; `make` fills results/")
    tables = [path for stage in TABLES for path in sorted((results / stage).rglob("*.parquet"))]
    # A file name with a leading dot is a temporary file of an interrupted run, not an artifact.
    tables = [path for path in tables if not path.name.startswith(".")]
    return tables, sorted(path for stage in ("figures", "tables", "report") for path in results.glob(f"{stage}/*.json"))


def _is_of_earlier_version(path: Path) -> bool:
    """Return whether the code hash of a table follows other rules than the current ones."""
    try:
        code = parquet.about(path).get("code")
    except InputError:  # the file is corrupted, which is a separate fault
        return False
    return isinstance(code, str) and not code.startswith(SCHEME)


def _schema(results: Path, path: Path, schemas: dict[tuple[str, str], Schema]) -> Schema | None:
    """Return the schema of a table, given its stage and its file name."""
    stage = path.relative_to(results).parts[0]
    if stage == "prompts":
        beside = [schema for schema in schemas.values() if path.stem in schema.sets]
        return beside[0] if beside else schemas[(stage, stage)]
    return schemas.get((stage, stage if stage == "corpora" else path.stem))


def _unknown(path: Path) -> Fault:
    """Return the fault of a table that no known study makes. Tables of studies outside the package are not removed."""
    with contextlib.suppress(InputError):
        modules = parquet.about(path).get("modules", [])
        if any(name.startswith("icl_lens.studies.plugins.") for name in modules):
            return Fault(f"{path}: its study is outside the package; name the study's folder with --plugin", ())
    return Fault(f"{path}: no study makes a {path.stem} table", (path,))


def _table_faults(results: Path, path: Path, schemas: dict[tuple[str, str], Schema]) -> list[Fault]:
    schema = _schema(results, path, schemas)
    if schema is None:
        return [_unknown(path)]
    try:
        table, metadata = parquet.read(path, schema)
    except InputError as error:
        return [Fault(str(error), (path,))]
    if not metadata:
        return [Fault(f"{path}: holds no provenance, so it was not made by icl-lens", (path,))]
    faults = [Fault(f"{path}: {said}", (path,)) for said in (*_rows(schema, table, metadata), *_code(schema, metadata))]
    # The tensors that were written with the table are removed with it, because neither is valid without the other.
    beside = metadata.get("beside", {})
    return faults + _changed(results, path, {**metadata["inputs"], **beside}, (path, *(results / name for name in beside)))


def _rows(schema: Schema, table: pd.DataFrame, metadata: dict[str, Any]) -> Iterator[str]:
    """Yield a message for each problem with the rows of a table."""
    numbers = table.select_dtypes("number")
    bad = [name for name in numbers if not np.isfinite(numbers[name].to_numpy(dtype=float)).all()]
    if bad:
        yield f"column {', '.join(bad)} holds infinite or missing numbers"
    yield from rows.faults(schema, table, metadata["observed"].get("prompts"))


def _code(schema: Schema, metadata: dict[str, Any]) -> Iterator[str]:
    """Yield a message if the code that made a table differs from the installed code.

    Training tables are skipped: only a part of the code determines the weights, and the training's own record names this part.
    """
    if schema.stage == "training":
        return
    if not metadata["code"].startswith(SCHEME):
        yield "an earlier version of icl-lens made it, whose hashes of code cannot be compared with those of this version"
        return
    modules = metadata["modules"]
    gone = [name for name in modules if module_file(name) is None]
    if gone:
        yield f"the code that made it ({gone[0]}) is not installed"
    elif metadata["code"] != code_hash(*modules):
        yield f"the code that made it ({modules[0]}) is not the code that is installed"
    if metadata["columns"] != {name: str(kind) for name, kind in schema.columns.items()}:
        yield f"its columns are not those that {schema.kind} tables have in this version"


def _strangers(results: Path) -> Iterator[Fault]:
    """Yield a fault for each file that no rule makes.

    File names with a leading dot are skipped: they are temporary files of interrupted runs, or system files.
    """
    for folder, folders, files in os.walk(results):
        here = Path(folder)
        # A folder with its own stages is a nested results folder.
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
                yield Fault(f"{here / name}: its table is missing", (here / name,))


def _record_faults(results: Path, record: Path) -> list[Fault]:
    try:
        facts = json.loads(record.read_text(encoding="utf-8"))
        outputs = (record, *(results / name for name in facts["outputs"]))
        faults = _changed(results, record, {**facts["inputs"], **facts["outputs"]}, outputs)
        if missing := facts.get("missing"):  # a failed run wrote this page
            faults.append(Fault(f"{record}: the report is incomplete, {', '.join(missing)} missing from it", outputs))
        return faults
    except (ValueError, KeyError, TypeError):
        return [Fault(f"{record}: is not a record of inputs and outputs", (record,))]


def _changed(results: Path, path: Path, recorded: dict[str, str], remove: tuple[Path, ...]) -> list[Fault]:
    """Return a fault for each recorded file of the results folder that is missing or has changed."""
    faults = []
    for name, digest in recorded.items():
        if name.split("/")[0] not in hashes.STAGES:
            continue  # a data file outside the results folder
        if not (results / name).is_file():
            faults.append(Fault(f"{path}: {name} is missing", remove))
        elif hashes.file_hash(results / name) != digest:
            faults.append(Fault(f"{path}: {name} is not what it was when this was made", remove))
    return faults
