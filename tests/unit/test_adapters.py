"""Tests of LoRA adapters: a merged model is W + s B A, and an adapter that cannot be merged is one sentence."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from icl_lens.cli import model_server
from icl_lens.cli.commands import main
from icl_lens.config.parse import parse
from icl_lens.errors import InputError
from icl_lens.hub import adapters, fetched, packages, quantization
from icl_lens.hub.checkpoints import checkpoint_files
from icl_lens.models import loading
from icl_lens.network import quantized
from icl_lens.report.figures import weights
from icl_lens.results import inputs

from ..conftest import TEXTS
from ..families import tiny

needs_peft = pytest.mark.skipif(
    bool(packages.missing(adapters.PACKAGES)), reason="the packages of the extra `quantized` are not installed"
)
needs_bitsandbytes = pytest.mark.skipif(
    bool(packages.missing((*adapters.PACKAGES, *quantization.PACKAGES))),
    reason="the packages of the extra `quantized` are not installed",
)

RANK, ALPHA = 4, 6
TARGETS = {"gpt2": ["c_attn", "c_proj"], "llama": ["q_proj", "down_proj"]}
IDS = torch.arange(1, 40)[None]


def adapted(folder, target, family, seed=0, **settings):
    """Write a random adapter of a model as peft does, and return its folder."""
    import peft

    network = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    chosen = {"r": RANK, "lora_alpha": ALPHA, "target_modules": TARGETS[family], "fan_in_fan_out": family == "gpt2", **settings}
    model = peft.get_peft_model(network, peft.LoraConfig(task_type="CAUSAL_LM", **chosen))
    torch.manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(target)
    return target


@pytest.fixture(scope="module")
def made(tmp_path_factory, tokenizer):
    """Return a function that gives the folders of a tiny model of a family and of an adapter of it, each written once."""
    folder = tmp_path_factory.mktemp("adapters")

    def get(family="llama", name="lora", **settings):
        if not (folder / family).exists():
            tiny(family, len(tokenizer)).save_pretrained(folder / family)
            tokenizer.save_pretrained(folder / family)
        adapter = folder / f"{family}-{name}"
        return folder / family, adapter if adapter.exists() else adapted(folder / family, adapter, family, **settings)

    return get


def by_hand(network, adapter, scale=ALPHA / RANK):
    """Add s B A to each weight of a network that the adapter changes, and return the network."""
    tensors = load_file(adapter / "adapter_model.safetensors")
    modules = {name.removeprefix("base_model.model.").partition(".lora_")[0] for name in tensors}
    for name in modules:
        a, b = (tensors[f"base_model.model.{name}.lora_{part}.weight"] for part in "AB")
        module = network.get_submodule(name)
        change = scale * (b @ a)  # (o, d)
        module.weight.data += change.T if isinstance(module, Conv1D) else change
    assert modules
    return network


@needs_peft
@pytest.mark.parametrize("family", TARGETS)
@pytest.mark.parametrize("rank_stabilised", [False, True])
def test_a_merged_model_is_the_sum_of_the_weights_and_the_scaled_product(made, family, rank_stabilised):
    model_folder, adapter = made(family, f"rs-{rank_stabilised}", use_rslora=rank_stabilised)
    state = torch.get_rng_state()
    model = loading.load(model_folder, device="cpu", adapter=adapter)
    assert torch.equal(torch.get_rng_state(), state)
    plain = loading.load(model_folder, device="cpu")
    before = plain.network(IDS).logits
    expected = by_hand(plain.network, adapter, ALPHA / RANK**0.5 if rank_stabilised else ALPHA / RANK)(IDS).logits
    torch.testing.assert_close(model.network(IDS).logits, expected, rtol=0, atol=1e-6)
    assert (expected - before).abs().max() > 0.1
    assert type(model.network) is type(plain.network)
    assert {type(m) for m in model.network.modules()} == {type(m) for m in plain.network.modules()}
    assert not any(p.requires_grad for p in model.network.parameters())
    assert model.facts["parameters"] == plain.facts["parameters"]


@needs_peft
@pytest.mark.parametrize(
    "settings",
    [{"use_dora": True}, {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"down_proj": 9}}, {"target_modules": "all-linear"}],
    ids=["dora", "patterns", "all linear"],
)
def test_a_merged_model_gives_the_logits_of_the_model_with_a_separate_adapter(made, settings):
    import peft

    model_folder, adapter = made("llama", "-".join(settings), **settings)
    separate = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model_folder), adapter)
    logits = loading.load(model_folder, device="cpu", adapter=adapter).network(IDS).logits
    torch.testing.assert_close(logits, separate(IDS).logits, rtol=0, atol=1e-4)


@needs_peft
def test_the_adapter_is_in_the_facts_and_in_captions(made):
    model_folder, adapter = made("llama")
    facts = loading.load(model_folder, name="m", device="cpu", adapter=adapter).facts
    assert facts["adapter"]["files"] == adapters.adapter_hash(adapter)
    assert facts["adapter"]["name"] == "llama-lora"
    assert "base" not in facts["adapter"], "the base is a local path, which does not identify a model"
    assert facts["files"] == loading.load(model_folder, device="cpu").facts["files"]
    assert weights(facts) == "with LoRA adapter llama-lora, merged"
    assert not [value for value in json.dumps(facts).split('"') if str(adapter.parent) in value]


@needs_peft
def test_an_edited_adapter_has_another_hash_and_the_audit_finds_it(made, tmp_path):
    adapter = shutil.copytree(made("llama")[1], tmp_path / "lora")
    facts = {"model": {"name": "m", "adapter": {"name": "lora", "files": adapters.adapter_hash(adapter)}}}
    results = tmp_path / "results"
    results.mkdir()
    inputs.write(results, inputs.ExternalInputs(adapters={"m": str(adapter)}))
    assert list(inputs.Comparison(results).changed("studies/m/t/s/icl.parquet", facts)) == []
    (adapter / "README.md").write_text("not read")
    assert list(inputs.Comparison(results).changed("studies/m/t/s/icl.parquet", facts)) == []
    tensors = load_file(adapter / adapters.WEIGHTS)
    save_file({name: value + 1 for name, value in tensors.items()}, adapter / adapters.WEIGHTS)
    (found,) = inputs.Comparison(results).changed("studies/m/t/s/icl.parquet", facts)
    assert found.startswith("adapter of model m (")


@needs_peft
def test_a_preloaded_model_is_taken_only_with_its_adapter(made, monkeypatch, tmp_path):
    monkeypatch.setattr(loading, "_PRELOADED", {})
    monkeypatch.setattr(loading, "_TAKEN", set())
    model_folder, adapter = made("llama")
    other = shutil.copytree(adapter, tmp_path / "other")
    loading.preload(model_folder, adapter=adapter)
    reads = []
    read = loading._read
    monkeypatch.setattr(loading, "_read", lambda *arguments: (reads.append(arguments[4]), read(*arguments))[1])
    plain = loading.load(model_folder, device="cpu")
    assert "adapter" not in plain.facts
    assert loading.load(model_folder, device="cpu", adapter=other).facts["adapter"]["name"] == "other"
    assert reads == [None, other]
    model = loading.load(model_folder, device="cpu", adapter=adapter)
    assert reads == [None, other], "the third model was preloaded"
    assert model.facts["adapter"]["name"] == "llama-lora"


def test_the_process_that_keeps_a_model_loaded_is_asked_for_its_adapter(checkpoint, tmp_path):
    command = ["icl", "--model", str(checkpoint), "--device", "cpu"]
    assert model_server._requested_model(command).adapter is None
    assert model_server._requested_model([*command, "--adapter", str(tmp_path)]).adapter == tmp_path


@needs_bitsandbytes
@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_an_adapter_of_quantised_weights_is_added_to_the_dequantised_weights(made, tmp_path, kind):
    from .test_quantized_weights import dequantised, quantise

    model_folder, adapter = made("llama")
    path = quantise(model_folder, tmp_path / "m", kind)
    model = loading.load(path, device="cpu", adapter=adapter)
    expected = by_hand(dequantised(path), adapter)(IDS).logits
    torch.testing.assert_close(model.network(IDS).logits, expected, rtol=0, atol=1e-5)
    kept = {name.rpartition(".")[2] for name, m in model.network.named_modules() if isinstance(m, quantized.QuantizedLinear)}
    assert kept == {"k_proj", "v_proj", "o_proj", "gate_proj", "up_proj"}
    bits = 8 if kind == "int8" else 4
    assert weights(model.facts) == (
        f"{bits}-bit weights (bitsandbytes {kind}), dequantised; with LoRA adapter llama-lora, merged"
    )


@needs_peft
@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("gpt2", {}),
        ("llama", {"num_hidden_layers": 2}),
        ("llama", {"num_hidden_layers": 4}),
        ("llama", {"hidden_size": 64}),
    ],
    ids=["other modules", "fewer layers", "more layers", "other sizes"],
)
def test_an_adapter_for_another_model_is_one_sentence(made, tokenizer, tmp_path, capsys, family, changes):
    _, adapter = made("llama")
    network = tiny(family, len(tokenizer))
    if changes:
        config = network.config
        config.update(changes)
        network = type(network)(config)
    network.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    with pytest.raises(InputError) as caught:
        loading.load(tmp_path / "model", device="cpu", adapter=adapter)
    told = str(caught.value)
    assert told.startswith(f"adapter folder {adapter} is not for the model in {tmp_path / 'model'} (")
    assert told.endswith("); use the base model that the adapter was trained on")
    assert "\n" not in told
    assert len(told) - 2 * len(str(tmp_path)) < 500


@needs_peft
def test_an_adapter_of_a_shared_weight_is_one_sentence(tokenizer, tmp_path):
    network = tiny("gpt2", len(tokenizer))
    network.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    adapted(tmp_path / "model", tmp_path / "lora", "gpt2", target_modules=["lm_head"], fan_in_fan_out=False)
    with pytest.raises(InputError, match=r"changes lm_head, which has the same weights as transformer\.wte, so merging would"):
        loading.load(tmp_path / "model", device="cpu", adapter=tmp_path / "lora")


@needs_peft
def test_a_module_that_was_trained_in_full_replaces_that_of_the_model(made):
    model_folder, adapter = made("llama", "full", modules_to_save=["lm_head"])
    network = loading.load(model_folder, device="cpu", adapter=adapter).network
    (saved,) = (tensor for name, tensor in load_file(adapter / adapters.WEIGHTS).items() if "lm_head" in name)
    torch.testing.assert_close(network.get_output_embeddings().weight.data, saved, rtol=0, atol=0)


def write_config(folder, **entries):
    (folder / adapters.CONFIG).write_text(json.dumps({"peft_type": "LORA", "r": 1, "target_modules": ["q_proj"], **entries}))


def pickled(folder):
    write_config(folder)
    torch.save({}, folder / adapters.PICKLED)


BAD = {
    "missing": (lambda folder: folder.rmdir(), r"adapter folder .*lora does not exist"),
    "no config": (lambda folder: None, r"is not an adapter: adapter_config\.json is missing"),
    "broken config": (lambda folder: (folder / adapters.CONFIG).write_text("{"), r"adapter_config\.json is not a JSON object"),
    "list": (lambda folder: (folder / adapters.CONFIG).write_text("[]"), r"adapter_config\.json is not a JSON object"),
    "other kind": (lambda folder: write_config(folder, peft_type="IA3"), r"peft_type in .* must be LORA, got 'IA3'; merge the"),
    "no kind": (lambda folder: write_config(folder, peft_type=None), r"must be LORA, got None"),
    "no weights": (write_config, r"has no weights; add adapter_model\.safetensors"),
    "pickled": (pickled, r"has only pickled weights \(adapter_model\.bin\), which could run code; save it again"),
    "repeated layers": (
        lambda folder: write_config(folder, layer_replication=[[0, 2]]),
        r"layer_replication \(= \[\[0, 2\]\]\)",
    ),
    "changed base": (lambda folder: write_config(folder, init_lora_weights="pissa_niter_4"), r"init_lora_weights \(= 'pissa_n"),
    "activated": (lambda folder: write_config(folder, alora_invocation_tokens=[1]), r"alora_invocation_tokens"),
}


@pytest.mark.parametrize("fault", BAD)
def test_an_adapter_that_cannot_be_read_is_one_sentence_in_planning_and_in_commands(checkpoint, tmp_path, capsys, fault):
    make, sentence = BAD[fault]
    folder = tmp_path / "lora"
    folder.mkdir()
    make(folder)
    for read in (adapters.adapter_files, lambda folder: loading.load(checkpoint, device="cpu", adapter=folder)):
        with pytest.raises(InputError, match=sentence) as caught:
            read(folder)
        assert "\n" not in str(caught.value)
    out = ["--out", str(tmp_path / "out.parquet"), "--prompts", str(tmp_path / "prompts.parquet")]
    (tmp_path / "prompts.parquet").write_text("")
    assert main(["icl", "--model", str(checkpoint), "--adapter", str(folder), *out]) == 1
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


@needs_peft
def test_truncated_weights_are_one_sentence(made, tmp_path):
    model_folder, source = made("llama")
    adapter = shutil.copytree(source, tmp_path / "lora")
    (adapter / adapters.WEIGHTS).write_bytes((adapter / adapters.WEIGHTS).read_bytes()[:-10])
    with pytest.raises(InputError, match=r"adapter_model\.safetensors is corrupted; download or save the adapter again"):
        loading.load(model_folder, device="cpu", adapter=adapter)


def test_an_adapter_in_the_model_folder_is_one_sentence(checkpoint, tmp_path):
    """transformers would load the base model that the adapter names."""
    folder = shutil.copytree(checkpoint, tmp_path / "m")
    write_config(folder)
    with pytest.raises(InputError, match=r"contains an adapter \(adapter_config\.json\); set adapter to this folder, and path"):
        checkpoint_files(folder)


def test_an_adapter_and_an_untrained_copy_cannot_be_combined(checkpoint, tmp_path):
    with pytest.raises(InputError, match="changes nothing in an untrained copy"):
        loading.load(checkpoint, device="cpu", adapter=tmp_path, untrained_seed=0)
    with pytest.raises(InputError, match="m: adapter and untrained cannot be combined"):
        parse({"models": [{"name": "m", "path": "x", "adapter": "y", "untrained": 0}]})


def test_without_peft_the_command_that_installs_it_is_told(checkpoint, tmp_path, monkeypatch):
    write_config(tmp_path)
    save_file({"base_model.model.x.lora_A.weight": torch.zeros(1, 1)}, tmp_path / adapters.WEIGHTS)
    monkeypatch.setattr(packages, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"an adapter needs peft, which is not installed; run `.* peft`"):
        loading.load(checkpoint, device="cpu", adapter=tmp_path)


@needs_peft
@pytest.mark.parametrize(("base", "warned"), [("owner/llama", False), ("owner/another", True), ("/a/local/folder", False)])
def test_another_base_model_is_a_warning(made, tmp_path, monkeypatch, caplog, base, warned):
    model_folder, source = made("llama")
    adapter = shutil.copytree(source, tmp_path / "lora")
    config = json.loads((adapter / adapters.CONFIG).read_text())
    (adapter / adapters.CONFIG).write_text(json.dumps({**config, "base_model_name_or_path": base}))
    files = {path.name: {"sha256": adapters.hashes.file_hash(path)} for path in checkpoint_files(model_folder)}
    record = fetched.Fetched("Owner/llama", "main", "c" * 40, files)
    monkeypatch.setattr(fetched, "read", lambda folder: record)
    facts = loading.load(model_folder, device="cpu", adapter=adapter).facts
    assert facts["adapter"].get("base") == (None if base.startswith("/") else base)
    assert ("was trained on owner/another, but the model is Owner/llama" in caplog.text) is warned


@needs_peft
def test_a_cache_belongs_to_its_adapter(made, tmp_path, capsys):
    model_folder, adapter = made("llama")
    other = shutil.copytree(adapter, tmp_path / "other")
    save_file({name: value + 1 for name, value in load_file(adapter / adapters.WEIGHTS).items()}, other / adapters.WEIGHTS)
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": t, "label": n % 2}) + "\n" for n, t in enumerate(TEXTS)))
    model = ["--model", str(model_folder), "--device", "cpu"]
    for name, options in (("with", ["--adapter", str(adapter)]), ("without", [])):
        made_cache = ["--demos", str(tmp_path / "texts.jsonl"), "--out", str(tmp_path / name)]
        assert main(["compress", *model, *options, "--task", "sst2", *made_cache]) == 0
    for name, options, sentence in (
        ("with", [], "was made with an adapter that --adapter does not name; set --adapter to the folder of that adapter"),
        ("with", ["--adapter", str(other)], "was made with an adapter that --adapter does not name"),
        ("without", ["--adapter", str(adapter)], "was made without an adapter; remove --adapter"),
    ):
        capsys.readouterr()
        command = ["classify", *model, *options, "--cache", str(tmp_path / name), str(tmp_path / "texts.jsonl")]
        assert main(command) == 1
        assert sentence in capsys.readouterr().err
    assert (
        main(["classify", *model, "--adapter", str(adapter), "--cache", str(tmp_path / "with"), str(tmp_path / "texts.jsonl")])
        == 0
    )
