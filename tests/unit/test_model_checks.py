"""Tests that a check of a model calls it as the studies do that rely on the result."""

from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from icl_lens.attention import flow, flow_kernel, kernels, last_layer, supported, visible
from icl_lens.attention.masks import additive_mask, causal_mask
from icl_lens.models import batching, last_row, prefixes
from icl_lens.models.logits import last_logits
from icl_lens.network import layer_states, vocabulary
from icl_lens.network.layers import decoder_layers

from ..families import tiny
from .test_prefixes import TOLERANCE, plain_logits, prompt

VOCABULARY = 97
CHECKS = {
    "is_shareable": prefixes.is_shareable,
    "last_row_mode": last_row.last_row_mode,
    "supports_single_row": flow.supports_single_row,
    "require_supported": supported.require_supported,
    "can_resume": layer_states.can_resume,
    "is_plain": vocabulary.is_plain,
    "visible_positions": lambda network: visible.visible_positions(network, 12),
}


@contextmanager
def arguments_of(network):
    """Record the names of the arguments of each forward pass, and whether it has a cache."""
    calls = set()

    def note(module, args, kwargs):
        assert not args
        calls.add((frozenset(kwargs) - {"logits_to_keep"}, kwargs["use_cache"]))

    handle = network.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield calls
    finally:
        handle.remove()


def production_calls(model):
    """Return the arguments of the forward passes of batches: whole prompts, tails, and last tokens."""
    prompts = [prompt(range(5, 20)), prompt([*range(5, 15), 30, 31])]
    prefix = prefixes.read(model.network, np.arange(5, 15))
    with arguments_of(model.network) as calls, torch.inference_mode():
        model.network(**next(batching.batches(model, prompts, 10**6)).inputs())
        last_logits(model, next(batching.batches(model, prompts, 10**6)))
        model.network(**next(batching.batches(model, prompts, 10**6, prefix=prefix)).inputs())
        read = prefixes.read_each(model.network, [p.ids[10:-1] for p in prompts], prefix)
        model.network(**batching.last_tokens(model, prompts, read).inputs())
    return calls


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("family", ["gpt2", "mistral"])
def test_a_check_passes_the_arguments_of_the_studies(language_model, family, check):
    model = language_model(family)
    expected = production_calls(model)
    with arguments_of(model.network) as calls:
        CHECKS[check](model.network)
    assert calls
    assert calls <= expected
    if check == "is_shareable":
        assert calls == expected


def test_a_model_that_needs_a_mask_after_a_prefix_does_not_share_prefixes(monkeypatch):
    """Batches pass no mask after a prefix, so a model that then sees only the tail must read each prompt in full."""
    network = tiny("llama", VOCABULARY)
    assert prefixes.is_shareable(network)
    forward = network.forward

    def blind(*args, attention_mask=None, past_key_values=None, **kwargs):
        if attention_mask is None and past_key_values is not None and past_key_values.get_seq_length():
            length = past_key_values.get_seq_length()
            attention_mask = torch.ones(len(kwargs["input_ids"]), length + kwargs["input_ids"].shape[1], dtype=torch.int64)
            attention_mask[:, :length] = 0
        return forward(*args, attention_mask=attention_mask, past_key_values=past_key_values, **kwargs)

    monkeypatch.setattr(network, "forward", blind)
    assert not prefixes.is_shareable(network)


def test_a_model_that_ignores_padding_on_the_left_does_not_share_prefixes(monkeypatch):
    """The last tokens of several prompts follow prefixes that are padded on the left."""
    network = tiny("llama", VOCABULARY)
    forward = network.forward
    monkeypatch.setattr(network, "forward", lambda *args, attention_mask=None, **kwargs: forward(*args, **kwargs))
    assert not prefixes.is_shareable(network)


def attention_tensors(queries=7, keys=11):
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(2, 4, queries, 8, generator=generator, requires_grad=True)
    key, value = (torch.randn(2, 2, keys, 8, generator=generator) for _ in range(2))
    return query, key, value


@pytest.mark.parametrize("elements", [2**19, 40])
def test_flow_without_a_mask_is_causal(monkeypatch, elements):
    monkeypatch.setitem(flow_kernel._ELEMENTS, "cpu", elements)
    query, key, value = attention_tensors()
    results = []
    for mask in (None, causal_mask(7, 11, query.device), additive_mask(None, 7, 11, torch.float32, query.device)):
        flows = []
        output = flow_kernel.attend(query, key, value, mask, 0.3, None, lambda *f, flows=flows: flows.extend(f), True)
        output.square().sum().backward()
        results.append((output, *flows))
    repeated = (x.repeat_interleave(2, 1) for x in (key, value))
    causal = torch.ones(7, 11, dtype=torch.bool).tril(4)
    plain = torch.nn.functional.scaled_dot_product_attention(query, *repeated, attn_mask=causal, scale=0.3)
    for output, flow_values, weights in results:
        torch.testing.assert_close(output, plain)
        assert not flow_values[:, ~causal].any()
        assert not weights[:, ~causal].any()
        torch.testing.assert_close(flow_values, results[2][1])


@pytest.mark.parametrize("mask", [None, torch.ones(7, 11, dtype=torch.bool).tril(4)[None, None]], ids=["none", "boolean"])
def test_explicit_attention_without_a_mask_is_causal(mask):
    query, key, value = attention_tensors()
    seen = []
    module = SimpleNamespace(layer_idx=0, **{kernels.EDITS: (lambda layer, weights: seen.append(weights) or weights,)})
    output, weights = kernels.attend(module, query, key, value, mask)
    causal = torch.ones(7, 11, dtype=torch.bool).tril(4)
    assert not weights[..., ~causal].any()
    repeated = (x.repeat_interleave(2, 1) for x in (key, value))
    plain = torch.nn.functional.scaled_dot_product_attention(query, *repeated, attn_mask=causal)
    torch.testing.assert_close(output.transpose(1, 2), plain)


def give_last_layer(network, **extra):
    """Make the last layer of a network receive further arguments, which change its output."""
    layer = decoder_layers(network)[-1]
    forward = type(layer).forward

    class Layer(type(layer)):
        def forward(self, hidden_states, *args, extra=None, **kwargs):
            return forward(self, hidden_states + extra.sum(), *args, **kwargs)

    layer.__class__ = Layer
    layer.register_forward_pre_hook(lambda module, args, kwargs: (args, {**kwargs, **extra}), with_kwargs=True)


@pytest.mark.parametrize("shape", [(1, 30), (2, 30), (1, 30, 4), (1, 1, 30, 30)])
def test_an_unknown_layer_argument_is_never_taken_for_positions(language_model, shape):
    """The argument has as many entries as the prompts have tokens, which no check on shorter inputs can see."""
    model = language_model("llama")
    give_last_layer(model.network, extra=torch.full(shape, 1 / np.prod(shape)))
    prompts = [prompt(range(5, 35)), prompt([*range(3, 23), *range(40, 50)], number=1)]
    plain = plain_logits(model, prompts)
    (batch,) = batching.batches(model, prompts, 10**6)
    with torch.inference_mode():
        found = last_logits(model, batch)
    assert (found - plain[batch.index]).abs().max() <= TOLERANCE * plain.abs().max()
    assert not flow.supports_single_row(model.network)


def test_known_layer_arguments_are_selected_by_name_at_any_width():
    rows = torch.tensor([2, 5])
    cosine = torch.arange(64.0).view(1, 8, 8)  # as wide as long
    assert torch.equal(last_layer._select_rows("position_embeddings", (cosine,), rows, 8)[0], cosine[0, rows][:, None])
    mask = torch.arange(2 * 8 * 8).view(2, 1, 8, 8)
    selected = last_layer._select_rows("attention_mask", mask, rows, 8)
    assert torch.equal(selected, torch.stack([mask[0, :, 2:3], mask[1, :, 5:6]]))
    for name, wrong in (("position_ids", mask), ("attention_mask", mask[:, 0, 0]), ("position_embeddings", mask)):
        with pytest.raises(TypeError, match=f"layer argument '{name}' of shape"):
            last_layer._select_rows(name, wrong, rows, 8)


def test_a_last_layer_without_a_mask_is_causal_after_a_prefix(language_model, monkeypatch):
    """A kernel may be causal without a mask even if there are fewer queries than keys. A single row then needs a mask."""

    def attend(module, query, key, value, attention_mask, **arguments):
        if attention_mask is None:
            attention_mask = causal_mask(query.shape[-2], key.shape[-2], query.device)
        return sdpa_attention_forward(module, query, key, value, attention_mask, **arguments)

    AttentionInterface.register("causal_by_default", attend)
    AttentionMaskInterface.register("causal_by_default", lambda *_, **__: None)
    model = language_model("llama")
    model.network.set_attn_implementation("causal_by_default")
    prompts = [prompt(range(5, 25)), prompt([*range(5, 18), 40, 41], number=1)]
    plain = plain_logits(model, prompts)
    prefix = prefixes.read(model.network, np.arange(5, 18))
    (batch,) = batching.batches(model, prompts, 10**6, prefix=prefix)
    cache = prefix.cache(2)
    with torch.inference_mode(), last_layer.last_layer_at(model.network, batch.last - batch.start, cache):
        found = model.network(**{**batch.inputs(), "past_key_values": cache}).logits[:, 0]
    assert (found - plain[batch.index]).abs().max() <= TOLERANCE * plain.abs().max()
