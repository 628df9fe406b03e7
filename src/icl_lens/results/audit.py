"""Audit of a results folder: check that each artifact is intact and was made from the current inputs."""

from __future__ import annotations

import contextlib
import os
import re
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from icl_lens import json_text
from icl_lens.artifacts import hashes, notebooks, parquet, rows, shards
from icl_lens.artifacts.code import SCHEME, module_file
from icl_lens.artifacts.provenance import library_versions
from icl_lens.artifacts.schema import Schema
from icl_lens.errors import InputError
from icl_lens.results.inputs import FILE, Comparison

TABLES = ("corpora", "prompts", "training", "studies", "synthetic")
"""Stages with tables as artifacts."""

# Patterns of the paths that a results folder may contain. They follow the grammar at the top of workflow/Snakefile.
_GRAMMAR = (
    r"corpora/[^/]+\.parquet",
    r"prompts/[^/]+/[^/]+\.parquet",
    r"studies/([^/]+/){3}[^/]+\.(parquet|safetensors)",
    rf"studies/([^/]+/){{3}}{shards.FOLDER}/[^/]+\.[0-9]+-of-[0-9]+\.parquet",
    r"synthetic/[^/]+\.parquet",
    r"figures/[^/]+\.(pdf|svg|png|csv|txt|json|replicates\.safetensors)",
    r"tables/[^/]+\.(csv|md|tex|json|replicates\.safetensors)",
    r"notebooks/[^/]+\.ipynb",
    r"report/(index\.(html|json)|incomplete\.json|scorecard\.csv)",
    r"(training|logs|benchmarks)/.+",
    r"inputs\.json",
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
    - the content hash of each input outside the folder (data file, model, encoder, notebook, template), if ``inputs.json``
      has its path, see :mod:`icl_lens.results.inputs`;
    - that the installed code has the hash of the code that made the table;
    - that a table has no duplicate rows and no non-finite or missing numbers, and that no prompt lacks rows;
    - the recorded inputs and outputs of each figure, each summary table and the report;
    - that a shard was computed like the table that was merged from it;
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
        raise InputError(f"{results} contains no artifacts; run snakemake first, or specify the results folder of the config")
    recorded = [path for path in tables if path.relative_to(results).parts[0] != "training"]
    if recorded and all(map(_from_earlier_version, recorded)):
        sentence = (
            f"{results} was made by an earlier version of icl-lens, and its code hashes are not comparable with those of this "
            "version; rerun the snakemake command that made it"
        )
        return len(tables) + len(records), [Fault(sentence, ())]
    schemas_by_name = {(schema.stage, schema.kind): schema for schema in schemas}
    comparison = Comparison(results)
    faults = [fault for path in tables for fault in _table_faults(comparison, path, schemas_by_name)]
    faults += [fault for path in records for fault in _record_faults(comparison, path)]
    faults += _files_without_record(results)
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
        remove = {path for fault in audit(results, schemas)[1] for path in fault.remove if _is_removable(path)}
        if not remove:
            break
        for path in sorted(remove):
            path.rmdir() if path.is_dir() else path.unlink()
            deleted.append(path)
    return deleted


def other_versions(results: Path) -> dict[str, int]:
    """Return the libraries that had another version when an artifact was made: a description -> number of artifacts.

    A new version is not a fault, because it rarely changes a result.
    """
    installed = library_versions()
    found: Counter[str] = Counter()
    for _, facts in _all_facts(results):
        with contextlib.suppress(ValueError, AttributeError):
            recorded = facts.get("libraries") or {}
            found.update(
                f"{name} {version} (installed: {installed[name]})"
                for name, version in recorded.items()
                if installed.get(name, version) != version
            )
    return dict(sorted(found.items()))


def not_compared(results: Path) -> list[str]:
    """Return one sentence for each input outside a results folder that cannot be compared with the artifacts made from it.

    This is not a fault, because the artifacts are intact.
    """
    comparison, unlisted = Comparison(results), set()
    for name, facts in _all_facts(results):
        with contextlib.suppress(KeyError, TypeError, AttributeError, ValueError):
            unlisted.update(comparison.unlisted(name, facts))
    end = "so it is unknown whether this input has changed"
    return [
        *(f"{path} does not exist, {end}" for path in comparison.missing()),
        *(f"{title}: its path is not in {results / FILE}, {end}" for title in sorted(unlisted)),
    ]


def _all_facts(results: Path) -> Iterator[tuple[str, Any]]:
    """Yield the name and the metadata or record of each artifact; corrupted ones are faults and are skipped."""
    tables, records = _artifacts(results)
    for path in (*tables, *records):
        with contextlib.suppress(InputError, OSError, ValueError):
            facts = parquet.read_metadata(path) if path.suffix == ".parquet" else json_text.loads(path.read_bytes())
            yield path.relative_to(results).as_posix(), facts


def _is_removable(path: Path) -> bool:
    """Return whether a path is a file or an empty folder."""
    return path.exists() and not (path.is_dir() and any(path.iterdir()))


def _artifacts(results: Path) -> tuple[list[Path], list[Path]]:
    """Return the data tables of a results folder, and the records of its figures, summary tables and report."""
    if not results.is_dir():
        raise InputError(f"{results} is not a folder; run snakemake first, or specify the results folder of the config")
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
    if _is_shard(results, path):
        schema = schemas.get((stage, path.stem.partition(".")[0]))
        return schema and shards.schema_of(schema)
    return schemas.get((stage, stage if stage == "corpora" else path.stem))


def _is_shard(results: Path, path: Path) -> bool:
    """Return whether the path of a table is that of a shard of a study."""
    stage, *folders, _ = path.relative_to(results).parts
    return stage == "studies" and folders[3:] == [shards.FOLDER]


def _unknown_table(path: Path) -> Fault:
    """Return the fault of a table that no known study makes. Tables of studies outside the package are not removed."""
    with contextlib.suppress(InputError):
        modules = parquet.read_metadata(path).get("modules", [])
        if any(name.startswith("icl_lens.studies.plugins.") for name in modules):
            return Fault(f"{path}: the study is outside the package; pass its folder with --plugin", ())
    return Fault(f"{path}: unknown kind of table, no study is named {path.stem}", (path,))


def _table_faults(comparison: Comparison, path: Path, schemas: dict[tuple[str, str], Schema]) -> list[Fault]:
    try:
        return _readable_table_faults(comparison, path, schemas)
    except (KeyError, TypeError, AttributeError, ValueError):  # the metadata has other keys or types
        return [Fault(f"{path}: invalid provenance in the metadata; icl-lens did not write it", (path,))]


def _readable_table_faults(comparison: Comparison, path: Path, schemas: dict[tuple[str, str], Schema]) -> list[Fault]:
    results = comparison.results
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
        for message in (
            *_digest_messages(path),
            *_identity_messages(results, path, table, metadata),
            *(_shard_messages(path, metadata) if _is_shard(results, path) else ()),
            *_row_messages(schema, table, metadata),
            *_code_messages(comparison, schema, metadata),
        )
    ]
    # The tensors that were written with the table are removed with it, because neither is valid without the other.
    tensors = metadata.get("beside", {})
    if not all(map(_is_inside, (*metadata["inputs"], *tensors))):
        return [Fault(f"{path}: its metadata names a file outside the results folder", (path,))]
    remove = (path, *(results / name for name in tensors))
    faults += _changed_files(comparison, path, {**metadata["inputs"], **tensors}, remove)
    return faults + _changed_external(comparison, path, metadata, remove)


def _digest_messages(path: Path) -> Iterator[str]:
    """Yield a message if a table has no digest of its rows and metadata. :func:`parquet.read` rejects a wrong digest."""
    if parquet.is_unchanged(path) is None:
        yield "no checksum of its rows and metadata; another program, or an earlier version of icl-lens, wrote it"


def _identity_messages(results: Path, path: Path, table: pd.DataFrame, metadata: dict[str, Any]) -> Iterator[str]:
    """Yield a message if a table belongs to another place in the results folder."""
    stage, *parts = path.relative_to(results).with_suffix("").parts
    names = {"corpora": ("task",), "prompts": ("task", "set"), "studies": ("model", "task", "set")}.get(stage, ())
    for name, expected in zip(names, parts, strict=False):
        found = {metadata["settings"].get("task", expected)} if stage == "corpora" else set(table.get(name, [expected]))
        if found != {expected}:
            yield f"{name} is {', '.join(sorted(map(str, found)))}, but the path of the file has {expected}"


def _shard_messages(path: Path, metadata: dict[str, Any]) -> Iterator[str]:
    """Yield a message if a shard belongs to another path, or was computed in another way than the table next to it."""
    part = metadata.get(shards.METADATA_KEY)
    study, _, expected = path.stem.partition(".")
    found = f"{part['number']}-of-{part['of']}" if part else "no shard"
    if found != expected:
        yield f"it is {found}, but the path of the file has {expected}"
    merged = path.parents[1] / f"{study}.parquet"
    if merged.exists():
        with contextlib.suppress(InputError):  # the merged table is corrupted, which is a separate fault
            whole = parquet.read_metadata(merged)
            differing = [key for key in {**whole, **metadata} if whole.get(key) != metadata.get(key)]
            for key in sorted({*differing} - {shards.METADATA_KEY}):
                yield f"its {key} differs from that of {merged}, so one of them is stale"


def _row_messages(schema: Schema, table: pd.DataFrame, metadata: dict[str, Any]) -> Iterator[str]:
    """Yield a message for each problem with the rows of a table."""
    numbers = table.select_dtypes("number")
    invalid = [name for name in numbers if not np.isfinite(numbers[name].to_numpy(dtype=float)).all()]
    if invalid:
        yield f"non-finite or missing numbers in column {', '.join(invalid)}"
    part = metadata.get(shards.METADATA_KEY)
    yield from rows.faults(schema, table, part["prompts"] if part else metadata["observed"].get("prompts"))


def _code_messages(comparison: Comparison, schema: Schema, metadata: dict[str, Any]) -> Iterator[str]:
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
    elif metadata["code"] != comparison.code_hash(*modules):
        yield f"stale: the code that made it ({modules[0]}) differs from the installed code"
    own = (shards.ROW,) if shards.METADATA_KEY in metadata else ()
    if metadata["columns"] != {name: str(kind) for name, kind in schema.columns.items() if name not in own}:
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
                yield Fault(f"{directory / name}: unexpected file; no rule of the workflow writes it", ())
            elif (
                path.endswith(".safetensors")
                and path.startswith("studies/")
                and not (directory / name).with_suffix(".parquet").exists()
            ):
                yield Fault(f"{directory / name}: its table is missing", (directory / name,))


def _record_faults(comparison: Comparison, record: Path) -> list[Fault]:
    results = comparison.results
    try:
        facts = json_text.loads(record.read_text(encoding="utf-8"))
        if not all(_is_inside(name) for name in (*facts["inputs"], *facts["outputs"])):
            raise ValueError("a recorded name leaves the results folder")
        outputs = (record, *(results / name for name in facts["outputs"]))
        if facts.get("digest", digest := notebooks.record_digest(facts)) != digest:
            return [Fault(f"{record}: the record was changed after icl-lens wrote it", (*outputs, *_of_item(results, record)))]
        faults = _changed_files(comparison, record, {**facts["inputs"], **facts["outputs"]}, outputs)
        faults += _changed_external(comparison, record, facts, outputs)
        if missing := facts.get("missing"):  # a failed run wrote this page
            faults.append(Fault(f"{record}: the report is incomplete, missing: {', '.join(missing)}", outputs))
        return faults
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return [Fault(f"{record}: not a valid record of inputs and outputs", (record,))]


def _changed_external(comparison: Comparison, path: Path, facts: dict[str, Any], remove: tuple[Path, ...]) -> list[Fault]:
    """Return a fault for each input outside the results folder that has changed since an artifact was made."""
    name = path.relative_to(comparison.results).as_posix()
    try:
        return [
            Fault(f"{path}: stale, because {changed} has changed since this was made", remove)
            for changed in comparison.changed(name, facts)
        ]
    except InputError as error:  # the input is corrupted, so the artifact is kept
        return [Fault(f"{path}: one of its inputs cannot be used: {error}", ())]


def _of_item(results: Path, record: Path) -> list[Path]:
    """Return the files of a figure, table or report, given the path of its record, which may not exist."""
    item = [path for path in record.parent.glob("[!.]*.*") if path != record and _record_of(path) == record]
    return [*item, *(results / "notebooks").glob(f"{record.stem}.ipynb")]


def _record_of(path: Path) -> Path:
    """Return the record of a file in the folder of the figures, tables or report, which may not exist."""
    stem = "index" if path.parent.name == "report" else path.name.partition(".")[0]
    return path.with_name(f"{stem}.json")


def _files_without_record(results: Path) -> Iterator[Fault]:
    """Yield a fault for each figure, table or report without a record of its inputs and outputs."""
    records = {_record_of(path) for stage in ("figures", "tables", "report") for path in results.glob(f"{stage}/[!.]*.*")}
    for record in sorted(records):
        if record.exists() or record.name == "incomplete.json" or (record.with_name("incomplete.json")).exists():
            continue
        files = sorted(_of_item(results, record))
        made = record.parent.name == "report" or any(path.suffix == ".ipynb" for path in files)
        if made:
            yield Fault(
                f"{record} is missing, so that the inputs of {', '.join(path.name for path in files)} are unknown", tuple(files)
            )
        else:
            yield from (Fault(f"{path}: unexpected file; no rule of the workflow writes it", ()) for path in files)


def _is_inside(name: str) -> bool:
    """Return whether a recorded name is a path inside the results folder, so that a repair deletes no other file."""
    return not Path(name).is_absolute() and ".." not in Path(name).parts


def _changed_files(comparison: Comparison, path: Path, recorded: dict[str, str], remove: tuple[Path, ...]) -> list[Fault]:
    """Return a fault for each recorded file of the results folder that is missing or has changed."""
    results, faults = comparison.results, []
    for name, digest in recorded.items():
        if name.split("/")[0] not in hashes.STAGES:
            continue  # a data file outside the results folder
        if (results / name).is_dir():
            faults.append(Fault(f"{path}: {name} is a folder, not a file", remove))
        elif not (results / name).is_file():
            faults.append(Fault(f"{path}: {name} is missing", remove))
        elif comparison.file_hash(results / name) != digest:
            faults.append(Fault(f"{path}: stale, because {name} has changed since this was made", remove))
    return faults
