"""Tests of the limit on what a model computes for one batch on a CPU."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoConfig, AutoModelForCausalLM

from icl_lens.attention.flow import flows
from icl_lens.config.keys import EMBEDDED_MODEL
from icl_lens.models import batching, generation, logits, observed
from icl_lens.models.language_model import LanguageModel
from icl_lens.network import activations, memory
from icl_lens.prompts.positions import tokenize
from icl_lens.studies.anchors import isolating
from icl_lens.studies.anchors.icl import compute as icl
from icl_lens.studies.anchors.isolation import compute as isolation
from icl_lens.studies.anchors.saliency import compute as saliency

from ..families import FAMILIES, UNSUPPORTED, tiny, unsupported
from ..prompts_table import prompts_table

VOCABULARY = 2**16
NO_BUDGET = 10**6  # tokens per batch: more than all prompts together have


class Largest(TorchDispatchMode):
    """Number of elements of the largest tensor that operations create, excluding the model's weights and their views."""

    def __init__(self, network):
        super().__init__()
        self.weights = {p.untyped_storage().data_ptr() for p in network.parameters()}
        self.elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else (made,):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().data_ptr() not in self.weights:
                self.elements = max(self.elements, tensor.numel())
        return made


@pytest.fixture(scope="module")
def wide():
    return tiny("gpt2", VOCABULARY, layers=2).eval().requires_grad_(False)


@pytest.fixture
def wide_model(wide, tokenizer):
    return LanguageModel("wide", wide, tokenizer, "float32", {})


@pytest.mark.parametrize("study", [icl, isolation, saliency])
def test_no_tensor_outgrows_the_limit_whatever_the_budget_and_no_result_changes(study, wide_model, tokenizer, monkeypatch):
    prompts = tokenize(prompts_table("sst2", count=8), tokenizer)
    settings = {"settings": isolating.Settings(targets=["label"], layers=[1])} if study is isolation else {}
    whole = study.compute(wide_model, prompts, NO_BUDGET, **settings)
    monkeypatch.setattr(memory, "LIMIT", 2**22)
    assert 4 * 3 * len(prompts) * VOCABULARY > memory.LIMIT, "all prompts at once would take more"
    with Largest(wide_model.network) as largest:
        cut = study.compute(wide_model, prompts, NO_BUDGET, **settings)
    assert 4 * largest.elements <= memory.LIMIT
    numbers = whole.select_dtypes("number").columns
    np.testing.assert_allclose(cut[numbers], whole[numbers], rtol=1e-4, atol=1e-9)


def test_prompts_that_end_at_different_places_have_one_row_of_logits_each(wide_model, tokenizer, monkeypatch):
    monkeypatch.setattr(logits, "_LOGITS", 2**20)
    prompts = tokenize(prompts_table("agnews", count=12), tokenizer)
    batch = next(batching.batches(wide_model, prompts, NO_BUDGET))
    assert len(set(batch.last.tolist())) > 4
    head = wide_model.network.get_output_embeddings()
    with torch.inference_mode(), Largest(wide_model.network) as largest:
        found = logits.last_logits(wide_model, batch)
    assert largest.elements <= len(prompts) * VOCABULARY
    assert wide_model.network.get_output_embeddings() is head
    for row, place in enumerate(batch.index):
        alone = wide_model.network(torch.from_numpy(prompts[place].ids)[None]).logits[0, -1]
        torch.testing.assert_close(found[row], alone, atol=1e-4, rtol=1e-4)


def test_greedy_answers_make_one_row_of_logits_for_each_prompt(wide_model, tokenizer, monkeypatch):
    prompts = tokenize(prompts_table("agnews", count=12), tokenizer)
    expected = generation.greedy_answers(wide_model, prompts, 2, 1)
    monkeypatch.setattr(memory, "LIMIT", 2**24)
    monkeypatch.setattr(logits, "_LOGITS", 2**20)
    with Largest(wide_model.network) as largest:
        assert generation.greedy_answers(wide_model, prompts, 2, NO_BUDGET) == expected
    assert 4 * largest.elements <= memory.LIMIT


def test_the_loss_of_a_large_vocabulary_is_that_of_the_first_tokens(wide_model, tokenizer, monkeypatch):
    prompts = tokenize(prompts_table("sst2", count=4), tokenizer)
    monkeypatch.setattr(observed, "MAX_LOGITS", 6 * VOCABULARY)
    with Largest(wide_model.network) as largest:
        found = observed.observe(wide_model, prompts)["next_token_loss"]
    assert largest.elements <= 7 * VOCABULARY
    ids = torch.from_numpy(prompts[0].ids)
    log_probs = wide_model.network(ids[None]).logits[0].log_softmax(-1)
    assert found == pytest.approx(-log_probs[range(6), ids[1:7]].mean().item(), rel=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_backward_pass_holds_is_within_what_is_counted(family):
    network = tiny(family, 300).eval().requires_grad_(False)
    activations.fuse(network)  # models.load does the same
    weights = {p.untyped_storage().data_ptr() for p in network.parameters()}
    saved = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = (tensor, storage.nbytes())
        return tensor

    ids = torch.arange(1, 101).view(2, 50)
    hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    with hooks, flows(network, lambda *_: None):
        network(input_ids=ids, use_cache=False, logits_to_keep=1).logits.sum()
    held = sum(size for _, size in saved.values())
    sizes = memory.sizes(network)
    counted = 4 * ids.numel() * 2 * sizes.outputs * sizes.layers
    assert counted / 3 <= held <= counted, f"{held / counted:.2f} of what is counted"


@pytest.mark.parametrize("family", UNSUPPORTED)
def test_the_sizes_of_any_family_can_be_read(family):
    sizes = memory.sizes(unsupported(family, 300)[0])
    assert sizes.vocabulary == 300
    assert 0 < sizes.row_bytes(10, 10) < sizes.row_bytes(10, 10, "graph")


def test_the_embedded_models_batches_are_those_of_the_budget():
    with torch.device("meta"):
        network = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(EMBEDDED_MODEL))
    sizes = memory.sizes(network)
    assert not sizes.bounded, "other devices follow the budget alone"
    on_cpu = replace(sizes, bounded=True)
    for tokens in (16, 60, 150, 300):
        for kept in ("layer", "states", "graph"):
            assert on_cpu.max_rows(4096, tokens, 0, kept) == 4096 // tokens
            assert on_cpu.max_rows(4096, tokens, 200, kept) == sizes.max_rows(4096, tokens, 200, kept)
    assert on_cpu.max_cached_tokens(4096) == 4 * 4096


def test_batches_of_a_graphics_card_have_little_padding(wide_model, tokenizer, monkeypatch):
    table = prompts_table("trec", count=4)
    (example, *_) = tokenize(table, tokenizer)
    lengths = [20 + 3 * (i % 30) for i in range(120)]
    prompts = [replace(example, ids=np.resize(example.ids, length)) for length in lengths]

    def padded(bounded):
        monkeypatch.setitem(vars(wide_model), "sizes", replace(memory.sizes(wide_model.network), bounded=bounded))
        found = list(batching.batches(wide_model, prompts, 8192))
        assert sorted(i for batch in found for i in batch.index) == list(range(len(prompts)))
        return found, sum(batch.ids.numel() for batch in found) / sum(lengths)

    _, on_cpu = padded(True)
    batches, on_card = padded(False)
    assert on_card < 1.12 < 1.25 < on_cpu
    busy = [batch.ids.numel() for batch in batches[:-1]]
    assert min(busy) >= batching._BUSY_TOKENS
