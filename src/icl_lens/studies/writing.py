"""Check the results of a study against its contract, and write them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from icl_lens.artifacts import parquet, tensors
from icl_lens.artifacts.hashes import artifact_name, file_hash
from icl_lens.artifacts.provenance import describe
from icl_lens.artifacts.rows import faults as row_faults
from icl_lens.errors import InputError
from icl_lens.section import Section
from icl_lens.studies.study import Study


def settings_of(study: Study, settings: Section | None) -> Section | None:
    """Return the settings that a study runs with: the given settings, or the study's defaults.

    Raises:
        ValueError: The settings belong to another study.
    """
    kind = study.settings.section if study.settings else type(None)
    own = kind() if settings is None else settings
    if not isinstance(own, kind):
        raise ValueError(f"{type(own).__name__} are no settings of the study {study.name}")
    return own


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


def rows_and_tensors(study: Study, found: Any) -> tuple[pd.DataFrame, Mapping[str, np.ndarray] | None]:
    """Split the return value of ``compute`` into rows and, if the study has tensors, tensors.

    Raises:
        InputError: ``compute`` returned something else.
    """
    rows, beside = found if isinstance(found, tuple) and len(found) == 2 else (found, None)
    if not isinstance(rows, pd.DataFrame):
        raise broken(study, f"compute() returns {type(found).__name__}, not a DataFrame of rows")
    if study.tensors and beside is None:
        raise broken(study, "tensors is True, but compute() returns no pair of rows and tensors")
    if not study.tensors and beside is not None:
        raise broken(study, "compute() returns tensors, but tensors is not True")
    return rows, beside


def write(
    out: Path | str,
    study: Study,
    rows: pd.DataFrame,
    beside: Mapping[str, np.ndarray] | None,
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
        rows: Rows with the columns of the study's schema, in any order.
        beside: Name -> tensor, or None if the study has no tensors.
        modules: Modules that computed the rows.
        files: Tables that the study read.
        settings, seeds, observed, more: See :func:`icl_lens.artifacts.provenance.describe`.

    Raises:
        InputError: The rows do not meet the schema.
    """
    missing = [name for name in study.schema.columns if name not in rows]
    strangers = [name for name in rows if name not in study.schema.columns]
    if missing or strangers:
        fault = f"lack the column {missing[0]!r}" if missing else f"have a column {strangers[0]!r} that the schema lacks"
        raise broken(study, f"schema: the rows of compute() {fault}")
    mistyped = [name for name, kind in study.schema.columns.items() if not _holds(rows[name], kind)]
    if mistyped:
        wanted = study.schema.columns[mistyped[0]]
        raise broken(study, f"schema: column {mistyped[0]!r} of compute() is of type {rows[mistyped[0]].dtype}, not {wanted}")
    wrong = next(row_faults(study.schema, rows, (observed or {}).get("prompts")), None)
    if wrong:
        raise broken(study, f"schema: the rows of compute() break it: {wrong}")
    inputs = {artifact_name(path, out): file_hash(path) for path in files}
    metadata = describe(study.schema, modules, inputs, settings, seeds, observed, **more)
    if beside is not None:
        place = Path(out).with_suffix(".safetensors")
        tensors.write(place, beside, metadata)
        metadata["beside"] = {artifact_name(place, out): file_hash(place)}
    try:
        parquet.write(out, rows, study.schema, metadata)
    except (ValueError, TypeError) as error:  # pyarrow raises both for values of another type
        said = str(error.args[0] if error.args else error).splitlines()[0]
        raise broken(study, f"schema: the rows of compute() do not meet it: {said}") from error


def _holds(values: pd.Series, kind: pa.DataType) -> bool:
    """Return whether a column is numeric if the schema requires numbers.

    Writing the table checks all other types.
    """
    wanted = pa.types.is_integer(kind) or pa.types.is_floating(kind)
    return not wanted or pd.api.types.is_numeric_dtype(values)
