"""Tests of each study and tool on a simulated device (tests/pretended_device.py).

The simulated device raises an error where CUDA or MPS does, and the results match those of the CPU.
"""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from icl_lens.artifacts import code
from icl_lens.cli.commands import main
from icl_lens.models import loading
from icl_lens.studies import registry
from icl_lens.tasks.task import TASKS

from ..conftest import TEXTS
from ..pretended_device import DEVICE, OnDevice, pretended
from ..study_cases import CASES, prompts_writer, require_same_tables, run_case, same, write_models


def test_every_study_has_a_case():
    assert set(CASES) == {study.name for study in registry.studies().values() if study.reads}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tokenizer):
    """Return the working directory of a run, which contains a model and an encoder."""
    folder = tmp_path_factory.mktemp("device")
    write_models(folder, tokenizer)
    return folder


@pytest.fixture(scope="module")
def written(folder):
    """Return a function that maps the name of a prompt set to its file."""
    return prompts_writer(folder)


@pytest.fixture
def on_device(monkeypatch):
    """Make the simulated device available and put each model on it."""
    monkeypatch.setattr(loading, "pick_device", lambda device: DEVICE)
    with pretended():
        yield


@pytest.mark.parametrize("study", CASES)
def test_a_study_runs_on_a_device_and_finds_what_it_finds_on_the_cpu(study, folder, written, monkeypatch, request):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(code, "code_hash", lambda *modules: "")  # saves half a second per study
    run_case(study, written, folder / "cpu.parquet", device="cpu")
    request.getfixturevalue("on_device")
    run_case(study, written, folder / "device.parquet")
    about = require_same_tables(study, folder / "device.parquet", folder / "cpu.parquet")
    assert about["device"] == DEVICE.type


@pytest.mark.parametrize(
    "study",
    [
        *["icl", "saliency", "flow", "isolation", "compression", "reweighting", "kernel_regression"],
        *["ch_edge_cuts", "ch_saliency", "ch_labels", "ch_demonstrations"],
    ],
)
def test_whole_label_words_give_the_same_results_on_a_device(study, folder, tmp_path_factory, monkeypatch, request):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(code, "code_hash", lambda *modules: "")
    alike = replace(TASKS["sst2"], label_words=(" very negative", " very positive"))
    write = prompts_writer(tmp_path_factory.mktemp("alike"), alike)
    options = {"label_score": "whole", "label_anchor": "all"}
    run_case(study, write, folder / "cpu.parquet", device="cpu", **options)
    request.getfixturevalue("on_device")
    run_case(study, write, folder / "device.parquet", **options)
    about = require_same_tables(study, folder / "device.parquet", folder / "cpu.parquet")
    assert about["settings"]["labels"] == {"score": "whole", "anchor": "all"}


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
