import numpy as np
import pytest
import torch

from icl_lens.attention.keys_and_values import queries_and_keys
from icl_lens.errors import InputError
from icl_lens.models.language_model import LanguageModel
from icl_lens.prompts.positions import tokenize
from icl_lens.studies.anchors.diagnosis import compute as diagnosis
from icl_lens.studies.anchors.diagnosis.study import Settings, counts, main_layer
from icl_lens.studies.anchors.diagnosis.summary import compare
from icl_lens.studies.anchors.icl import compute as icl

from ..conftest import sentencepiece_like
from ..families import FAMILIES, tiny
from ..prompts_table import prompts_table
from ..reference.diagnosis import predicted, projections, real

# Largest difference from the plain reference, relative to the largest value, in float32.
TOLERANCE = 1e-4

REFERENCED = ("gpt2", "gptj", "gpt_neox", "llama", "qwen2", "mistral", "olmo", "gemma2", "phi3", "opt", "starcoder2")


@pytest.fixture(scope="module")
def prompts(tokenizer):
    """Ten prompts for each of two seeds; every third pair of prompts repeats demonstrations."""
    return tokenize(prompts_table("trec", count=20), tokenizer)


def expected(model, family, prompts, pooled, layer, directions):
    """Return the expected confusion, as {(seed's first prompt, keys, M): {(a, b): confusion}}."""
    found = {}
    for seed in dict.fromkeys(p.seed for p in prompts):
        first = next(p for p in prompts if p.seed == seed)
        read = {
            p.prompt_id: projections(model.network, family, p.ids.tolist(), layer) for p in [*pooled, first] if p.seed == seed
        }
        queries = [read[p.prompt_id][0][-1] for p in pooled if p.seed == seed]

        def keys_of(prompt, read=read):
            by_class = dict(zip(prompt.demo_labels.tolist(), prompt.anchors.tolist(), strict=True))
            return [read[prompt.prompt_id][1][by_class[c]] for c in range(len(by_class))]

        distinct = {}
        for prompt in pooled:
            if prompt.seed == seed:
                distinct.setdefault(tuple(prompt.ids[: prompt.anchors[-1] + 1].tolist()), keys_of(prompt))
        for m in directions:
            found[first.prompt_id, "first", m] = predicted(queries, keys_of(first), m)
            each = [predicted(queries, keys, m) for keys in distinct.values()]
            found[first.prompt_id, "pool", m] = {pair: sum(one[pair] for one in each) / len(each) for pair in each[0]}
    return found


def as_mapping(rows):
    found = {}
    for row in rows.itertuples():
        found.setdefault((row.prompt_id, row.keys, row.components), {})[row.class_i, row.class_j] = row.predicted_confusion
    return found


@pytest.mark.parametrize("family", REFERENCED)
def test_predicted_confusion_agrees_with_the_plain_reference(language_model, prompts, family):
    model = language_model(family)
    settings = Settings(directions=3, sweep=[1, 5, 200])
    plain = expected(model, family, prompts, prompts, 2, [1, 3, 5, 200])
    for budget in (2000, 1):
        rows = diagnosis.compute(model, prompts, budget, settings=settings, pooled=prompts)
        measured = as_mapping(rows)
        assert measured.keys() == plain.keys()
        for key, pairs in plain.items():
            assert measured[key].keys() == pairs.keys()
            assert max(abs(measured[key][pair] - value) for pair, value in pairs.items()) <= TOLERANCE
    assert {m: set(part["components_there"]) for m, part in rows.groupby("components")} == {1: {1}, 3: {3}, 5: {5}, 200: {9}}


@pytest.mark.parametrize("family", FAMILIES)
def test_vectors_hang_on_no_turn_of_their_own_layer_and_the_model_stays_as_it_was(family):
    network = tiny(family, 97)
    ids = torch.randint(1, 97, (2, 12), generator=torch.Generator().manual_seed(0))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "use_cache": False}
    with torch.inference_mode():
        before = network(**inputs).logits
        query, key = queries_and_keys(network, inputs, 0)
        # Layer 0 of a family without learned positions: the same token has the same vectors at each position.
        swapped = {**inputs, "input_ids": ids.flip(1)}
        again, key_again = queries_and_keys(network, swapped, 0)
        assert torch.equal(network(**inputs).logits, before)
    if family not in ("gpt2", "opt", "gpt_bigcode"):
        torch.testing.assert_close(again, query.flip(2))
        torch.testing.assert_close(key_again, key.flip(2))
    assert query.shape[:1] + query.shape[2:3] == key.shape[:1] + key.shape[2:3] == (2, 12)
    assert query.shape[1] % key.shape[1] == 0
    assert query.shape[3] == key.shape[3]


def test_a_beginning_of_sequence_token_moves_anchors_and_nothing_else():
    tokenizer = sentencepiece_like()
    model = LanguageModel("llama", tiny("llama", len(tokenizer)), tokenizer, "float32", {})
    prompts = tokenize(prompts_table("agnews", count=12), tokenizer)
    rows = diagnosis.compute(model, prompts, 2000, settings=Settings(directions=3, sweep=[3]), pooled=prompts)
    plain = expected(model, "llama", prompts, prompts, 2, [3])
    for key, pairs in as_mapping(rows).items():
        assert max(abs(value - plain[key][pair]) for pair, value in pairs.items()) <= TOLERANCE


def test_rows_say_layer_sets_and_pairs_in_order(language_model, prompts):
    rows = diagnosis.compute(language_model("gpt2"), prompts, 2000, settings=Settings(layer=1, sweep=[2]), pooled=prompts)
    assert rows["layer"].unique().tolist() == [1]
    assert rows["prompt_id"].tolist() == [100] * 60 + [101] * 60
    assert rows["keys"].tolist() == (["first"] * 30 + ["pool"] * 30) * 2
    assert rows["components"].tolist() == ([2] * 15 + [10] * 15) * 4
    assert list(zip(rows["class_i"], rows["class_j"], strict=True))[:6] == [(0, 1), (0, 2), (0, 3), (0, 4), (0, 5), (1, 2)]
    assert set(rows.loc[rows["keys"] == "first", "sets"]) == {1}
    # Among the ten pooled prompts, those with the same demonstrations count as one set.
    distinct = len({p.ids[: p.anchors[-1] + 1].tobytes() for p in prompts if p.seed == 42})
    assert rows.loc[(rows["keys"] == "pool") & (rows["prompt_id"] == 100), "sets"].unique().tolist() == [distinct]
    assert rows.groupby(["prompt_id", "keys", "components"])["predicted_confusion"].max().loc[:, "first"].eq(1).all()


def test_the_layer_is_two_thirds_of_the_depth_which_is_the_released_one_of_gpt2_xl():
    assert [main_layer(depth) for depth in (48, 28, 6, 3, 1)] == [32, 18, 4, 2, 0]
    assert counts(Settings()) == [5, 10, 20, 50, 100, 200]
    assert counts(Settings(directions=7, sweep=[9, 5])) == [5, 7, 9]


def test_what_cannot_be_diagnosed_is_said(language_model, prompts, tokenizer):
    model = language_model("gpt2")
    with pytest.raises(InputError, match=r"studies\.diagnosis\.layer is 3, but the model has only layers 0 to 2"):
        diagnosis.compute(model, prompts, 2000, settings=Settings(layer=3), pooled=prompts)
    with pytest.raises(
        InputError, match="seed 43 has 1 pooled prompts that fit the model's context, but at least 2 are required"
    ):
        diagnosis.compute(model, prompts, 2000, pooled=[*prompts[::2], prompts[1]])
    two = tokenize(prompts_table("trec", count=2, shots=2), tokenizer)
    with pytest.raises(InputError, match="prompt 100 does not have exactly one demonstration of each class"):
        diagnosis.compute(model, two, 2000, pooled=two)
    with torch.no_grad():
        model.network.transformer.h[2].attn.c_attn.weight[:, 32:64] = 0
    with pytest.raises(InputError, match="seed 42: the keys of all label words are equal in layer 2"):
        diagnosis.compute(model, prompts, 2000, pooled=prompts)


def test_progress_counts_every_prompt(language_model, prompts):
    done = []
    diagnosis.compute(language_model("gpt2"), prompts, 200, done.append, pooled=prompts)
    assert sum(done) == len(prompts)


def test_half_precision_stays_near(language_model, prompts):
    model = language_model("llama")
    settings = Settings(directions=2, sweep=[2])
    full = diagnosis.compute(model, prompts, 2000, settings=settings, pooled=prompts)["predicted_confusion"]
    model.network.to(torch.bfloat16)
    half = diagnosis.compute(model, prompts, 2000, settings=settings, pooled=prompts)["predicted_confusion"]
    assert np.abs(half - full).max() <= 0.1


@pytest.mark.parametrize("family", ["gpt2", "gptj", "gpt_neox", "llama"])
def test_real_confusion_of_the_studied_answers_agrees_with_the_plain_reference(language_model, prompts, family):
    model = language_model(family)
    keys = {"model": family, "set": "ordered-1shot", "task": "trec"}
    seeds = {p.prompt_id: p.seed for p in prompts}
    answers, rows = (
        table.assign(**keys, seed=table["prompt_id"].map(seeds))
        for table in (
            icl.compute(model, prompts, 2000),
            diagnosis.compute(model, prompts, 2000, settings=Settings(directions=2, sweep=[2]), pooled=prompts),
        )
    )
    compared = compare(rows[rows["keys"] == "first"], answers)
    for seed in (42, 43):
        of_seed = [p for p in prompts if p.seed == seed]
        with torch.inference_mode():
            logits = [model.network(torch.from_numpy(p.ids)[None], use_cache=False).logits[0, -1] for p in of_seed]
        log_probs = [row[p.label_ids].double().log_softmax(-1).tolist() for row, p in zip(logits, of_seed, strict=True)]
        expected = real(log_probs, [p.gold for p in of_seed])
        part = compared[(compared["seed"] == seed) & compared["real"].notna()]
        assert {(r.class_i, r.class_j): r.real for r in part.itertuples()} == pytest.approx(expected, abs=TOLERANCE)
        assert len(set(expected.values())) > 1
