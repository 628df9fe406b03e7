"""Writing of the paired prompts of one task as an artifact, for the command ``icl-lens representation-prompts``."""

from __future__ import annotations

from pathlib import Path

from icl_lens.artifacts import parquet, provenance
from icl_lens.studies.representation_change import lines, reading
from icl_lens.studies.representation_change.schema import PAIRED_PROMPTS
from icl_lens.studies.representation_change.settings import SET, Settings

TASKS = {lines.TASK: lines, reading.TASK: reading}


def write(task: str, settings: Settings, out: Path) -> None:
    """Build the prompts of one task in each condition and write them.

    Args:
        task: ``lines`` or ``reading``.
        settings: Settings of the study. Its settings of the task and its seed determine the prompts.
        out: Path of the artifact.
    """
    task_settings = getattr(settings, task)
    table = TASKS[task].build(task_settings, settings.seed)
    metadata = provenance.describe(
        PAIRED_PROMPTS,
        [__name__],
        inputs={},
        settings={"set": SET, **task_settings.model_dump(mode="json")},
        seeds=[settings.seed],
        task={"name": task, "title": TASKS[task].TITLE},
        corpus={"source": "generated"},
    )
    parquet.write(out, table, PAIRED_PROMPTS, metadata)
