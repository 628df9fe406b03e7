"""Shards: parts of a study's table, computed by separate jobs, each from a part of the prompts.

A shard is a table with the rows of its prompts and their places in the table of the study (:data:`ROW`). Its metadata is that
of this table, with the number of the shard. :mod:`icl_lens.results.shards` merges shards.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import NamedTuple

from icl_lens.artifacts.schema import INTEGER, Schema
from icl_lens.errors import InputError

ROW = "row"
"""Column of a shard with the place of each row in the table of the study, from 0."""

FOLDER = "shards"
"""Name of the folder of the shards, in the folder of the tables."""

METADATA_KEY = "shard"
"""Key in the metadata of a shard: its ``number``, ``of`` how many, and its number of ``prompts``."""


class Shard(NamedTuple):
    """One of the shards of a table.

    Attributes:
        number: Number of the shard, from 1.
        of: Number of shards.
    """

    number: int
    of: int

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"


def parse(text: str) -> Shard:
    """Return the shard that a command-line option such as ``2/8`` names.

    Raises:
        InputError: The option is invalid.
    """
    match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
    if match and 1 <= int(match[1]) <= int(match[2]):
        return Shard(int(match[1]), int(match[2]))
    raise InputError(f"--shard must be I/N with I from 1 to N, for example 2/8, got {text!r}")


def schema_of(schema: Schema) -> Schema:
    """Return the schema of the shards of a study's table."""
    return replace(schema, columns={**schema.columns, ROW: INTEGER})
