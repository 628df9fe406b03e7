"""Merge of the shards of a study into its table, which has the same bytes as if one job had computed it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from icl_lens.artifacts import parquet, shards
from icl_lens.artifacts.schema import Schema
from icl_lens.errors import InputError


def merge(out: Path | str, schema: Schema, files: Sequence[Path]) -> None:
    """Merge all shards of a table.

    Args:
        out: Table to write.
        schema: Schema of the table.
        files: The shards, in any order.

    Raises:
        InputError: A file is corrupted or no shard, a shard is missing, or the files are not the shards of one table.
    """
    tables: dict[int, tuple[Path, pd.DataFrame]] = {}
    first: tuple[Path, dict[str, Any]] | None = None
    of = 0
    for path in files:
        part = require_shard(path)
        table, metadata = parquet.read(path, shards.schema_of(schema))
        shared = {key: value for key, value in metadata.items() if key != shards.METADATA_KEY}
        if first is None:
            first, of = (path, shared), part["of"]
        differing = [key for key in {**first[1], **shared} if first[1].get(key) != shared.get(key)]
        if differing or part["of"] != of:
            name = sorted(differing)[0] if differing else "number of shards"
            raise InputError(
                f"{path} and {first[0]} are shards of different tables: their {name} differs; rerun the older of them"
            )
        if part["number"] in tables:
            raise InputError(
                f"{path} and {tables[part['number']][0]} are both shard {part['number']}/{of}; give each shard once"
            )
        tables[part["number"]] = path, table
    missing = next((number for number in range(1, of + 1) if number not in tables), None)
    if first is None or missing is not None:
        raise InputError(
            f"shard {missing}/{of} of {schema.kind} is missing; give all {of} shards" if first else "no shard is given"
        )
    rows = pd.concat([tables[number][1] for number in sorted(tables)], ignore_index=True).sort_values(shards.ROW)
    if not np.array_equal(rows[shards.ROW], np.arange(len(rows))):
        raise InputError(f"the shards of {schema.kind} lack or repeat rows of the table; rerun all of them")
    parquet.write(out, rows.drop(columns=shards.ROW), schema, first[1])


def require_shard(path: Path) -> dict[str, int]:
    """Return which shard a table is: its ``number``, ``of`` how many, and its number of ``prompts``.

    Raises:
        InputError: The table is missing, corrupted, or no shard.
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist; expected a shard of a study")
    part = parquet.read_metadata(path).get(shards.METADATA_KEY)
    if not isinstance(part, dict) or any(type(part.get(key)) is not int for key in ("number", "of", "prompts")):
        raise InputError(f"{path} is not a shard of a study; give tables that a command wrote with --shard")
    return part
