"""Tests of models whose layers are on several devices or whose weights are on the disk (placement: auto)."""

import gc
import json
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from icl_lens.artifacts import code
from icl_lens.cli import model_server
from icl_lens.cli.commands import main
from icl_lens.config import parse
from icl_lens.errors import InputError
from icl_lens.models import loading, untrained
from icl_lens.network import placement
from icl_lens.prompts.positions import tokenize
from icl_lens.studies.anchors.saliency import compute as saliency

from .. import artifacts
from ..conftest import REPOSITORY, TEXTS
from ..families import tiny
from ..pretended_device import DEVICE, pretended
from ..prompts_table import prompts_table
from ..spread_layers import spread
from ..study_cases import CASES, TOLERANCE, prompts_writer, require_same_tables, run_case, write_models

ON_DISK = {"device": "cpu", "placement": "auto", "max_memory": {"cpu": "0KB"}}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tokenizer):
    """Return the working directory of a run, which contains a model and an encoder."""
    folder = tmp_path_factory.mktemp("placement")
    write_models(folder, tokenizer)
    return folder


@pytest.fixture(scope="module")
def written(folder):
    """Return a function that maps the name of a prompt set to its file."""
    return prompts_writer(folder)


@pytest.fixture
def whole(folder, written, monkeypatch):
    """Return a function that maps a study to the table of the model in one piece."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(code, "code_hash", lambda *modules: "")

    def table(study):
        path = folder / f"{study}.parquet"
        if not path.exists():
            run_case(study, written, path, device="cpu")
        return path

    return table


@contextmanager
def spread_by_placement(monkeypatch, *devices):
    """Make placement: auto put the first half of the layers on one device and the rest on another."""
    load = placement.from_pretrained

    def from_pretrained(folder, limits, **arguments):
        loaded = load(folder, None, **arguments)
        if limits is not None:
            spread(loaded[0] if isinstance(loaded, tuple) else loaded, *devices)
        return loaded

    with monkeypatch.context() as patch, pretended():
        patch.setattr(loading, "pick_device", lambda device: devices[0])
        patch.setattr(placement, "memory_limits", lambda *_: {})
        patch.setattr(placement, "from_pretrained", from_pretrained)
        yield


@pytest.mark.parametrize("study", CASES)
def test_a_study_of_a_model_on_the_disk_finds_what_it_finds_in_memory(study, folder, written, whole, monkeypatch):
    expected = whole(study)
    run_case(study, written, folder / "disk.parquet", **ON_DISK)
    about = require_same_tables(study, folder / "disk.parquet", expected)
    assert about["device"] == "cpu"


@pytest.mark.parametrize("devices", [(DEVICE, CPU), (CPU, DEVICE)], ids=["device-cpu", "cpu-device"])
@pytest.mark.parametrize("study", CASES)
def test_no_tensor_of_a_study_meets_a_layer_on_another_device(study, devices, folder, written, whole, monkeypatch):
    expected = whole(study)
    with spread_by_placement(monkeypatch, *devices):
        run_case(study, written, folder / "spread.parquet", placement="auto")
    about = require_same_tables(study, folder / "spread.parquet", expected)
    assert about["device"] == devices[0].type


@pytest.fixture(scope="module")
def wide(folder, tokenizer):
    """Add a model with wide layers to the folder, whose weights need more memory than all else, and return their bytes."""
    torch.manual_seed(0)
    shape = {"hidden_size": 256, "intermediate_size": 8192, "num_hidden_layers": 10, "num_attention_heads": 4}
    network = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=2048, **shape))
    network.save_pretrained(folder / "wide")
    tokenizer.save_pretrained(folder / "wide")
    return sum(parameter.numel() * parameter.element_size() for parameter in network.parameters())


def peaks(folder, placed, *studies):
    """Return the peak memory of studies in a new process, study -> bytes."""
    # Free each large block at once, so that the memory of the process is that of its tensors.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.peak_memory", str(folder), placed, *studies]
    finished = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout.splitlines()[-1])


linux = pytest.mark.skipif(sys.platform != "linux", reason="the peak memory is read from /proc")


@linux
def test_saliency_with_its_backward_pass_needs_less_than_half_the_memory_of_the_weights(folder, wide):
    assert peaks(folder, "auto", "saliency")["saliency"] < wide / 2


@linux
@pytest.mark.long
def test_every_study_needs_less_than_half_the_memory_of_the_weights(folder, wide):
    assert peaks(folder, "device", "saliency")["saliency"] > wide, "the measurement includes the weights"
    found = peaks(folder, "auto", *CASES)
    assert set(found) == set(CASES)
    assert {study: peak / wide for study, peak in found.items() if peak >= wide / 2} == {}


@pytest.mark.parametrize("study", ["attention_controls", "isolation_controls"])
def test_an_untrained_copy_is_drawn_in_files_with_the_same_numbers(study, folder, written, whole, monkeypatch):
    expected = whole(study)
    monkeypatch.setattr(untrained, "_LARGE", 1)
    run_case(study, written, folder / "disk.parquet", **ON_DISK)
    require_same_tables(study, folder / "disk.parquet", expected)


@pytest.mark.parametrize("family", ["gpt2", "gptj", "gemma2", "deepseek_v3"])
def test_the_backward_pass_of_a_family_agrees(family, tmp_path, tokenizer):
    tiny(family, len(tokenizer)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    prompts = tokenize(prompts_table("trec", count=2), tokenizer)
    found, expected = (
        saliency.compute(loading.load(tmp_path, **options), prompts, 1000)[["s_wp", "s_pq", "s_ww"]].to_numpy()
        for options in (ON_DISK, {"device": "cpu"})
    )
    np.testing.assert_allclose(found, expected, atol=TOLERANCE * np.abs(expected).max(), rtol=0)


@pytest.mark.parametrize("spread_layers", [False, True], ids=["disk", "devices"])
def test_the_tools_classify_with_a_placed_model(spread_layers, folder, tmp_path, monkeypatch, capsys):
    (tmp_path / "texts.jsonl").write_text(
        "".join(json.dumps({"text": text, "label": n % 2}) + "\n" for n, text in enumerate(TEXTS))
    )

    def answers(*options):
        made = tmp_path / "made.safetensors"
        common = ["--model", folder / "model", *options]
        for command in (
            ["compress", *common, "--task", "sst2", "--demos", tmp_path / "texts.jsonl", "--out", made],
            ["classify", *common, "--cache", made, tmp_path / "texts.jsonl"],
        ):
            capsys.readouterr()
            assert main([str(each) for each in command]) == 0
        return [list(json.loads(line)["probabilities"].values()) for line in capsys.readouterr().out.splitlines()]

    expected = answers("--device", "cpu")
    if spread_layers:
        with spread_by_placement(monkeypatch, DEVICE, CPU):
            found = answers("--placement", "auto")
    else:
        found = answers("--device", "cpu", "--placement", "auto", "--max-memory", json.dumps({"cpu": "0KB"}))
    np.testing.assert_allclose(found, expected, atol=TOLERANCE)


def test_the_weights_of_an_offloaded_model_are_in_memory_only_while_they_are_used(folder):
    model = loading.load(folder / "model", **ON_DISK)
    assert placement.is_offloaded(model.network)
    assert model.device == CPU
    assert all(parameter.is_meta for parameter in model.network.parameters())
    matrix = model.network.get_output_embeddings()
    whole = loading.load(folder / "model", device="cpu").network
    assert not placement.is_placed(whole)
    torch.testing.assert_close(placement.read_parameter(matrix, "weight"), whole.get_output_embeddings().weight)
    assert placement.describe(model.network) == "2 on disk"
    assert placement.describe(whole) == "2 on cpu"


def test_some_layers_stay_in_memory_if_the_limit_permits(folder, wide):
    """The main memory also needs room for the largest layer while it is used."""
    model = loading.load(folder / "wide", device="cpu", placement="auto", max_memory={"cpu": f"{4.5 * wide / 10 / 1e6}MB"})
    assert placement.describe(model.network) == "3 on cpu, 7 on disk"


def test_files_of_converted_weights_are_deleted_with_the_model(folder, tmp_path, monkeypatch):
    """Pickled weights cannot be read one by one, so they are copied."""
    shutil.copytree(folder / "model", tmp_path / "pickled")
    (weights,) = (tmp_path / "pickled").glob("*.safetensors")
    torch.save(load_file(weights), tmp_path / "pickled/pytorch_model.bin")
    weights.unlink()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    ids = torch.arange(1, 9)[None]
    expected = loading.load(folder / "model", device="cpu").network(ids).logits
    model = loading.load(tmp_path / "pickled", **ON_DISK)
    assert len(list(tmp_path.glob("icl-lens-weights-*"))) == 1
    torch.testing.assert_close(model.network(ids).logits, expected)
    del model
    gc.collect()
    assert list(tmp_path.glob("icl-lens-weights-*")) == []


def test_a_preloaded_model_is_not_used_for_a_placed_one(folder, monkeypatch):
    monkeypatch.setattr(loading, "_PRELOADED", {})
    monkeypatch.setattr(loading, "_TAKEN", set())
    loading.preload(folder / "model")
    assert placement.is_offloaded(loading.load(folder / "model", **ON_DISK).network)
    assert not placement.is_placed(loading.load(folder / "model", device="cpu").network)
    assert len(loading._TAKEN) == 1


def test_no_process_keeps_a_placed_model_loaded(folder):
    arguments = ["icl", "--device", "cpu", "--model", str(folder / "model")]
    assert model_server._requested_model(arguments) == (folder / "model", "float32", None)
    assert model_server._requested_model([*arguments, "--placement", "auto"]) is None


def test_the_metadata_has_the_placement_only_where_it_affects_results(folder, written, whole):
    for study in ("icl", "latency"):
        run_case(study, written, folder / "disk.parquet", **ON_DISK)
        (_, found), (_, expected) = (artifacts.read(path, study) for path in (folder / "disk.parquet", whole(study)))
        assert found.pop("placement", None) == ("2 on disk" if study == "latency" else None)
        assert found == expected


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"max_memory": {"cpu": "1GB"}}, "max_memory limits the memory of placement: auto, but placement is device"),
        ({**ON_DISK, "max_memory": {"gpu": "1GB"}}, "max_memory: unknown device 'gpu'; use the number of a card"),
        ({**ON_DISK, "max_memory": {"cpu": "1 gigabyte"}}, "max_memory: cpu: '1 gigabyte' is not a size; write a number and"),
        ({**ON_DISK, "max_memory": {"7": "1GB"}}, "max_memory: 7 is not a card that this job can use (it has 0)"),
    ],
)
def test_a_limit_that_cannot_be_used_is_one_sentence(options, sentence, folder):
    with pytest.raises(InputError) as caught:
        loading.load(folder / "model", **options)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_device_mps_cannot_be_combined_with_a_placement():
    with pytest.raises(InputError, match="placement: auto supports the devices cuda and cpu, got mps; set placement to device"):
        placement.memory_limits(torch.device("mps"))


def test_the_option_of_the_limits_is_checked(folder, tmp_path, capsys):
    command = ["icl", "--model", folder / "model", "--prompts", tmp_path / "p.parquet", "--out", tmp_path / "o.parquet"]
    assert main([*map(str, command), "--placement", "auto", "--max-memory", "20GB"]) == 1
    assert "--max-memory must be a JSON object of sizes" in capsys.readouterr().err


def test_the_config_sets_the_placement_of_each_model():
    models = [
        {"name": "a", "path": "x"},
        {"name": "b", "path": "x", "placement": "auto", "max_memory": {0: "2GB", "cpu": "1GiB"}},
    ]
    parsed = parse.parse({"models": models})
    assert parsed.placement_of("a") == ("device", None)
    assert parsed.placement_of("b") == ("auto", {"0": "2GB", "cpu": "1GiB"})
    assert parse.parse({"models": models[:1], "placement": "auto"}).placement_of("a") == ("auto", None)


@pytest.mark.parametrize(
    ("bad", "sentence"),
    [
        ({"models": [{"name": "a", "path": "x", "max_memory": {"cpu": "1GB"}}]}, "a: max_memory needs placement: auto"),
        ({"placement": "auto", "device": "mps"}, "organism: placement: auto does not support device: mps"),
        (
            {"models": [{"name": "a", "path": "x", "placement": "auto", "max_memory": {"cpu": "1 gigabyte"}}]},
            "max_memory: cpu: '1 gigabyte' is not a size",
        ),
    ],
)
def test_a_placement_that_cannot_be_is_one_sentence(bad, sentence):
    with pytest.raises(InputError) as caught:
        parse.parse(bad)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)
