"""Tests of what is measured for a single prompt: the flow of each head, isolated label words, and the logit lens."""

import numpy as np
import pytest
import torch

from icl_lens.errors import InputError
from icl_lens.models.logit_lens import logit_lens
from icl_lens.network import model_cache
from icl_lens.prompts.positions import tokenize
from icl_lens.studies.anchors import single_prompt
from icl_lens.studies.anchors.isolating import Settings
from icl_lens.studies.anchors.isolation import compute as isolation

from ..families import FAMILIES
from ..prompts_table import prompts_table
from ..reference.isolation import isolated_logits
from ..reference.logit_lens import logit_lens as reference_lens
from ..reference.saliency import head_products

# Largest difference from the plain reference, relative to the largest value, in float32.
TOLERANCE = 1e-4


def prompt_of(tokenizer, task="trec", number=1):
    return tokenize(prompts_table(task), tokenizer)[number]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_flow_of_each_head_agrees_with_the_plain_reference(language_model, tokenizer, family):
    model, prompt, found = language_model(family), prompt_of(tokenizer), {}
    multiple = single_prompt.head_flows(model, prompt, lambda layer, *matrices: found.__setitem__(layer, matrices))
    plain = head_products(model.network, prompt.ids.tolist(), prompt.label_ids.tolist(), prompt.gold)
    assert sorted(found) == [0, 1, 2]
    for layer, (product, weights) in enumerate(plain):
        flow, attention = found[layer]
        expected = np.tril(np.abs(product), -1)
        assert expected.max() > 0
        assert np.abs(flow / multiple - expected).max() <= TOLERANCE * expected.max()
        assert np.abs(attention - np.tril(weights, -1)).max() <= TOLERANCE
        assert (flow.sum(0) / multiple - np.tril(np.abs(product.sum(0)), -1)).min() >= -TOLERANCE * expected.max()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_logit_lens_agrees_with_the_plain_reference(language_model, tokenizer, family):
    model, prompts = language_model(family), tokenize(prompts_table("trec", count=3), tokenizer)
    rows = logit_lens(model, prompts, batch_tokens=300, top_tokens=2)
    assert rows["prompt_id"].tolist() == [p.prompt_id for p in prompts for _ in range(3)]
    for prompt in prompts:
        plain = reference_lens(model.network, prompt.ids.tolist()).double()  # (L, V)
        own = rows[rows["prompt_id"] == prompt.prompt_id]
        labels = plain[:, torch.from_numpy(prompt.label_ids)]  # (L, C)
        scale = TOLERANCE * plain.abs().max().item()
        np.testing.assert_allclose(np.stack(own["class_log_probs"]), labels.log_softmax(-1), atol=scale)
        log_probs = plain.log_softmax(-1)
        probabilities = log_probs.exp()[:, torch.from_numpy(prompt.label_ids)].sum(-1)
        np.testing.assert_allclose(own["label_probability"], probabilities, rtol=10 * scale)
        top = log_probs.topk(2)
        np.testing.assert_allclose(np.stack(own["top_log_probs"]), top.values, atol=scale)
        assert np.stack(own["top_tokens"])[:, 0].tolist() == top.indices[:, 0].tolist()


def test_a_model_without_states_between_layers_has_no_logit_lens(language_model, tokenizer):
    model = language_model("llama")
    model.__dict__["can_resume"] = False
    assert logit_lens(model, [prompt_of(tokenizer)]) is None


@pytest.mark.parametrize("blocking", ["before_softmax", "after_softmax"])
@pytest.mark.parametrize("family", FAMILIES)
def test_an_isolated_label_word_gives_the_prediction_of_the_plain_reference(language_model, tokenizer, family, blocking):
    model, prompt = language_model(family), prompt_of(tokenizer, "sst2")
    rows = single_prompt.isolate_label_words(model, prompt, 400, Settings(layers=[1, 2], blocking=blocking))
    words = [single_prompt.ALL, 0, 1]
    assert rows["word"].tolist() == [word for word in words for _ in range(4)]
    for row in rows.itertuples():
        positions = prompt.anchors.tolist() if row.word == single_prompt.ALL else [prompt.anchors[row.word]]
        layers = range(row.layers) if row.side == "first" else range(3 - row.layers, 3)
        plain, _ = isolated_logits(model.network, prompt.ids.tolist(), positions, layers, blocking)
        expected = plain[torch.from_numpy(prompt.label_ids)].double().log_softmax(-1)
        np.testing.assert_allclose(row.class_log_probs, expected, atol=TOLERANCE * plain.abs().max().item())
        assert row.prediction == expected.argmax()


def test_all_isolated_label_words_give_the_prediction_of_the_study(language_model, tokenizer):
    model, prompt = language_model("gpt2"), prompt_of(tokenizer)
    settings = Settings(targets=["label"])
    own = single_prompt.isolate_label_words(model, prompt, 2000)
    of_study = isolation.compute(model, [prompt], 2000, settings=settings)
    every = own[own["word"] == single_prompt.ALL]
    assert every[["side", "layers", "prediction"]].values.tolist() == of_study[["side", "layers", "prediction"]].values.tolist()


def test_a_prompt_without_demonstrations_is_refused(language_model, tokenizer):
    table = prompts_table(count=1)
    table.at[0, "demo_labels"] = table.at[0, "label_spans"] = []
    (prompt,) = tokenize(table, tokenizer)
    model = language_model("gpt2")
    with pytest.raises(InputError, match="prompt 100 has no demonstration, but isolation requires label words"):
        single_prompt.isolate_label_words(model, prompt)
    with pytest.raises(InputError, match="prompt 100 has no demonstration, but saliency requires label words"):
        single_prompt.head_flows(model, prompt, print)


def test_a_check_of_a_model_runs_once_inside_a_context_and_again_after_it():
    network, runs = torch.nn.Linear(1, 1), []

    @model_cache.cached_check
    def check(network):
        runs.append(network)

    with model_cache.remembered(network), model_cache.remembered(network):
        check(network)
        check(network)
    assert len(runs) == 1
    check(network)
    check(network)
    assert len(runs) == 3
