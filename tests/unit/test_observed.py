import dataclasses
import logging
import math

import numpy as np
import pytest
import torch

from icl_lens.models.language_model import LanguageModel
from icl_lens.models.observed import observe, repeated_queries
from icl_lens.prompts.positions import encode, tokenize

from ..conftest import byte_level, sentencepiece_like
from ..families import tiny
from ..prompts_table import prompts_table

BOOSTS = 7
"""Number of different losses of tokens; the loss of a token depends on its id only."""


@pytest.fixture
def telling():
    """Return a function that creates a model that predicts the next token exactly if the prompt begins as it should.

    Otherwise, its predictions are uniform, so that each token costs log(V).
    """

    def make(tokenizer, wants_bos, boost=1.0):
        network = tiny("llama", len(tokenizer))
        bos = tokenizer.bos_token_id

        def forward(input_ids, **_):
            logits = torch.zeros(*input_ids.shape, len(tokenizer))
            if wants_bos is None or (input_ids[0, 0] == bos) == wants_bos:
                following = input_ids[:, 1:, None]
                logits[:, :-1].scatter_(-1, following, boost * (1 + following % BOOSTS).float())
            return type("Output", (), {"logits": logits})

        network.forward = forward
        return LanguageModel("telling", network, tokenizer, "float32", {"name": "telling"})

    return make


def loss_of(ids, size, boost=1.0):
    """Return the mean loss of tokens that the model predicts, in nats."""
    boosts = boost * (1 + ids % BOOSTS)
    return np.mean(np.log(np.exp(boosts) + size - 1) - boosts)


@pytest.mark.parametrize("used", [True, False])
def test_the_bos_token_and_its_absence_are_compared_on_the_same_tokens(used, telling):
    tokenizer = sentencepiece_like()
    model = telling(tokenizer, wants_bos=True)
    prompts = tokenize(prompts_table(count=3), tokenizer, used)
    found = observe(model, prompts)["bos"]
    # If a BOS token is added, the last token is dropped, so that no excerpt gets longer.
    compared = [prompt.ids[2:] if used else prompt.ids[1:-1] for prompt in prompts]
    predicted, uniform = loss_of(np.concatenate(compared), len(tokenizer)), math.log(len(tokenizer))
    assert (found["token"], found["prompts"]) == ("<s>", 3 if used else 0)
    expected = (predicted, uniform) if used else (uniform, predicted)
    assert (found["loss"], found["other_loss"]) == pytest.approx(expected, rel=1e-5)
    assert found["costly"] is not used


@pytest.mark.parametrize(
    ("wants_bos", "used", "told"),
    [
        (True, False, "model telling: without the BOS token <s> the loss is 5.61 nats per token instead of"),
        (False, True, "model telling: with the BOS token <s> the loss is 5.61 nats per token instead of"),
        (True, True, ""),
        (False, False, ""),
        (None, False, ""),
    ],
)
def test_a_costly_choice_is_a_warning_with_both_losses_and_advice(wants_bos, used, told, telling, caplog):
    tokenizer = sentencepiece_like()
    with caplog.at_level(logging.WARNING):
        observe(telling(tokenizer, wants_bos), tokenize(prompts_table(count=3), tokenizer, used))
    warnings = [line for line in caplog.messages if "BOS" in line]
    assert len(warnings) == bool(told)
    assert all(line.startswith(told) and line.endswith("; set bos: no" if used else "; set bos: yes") for line in warnings)
    assert f"{math.log(len(tokenizer)):.2f}" == "5.61"


def test_a_small_difference_is_no_warning(telling, caplog):
    tokenizer = sentencepiece_like()
    found = observe(telling(tokenizer, True, boost=0.05), tokenize(prompts_table(count=3), tokenizer, False))["bos"]
    assert 0 < found["loss"] - found["other_loss"] < 0.5
    assert not found["costly"]
    assert "BOS" not in caplog.text


def test_without_a_bos_token_nothing_is_compared(telling):
    tokenizer = byte_level()
    assert observe(telling(tokenizer, None), tokenize(prompts_table(count=2), tokenizer))["bos"] is None


def test_prompts_with_one_token_of_text_have_no_loss_to_compare(telling):
    tokenizer = sentencepiece_like()
    table = prompts_table(count=1).assign(text="a")[["prompt_id", "seed", "text"]]
    (prompt,) = encode(table, tokenizer)
    assert len(prompt.ids) == 2
    found = observe(telling(tokenizer, True), [prompt])["bos"]
    assert (found["loss"], found["other_loss"], found["costly"]) == (None, None, False)


def test_a_prompt_as_long_as_the_context_stays_within_it(telling):
    tokenizer = sentencepiece_like()
    model = telling(tokenizer, True)
    read = []
    original = model.network.forward
    model.network.forward = lambda input_ids, **more: (read.append(input_ids.shape[1]), original(input_ids, **more))[1]
    prompts = tokenize(prompts_table(count=2), tokenizer, False)
    observe(model, prompts)
    assert max(read) == max(len(prompt.ids) for prompt in prompts)


def test_prompts_with_control_tokens_in_their_texts_are_counted_and_told(telling, caplog):
    tokenizer = sentencepiece_like()
    prompts = tokenize(prompts_table(count=3), tokenizer)
    prompts[1] = dataclasses.replace(prompts[1], control=("<s>", "<s>", "<unk>"))
    prompts[2] = dataclasses.replace(prompts[2], control=("<s>",))
    with caplog.at_level(logging.WARNING):
        assert observe(telling(tokenizer, True), prompts)["control_tokens"] == {"<s>": 2, "<unk>": 1}
    assert (
        "the texts of 2 of 3 prompts contain the control token <s> of the tokenizer of telling; it is tokenized as plain text"
        in (caplog.messages)
    )
    assert observe(telling(tokenizer, True), prompts[:1])["control_tokens"] == {}


def test_queries_that_are_their_own_demonstrations_are_counted_and_told(caplog):
    table = prompts_table(count=4)
    prompts = tokenize(table, byte_level())
    with caplog.at_level(logging.WARNING):
        assert repeated_queries(prompts) == sum(
            row["text"][slice(*row["query_span"])] in [row["text"][slice(*span)] for span in row["text_spans"]]
            for row in table.to_dict("records")
        )
    start, end = prompts[1].text_spans[0]
    before = repeated_queries(prompts)
    caplog.clear()
    same = dataclasses.replace(prompts[1], query_span=np.array([start, end + 1]))  # with the newline after it
    assert same.text[end].isspace()
    assert repeated_queries([*prompts, same]) == before + 1
    assert f"in {before + 1} of 5 prompts, the query is also a demonstration" in caplog.messages
