"""Writes the paired prompts of one task as an artifact: what ``icl-lens representation-prompts`` does."""

from __future__ import annotations

from pathlib import Path

from icl_lens.artifacts import parquet, provenance
from icl_lens.studies.representation_change import lines, reading
from icl_lens.studies.representation_change.schema import PAIRED_PROMPTS
from icl_lens.studies.representation_change.settings import SET, Settings

TASKS = {lines.TASK: lines, reading.TASK: reading}


def write(task: str, settings: Settings, out: Path) -> None:
    """Build one task's prompts in every condition and write them.

    Args:
        task: lines or reading.
        settings: Of the study; those of the task and the seed decide the prompts.
        out: The artifact.
    """
    own = getattr(settings, task)
    table = TASKS[task].build(own, settings.seed)
    metadata = provenance.describe(
        PAIRED_PROMPTS,
        [__name__],
        inputs={},
        settings={"set": SET, **own.model_dump(mode="json")},
        seeds=[settings.seed],
        task={"name": task, "title": TASKS[task].TITLE},
        corpus={"source": "generated"},
    )
    parquet.write(out, table, PAIRED_PROMPTS, metadata)
