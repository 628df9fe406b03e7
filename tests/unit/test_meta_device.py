"""Tests of each study and tool on a simulated device (tests/pretended_device.py).

The simulated device raises an error where CUDA or MPS does, and the results match those of the CPU.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import BertConfig, BertModel

from icl_lens.artifacts import code, tensors
from icl_lens.cli.commands import main
from icl_lens.config.parse import parse_settings
from icl_lens.models import loading
from icl_lens.prompts.protocol import build
from icl_lens.studies import registry
from icl_lens.studies.representation_change import paired_prompts
from icl_lens.studies.run import run
from icl_lens.tasks.task import TASKS
from tests import artifacts

from ..conftest import TEXTS
from ..families import tiny
from ..pretended_device import DEVICE, OnDevice, pretended

# Tolerance against the CPU, relative to the largest value, in float32. Some kernels differ.
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
    "label_probes": Case("fresh-2shot", {"folds": 2, "offsets": [0]}),
    "prediction_similarity": Case(),
    "components": Case("labelled-4", {"budgets": [4], "sweep": [], "epochs": 5, "calibration_epochs": 5, "queries": 1}),
    "representation_change": Case(PAIRED, {"lines": LINES, "permutations": 19, "folds": 2, "new_tokens": 2}),
}


def test_every_study_has_a_case():
    assert set(CASES) == {study.name for study in registry.studies().values() if study.reads}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tokenizer):
    """Return the working directory of a run, which contains a model and an encoder.

    The model rotates its keys (rotary embeddings) and shares them among heads (grouped-query attention).
    """
    folder = tmp_path_factory.mktemp("device")
    tiny("llama", len(tokenizer), layers=2, context=2048).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    BertModel(BertConfig(vocab_size=len(tokenizer), **shape)).save_pretrained(folder / "encoder")
    type(tokenizer)(tokenizer_object=tokenizer._tokenizer, pad_token="!").save_pretrained(folder / "encoder")
    return folder


@pytest.fixture(scope="module")
def written(folder):
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
                table = build(TASKS["sst2"], pd.DataFrame(rows), name, [42], 3, auxiliary=1)
                artifacts.write(path, table, artifacts.describe("prompts", "icl_lens.prompts.protocol", {}, {}, [42]))
        return path

    return write


@pytest.fixture
def on_device(monkeypatch):
    """Make the simulated device available and put each model on it."""
    monkeypatch.setattr(loading, "pick_device", lambda device: DEVICE)
    with pretended():
        yield


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


@pytest.mark.parametrize("study", CASES)
def test_a_study_runs_on_a_device_and_finds_what_it_finds_on_the_cpu(study, folder, written, monkeypatch, request):
    case = CASES[study]
    monkeypatch.chdir(folder)
    monkeypatch.setattr(code, "code_hash", lambda *modules: "")  # saves half a second per study
    settings = parse_settings(study, json.dumps(case.settings)) if case.settings else None
    options = [further.option for further in registry.study(study).further]
    further = {option: written(name, None) for option, name in zip(options, case.further, strict=True)}
    given = {"settings": settings, "further": further, "batch_tokens": 400}
    prompts = written(case.prompts, settings)
    run(registry.study(study), "model", prompts, folder / "cpu.parquet", device="cpu", **given)
    request.getfixturevalue("on_device")
    run(registry.study(study), "model", prompts, folder / "device.parquet", **given)

    (expected, _), (found, about) = (artifacts.read(folder / f"{name}.parquet", study) for name in ("cpu", "device"))
    assert about["device"] == DEVICE.type
    assert len(found) == len(expected)
    assert [name for name in expected if name not in case.varies and not same(flat(found[name]), flat(expected[name]))] == []
    if "beside" in about:
        expected, found = (tensors.read(folder / f"{name}.safetensors")[0] for name in ("cpu", "device"))
        assert [name for name in expected if not same(found[name], expected[name])] == []


@pytest.mark.parametrize(
    ("make", "option"), [("compress", "--cache"), ("reweight-components", "--components")], ids=["compress", "reweight"]
)
def test_a_tool_runs_on_a_device_and_answers_as_on_the_cpu(folder, make, option, tmp_path, monkeypatch, capsys, request):
    rows = [{"text": f"{text} {n}", "label": n % 2} for n, text in enumerate(TEXTS)]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = {
        "compress": ["--demos", tmp_path / "texts.jsonl"],
        "reweight-components": ["--train", tmp_path / "texts.jsonl", "--settings", json.dumps({"epochs": 5, "patience": 99})],
    }

    def answers(name: str) -> list[dict]:
        model, made = ["--model", folder / "model"], tmp_path / f"{name}.safetensors"
        for command in (
            [make, *model, "--task", "sst2", *given[make], "--out", made],
            ["classify", *model, option, made, tmp_path / "texts.jsonl"],
        ):
            capsys.readouterr()
            assert main([str(each) for each in command]) == 0
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    expected = answers("cpu")
    request.getfixturevalue("on_device")
    found = answers("device")
    assert [row["label"] for row in found] == [row["label"] for row in expected]
    for name in expected[0]["probabilities"]:
        assert same([row["probabilities"][name] for row in found], [row["probabilities"][name] for row in expected])


def test_the_pretended_device_refuses_what_cuda_and_mps_refuse():
    values = torch.arange(6.0).view(2, 3)
    with pretended() as device:
        there = values.to(device)
        assert isinstance(there, OnDevice)
        # A scalar and indices may be on another device.
        assert torch.equal((there * 2 + torch.tensor(1.0))[[0, 1]].cpu(), values * 2 + 1)
        for mixed in (lambda: there + values, lambda: values @ there.T, lambda: values[torch.tensor([0], device=device)]):
            with pytest.raises(RuntimeError, match="on the same device"):
                mixed()
        for wide in (there.double, lambda: there.sum(dtype=torch.float64), lambda: values.double().to(device)):
            with pytest.raises(TypeError, match="float64"):
                wide()
        with pytest.raises((RuntimeError, TypeError)):
            np.asarray(there)
        leaf = there.clone().requires_grad_()
        with pytest.raises(RuntimeError, match="device"):
            (leaf @ there.T).backward(values[:, :2])
