"""One module per study; each opens with the equations it implements and their source.

A study module has ``compute(model, prompts, batch_tokens, progress)``, which returns its rows with their prompt_id. One with
choices of its own declares them as ``Settings``, a config section whose defaults are the study's, and takes ``settings`` too.
One that runs other prompts than the table's has ``prepare(table, settings)``, which returns the tables it does run, by the name
of the argument of ``compute`` that takes them; one that has more to say of itself, ``facts(model, settings)`` for the metadata.
One that reads prompts of another kind names it ``READS`` and has ``read_prompts(table, tokenizer, bos, as_chat)`` and
``keep(model, table, prompts, as_chat)``, which returns what ``compute`` takes of those that fit.
One that reads further prompts tables, or writes its own table's prompts anew, has ``gather(model, table, others, tokenized,
settings)``, which returns what ``compute`` takes of them by name (and ``left_out``, how many it leaves out as too long); and
``compute`` may return tensors beside its rows, which go into a file beside the table.
What all studies share (reading prompts, loading the model, keys, provenance) is :func:`run`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from icl_lens import artifacts, chat, models, precision, provenance
from icl_lens.positions import Bos, TokenizedPrompt, tokenize
from icl_lens.progress import progress
from icl_lens.section import Section

logger = logging.getLogger(__name__)


def run(
    study: str,
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
    others: Mapping[str, Path | str] | None = None,
) -> None:
    """Run one study of one model on one prompts file, and write its artifact.

    Args:
        study: The name of a module here, and of its artifact's kind.
        model: A checkpoint's folder.
        prompts: A prompts table.
        out: The artifact to write.
        name: The model's name in the artifact; the folder's own by default.
        device: auto, cpu, cuda or mps.
        dtype: float32, float16 or bfloat16.
        matmul: How products of float32 matrices are computed, exact or fast, see :func:`icl_lens.precision.products`.
        batch_tokens: Tokens per batch, padding included.
        bos: Whether a beginning-of-sequence token is put before each prompt, see :func:`icl_lens.positions.tokenize`.
        as_chat: Whether each prompt is written as a chat first, see :func:`icl_lens.chat.wrap`.
        settings: The study's own, an instance of its module's ``Settings``; its defaults where none is given.
        others: Further prompts tables, by what they are to the study.

    Raises:
        ValueError: The settings are another study's (a defect of the caller).
        InputError: The prompts or the model cannot be used, or the device cannot multiply exactly.
    """
    module = f"{__name__}.{study}"
    code = import_module(module)
    kind = getattr(code, "Settings", type(None))
    own = kind() if settings is None else settings
    if not isinstance(own, kind):
        raise ValueError(f"{type(own).__name__} are no settings of the study {study}")
    table, origin = artifacts.read(prompts, getattr(code, "READS", "prompts"))
    loaded = models.load(model, name=name, device=device, dtype=dtype)
    tables = code.prepare(table, own) if hasattr(code, "prepare") else {"prompts": table}

    def as_read(rows: pd.DataFrame) -> list[TokenizedPrompt]:
        if hasattr(code, "read_prompts"):
            return code.read_prompts(rows, loaded.tokenizer, bos, as_chat)
        return tokenize(chat.wrap(rows, loaded.tokenizer) if as_chat else rows, loaded.tokenizer, bos)

    tokenized = {key: as_read(each) for key, each in tables.items()}
    with precision.products(matmul, loaded.device) as products:
        fitting: dict[str, Any] = _fitting(loaded, tokenized)
        if hasattr(code, "keep"):
            fitting = code.keep(loaded, table, fitting["prompts"], as_chat)
        count = len(fitting["prompts"])
        observed = models.observe(loaded, fitting["prompts"])
        observed["prompts"] = count
        observed["left_out"] = len(tokenized["prompts"]) - count
        others = dict(others or {})
        given: dict[str, Any] = {**fitting, **({} if own is None else {"settings": own})}
        if hasattr(code, "gather"):
            fit = table[table["prompt_id"].isin([p.prompt_id for p in fitting["prompts"]])]
            given |= code.gather(
                loaded, fit, {key: artifacts.read(path, "prompts")[0] for key, path in others.items()}, as_read, own
            )
            observed["left_out"] += given.pop("left_out", 0)
        own_facts = code.facts(loaded, own) if hasattr(code, "facts") else {}
        with progress(count, f"{study} of {loaded.name}") as advance:
            found = code.compute(loaded, batch_tokens=batch_tokens, progress=advance, **given)
    rows, tensors = found if isinstance(found, tuple) else (found, None)
    rows = rows.merge(table[["prompt_id", "task", "set", "seed"]], on="prompt_id", how="left", validate="many_to_one")
    rows["model"] = loaded.name
    metadata = artifacts.describe(
        study,
        module,
        inputs={provenance.artifact_name(path, out): provenance.file_hash(path) for path in (prompts, *others.values())},
        settings={
            "batch_tokens": batch_tokens,
            "bos": bos,
            "chat": as_chat,
            **({} if own is None else own.model_dump(mode="json")),
        },
        seeds=sorted(int(seed) for seed in table["seed"].unique()),
        observed=observed,
        model=loaded.facts,
        device=loaded.device.type,
        threads=torch.get_num_threads() if loaded.device.type == "cpu" else None,  # it decides the last bits of a sum
        dtype=dtype,
        matmul=matmul,
        products=products,
        corpus=origin.get("corpus", {"source": "elsewhere"}),
        task=origin.get("task"),
        **own_facts,
    )
    if tensors is not None:
        beside = Path(out).with_suffix(".safetensors")
        artifacts.write_tensors(beside, tensors, metadata)
        metadata["beside"] = {provenance.artifact_name(beside, out): provenance.file_hash(beside)}
    artifacts.write(out, rows, metadata)
    logger.info("wrote %s: %d rows of %d prompts", out, len(rows), count)


def _fitting(model: models.LanguageModel, tokenized: dict[str, list[TokenizedPrompt]]) -> dict[str, list[TokenizedPrompt]]:
    """Of each table, the prompts that fit the model's context in all of them, so that all are about the same prompts.

    Raises:
        InputError: None fits.
    """
    fitting = {key: models.fitting(model, prompts) for key, prompts in tokenized.items()}
    everywhere = set.intersection(*({p.prompt_id for p in prompts} for prompts in fitting.values()))
    return {key: [p for p in prompts if p.prompt_id in everywhere] for key, prompts in fitting.items()}
