"""Tests of texts read alone, their similarity, and its relation to attention."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from icl_lens.errors import InputError
from icl_lens.models.language_model import LanguageModel
from icl_lens.prompts.positions import tokenize
from icl_lens.statistics.resampling import Bootstrap
from icl_lens.studies.kernel_regression import single_texts
from icl_lens.studies.kernel_regression.prediction_similarity import compute as prediction_similarity
from icl_lens.studies.kernel_regression.prediction_similarity.summary import (
    agree_by_chance,
    correlate,
    largest_by_chance,
    pair,
    summarise,
)

from ..conftest import sentencepiece_like
from ..families import FAMILIES, tiny
from ..prompts_table import prompts_table
from ..reference import single_texts as reference

TOLERANCE = 1e-4
CORE = ("gpt2", "gptj", "gpt_neox", "llama")


def own_tokens(prompt, tokenizer, span):
    """Return the tokens of a text with its leading blank, tokenised alone.

    In these templates, the end of a text is the end of a token.
    """
    start, end = span
    blank = start > 0 and prompt.text[start - 1] == " "
    return tokenizer(prompt.text[start - blank : end], add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("family", FAMILIES)
def test_it_agrees_with_the_plain_reference(language_model, tokenizer, family):
    model = language_model(family)
    prompts = tokenize(prompts_table("sst2", count=4 if family in CORE else 2, shots=2), tokenizer)
    plain = [
        [
            reference.similarity(model.network, own_tokens(p, tokenizer, p.query_span), own_tokens(p, tokenizer, span))
            for span in p.text_spans
        ]
        for p in prompts
    ]
    for budget in (2000, 1):
        rows = prediction_similarity.compute(model, prompts, budget)
        found = np.array(rows["similarity"].tolist())
        assert np.abs(found - plain).max() <= TOLERANCE * np.max(plain)
    first = prompts[0]
    token = reference.next_token(model.network, own_tokens(first, tokenizer, first.text_spans[1])).argmax()
    assert rows["demo_tokens"].iloc[0][1] == token


def test_a_text_begins_with_the_beginning_of_sequence_token_where_its_prompt_does():
    tokenizer = sentencepiece_like()
    model = LanguageModel("llama", tiny("llama", len(tokenizer)), tokenizer, "float32", {})
    for bos, first in (("auto", True), (False, False)):
        texts = single_texts.distinct_texts(model, tokenize(prompts_table("agnews", count=2), tokenizer, bos)).texts
        assert all((text.ids[0] == tokenizer.bos_token_id) == first for text in texts)
        assert all((text.ids[1:] != tokenizer.bos_token_id).all() for text in texts)


def test_each_distinct_text_is_read_once(language_model, tokenizer, monkeypatch):
    model = language_model("gpt2")
    prompts = tokenize(prompts_table("trec", count=12), tokenizer)
    alone = single_texts.distinct_texts(model, prompts)
    assert len(alone.texts) < 12 * 7
    assert len({text.ids.tobytes() for text in alone.texts}) == len(alone.texts)
    for prompt, query, demos in zip(prompts, alone.query, alone.demos, strict=True):
        assert alone.texts[query].text == prompt.text[slice(*prompt.query_span)]
        assert [alone.texts[d].text for d in demos] == [prompt.text[a:b] for a, b in prompt.text_spans]
    whole = prediction_similarity.compute(model, prompts, 2000)
    monkeypatch.setattr(single_texts, "_MAX_BYTES", 1)  # the texts of two prompts never fit in memory together
    assert len(list(single_texts.split_by_memory(model, prompts))) == 12
    pd.testing.assert_frame_equal(prediction_similarity.compute(model, prompts, 2000), whole, rtol=1e-5)


def test_a_prompt_without_demonstrations_is_refused(language_model, tokenizer):
    table = prompts_table()
    table.at[3, "demo_labels"] = table.at[3, "label_spans"] = table.at[3, "text_spans"] = []
    with pytest.raises(InputError, match="prompt 103 has no demonstration"):
        prediction_similarity.compute(language_model("gpt2"), tokenize(table, tokenizer), 2000)


def test_a_text_without_a_token_is_refused(language_model, tokenizer):
    table = prompts_table(count=1)
    start = table.at[0, "text_spans"][0][0]
    table.at[0, "text_spans"] = [[start, start], table.at[0, "text_spans"][1]]
    with pytest.raises(InputError, match=r"prompt 100: no token ends inside the text at character \d+"):
        prediction_similarity.compute(language_model("gpt2"), tokenize(table, tokenizer), 2000)


def test_progress_counts_every_prompt(language_model, tokenizer):
    done = []
    prediction_similarity.compute(language_model("gpt2"), tokenize(prompts_table(count=5), tokenizer), 200, done.append)
    assert sum(done) == 5


# Hand-made tables with 40 prompts from two seeds, 2 layers x 3 heads, and 4 demonstrations (3 in some prompts).
KEYS = {"model": "m", "task": "sst2", "set": "fresh-2shot"}


@pytest.fixture(scope="module")
def tables():
    generator = np.random.default_rng(0)
    similar, attended = [], []
    for prompt_id in range(40):
        own = {**KEYS, "seed": 42 + prompt_id % 2, "prompt_id": prompt_id, "demonstrations": prompt_id}
        count = 3 if prompt_id % 5 == 0 else 4
        s = generator.random(count)
        similar.append({**own, "similarity": s.tolist(), "query_token": 0, "demo_tokens": [0] * count})
        labels = generator.permutation([0, 1, 0, 1])[:count].tolist()
        for layer in range(2):
            for head in range(3):
                # The attention of each head follows the similarity more than the head before. The last head is constant.
                noise = generator.random(count)
                share = (layer * 3 + head) / 5
                a = np.full(count, 0.1) if (layer, head) == (1, 2) else share * s + (1 - share) * noise
                given = {"layer": layer, "head": head, "max": a.tolist(), "demo_labels": labels}
                prediction = labels[int(np.argmax(s))]
                attended.append({**own, **given, "prediction": prediction})
    return pd.DataFrame(similar), pd.DataFrame(attended)


def test_correlations_and_agreement_agree_with_plain_loops(tables):
    similar, attended = tables
    found = correlate(pair(*tables), Bootstrap(resamples=20))
    of = similar.set_index("prompt_id")["similarity"]
    for (layer, head), rows in attended.groupby(["layer", "head"]):
        each = [list(zip(of[row.prompt_id], row.max, strict=True)) for row in rows.itertuples()]
        agrees = [reference.reconstruction(row.max, row.demo_labels) == row.prediction for row in rows.itertuples()]
        assert found["agreement"].value[layer, head] == pytest.approx(np.mean(agrees))
        if (layer, head) == (1, 2):
            assert np.isnan(found["pooled"].value[layer, head])
            assert np.isnan(found["per_prompt"].value[layer, head])
            continue
        assert found["pooled"].value[layer, head] == pytest.approx(reference.pearson([p for pairs in each for p in pairs]))
        assert found["per_prompt"].value[layer, head] == pytest.approx(np.mean([reference.pearson(pairs) for pairs in each]))


def test_resamples_are_correlations_of_the_drawn_prompts(tables):
    similar, attended = tables
    plan = Bootstrap(resamples=3)
    found = correlate(pair(*tables), plan)
    for row in range(3):
        drawn = []
        for seed in (42, 43):
            ids = similar[similar["seed"] == seed]["prompt_id"].to_numpy()
            drawn += np.repeat(ids, plan.prompt_weights("sst2", seed, 20)[row].astype(int)).tolist()
        of = similar.set_index("prompt_id")["similarity"]
        head = attended[(attended["layer"] == 0) & (attended["head"] == 2)].set_index("prompt_id")["max"]
        pairs = [p for i in drawn for p in zip(of[i], head[i], strict=True)]
        assert found["pooled"].over_prompts[row, 0, 2] == pytest.approx(reference.pearson(pairs))


def test_the_summary_finds_the_heads_that_follow_the_similarity(tables):
    table = summarise(*tables, Bootstrap(resamples=200)).set_index("metric")
    pooled = table.loc["pooled"].set_index(["layer", "head"])
    assert pooled.loc[(1, 1), "value"] > 0.9
    assert pooled.loc[(0, 0), "low"] < 0 < pooled.loc[(0, 0), "high"]
    assert pooled["by_chance"].isna().all()
    for way in ("pooled", "per_prompt"):
        largest = table.loc[f"largest: {way}"]
        assert largest[["layer", "head"]].tolist() == [1, 1]
        assert 0 < largest["by_chance"] < 0.6
        assert largest["beyond"] == pytest.approx(largest["value"] - largest["by_chance"])
        assert np.isnan(largest["low"])  # chosen in sample
    resembles = table.loc["resemblance: pooled"]
    assert resembles[["layer", "head"]].isna().all()
    assert resembles["low"] > 0  # the prediction is the label of the most similar demonstration
    assert resembles["by_chance"] < 0.1
    assert (table["prompts"] == 40).all()


def test_chance_is_what_permuted_similarities_and_heads_give(tables):
    pairs = pair(*tables)
    shuffled = dataclasses.replace(pairs, similarity=np.random.default_rng(1).permuted(pairs.similarity[:, :3], axis=1))
    shuffled = dataclasses.replace(shuffled, attention=pairs.attention[..., :3])
    levels, found = largest_by_chance(shuffled), correlate(shuffled, Bootstrap(resamples=2))
    for way, level in levels.items():
        assert 0 < np.nanmax(found[way].value) < level < 0.6  # permuted similarities do not exceed the chance level
    line = np.arange(6.0).reshape(2, 3)
    assert agree_by_chance(line, line) < 0.02
    assert agree_by_chance(line, -line) == 1
    assert np.isnan(agree_by_chance(line, np.ones((2, 3))))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda s, a: (s, a[a["prompt_id"] != 3]), "have different prompts"),
        (lambda s, a: (s, a.drop(index=7)), "lacks a layer or head"),
        (lambda s, a: (s, pd.concat([a, a.head(1)])), "duplicate prompts"),
        (lambda s, a: (s.assign(similarity=[v[:2] for v in s["similarity"]]), a), "have different demonstrations"),
        (lambda s, a: (s, a.assign(task="trec")), "the kernel_regression table of m on sst2, fresh-2shot is missing"),
    ],
)
def test_tables_that_do_not_go_together_are_refused(tables, spoil, said):
    with pytest.raises(InputError, match=said):
        summarise(*spoil(*tables), Bootstrap(resamples=2))
