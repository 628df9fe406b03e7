import dataclasses

import numpy as np
import pytest
import torch

from icl_lens.errors import InputError
from icl_lens.models import batching, information_flow
from icl_lens.models.logits import class_logits
from icl_lens.prompts.positions import tokenize
from icl_lens.studies.anchors.saliency import compute as saliency

from ..conftest import sentencepiece_like
from ..families import FAMILIES, WINDOWS
from ..prompts_table import prompts_table
from ..reference.saliency import saliency as reference
from ..reference.saliency import variants

# Largest allowed difference from the plain reference in float32, as a share of the largest value.
TOLERANCE = 1e-4


def measured(model, prompts, budget):
    """Return S_wp, S_pq and S_ww as the study computes them, shape (3, N, L)."""
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


VARIANTS = ("s_wp_visible", "s_pq_visible", "s_ww_visible", "s_wp_bos", "s_wp_no_bos")


@pytest.mark.parametrize("family", FAMILIES)
def test_the_variants_agree_with_the_plain_reference(language_model, family):
    tokenizer = sentencepiece_like()
    model = dataclasses.replace(language_model(family), tokenizer=tokenizer)
    prompts = tokenize(prompts_table("agnews", count=3, shots=2), tokenizer)
    assert len({len(p.ids) for p in prompts}) > 1, "some rows of a batch are padded"
    windows = [WINDOWS.get(family, {}).get(layer) for layer in range(3)]
    plain = [
        variants(model.network, p.ids.tolist(), p.anchors.tolist(), p.label_ids.tolist(), p.gold, windows, p.ids[0])
        for p in prompts
    ]
    for budget in (5000, 1):
        rows = saliency.compute(model, prompts, budget)
        for name in VARIANTS:
            expected = np.stack([one[name] for one in plain])  # (N, L)
            found = rows[name].to_numpy().reshape(expected.shape)
            # With windows, the first token may be too far from each label word.
            assert expected.max() > 0 or (name == "s_wp_bos" and family in WINDOWS)
            assert np.abs(found - expected).max() <= TOLERANCE * expected.max()
        same = np.isclose(rows["s_ww"], rows["s_ww_visible"], rtol=1e-9, atol=0).reshape(len(prompts), -1).all(0)
        assert same.tolist() == [size is None for size in windows]


def test_without_a_bos_token_and_windows_the_variants_are_the_papers_means(language_model, tokenizer):
    rows = saliency.compute(language_model("gpt2"), tokenize(prompts_table(), tokenizer), 2000)
    for metric in saliency.METRICS:
        assert rows[f"{metric}_visible"].equals(rows[metric])
    assert rows["s_wp_no_bos"].equals(rows["s_wp"])
    assert (rows["s_wp_bos"] == 0).all()


def test_a_prompt_without_a_label_word_in_reach_has_no_visible_mean(language_model, tokenizer):
    table = prompts_table(count=2)
    start = table.at[0, "query_span"][0]
    table.at[0, "text"] = table.at[0, "text"][:start] + "a fine film , " * 8 + table.at[0, "text"][start:]
    rows = saliency.compute(language_model("gemma3_text"), tokenize(table, tokenizer), 2000)
    first = rows[rows["prompt_id"] == 100].set_index("layer")
    assert first["s_pq_visible"].tolist() == [0, first.at[1, "s_pq"], 0]
    assert first.at[1, "s_pq"] > 0


def test_in_float64_it_is_the_reference_to_rounding(language_model, tokenizer):
    model = language_model("gpt2")  # the eager attention of this family has no float32 step
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
    with pytest.raises(InputError, match="prompt 103 has no demonstration, but saliency requires label words"):
        saliency.compute(language_model("gpt2"), tokenize(table, tokenizer), 2000)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 0.02), (torch.bfloat16, 0.1)])
def test_half_precision_stays_near(language_model, tokenizer, family, dtype, tolerance):
    if family == "deepseek_v3":
        tolerance = 0.1  # a token near the boundary between two experts may switch to the other expert
    if family == "opt" and dtype == torch.bfloat16:
        tolerance = 0.11  # one prompt differs by 0.1013; the mean over all prompts is far smaller
    model = language_model(family)
    prompts = tokenize(prompts_table("agnews"), tokenizer)
    full = measured(model, prompts, 2000)
    model.network.to(dtype)
    half = measured(model, prompts, 2000)
    assert np.isfinite(half).all()
    for metric in range(3):
        error = np.abs(half[metric] - full[metric])
        assert error.mean() <= tolerance * full[metric].mean()
        assert error.max() <= tolerance * full[metric].max()


def confident(model, tokenizer, loss):
    """Return a prompt with the model's prediction as gold label, after setting a bias so that the prompt has the given loss."""
    prompts = tokenize(prompts_table(count=1), tokenizer)
    with torch.inference_mode():
        logits = class_logits(model, next(iter(batching.batches(model, prompts, 2000))))[0]
    wanted = -np.log(np.expm1(loss)) - (logits[0] - logits[1]).item()
    model.network.lm_head.bias[prompts[0].label_ids[0]] += wanted
    return [dataclasses.replace(prompts[0], gold=0)]


@pytest.mark.parametrize("loss", [1e-5, 1e-9, 1e-15])
def test_a_confident_answer_keeps_its_saliency_in_half_precision(language_model, tokenizer, monkeypatch, loss):
    model = language_model("gptj")
    prompts = confident(model, tokenizer, loss)
    full = measured(model, prompts, 2000)
    assert 0 < full.max() < loss
    model.network.half()
    half = measured(model, prompts, 2000)
    # The last logits are less precise in float16, which scales all flows to them by the same factor.
    factor = half.max() / full.max()
    assert 0.9 < factor < 1.1
    assert np.abs(half - factor * full).max() <= 0.01 * full.max()
    start = information_flow._scaled_gradient
    monkeypatch.setattr(
        information_flow, "_scaled_gradient", lambda z, gold: (start(z, gold)[0] / start(z, gold)[1][:, None], torch.ones(1))
    )
    plain = measured(model, prompts, 2000)
    assert np.abs(plain - factor * full).max() > 0.03 * full.max(), "small gradients vanish without the multiple"


def test_the_multiple_is_a_power_of_two_and_its_start_near_one():
    logits = torch.tensor([[0.0, 1.0], [20.0, -3.0], [200.0, -30.0], [-3.0, 20.0], [5000.0, 0.0]])
    start, multiple = information_flow._scaled_gradient(logits, torch.zeros(5, dtype=torch.int64))
    assert (multiple.log2() == multiple.log2().round()).all()
    largest = start.abs().amax(-1)
    assert ((largest[:4] >= 0.5) & (largest[:4] < 1)).all()
    assert start[4].abs().max() == 0
    assert multiple[4] == 1
    np.testing.assert_allclose((start / multiple[:, None])[1], [-1.026188e-10, 1.026188e-10], rtol=1e-6)


def test_values_beyond_a_number_formats_range_are_refused(language_model, tokenizer, monkeypatch):
    model = language_model("gpt2")
    prompts = tokenize(prompts_table(), tokenizer)
    model.network.lm_head.weight.mul_(1e6)
    model.network.half()
    monkeypatch.setattr(saliency, "require_supported", lambda network: None)
    with pytest.raises(
        InputError, match=r"of 6 of 6 prompts \(for example prompt 100\) exceeds the range of float16; set dtype to float32"
    ):
        saliency.compute(model, prompts, 2000)


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
