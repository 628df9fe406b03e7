"""Does a results folder hang together: is each artifact whole, and made from the inputs that lie there now?"""

from __future__ import annotations

import json
from pathlib import Path

from icl_lens import artifacts, provenance
from icl_lens.errors import InputError


def audit(results: Path) -> list[str]:
    """Every fault of a results folder, one sentence each; none when it hangs together.

    Checked are: each table's schema, checksums and provenance; each input it names that lies in the folder, by content
    hash; each figure's and table's record of inputs and outputs.

    Raises:
        InputError: There is no such folder, or nothing in it to audit.
    """
    if not results.is_dir():
        raise InputError(f"{results} is no folder; `make` fills results/")
    faults: list[str] = []
    checked = 0
    for stage in ("corpora", "prompts", "studies"):
        for path in sorted((results / stage).rglob("*.parquet")):
            if path.name.startswith("."):
                continue  # what a killed run was writing: never an artifact
            checked += 1
            faults += _table_faults(results, path, stage)
    for record in sorted([*results.glob("figures/*.json"), *results.glob("tables/*.json")]):
        checked += 1
        faults += _record_faults(results, record)
    if not checked:
        raise InputError(f"{results} holds no artifact; `make` fills results/")
    print(f"{checked} artifacts checked in {results}: {len(faults) or 'no'} fault{'' if len(faults) == 1 else 's'}")
    return faults


def _table_faults(results: Path, path: Path, stage: str) -> list[str]:
    kind = path.stem if stage == "studies" else stage
    if kind not in artifacts.SCHEMAS:
        return [f"{path}: no study makes a {kind} table"]
    try:
        _, metadata = artifacts.read(path, kind)
    except InputError as error:
        return [str(error)]
    if not metadata:
        return [f"{path}: holds no provenance, so it was not made by icl-lens"]
    return _changed(results, path, metadata["inputs"])


def _record_faults(results: Path, record: Path) -> list[str]:
    try:
        facts = json.loads(record.read_text(encoding="utf-8"))
        return _changed(results, record, {**facts["inputs"], **facts["outputs"]})
    except (ValueError, KeyError, TypeError):
        return [f"{record}: is not a record of inputs and outputs; delete it and run again"]


def _changed(results: Path, path: Path, hashes: dict[str, str]) -> list[str]:
    """Faults of the recorded files that should lie in the results folder."""
    faults = []
    for name, digest in hashes.items():
        if name.split("/")[0] not in provenance.STAGES:
            continue  # a data file or a notebook's source: it lies outside
        if not (results / name).is_file():
            faults.append(f"{path}: {name} is gone")
        elif provenance.file_hash(results / name) != digest:
            faults.append(f"{path}: {name} has changed since; run snakemake again")
    return faults
