"""The smallest run of each study that reads prompts, for tests that run all studies on the same model in different ways."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from icl_lens.artifacts import tensors
from icl_lens.config.parse import parse_settings
from icl_lens.prompts.protocol import build
from icl_lens.studies import registry
from icl_lens.studies.representation_change import paired_prompts
from icl_lens.studies.run import run
from icl_lens.tasks.task import TASKS, Task

from . import artifacts
from .conftest import TEXTS
from .families import tiny

# Tolerance relative to the largest value, in float32. Some kernels differ.
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Case:
    """The smallest run of a study that covers all of its code."""

    prompts: str = "fresh-1shot"
    settings: dict = field(default_factory=dict)
    further: tuple[str, ...] = ()
    varies: tuple[str, ...] = ()


SHARED = "shared-1shot"
PAIRED = "paired"
LINES = {"slopes": [5.0, 10.0], "intercepts": [0.0, 5.0], "queries_per_line": 1, "examples": [0, 1]}
CASES = {
    "icl": Case(SHARED),
    "saliency": Case(),
    "isolation": Case(SHARED, {"layers": [1], "draws": 1}),
    "compression": Case(SHARED, {"draws": 1, "positions": ["continued", "restarted"]}),
    "latency": Case(SHARED, {"prompts": 2, "repeats": 1}, varies=("seconds",)),
    "deep_attention": Case(SHARED),
    "flow": Case(),
    "tokens": Case(),
    "diagnosis": Case("ordered-1shot", further=("pooled-1shot",)),
    "isolated_words": Case(),
    "isolation_controls": Case(settings={"queries": 1, "targets": ["label"], "blocking": "after_softmax"}),
    "attention_controls": Case(settings={"queries": 2}),
    "reweighting": Case(SHARED, {"epochs": 1, "shots": 2}, ("shared-1shot-auxiliary", "shared-2shot")),
    "kernel_regression": Case("fresh-2shot", {"encoders": {"mine": "encoder"}}),
    "kernel_regression_controls": Case("fresh-2shot", {"control_queries": 1, "orders": 1}),
    "rewritten": Case(settings={"queries": 2}),
    "label_probes": Case("fresh-2shot", {"folds": 2, "offsets": [0], "tokens": 50}),
    "prediction_similarity": Case(),
    "components": Case("labelled-4", {"budgets": [4], "sweep": [], "epochs": 5, "calibration_epochs": 5, "queries": 1}),
    "ch_edge_cuts": Case(SHARED, {"draws": 1, "queries": 2}),
    "ch_saliency": Case(settings={"queries": 1, "steps": 2}),
    "ch_labels": Case(SHARED, {"queries": 2, "flow_queries": 1, "draws": 1, "conditions": ["inverted", "random", "words"]}),
    "ch_demonstrations": Case(SHARED, {"queries": 2}),
    "representation_change": Case(PAIRED, {"lines": LINES, "permutations": 19, "folds": 2, "new_tokens": 2}),
}


def write_models(folder: Path, tokenizer: PreTrainedTokenizerFast, family: str = "llama") -> None:
    """Write a model and an encoder to a folder, the working directory of a run.

    The default model rotates its keys (rotary embeddings) and shares them among heads (grouped-query attention).
    """
    tiny(family, len(tokenizer), layers=2, context=2048).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    BertModel(BertConfig(vocab_size=len(tokenizer), **shape)).save_pretrained(folder / "encoder")
    type(tokenizer)(tokenizer_object=tokenizer._tokenizer, pad_token="!").save_pretrained(folder / "encoder")


def prompts_writer(folder: Path, task: Task = TASKS["sst2"]) -> Callable[..., Path]:
    """Return a function that maps the name of a prompt set to its file."""
    rows = [
        {"split": split, "index": n, "text": f"{TEXTS[n % len(TEXTS)]} {n}", "label": n % 2}
        for split, size in (("train", 24), ("test", 3))
        for n in range(size)
    ]

    def write(name: str, settings) -> Path:
        path = folder / f"{name}.parquet"
        if not path.exists():
            if name == PAIRED:
                paired_prompts.write("lines", settings, path)
            else:
                table = build(task, pd.DataFrame(rows), name, [42], 3, auxiliary=1)
                artifacts.write(path, table, artifacts.describe("prompts", "icl_lens.prompts.protocol", {}, {}, [42]))
        return path

    return write


def run_case(
    study: str, write: Callable[..., Path], out: Path, model: str = "model", batch_tokens: int = 400, **options: object
) -> None:
    """Run a study's case on a model in the working directory, and write its table to ``out``."""
    case = CASES[study]
    settings = parse_settings(study, json.dumps(case.settings)) if case.settings else None
    names = [further.option for further in registry.study(study).further]
    further = {option: write(name, None) for option, name in zip(names, case.further, strict=True)}
    prompts = write(case.prompts, settings)
    given = {"settings": settings, "further": further, "batch_tokens": batch_tokens}
    run(registry.study(study), model, prompts, out, **given, **options)


def require_same_tables(study: str, found: Path, expected: Path) -> dict:
    """Check that two tables of a study, and the tensors beside them, agree, and return the metadata of the first."""
    (rows, about), (others, _) = (artifacts.read(path, study) for path in (found, expected))
    assert len(rows) == len(others)
    assert [name for name in others if name not in CASES[study].varies and not same(flat(rows[name]), flat(others[name]))] == []
    if "beside" in about:
        values, other_values = (tensors.read(path.with_suffix(".safetensors"))[0] for path in (found, expected))
        assert [name for name in other_values if not same(values[name], other_values[name])] == []
    return about


def same(found, expected) -> bool:
    found, expected = np.asarray(found), np.asarray(expected)
    if expected.dtype.kind == "f" and found.shape == expected.shape:
        known = np.isfinite(expected)
        largest = np.abs(expected[known]).max(initial=0)
        return bool(
            (np.isfinite(found) == known).all() and np.abs(found - expected)[known].max(initial=0) <= TOLERANCE * largest
        )
    return bool((found == expected).all())


def flat(column: pd.Series) -> np.ndarray:
    """Return the values of a column, with arrays concatenated."""
    return np.concatenate(column.to_numpy()) if isinstance(column.iloc[0], np.ndarray) else column.to_numpy()
