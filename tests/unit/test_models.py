import dataclasses
import json
import logging
import re
import shutil

import numpy as np
import pytest
import torch
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForMaskedLM,
    BertLMHeadModel,
    T5Config,
    T5ForConditionalGeneration,
)
from transformers.activations import NewGELUActivation

from icl_lens.errors import InputError
from icl_lens.models import batching, loading
from icl_lens.models.logits import class_logits, last_logits
from icl_lens.models.observed import observe
from icl_lens.network import vocabulary
from icl_lens.prompts.positions import tokenize
from icl_lens.studies.anchors.icl import compute as icl
from icl_lens.studies.anchors.saliency import compute as saliency

from ..families import CONTEXT, FAMILIES, UNSUPPORTED, tiny, unsupported
from ..prompts_table import prompts_table, shared_table


@pytest.fixture
def broken(checkpoint, tmp_path):
    """Return a copy of a valid checkpoint that a test can break."""
    return shutil.copytree(checkpoint, tmp_path / "my model")


def test_a_folder_loads_frozen_and_says_what_it_is(checkpoint):
    model = loading.load(checkpoint, name="own", device="cpu")
    assert model.facts["family"] == "gpt2"
    assert model.facts["layers"] == 3
    assert model.name == "own"
    assert not model.network.training
    assert not any(p.requires_grad for p in model.network.parameters())
    assert {p.dtype for p in model.network.parameters()} == {torch.float32}
    assert {p.dtype for p in loading.load(checkpoint, device="cpu", dtype="bfloat16").network.parameters()} == {torch.bfloat16}


def saved(folder, network, tokenizer):
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_loads_from_its_folder(tmp_path, tokenizer, family):
    network = tiny(family, len(tokenizer) + 8)  # a family's tokenizer class may add special tokens
    model = loading.load(saved(tmp_path / family, network, tokenizer))
    assert (model.layers, model.facts["layers"], model.facts["heads"]) == (3, 3, 4)
    assert model.context == CONTEXT
    ids = torch.arange(40)[None]
    with torch.inference_mode():  # equal up to rounding: the loaded model computes a written-out activation in one operation
        torch.testing.assert_close(model.network(ids).logits, network(ids).logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", UNSUPPORTED)
def test_a_family_that_is_not_supported_answers_prompts_but_is_not_studied_further(tmp_path, tokenizer, family):
    network, reason = unsupported(family, len(tokenizer))
    model = loading.load(saved(tmp_path / family, network, tokenizer))
    prompts = tokenize(prompts_table("sst2", count=3), tokenizer)
    prompts += [dataclasses.replace(p, prompt_id=200 + p.prompt_id) for p in prompts]  # each shares its prefix with another
    rows = icl.compute(model, prompts, 300)
    for log_probs, prompt in zip(rows["class_log_probs"], prompts, strict=True):
        with torch.inference_mode():
            logits = network(torch.from_numpy(prompt.ids)[None]).logits[0, -1, torch.from_numpy(prompt.label_ids)]
        np.testing.assert_allclose(log_probs, logits.log_softmax(-1), atol=1e-4)
    with pytest.raises(InputError, match=f"model family '{family}' is not supported: {re.escape(reason)}"):
        saliency.compute(model, prompts, 300)


def test_positions_that_change_with_the_length_bound_the_context(language_model):
    model = language_model("llama")
    assert model.context == CONTEXT
    model.network.config.rope_parameters = {"rope_type": "longrope", "original_max_position_embeddings": 64}
    assert model.context == 64
    model.network.config.rope_parameters = {"full_attention": {"rope_type": "dynamic", "original_max_position_embeddings": 32}}
    assert model.context == 32
    model.network.config.rope_parameters = {"rope_type": "yarn", "original_max_position_embeddings": 64}
    assert model.context == CONTEXT


def fault(folder, **options):
    with pytest.raises(InputError) as caught:
        loading.load(folder, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_absent_folder_is_told(tmp_path):
    assert "does not exist" in fault(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("pattern", "sentence"),
    [
        ("*.safetensors", "has no weights; add *.safetensors"),
        ("tokenizer*", "has no tokenizer; add its tokenizer.json"),
        ("config.json", "is not a checkpoint: config.json is missing"),
    ],
)
def test_a_folder_without_a_part_is_told(broken, pattern, sentence):
    for path in broken.glob(pattern):
        path.unlink()
    assert sentence in fault(broken)
    assert "my model" in fault(broken)


def test_damaged_parts_are_told(broken):
    weights = broken / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    assert "the weights cannot be loaded" in fault(broken)
    weights.write_bytes(whole)
    (broken / "tokenizer.json").write_text("{")
    assert "the tokenizer cannot be loaded" in fault(broken)
    (broken / "config.json").write_text("{")
    assert "config.json is not a valid model configuration" in fault(broken)
    (broken / "config.json").write_text('{"model_type": "no_such_family"}')
    assert "config.json is not a valid model configuration" in fault(broken)


def test_weights_that_are_not_in_the_file_are_told_not_made_up(broken):
    from safetensors.torch import load_file, save_file

    weights = load_file(broken / "model.safetensors")
    del weights["transformer.h.1.mlp.c_fc.weight"]
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    assert "lacks 1 weights, for example transformer.h.1.mlp.c_fc.weight; use a complete checkpoint" in fault(broken)


@pytest.mark.parametrize(
    ("dtype", "remedy"),
    [("float32", "check the weights"), ("float16", "set dtype to float32 or bfloat16, or check the weights")],
)
def test_a_wider_dtype_is_advised_only_where_there_is_one(broken, dtype, remedy):
    from safetensors.torch import load_file, save_file

    weights = load_file(broken / "model.safetensors")
    weights["transformer.h.1.mlp.c_fc.weight"].fill_(float("nan"))
    save_file(weights, broken / "model.safetensors", {"format": "pt"})
    assert fault(broken, device="cpu", dtype=dtype).endswith(f"logits are non-finite in {dtype}; {remedy}")


def test_a_placeholder_of_git_lfs_is_told(broken):
    (broken / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    assert "model.safetensors is a Git LFS pointer without the weights; run `git lfs pull`" in fault(broken)


def test_a_file_in_place_of_a_folder_is_told(broken):
    assert "is a file, not a model folder; specify the folder that contains config.json" in fault(broken / "model.safetensors")


def test_a_tokenizer_that_is_not_fast_gets_no_advice_to_install_packages(broken):
    for path in broken.glob("*token*"):
        path.unlink()
    (broken / "tokenizer.model").write_bytes(b"no tokenizer")
    said = fault(broken)
    assert said.endswith("cannot be loaded without tokenizer.json; add it, or save the tokenizer again with its fast class")


def test_a_family_with_code_of_its_own_is_told_that_it_is_never_run(broken):
    entry = {"model_type": "mine", "auto_map": {"AutoConfig": "configuration_mine.Mine"}}
    (broken / "config.json").write_text(json.dumps(entry))
    assert "config.json requires custom Python code (auto_map), which icl-lens never runs; use a model of a family" in fault(
        broken
    )


def test_another_models_tokenizer_is_told(broken):
    config = json.loads((broken / "config.json").read_text())
    model = loading.load(broken).network
    model.resize_token_embeddings(50)
    model.save_pretrained(broken)
    assert config["vocab_size"] > 50
    assert "use the tokenizer of this model" in fault(broken)


@pytest.mark.parametrize("network", [BertForMaskedLM, BertLMHeadModel])
def test_an_encoder_is_refused(broken, network, tokenizer):
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16
    )
    torch.manual_seed(0)
    (broken / "model.safetensors").unlink()
    network(config).save_pretrained(broken)
    sentence = fault(broken)
    assert "is an encoder (it attends to later tokens); use a decoder-only language model" in sentence


def test_an_encoder_decoder_is_refused(broken, tokenizer):
    (broken / "model.safetensors").unlink()
    config = T5Config(vocab_size=len(tokenizer), d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    T5ForConditionalGeneration(config).save_pretrained(broken)
    assert "'t5' is not a decoder-only language model" in fault(broken)


def test_an_encoder_decoder_with_a_decoder_class_of_its_own_is_refused(broken, tokenizer):
    (broken / "model.safetensors").unlink()
    size = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    BartForConditionalGeneration(BartConfig(vocab_size=len(tokenizer), **size)).save_pretrained(broken)
    assert "'bart' is not a decoder-only language model" in fault(broken)


def test_a_folder_with_code_of_its_own_is_not_run(broken):
    code = "raise SystemExit('the code ran')\n"
    (broken / "configuration_own.py").write_text(code)
    config = json.loads((broken / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "configuration_own.OwnConfig"}}
    (broken / "config.json").write_text(json.dumps(config))
    assert "config.json requires custom Python code (auto_map), which icl-lens never runs" in fault(broken)


def test_weights_of_another_size_are_told(broken):
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps(config | {"n_positions": 64}))
    assert "the size of 1 weights differs from config.json, for example transformer.wpe.weight" in fault(broken)


def test_weights_without_a_place_are_told(broken, caplog):
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps(config | {"n_layer": 2}))
    with caplog.at_level(logging.WARNING):
        assert loading.load(broken).layers == 2
    assert "11 weights are not used because config.json does not include them, for example transformer.h.2" in caplog.text


def test_weights_that_are_not_numbers_are_told(broken):
    network = loading.load(broken).network
    network.transformer.wpe.weight.fill_(float("nan"))
    network.save_pretrained(broken)
    assert "logits are non-finite in float32" in fault(broken)


def test_the_name_of_the_folder_one_stands_in_is_its_own(checkpoint, monkeypatch):
    monkeypatch.chdir(checkpoint)
    assert loading.load(".").name == "tiny"


def test_a_device_that_is_not_there_is_told(checkpoint):
    absent = next(name for name in ("cuda", "mps") if not getattr(torch, name).is_available())
    assert f"device '{absent}' is not available (available: " in fault(checkpoint, device=absent)


@pytest.mark.parametrize("family", FAMILIES)
def test_neither_padding_nor_batch_size_changes_an_answer(language_model, tokenizer, family):
    model = language_model(family)
    prompts = tokenize(prompts_table("agnews", count=9), tokenizer)
    answers = {}
    for budget in (1, 300, 10**6):
        rows = torch.full((len(prompts), len(tokenizer)), torch.nan)
        with torch.inference_mode():
            for batch in batching.batches(model, prompts, budget):
                rows[batch.index] = last_logits(model, batch)
        answers[budget] = rows
    plain = torch.stack([model.network(torch.from_numpy(p.ids)[None]).logits[0, -1] for p in prompts])
    for rows in answers.values():
        assert (rows - plain).abs().max() <= 1e-4 * plain.abs().max()


def test_batches_keep_to_the_budget_and_hold_each_prompt_once(language_model, tokenizer):
    prompts = tokenize(prompts_table("agnews", count=30), tokenizer)
    model = language_model("gpt2")
    cut = list(batching.batches(model, prompts, 600))
    assert sorted(i for batch in cut for i in batch.index) == list(range(30))
    assert all(batch.ids.numel() <= 600 for batch in cut)
    assert len(cut) < 30
    for batch in cut:
        for row, i in enumerate(batch.index):
            length = len(prompts[i].ids)
            assert batch.ids[row, :length].tolist() == prompts[i].ids.tolist()
            assert batch.mask[row].sum() == length == batch.last[row] + 1


def test_tasks_of_different_numbers_of_classes_do_not_share_a_batch(language_model, tokenizer):
    prompts = [*tokenize(prompts_table("sst2"), tokenizer), *tokenize(prompts_table("agnews"), tokenizer)]
    cut = list(batching.batches(language_model("gpt2"), prompts, 10**6))
    assert sorted(i for batch in cut for i in batch.index) == list(range(12))
    assert all(len({len(prompts[i].label_ids) for i in batch.index}) == 1 for batch in cut)


def test_a_prompt_longer_than_the_context_is_left_out_and_said(language_model, tokenizer, caplog):
    model = language_model("gpt2")
    table = prompts_table(count=4)
    table.at[1, "text"] = table.at[1, "text"].replace("\nSentiment:", " fine" * CONTEXT + "\nSentiment:", 1)
    moved = len(" fine" * CONTEXT)
    table.at[1, "label_spans"] = [[s + moved, e + moved] for s, e in table.at[1, "label_spans"]]
    prompts = tokenize(table, tokenizer)
    with caplog.at_level(logging.WARNING):
        fits = batching.fitting(model, prompts)
    assert [p.prompt_id for p in fits] == [100, 102, 103]
    assert f"1 of 4 prompts are longer than the context of gpt2 ({CONTEXT} tokens) and are excluded" in caplog.text
    exact = len(prompts[0].ids)
    model.network.config.n_positions = exact
    assert batching.fitting(model, prompts[:1]) == prompts[:1], "a prompt as long as the context fits"
    model.network.config.n_positions = CONTEXT
    with pytest.raises(InputError, match="all prompts are longer than its context of 512 tokens"):
        batching.fitting(model, [prompts[1]])


def test_a_random_model_is_seen_to_be_untrained(checkpoint, tokenizer):
    prompts = tokenize(prompts_table(), tokenizer)
    model = loading.load(checkpoint)
    assert observe(model, prompts)["untrained"] is True
    # A model that has learned these texts is not untrained. Here, a few training steps fit the model to them.
    network = model.network.requires_grad_(True)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    batch = next(batching.batches(model, prompts, 10**6))
    labels = batch.ids.masked_fill(batch.mask == 0, -100)
    for _ in range(40):
        optimizer.zero_grad()
        network(input_ids=batch.ids, attention_mask=batch.mask, labels=labels).loss.backward()
        optimizer.step()
    assert observe(model, prompts)["untrained"] is False


@pytest.mark.parametrize("family", FAMILIES)
def test_label_words_alone_have_the_logits_that_they_have_among_all(language_model, tokenizer, family):
    model = language_model(family)
    head = model.network.get_output_embeddings()
    prompts = tokenize(prompts_table("trec"), tokenizer)
    with torch.inference_mode():
        for batch in batching.batches(model, prompts, 1000):
            found = class_logits(model, batch)
            expected = last_logits(model, batch).gather(1, batch.label_ids)
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
            assert found.shape == batch.label_ids.shape
    assert model.network.get_output_embeddings() is head


def test_a_vocabulary_matrix_of_another_kind_stays_whole(language_model, tokenizer):
    class Doubled(torch.nn.Linear):
        def forward(self, state):
            return 2 * super().forward(state)

    model = language_model("llama")
    prompts = tokenize(prompts_table(), tokenizer)
    batch = next(batching.batches(model, prompts, 1000))
    with torch.inference_mode():
        expected = 2 * class_logits(model, batch)
        model.network.lm_head.__class__ = Doubled
        torch.testing.assert_close(class_logits(model, batch), expected)


@pytest.mark.parametrize("family", ["gpt2", "gptj", "codegen"])
def test_a_written_out_activation_becomes_one_operation(tmp_path, tokenizer, family):
    network = tiny(family, len(tokenizer))
    network.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded = loading.load(tmp_path, device="cpu").network
    kinds = [{type(module) for module in each.modules()} for each in (network, loaded)]
    assert NewGELUActivation in kinds[0]
    assert NewGELUActivation not in kinds[1]
    ids = torch.arange(1, 20)[None]
    with torch.inference_mode():
        torch.testing.assert_close(loaded(ids).logits, network(ids).logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_of_one_row_in_the_last_layer_are_those_of_all_rows(language_model, tokenizer, family):
    model = language_model(family)
    assert model.last_row_mode
    prompts = tokenize(shared_table("sst2", count=12), tokenizer)
    with torch.inference_mode():
        kept = list(batching.shared_batches(model, prompts, 1000)) + list(batching.batches(model, prompts, 1000))
        assert {bool(batch.prefix) for batch in kept if batch.ids.shape[1] > 1} == {False, True}
        found = [last_logits(model, batch) for batch in kept]
        model.__dict__["last_row_mode"] = None
        for batch, logits in zip(kept, found, strict=True):
            torch.testing.assert_close(logits, last_logits(model, batch), atol=1e-5, rtol=1e-5)


def test_the_last_layer_runs_one_row_through_its_feed_forward_part(language_model, tokenizer):
    model = language_model("llama")
    assert model.last_row_mode == "rows_only"
    widths = []
    for layer in model.network.model.layers:
        layer.mlp.register_forward_hook(lambda module, given, out: widths.append(out.shape[1]))
    batch = next(batching.batches(model, tokenize(prompts_table("trec"), tokenizer), 1000))
    with torch.inference_mode():
        last_logits(model, batch)
    assert widths == [batch.ids.shape[1]] * (model.layers - 1) + [1]


def test_the_loss_of_prompts_that_share_is_that_of_each_alone(language_model, tokenizer):
    model = language_model("gpt2")
    prompts = tokenize(shared_table("trec", count=6), tokenizer)
    losses = []
    for prompt in prompts[:5]:
        ids = torch.from_numpy(prompt.ids)
        logits = model.network(input_ids=ids[None], use_cache=False).logits[0, :-1]
        losses.append(torch.nn.functional.cross_entropy(logits, ids[1:], reduction="none"))
    expected = torch.cat(losses).mean().item()
    assert observe(model, prompts, 5)["next_token_loss"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("family", "last"), [("gpt2", True), ("llama", True), ("gemma3_text", True), ("gemma2", False)])
def test_states_that_meet_the_vocabulary_matrix_later_give_the_same_logits(language_model, family, last):
    network = language_model(family).network
    assert vocabulary.is_plain(network) is last  # Gemma 2 caps its logits
    ids = torch.arange(1, 9)[None]
    plain = network(input_ids=ids).logits
    with vocabulary.defer(network):
        states = network(input_ids=ids).logits
    if last:
        torch.testing.assert_close(network.get_output_embeddings()(states), plain)
