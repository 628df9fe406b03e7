import logging

import numpy as np
import pytest
import torch

from icl_lens.attention.block import block
from icl_lens.attention.record import record, record_rows
from icl_lens.attention.scale import scale
from icl_lens.models import batching, prefixes
from icl_lens.models.logits import last_logits
from icl_lens.network import memory
from icl_lens.prompts.positions import TokenizedPrompt, tokenize
from icl_lens.studies.anchors.icl import compute as icl

from ..differentiation import differentiate
from ..families import FAMILIES
from ..prompts_table import prompts_table, shared_table

# Tolerance against the whole prompts read one by one, relative to the largest logit, in float32.
TOLERANCE = 1e-4


def prompt(ids, anchors=(1,), labels=(0,), number=0):
    return TokenizedPrompt(
        prompt_id=number,
        ids=np.array(ids),
        anchors=np.array(anchors, dtype=np.int64),
        demo_labels=np.array(labels, dtype=np.int64),
        label_ids=np.array([3, 4]),
        gold=0,
        unknown=0,
        seed=42,
        text="",
        spans=np.zeros((len(ids), 2), dtype=np.int64),
    )


def shared_prompts(tokenizer):
    """Return two interleaved groups of three prompts that share their demonstrations, and two prompts that share none."""
    return tokenize(shared_table("agnews", count=8), tokenizer)


def plain_logits(model, prompts):
    with torch.inference_mode():
        return torch.stack([model.network(torch.from_numpy(p.ids)[None]).logits[0, -1] for p in prompts])


def shared_logits(model, prompts, budget):
    rows = torch.full((len(prompts), len(model.tokenizer)), torch.nan)
    with torch.inference_mode():
        for batch in batching.shared_batches(model, prompts, budget):
            rows[batch.index] = last_logits(model, batch)
    return rows


def test_prompts_with_the_same_demonstrations_share_the_longest_common_beginning():
    found = prefixes.groups(
        [
            prompt([1, 2, 3, 4, 5]),
            prompt([9, 2, 3, 4, 5]),
            prompt([1, 2, 3, 8, 5, 6]),
            prompt([1, 7, 3]),
            prompt([9, 2, 3, 4]),
            prompt([1, 2, 3, 4]),
        ]
    )
    assert [(g.index, g.ids.tolist()) for g in found] == [([0, 2, 5], [1, 2, 3]), ([1, 4], [9, 2, 3]), ([3], [])]


def test_prompts_share_only_when_their_anchors_and_classes_are_the_same():
    same = [1, 2, 3, 4]
    found = prefixes.groups([prompt(same), prompt(same, anchors=(0, 1), labels=(0, 1)), prompt(same, labels=(1,))])
    assert [(g.index, len(g.ids)) for g in found] == [([0, 1, 2], 0)]


def test_prompts_without_demonstrations_and_too_few_prompts_stand_alone():
    bare = [prompt([1, 2, 3], anchors=(), labels=()), prompt([1, 2, 4], anchors=(), labels=())]
    assert [(g.index, len(g.ids)) for g in prefixes.groups(bare)] == [([0, 1], 0)]
    pair = [prompt([1, 2, 3, 4]), prompt([1, 2, 3, 5])]
    assert [len(g.ids) for g in prefixes.groups(pair)] == [3]
    assert [(g.index, len(g.ids)) for g in prefixes.groups(pair, min_size=3)] == [([0, 1], 0)]


def test_at_least_one_token_of_each_prompt_remains():
    (group,) = prefixes.groups([prompt([1, 2, 3]), prompt([1, 2, 3]), prompt([1, 2, 3, 4])])
    assert group.ids.tolist() == [1, 2]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("budget", [1, 90, 10**6])
def test_the_logits_are_those_of_whole_prompts(language_model, tokenizer, family, budget):
    model = language_model(family)
    prompts = shared_prompts(tokenizer)
    found = prefixes.groups(prompts)
    assert [len(g.index) for g in found] == [3, 3, 2]
    assert min(len(g.ids) for g in found[:2]) > 33, "longer than the windows of the tiny models"
    assert len({len(p.ids) for p in prompts}) > 3
    assert model.shares_prefixes
    plain, shared = plain_logits(model, prompts), shared_logits(model, prompts, budget)
    assert (shared - plain).abs().max() <= TOLERANCE * plain.abs().max()


@pytest.mark.parametrize("family", FAMILIES)
def test_one_token_after_the_prefix_is_enough(language_model, tokenizer, family):
    model = language_model(family)
    (first, *_) = shared_prompts(tokenizer)
    prompts = [first, first]
    (group,) = prefixes.groups(prompts)
    assert len(group.ids) == first.last
    plain = plain_logits(model, prompts)
    assert (shared_logits(model, prompts, 10**6) - plain).abs().max() <= TOLERANCE * plain.abs().max()


def test_the_study_reads_the_prefix_once_and_the_tails_alone(language_model, tokenizer):
    model = language_model("gpt2")
    prompts = shared_prompts(tokenizer)
    assert model.shares_prefixes
    assert model.last_row_mode  # check both before the hook counts anything
    read = []
    model.network.transformer.wte.register_forward_hook(lambda module, args, output: read.append(args[0].shape))
    icl.compute(model, prompts, 10**6)
    beginnings = prefixes.groups(prompts)
    tails = [(len(g.index), max(len(prompts[i].ids) for i in g.index) - len(g.ids)) for g in beginnings]
    expected = [(1, len(beginnings[0].ids)), tails[0], (1, len(beginnings[1].ids)), tails[1], tails[2]]
    assert [tuple(shape) for shape in read] == expected


def test_batches_of_tails_keep_to_the_budget(language_model, tokenizer):
    model = language_model("gpt2")
    prompts = tokenize(prompts_table("agnews", count=1), tokenizer) * 20
    (group,) = prefixes.groups(prompts)
    prefix = prefixes.read(model.network, group.ids)
    cut = list(batching.batches(model, prompts, 100, group.index, prefix))
    assert sorted(i for batch in cut for i in batch.index) == list(range(20))
    size = int(100 // (1 + memory.TOKEN_SHARE * len(group.ids)))
    assert size > 1
    assert [len(batch.index) for batch in cut] == [size] * (20 // size) + [20 % size] * bool(20 % size)
    for batch in cut:
        assert batch.start == len(group.ids)
        assert batch.last.tolist() == [prompts[i].last for i in batch.index]
        assert batch.positions[0].tolist() == list(range(batch.start, batch.mask.shape[1]))


def test_a_prefix_serves_any_number_of_batches(language_model, tokenizer):
    model = language_model("llama")
    prompts = shared_prompts(tokenizer)
    group = prefixes.groups(prompts)[0]
    prefix = prefixes.read(model.network, group.ids)
    before = [keys.clone() for keys in prefix.keys]
    batch = next(batching.batches(model, prompts, 10**6, group.index, prefix))
    first, second = (last_logits(model, batch) for _ in range(2))
    assert torch.equal(first, second)
    assert all(torch.equal(a, b) for a, b in zip(before, prefix.keys, strict=True))


def halves(model, prompts):
    """Return the first group of prompts, with its prefix, and the batch of its whole prompts."""
    group = prefixes.groups(prompts)[0]
    return group, next(batching.batches(model, prompts, 10**6, group.index))


@pytest.mark.parametrize("family", FAMILIES)
def test_edges_are_blocked_in_the_prefix_and_after_it(language_model, tokenizer, family):
    model = language_model(family)
    prompts = shared_prompts(tokenizer)
    group, whole = halves(model, prompts)
    keys, start = whole.mask.shape[1], len(group.ids)
    edges = torch.zeros(len(group.index), keys, keys, dtype=torch.bool)
    for anchor in prompts[group.index[0]].anchors:
        edges[:, anchor, :anchor] = True  # isolate the label words
    for row, last in enumerate(whole.last):
        edges[row, last, start - 5 : start + 1] = True
    blocked = {0: edges, 2: edges}
    with torch.inference_mode():
        with block(model.network, blocked):
            plain = last_logits(model, whole)
        with block(model.network, {layer: e[:1, :start, :start] for layer, e in blocked.items()}):
            prefix = prefixes.read(model.network, group.ids)
        tails = next(batching.batches(model, prompts, 10**6, group.index, prefix))
        assert tails.index == whole.index
        with block(model.network, {layer: e[:, start:] for layer, e in blocked.items()}):
            shared = last_logits(model, tails)
            with record(model.network):
                written_out = last_logits(model, tails)
        unblocked = last_logits(model, whole)
    assert (shared - plain).abs().max() <= TOLERANCE * plain.abs().max()
    assert (written_out - plain).abs().max() <= TOLERANCE * plain.abs().max()
    assert (unblocked - plain).abs().max() > 0.01 * plain.abs().max()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("length", [1, 7])
def test_an_edge_is_blocked_where_the_fused_kernel_was_handed_no_mask(language_model, family, length):
    model = language_model(family)
    prompts = [prompt([*range(5, 25), *range(30 + shift, 30 + shift + length)], anchors=(19,)) for shift in (0, 40)]
    group, whole = halves(model, prompts)
    assert len(group.ids) == 20
    assert whole.mask.all()
    edges = torch.zeros(2, 20 + length, 20 + length, dtype=torch.bool)
    edges[:, -1, -7:-3] = True  # inside each window
    with torch.inference_mode():
        with block(model.network, {1: edges}):
            plain = last_logits(model, whole)
        tails = next(batching.batches(model, prompts, 10**6, group.index, prefixes.read(model.network, group.ids)))
        with block(model.network, {1: edges[:, 20:]}):
            shared = last_logits(model, tails)
        unblocked = last_logits(model, tails)
    assert (shared - plain).abs().max() <= TOLERANCE * plain.abs().max()
    assert (unblocked - plain).abs().max() > 0.01 * plain.abs().max()


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_are_recorded_scaled_and_differentiated_after_a_prefix(language_model, tokenizer, family):
    model = language_model(family)
    prompts = shared_prompts(tokenizer)
    group, whole = halves(model, prompts)
    start = len(group.ids)
    factors = torch.linspace(0.2, 2.0, whole.mask.shape[1])  # one per key
    gradients = {"whole": {}, "tails": {}}
    recorded = {}
    for kind in ("whole", "tails"):
        with scale(model.network, {1: factors[:start]}):
            prefix = prefixes.read(model.network, group.ids) if kind == "tails" else None
        batch = next(batching.batches(model, prompts, 10**6, group.index, prefix))
        with (
            scale(model.network, {1: factors}),
            record(model.network) as recorded[kind],
            differentiate(model.network, lambda layer, a, g, kind=kind: gradients[kind].update({layer: g.clone()})),
        ):
            last_logits(model, batch).log_softmax(-1)[:, 3].sum().backward()
    last = whole.last - start
    for layer in range(3):
        for found in (recorded, gradients):
            expected = found["whole"][layer][range(len(last)), :, whole.last]
            mine = found["tails"][layer][range(len(last)), :, last]
            assert expected.abs().max() > 0
            assert (mine - expected).abs().max() <= TOLERANCE * expected.abs().max()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("of_the_tails", [slice(None), slice(0, 1)], ids=["padded", "not padded"])
def test_rows_are_recorded_after_a_prefix(language_model, tokenizer, family, of_the_tails):
    model = language_model(family)
    prompts = shared_prompts(tokenizer)
    group = prefixes.groups(prompts)[0]
    index = group.index[of_the_tails]
    with torch.inference_mode():
        whole = next(batching.batches(model, prompts, 10**6, index))
        with record(model.network) as full:
            last_logits(model, whole)
        tails = next(batching.batches(model, prompts, 10**6, index, prefixes.read(model.network, group.ids)))
        with record_rows(model.network, tails.last) as rows:
            last_logits(model, tails)
    for layer in range(3):
        expected = full[layer][range(len(index)), :, whole.last]
        torch.testing.assert_close(rows[layer], expected, atol=1e-5, rtol=1e-4)


def test_a_family_that_cannot_share_reads_every_prompt_whole(language_model, tokenizer, monkeypatch, caplog):
    model = language_model("llama")
    forget = prefixes._FixedLayer.update
    monkeypatch.setattr(prefixes._FixedLayer, "update", lambda self, k, v, *a, **o: forget(self, k, v * 1.01))
    with caplog.at_level(logging.INFO):
        assert [len(g.ids) for g in batching.group_by_prefix(model, shared_prompts(tokenizer))] == [0]
        assert not model.shares_prefixes
    assert caplog.text.count("model llama does not support shared prefixes: each prompt is processed in full") == 1
