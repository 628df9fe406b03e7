"""Run a study that reads no prompts and runs no model: compute, and write the artifact."""

from __future__ import annotations

import logging
from pathlib import Path

import pandas as pd

from icl_lens.progress import progress
from icl_lens.section import Section
from icl_lens.studies import writing
from icl_lens.studies.study import Study

logger = logging.getLogger(__name__)


def run_synthetic(study: Study, out: Path | str, settings: Section | None = None) -> None:
    """Run one study that reads no input files, and write its artifact.

    Args:
        study: A study with ``reads`` set to None.
        out: Artifact to write.
        settings: The study's settings; its defaults if None. Their key ``seeds``, if present, determines the content.

    Raises:
        ValueError: The settings belong to another study, or the study reads prompts (a bug in the caller).
        InputError: The settings cannot be used, or the study violates the contract.
    """
    if study.reads is not None:
        raise ValueError(f"study {study.name} reads prompts; use icl_lens.studies.run")
    resolved = writing.settings_of(study, settings)
    rows, seeds = compute(study, resolved)
    writing.write(
        out,
        study,
        rows,
        None,
        modules=(study.module, __name__),
        files=(),
        settings={} if resolved is None else resolved.model_dump(mode="json"),
        seeds=seeds,
    )
    logger.info("wrote %s: %d rows", out, len(rows))


def compute(study: Study, settings: Section | None = None) -> tuple[pd.DataFrame, list[int]]:
    """Compute a study that reads no input files.

    Args:
        study: See :func:`run_synthetic`.
        settings: See :func:`run_synthetic`.

    Raises:
        ValueError: See :func:`run_synthetic`.
        InputError: See :func:`run_synthetic`.

    Returns:
        The rows, and the seeds that determine them.
    """
    resolved = writing.settings_of(study, settings)
    seeds = list(getattr(resolved, "seeds", []))
    with progress(max(1, len(seeds)), study.name, "seed") as advance:
        result = study.function("compute")(resolved, advance)
    rows, _ = writing.rows_and_tensors(study, result)
    return rows, seeds
