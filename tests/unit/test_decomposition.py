from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from icl_lens.errors import InputError
from icl_lens.prompts.demonstration_places import places
from icl_lens.prompts.positions import tokenize
from icl_lens.studies.component_reweighting.decomposition import (
    CONSTANT,
    EMBEDDING,
    HEAD,
    MLP,
    Decomposer,
    _reconstructs,
    decompose,
    parts,
)

from ..families import FAMILIES, UNSUPPORTED, tiny, unsupported
from ..prompts_table import prompts_table, shared_table
from ..reference import kernel_regression as attended
from ..reference.components import PLACES, component_logits

# Largest difference in float32, relative to the largest value: between the sum of the parts and the model's own logits, and
# between a part and the plain reference.
TOLERANCE = 1e-4


def own_logits(network: PreTrainedModel, prompt) -> torch.Tensor:
    """Return the model's label logits of a whole prompt, without soft-capping."""
    with torch.inference_mode():
        logits = network(input_ids=torch.tensor([prompt.ids.tolist()]), use_cache=False).logits[0, -1].double()
    cap = getattr(network.config.get_text_config(), "final_logit_softcapping", None)
    logits = cap * torch.atanh(logits / cap) if cap else logits
    return logits[torch.from_numpy(prompt.label_ids)]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_parts_sum_to_the_label_logits_whatever_is_shared_or_padded(language_model, tokenizer, family):
    model = language_model(family)
    decomposer = Decomposer(model.network)
    prompts = tokenize(shared_table("agnews", count=5), tokenizer)
    expected = torch.stack([own_logits(model.network, p) for p in prompts])
    for budget in (2000, 1):
        found = decompose(model, decomposer, prompts, budget)
        assert found.parts.shape == (5, 2 + 3 * (4 + 1), 4)
        for logits in (found.parts.sum(1), found.logits):
            error = float((logits - expected).abs().max() / expected.abs().max())
            print(f"{family}: {error:.1e} of the largest logit, {budget} tokens a batch")
            assert error <= TOLERANCE
    assert found.attention.min() >= 0
    assert (found.attention.sum(-1) <= 4 + 1e-5).all()


@pytest.mark.parametrize("family", PLACES)
def test_each_part_is_that_of_the_plain_reference(language_model, tokenizer, family):
    model = language_model(family)
    prompts = tokenize(prompts_table("trec", count=2), tokenizer)
    found = decompose(model, Decomposer(model.network), prompts, 2000)
    for prompt, g in zip(prompts, found.parts.numpy(), strict=True):
        expected, _ = component_logits(model.network, prompt.ids.tolist(), prompt.label_ids.tolist())
        assert np.abs(expected[:-1]).max(1).min() > 0
        assert np.abs(g - expected).max() <= TOLERANCE * np.abs(expected).max()


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("budget", [2000, 1])
def test_a_head_reconstructs_the_answer_where_its_largest_weights_add_up_to_it(language_model, tokenizer, family, budget):
    model = language_model(family)
    assert family != "llama" or model.network.config.num_key_value_heads < model.network.config.num_attention_heads
    table = prompts_table("trec", count=3, shots=2)
    prompts = tokenize(table, tokenizer)
    found = decompose(model, Decomposer(model.network), prompts, budget).reconstructed
    for number, (row, prompt) in enumerate(zip(table.to_dict("records"), prompts, strict=True)):
        encoding = tokenizer(row["text"], add_special_tokens=False, return_offsets_mapping=True)
        tokens = list(zip(encoding["input_ids"], encoding["offset_mapping"], strict=True))
        before = len(prompt.ids) - len(tokens)
        demonstrations = attended.demonstration_tokens(row, tokens, before, drop_first=True)
        rows, logits = attended.last_rows(model.network, prompt.ids.tolist())
        answer = int(logits[prompt.label_ids].argmax())
        for layer, heads in enumerate(rows):
            for head, weights in enumerate(heads):
                largest = attended.pooled(weights, demonstrations)["max"]
                shares = attended.reconstruction(largest, row["demo_labels"], len(row["label_words"]))
                first, second = sorted(shares, reverse=True)[:2]
                assert first - second > 1e-6  # no tie that rounding could change
                assert found[number, layer, head] == float(shares.index(first) == answer)
    assert 0 < found.mean() < 1


def test_attention_that_is_not_asked_for_changes_no_part_and_is_zero(language_model, tokenizer):
    model = language_model("gpt2")
    prompts = tokenize(prompts_table("trec", count=2), tokenizer)
    decomposer = Decomposer(model.network)
    full, bare = (decompose(model, decomposer, prompts, 2000, with_attention=choice) for choice in (True, False))
    assert torch.equal(full.parts, bare.parts)
    assert torch.equal(full.logits, bare.logits)
    assert full.attention.min() > 0
    assert not bare.attention.any()
    assert not bare.reconstructed.any()


def test_equal_sums_count_by_the_chance_of_a_fair_draw(tokenizer):
    (prompt,) = tokenize(prompts_table("trec", count=1), tokenizer)
    where = places(prompt, drop_first=True)
    weights = np.zeros((1, 3, len(prompt.ids)), dtype=np.float32)  # (L, H, T)
    weights[0, 1, where.starts[2]] = weights[0, 1, where.stops[4] - 1] = 0.5
    weights[0, 2, 0] = 0.9  # not part of a demonstration, so it is ignored
    weights[0, 2, where.labels[4]] = 0.1
    answer = prompt.demo_labels[4]
    assert _reconstructs(prompt, weights, answer, 6).tolist() == [[1 / 6, 0.5, 1]]


def test_attention_of_a_prompt_without_demonstrations_is_refused(language_model, tokenizer):
    model = language_model("gpt2")
    (prompt,) = tokenize(prompts_table(count=1), tokenizer)
    bare = replace(prompt, anchors=prompt.anchors[:0])
    with pytest.raises(InputError, match="prompt 100 has no demonstration"):
        decompose(model, Decomposer(model.network), [bare], 2000)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_silent_head_and_a_silent_mlp_have_no_logits(language_model, tokenizer, family):
    model = language_model(family)
    decomposer = Decomposer(model.network)
    layer = decomposer._layers[1]
    weight = layer.projection.weight
    with torch.no_grad():
        (weight if isinstance(layer.projection, Conv1D) else weight.T)[2 * 8 : 3 * 8] = 0
    table = decomposer.parts()
    place = table[(table["kind"] == HEAD) & (table["layer"] == 1) & (table["head"] == 2)].index[0]
    found = decompose(model, Decomposer(model.network), tokenize(prompts_table(count=2), tokenizer), 2000)
    silent = found.parts.abs().amax((0, 2)) == 0
    assert silent.nonzero().flatten().tolist() == [place, *([len(table) - 1] if family == "llama" else [])]


def test_the_parts_are_named_in_their_order():
    table = parts(2, 2)
    assert table["kind"].tolist() == [EMBEDDING, HEAD, HEAD, MLP, HEAD, HEAD, MLP, CONSTANT]
    assert table["layer"].tolist() == [-1, 0, 0, 0, 1, 1, 1, -1]
    assert table["head"].tolist() == [-1, 0, 1, -1, 0, 1, -1, -1]


def test_prompts_with_other_label_words_in_one_batch_are_read_by_their_own(language_model, tokenizer):
    model = language_model("gpt2")
    tables = [prompts_table(task, count=1).assign(prompt_id=n) for n, task in enumerate(("agnews", "emoc"))]
    prompts = [tokenize(table, tokenizer)[0] for table in tables]
    found = decompose(model, Decomposer(model.network), prompts, 4000)
    expected = torch.stack([own_logits(model.network, p) for p in prompts])
    assert (found.parts.sum(1) - expected).abs().max() <= TOLERANCE * expected.abs().max()


@pytest.mark.parametrize("family", [f for f in UNSUPPORTED if f not in ("gpt_oss", "diffllama")])
def test_a_family_that_cannot_be_decomposed_is_refused_by_name(family):
    network, _ = unsupported(family, 300)
    with pytest.raises(InputError, match=f"model family '{family}' (cannot be decomposed|is not supported): ") as raised:
        Decomposer(network)
    assert "\n" not in str(raised.value)


def test_a_model_that_writes_more_than_is_heard_is_refused():
    network = tiny("llama", 300)
    plain = network.model.layers[1].mlp.forward
    network.model.layers[1].mlp.forward = lambda x: plain(x)
    layer = network.model.layers[1]
    whole = layer.forward
    layer.forward = lambda *args, **kwargs: 1.1 * whole(*args, **kwargs)
    with pytest.raises(InputError, match="adds more to the residual stream than the outputs of its attention and its MLP"):
        Decomposer(network)


def test_half_precision_stays_near(language_model, tokenizer):
    model = language_model("llama")
    prompts = tokenize(prompts_table(), tokenizer)
    full = decompose(model, Decomposer(model.network), prompts, 2000).parts
    model.network.to(torch.bfloat16)
    half = decompose(model, Decomposer(model.network), prompts, 2000).parts
    assert half.dtype == torch.float32
    assert (half - full).abs().max() <= 0.1 * full.abs().max()
