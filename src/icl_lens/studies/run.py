"""Run a study of a model and of prompts in files: read them, compute, and write the artifact."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import torch

from icl_lens.artifacts import parquet
from icl_lens.artifacts.shards import Shard
from icl_lens.errors import InputError
from icl_lens.models import loading
from icl_lens.prompts.positions import Bos
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
    name: str | None = None,
    device: str = "auto",
    dtype: str = "float32",
    matmul: str = "exact",
    batch_tokens: int = 4096,
    bos: Bos = "auto",
    as_chat: bool = False,
    settings: Section | None = None,
    further: Mapping[str, Path | str] | None = None,
    untrained: int | None = None,
    shard: Shard | None = None,
    adapter: Path | str | None = None,
    placement: str = "device",
    max_memory: Mapping[str, str] | None = None,
) -> None:
    """Run one study of one model on one prompts file, and write its artifact.

    Args:
        study: A study that reads prompts.
        model: Checkpoint folder.
        prompts: Prompts table.
        out: Artifact to write.
        name: Name of the model in the artifact; the name of the folder by default.
        device: auto, cpu, cuda or mps.
        dtype: float32, float16 or bfloat16.
        matmul: How to compute products of float32 matrices, exact or fast, see :func:`icl_lens.network.precision.products`.
        batch_tokens: Number of tokens per batch, including padding.
        bos: Whether to prepend the BOS token to each prompt, see :func:`icl_lens.prompts.positions.tokenize`.
        as_chat: Whether to convert each prompt to a chat first, see :func:`icl_lens.prompts.chat.wrap`.
        settings: The study's settings; its defaults if None.
        further: Further prompts tables that the study reads, by the names of their options.
        untrained: Seed of random weights that replace those of the checkpoint, see :func:`icl_lens.models.loading.load`.
        shard: The part of the table to compute, see :mod:`icl_lens.artifacts.shards`; by default the whole table.
        adapter: Folder of a LoRA adapter, see :func:`icl_lens.models.loading.load`.
        placement: device or auto, see :func:`icl_lens.models.loading.load`. It changes results only by rounding, so it is not
            in the metadata.
        max_memory: See :func:`icl_lens.models.loading.load`.

    Raises:
        ValueError: The settings belong to another study (a bug in the caller).
        InputError: The prompts or the model cannot be used, the device does not support exact products, the study violates the
            contract, or it cannot be split into so many shards.
    """
    if shard and study.shards is None:
        raise InputError(f"--shard {shard}: {study.name} cannot be split into shards; run it without --shard")
    resolved = writing.settings_of(study, settings)
    table, origin = parquet.read(prompts, study.reads)
    loaded = loading.load(
        model,
        name=name,
        device=device,
        dtype=dtype,
        untrained_seed=untrained,
        adapter=adapter,
        placement=placement,
        max_memory=max_memory,
    )
    further = dict(further or {})
    computed = computing.compute(
        study,
        loaded,
        table,
        resolved,
        {key: parquet.read(path, PROMPTS)[0] for key, path in further.items()},
        matmul=matmul,
        batch_tokens=batch_tokens,
        bos=bos,
        as_chat=as_chat,
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
            "batch_tokens": batch_tokens,
            "bos": bos,
            "chat": as_chat,
            **({} if resolved is None else resolved.model_dump(mode="json")),
        },
        seeds=sorted(int(seed) for seed in table["seed"].unique()),
        observed=computed.observed,
        model=loaded.facts,
        device=loaded.device.type,
        threads=torch.get_num_threads() if loaded.device.type == "cpu" else None,  # it affects the last bits of a sum
        dtype=dtype,
        matmul=matmul,
        corpus=origin.get("corpus", {"source": "elsewhere"}),
        task=origin.get("task"),
        **computed.facts,
    )
    logger.info("wrote %s: %d rows for %d prompts", out, len(computed.rows), computed.prompts)
