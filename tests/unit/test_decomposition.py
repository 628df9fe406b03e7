import numpy as np
import pytest
import torch
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from icl_lens.decomposition import CONSTANT, EMBEDDING, HEAD, MLP, Decomposer, decompose, parts
from icl_lens.errors import InputError
from icl_lens.positions import tokenize

from ..families import FAMILIES, UNSUPPORTED, tiny, unsupported
from ..prompts_table import prompts_table, shared_table
from ..reference.components import PLACES, component_logits

# In float32: of the parts' sum from the model's own logits, and of a part from the plain reference, as shares of the largest.
TOLERANCE = 1e-4


def own_logits(network: PreTrainedModel, prompt) -> torch.Tensor:
    """A whole prompt's label logits as the model gives them, soft-capping undone."""
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
    with pytest.raises(InputError, match="adds more to the residual stream than its attention and its MLP"):
        Decomposer(network)


def test_half_precision_stays_near(language_model, tokenizer):
    model = language_model("llama")
    prompts = tokenize(prompts_table(), tokenizer)
    full = decompose(model, Decomposer(model.network), prompts, 2000).parts
    model.network.to(torch.bfloat16)
    half = decompose(model, Decomposer(model.network), prompts, 2000).parts
    assert half.dtype == torch.float32
    assert (half - full).abs().max() <= 0.1 * full.abs().max()
