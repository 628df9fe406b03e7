"""Tests of the study of compression against its plain reference, and of the study of latency."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from icl_lens.errors import InputError
from icl_lens.models.language_model import LanguageModel
from icl_lens.models.logits import last_logits
from icl_lens.prompts.positions import tokenize
from icl_lens.studies import registry
from icl_lens.studies.anchors import compressed_demonstrations
from icl_lens.studies.anchors.compression import compute as study
from icl_lens.studies.anchors.compression.study import Condition, Settings, conditions
from icl_lens.studies.anchors.latency import compute as latency
from icl_lens.studies.anchors.latency.study import METHODS
from icl_lens.studies.anchors.latency.study import Settings as LatencySettings
from icl_lens.studies.run import run
from tests import artifacts

from ..conftest import sentencepiece_like
from ..families import tiny, unsupported
from ..prompts_table import prompts_table, shared_table
from ..reference.compression import compressed_logits, restarted_logits

FAMILIES = ("gpt2", "gptj", "gpt_neox", "llama")
RESTARTABLE = Settings(positions=["continued", "restarted"], draws=2)


def expected_logits(plain, model, prompt, method, draw, positions):
    """Return the next-token logits of one prompt with one method, computed for the whole prompt and without batching."""
    ids, length = prompt.ids.tolist(), compressed_demonstrations.query_start(prompt)
    if method == "text_anchor":
        text = prompt.text
        for start, end in reversed(prompt.text_spans.tolist()):
            text = text[:start].rstrip(" ") + text[end:]
        ids, length = model.tokenizer(text)["input_ids"], 0
    if method in ("full", "text_anchor"):
        return compressed_logits(plain, ids, 0, [])
    keep = {
        p for p in range(length) if not any(p in positions for positions in compressed_demonstrations.text_positions(prompt))
    }
    if method == "hidden_random":
        keep = keep - set(prompt.anchors.tolist()) | set(study.random_text_positions(prompt, draw).tolist())
    run = compressed_logits if positions == "continued" else restarted_logits
    return run(plain, ids, length, sorted(keep))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("task", ["sst2", "trec"])
def test_every_row_agrees_with_the_plain_reference(family, task, language_model):
    model = language_model(family)
    table = pd.concat([shared_table(task, count=4), prompts_table(task, count=1, shots=2).assign(prompt_id=1)])
    prompts = tokenize(table, model.tokenizer)
    rows = study.compute(model, prompts, 4096, settings=RESTARTABLE)
    assert len(rows) == len(prompts) * (1 + len(conditions(RESTARTABLE))) == len(prompts) * 8
    plain = tiny(family, len(model.tokenizer))
    compared = 0
    for prompt in prompts:
        full = expected_logits(plain, model, prompt, "full", 0, "own")
        for row in rows[rows["prompt_id"] == prompt.prompt_id].itertuples():
            logits = expected_logits(plain, model, prompt, row.method, row.draw, row.positions)
            classes = logits[prompt.label_ids].sort(descending=True).values
            words = logits.topk(6).values
            if (classes[0] - classes[1]) > 1e-3:  # for a near-tie, either class may be predicted
                compared += 1
                assert row.prediction == int(logits[prompt.label_ids].argmax())
                assert row.label_agrees == (row.prediction == int(full[prompt.label_ids].argmax()))
            if (words[4] - words[5]) > 1e-3 and (full.topk(6).values[4] - full.topk(6).values[5]) > 1e-3:
                ours, theirs = set(logits.topk(5).indices.tolist()), set(full.topk(5).indices.tolist())
                assert row.word_jaccard_5 == pytest.approx(len(ours & theirs) / len(ours | theirs))
    assert compared > 0.9 * len(rows)


def test_no_row_hangs_on_batch_size_or_on_what_else_is_studied(language_model):
    model = language_model("llama")
    prompts = tokenize(shared_table(count=5), model.tokenizer)
    together = study.compute(model, prompts, 4096, settings=Settings(draws=2))
    pd.testing.assert_frame_equal(study.compute(model, prompts, 1, settings=Settings(draws=2)), together)
    alone = pd.concat([study.compute(model, [p], 4096, settings=Settings(draws=2)) for p in prompts], ignore_index=True)
    pd.testing.assert_frame_equal(alone, together)


def test_draws_of_the_same_tokens_are_computed_once_and_have_equal_rows(language_model, monkeypatch):
    model = language_model("gpt2")
    prompts = tokenize(shared_table("sst2", count=2), model.tokenizer)
    drawn = study.random_text_positions
    monkeypatch.setattr(study, "random_text_positions", lambda prompt, draw: drawn(prompt, draw % 2))
    computed = []
    keep = compressed_demonstrations.keep
    monkeypatch.setattr(compressed_demonstrations, "keep", lambda *args: computed.append(args) or keep(*args))
    done = []
    rows = study.compute(model, prompts, 4096, done.append, Settings(draws=4))
    sets = len(compressed_demonstrations.group_by_demonstrations(prompts))
    assert len(computed) == 1 + 3 * sets, "the check of the model, then two draws and Hidden_anchor of each set"
    assert sum(done) == len(prompts)
    random = rows[rows["method"] == "hidden_random"].drop(columns="draw")
    by_draw = [part.reset_index(drop=True) for _, part in random.groupby(rows["draw"])]
    for draw, same in ((0, 2), (1, 3)):
        pd.testing.assert_frame_equal(by_draw[draw], by_draw[same])


def test_progress_tells_of_every_prompt_once(language_model):
    model = language_model("gpt2")
    prompts = tokenize(shared_table(count=5), model.tokenizer)
    told = []
    study.compute(model, prompts, 64, told.append, Settings(draws=2))
    assert sum(told) == len(prompts)
    told = []
    latency.compute(model, prompts, 64, told.append, LatencySettings(prompts=1, repeats=1))
    assert sum(told) == len(prompts)


def test_a_draw_replaces_each_label_words_first_token_by_one_of_its_own_text(tokenizer):
    drawn = set()
    for prompt in tokenize(prompts_table("trec", count=3, shots=2), tokenizer):
        anchored = compressed_demonstrations.kept_positions(prompt)
        for draw in range(20):
            kept = study.positions_to_keep(prompt, Condition("hidden_random", draw, "continued"), Settings())
            assert len(kept) == len(anchored)
            assert set(anchored) - set(kept) == set(prompt.anchors)
            for new, label, text in zip(
                sorted(set(kept) - set(anchored)), prompt.anchors, compressed_demonstrations.text_positions(prompt), strict=True
            ):
                assert new in text
                assert new < label
            drawn.add(tuple(kept))
    assert len(drawn) > 50  # out of 60


def test_draws_are_the_same_for_prompts_that_share_their_demonstrations_and_hang_on_the_seed(tokenizer):
    first, _, third, *_ = tokenize(shared_table(count=6), tokenizer)
    assert first.ids.tolist() != third.ids.tolist()
    same = [study.random_text_positions(p, 3).tolist() for p in (first, replace(third, seed=first.seed))]
    assert same[0] == same[1]
    others = {tuple(study.random_text_positions(replace(first, seed=seed), 3)) for seed in range(10)}
    assert len(others) > 5


def test_accumulated_draws_keep_all_before_them_as_released(tokenizer):
    prompt = tokenize(prompts_table(count=1), tokenizer)[0]
    sizes = []
    for draw in range(4):
        kept = study.positions_to_keep(prompt, Condition("hidden_random", draw, "continued"), Settings(accumulate=True))
        union = set(np.concatenate([study.random_text_positions(prompt, n) for n in range(draw + 1)]))
        assert set(kept) == set(compressed_demonstrations.kept_positions(prompt)) - set(prompt.anchors) | union
        sizes.append(len(kept))
    assert sizes == sorted(sizes)
    assert sizes[-1] > sizes[0]


def test_text_anchor_is_the_template_with_empty_texts():
    tokenizer = sentencepiece_like()
    prompt = tokenize(prompts_table(count=1), tokenizer)[0]
    short = study.text_anchor(prompt, tokenizer)
    query = prompt.text[prompt.query_span[0] :]
    assert short.text == f"Review:\nSentiment: Negative\nReview:\nSentiment: Positive\nReview: {query}"
    assert short.ids[0] == tokenizer.bos_token_id
    assert short.ids[1] != tokenizer.bos_token_id
    assert short.ids[short.anchors].tolist() == prompt.ids[prompt.anchors].tolist()


def test_a_text_without_a_token_to_draw_is_one_sentence(language_model):
    model = language_model("gpt2")
    prompt = tokenize(prompts_table(count=1), model.tokenizer)[0]
    empty = replace(prompt, text_spans=np.array([prompt.text_spans[0], [prompt.text_spans[1, 0]] * 2]))
    with pytest.raises(InputError, match="prompt 100: the text of demonstration 2 has no token to draw; remove this text"):
        study.compute(model, [empty], 4096)
    bare = replace(prompt, anchors=np.empty(0, dtype=np.int64))
    for module in (study, latency):
        with pytest.raises(InputError, match="prompt 100 has no demonstration"):
            module.compute(model, [bare], 4096)


def test_latency_times_every_method_and_tells_the_lengths(language_model):
    model = language_model("gpt2")
    prompts = tokenize(shared_table(count=6), model.tokenizer)
    rows = latency.compute(model, prompts, 4096, settings=LatencySettings(prompts=2, repeats=3))
    assert (rows["seconds"] > 0).all()
    passes = rows.groupby(["prompt_id", "prompts"])
    assert all(
        part.groupby("method")["repeat"].apply(list).to_dict() == {method: [0, 1, 2] for method in METHODS}
        for _, part in passes
    )
    # For each seed, the first two prompts are measured one by one, and together if they share their demonstrations.
    alone = rows[rows["prompts"] == 1]
    seeds = {p.prompt_id: p.seed for p in prompts}
    assert sorted(seeds[i] for i in set(alone["prompt_id"])) == [42, 42, 43, 43]
    assert set(rows["prompts"]) == {1, 2}
    for row in alone.itertuples():
        prompt = next(p for p in prompts if p.prompt_id == row.prompt_id)
        texts = [prompt.text[start:end] for start, end in prompt.text_spans]
        assert row.demo_words == sum(len(text.split()) for text in texts)
        assert row.query_words == len(prompt.text[slice(*prompt.query_span)].split())
        demonstrations = len(prompt.ids) - row.query_tokens
        assert row.prompt_tokens == len(prompt.ids)
        kept = {"full": 0, "hidden_anchor": len(compressed_demonstrations.kept_positions(prompt)), "shared": demonstrations}
        assert row.cache_tokens == kept[row.method]


def test_each_way_timed_runs_what_it_says(language_model, monkeypatch):
    model = language_model("gpt2")
    prompts = tokenize(shared_table(count=1), model.tokenizer)
    seen = []

    def spy(model, batch):
        seen.append((batch.ids.shape[1], batch.mask.shape[1]))
        return last_logits(model, batch)

    for module in (latency, compressed_demonstrations):
        monkeypatch.setattr(module, "predictive_logits", spy)
    latency.compute(model, prompts, 4096, settings=LatencySettings(prompts=1, repeats=2))
    length, tokens = compressed_demonstrations.query_start(prompts[0]), len(prompts[0].ids)
    query, kept = tokens - length, len(compressed_demonstrations.kept_positions(prompts[0]))
    assert seen == [(tokens, tokens), (query, kept + query), (query, tokens)] * 3  # the first of the three rounds is a warm-up


@pytest.mark.parametrize(("name", "settings"), [("compression", Settings(draws=1)), ("latency", LatencySettings(repeats=1))])
def test_a_study_writes_a_table_that_says_how_it_was_made(name, settings, checkpoint, tmp_path):
    table = shared_table(count=4)
    prompts = tmp_path / "prompts.parquet"
    artifacts.write(prompts, table, artifacts.describe("prompts", "icl_lens.prompts.protocol", {}, {}, [42, 43]))
    out = tmp_path / f"{name}.parquet"
    run(registry.study(name), checkpoint, prompts, out, device="cpu", settings=settings)
    rows, about = artifacts.read(out, name)
    assert set(rows["prompt_id"]) <= set(table["prompt_id"])
    assert about["settings"].items() >= settings.model_dump().items()
    assert about["device"] == "cpu"
    assert about["threads"] == torch.get_num_threads()
    assert about["dtype"] == "float32"


def test_a_family_that_cannot_is_refused_before_anything_is_run(tokenizer):
    network, _ = unsupported("bloom", len(tokenizer))
    model = LanguageModel("bloom", network, tokenizer, "float32", {})
    prompts = tokenize(prompts_table(count=1), tokenizer)
    for module in (study, latency):
        with pytest.raises(InputError, match="family bloom does not support compressed demonstrations"):
            module.compute(model, prompts, 4096)
