import json

import numpy as np
import pandas as pd
import pytest
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from icl_lens.errors import InputError
from icl_lens.models import generation
from icl_lens.prompts import chat, plain_text
from icl_lens.prompts.positions import encode, tokenize
from icl_lens.prompts.protocol import write_prompt
from icl_lens.studies.anchors.compression.compute import text_anchor
from icl_lens.tasks.task import TASKS

from ..conftest import TEXTS, byte_level, corpus_of_prompts, llama_like, sentencepiece_like, word_level
from ..prompts_table import prompts_table

TOKENIZERS = {
    "byte-level": lambda: byte_level(bos_token="<s>", eos_token="</s>"),
    "byte-level, offsets trimmed": lambda: byte_level(trim_offsets=True, bos_token="<s>", eos_token="</s>"),
    "sentencepiece": sentencepiece_like,
    "llama": llama_like,
    "llama, by a pre-tokenizer": lambda: llama_like(metaspace=True),
}
INST = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
    "{% else %} {{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
)


@pytest.fixture(scope="module", params=TOKENIZERS, ids=str)
def tokenizer(request):
    return TOKENIZERS[request.param]()


def table_with(text, query="a fine film", task="sst2"):
    """Return a table of two prompts: ``text`` is the first demonstration of the first, and in no text of the second."""
    definition = TASKS[task]
    shared = prompts_table(task, count=2).drop(columns=["text", "label_spans", "text_spans", "query_span", "prefix_spans"])
    written = [write_prompt(definition, [first, TEXTS[1]], [0, 1], query) for first in (text, TEXTS[0])]
    return shared.assign(demo_labels=[[0, 1]] * 2, **{key: [row[key] for row in written] for key in written[0]})


def with_control(tokenizer, content, special=True, **options):
    tokenizer.add_tokens([AddedToken(content, special=special, normalized=False, **options)])
    return tokenizer


@pytest.mark.parametrize("text", ["<s> hello", "<s>", "good<s> </s>bad", "one <s>"])
def test_a_control_token_in_a_text_is_read_as_plain_text(text, tokenizer):
    table = table_with(text)
    marked, plain = tokenize(table, tokenizer)
    control = {tokenizer.bos_token_id, tokenizer.eos_token_id} - {None}
    own = len(marked.ids) - int(marked.spans[0, 1] == 0)
    assert not control & set(marked.ids[-own:].tolist())
    assert marked.control == tuple(
        token for token in ("<s>", "</s>") if token in text and tokenizer.vocab.get(token) in control
    )
    assert plain.control == ()
    # The characters are ordinary pieces that cover the text, and the label words keep their places.
    first, last = marked.text_spans[0]
    covered = {c for start, end in marked.spans.tolist() for c in range(start, end)}
    assert {c for c in range(first, last) if not marked.text[c].isspace()} <= covered
    for anchor, (start, end) in zip(marked.anchors, marked.label_spans, strict=True):
        assert marked.spans[anchor][0] in (start, start + 1)
        assert marked.spans[anchor][1] <= end
    assert marked.ids[marked.anchors].tolist() == plain.ids[plain.anchors].tolist()
    assert marked.label_ids.tolist() == plain.label_ids.tolist()
    # What the tokenizer itself returns if it reads no control token at all.
    ids = tokenizer(marked.text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert marked.ids[-own:].tolist() == ids


def test_a_prompt_without_a_control_token_has_the_tokenizers_own_ids(tokenizer):
    for task in TASKS:
        table = prompts_table(task)
        for row, prompt in zip(table.to_dict("records"), tokenize(table, tokenizer, False), strict=True):
            assert prompt.ids.tolist() == tokenizer(row["text"], add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("kind", ["byte-level", "sentencepiece", "llama", "llama, by a pre-tokenizer"])
def test_the_control_tokens_of_a_chat_template_stay_control_tokens(kind):
    tokenizer = TOKENIZERS[kind]()
    tokenizer.chat_template = INST
    marked, plain = tokenize(chat.wrap(table_with("<s> hello"), tokenizer), tokenizer)
    assert [prompt.ids.tolist().count(tokenizer.bos_token_id) for prompt in (marked, plain)] == [1, 1]
    assert marked.ids[0] == tokenizer.bos_token_id
    assert marked.spans[0].tolist() == [0, len("<s>")]
    assert marked.control == ("<s>",)
    # Beginning and end are the same tokens as in the prompt without the text.
    label = int(plain.anchors[0])
    assert marked.ids[marked.anchors[0] :].tolist() == plain.ids[label:].tolist()
    assert (marked.spans[marked.anchors[0] :] - plain.spans[label:] == len("<s> hello") - len(TEXTS[0])).all()
    before = int(np.flatnonzero(plain.spans[:, 1] > plain.text_spans[0, 0])[0])
    assert marked.ids[:before].tolist() == plain.ids[:before].tolist()
    assert marked.text[slice(*marked.label_spans[0])] == " Negative"


@pytest.mark.parametrize("options", [{}, {"lstrip": True}, {"rstrip": True}, {"lstrip": True, "rstrip": True}])
@pytest.mark.parametrize("kind", ["byte-level", "sentencepiece", "llama", "llama, by a pre-tokenizer"])
def test_control_tokens_of_a_template_keep_their_rules_for_spaces(kind, options):
    tokenizer = with_control(TOKENIZERS[kind](), "<|user|>", **options)
    text = "<|user|> a film <s> and <|user|> \nmore <|user|>"
    data = [[8, 20]]  # " a film <s> "
    (found,) = plain_text.encode_batch(["text"], [text], [data], tokenizer)
    (expected,) = plain_text.encode_batch(["text"], [text.replace("<s>", "abc")], [data], tokenizer)
    number = tokenizer.convert_tokens_to_ids("<|user|>")
    assert found.control == ("<s>",)
    assert found.ids.count(number) == expected.ids.count(number) == 3
    assert found.ids[:3] == expected.ids[:3]
    tail = expected.ids[len(expected.ids) - expected.ids[::-1].index(number, 1) - 1 :]
    assert found.ids[-len(tail) :] == tail
    assert found.offsets[-len(tail) :] == expected.offsets[-len(tail) :]
    assert found.offsets[0] == expected.offsets[0]


@pytest.mark.parametrize("token", ["<|im_end|>", "<think>"])
def test_a_token_of_the_chat_format_is_a_control_token_even_if_it_is_not_marked_as_special(token):
    tokenizer = with_control(byte_level(), token, special=False)
    tokenizer.chat_template = "{{ '<think>' }}"
    number = tokenizer.convert_tokens_to_ids(token)
    (marked, _) = tokenize(table_with(f"a {token} film"), tokenizer)
    assert number not in marked.ids
    assert marked.control == (token,)


def test_other_added_tokens_are_vocabulary():
    tokenizer = with_control(byte_level(), "\n\n", special=False)
    tokenizer.chat_template = "{{ '\n\n' }}"
    tokenizer = with_control(tokenizer, "<b>", special=False)
    (marked, _) = tokenize(table_with("a <b>film\n\nor"), tokenizer)
    assert {tokenizer.convert_tokens_to_ids(token) for token in ("\n\n", "<b>")} <= set(marked.ids.tolist())
    assert marked.control == ()


def test_a_mark_that_is_also_the_padding_token_is_ordinary_text():
    tokenizer = byte_level(pad_token="!", eos_token="film")
    (marked, _) = tokenize(table_with("a fine film!"), tokenizer)
    assert marked.control == ()
    assert tokenizer.pad_token_id in marked.ids


def test_an_unknown_token_that_a_text_spells_out_is_plain_text_but_unknown_characters_are_not():
    tokenizer = word_level()
    spelled, other = tokenize(table_with("a <unk> film"), tokenizer)
    assert spelled.control == ("<unk>",)
    assert other.control == ()
    (strange, _) = tokenize(table_with("a 🙂 film"), tokenizer)
    assert (strange.control, strange.unknown) == ((), 1)


def by_words(**special):
    """Return a tokenizer that reads whole words, so that its model itself reads the word "<s>" as the control token."""
    words = sorted({"<s>", "</s>", "<unk>", *" ".join(corpus_of_prompts()).replace(":", " : ").split()})
    core = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(":", "isolated")])
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", unk_token="<unk>", **special)


def test_a_tokenizer_that_cannot_read_a_control_token_as_plain_text_is_refused():
    with pytest.raises(InputError) as raised:
        tokenize(table_with("a <s> film"), by_words())
    assert str(raised.value) == ("prompt 100: '<s>' at character 10 cannot be tokenized as plain text; remove it from the data")
    assert "\n" not in str(raised.value)
    assert len(tokenize(table_with("a fine film"), by_words())) == 2


def test_a_lower_casing_tokenizer_is_asked_for_its_tokens_and_not_for_strings():
    core = json.loads(byte_level(bos_token="<s>").backend_tokenizer.to_str())
    core["normalizer"] = json.loads(normalizers.Lowercase().__getstate__())
    core["added_tokens"][0]["normalized"] = True
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(core)), bos_token="<s>")
    text = "a <S> film"
    assert core["added_tokens"][0]["id"] in tokenizer(text, add_special_tokens=False)["input_ids"]
    (encoding,) = plain_text.encode_batch(["text"], [text], [[[0, len(text)]]], tokenizer)
    assert core["added_tokens"][0]["id"] not in encoding.ids


def test_the_text_of_a_template_is_not_data():
    tokenizer = byte_level(bos_token="<s>")
    (encoding,) = plain_text.encode_batch(["text"], ["<s>a<s>"], [[[3, 4]]], tokenizer)
    assert encoding.ids.count(tokenizer.bos_token_id) == 2
    assert encoding.control == ()


def test_prompts_without_label_words_and_their_candidates_are_plain_text_too(tokenizer):
    table = pd.DataFrame({"prompt_id": [0], "seed": [0], "text": ["<s> is a line"]})
    (prompt,) = encode(table, tokenizer)
    assert prompt.control == ("<s>",)
    assert tokenizer.bos_token_id not in prompt.ids[1:]
    ((candidate,),) = generation.candidate_ids([prompt], [[" <s>"]], tokenizer)
    assert tokenizer.bos_token_id not in candidate
    with pytest.raises(InputError, match="tokens of the prompt"):
        generation.candidate_ids([prompt], [[""]], tokenizer)


def test_the_prompt_without_its_demonstrations_texts_reads_the_query_as_plain_text(tokenizer):
    prompt, _ = tokenize(table_with("a film", query="not <s> good"), tokenizer)
    shortened = text_anchor(prompt, tokenizer)
    assert tokenizer.bos_token_id not in shortened.ids[1:]
    own = shortened.ids[int(prompt.spans[0, 1] == 0) :]
    assert own.tolist() == tokenizer(shortened.text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
