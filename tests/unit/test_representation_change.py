import numpy as np
import pandas as pd
import pytest
import torch

from icl_lens.artifacts.tensors import read as read_tensors
from icl_lens.errors import InputError
from icl_lens.models import batching, generation
from icl_lens.models.language_model import LanguageModel
from icl_lens.prompts.positions import encode, tokens_of
from icl_lens.studies import registry
from icl_lens.studies.inputs import Given
from icl_lens.studies.representation_change import hypotheses, lines, reading
from icl_lens.studies.representation_change.representation_change import compute as representation_change
from icl_lens.studies.representation_change.settings import POOLINGS, SETS, Lines, Reading, Settings
from icl_lens.studies.run import run as run_study
from tests import artifacts

from ..conftest import byte_level, llama_like, sentencepiece_like
from ..families import FAMILIES, tiny
from ..reference import representation_change as reference

# Largest allowed difference from the plain reference in float32, as a share of the largest value.
TOLERANCE = 1e-4

CORE = ("gpt2", "gptj", "gpt_neox", "llama")
SMALL = Settings(
    lines=Lines(slopes=[5.0, 10.0], intercepts=[0.0, 5.0], queries_per_line=2, examples=[0, 1]),
    reading=Reading(queries=20, distractors=[1], examples=[0, 1]),
    permutations=19,
    folds=2,
    new_tokens=4,
)


@pytest.fixture(scope="module")
def listed():
    return lines.build(SMALL.lines, 42)


@pytest.fixture(scope="module")
def told():
    """Stories with only the first four queries."""
    return reading.build(SMALL.reading, 42).query("query_id < 4")


def run(model, table, budget=2000, settings=SMALL):
    prompts = encode(table, model.tokenizer)
    rows, tensors = representation_change.compute(model, prompts, budget, settings=settings, table=table)
    return prompts, rows, tensors


def given(model, table, as_chat=False):
    return Given(model, table, {}, SMALL, "auto", as_chat, None)


def close(found, plain):
    return np.abs(np.asarray(found) - plain).max() <= TOLERANCE * np.abs(plain).max()


def query_of(prompt, row):
    """Return the tokens of the query's own text, found from character offsets and not with the package."""
    return [i for i, (start, end) in enumerate(prompt.spans) if end > row.query_span[0] and prompt.text[start:end].strip()]


@pytest.mark.parametrize("family", CORE)
@pytest.mark.parametrize("budget", [1, 1500])
def test_rows_agree_with_the_plain_reference(language_model, listed, family, budget):
    model = language_model(family)
    table = listed.query("query_id < 3")
    prompts, rows, tensors = run(model, table, budget)
    vectors = {}
    for prompt, row, found in zip(prompts, table.itertuples(), rows.itertuples(), strict=True):
        sets = [tokens_of(prompt, getattr(row, f"{name}_spans")) for name in SETS]
        pooled, attended = reference.read(model.network, prompt.ids.tolist(), query_of(prompt, row), sets)
        vectors[row.query_id, row.examples, row.control] = pooled
        assert found.prompt_id == row.prompt_id
        for number, name in enumerate(SETS):
            assert getattr(found, f"{name}_tokens") == len(sets[number])
            assert close(getattr(found, name), attended[number]) or not attended[number].any()
        answer = reference.greedy(model.network, prompt.ids.tolist(), SMALL.new_tokens)
        assert found.answer == model.tokenizer.decode(answer)
        for candidate, score in zip(row.candidates, found.candidate_log_probs, strict=True):
            ids = model.tokenizer(prompt.text + candidate)["input_ids"][len(prompt.ids) :]
            assert score == pytest.approx(reference.log_likelihood(model.network, prompt.ids.tolist(), ids), rel=1e-4)
    conditions = [(0, False), (1, False), (1, True)]
    for number, (examples, control) in enumerate(conditions):
        for place in range(3):
            for layer in range(model.layers + 1):
                each = [vectors[q, examples, control][place, layer] for q in range(3)]
                if np.ptp(each, axis=0).max() < 1e-5:
                    continue  # The last token's embedding may be the same in all prompts.
                plain = reference.cosines(each)
                found = tensors["d0.cosine"][number, layer, place]
                assert np.abs(found - plain[np.triu_indices(3, 1)]).max() < 1e-3


@pytest.mark.parametrize("family", [f for f in FAMILIES if f not in CORE])
def test_other_families_agree_on_one_prompt(language_model, listed, family):
    model = language_model(family)
    table = listed.query("query_id < 2 and examples == 0")
    prompts = encode(table, model.tokenizer)
    row = next(table.itertuples())
    sets = [tokens_of(prompts[0], getattr(row, f"{name}_spans")) for name in SETS]
    queries = [query_of(p, each) for p, each in zip(prompts, table.itertuples(), strict=True)]
    every = [sets, [np.array(queries[1])] * 3]
    with torch.inference_mode():
        batch = next(batching.batches(model, prompts, 2000))
        logits, cache, states, attended = representation_change._forward(model, batch, every)
        place = batch.index.index(0)
        pooled = representation_change.pool(states, batch, queries)
        answers = generation.Continuations(model, batch, cache, logits).greedy(3)[place]
    expected_pooled, expected_attended = reference.read(model.network, prompts[0].ids.tolist(), queries[0], sets)
    assert close(pooled[:, :, place], expected_pooled)
    assert close(attended[place], expected_attended)
    assert answers.tolist() == reference.greedy(model.network, prompts[0].ids.tolist(), 3)


def test_neither_padding_nor_batch_size_changes_a_result(language_model, told):
    model = language_model("llama")
    (_, one, first), (_, all_, second) = (run(model, told, budget) for budget in (1, 100_000))
    assert one["answer"].tolist() == all_["answer"].tolist()
    for name in (*SETS, "candidate_log_probs"):
        assert close(np.stack(one[name]), np.stack(all_[name]))
    assert np.nanmax(np.abs(first["d1.cosine"] - second["d1.cosine"])) < 1e-3


def test_only_the_querys_own_tokens_are_pooled(language_model, listed):
    """Check layer 0 of a rotary model, which has no positions: the query's embeddings are equal with and without examples."""
    _, _, tensors = run(language_model("llama"), listed)
    none, examples, control = tensors["d0.cosine"][:, 0]
    assert np.nanmax(np.abs(none - examples)) < 1e-5
    assert np.nanmax(np.abs(none - control)) < 1e-5
    deeper = tensors["d0.cosine"][:, 2, 0]
    assert np.abs(deeper[0] - deeper[1]).max() > 1e-3


def test_equal_vectors_have_no_statistic(language_model, listed):
    """Check the last token of layer 0 of a rotary model, which is the same token for each query."""
    _, _, tensors = run(language_model("llama"), listed)
    last = list(POOLINGS).index("last")
    for name in ("cosine", "spearman", "pearson", "partial", "cka", "mantel_p", "null_high"):
        assert np.isnan(tensors[f"d0.{name}"][:, 0, last]).all(), name
        assert not np.isnan(tensors[f"d0.{name}"][:, 2, last]).any(), name


def test_the_ratio_of_a_set_with_itself_is_one(language_model, listed):
    same = listed.assign(irrelevant_spans=listed["relevant_spans"])
    _, rows, _ = run(language_model("gpt2"), same)
    assert close(np.stack(rows["irrelevant"]), np.stack(rows["relevant"]))
    assert rows["relevant"].map(min).min() > 0


def test_the_tensors_say_what_the_reference_says_of_their_cosines(language_model, listed):
    _, _, tensors = run(language_model("gpt2"), listed)
    matrices = hypotheses.matrices(listed.query("examples == 0"))
    size = len(next(iter(matrices.values())))
    rows, columns = np.triu_indices(size, 1)
    for layer, place in ((1, 0), (3, 2)):
        cosine = np.eye(size)
        cosine[rows, columns] = cosine[columns, rows] = tensors["d0.cosine"][1, layer, place]
        for number, matrix in enumerate(matrices.values()):
            found = tensors["d0.spearman"][1, layer, place, number]
            assert found == pytest.approx(reference.alignment(cosine, matrix), abs=1e-4)
            pearson = reference.pearson(cosine[rows, columns].tolist(), matrix[rows, columns].tolist())
            assert tensors["d0.pearson"][1, layer, place, number] == pytest.approx(pearson, abs=1e-4)
    assert ((tensors["d0.mantel_p"] >= 1 / 20) | np.isnan(tensors["d0.mantel_p"])).all()
    assert tensors["d0.probe"].shape == (3, 4, 2, size)


@pytest.mark.parametrize("make", [sentencepiece_like, llama_like, lambda: llama_like(metaspace=True)])
def test_a_beginning_of_sequence_token_belongs_to_no_set(listed, make):
    tokenizer = make()
    model = LanguageModel("llama", tiny("llama", len(tokenizer), context=1024), tokenizer, "float32", {})
    table = listed.query("query_id < 2")
    prompts, rows, _ = run(model, table)
    for prompt, row, found in zip(prompts, table.itertuples(), rows.itertuples(), strict=True):
        sets = [tokens_of(prompt, getattr(row, f"{name}_spans")) for name in SETS]
        assert all(0 not in tokens for tokens in sets)
        for tokens, spans in zip(sets, (row.relevant_spans, row.irrelevant_spans, row.context_spans), strict=True):
            text = "".join(prompt.text[prompt.spans[t, 0] : prompt.spans[t, 1]] for t in tokens)
            assert all(prompt.text[start:end] in text for start, end in spans)
        _, attended = reference.read(model.network, prompt.ids.tolist(), [1], sets)
        assert close(found.relevant, attended[0])


def answer_length(table, tokenizer):
    """Return the number of tokens of the longest answer, a greedy one or a candidate."""
    texts = [
        (text, text + candidate) for text, each in zip(table["text"], table["candidates"], strict=True) for candidate in each
    ]
    return max(SMALL.new_tokens, *(len(tokenizer(b)["input_ids"]) - len(tokenizer(a)["input_ids"]) for a, b in texts))


def test_a_query_that_does_not_fit_in_one_condition_is_left_out_of_all(tokenizer):
    table = lines.build(SMALL.lines, 42)
    prompts = encode(table, tokenizer)
    lengths = {(r.query_id, r.examples): len(p.ids) for p, r in zip(prompts, table.itertuples(), strict=True)}
    longest = max(lengths.values())
    context = longest - 1 + answer_length(table, tokenizer) - 1
    model = LanguageModel("gpt2", tiny("gpt2", len(tokenizer), context=context), tokenizer, "float32", {})
    found = representation_change.prepare(given(model, table))
    kept = found.more["table"]
    lost = {q for (q, _), length in lengths.items() if length == longest}
    assert set(kept["query_id"]) == set(table["query_id"]) - lost
    assert [p.prompt_id for p in found.prompts] == kept["prompt_id"].tolist()
    assert found.left_out == len(table) - len(kept) > 0
    _, rows, _ = run(model, found.more["table"])  # each answer fits, too
    assert len(rows) == len(kept)


def test_no_query_that_fits_in_every_condition_is_told(tokenizer):
    table = lines.build(SMALL.lines, 42)
    shortest = min(len(p.ids) for p in encode(table, tokenizer))
    context = shortest + answer_length(table, tokenizer) - 1
    model = LanguageModel("gpt2", tiny("gpt2", len(tokenizer), context=context), tokenizer, "float32", {})
    with pytest.raises(InputError, match="model gpt2: no query fits the context in every condition; use fewer examples"):
        representation_change.prepare(given(model, table))


def test_a_chat_keeps_every_span_and_opens_the_answer(told):
    tokenizer = byte_level()
    tokenizer.chat_template = (
        "{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }}{% if not loop.last %}</s>{% endif %}{% endfor %}"
    )
    wrapped = representation_change._as_chats(told, tokenizer)
    assert list(wrapped.columns) == [*told.columns, "content_spans"]
    for before, after in zip(told.itertuples(), wrapped.itertuples(), strict=True):
        assert after.text.endswith("<assistant> Answer:")
        for name in SETS:
            spans = [getattr(row, f"{name}_spans") for row in (before, after)]
            assert [before.text[a:b] for a, b in spans[0]] == [after.text[a:b] for a, b in spans[1]]
        assert after.text[slice(*after.query_span)].startswith(before.text[before.query_span[0] :][:20])
    model = LanguageModel("gpt2", tiny("gpt2", len(tokenizer), context=2048), tokenizer, "float32", {})
    found = representation_change.prepare(given(model, told, as_chat=True))
    assert [p.text for p in found.prompts] == wrapped["text"].tolist()
    pd.testing.assert_frame_equal(found.more["table"], wrapped)


def test_a_span_that_does_not_reach_the_end_is_refused(language_model, listed):
    table = listed.assign(query_span=[[start, end - 3] for start, end in listed["query_span"]])
    with pytest.raises(InputError, match="the last token of the prompt is not the last token of its query_span"):
        run(language_model("gpt2"), table)


def test_a_condition_without_a_query_is_refused(language_model, listed):
    with pytest.raises(InputError, match="condition '1, control' with 0 distractors lacks a query"):
        run(language_model("gpt2"), listed.drop(index=listed.query("control").index[0]))


def test_the_study_writes_a_table_and_tensors(checkpoint, tmp_path, listed):
    prompts = tmp_path / "results" / "prompts" / "lines" / "paired.parquet"
    about = artifacts.describe(
        "paired_prompts", "icl_lens.studies.representation_change.paired_prompts", {}, {}, [42], corpus={"source": "generated"}
    )
    artifacts.write(prompts, listed, about)
    out = tmp_path / "results" / "studies" / "tiny" / "lines" / "paired" / "representation_change.parquet"
    run_study(registry.study("representation_change"), checkpoint, prompts, out, device="cpu", settings=SMALL)
    rows, metadata = artifacts.read(out, "representation_change")
    assert len(rows) == len(listed)
    assert metadata["observed"]["prompts"] == len(listed)
    tensors, _ = read_tensors(out.with_suffix(".safetensors"))
    assert tensors["d0.cosine"].shape == (3, 4, 3, 28)
    assert not pd.read_parquet(out)["answer"].isna().any()
