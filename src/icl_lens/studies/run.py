"""Run a study: read its prompts, load the model, compute, and write the artifact.

All studies that read prompts run through this module.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from icl_lens.artifacts import parquet
from icl_lens.artifacts.schema import DEMONSTRATIONS, QUERY
from icl_lens.artifacts.shards import METADATA_KEY, ROW, Shard
from icl_lens.errors import InputError
from icl_lens.hub.checkpoints import checkpoint_hash
from icl_lens.models import loading
from icl_lens.models.edges import observe_windows
from icl_lens.models.observed import observe, repeated_queries
from icl_lens.network import precision
from icl_lens.progress import progress
from icl_lens.prompts import chat
from icl_lens.prompts.positions import Bos, TokenizedPrompt, tokenize
from icl_lens.prompts.schema import PROMPTS
from icl_lens.section import Section
from icl_lens.studies import inputs, sharding, writing
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
    compute = study.function("compute")
    prepare = study.function(study.inputs) if study.inputs else inputs.of_table
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

    def tokenize_table(rows: pd.DataFrame) -> list[TokenizedPrompt]:
        return tokenize(chat.wrap(rows, loaded.tokenizer) if as_chat else rows, loaded.tokenizer, bos)

    with precision.products(matmul, loaded.device) as products:
        given = inputs.Given(
            loaded,
            table,
            {key: parquet.read(path, PROMPTS)[0] for key, path in further.items()},
            resolved,
            bos,
            as_chat,
            tokenize_table,
        )
        prepared = prepare(given)
        if not isinstance(prepared, inputs.Inputs):
            raise writing.broken(study, f"inputs: {study.inputs} returns {type(prepared).__name__}, not Inputs")
        observed = observe(loaded, prepared.prompts)
        observed["prompts"] = len(prepared.prompts)
        observed["left_out"] = prepared.left_out
        observed["repeated_queries"] = repeated_queries(prepared.prompts)
        observed |= observe_windows(loaded, prepared.prompts)
        further_checkpoints = _checkpoints(study, resolved)  # before the computation, to fail early on a wrong folder
        arguments: dict[str, Any] = {**prepared.more, **({} if resolved is None else {"settings": resolved})}
        arguments["prompts"] = prepared.prompts
        count = len(prepared.prompts)
        if shard and study.shards:
            needed = sharding.prompt_ids(loaded, prepared.prompts, shard, study.shards, study.name)
            arguments, count = sharding.mark(arguments, needed), len(needed)
        with progress(count, f"{study.name} of {loaded.name}") as advance:
            arguments |= {"batch_tokens": batch_tokens, "progress": sharding.at_most(count, advance) if shard else advance}
            writing.require_takes(study, compute, loaded, **arguments)
            result = compute(loaded, **arguments)
    rows, tensors = writing.rows_and_tensors(study, result)
    if "prompt_id" not in rows:
        raise writing.broken(study, "compute() returns rows without prompt_id")
    unexpected = set(rows["prompt_id"]) - set(table["prompt_id"])
    if unexpected:
        raise writing.broken(study, f"compute() returns rows of a prompt_id that the prompts lack: {min(unexpected)}")
    missing = {p.prompt_id for p in prepared.prompts} - set(rows["prompt_id"]) if shard else ()
    if missing:
        raise writing.broken(
            study, f"shards: compute() returns no rows of prompt {min(missing)}, but it must return the rows of all prompts"
        )
    rows = rows.merge(_units(table), on="prompt_id", how="left", validate="many_to_one")
    rows["model"] = loaded.name
    if shard:
        rows = rows.assign(**{ROW: range(len(rows))})[rows["prompt_id"].isin(needed)]
    writing.write(
        out,
        study,
        rows,
        tensors,
        modules=(study.module, __name__),
        files=(prompts, *further.values()),
        settings={
            "batch_tokens": batch_tokens,
            "bos": bos,
            "chat": as_chat,
            **({} if resolved is None else resolved.model_dump(mode="json")),
        },
        seeds=sorted(int(seed) for seed in table["seed"].unique()),
        observed=observed,
        model=loaded.facts,
        device=loaded.device.type,
        threads=torch.get_num_threads() if loaded.device.type == "cpu" else None,  # it affects the last bits of a sum
        dtype=dtype,
        matmul=matmul,
        products=products,
        corpus=origin.get("corpus", {"source": "elsewhere"}),
        task=origin.get("task"),
        **further_checkpoints,
        **prepared.facts,
        **({METADATA_KEY: {"number": shard.number, "of": shard.of, "prompts": count}} if shard else {}),
    )
    logger.info("wrote %s: %d rows for %d prompts", out, len(rows), count)


def _units(table: pd.DataFrame) -> pd.DataFrame:
    """Return the first columns of a study table for each prompt: its keys, its test text and its demonstration set.

    In a prompts table of another schema than the default, ``query_id`` or else the prompt names the text, and each text has its
    own demonstrations.
    """
    units = table[["prompt_id", "task", "set", "seed"]].copy()
    units[QUERY] = next(table[name] for name in (QUERY, "query_id", "prompt_id") if name in table)
    if "demo_indices" in table:
        sets = table["demo_indices"].map(tuple)
        units[DEMONSTRATIONS] = sets.groupby(table["seed"]).transform(lambda of_seed: pd.factorize(of_seed)[0]).astype("int64")
    else:
        units[DEMONSTRATIONS] = units[QUERY]
    return units


def _checkpoints(study: Study, settings: Section | None) -> dict[str, Any]:
    """Return the metadata of the further checkpoints that settings do not contain: the hashes of their files."""
    if study.checkpoints is None:
        return {}
    folders = study.checkpoints(settings)
    return {"encoders": {name: checkpoint_hash(folder) for name, folder in folders.items()}}
