"""Does a results folder hang together: is each artifact whole, and made from the inputs that lie there now?"""

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


@dataclass(frozen=True)
class Fault:
    """What is wrong with one artifact.

    Attributes:
        sentence: For a person.
        remove: The files to delete so that the artifact is made anew.
    """

    sentence: str
    remove: tuple[Path, ...]


def audit(results: Path, schemas: Collection[Schema]) -> tuple[int, list[Fault]]:
    """How many artifacts a results folder holds, and their faults; none when it hangs together.

    Checked are: each table's schema, checksums and provenance; each input it names that lies in the folder, by content hash;
    the code it was made by, by the hash of that which is installed; that no row stands twice, no number is infinite or missing,
    and no prompt lacks rows; the record of inputs and outputs of each figure, each table and the report; and that nothing else
    lies in the folder. Another results folder inside it is another's affair. A folder that an earlier version made, which
    hashed code in another way, has one fault, which says so.

    Args:
        results: The folder.
        schemas: Every kind of table that it can hold.

    Raises:
        InputError: There is no such folder, or nothing in it to audit.
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
    """Delete what is at fault and, in turn, what was made from it; the deleted files, in order.

    Snakemake makes a missing target anew, but not a missing link behind a target that is there.
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
    """The tables, and the records of figures, tables and the report, in a results folder."""
    if not results.is_dir():
        raise InputError(f"{results} is no folder; `make` fills results/")
    tables = [path for stage in TABLES for path in sorted((results / stage).rglob("*.parquet"))]
    # A name with a dot in front is what a killed run was writing: never an artifact.
    tables = [path for path in tables if not path.name.startswith(".")]
    return tables, sorted(path for stage in ("figures", "tables", "report") for path in results.glob(f"{stage}/*.json"))


def _is_of_earlier_version(path: Path) -> bool:
    """Whether a table's code was hashed by other rules than today's."""
    try:
        code = parquet.about(path).get("code")
    except InputError:  # damaged: that is a fault of its own
        return False
    return isinstance(code, str) and not code.startswith(SCHEME)


def _schema(results: Path, path: Path, schemas: dict[tuple[str, str], Schema]) -> Schema | None:
    """The schema of a table, by its stage and its file's name."""
    stage = path.relative_to(results).parts[0]
    if stage == "prompts":
        beside = [schema for schema in schemas.values() if path.stem in schema.sets]
        return beside[0] if beside else schemas[(stage, stage)]
    return schemas.get((stage, stage if stage == "corpora" else path.stem))


def _unknown(path: Path) -> Fault:
    """The fault of a table that no known study makes; that of a study outside the package stays where it is."""
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
    # What was written with the table (tensors) goes with it: neither is right without the other.
    beside = metadata.get("beside", {})
    return faults + _changed(results, path, {**metadata["inputs"], **beside}, (path, *(results / name for name in beside)))


def _rows(schema: Schema, table: pd.DataFrame, metadata: dict[str, Any]) -> Iterator[str]:
    """What is wrong with a table's rows."""
    numbers = table.select_dtypes("number")
    bad = [name for name in numbers if not np.isfinite(numbers[name].to_numpy(dtype=float)).all()]
    if bad:
        yield f"column {', '.join(bad)} holds infinite or missing numbers"
    yield from rows.faults(schema, table, metadata["observed"].get("prompts"))


def _code(schema: Schema, metadata: dict[str, Any]) -> Iterator[str]:
    """Whether other code made a table than is installed.

    A training's table is left alone: what decides the weights is a part of the code only, and its own record says which.
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


def _changed(results: Path, path: Path, recorded: dict[str, str], remove: tuple[Path, ...]) -> list[Fault]:
    """Faults of the recorded files that should lie in the results folder."""
    faults = []
    for name, digest in recorded.items():
        if name.split("/")[0] not in hashes.STAGES:
            continue  # a data file: it lies outside
        if not (results / name).is_file():
            faults.append(Fault(f"{path}: {name} is gone", remove))
        elif hashes.file_hash(results / name) != digest:
            faults.append(Fault(f"{path}: {name} is not what it was when this was made", remove))
    return faults
