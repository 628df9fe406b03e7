"""Tests of the probes of keys and values: the features, the fit, the evaluation and the summary."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from icl_lens.attention.keys_and_values import queries_and_keys, record_keys_and_values
from icl_lens.errors import InputError
from icl_lens.models.batching import batches
from icl_lens.prompts.positions import tokenize
from icl_lens.statistics.resampling import Bootstrap
from icl_lens.studies.inputs import Given
from icl_lens.studies.kernel_regression.label_probes import compute as label_probes
from icl_lens.studies.kernel_regression.label_probes.study import PROBES, Settings
from icl_lens.studies.kernel_regression.label_probes.summary import summarise

from ..families import FAMILIES, tiny
from ..prompts_table import prompts_table
from ..reference import label_probes as reference
from ..reference.single_texts import next_token

TOLERANCE = 1e-4
CORE = ("gpt2", "gptj", "gpt_neox", "llama")
OFFSETS = [-1, 0, 2]


@pytest.fixture(scope="module")
def prompts(tokenizer):
    return tokenize(prompts_table("agnews", count=10), tokenizer)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_recorded_is_what_attention_reads_and_the_model_stays_as_it_was(family):
    network = tiny(family, 97)
    ids = torch.randint(1, 97, (2, 12), generator=torch.Generator().manual_seed(0))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "position_ids": torch.arange(12).expand(2, -1)}
    inputs["use_cache"] = False
    with torch.inference_mode():
        plain = network(**inputs).logits
        with record_keys_and_values(network) as alone:
            read_alone = network(**inputs).logits
        with record_keys_and_values(network, unrotated=True) as memory:
            read_both = network(**inputs).logits
        cached = network(**{**inputs, "use_cache": True}).past_key_values
        assert list(alone) == list(memory) == [0, 1, 2]
        for layer, (key, value, unrotated) in memory.items():
            expected = queries_and_keys(network, inputs, layer)[1]
            assert (unrotated - expected).abs().max() <= 1e-5 * expected.abs().max()
            assert torch.equal(alone[layer].key, key)
            assert torch.equal(alone[layer].value, value)
            assert alone[layer].unrotated_key is None
            if family != "deepseek_v3":  # its cache holds the inputs from which keys and values are computed
                for stored, found in ((cached.layers[layer].keys, key), (cached.layers[layer].values, value)):
                    kept = stored.shape[2]  # a layer with a sliding window keeps only the last positions
                    assert (stored - found[:, :, -kept:]).abs().max() <= 1e-5 * found.abs().max()
        assert torch.equal(network(**inputs).logits, plain)
    for logits in (read_alone, read_both):
        assert (logits - plain).abs().max() <= 1e-4 * plain.abs().max()


@pytest.mark.parametrize("family", CORE)
def test_features_agree_with_the_plain_reference(language_model, prompts, family):
    model = language_model(family)
    for budget in (2000, 1):
        with torch.inference_mode():
            read, available = label_probes.features(model, prompts[:3], budget, OFFSETS)
        assert available.all()
        for layer in range(model.layers):
            start = 0
            for prompt in prompts[:3]:
                ids = prompt.ids.tolist()
                keys, values = reference.projected(model.network, family, ids, layer)
                turned, _ = reference.cached(model.network, ids, layer)
                stop = start + len(prompt.anchors)
                for name, expected in (("key", keys), ("turned_key", turned), ("value", values)):
                    found = read[name][layer][:, :, start:stop].double().numpy()  # (H, O, D, d)
                    for place, offset in enumerate(OFFSETS):
                        plain = expected[prompt.anchors + offset].transpose(1, 0, 2)  # (H, D, d)
                        assert np.abs(found[:, place] - plain).max() <= TOLERANCE * np.abs(plain).max()
                start = stop
    if family == "llama":  # grouped-query attention: two key and value heads for four query heads
        assert read["key"][0].shape[0] == 2


def test_ridge_agrees_with_the_normal_equations():
    generator = np.random.default_rng(0)
    fitted, tested = generator.normal(size=(2, 30, 4)), generator.normal(size=(2, 12, 4))
    classes = generator.integers(0, 3, 30)
    for penalty in (0.01, 5.0):
        found = label_probes.ridge(torch.from_numpy(fitted), classes, torch.from_numpy(tested), penalty)
        for head in range(2):
            assert found[head].tolist() == reference.ridge(fitted[head].tolist(), classes.tolist(), tested[head], penalty)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_accuracies_are_those_of_the_definition_and_no_tested_text_is_fitted_on(language_model, prompts, family):
    model = language_model(family)
    settings = Settings(offsets=[0, 1], folds=3, tokens=3, ridge=0.5)
    rows = label_probes.compute(model, prompts, 2000, settings=settings)
    folds = np.random.default_rng(settings.seed).permutation(len(prompts)) % 3
    demos = []
    for number, prompt in enumerate(prompts):
        for (a, b), anchor, label in zip(prompt.text_spans, prompt.anchors, prompt.demo_labels, strict=True):
            inside = (prompt.spans[:, 1] > a) & (prompt.spans[:, 1] <= b)
            demos.append((number, prompt.text[a:b], prompt.ids[inside].tolist(), anchor, int(label)))
    announced = {text: int(next_token(model.network, ids).argmax()) for _, text, ids, _, _ in demos}
    tokens = [announced[text] for _, text, *_ in demos]
    kept = sorted(set(tokens), key=lambda t: (-tokens.count(t), t))[:3]
    layer = 1
    memory = [reference.cached(model.network, p.ids.tolist(), layer) for p in prompts]
    before = [reference.projected(model.network, family, p.ids.tolist(), layer)[0] for p in prompts]
    heads = memory[0][0].shape[1]
    for feature, target in PROBES:
        for offset in (0, 1):
            for fold in range(3):
                part = [d for d, token in zip(demos, tokens, strict=True) if target == "label" or token in kept]
                tested = [d for d in part if folds[d[0]] == fold]
                fitted = [d for d in part if folds[d[0]] != fold and d[1] not in {t[1] for t in tested}]

                def answer(demo, target=target):
                    return demo[4] if target == "label" else announced[demo[1]]

                for head in range(heads):

                    def vector(demo, head=head, feature=feature, offset=offset):
                        where = {"key": before[demo[0]], "turned_key": memory[demo[0]][0], "value": memory[demo[0]][1]}
                        return where[feature][demo[3] + offset, head]

                    answers = reference.ridge(
                        [vector(d) for d in fitted], [answer(d) for d in fitted], [vector(d) for d in tested], 0.5
                    )
                    hits = [a == answer(d) for a, d in zip(answers, tested, strict=True)]
                    chosen = {"feature": feature, "target": target, "offset": offset, "fold": fold, "layer": 1, "head": head}
                    row = rows.loc[(rows[list(chosen)] == pd.Series(chosen)).all(axis=1)]
                    assert len(row) == 1
                    assert row["accuracy"].iloc[0] == pytest.approx(np.mean(hits))
                    assert row["fitted"].iloc[0] == len(fitted)
                    assert sum(row["asked"].iloc[0]) == len(tested)
                    assert sum(row["right"].iloc[0]) == sum(hits)
                    assert [p.prompt_id for n, p in enumerate(prompts) if folds[n] == fold and n in {d[0] for d in tested}] == (
                        row["members"].iloc[0]
                    )


def test_a_position_that_is_not_there_is_not_asked(language_model, tokenizer):
    model = language_model("gpt2")
    prompts = tokenize(prompts_table("sst2", count=6), tokenizer)
    far = max(len(p.ids) for p in prompts)
    with torch.inference_mode():
        read, available = label_probes.features(model, prompts, 2000, [0, far])
    assert available.tolist() == [[True] * 12, [False] * 12]
    assert (read["value"][0][:, 1] == 0).all()
    with pytest.raises(InputError, match=rf"fold 0 at offset {far} has 0 demonstrations to test"):
        label_probes.compute(model, prompts, 2000, settings=Settings(offsets=[far], folds=2))


def test_the_majority_is_that_of_what_is_fitted_on():
    tokens = np.array([7, 7, 5, 5, 9, 3])
    assert label_probes.keep_most_frequent(tokens, 2).tolist() == [7, 7, 5, 5, -1, -1]
    assert label_probes.keep_most_frequent(tokens, 3).tolist() == [7, 7, 5, 5, -1, 3]  # ties go to the smaller id


def test_the_first_prompts_of_each_seed_are_read(language_model, tokenizer):
    table = prompts_table(count=9)
    read = Given(language_model("gpt2"), table, {}, Settings(queries=2), "auto", False, lambda rows: tokenize(rows, tokenizer))
    found = label_probes.prepare(read)
    assert [prompt.prompt_id for prompt in found.prompts] == [100, 101, 102, 103]
    assert (found.left_out, dict(found.more)) == (0, {})


def test_what_cannot_be_probed_is_refused_in_one_sentence(language_model, tokenizer):
    model = language_model("gpt2")
    with pytest.raises(InputError, match="3 prompts cannot be divided into 5 folds"):
        label_probes.compute(model, tokenize(prompts_table(count=3), tokenizer), 2000)
    table = prompts_table(count=6)
    table.at[3, "demo_labels"] = table.at[3, "label_spans"] = table.at[3, "text_spans"] = []
    with pytest.raises(InputError, match="prompt 103 has no demonstration, but probes require label words"):
        label_probes.compute(model, tokenize(table, tokenizer), 2000)


def test_the_same_seed_gives_the_same_rows_and_batches_change_none(language_model, prompts):
    model, settings = language_model("gpt_neox"), Settings(offsets=[0], folds=2)
    rows = label_probes.compute(model, prompts, 2000, settings=settings)
    pd.testing.assert_frame_equal(rows, label_probes.compute(model, prompts, 2000, settings=settings))
    other = label_probes.compute(model, prompts, 2000, settings=Settings(offsets=[0], folds=2, seed=1))
    assert not rows["members"].equals(other["members"])
    assert len(list(batches(model, prompts, 1))) == len(prompts)
    single = label_probes.compute(model, prompts, 1, settings=settings)
    assert (single["accuracy"] - rows["accuracy"]).abs().max() < 0.05  # rounding may change a vote that is nearly tied


# This hand-made table has two folds of two prompts, three offsets, and one layer of two heads.
@pytest.fixture
def table():
    rows = []
    for fold, members in enumerate([[1, 2], [3, 4]]):
        for offset, right in ((-1, ([0, 0], [4, 4])), (0, ([4, 4], [4, 2])), (1, ([2, 2], [1, 1]))):
            for head in range(2):
                rows.append(
                    {
                        **{"model": "m", "set": "fresh-2shot", "task": "sst2", "seed": 42, "prompt_id": members[0]},
                        **{"feature": "value", "target": "label", "offset": offset, "fold": fold, "layer": 0, "head": head},
                        **{"fitted": 8, "classes": 2, "majority": 0.5, "members": members, "asked": [4, 4]},
                        **{"right": right[head], "accuracy": sum(right[head]) / 8},
                    }
                )
    return pd.DataFrame(rows)


def test_the_summary_counts_all_folds_together_and_says_whether_offset_0_is_best(table):
    whole = summarise(table, Bootstrap(resamples=100))
    accuracy = whole[whole["metric"] == "accuracy"].set_index(["offset", "layer", "head"])["value"]
    assert accuracy[0, 0, 0] == 1
    assert accuracy[0, 0, 1] == 0.75
    means = whole[whole["metric"] != "accuracy"].set_index(["metric", "offset"])
    assert means["head"].isna().all()
    assert means.loc["layer", "layer"].tolist() == [0, 0, 0]
    assert means.loc[["mean", "peak"], "layer"].isna().all()
    assert means.loc[("layer", 0), "value"] == means.loc[("mean", 0), "value"] == 0.875
    assert means.loc[("mean", 1), "value"] == 0.375
    assert means.loc["peak", "value"].to_dict() == {-1: 0.375, 1: 0.5}  # no offset is selected
    peak = means.loc[("peak", 1)]
    # Head 1 is correct for 4 of 4 or 2 of 4, so a resample of the prompts moves the mean between the two.
    assert 0.375 <= peak["prompts_low"] < 0.5 < peak["prompts_high"] <= 0.625
    # Student's t interval of a mean of four prompts, whose values have a standard deviation of .125.
    assert peak["high"] - 0.5 == pytest.approx(0.125 / 2 * stats.t.ppf(0.975, 3), rel=0.25)
    assert peak["prompts"] == 4
    assert peak["demonstrations"] == 16
    assert (whole["majority"] == 0.5).all()


@pytest.mark.parametrize("spoil", [lambda t: t.drop(index=0), lambda t: pd.concat([t, t.head(1)])])
def test_a_table_with_a_probe_missing_or_twice_is_refused(table, spoil):
    with pytest.raises(InputError, match="missing or duplicate folds, offsets, layers or heads"):
        summarise(spoil(table))
