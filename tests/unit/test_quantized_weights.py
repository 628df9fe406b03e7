"""Tests of checkpoints that bitsandbytes quantised: every result is that of the dequantised weights."""

import copy
import json
import shutil

import pandas as pd
import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

import icl_lens
from icl_lens.artifacts import code
from icl_lens.cli import model_server
from icl_lens.config import model_sizes, parse
from icl_lens.errors import InputError
from icl_lens.hub import packages, quantization
from icl_lens.models import loading
from icl_lens.models.untrained import untrained
from icl_lens.network import quantized
from icl_lens.report.figures import weights

from ..conftest import TEXTS
from ..families import tiny
from ..study_cases import CASES, prompts_writer, require_same_tables, run_case, write_models

needs_bitsandbytes = pytest.mark.skipif(
    bool(packages.missing(quantization.PACKAGES)), reason="the packages of the extra `quantized` are not installed"
)

# The studies that read weights, differentiate, or read the prompts in parts. `make test-long` runs the others.
QUICK = ("saliency", "compression", "reweighting", "components")

FORMATS = {
    "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
    "fp4": {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4"},
    "int8": {"load_in_8bit": True},
}


def quantise(source, target, kind, dtype=torch.float32, **options):
    """Write a quantised copy of a checkpoint, as a user would, and return its folder."""
    settings = BitsAndBytesConfig(**FORMATS[kind], **options)
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
    network = AutoModelForCausalLM.from_pretrained(source, quantization_config=settings, device_map={"": "cpu"}, dtype=dtype)
    network.save_pretrained(target)
    return target


def dequantised(source):
    """Return the network of a quantised checkpoint with the float weights that transformers computes."""
    network = AutoModelForCausalLM.from_pretrained(source, device_map={"": "cpu"}, dtype=torch.float32)
    return network.dequantize(torch.float32).eval()


@pytest.fixture(scope="module")
def quantised(tmp_path_factory, tokenizer):
    """Return a function that gives the folder of a quantised tiny model of a family, written once."""
    made = tmp_path_factory.mktemp("quantised")

    def get(family, kind):
        if not (made / family).exists():
            tiny(family, len(tokenizer)).save_pretrained(made / family)
            tokenizer.save_pretrained(made / family)
        target = made / f"{family}-{kind}"
        return target if target.exists() else quantise(made / family, target, kind)

    return get


@needs_bitsandbytes
@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("family", ["gpt2", "llama", "gpt_neox"])
def test_logits_and_gradients_are_those_of_the_dequantised_weights(quantised, family, kind):
    path = quantised(family, kind)
    model, plain = loading.load(path, device="cpu"), dequantised(path)
    ids = torch.arange(1, 40)[None]
    states, expected_states = (model.network.get_input_embeddings()(ids).clone().requires_grad_() for _ in range(2))
    logits, expected = model.network(inputs_embeds=states).logits, plain(inputs_embeds=expected_states).logits
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)
    for found in (logits, expected):
        found[0, -1, 7].backward()
    torch.testing.assert_close(states.grad, expected_states.grad, rtol=1e-5, atol=1e-5)
    bits = 8 if kind == "int8" else 4
    facts = model.facts["quantisation"]
    assert (facts["method"], facts["bits"], facts["type"]) == ("bitsandbytes", bits, kind)
    assert weights(model.facts) == f"{bits}-bit weights (bitsandbytes {kind}), dequantised"
    assert model.facts["parameters"] == sum(p.numel() for p in plain.parameters())


@needs_bitsandbytes
@pytest.mark.parametrize("kind", FORMATS)
def test_the_plan_counts_the_weights_and_not_the_packed_bytes(quantised, kind):
    path = quantised("llama", kind)
    config = parse.parse(
        {"models": [{"name": "own", "path": str(path)}, {"name": "plain", "path": str(path.with_name("llama"))}]}
    )
    assert model_sizes.size(config, config.models[0]) == model_sizes.size(config, config.models[1])


@needs_bitsandbytes
def test_the_float_weights_give_other_logits(quantised):
    """The tests above compare quantised weights, not the original ones."""
    path = quantised("llama", "nf4")
    ids = torch.arange(1, 40)[None]
    found, original = (loading.load(p, device="cpu").network(ids).logits for p in (path, path.with_name("llama")))
    assert (found - original).abs().max() > 0.1


@needs_bitsandbytes
@pytest.mark.parametrize("kind", FORMATS)
def test_the_weights_stay_packed_and_a_prompt_does_not_depend_on_its_batch(quantised, kind):
    model = loading.load(quantised("llama", kind), device="cpu")
    layers = [m for m in model.network.modules() if isinstance(m, quantized.QuantizedLinear)]
    assert len(layers) == 3 * 7
    assert type(model.network.get_output_embeddings()) is nn.Linear
    one = layers[0].weight
    stored = sum(b.numel() * b.element_size() for b in layers[0].packed[None])
    assert stored == one.numel() * (8 if kind == "int8" else 4) // 8
    ids = torch.arange(1, 61).view(3, 20)
    large = torch.full((1, 20), 5)
    alone, together = model.network(ids[:1]).logits, model.network(torch.cat([ids, large])).logits[:1]
    torch.testing.assert_close(alone, together, rtol=0, atol=1e-5)


@needs_bitsandbytes
def test_the_backward_pass_keeps_no_dequantised_weight(quantised):
    model = loading.load(quantised("llama", "nf4"), device="cpu")
    sizes = {m.in_features * m.out_features for m in model.network.modules() if isinstance(m, quantized.QuantizedLinear)}
    saved = []
    states = model.network.get_input_embeddings()(torch.arange(1, 4)[None]).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (saved.append(t.numel()), t)[1], lambda t: t):
        model.network(inputs_embeds=states).logits[0, -1, 3].backward()
    assert saved
    assert not sizes & set(saved)


@needs_bitsandbytes
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_number_format_is_that_of_the_dequantised_weights(quantised, dtype):
    model = loading.load(quantised("llama", "nf4"), device="cpu", dtype=dtype)
    layer = next(m for m in model.network.modules() if isinstance(m, quantized.QuantizedLinear))
    assert layer.weight.dtype == model.network.dtype == getattr(torch, dtype)
    assert {p.dtype for p in model.network.parameters()} == {getattr(torch, dtype)}
    ids = torch.arange(1, 9)[None]
    logits, expected = (m.network(ids).logits for m in (model, loading.load(quantised("llama", "nf4"), device="cpu")))
    assert (logits.float() - expected).abs().max() < 0.1 * expected.std()


@needs_bitsandbytes
def test_weights_in_half_precision_are_loaded_in_the_requested_format(quantised, tmp_path):
    """transformers leaves the weights that are not quantised in the number format of the checkpoint."""
    half = tmp_path / "half"
    shutil.copytree(quantised("llama", "nf4").with_name("llama"), half)
    network = AutoModelForCausalLM.from_pretrained(half, dtype=torch.bfloat16)
    network.save_pretrained(half)
    path = quantise(half, tmp_path / "m", "nf4", dtype=torch.bfloat16)
    model = loading.load(path, device="cpu")
    assert {p.dtype for p in model.network.parameters()} == {torch.float32}
    ids = torch.arange(1, 9)[None]
    torch.testing.assert_close(model.network(ids).logits, dequantised(path).float()(ids).logits, rtol=0, atol=1e-5)


@needs_bitsandbytes
def test_layers_move_and_copy_with_the_model(quantised):
    network = loading.load(quantised("gpt2", "nf4"), device="cpu").network
    ids = torch.arange(1, 9)[None]
    expected = network(ids).logits
    torch.testing.assert_close(copy.deepcopy(network)(ids).logits, expected, rtol=0, atol=0)
    meta = network.to("meta")
    assert {tensor.device.type for tensor in (*meta.parameters(), *meta.buffers())} == {"meta"}


@needs_bitsandbytes
def test_a_quantised_unembedding_is_dequantised_once(quantised, tmp_path):
    path = quantise(quantised("llama", "nf4").with_name("llama"), tmp_path / "all", "nf4", llm_int8_skip_modules=["none"])
    outputs = loading.load(path, device="cpu").network.get_output_embeddings()
    assert type(outputs) is nn.Linear
    torch.testing.assert_close(outputs.weight.data, dequantised(path).get_output_embeddings().weight.data, rtol=0, atol=0)


@needs_bitsandbytes
def test_an_untrained_copy_has_float_weights_and_says_nothing_of_a_quantisation(quantised):
    model = untrained(loading.load(quantised("llama", "nf4"), device="cpu"), seed=1)
    assert not any(isinstance(m, quantized.QuantizedLinear) for m in model.network.modules())
    assert "quantisation" not in model.facts
    assert weights(model.facts) == "random weights (untrained copy, seed 1)"


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tokenizer):
    """Return the working directory of a run, which contains a quantised model, its float copy, and an encoder."""
    folder = tmp_path_factory.mktemp("studies")
    write_models(folder, tokenizer)
    quantise(folder / "model", folder / "nf4", "nf4")
    shutil.copytree(folder / "model", folder / "float")
    network = AutoModelForCausalLM.from_pretrained(folder / "model")
    network.load_state_dict(dequantised(folder / "nf4").state_dict())
    network.save_pretrained(folder / "float")
    return folder


@needs_bitsandbytes
@pytest.mark.parametrize("study", [name if name in QUICK else pytest.param(name, marks=pytest.mark.long) for name in CASES])
def test_a_study_finds_what_it_finds_with_dequantised_weights(study, folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(code, "code_hash", lambda *modules: "")
    for name in ("nf4", "float"):
        run_case(study, prompts_writer(folder), folder / f"{name}.parquet", model=name, name="m", device="cpu")
    about = require_same_tables(study, folder / "nf4.parquet", folder / "float.parquet")
    assert about["model"]["quantisation"]["bits"] == 4


@needs_bitsandbytes
def test_weights_that_are_not_quantised_although_config_json_says_so_are_one_sentence(quantised, tmp_path):
    path = shutil.copytree(quantised("llama", "int8"), tmp_path / "m")
    shutil.copy(path.parent / "m" / "config.json", tmp_path / "config.json")
    shutil.copytree(quantised("llama", "int8").with_name("llama"), path, dirs_exist_ok=True)
    shutil.copy(tmp_path / "config.json", path / "config.json")
    with pytest.raises(InputError) as caught:
        loading.load(path, device="cpu")
    assert str(caught.value).startswith(f"model folder {path}: ")
    assert "\n" not in str(caught.value)


def test_without_the_packages_the_command_that_installs_them_is_told(checkpoint, tmp_path, monkeypatch):
    path = shutil.copytree(checkpoint, tmp_path / "m")
    config = json.loads((path / "config.json").read_text())
    entry = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (path / "config.json").write_text(json.dumps({**config, "quantization_config": entry}))
    monkeypatch.setattr(packages, "find_spec", lambda name: None)
    with pytest.raises(InputError) as caught:
        loading.load(path, device="cpu")
    told = str(caught.value)
    assert told.startswith(f"model folder {path}: its 4-bit weights need bitsandbytes, which is not installed; run `")
    assert "envs/quantized.txt" in told


def test_memory_of_packed_weights_is_one_byte_per_element(tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(10, dtype=torch.uint8), "b": torch.zeros(10)}, tmp_path / "model.safetensors")
    assert model_server.memory([tmp_path / "model.safetensors"], "float32") == 10 + 40


@needs_bitsandbytes
@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_a_model_in_memory_gives_the_results_of_its_checkpoint_and_is_as_before(quantised, tokenizer, kind):
    folder = quantised("llama", kind)
    network = AutoModelForCausalLM.from_pretrained(folder, device_map={"": "cpu"}, dtype=torch.float32).train()
    modules = {name: (id(module), module.training) for name, module in network.named_modules()}
    config = network.config.to_dict()
    prompts = icl_lens.Prompt.from_examples("sst2", [(TEXTS[0], 1), (TEXTS[1], 0)], TEXTS[2], gold=0)
    wrapped, loaded = icl_lens.wrap(network, tokenizer, name="mine"), icl_lens.load(folder, name="mine")
    for study in (icl_lens.icl, icl_lens.saliency, icl_lens.deep_attention):
        pd.testing.assert_frame_equal(study(wrapped, prompts), study(loaded, prompts))
    assert {name: (id(module), module.training) for name, module in network.named_modules()} == modules
    assert network.config.to_dict() == config
    assert wrapped.language_model.facts["parameters"] == loaded.language_model.facts["parameters"]
    next(each for each in network.parameters() if each.is_floating_point()).data = torch.zeros(1, dtype=torch.float16)
    with pytest.raises(InputError, match="the weights that are not quantised are float16 and float32; load the model with one"):
        icl_lens.wrap(network, tokenizer)
