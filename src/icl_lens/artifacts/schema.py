"""Schema of a kind of table: its columns, its keys, and its place in a results folder."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import pyarrow as pa

Stage = Literal["corpora", "prompts", "training", "studies", "synthetic"]

INTEGER, FLOAT, SINGLE, TEXT, FLAG = pa.int64(), pa.float64(), pa.float32(), pa.string(), pa.bool_()
INTEGERS, FLOATS, SINGLES, TEXTS = (pa.list_(kind) for kind in (INTEGER, FLOAT, SINGLE, TEXT))

SPAN = INTEGERS
"""A span of a text as a pair of character offsets, [start, end)."""
SPANS = pa.list_(SPAN)

Columns = dict[str, pa.DataType]

STUDY_COLUMNS: Columns = {"model": TEXT, "task": TEXT, "set": TEXT, "seed": INTEGER, "prompt_id": INTEGER}
"""The first columns of each study table; all are keys."""

QUERY, DEMONSTRATIONS = "query_index", "demonstrations"
UNIT_COLUMNS: Columns = {QUERY: INTEGER, DEMONSTRATIONS: INTEGER}
"""Columns of each study table after :data:`STUDY_COLUMNS`. They are not keys; confidence intervals depend on them.
``query_index`` is the row of the test text in its split. ``demonstrations`` numbers the demonstration sets of a seed."""


@dataclass(frozen=True)
class Schema:
    """The schema of one kind of table.

    Attributes:
        kind: Name of the kind. It is also the file name if a stage has several kinds.
        version: Version of the schema. It increases if the meaning of a column changes.
        columns: Name -> type, in the order of the file.
        keys: The columns that together identify a row.
        stage: The folder under ``results/`` that contains these tables.
        every_prompt: Whether the table has the same number of rows for each prompt that was run.
        sets: Names of the prompt sets of this kind, for a kind of prompt table other than the default.
    """

    kind: str
    version: int
    columns: Columns
    keys: tuple[str, ...]
    stage: Stage
    every_prompt: bool = False
    sets: tuple[str, ...] = ()
    arrow: pa.Schema = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.keys, tuple):
            raise ValueError(f"schema {self.kind}: keys must be a tuple of column names such as ('layer',), got {self.keys!r}")
        untyped = [name for name, kind in self.columns.items() if not isinstance(kind, pa.DataType)]
        if untyped:
            raise ValueError(
                f"schema {self.kind}: columns: invalid type {self.columns[untyped[0]]!r} of column {untyped[0]!r}; use a type "
                "of icl_lens.artifacts.schema, such as FLOAT"
            )
        unknown = [name for name in self.keys if name not in self.columns]
        if unknown:
            raise ValueError(f"schema {self.kind}: keys: unknown column {unknown[0]!r}")
        lists = [name for name in self.keys if pa.types.is_list(self.columns[name])]
        if lists:
            raise ValueError(f"schema {self.kind}: keys: column {lists[0]!r} contains lists; a key must be a single value")
        object.__setattr__(self, "arrow", pa.schema(list(self.columns.items())))


def study_schema(
    kind: str, columns: Columns, keys: tuple[str, ...] = (), version: int = 1, every_prompt: bool = False
) -> Schema:
    """Return the schema of a study table: :data:`STUDY_COLUMNS`, :data:`UNIT_COLUMNS`, and the columns of the study.

    Args:
        kind: Name of the study.
        columns: Columns of the study, name -> type.
        keys: Columns of the study that are also keys.
        version: See :class:`Schema`.
        every_prompt: See :class:`Schema`.
    """
    if not isinstance(keys, tuple):
        raise ValueError(f"schema {kind}: keys must be a tuple of column names such as ('layer',), got {keys!r}")
    return Schema(kind, version, {**STUDY_COLUMNS, **UNIT_COLUMNS, **columns}, (*STUDY_COLUMNS, *keys), "studies", every_prompt)
