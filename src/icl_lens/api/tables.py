"""Prompts tables in memory: written from prompts, or checked like the tables in files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import pandas as pd
import pyarrow as pa

from icl_lens.api.prompt import Prompt
from icl_lens.artifacts import parquet
from icl_lens.artifacts.schema import Schema
from icl_lens.errors import InputError
from icl_lens.prompts.schema import PROMPTS
from icl_lens.short_repr import short_repr

Prompts: TypeAlias = Prompt | Sequence[Prompt] | pd.DataFrame | str | os.PathLike[str]
"""Prompts in the form of one prompt, a list of prompts, a prompts table, or the path of a prompts table."""


def prompts_table(prompts: Prompt | Sequence[Prompt]) -> pd.DataFrame:
    """Write prompts as a prompts table, the input of all studies.

    Args:
        prompts: One or more prompts.

    Returns:
        One row per prompt, with the columns of a prompts table. ``prompt_id`` is the position in the list, ``set`` is "own" and
        ``seed`` is 0. Equal queries have the same ``query_index``, and equal demonstrations (text and label word) have the same
        number in ``demo_indices``. ``shots`` is the largest number of demonstrations of one class. ``gold`` is missing (NA) for
        a prompt without a gold label.

    Raises:
        InputError: There is no prompt, or an entry is not an ``icl_lens.Prompt``.
    """
    listed = [prompts] if isinstance(prompts, Prompt) else prompts
    if not isinstance(listed, Sequence) or isinstance(listed, str) or not all(isinstance(each, Prompt) for each in listed):
        odd = listed if isinstance(listed, str) or not isinstance(listed, Sequence) else None
        odd = next(each for each in listed if not isinstance(each, Prompt)) if odd is None else odd
        raise InputError(f"prompts must contain only icl_lens.Prompt objects, got {short_repr(odd)}")
    if not listed:
        raise InputError("prompts is empty; pass at least one prompt")
    queries: dict[str, int] = {}
    demonstrations: dict[tuple[str, str], int] = {}
    rows = []
    for prompt_id, prompt in enumerate(listed):
        indices = [demonstrations.setdefault(each, len(demonstrations)) for each in prompt.demonstrations]
        row = prompt.row()
        row |= {"prompt_id": prompt_id, "query_index": queries.setdefault(prompt.query, len(queries)), "demo_indices": indices}
        rows.append(row)
    table = pd.DataFrame(rows, columns=list(PROMPTS.columns))
    return table.astype({"gold": "Int64" if table["gold"].isna().any() else "int64"})


def read(argument: str, prompts: Prompts, schema: Schema) -> pd.DataFrame:
    """Return the table that an argument of a study stands for.

    Args:
        argument: Name of the argument, for error messages.
        prompts: The value of the argument.
        schema: Schema of the table.

    Returns:
        The table with the columns of the schema. In a table of :data:`PROMPTS`, ``gold`` can be missing (NA).

    Raises:
        InputError: The table is invalid, see :func:`icl_lens.artifacts.parquet.read`; or the value is of another type.
    """
    if isinstance(prompts, str | os.PathLike):
        return parquet.read(Path(prompts), schema)[0]
    if isinstance(prompts, pd.DataFrame):
        return _checked(argument, prompts, schema)
    listed = [prompts] if isinstance(prompts, Prompt) else prompts
    if schema is not PROMPTS:
        raise InputError(
            f"{argument} must be a {schema.kind} table (a DataFrame, or the path of a file), got {short_repr(prompts)}"
        )
    if not isinstance(listed, Sequence) or not all(isinstance(each, Prompt) for each in listed):
        raise InputError(
            f"{argument} must be an icl_lens.Prompt, a list of them, a prompts table (DataFrame) or the path of one, got "
            f"{short_repr(prompts)}"
        )
    if not listed:
        raise InputError(f"{argument} is empty; pass at least one prompt")
    return prompts_table(listed)


def _checked(argument: str, table: pd.DataFrame, schema: Schema) -> pd.DataFrame:
    """Return the columns of a schema, of its types."""
    missing = [name for name in schema.columns if name not in table]
    if missing:  # before the conversion, which also converts the other columns of the user
        raise InputError(f"{argument} is not a {schema.kind} table: missing column {', '.join(missing)}")
    table = table[list(schema.columns)]
    if not table.columns.is_unique:
        raise InputError(f"{argument} is not a {schema.kind} table: duplicate column; column names must be unique")
    gold = table["gold"] if schema is PROMPTS else None
    unknown = None if gold is None else gold.isna()
    if unknown is not None and unknown.any():
        table = table.assign(gold=gold.where(~unknown, 0))
    try:
        arrow = pa.Table.from_pandas(table, preserve_index=False)
    except (pa.ArrowException, ValueError, TypeError) as error:  # for example, a column with values of several types
        raise InputError(f"{argument} is not a {schema.kind} table: {str(error.args[0]).splitlines()[0]}") from error
    checked = parquet.conform(argument, arrow, schema).to_pandas()
    if unknown is not None and unknown.any():
        checked["gold"] = checked["gold"].astype("Int64").mask(unknown.to_numpy())
    return checked
