"""Compute a study of a loaded model and of prompts in memory.

All studies that read prompts run through this module: for files by :mod:`icl_lens.studies.run`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from icl_lens.artifacts.schema import DEMONSTRATIONS, QUERY
from icl_lens.artifacts.shards import METADATA_KEY, ROW, Shard
from icl_lens.attention.opened import require_closed
from icl_lens.errors import InputError
from icl_lens.hub.checkpoints import checkpoint_hash
from icl_lens.models.edges import observe_windows
from icl_lens.models.language_model import LanguageModel
from icl_lens.models.observed import observe, repeated_queries
from icl_lens.models.options import RunOptions
from icl_lens.models.tokenizing import tokenize_table
from icl_lens.network import precision
from icl_lens.progress import progress
from icl_lens.prompts.positions import TokenizedPrompt
from icl_lens.section import Section
from icl_lens.studies import inputs, sharding, writing
from icl_lens.studies.study import Study


@dataclass(frozen=True)
class Computed:
    """Results of a study.

    Attributes:
        rows: Rows with the columns of the study's schema, in any order; for a shard, also the column
            :data:`icl_lens.artifacts.shards.ROW`.
        tensors: Name -> tensor, or None if the study has no tensors.
        prompts: Number of prompts that were studied.
        observed: What was observed of the prompts and the model, see :func:`icl_lens.models.observed.observe`.
        facts: Further facts that determine the rows, for the table's metadata.
    """

    rows: pd.DataFrame
    tensors: Mapping[str, np.ndarray] | None
    prompts: int
    observed: dict[str, Any]
    facts: dict[str, Any]


def compute(
    study: Study,
    model: LanguageModel,
    table: pd.DataFrame,
    settings: Section | None = None,
    further: Mapping[str, pd.DataFrame] | None = None,
    *,
    options: RunOptions | None = None,
    shard: Shard | None = None,
    **changes: Any,
) -> Computed:
    """Compute a study of a loaded model.

    Args:
        study: A study that reads prompts.
        model: The model.
        table: Prompts table.
        settings: The study's settings; its defaults if None.
        further: Further prompts tables that the study reads, by the names of their options.
        options: How to run the model and to write its prompts; the defaults if None.
        shard: The part of the table to compute, see :mod:`icl_lens.artifacts.shards`; by default the whole table.
        changes: Options by name that differ, for example ``bos=True``, see :class:`~icl_lens.models.options.RunOptions`.

    Raises:
        ValueError: The settings belong to another study (a bug in the caller).
        InputError: The prompts or the model cannot be used, the device does not support exact products, the study violates the
            contract or does not support the options about label words, it cannot be split into so many shards, or an
            intervention of the user is open on the model.
    """
    options = replace(options or RunOptions(), **changes)
    require_closed(model.network, study.name)
    if unsupported := study.unsupported_labels(options.labels):
        raise InputError(unsupported)
    resolved = writing.settings_of(study, settings)
    function = study.function("compute")
    prepare = study.function(study.inputs) if study.inputs else inputs.of_table

    def tokenize(rows: pd.DataFrame) -> list[TokenizedPrompt]:
        return tokenize_table(rows, model.tokenizer, options)

    given = inputs.Given(model, table, dict(further or {}), resolved, options.bos, options.as_chat, tokenize)
    with precision.products(options.matmul, model.device) as products:
        prepared = prepare(given)
        if not isinstance(prepared, inputs.Inputs):
            raise writing.broken(study, f"inputs: {study.inputs} returns {type(prepared).__name__}, not Inputs")
        observed = observe(model, prepared.prompts)
        observed["prompts"] = len(prepared.prompts)
        observed["left_out"] = prepared.left_out
        observed["repeated_queries"] = repeated_queries(prepared.prompts)
        observed |= observe_windows(model, prepared.prompts)
        further_checkpoints = _checkpoints(study, resolved)  # before the computation, to fail early on a wrong folder
        arguments: dict[str, Any] = {**prepared.more, **({} if resolved is None else {"settings": resolved})}
        arguments["prompts"] = prepared.prompts
        count = len(prepared.prompts)
        if shard and study.shards:
            needed = sharding.prompt_ids(model, prepared.prompts, shard, study.shards, study.name)
            arguments, count = sharding.mark(arguments, needed), len(needed)
        with progress(count, f"{study.name} of {model.name}") as advance:
            arguments |= {
                "batch_tokens": options.batch_tokens,
                "progress": sharding.at_most(count, advance) if shard else advance,
            }
            writing.require_takes(study, function, model, **arguments)
            result = function(model, **arguments)
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
    rows["model"] = model.name
    if shard:
        rows = rows.assign(**{ROW: range(len(rows))})[rows["prompt_id"].isin(needed)]
    facts = {
        "products": products,
        **further_checkpoints,
        **prepared.facts,
        **({METADATA_KEY: {"number": shard.number, "of": shard.of, "prompts": count}} if shard else {}),
    }
    return Computed(rows, tensors, count, observed, facts)


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
