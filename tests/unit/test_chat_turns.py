"""Tests of chats in which each demonstration is a turn (``chat: turns``)."""

import pandas as pd
import pytest

from icl_lens.artifacts import parquet
from icl_lens.errors import InputError
from icl_lens.prompts import chat
from icl_lens.prompts.demonstration_places import places
from icl_lens.prompts.positions import tokenize, tokens_of
from icl_lens.prompts.protocol import with_fewer_shots, write_prompt
from icl_lens.studies import registry
from icl_lens.studies.anchors import compressed_demonstrations
from icl_lens.studies.anchors.isolated_positions import fixed_positions
from icl_lens.tasks.task import TASKS, Task

from ..chat_templates import CHATML, FAMILIES, GEMMA, LLAMA_2, chat_tokenizer
from ..conftest import byte_level
from ..prompts_table import prompts_table
from ..reference import chat_turns
from ..study_cases import CASES, prompts_writer, run_case, write_models

# A label word that is also a word of the template and of the texts, texts that are label words, and equal demonstrations.
CONFUSING = Task("own", "own", "Sports Review: {text}\nSentiment:{label}", (" Sports", " Positive"), ("sports", "positive"))


def confusing_table():
    texts, labels = ["Positive", "Sports", "Sports", "a fine film , Positive"], [1, 0, 0, 1]
    row = {"task": "own", "set": "fresh-2shot", "seed": 1, "prompt_id": 7, "shots": 2, "query_index": 0, "gold": 0}
    words = {"demo_indices": [0, 1, 2, 3], "label_words": list(CONFUSING.label_words), "demo_labels": labels}
    return pd.DataFrame([{**row, **words, **write_prompt(CONFUSING, texts, labels, "Sports")}])


TABLES = {
    "sst2": (lambda: prompts_table("sst2", count=3), TASKS["sst2"].template),
    "agnews": (lambda: prompts_table("agnews", count=2, shots=2), TASKS["agnews"].template),
    "trec": (lambda: prompts_table("trec", count=2), TASKS["trec"].template),
    "confusing": (confusing_table, CONFUSING.template),
}


def text_of(row, span):
    return row["text"][span[0] : span[1]]


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("family", FAMILIES)
def test_ids_and_positions_are_those_of_the_definition(family, table):
    tokenizer = chat_tokenizer(family)
    make, template = TABLES[table]
    rows = make()
    prompts = tokenize(chat.convert(rows, tokenizer, "turns"), tokenizer)
    for row, prompt in zip(rows.to_dict("records"), prompts, strict=True):
        texts = [text_of(row, span) for span in row["text_spans"]]
        query = text_of(row, row["query_span"])
        expected = chat_turns.chat(tokenizer, template, row["label_words"], texts, row["demo_labels"], query)
        assert prompt.ids.tolist() == expected.ids
        assert prompt.anchors.tolist() == expected.anchors
        assert prompt.label_ids.tolist() == expected.label_ids
        assert [tokens_of(prompt, [span]).tolist() for span in prompt.text_spans] == expected.texts
        assert tokens_of(prompt, [prompt.query_span]).tolist() == expected.query
        assert compressed_demonstrations.query_start(prompt) == expected.query_start
        assert fixed_positions(prompt, "newline", tokenizer.decode).tolist() == expected.ends
        assert fixed_positions(prompt, "label", tokenizer.decode).tolist() == expected.anchors


@pytest.mark.parametrize("family", FAMILIES)
def test_spans_are_those_of_the_same_characters(family):
    tokenizer, rows = chat_tokenizer(family), prompts_table("agnews", count=2, shots=2)
    before = rows.copy(deep=True)
    wrapped = chat.as_turns(rows, tokenizer)
    assert rows.equals(before)
    for old, new in zip(rows.to_dict("records"), wrapped.to_dict("records"), strict=True):
        for name in ("text_spans", "prefix_spans", "label_spans"):
            assert [text_of(new, span).strip() for span in new[name]] == [text_of(old, span).strip() for span in old[name]]
        assert text_of(new, new["query_span"]) == text_of(old, old["query_span"])
        words = [new["label_words"][label] for label in new["demo_labels"]]
        assert [text_of(new, span) for span in new["label_spans"]] == words
        assert {word[0] == " " for word in words} == {family in ("llama-2", "mistral", "vicuna")}
        contents = [text_of(new, span) for span in new["content_spans"]]
        assert contents[1::2] == [word.strip() for word in words]
        examples = zip(contents[::2], [*contents[1::2], ""], strict=True)
        assert "\n".join(f"{question} {answer}" for question, answer in examples).strip() == old["text"]
        assert [text_of(new, (start, start + 8)) for start in new["turn_starts"]] == ["Article:"] * 9
        assert new["gold"] == old["gold"]


def test_what_chats_look_like():
    rows = prompts_table(count=1)
    row = rows.iloc[0]
    (a, b), query = [text_of(row, span) for span in row["text_spans"]], text_of(row, row["query_span"])
    assert chat.as_turns(rows, chat_tokenizer("chatml")).at[0, "text"] == (
        f"<|im_start|>user\nReview: {a}\nSentiment:<|im_end|>\n<|im_start|>assistant\nNegative<|im_end|>\n"
        f"<|im_start|>user\nReview: {b}\nSentiment:<|im_end|>\n<|im_start|>assistant\nPositive<|im_end|>\n"
        f"<|im_start|>user\nReview: {query}\nSentiment:<|im_end|>\n<|im_start|>assistant\n"
    )
    assert chat.as_turns(rows, chat_tokenizer("llama-2")).at[0, "text"] == (
        f"<s>[INST] Review: {a}\nSentiment: [/INST] Negative </s><s>[INST] Review: {b}\nSentiment: [/INST] Positive </s>"
        f"<s>[INST] Review: {query}\nSentiment: [/INST]"
    )


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("bos", ["auto", True])
def test_the_chat_begins_with_one_bos_token(family, bos):
    tokenizer = chat_tokenizer(family)
    if tokenizer.bos_token_id is None:
        pytest.skip("the family has no BOS token")
    turns = 3 if family == "llama-2" else 1  # this template writes BOS before each turn of the user
    for prompt in tokenize(chat.as_turns(prompts_table(), tokenizer), tokenizer, bos):
        assert prompt.ids[0] == tokenizer.bos_token_id
        assert prompt.ids[1] != tokenizer.bos_token_id
        assert (prompt.ids == tokenizer.bos_token_id).sum() == turns


@pytest.mark.parametrize("family", FAMILIES)
def test_the_tokens_of_a_demonstration_are_those_from_its_first_piece_to_its_label_word(family):
    tokenizer = chat_tokenizer(family)
    for prompt in tokenize(chat.as_turns(prompts_table(shots=2), tokenizer), tokenizer):
        found = places(prompt, drop_first=False)
        for start, label, stop, word in zip(found.starts, found.labels, found.stops, prompt.demo_labels, strict=True):
            assert prompt.text[prompt.spans[start][0] :].lstrip().startswith("Review:")
            assert label in range(start, stop)
            assert prompt.text[: prompt.spans[stop - 1][1]].endswith(["Negative", "Positive"][word])
        assert prompt.text[prompt.spans[found.query][0] :].lstrip().startswith("Review:")
        assert found.query > found.stops[-1]
        text = prompt.text[: prompt.spans[found.end - 1][1]]
        assert text.rstrip().endswith(prompt.text[slice(*prompt.query_span)])


def test_prompts_with_fewer_shots_and_without_demonstrations():
    tokenizer, rows = chat_tokenizer("gemma"), prompts_table(count=2, shots=2)
    fewer = chat.as_turns(with_fewer_shots(rows, 1), tokenizer)
    assert [len(spans) for spans in fewer["turn_starts"]] == [3, 3]
    row = rows.iloc[0].to_dict()
    query = text_of(row, row["query_span"])
    empty = pd.DataFrame([{**row, "demo_labels": [], **write_prompt(TASKS["sst2"], [], [], query)}])
    wrapped = chat.as_turns(empty, tokenizer).iloc[0]
    assert wrapped["text"] == (f"<s><start_of_turn>user\nReview: {query}\nSentiment:<end_of_turn>\n<start_of_turn>model\n")
    assert wrapped["label_words"] == ["Negative", "Positive"]


def test_an_instruction_belongs_to_the_first_turn_and_to_no_demonstration():
    rows = prompts_table(count=1)
    row, added = rows.iloc[0].to_dict(), "Classify. "
    spans = {
        name: [[edge + len(added) for edge in span] for span in row[name]]
        for name in ("label_spans", "text_spans", "prefix_spans")
    }
    query = [edge + len(added) for edge in row["query_span"]]
    rows = pd.DataFrame([{**row, **spans, "query_span": query, "text": added + row["text"]}])
    wrapped = chat.as_turns(rows, chat_tokenizer("chatml")).iloc[0]
    assert wrapped["text"].startswith("<|im_start|>user\nClassify. Review:")
    assert wrapped["turn_starts"][0] == wrapped["text"].index("Review:")


def test_a_template_does_not_write_todays_date():
    tokenizer = chat_tokenizer("chatml")
    tokenizer.chat_template = "{{ strftime_now('%d %b %Y') if strftime_now is defined else '' }}\n" + CHATML
    for as_chat in ("turns", True):
        assert chat.convert(prompts_table(count=1), tokenizer, as_chat).at[0, "text"].startswith("26 Jul 2024\n")


def refused(template, table=None):
    tokenizer = byte_level(bos_token="<s>", eos_token="</s>")
    tokenizer.chat_template = template
    with pytest.raises(InputError) as caught:
        chat.as_turns(prompts_table() if table is None else table, tokenizer)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_template_that_does_not_fit_is_refused():
    assert "has no chat template; set chat: false" in refused(None)
    advice = "set chat: true or chat: false for this model"
    for template, problem in {
        CHATML + CHATML: "writes the text of a turn more than once",
        CHATML.replace("message.content", "message.content | upper"): "changes, omits or reorders the turns",
        CHATML.replace("in messages", "in messages[-1:]"): "changes, omits or reorders the turns",
        CHATML.replace("message.content", "message.content | replace('\n', ' ')"): "changes the text of a turn",
        "{{ raise_exception('no') }}" + CHATML: "chat template raises an error (no)",
        GEMMA.replace("loop.index0 is even", "loop.first"): "raises an error (the roles must alternate: user, assistant)",
        CHATML.replace("assistant\n{% endif", "assistant\n<think>\n{% endif"): "writes '<|im_end|>\\n<|im_start|>assistant\\n' "
        "before one answer and '<|im_end|>\\n<|im_start|>assistant\\n<think>\\n' before another",
    }.items():
        message = refused(template)
        assert message.startswith("prompt 100: the tokenizer's chat template ")
        assert problem in message
        assert advice in message


def test_a_template_may_begin_the_answer_with_other_whitespace_after_the_query():
    rows, tokenizer = prompts_table(count=1), byte_level()
    tokenizer.chat_template = CHATML.replace("assistant\n{% endif", "assistant{% endif")
    assert chat.as_turns(rows, tokenizer).equals(chat.as_turns(rows, chat_tokenizer("chatml")))
    tokenizer.chat_template = LLAMA_2 + "{% if add_generation_prompt %} {% endif %}"
    assert chat.as_turns(rows, tokenizer).at[0, "text"].endswith("Sentiment: [/INST]")


def test_a_prompt_whose_parts_are_no_turns_is_refused():
    table = prompts_table()
    before = "prompt 101: a label must follow its text"
    spans = [list(reversed(each)) if number == 1 else each for number, each in enumerate(table["label_spans"])]
    assert before in refused(CHATML, table.assign(label_spans=spans))
    after = Task("own", "own", "Review: {text}\nSentiment:{label} !", (" Negative", " Positive"), ("a", "b"))
    row = table.iloc[0].to_dict()
    table = pd.DataFrame([{**row, **write_prompt(after, ["a", "b"], [0, 1], "c")}])
    assert "prompt 100: the characters '!' after a label belong to no demonstration" in refused(CHATML, table)
    table = prompts_table().assign(text_spans=[[]] * 6)
    assert "prompt 100: 2 label_spans, but 0 text_spans; give one text span per demonstration" in refused(CHATML, table)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with a chat model and an encoder."""
    folder = tmp_path_factory.mktemp("turns")
    write_models(folder, chat_tokenizer("chatml"))
    return folder


@pytest.mark.parametrize("study", CASES)
def test_each_study_runs_on_turns(study, folder, monkeypatch):
    monkeypatch.chdir(folder)
    out, write = folder / f"{study}.parquet", prompts_writer(folder)
    if study == "representation_change":
        with pytest.raises(
            InputError, match="have no label words, so they cannot be turns of a chat; set chat: true or chat: fal"
        ):
            run_case(study, write, out, as_chat="turns")
        return
    run_case(study, write, out, as_chat="turns")
    rows, about = parquet.read(out, registry.study(study).schema)
    assert about["settings"]["chat"] == "turns"
    assert len(rows)


def test_answers_differ_from_those_of_one_turn(folder, monkeypatch):
    monkeypatch.chdir(folder)
    found = {}
    for as_chat in (True, "turns"):
        run_case("icl", prompts_writer(folder), folder / "other.parquet", as_chat=as_chat)
        found[as_chat] = parquet.read(folder / "other.parquet", registry.study("icl").schema)[0]["class_log_probs"]
    assert not all((a == b).all() for a, b in zip(found[True], found["turns"], strict=True))
