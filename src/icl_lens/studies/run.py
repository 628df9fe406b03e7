"""Run a study of a model and of prompts in files: read them, compute, and write the artifact."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from icl_lens.artifacts import parquet
from icl_lens.artifacts.shards import Shard
from icl_lens.errors import InputError
from icl_lens.models import loading
from icl_lens.models.options import LoadOptions, RunOptions, merge
from icl_lens.prompts.schema import PROMPTS
from icl_lens.section import Section
from icl_lens.studies import computing, writing
from icl_lens.studies.study import Study

logger = logging.getLogger(__name__)


def run(
    study: Study,
    model: Path | str,
    prompts: Path | str,
    out: Path | str,
    settings: Section | None = None,
    further: Mapping[str, Path | str] | None = None,
    shard: Shard | None = None,
    load: LoadOptions | None = None,
    options: RunOptions | None = None,
    **changes: Any,
) -> None:
    """Run one study of one model on one prompts file, and write its artifact.

    Args:
        study: A study that reads prompts.
        model: Checkpoint folder.
        prompts: Prompts table.
        out: Artifact to write.
        settings: The study's settings; its defaults if None.
        further: Further prompts tables that the study reads, by the names of their options.
        shard: The part of the table to compute, see :mod:`icl_lens.artifacts.shards`; by default the whole table.
        load: How to load the model; the defaults if None.
        options: How to run the model and to write its prompts; the defaults if None.
        changes: Options of either kind by name that differ, for example ``device="cpu"``.

    Raises:
        ValueError: The settings belong to another study (a bug in the caller).
        InputError: The prompts or the model cannot be used, the device does not support exact products, the study violates the
            contract, or it cannot be split into so many shards.
    """
    if shard and study.shards is None:
        raise InputError(f"--shard {shard}: {study.name} cannot be split into shards; run it without --shard")
    resolved = writing.settings_of(study, settings)
    table, origin = parquet.read(prompts, study.reads)
    load, options = merge(load, options, **changes)
    loaded = loading.load(model, load)
    further = dict(further or {})
    computed = computing.compute(
        study,
        loaded,
        table,
        resolved,
        {key: parquet.read(path, PROMPTS)[0] for key, path in further.items()},
        options=options,
        shard=shard,
    )
    writing.write(
        out,
        study,
        computed.rows,
        computed.tensors,
        modules=(study.module, __name__),
        files=(prompts, *further.values()),
        settings={
            "batch_tokens": options.batch_tokens,
            "bos": options.bos,
            "chat": options.as_chat,
            **({"labels": options.labels} if options.labels and study.reads is PROMPTS else {}),
            **({} if resolved is None else resolved.model_dump(mode="json")),
        },
        seeds=sorted(int(seed) for seed in table["seed"].unique()),
        observed=computed.observed,
        model=loaded.facts,
        device=loaded.device.type,
        threads=torch.get_num_threads() if loaded.device.type == "cpu" else None,  # it affects the last bits of a sum
        dtype=load.dtype,
        matmul=options.matmul,
        corpus=origin.get("corpus", {"source": "elsewhere"}),
        task=origin.get("task"),
        **computed.facts,
    )
    logger.info("wrote %s: %d rows for %d prompts", out, len(computed.rows), computed.prompts)
