"""Writes the paired prompts of one task as an artifact: what ``icl-lens representation-prompts`` does."""

from __future__ import annotations

from pathlib import Path

from icl_lens import artifacts, lines, reading
from icl_lens.representation_plan import SET, Settings

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
    metadata = artifacts.describe(
        artifacts.PROMPT_SETS[SET],
        __name__,
        inputs={},
        settings={"set": SET, **own.model_dump(mode="json")},
        seeds=[settings.seed],
        task={"name": task, "title": TASKS[task].TITLE},
        corpus={"source": "generated"},
    )
    artifacts.write(out, table, metadata)
