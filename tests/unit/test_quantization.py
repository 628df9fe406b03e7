"""Tests of quantised checkpoints: one sentence before the weights are read."""

import json
import shutil

import pytest

from icl_lens.errors import InputError
from icl_lens.hub import quantization
from icl_lens.hub.checkpoints import checkpoint_files
from icl_lens.models import loading

REMEDY = "use the original checkpoint in float32, float16 or bfloat16, or a GGUF file of the model (key gguf in the config)"


@pytest.fixture
def model(checkpoint, tmp_path):
    return shutil.copytree(checkpoint, tmp_path / "my model")


def describe(model, **entries):
    path = model / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


@pytest.mark.parametrize(
    ("entry", "name"),
    [
        ({"quant_method": "bitsandbytes"}, "bitsandbytes"),
        ({"quant_method": "gptq", "bits": 4}, "GPTQ, 4 bits"),
        ({"quant_method": "awq", "w_bit": 4}, "AWQ, 4 bits"),
        ({"quant_method": "fp8"}, "FP8"),
        ({"quant_method": "fbgemm_fp8"}, "FP8 (FBGEMM)"),
        ({"quant_method": "mxfp4"}, "MXFP4"),
        ({"quant_method": "compressed-tensors"}, "compressed-tensors"),
        ({"quant_method": "foo"}, "quant_method 'foo'"),
        ({"quant_method": 3}, "quant_method 3"),
    ],
)
def test_quantised_weights_are_refused_by_name_in_planning_and_in_commands(model, entry, name):
    describe(model, quantization_config=entry)
    for read in (checkpoint_files, loading.load):
        with pytest.raises(InputError) as caught:
            read(model)
        assert str(caught.value) == (
            f"model folder {model}: config.json describes quantised weights ({name}), which are not supported; {REMEDY}"
        )


@pytest.mark.parametrize(
    ("entry", "fault"),
    [
        ("int4", "quantization_config in config.json must be a mapping with quant_method, got 'int4'"),
        ([], "quantization_config in config.json must be a mapping with quant_method, got []"),
        ({}, "quantization_config in config.json has no quant_method, so the format of the weights is unknown"),
    ],
)
def test_a_malformed_entry_is_told(model, entry, fault):
    describe(model, quantization_config=entry)
    with pytest.raises(InputError) as caught:
        loading.load(model)
    assert str(caught.value) == f"model folder {model}: {fault}; {REMEDY}"


def test_an_entry_of_the_text_model_or_in_a_file_of_its_own_is_found(model):
    describe(model, text_config={"quantization_config": {"quant_method": "gptq"}})
    with pytest.raises(InputError, match=r"quantised weights \(GPTQ\)"):
        checkpoint_files(model)
    describe(model, text_config=None)
    (model / "quantize_config.json").write_text("{}")
    with pytest.raises(InputError, match=r"quantize_config\.json describes GPTQ weights, which are not supported"):
        checkpoint_files(model)


@pytest.mark.parametrize(
    ("entry", "bits"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, 4),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, 8),
        ({"load_in_8bit": True}, 8),
    ],
)
def test_weights_of_bitsandbytes_are_supported_for_models_and_refused_for_encoders(model, entry, bits):
    describe(model, quantization_config=entry)
    assert model / "config.json" in checkpoint_files(model)
    assert quantization.bitsandbytes_bits(model) == bits
    with pytest.raises(InputError) as caught:
        quantization.require_float(model)
    assert str(caught.value) == (
        f"model folder {model}: config.json describes quantised weights (bitsandbytes, {bits} bits), which are not supported; "
        f"{REMEDY}"
    )


def test_float_weights_pass_and_other_faults_are_left_to_loading(model):
    describe(model, quantization_config=None)
    assert loading.load(model, device="cpu").layers == 3
    for content in (b"{", b"[]", b"\xff"):
        quantization.require_supported_config(content, "a model")


def test_mlx_weights_are_refused_and_malformed_entries_are_one_short_line(model):
    describe(model, quantization={"group_size": 64, "bits": 4})
    with pytest.raises(InputError, match=r"describes quantised weights \(MLX, 4 bits\)"):
        checkpoint_files(model)
    with pytest.raises(InputError) as caught:
        quantization.require_supported_config(json.dumps({"quantization_config": ["x" * 10_000] * 50}).encode(), "m")
    assert len(str(caught.value)) < 800
    quantization.require_supported_config(b"[" * 200_000, "m")  # loading the model reports it
