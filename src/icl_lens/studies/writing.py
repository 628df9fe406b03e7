"""Check the results of a study against its contract, and write them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from icl_lens.artifacts import parquet, tensors
from icl_lens.artifacts.hashes import artifact_name, file_hash
from icl_lens.artifacts.provenance import describe
from icl_lens.artifacts.rows import faults as row_faults
from icl_lens.artifacts.schema import Schema
from icl_lens.artifacts.shards import METADATA_KEY, schema_of
from icl_lens.errors import InputError
from icl_lens.section import Section
from icl_lens.studies.study import Study


def settings_of(study: Study, settings: Section | None) -> Section | None:
    """Return the settings that a study runs with: the given settings, or the study's defaults.

    Raises:
        ValueError: The settings belong to another study.
    """
    expected = study.settings.section if study.settings else type(None)
    resolved = expected() if settings is None else settings
    if not isinstance(resolved, expected):
        raise ValueError(f"study {study.name} requires settings of type {expected.__name__}, got {type(resolved).__name__}")
    return resolved


def broken(study: Study, fault: str) -> InputError:
    """Return the error for a study that violates its contract."""
    return InputError(f"study {study.name}: {fault}; docs/extending.md has the contract")


def require_takes(study: Study, compute: Callable, *given: Any, **named: Any) -> None:
    """Check that ``compute`` accepts the given arguments.

    Raises:
        InputError: It takes other arguments.
    """
    try:
        inspect.signature(compute).bind(*given, **named)
    except TypeError as error:
        raise broken(study, f"compute() does not take the arguments {', '.join(named)} besides the model: {error}") from error


def rows_and_tensors(study: Study, result: Any) -> tuple[pd.DataFrame, Mapping[str, np.ndarray] | None]:
    """Split the return value of ``compute`` into rows and, if the study has tensors, tensors.

    Raises:
        InputError: ``compute`` returned something else.
    """
    rows, named_tensors = result if isinstance(result, tuple) and len(result) == 2 else (result, None)
    if not isinstance(rows, pd.DataFrame):
        raise broken(study, f"compute() returns {type(result).__name__}, not a DataFrame of rows")
    if study.tensors and named_tensors is None:
        raise broken(study, "tensors is True, but compute() returns no pair of rows and tensors")
    if not study.tensors and named_tensors is not None:
        raise broken(study, "compute() returns tensors, but tensors is not True")
    return rows, named_tensors


def require_rows(study: Study, rows: pd.DataFrame, schema: Schema, prompts: int | None) -> None:
    """Check the rows of a study against the schema of its table.

    Args:
        study: The study.
        rows: The rows.
        schema: The schema of the study's table, or of a shard of it.
        prompts: Number of prompts that were studied; None for a study that reads no prompts.

    Raises:
        InputError: The rows do not meet the schema.
    """
    missing = [name for name in schema.columns if name not in rows]
    unexpected = [name for name in rows if name not in schema.columns]
    if missing or unexpected:
        fault = f"lack the column {missing[0]!r}" if missing else f"have a column {unexpected[0]!r} that the schema lacks"
        raise broken(study, f"schema: the rows of compute() {fault}")
    mistyped = [name for name, column_type in schema.columns.items() if not _has_type(rows[name], column_type)]
    if mistyped:
        expected = schema.columns[mistyped[0]]
        raise broken(study, f"schema: column {mistyped[0]!r} of compute() is of type {rows[mistyped[0]].dtype}, not {expected}")
    row_fault = next(row_faults(schema, rows, prompts), None)
    if row_fault:
        raise broken(study, f"schema: the rows of compute() break it: {row_fault}")


def as_read(study: Study, rows: pd.DataFrame, prompts: int | None) -> pd.DataFrame:
    """Return the rows of a study in the form that reading its table gives.

    Args:
        study: The study.
        rows: Rows with the columns of the study's schema, in any order.
        prompts: See :func:`require_rows`.

    Raises:
        InputError: The rows do not meet the schema.
    """
    require_rows(study, rows, study.schema, prompts)
    with _type_faults(study):
        return parquet.to_arrow(rows, study.schema).replace_schema_metadata(None).to_pandas()


def write(
    out: Path | str,
    study: Study,
    rows: pd.DataFrame,
    named_tensors: Mapping[str, np.ndarray] | None,
    modules: Sequence[str],
    files: Sequence[Path | str],
    settings: dict[str, Any],
    seeds: list[int],
    observed: dict[str, Any] | None = None,
    **more: Any,
) -> None:
    """Write a study's table and, in a separate file next to it, its tensors.

    Args:
        out: Table to write.
        study: The study that produced the rows.
        rows: Rows with the columns of the study's schema, in any order; for a shard, also the column
            :data:`icl_lens.artifacts.shards.ROW`.
        named_tensors: Name -> tensor, or None if the study has no tensors.
        modules: Modules that computed the rows.
        files: Tables that the study read.
        settings, seeds, observed, more: See :func:`icl_lens.artifacts.provenance.describe`. A table with the fact
            :data:`icl_lens.artifacts.shards.METADATA_KEY` is a shard.

    Raises:
        InputError: The rows do not meet the schema.
    """
    part = more.get(METADATA_KEY)
    schema = schema_of(study.schema) if part else study.schema
    require_rows(study, rows, schema, part["prompts"] if part else (observed or {}).get("prompts"))
    inputs = {artifact_name(path, out): file_hash(path) for path in files}
    metadata = describe(study.schema, modules, inputs, settings, seeds, observed, **more)
    if named_tensors is not None:
        tensor_file = Path(out).with_suffix(".safetensors")
        tensors.write(tensor_file, named_tensors, metadata)
        metadata["beside"] = {artifact_name(tensor_file, out): file_hash(tensor_file)}
    with _type_faults(study):
        parquet.write(out, rows, schema, metadata)


@contextmanager
def _type_faults(study: Study) -> Iterator[None]:
    """Raise the error for a study that violates its contract if the rows have values of other types than the schema."""
    try:
        yield
    except (ValueError, TypeError) as error:  # pyarrow raises both for values of another type
        reason = str(error.args[0] if error.args else error).splitlines()[0]
        raise broken(study, f"schema: the rows of compute() do not meet it: {reason}") from error


def _has_type(values: pd.Series, column_type: pa.DataType) -> bool:
    """Return whether a column is numeric if the schema requires numbers.

    Writing the table checks all other types.
    """
    numeric = pa.types.is_integer(column_type) or pa.types.is_floating(column_type)
    return not numeric or pd.api.types.is_numeric_dtype(values)
