"""Tests of which edges can exist in a layer, and of how a table tells of those that cannot."""

import dataclasses

import pytest
import torch
from transformers import Llama4ForCausalLM, Llama4TextConfig

from icl_lens.attention.record import record
from icl_lens.attention.visible import visible_positions
from icl_lens.models.edges import count_edges, count_visible_edges, observe_windows
from icl_lens.network.layers import decoder_layers
from icl_lens.prompts.positions import tokenize

from ..families import FAMILIES, UNSUPPORTED, WINDOWS, tiny, unsupported
from ..prompts_table import prompts_table

VOCABULARY = 97


def in_reach(visible, length):
    """Return the visible positions of each layer as dense tensors, shape (L, T, T)."""
    return torch.stack([torch.ones(length, length).tril().bool() if mask is None else mask for mask in visible])


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_visible_positions_are_those_with_a_weight(family, kernel):
    network = tiny(family, VOCABULARY)
    if kernel == "eager":
        network.set_attn_implementation("eager")
    ids = torch.arange(1, 41)[None]
    with record(network) as weights, torch.no_grad():
        network(input_ids=ids, use_cache=False)
    visible = visible_positions(network, 40)
    expected = torch.stack([weights[layer][0].amax(0) > 0 for layer in range(3)])  # (L, T, T)
    assert torch.equal(in_reach(visible, 40), expected)
    assert {layer for layer, mask in enumerate(visible) if mask is not None} == set(WINDOWS.get(family, {}))


@pytest.mark.parametrize("family", FAMILIES)
def test_only_queries_keys_and_values_are_computed(family):
    network = tiny(family, VOCABULARY)
    called = []
    for name, module in network.named_modules():
        if name.rpartition(".")[2].lower() in ("mlp", "block_sparse_moe", "fc2", "lm_head"):
            module.register_forward_hook(lambda *_, name=name: called.append(name))
    layers = [dict(vars(layer)) for layer in decoder_layers(network)]
    visible_positions(network, 20)
    # The first layer runs once with two tokens, which shows what layers return.
    assert len(called) == 1
    assert [dict(vars(layer)) for layer in decoder_layers(network)] == layers


def test_a_chunk_hides_the_positions_before_it():
    config = Llama4TextConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        intermediate_size_mlp=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        num_local_experts=2,
        attention_chunk_size=8,
        no_rope_layers=[1, 0],
        pad_token_id=None,
        bos_token_id=None,
        eos_token_id=None,
    )
    visible = visible_positions(Llama4ForCausalLM(config).eval(), 20)
    places = torch.arange(20)
    same_chunk = places[:, None] // 8 == places // 8
    assert torch.equal(visible[0], same_chunk.tril())
    assert visible[1] is None


@pytest.mark.parametrize("family", UNSUPPORTED)
def test_a_family_that_does_not_show_its_masks_is_unknown_or_causal(family):
    network, _ = unsupported(family, VOCABULARY)
    visible = visible_positions(network, 12)
    assert visible is None or len(visible) == network.config.num_hidden_layers


@pytest.mark.parametrize("family", ["gpt2", "mistral", "gemma2", "gemma3_text"])
def test_edges_are_counted_one_by_one(language_model, tokenizer, family):
    model = language_model(family)
    prompts = tokenize(prompts_table("agnews", count=3, shots=2), tokenizer)
    found = count_visible_edges(model, prompts)
    windows = WINDOWS.get(family, {})
    for n, prompt in enumerate(prompts):
        for layer in range(3):
            counts = {"wp": 0, "pq": 0, "ww": 0}
            for i in range(len(prompt.ids)):
                for j in range(max(0, i - windows.get(layer, 10**6) + 1), i):
                    to_last = i == prompt.last and j in prompt.anchors
                    counts["wp" if i in prompt.anchors else "pq" if to_last else "ww"] += 1
            assert found[:, n, layer].tolist() == list(counts.values())
    every, observed = count_edges(prompts), observe_windows(model, prompts)
    assert observed["window_layers"] == len(windows)
    for kind, number in (("wp", 0), ("pq", 1), ("ww", 2)):
        hidden = every[number].sum() * 3 - found[number].sum()
        assert observed[f"edges_{kind}"] == [hidden, every[number].sum() * len(windows)]


def test_a_prompt_shorter_than_the_window_has_all_edges(language_model, tokenizer):
    model = language_model("mistral")
    prompt = tokenize(prompts_table(count=1), tokenizer)[0]
    short = dataclasses.replace(prompt, ids=prompt.ids[-30:], anchors=prompt.anchors[:0])
    assert observe_windows(model, [short]) == {"window_layers": 0, "edges_wp": [0, 0], "edges_pq": [0, 0], "edges_ww": [0, 0]}
