import numpy as np
import pytest
import torch

from icl_lens.errors import InputError
from icl_lens.positions import tokenize
from icl_lens.studies import saliency

from ..conftest import sentencepiece_like
from ..families import FAMILIES
from ..prompts_table import prompts_table
from ..reference.saliency import saliency as reference

# Agreement with the plain reference, as a share of the largest value, in float32.
TOLERANCE = 1e-4


def measured(model, prompts, budget):
    """Shape (3, N, L)."""
    rows = saliency.compute(model, prompts, budget)
    assert rows["prompt_id"].tolist() == np.repeat([p.prompt_id for p in prompts], 3).tolist()
    assert rows["layer"].tolist() == [0, 1, 2] * len(prompts)
    return np.stack([rows[metric].to_numpy().reshape(len(prompts), -1) for metric in saliency.METRICS])


def expected(model, prompts):
    values = [reference(model.network, p.ids.tolist(), p.anchors.tolist(), p.label_ids.tolist(), p.gold) for p in prompts]
    return np.stack(values, axis=1)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("task", "shots"), [("sst2", 1), ("emoc", 2)])
def test_it_agrees_with_the_plain_reference(language_model, tokenizer, family, task, shots):
    model = language_model(family)
    prompts = tokenize(prompts_table(task, shots=shots), tokenizer)
    batched, single = (measured(model, prompts, budget) for budget in (2000, 1))
    plain = expected(model, prompts)
    for metric in range(3):
        assert plain[metric].max() > 0
        assert np.abs(batched[metric] - plain[metric]).max() <= TOLERANCE * plain[metric].max()
        assert np.abs(single[metric] - plain[metric]).max() <= TOLERANCE * plain[metric].max()


def test_in_float64_it_is_the_reference_to_rounding(language_model, tokenizer):
    model = language_model("gpt2")  # the family whose eager attention has no float32 step inside
    model.network.double()
    prompts = tokenize(prompts_table(), tokenizer)
    plain = expected(model, prompts)
    assert np.abs(measured(model, prompts, 2000) - plain).max() <= 1e-12 * plain.max()


def test_a_beginning_of_sequence_token_counts_as_a_word(language_model):
    tokenizer = sentencepiece_like()
    model = language_model("llama")
    assert len(tokenizer) <= model.network.config.vocab_size
    prompts = tokenize(prompts_table("agnews"), tokenizer)
    plain = expected(model, prompts)
    assert np.abs(measured(model, prompts, 2000) - plain).max() <= TOLERANCE * plain.max()


def test_a_prompt_without_demonstrations_is_refused(language_model, tokenizer):
    table = prompts_table()
    table.at[3, "demo_labels"] = table.at[3, "label_spans"] = []
    with pytest.raises(InputError, match="prompt 103 has no demonstration; saliency needs label words"):
        saliency.compute(language_model("gpt2"), tokenize(table, tokenizer), 2000)


def test_half_precision_stays_near(language_model, tokenizer):
    model = language_model("llama")
    prompts = tokenize(prompts_table(), tokenizer)
    full = measured(model, prompts, 2000)
    model.network.to(torch.bfloat16)
    half = measured(model, prompts, 2000)
    assert np.isfinite(half).all()
    assert np.abs(half - full).max() <= 0.2 * full.max()


def test_the_gold_label_matters(language_model, tokenizer):
    model = language_model("gpt2")
    table = prompts_table()
    right = measured(model, tokenize(table, tokenizer), 2000)
    table["gold"] = 1 - table["gold"]
    assert not np.allclose(measured(model, tokenize(table, tokenizer), 2000), right, rtol=0.01)


def test_progress_counts_every_prompt(language_model, tokenizer):
    done = []
    saliency.compute(language_model("gpt2"), tokenize(prompts_table(count=7), tokenizer), 200, done.append)
    assert sum(done) == 7
    assert len(done) > 1
