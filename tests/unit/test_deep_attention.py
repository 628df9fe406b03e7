import numpy as np
import pytest
import torch

from icl_lens.errors import InputError
from icl_lens.models.language_model import LanguageModel
from icl_lens.prompts.positions import tokenize
from icl_lens.statistics.attention_auc import attention_scores
from icl_lens.studies.anchors.deep_attention import compute as deep_attention

from ..conftest import sentencepiece_like
from ..families import FAMILIES, tiny
from ..prompts_table import prompts_table, shared_table
from ..reference.deep_attention import class_attention

# Largest difference from the plain reference, relative to the largest value, in float32.
TOLERANCE = 1e-4


def measured(model, prompts, budget):
    """Return the measured attention scores, shape (N, L, C)."""
    rows = deep_attention.compute(model, prompts, budget)
    return attention_scores(rows, [p.prompt_id for p in prompts]).transpose(1, 0, 2)


def expected(model, prompts):
    arguments = [(p.ids.tolist(), p.anchors.tolist(), p.demo_labels.tolist(), len(p.label_ids)) for p in prompts]
    return np.stack([class_attention(model.network, *each) for each in arguments])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("task", "shots", "make"), [("trec", 1, shared_table), ("emoc", 2, prompts_table)])
def test_it_agrees_with_the_plain_reference(language_model, tokenizer, family, task, shots, make):
    model = language_model(family)
    prompts = tokenize(make(task, shots=shots), tokenizer)
    batched, single = (measured(model, prompts, budget) for budget in (2000, 1))
    plain = expected(model, prompts)
    assert plain.max() > 0
    assert np.abs(batched - plain).max() <= TOLERANCE * plain.max()
    assert np.abs(single - plain).max() <= TOLERANCE * plain.max()


def test_a_beginning_of_sequence_token_moves_nothing():
    tokenizer = sentencepiece_like()
    model = LanguageModel("llama", tiny("llama", len(tokenizer)), tokenizer, "float32", {})
    prompts = tokenize(shared_table("agnews"), tokenizer)
    plain = expected(model, prompts)
    assert np.abs(measured(model, prompts, 2000) - plain).max() <= TOLERANCE * plain.max()


def test_rows_come_prompt_by_prompt_layer_by_layer_class_by_class(language_model, tokenizer):
    prompts = tokenize(prompts_table("agnews", count=2), tokenizer)
    rows = deep_attention.compute(language_model("gpt2"), prompts, 2000)
    assert rows["prompt_id"].tolist() == [100] * 12 + [101] * 12
    assert rows["layer"].tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2] * 2
    assert rows["class"].tolist() == [0, 1, 2, 3] * 6


def test_a_class_without_a_demonstration_has_no_attention(language_model, tokenizer):
    table = prompts_table("sst2", count=1)
    table.at[0, "demo_labels"], table.at[0, "label_spans"] = [0], table.at[0, "label_spans"][:1]
    rows = deep_attention.compute(language_model("gpt2"), tokenize(table, tokenizer), 2000)
    assert (rows[rows["class"] == 1]["attention"] == 0).all()
    assert (rows[rows["class"] == 0]["attention"] > 0).all()


def test_a_prompt_without_demonstrations_is_refused(language_model, tokenizer):
    table = prompts_table()
    table.at[3, "demo_labels"] = table.at[3, "label_spans"] = []
    with pytest.raises(InputError, match="prompt 103 has no demonstration, but deep attention requires label words"):
        deep_attention.compute(language_model("gpt2"), tokenize(table, tokenizer), 2000)


def test_half_precision_stays_near(language_model, tokenizer):
    model = language_model("llama")
    prompts = tokenize(prompts_table(), tokenizer)
    full = measured(model, prompts, 2000)
    model.network.to(torch.bfloat16)
    assert np.abs(measured(model, prompts, 2000) - full).max() <= 0.1 * full.max()


def test_progress_counts_every_prompt(language_model, tokenizer):
    done = []
    deep_attention.compute(language_model("gpt2"), tokenize(prompts_table(count=7), tokenizer), 200, done.append)
    assert sum(done) == 7
    assert len(done) > 1


def test_a_check_on_first_use_does_not_run_while_rows_are_read(language_model, tokenizer):
    model = language_model("llama")
    prompts = tokenize(shared_table("sst2"), tokenizer)
    with torch.no_grad():  # on first use, last_logits checks how the model can compute its last layer
        found = measured(model, prompts, 2000)
    assert "last_row_mode" in vars(model)
    np.testing.assert_allclose(found, expected(model, prompts), atol=TOLERANCE)
