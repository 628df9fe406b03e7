"""Tidy tables with one schema for each kind, written atomically, with provenance in the file.

Each step writes one Parquet file with one row per observation. The metadata of the file contains the provenance
(:mod:`icl_lens.artifacts.provenance`) and observations from the computation (excluded prompts, whether the model is trained).
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from icl_lens import json_text
from icl_lens.artifacts.files import unreadable, whole_file
from icl_lens.artifacts.schema import Schema
from icl_lens.errors import InputError

METADATA_KEY = b"icl_lens"

# The SHA-256 of the whole file, computed with a placeholder in place of the digest itself. Page checksums find flipped bits in
# the rows; this also finds them in the footer, and a table that another program changed and wrote with correct page checksums.
DIGEST_KEY = b"icl_lens_sha256"
_PLACEHOLDER = b"-" * 64


def write(path: Path | str, table: pd.DataFrame, schema: Schema, metadata: dict[str, Any]) -> None:
    """Check a table against its schema and write it atomically.

    Raises:
        ValueError: See :func:`to_arrow`.
    """
    arrow = to_arrow(table, schema)
    packed = json.dumps(metadata, sort_keys=True, ensure_ascii=False).encode()
    arrow = arrow.replace_schema_metadata({METADATA_KEY: packed})
    # With page checksums, a flipped byte raises an error on reading. By default, Parquet reads it as data.
    with whole_file(path) as temporary:
        with pq.ParquetWriter(temporary, arrow.schema, compression="zstd", write_page_checksum=True) as writer:
            writer.write_table(arrow)
            writer.add_key_value_metadata({DIGEST_KEY: _PLACEHOLDER})
        digest, place = _digest(temporary, _PLACEHOLDER)
        with temporary.open("r+b") as file:
            file.seek(place)
            file.write(digest)


def to_arrow(table: pd.DataFrame, schema: Schema) -> pa.Table:
    """Check a table against its schema, and return it with the columns in the order of the schema and of its types.

    Raises:
        ValueError: The table lacks a column, has an additional column, or has an empty cell (a bug in the caller).
    """
    names = list(schema.columns)
    if sorted(table.columns) != sorted(names):
        raise ValueError(f"columns {list(table.columns)} differ from those of schema {schema.kind}, {list(schema.columns)}")
    arrow = pa.Table.from_pandas(table[names], schema=schema.arrow, preserve_index=False)
    empty = _empty_columns(arrow)
    if empty:
        raise ValueError(f"empty cells in column {', '.join(empty)}")
    return arrow


def read(path: Path | str, schema: Schema) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Read a table and its metadata. The metadata is empty for a file that icl-lens did not write.

    Raises:
        InputError: The file is missing, truncated or corrupted, or it is not a table of this kind.
    """
    path, kind, version = Path(path), schema.kind, schema.version
    if not path.is_file():
        raise InputError(f"{path} does not exist; expected a {kind} table (Parquet)")
    try:
        arrow = pq.ParquetFile(path, page_checksum_verification=True).read()
        arrow.validate(full=True)  # for example, that text is UTF-8
        unchanged = is_unchanged(path)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError(
            unreadable(error, path)
            or f"{path} is not a valid Parquet file (truncated or corrupted); delete it with `icl-lens audit --repair` and "
            "rerun the command that made it, or copy it again"
        ) from error
    packed = (arrow.schema.metadata or {}).get(METADATA_KEY)
    try:
        metadata = json_text.loads(packed) if packed else {}
        if not isinstance(metadata, dict):
            raise ValueError("not a JSON object")
    except ValueError as error:
        raise InputError(f"{path} has corrupted metadata; delete it with `icl-lens audit --repair`") from error
    if unchanged is False:
        raise InputError(
            f"{path} was changed after icl-lens wrote it; delete it with `icl-lens audit --repair` and rerun the command that "
            "made it, or copy it again"
        )
    if metadata and metadata.get("schema") != kind:
        raise InputError(f"{path} is a {metadata.get('schema')} table; expected a {kind} table")
    if metadata and metadata.get("version") != version:
        raise InputError(
            f"{path} has version {metadata.get('version')} of the {kind} schema, but this version of icl-lens reads version "
            f"{version}; delete it with `icl-lens audit --repair`"
        )
    arrow = conform(path, arrow, schema)
    return arrow.to_pandas(), metadata


def conform(location: Path | str, table: pa.Table, schema: Schema) -> pa.Table:
    """Return the columns of a schema from a table, of its types.

    Args:
        location: Description of the table in error messages.
        table: The table. It may have other columns.
        schema: The schema.

    Raises:
        InputError: A column is missing, is of another type or has an empty cell, or the table has no rows.
    """
    kind = schema.kind
    missing = [name for name in schema.columns if name not in table.column_names]
    if missing:
        raise InputError(f"{location} is not a {kind} table: missing column {', '.join(missing)}")
    try:
        table = table.select(list(schema.columns)).cast(schema.arrow)
    except (pa.ArrowException, ValueError) as error:
        raise InputError(f"{location} is not a {kind} table: {str(error).splitlines()[0]}") from error
    if table.num_rows == 0:
        raise InputError(f"{location} has no rows; a {kind} table needs at least one")
    empty = _empty_columns(table)
    if empty:
        raise InputError(f"{location} has empty cells in column {', '.join(empty)}")
    return table


def read_metadata(path: Path | str) -> dict[str, Any]:
    """Return the metadata of a table without reading its rows. It is empty for a file that icl-lens did not write.

    Raises:
        InputError: The file is missing or corrupted.
    """
    try:
        packed = (pq.read_schema(path).metadata or {}).get(METADATA_KEY)
        metadata = json_text.loads(packed) if packed else {}
        if not isinstance(metadata, dict):
            raise ValueError("not a JSON object")
        return metadata
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError(
            unreadable(error, path) or f"{path} is missing or corrupted; delete it with `icl-lens audit --repair`"
        ) from error


def is_unchanged(path: Path | str) -> bool | None:
    """Return whether a table has the bytes that :func:`write` wrote; None if it has no digest."""
    stored = (pq.read_metadata(path).metadata or {}).get(DIGEST_KEY)
    return None if stored is None else stored == _digest(path, stored)[0]


def _digest(path: Path | str, stored: bytes) -> tuple[bytes, int]:
    """Compute the digest of a Parquet file.

    Args:
        path: The file.
        stored: The digest in its footer, or the placeholder.

    Returns:
        The hexadecimal SHA-256 of the file with the placeholder in place of the stored digest, and the position of the stored
        digest in the file.
    """
    # A Parquet file ends with its footer, the length of the footer in 4 bytes and 4 more bytes.
    end = os.path.getsize(path) - pq.read_metadata(path).serialized_size - 8
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        remaining = end
        while remaining > 0 and (block := file.read(min(remaining, 1 << 20))):
            digest.update(block)
            remaining -= len(block)
        footer = file.read()
    place = footer.rfind(stored)
    digest.update(footer[:place] + _PLACEHOLDER + footer[place + len(stored) :])
    return digest.hexdigest().encode(), end + place


def _empty_columns(table: pa.Table) -> list[str]:
    """Return the columns with an empty cell, or with an empty value inside a list."""
    found = []
    for name in table.column_names:
        values = table[name]
        while True:
            if values.null_count:
                found.append(name)
                break
            if not pa.types.is_list(values.type):
                break
            values = pc.list_flatten(values)
    return found
