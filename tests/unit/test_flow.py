import numpy as np
import pytest
import torch

from icl_lens.errors import InputError
from icl_lens.prompts.positions import tokenize
from icl_lens.studies import registry
from icl_lens.studies.anchors.flow import compute as flow
from icl_lens.studies.anchors.flow.study import Settings
from icl_lens.studies.anchors.saliency import compute as saliency
from icl_lens.studies.run import run
from tests import artifacts

from ..families import FAMILIES
from ..prompts_table import prompts_table
from ..reference.saliency import information_flow as reference

# Largest difference from the plain reference, relative to the largest value, in float32.
TOLERANCE = 1e-4
EVERYTHING = Settings(seeds=2, prompts=3, least=0)


def matrix(rows, layer, length):
    """Return the edges of one prompt and layer as a matrix, shape (T, T)."""
    edges = rows[rows["layer"] == layer]
    found = np.zeros((length, length))
    found[edges["query"], edges["key"]] = edges["saliency"]
    return found


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("task", ["sst2", "trec"])
def test_every_edge_agrees_with_the_plain_reference(language_model, tokenizer, family, task):
    model = language_model(family)
    prompts = tokenize(prompts_table(task), tokenizer)
    rows = flow.compute(model, prompts, 700, settings=EVERYTHING)
    assert set(rows["prompt_id"]) == {p.prompt_id for p in prompts}
    for prompt in prompts:
        plain = reference(model.network, prompt.ids.tolist(), prompt.label_ids.tolist(), prompt.gold)
        own = rows[rows["prompt_id"] == prompt.prompt_id]
        for layer, expected in enumerate(plain):
            expected = np.tril(expected, -1)
            assert expected.max() > 0
            assert np.abs(matrix(own, layer, len(prompt.ids)) - expected).max() <= TOLERANCE * expected.max()
            totals = own.loc[own["layer"] == layer, "layer_total"]
            assert totals.nunique() == 1
            assert totals.iloc[0] == pytest.approx(expected.sum(), rel=TOLERANCE)


def test_edges_below_the_share_are_left_out_and_the_layers_total_still_counts_them(language_model, tokenizer):
    model = language_model("llama")
    prompts = tokenize(prompts_table("agnews", count=2), tokenizer)
    everything = flow.compute(model, prompts, 2000, settings=EVERYTHING)
    some = flow.compute(model, prompts, 2000, settings=Settings(seeds=2, prompts=3, least=0.05, least_attention=2))
    assert len(some) < len(everything) / 2
    largest = everything.groupby(["prompt_id", "layer"])["saliency"].transform("max")
    expected = everything[everything["saliency"] >= 0.05 * largest].reset_index(drop=True)
    assert some.equals(expected)
    sums = everything.groupby(["prompt_id", "layer"])["saliency"].sum()
    np.testing.assert_allclose(some.groupby(["prompt_id", "layer"])["layer_total"].first(), sums, rtol=1e-9)


def test_its_edges_hold_what_saliency_averages(language_model, tokenizer):
    model = language_model("gpt2")
    prompts = tokenize(prompts_table("emoc", count=1, shots=2), tokenizer)
    rows = flow.compute(model, prompts, 2000, settings=EVERYTHING)
    model.__dict__["supports_single_row"] = False  # make saliency use all rows, as the information flow does
    means = saliency.compute(model, prompts, 2000)
    into = rows[rows["query"].isin(prompts[0].anchors)]
    out = rows[(rows["query"] == prompts[0].last) & rows["key"].isin(prompts[0].anchors)]
    # In the last layer no information flows into label words, so this layer has no such edges.
    wp, pq = (part.groupby("layer")["saliency"].sum().reindex(range(3), fill_value=0.0) for part in (into, out))
    np.testing.assert_allclose(wp / prompts[0].anchors.sum(), means["s_wp"], rtol=1e-9)
    np.testing.assert_allclose(pq / len(prompts[0].anchors), means["s_pq"], rtol=1e-9)
    own = rows.groupby("layer")[["s_wp", "s_pq", "s_ww"]]
    assert (own.nunique() == 1).all(axis=None)
    np.testing.assert_allclose(own.first(), means[["s_wp", "s_pq", "s_ww"]], rtol=1e-9)


@pytest.mark.parametrize("family", ["gpt2", "gptj", "gpt_neox", "llama"])
def test_attention_stands_beside_the_flow_and_keeps_edges_of_its_own(language_model, tokenizer, family):
    model = language_model(family)
    prompts = tokenize(prompts_table("sst2", count=2), tokenizer)
    rows = flow.compute(model, prompts, 2000, settings=Settings(seeds=2, least=0.9, least_attention=0.1))
    model.network.set_attn_implementation("eager")
    for prompt in prompts:
        with torch.no_grad():
            plain = model.network(torch.tensor([prompt.ids.tolist()]), output_attentions=True).attentions
        for layer, weights in enumerate(plain):
            mean = np.tril(weights[0].mean(0).numpy(), -1)  # (T, T)
            edges = rows[(rows["prompt_id"] == prompt.prompt_id) & (rows["layer"] == layer)]
            np.testing.assert_allclose(edges["attention"], mean[edges["query"], edges["key"]], atol=1e-6)
            assert (mean >= 0.1001).sum() <= (edges["attention"] >= 0.1).sum()


def test_it_takes_the_first_prompt_of_the_first_seed_or_those_that_are_asked_for(tokenizer):
    prompts = tokenize(prompts_table(), tokenizer)  # prompts 100 to 105, with seeds 42 and 43 in turn

    def ids(**settings):
        return [p.prompt_id for p in flow.select_prompts(prompts, Settings(**settings))]

    assert ids() == [100, 102, 104, 101, 103, 105]
    assert ids(seeds=1, prompts=1) == [100]
    assert ids(seeds=1, prompts=2) == [100, 102]
    assert ids(seeds=2, prompts=2) == [100, 102, 101, 103]
    assert ids(prompt_ids=[105, 101, 105]) == [101, 105]
    assert ids(seeds=1, prompts=1, also=[105, 102, 100]) == [100, 102, 105]
    assert ids(prompt_ids=[104], also=[103]) == [104, 103]
    for settings in ({"prompt_ids": [100, 7]}, {"also": [7]}):
        with pytest.raises(
            InputError, match=r"prompt 7 \(items\.\*\.prompt, .* does not exist .*choose a prompt_id from 100 to 105"
        ):
            ids(**settings)


def test_a_layer_along_which_nothing_flows_keeps_one_edge_of_nothing(language_model, tokenizer):
    model = language_model("gpt2")
    prompts = tokenize(prompts_table(count=1), tokenizer)
    # The probability of the gold label is exactly 1 in float64, so the loss and the gradient are 0.
    model.network.lm_head.bias = torch.nn.Parameter(torch.zeros(len(tokenizer)), requires_grad=False)
    model.network.lm_head.bias[prompts[0].label_ids[prompts[0].gold]] = 1e4
    rows = flow.compute(model, prompts, 2000, settings=Settings(seeds=1, prompts=1, least_attention=2))
    assert rows["layer"].tolist() == [0, 1, 2]
    assert (rows[["saliency", "layer_total"]] == 0).all(axis=None)


def test_values_beyond_a_number_formats_range_are_refused(language_model, tokenizer, monkeypatch):
    model = language_model("gpt2")
    model.network.lm_head.weight.mul_(1e6)
    model.network.half()
    monkeypatch.setattr(flow, "require_supported", lambda network: None)
    with pytest.raises(
        InputError, match=r"of 1 of 1 prompts \(for example prompt 100\) exceeds the range of float16; set dtype to float32"
    ):
        flow.compute(model, tokenize(prompts_table(), tokenizer), 2000, settings=Settings(seeds=1, prompts=1))


def test_a_prompt_without_demonstrations_is_refused_when_it_is_taken(language_model, tokenizer):
    table = prompts_table()
    table.at[3, "demo_labels"] = table.at[3, "label_spans"] = []
    prompts = tokenize(table, tokenizer)
    with pytest.raises(InputError, match="prompt 103 has no demonstration, but saliency requires label words"):
        flow.compute(language_model("gpt2"), prompts, 2000, settings=EVERYTHING)
    assert set(flow.compute(language_model("gpt2"), prompts, 2000, settings=Settings(seeds=1))["prompt_id"]) == {100, 102, 104}


def test_progress_ends_at_the_number_of_prompts(language_model, tokenizer):
    done = []
    flow.compute(language_model("gpt2"), tokenize(prompts_table(count=7), tokenizer), 200, done.append)
    assert sum(done) == 7


def test_an_artifact_says_its_settings_and_fits_its_schema(checkpoint, tmp_path):
    metadata = artifacts.describe("prompts", "icl_lens.prompts.protocol", inputs={}, settings={}, seeds=[42, 43])
    artifacts.write(tmp_path / "prompts" / "sst2.parquet", prompts_table(count=4), metadata)
    out = tmp_path / "studies" / "flow.parquet"
    settings = Settings(seeds=1, prompts=2)
    run(registry.study("flow"), checkpoint, tmp_path / "prompts" / "sst2.parquet", out, settings=settings, device="cpu")
    rows, found = artifacts.read(out, "flow")
    assert sorted(set(rows["prompt_id"])) == [100, 102]
    assert {k: found["settings"][k] for k in Settings.model_fields} == settings.model_dump()
