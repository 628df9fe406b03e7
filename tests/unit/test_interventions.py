"""Context managers of the public API: block, scale and record attention, and read the answers."""

import re

import numpy as np
import pandas as pd
import pytest
import torch

import icl_lens

from .. import families
from ..conftest import byte_level, sentencepiece_like
from .test_chat import chatting

DEMONSTRATIONS = [("a fine film , warm and clever", "Positive"), ("dull , slow and empty", "Negative")]
QUERIES = ["that is so funny", "a dull film", "the striker scored twice in Rome"]


def prompt(query="that is so funny", demonstrations=DEMONSTRATIONS, gold="Positive"):
    return icl_lens.Prompt.from_examples("sst2", demonstrations, query, gold=gold)


ARGUMENTS = {"block": {"queries": 9, "keys": 0}, "scale": {"factor": 2}, "record": {}}
"""Valid arguments of each context manager."""

PROMPTS = [prompt(query) for query in QUERIES]


@pytest.fixture(scope="module")
def embedded():
    return icl_lens.load("embedded")


def tiny(family, tokenizer=None):
    tokenizer = tokenizer or byte_level()
    return icl_lens.wrap(families.tiny(family, len(tokenizer)), tokenizer)


@pytest.fixture(scope="module", params=["gpt2", "gptj", "gemma2", "llama"])
def model(request):
    return tiny(request.param)


def weights_of(model, one, *contexts):
    with icl_lens.record(model) as weights:
        icl_lens.run(model, one)
    return weights


def test_a_blocked_edge_has_no_weight_and_the_other_weights_sum_to_1(model):
    places = prompt().positions(model)
    keys = [*places.texts[0], places.last]
    plain = weights_of(model, prompt())
    with icl_lens.block(model, queries=places.label_words, keys=keys, layers=[1]):
        weights = weights_of(model, prompt())
    for query in places.label_words:
        earlier = [key for key in keys if key < query]
        assert earlier
        assert (weights[1][0, :, query, earlier] == 0).all()
        assert (plain[1][0, :, query, earlier] > 0).all()
    torch.testing.assert_close(weights[1].sum(-1), torch.ones_like(weights[1].sum(-1)))
    torch.testing.assert_close(weights[0], plain[0])  # another layer


def test_a_position_attends_to_itself_even_if_all_keys_are_blocked(model):
    with icl_lens.block(model, queries=None, keys=None):
        weights = weights_of(model, prompt())
    for matrix in weights.values():
        torch.testing.assert_close(matrix[0, 0], torch.eye(matrix.shape[-1]))


def test_scale_multiplies_the_weights_of_the_given_heads_only(model):
    places = prompt().positions(model)
    plain = weights_of(model, prompt())
    with icl_lens.scale(model, 0.5, layers=0, heads=1, queries=places.last, keys=places.label_words):
        weights = weights_of(model, prompt())
    expected = plain[0].clone()
    expected[0, 1, places.last, list(places.label_words)] *= 0.5
    torch.testing.assert_close(weights[0], expected)


def test_the_answer_depends_on_the_order_of_neither_context_nor_batch(model):
    places = [each.positions(model) for each in PROMPTS]
    queries, keys = [each.last for each in places], [each.label_words for each in places]
    singles = []
    for one, query, key in zip(PROMPTS, queries, keys, strict=True):
        with icl_lens.block(model, query, key, layers=1), icl_lens.scale(model, 2, heads=0, queries=[query], keys=key):
            singles.append(icl_lens.run(model, one))
    queries = [[query] for query in queries]
    with icl_lens.scale(model, 2, heads=0, queries=queries, keys=keys), icl_lens.block(model, queries, keys, layers=1):
        batch = icl_lens.run(model, PROMPTS)
    for one, other in zip(singles, batch, strict=True):
        assert one.log_probs == pytest.approx(other.log_probs, abs=1e-5)
        assert one.positions == other.positions
    unchanged = icl_lens.run(model, PROMPTS)
    assert any(one.log_probs != pytest.approx(other.log_probs, abs=1e-5) for one, other in zip(singles, unchanged, strict=True))


def test_run_gives_the_answers_of_the_study_icl(model):
    answers, rows = icl_lens.run(model, PROMPTS), icl_lens.icl(model, PROMPTS)
    tokenizer = model.language_model.tokenizer
    for answer, row in zip(answers, rows.itertuples(), strict=True):
        assert list(answer.log_probs.values()) == pytest.approx(row.class_log_probs, abs=1e-5)
        assert [token for token, _ in answer.top_tokens] == [tokenizer.decode([i]) for i in row.top_tokens]
        assert answer.prediction == ["Negative", "Positive"][row.prediction]
        assert answer.correct == (row.gold == row.prediction)


@pytest.mark.parametrize("template", ["inst", "chatml"])
def test_run_and_positions_follow_the_chat_template(template):
    tokenizer = chatting("byte-level", template)
    model = icl_lens.wrap(families.tiny("llama", len(tokenizer)), tokenizer, chat=True)
    answer, (row,) = icl_lens.run(model, prompt()), icl_lens.icl(model, prompt()).itertuples()
    assert list(answer.log_probs.values()) == pytest.approx(row.class_log_probs, abs=1e-5)
    places = answer.positions
    assert len(places) == len(icl_lens.tokens(model, prompt())) > len(prompt().positions(tiny("llama")))
    written = "".join(places.tokens[position] for position in places.template)
    assert ("[INST]" if template == "inst" else "<|im_start|>") in written


def test_blocking_label_words_gives_the_results_of_the_study_isolation(embedded):
    rows = icl_lens.isolation(embedded, PROMPTS, targets=["label"], layers=[2])
    rows = rows[rows["side"] == "first"].set_index("prompt_id")
    places = [each.positions(embedded) for each in PROMPTS]
    plain = icl_lens.run(embedded, PROMPTS, top=5)
    # No label word can attend to the text before it.
    with icl_lens.block(embedded, queries=[each.label_words for each in places], keys=None, layers=range(2)):
        isolated = icl_lens.run(embedded, PROMPTS, top=5)
    for number, (one, other) in enumerate(zip(plain, isolated, strict=True)):
        assert rows.loc[number, "label_agrees"] == (one.prediction == other.prediction)
        first, second = ({token for token, _ in answer.top_tokens} for answer in (one, other))
        assert rows.loc[number, "word_jaccard_5"] == pytest.approx(len(first & second) / len(first | second))
    assert rows["word_jaccard_5"].max() < 1


def test_a_pass_of_the_transformers_model_is_changed_inside_the_context_only(model):
    network, places = model.language_model.network, prompt().positions(model)
    ids = torch.tensor(model.language_model.tokenizer(prompt().text)["input_ids"])[None]

    def logits():
        with torch.no_grad():
            return network(ids).logits[0, -1]

    before = logits()
    with pytest.raises(RuntimeError, match="stop"), icl_lens.block(model, places.last, places.label_words):
        inside = logits()
        with icl_lens.scale(model, 0, layers=0):
            deeper = logits()
        assert torch.equal(logits(), inside)
        raise RuntimeError("stop")
    assert torch.equal(logits(), before)
    assert not torch.allclose(inside, before)
    assert not torch.allclose(deeper, inside)
    assert "forward" not in vars(network)


def test_generation_with_a_cache_reads_the_same_positions(embedded):
    network, places = embedded.language_model.network, prompt().positions(embedded)
    ids = torch.tensor(embedded.language_model.tokenizer(prompt().text)["input_ids"])[None]
    options = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0, "attention_mask": torch.ones_like(ids)}
    options |= {"output_logits": True, "return_dict_in_generate": True}
    with icl_lens.block(embedded, queries=None, keys=places.label_words), icl_lens.scale(embedded, 0.5, keys=places.query):
        cached, full = (network.generate(ids, use_cache=cache, **options) for cache in (True, False))
    for one, other in zip(cached.logits, full.logits, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
    assert not torch.equal(cached.logits[0], network.generate(ids, **options).logits[0])


def test_recorded_weights_include_the_scaling_of_outer_contexts_only(model):
    with icl_lens.scale(model, 0, layers=0), icl_lens.record(model) as inner:
        icl_lens.run(model, prompt())
    with icl_lens.record(model) as outer, icl_lens.scale(model, 0, layers=0):
        icl_lens.run(model, prompt())
    assert not inner[0].any()
    assert outer[0].any()


@pytest.mark.parametrize("name", ["block", "scale", "record"])
@pytest.mark.parametrize("study", ["icl", "saliency", "tokens"])
def test_a_study_does_not_run_inside_a_context(embedded, name, study):
    with (
        getattr(icl_lens, name)(embedded, **ARGUMENTS[name]),
        pytest.raises(icl_lens.InputError, match=rf"study {study}: cannot run inside icl_lens\.{name}, .* call icl_lens\.run"),
    ):
        getattr(icl_lens, study)(embedded, prompt())
    assert len(getattr(icl_lens, study)(embedded, prompt()))


@pytest.mark.parametrize("tokenizer", [byte_level(), sentencepiece_like()], ids=["without BOS", "with BOS"])
def test_each_position_belongs_to_one_part_of_the_prompt(tokenizer):
    model = tiny("llama", tokenizer)
    places = prompt().positions(model)
    parts = [places.bos, *places.texts, *places.label_tokens, places.query, places.template]
    assert sorted(position for part in parts for position in part) == list(range(len(places)))
    assert len(places.bos) == (tokenizer.bos_token is not None)
    assert [group[0] for group in places.label_tokens] == list(places.label_words)
    assert places.last == len(places) - 1 == places.template[-1]

    def text(positions):
        return "".join(places.tokens[position] for position in positions).replace(" ", "")

    assert [text(group) for group in places.texts] == [text.replace(" ", "") for text, _ in DEMONSTRATIONS]
    assert text(places.query) == "thatissofunny"
    assert [text(group) for group in places.label_tokens] == ["Positive", "Negative"]
    table = places.table()
    assert table.loc[list(places.texts[1]), "demonstration"].eq(1).all()
    assert table["part"].value_counts()["label word"] == sum(map(len, places.label_tokens))


def test_a_prompt_without_a_gold_label_has_an_answer(embedded):
    answer = icl_lens.run(embedded, prompt(gold=None))
    assert answer.correct is None
    assert "gold" not in repr(answer)
    assert sum(answer.probabilities.values()) == pytest.approx(1)


LONG = prompt(" ".join(["film"] * 2000))


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("block", {"queries": 9, "keys": 0, "layers": 6}, "block: layer 6 does not exist; the model has layers 0 to 5"),
        ("block", {"queries": 9, "keys": 0, "layers": [-1]}, "block: layer -1 does not exist; the model has layers 0 to 5"),
        (
            "block",
            {"queries": 9, "keys": 0, "layers": "all"},
            "block: layers must be one or more numbers from 0 to 5, got 'all'",
        ),
        ("block", {"queries": 9, "keys": 0, "layers": []}, "block: layers must be one or more numbers"),
        ("block", {"queries": 3, "keys": [4, 5]}, "block: no key is before a query"),
        ("block", {"queries": [[3], [9]], "keys": [[4], [10]]}, "block: no key is before a query"),
        ("block", {"queries": [], "keys": 0}, r"block: queries must be positions such as \[3, 9\]"),
        ("block", {"queries": ["x"], "keys": 0}, "block: queries must be positions"),
        ("block", {"queries": [1, [2]], "keys": 0}, "block: queries must be positions"),
        ("block", {"queries": 9, "keys": -1}, "block: keys: position -1 does not exist; positions count from 0"),
        ("scale", {"factor": float("nan")}, "scale: factor must be a finite number, got nan"),
        ("scale", {"factor": "0"}, "scale: factor must be a finite number"),
        ("scale", {"factor": 0, "heads": 2}, "scale: head 2 does not exist; the model has heads 0 to 1"),
        ("scale", {"factor": 0, "layers": True}, "scale: layers must be one or more numbers"),
    ],
)
def test_an_invalid_argument_is_one_sentence(embedded, name, arguments, message):
    with pytest.raises(icl_lens.InputError, match=message) as caught, getattr(icl_lens, name)(embedded, **arguments):
        pass
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "prompts", "message"),
    [
        ({"queries": 500, "keys": 0}, prompt(), "block: queries: position 500 does not exist; the prompt has positions 0 to"),
        ({"queries": 45, "keys": 0}, PROMPTS, "position 45 does not exist; prompt 0 has positions 0 to"),
        ({"queries": [[9], [9]], "keys": 0}, PROMPTS, "queries has positions of 2 prompts, but the forward pass has 3"),
    ],
)
def test_a_position_outside_of_the_prompt_is_one_sentence(embedded, arguments, prompts, message):
    with icl_lens.block(embedded, **arguments), pytest.raises(icl_lens.InputError, match=message):
        icl_lens.run(embedded, prompts)


@pytest.mark.parametrize(
    ("prompts", "top", "message"),
    [
        (LONG, 10, r"run: prompt 0 has \d+ tokens, but the context of embedded is 1024 tokens; shorten the prompt"),
        (
            [prompt(), icl_lens.Prompt.from_examples("agnews", [("Stocks fall", 2)], "x")],
            10,
            "run: the prompts have 2 to 4 classes",
        ),
        ([], 10, "prompts is empty"),
        (3, 10, "prompts must be an icl_lens.Prompt"),
        (prompt(), 0, "run: top must be a positive number of tokens, got 0"),
    ],
)
def test_run_refuses_prompts_that_cannot_be_one_batch(embedded, prompts, top, message):
    with pytest.raises(icl_lens.InputError, match=message):
        icl_lens.run(embedded, prompts, top=top)


@pytest.mark.parametrize("name", ["block", "scale", "record"])
def test_an_unsupported_family_is_one_sentence(name):
    tokenizer = byte_level()
    network, reason = families.unsupported("gpt_oss", len(tokenizer))
    with (
        pytest.raises(icl_lens.InputError, match=f"model family 'gpt_oss' is not supported: {re.escape(reason)}"),
        getattr(icl_lens, name)(icl_lens.wrap(network, tokenizer), **ARGUMENTS[name]),
    ):
        pass


@pytest.mark.parametrize("name", ["block", "scale", "record"])
def test_another_object_than_a_model_is_one_sentence(embedded, name):
    network = embedded.language_model.network
    with (
        pytest.raises(icl_lens.InputError, match=f"{name}: model must be"),
        getattr(icl_lens, name)(network, **ARGUMENTS[name]),
    ):
        pass


def test_positions_can_be_arrays_and_ranges(embedded):
    places = prompt().positions(embedded)
    found = []
    for keys in (range(10), np.arange(10), torch.arange(10), pd.Series(range(10)), set(range(10)), list(range(10))):
        with icl_lens.block(embedded, queries=np.int64(places.last), keys=keys):
            found.append(icl_lens.run(embedded, prompt()).log_probs)
    assert all(each == found[0] for each in found)
