"""Check of the rows of a table against its schema: no duplicate rows and no missing rows."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from icl_lens.artifacts.schema import Schema


def faults(schema: Schema, table: pd.DataFrame, prompts: int | None) -> Iterator[str]:
    """Yield a message for each problem with the number of rows of a table.

    Args:
        schema: Schema of the table.
        table: Rows of the table.
        prompts: Number of prompts that were run, or None if it is not known.
    """
    duplicates = int(table.duplicated(list(schema.keys)).sum())
    if duplicates:
        yield f"duplicate rows: {duplicates} (same {', '.join(schema.keys)})"
    if schema.every_prompt:
        counts = table.groupby("prompt_id").size()
        if counts.nunique() > 1:
            incomplete = counts[counts < counts.max()]
            yield f"{len(incomplete)} prompts have fewer rows than the others, {incomplete.index[0]} among them"
        if prompts is not None and len(counts) != prompts:
            yield f"{len(counts)} prompts have rows, but {prompts} prompts were run"
