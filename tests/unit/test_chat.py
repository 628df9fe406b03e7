import re

import numpy as np
import pytest

from icl_lens.errors import InputError
from icl_lens.prompts import chat
from icl_lens.prompts.positions import tokenize

from ..conftest import byte_level, llama_like, sentencepiece_like
from ..prompts_table import prompts_table

INST = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
    "{% else %} {{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
)
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
STRIPS = (
    "{% for m in messages %}<turn>{{ 'model' if m['role'] == 'assistant' else 'user' }}\n"
    "{{ m['content'] | trim }}</turn>\n{% endfor %}"
)
TEMPLATES = {"inst": INST, "chatml": CHATML, "strips": STRIPS}
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}
TOKENIZERS = {
    "byte-level": lambda: byte_level(**SPECIAL),
    "sentencepiece": sentencepiece_like,
    "llama": llama_like,
}


def chatting(kind, template):
    tokenizer = TOKENIZERS[kind]()
    tokenizer.chat_template = TEMPLATES.get(template, template)
    return tokenizer


def pieces(row):
    text = row["text"]
    spans = [*row["label_spans"], *row["text_spans"], row["query_span"], *row["prefix_spans"]]
    return [text[start:end] for start, end in spans]


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("task", ["sst2", "trec"])
def test_the_prompt_stands_in_the_users_turn_and_every_span_moves_with_it(template, task):
    tokenizer, table = chatting("byte-level", template), prompts_table(task)
    before = table.copy(deep=True)
    wrapped = chat.wrap(table, tokenizer)
    assert wrapped.columns.tolist() == [*table.columns, "content_spans"]
    for old, new in zip(table.to_dict("records"), wrapped.to_dict("records"), strict=True):
        assert pieces(new) == pieces(old)
        asked, piece = old["text"].rsplit("\n", 1)
        assert new["text"].endswith(piece)
        assert new["prefix_spans"][-1][1] == len(new["text"])
        assert asked in new["text"].removesuffix(piece)
        assert new["text"] != old["text"]
        (start, end), last = new["content_spans"]
        assert [new["text"][start:end].rstrip(), new["text"][slice(*last)]] == [asked.rstrip(), piece]
    assert wrapped.drop(columns=[*chat_columns(), "content_spans"]).equals(table.drop(columns=list(chat_columns())))
    assert table.equals(before)


def chat_columns():
    return ("text", "label_spans", "text_spans", "query_span", "prefix_spans")


def test_what_a_chat_looks_like():
    table = prompts_table(count=1)
    asked, piece = table.at[0, "text"].rsplit("\n", 1)
    assert chat.wrap(table, chatting("byte-level", "inst")).at[0, "text"] == f"<s>[INST] {asked} [/INST] {piece}"
    assert chat.wrap(table, chatting("byte-level", "chatml")).at[0, "text"] == (
        f"<|im_start|>user\n{asked}<|im_end|>\n<|im_start|>assistant\n{piece}"
    )


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("template", TEMPLATES)
def test_the_anchors_of_a_chat_are_its_label_words(kind, template):
    tokenizer, table = chatting(kind, template), prompts_table("agnews", shots=2)
    wrapped = chat.wrap(table, tokenizer)
    for row, prompt, plain in zip(
        wrapped.to_dict("records"), tokenize(wrapped, tokenizer), tokenize(table, tokenizer), strict=True
    ):
        for anchor, label in zip(prompt.anchors, prompt.demo_labels, strict=True):
            read = tokenizer.decode([prompt.ids[anchor]]).replace("▁", " ").strip()
            assert read
            assert row["label_words"][label].strip().startswith(read)
            assert prompt.ids[anchor] == prompt.label_ids[label]
        assert tokenizer.decode([prompt.ids[prompt.last]]).strip() == ":"
        assert len(prompt.anchors) == len(plain.anchors)
        assert np.array_equal(prompt.label_ids, plain.label_ids)


@pytest.mark.parametrize("kind", ["sentencepiece", "llama"])
def test_there_is_one_beginning_of_sequence_token_whoever_writes_it(kind):
    for template, bos in (("inst", "auto"), ("inst", True), ("chatml", "auto"), ("chatml", True)):
        tokenizer = chatting(kind, template)
        for prompt in tokenize(chat.wrap(prompts_table(), tokenizer), tokenizer, bos):
            assert prompt.ids[0] == tokenizer.bos_token_id
            assert (prompt.ids == tokenizer.bos_token_id).sum() == 1
    with pytest.raises(
        InputError, match=re.escape("begins with the BOS token '<s>', as chat templates write it, but bos is no")
    ):
        tokenizer = chatting(kind, "inst")
        tokenize(chat.wrap(prompts_table(), tokenizer), tokenizer, bos=False)


def test_the_blanks_a_query_ends_with_are_left_out():
    table = prompts_table(count=1)
    row = table.iloc[0]
    end = row["query_span"][1]
    table.at[0, "text"] = row["text"][:end] + "  " + row["text"][end:]
    table.at[0, "query_span"] = [row["query_span"][0], end + 2]
    table.at[0, "prefix_spans"] = [*row["prefix_spans"][:-1], [place + 2 for place in row["prefix_spans"][-1]]]
    wrapped = chat.wrap(table, chatting("byte-level", "strips"))
    assert pieces(wrapped.iloc[0]) == pieces(row)


def refused(template, table=None):
    with pytest.raises(InputError) as caught:
        chat.wrap(prompts_table() if table is None else table, chatting("byte-level", template))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_template_that_does_not_fit_is_refused():
    message = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    assert "has no chat template; set chat: false" in refused(None)
    assert "changes the prompt's text" in refused(message.replace("m['content']", "m['content'] | replace('\n', ' ')"))
    assert "writes the prompt's text more than once" in refused("{{ messages[0]['content'] }}" + message)
    assert "prompt 100: the tokenizer's chat template raises an error (no)" in refused("{{ raise_exception('no') }}" + message)
    assert "template raises an error (continue_final_message is set but" in refused("{{ messages[0]['content'] }}")
    assert "must leave the assistant's turn open after 'Sentiment:'" in refused(
        "{% for m in messages %}{{ m['content'] if loop.first else m['content'] | replace('Sentiment', 'sentiment') }}"
        "{{ '' if loop.first else 'Sentiment' }}{% endfor %}"
    )
    assert "writes the prompt's text more than once" in refused(message + message)


def test_a_prompt_that_does_not_end_with_a_template_piece_is_refused():
    table = prompts_table()
    table.at[2, "prefix_spans"] = []
    assert "prompt 102: the text must end with a template piece" in refused("chatml", table)
