"""Does a results folder hang together: is each artifact whole, and made from the inputs that lie there now?"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from icl_lens import artifacts, provenance
from icl_lens.errors import InputError

TABLES = ("corpora", "prompts", "training", "studies")
"""The stages whose artifacts are tables."""


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
    hash; each figure's and table's record of inputs and outputs.

    Raises:
        InputError: There is no such folder, or nothing in it to audit.
    """
    tables, records = _artifacts(results)
    if not tables and not records:
        raise InputError(f"{results} holds no artifact; `make` fills results/")
    faults = [fault for path in tables for fault in _table_faults(results, path)]
    faults += [fault for path in records for fault in _record_faults(results, path)]
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
    """The tables, and the records of figures and tables, in a results folder."""
    if not results.is_dir():
        raise InputError(f"{results} is no folder; `make` fills results/")
    tables = [path for stage in TABLES for path in sorted((results / stage).rglob("*.parquet"))]
    # A name with a dot in front is what a killed run was writing: never an artifact.
    tables = [path for path in tables if not path.name.startswith(".")]
    return tables, sorted([*results.glob("figures/*.json"), *results.glob("tables/*.json")])


def _table_faults(results: Path, path: Path) -> list[Fault]:
    stage = path.relative_to(results).parts[0]
    kind = stage if stage in ("corpora", "prompts") else path.stem
    if kind not in artifacts.SCHEMAS:
        return [Fault(f"{path}: no study makes a {kind} table", (path,))]
    try:
        _, metadata = artifacts.read(path, kind)
    except InputError as error:
        return [Fault(str(error), (path,))]
    if not metadata:
        return [Fault(f"{path}: holds no provenance, so it was not made by icl-lens", (path,))]
    # What was written with the table (tensors) goes with it: neither is right without the other.
    beside = metadata.get("beside", {})
    return _changed(results, path, {**metadata["inputs"], **beside}, (path, *(results / name for name in beside)))


def _record_faults(results: Path, record: Path) -> list[Fault]:
    try:
        facts = json.loads(record.read_text(encoding="utf-8"))
        outputs = (record, *(results / name for name in facts["outputs"]))
        return _changed(results, record, {**facts["inputs"], **facts["outputs"]}, outputs)
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
