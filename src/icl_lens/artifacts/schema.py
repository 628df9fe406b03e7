"""What a kind of table must look like: its columns, its keys, and where in a results folder it lies."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import pyarrow as pa

Stage = Literal["corpora", "prompts", "training", "studies", "synthetic"]

INTEGER, FLOAT, SINGLE, TEXT, FLAG = pa.int64(), pa.float64(), pa.float32(), pa.string(), pa.bool_()
INTEGERS, FLOATS, SINGLES, TEXTS = (pa.list_(kind) for kind in (INTEGER, FLOAT, SINGLE, TEXT))

SPAN = INTEGERS
"""A pair of places in a text, [start, end), in characters."""
SPANS = pa.list_(SPAN)

Columns = dict[str, pa.DataType]

STUDY_COLUMNS: Columns = {"model": TEXT, "task": TEXT, "set": TEXT, "seed": INTEGER, "prompt_id": INTEGER}
"""The columns that every table of a study begins with."""


@dataclass(frozen=True)
class Schema:
    """The contract of one kind of table.

    Attributes:
        kind: Its name, which is also the file's where a stage has several kinds.
        version: It rises when a column changes its meaning.
        columns: Name -> type, in the order of the file.
        keys: The columns that together tell a row from every other.
        stage: The folder under ``results/`` in which such tables lie.
        every_prompt: Whether it has the same number of rows for each prompt that was run.
        sets: The names of the prompt sets that are of this kind, for a kind of prompts that stands beside the usual one.
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
            raise ValueError(f"schema {self.kind}: keys: {self.keys!r} is not a tuple of names of columns, such as ('layer',)")
        untyped = [name for name, kind in self.columns.items() if not isinstance(kind, pa.DataType)]
        if untyped:
            raise ValueError(
                f"schema {self.kind}: columns: {untyped[0]!r} has {self.columns[untyped[0]]!r} for its type; take one of "
                "icl_lens.artifacts.schema, such as FLOAT"
            )
        strangers = [name for name in self.keys if name not in self.columns]
        if strangers:
            raise ValueError(f"schema {self.kind}: keys: {strangers[0]!r} is not one of its columns")
        lists = [name for name in self.keys if pa.types.is_list(self.columns[name])]
        if lists:
            raise ValueError(f"schema {self.kind}: keys: column {lists[0]!r} holds lists, which cannot tell rows apart")
        object.__setattr__(self, "arrow", pa.schema(list(self.columns.items())))


def study_schema(
    kind: str, columns: Columns, keys: tuple[str, ...] = (), version: int = 1, every_prompt: bool = False
) -> Schema:
    """The schema of a study's table: :data:`STUDY_COLUMNS` and the study's own, the first five of which are keys.

    Args:
        kind: The study's name.
        columns: Its own columns, name -> type.
        keys: Those of its own columns that are keys.
        version: See :class:`Schema`.
        every_prompt: See :class:`Schema`.
    """
    if not isinstance(keys, tuple):
        raise ValueError(f"schema {kind}: keys: {keys!r} is not a tuple of names of columns, such as ('layer',)")
    return Schema(kind, version, {**STUDY_COLUMNS, **columns}, (*STUDY_COLUMNS, *keys), "studies", every_prompt)
