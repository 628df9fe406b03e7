"""Whether the rows of a table keep the promises of its schema: none twice, none missing."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from icl_lens.artifacts.schema import Schema


def faults(schema: Schema, table: pd.DataFrame, prompts: int | None) -> Iterator[str]:
    """What is wrong with the number of a table's rows, a sentence each.

    Args:
        schema: The table's.
        table: Its rows.
        prompts: How many prompts were run, None where that is not known.
    """
    twice = int(table.duplicated(list(schema.keys)).sum())
    if twice:
        yield f"{twice} rows stand twice (same {', '.join(schema.keys)})"
    if schema.every_prompt:
        counts = table.groupby("prompt_id").size()
        if counts.nunique() > 1:
            short = counts[counts < counts.max()]
            yield f"{len(short)} prompts have fewer rows than the others, {short.index[0]} among them"
        if prompts is not None and len(counts) != prompts:
            yield f"{len(counts)} prompts have rows, {prompts} were run"
