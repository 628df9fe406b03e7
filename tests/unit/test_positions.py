import logging
import re

import pandas as pd
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from icl_lens.errors import InputError
from icl_lens.prompts.positions import tokenize
from icl_lens.prompts.protocol import write_prompt
from icl_lens.tasks.task import Task

from ..conftest import byte_level, llama_like, sentencepiece_like, word_level
from ..prompts_table import prompts_table

TOKENIZERS = {
    "byte-level": byte_level,
    "byte-level, offsets trimmed": lambda: byte_level(trim_offsets=True),
    "sentencepiece": sentencepiece_like,
    "llama": llama_like,
    "llama, by a pre-tokenizer": lambda: llama_like(metaspace=True),
    "word-level": word_level,
}


@pytest.fixture(scope="module", params=TOKENIZERS, ids=str)
def any_tokenizer(request):
    return TOKENIZERS[request.param]()


@pytest.mark.parametrize("task", ["sst2", "agnews", "emoc"])
def test_anchors_are_the_label_words_for_every_kind_of_tokenizer(any_tokenizer, task):
    table = prompts_table(task, shots=2)
    for row, prompt in zip(table.to_dict("records"), tokenize(table, any_tokenizer), strict=True):
        tokens = [any_tokenizer.decode([i]).replace("▁", " ").strip() for i in prompt.ids]
        for anchor, label in zip(prompt.anchors, prompt.demo_labels, strict=True):
            word = row["label_words"][label].strip()
            assert tokens[anchor]
            assert word.startswith(tokens[anchor])
            assert tokens[anchor - 1] == ":"
            assert prompt.ids[anchor] == prompt.label_ids[label]
        assert tokens[prompt.last] == ":"
        assert len(set(prompt.label_ids)) == len(row["label_words"])


def test_a_beginning_of_sequence_token_moves_every_position():
    table = prompts_table()
    plain, marked = (tokenize(table, sentencepiece_like(bos=bos)) for bos in (False, True))
    for without, with_bos in zip(plain, marked, strict=True):
        assert with_bos.ids[0] == 1
        assert with_bos.ids[1:].tolist() == without.ids.tolist()
        assert with_bos.anchors.tolist() == (without.anchors + 1).tolist()


def test_no_beginning_of_sequence_token_where_the_tokenizer_puts_none(tokenizer):
    row = prompts_table(count=1)
    assert tokenizer.decode(tokenize(row, tokenizer)[0].ids) == row["text"][0]


@pytest.mark.parametrize("metaspace", [False, True])
def test_a_llama_like_tokenizer_reads_newlines_and_strange_letters_as_bytes(metaspace):
    table = prompts_table("agnews")
    row = table.iloc[0]
    strange = "naïve 東 🙂 "
    start = row["text_spans"][0][0]
    table.at[0, "text"] = row["text"][:start] + strange + row["text"][start:]
    table.at[0, "label_spans"] = [[place + len(strange) for place in span] for span in row["label_spans"]]
    tokenizer = llama_like(metaspace)
    plain, prompt = tokenize(prompts_table("agnews"), tokenizer)[0], tokenize(table, tokenizer)[0]
    tokens = tokenizer.convert_ids_to_tokens(prompt.ids)
    assert tokens[:2] == ["<s>", "▁Article"]
    assert {"<0x0A>", "<0xF0>", "<0x9F>"} < set(tokens)
    assert [tokens[a] for a in prompt.anchors] == ["▁" + row["label_words"][c].strip() for c in prompt.demo_labels]
    assert prompt.label_ids.tolist() == plain.label_ids.tolist()
    assert prompt.unknown == 0


def test_a_beginning_of_sequence_token_can_be_asked_for_and_left_out():
    table = prompts_table()
    for tokenizer, auto in ((llama_like(), True), (byte_level(bos_token="<s>"), False)):
        by_itself, wanted, unwanted = (tokenize(table, tokenizer, bos) for bos in ("auto", True, False))
        for prompts in zip(by_itself, wanted, unwanted, strict=True):
            a, yes, no = (prompt.ids.tolist() for prompt in prompts)
            assert yes == [tokenizer.bos_token_id, *no]
            assert a == (yes if auto else no)
            assert prompts[1].anchors.tolist() == (prompts[2].anchors + 1).tolist()


def test_a_beginning_of_sequence_token_that_there_is_not_is_told(tokenizer):
    with pytest.raises(InputError, match=re.escape("bos is yes, but the tokenizer has no BOS token")):
        tokenize(prompts_table(), tokenizer, bos=True)


def test_the_first_piece_of_a_long_label_word_is_its_anchor_and_that_is_said_once(caplog):
    tokenizer = byte_level(vocabulary=460)  # small enough to split " Angry" into " An", "gr" and "y"
    with caplog.at_level(logging.INFO):
        prompts = tokenize(prompts_table("emoc", count=5), tokenizer)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == len(set(said)) > 0
    assert all("its anchor is the first token" in line for line in said)
    assert any("' Angry' has" in line for line in said)
    for prompt in prompts:
        assert [prompt.ids[a] for a in prompt.anchors] == [prompt.label_ids[c] for c in prompt.demo_labels]


def test_label_words_that_begin_alike_are_refused(tokenizer):
    table = prompts_table()
    words = [" Positive", " Positively"]
    rows = []
    for row in table.to_dict("records"):
        text = row["text"].replace(" Negative", " Positively")
        spans = []
        for label in row["demo_labels"]:
            word = [" Positively", " Positive"][label]
            start = text.index(f":{word}\n") + 1
            spans.append([start, start + len(word)])
        rows.append({**row, "text": text, "label_words": [words[1], words[0]], "label_spans": spans})
    told = "' Positively' and ' Positive' begin with the same token .* set labels: {score: whole}"
    with pytest.raises(InputError, match=told):
        tokenize(table.__class__(rows), byte_level())


def labelled(*words):
    """Return a prompts table with the given label words."""
    task = Task("mine", "mine", "Review: {text}\nSentiment:{label}", words, tuple(word.strip() for word in words))
    labels = list(range(len(words)))
    row = {"prompt_id": 1, "seed": 0, "gold": 0, "label_words": list(words), "demo_labels": labels}
    return pd.DataFrame([{**row, **write_prompt(task, ["fine"] * len(words), labels, "dull")}])


@pytest.mark.parametrize("words", [(" Positive", " 😡"), (" Positive", " 好"), (" Positive", " 1")])
def test_a_label_word_whose_first_token_is_a_blank_is_refused_by_every_kind_of_tokenizer(any_tokenizer, words):
    with pytest.raises(InputError) as caught:
        tokenize(labelled(*words), any_tokenizer)
    told = str(caught.value)
    if any_tokenizer.unk_token and "<0x00>" not in any_tokenizer.get_vocab():
        assert f"the label word {words[1]!r} is unknown to the tokenizer" in told
    else:
        assert re.search(f"first token of the label word {words[1]!r} is '( ?|▁)', only whitespace", told)
        assert told.endswith(
            "choose a label word whose first token contains a character of the word, or set labels: {score: whole} "
            "(--label-score whole)"
        )
    assert "\n" not in told


@pytest.mark.parametrize(("merges", "token"), [([("Ġ", "ð")], " \ufffd"), ([("Ġ", "ð"), ("Ġð", "Ł"), ("ĠðŁ", "ĺ")], " \ufffd")])
def test_a_label_word_whose_first_token_is_a_part_of_a_character_is_refused(merges, token):
    pieces = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *("".join(pair) for pair in merges)]
    core = Tokenizer(models.BPE(vocab={piece: number for number, piece in enumerate(pieces)}, merges=merges))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    with pytest.raises(InputError, match=re.escape(f"label word ' 😀' is {token!r}, only part of a character")):
        tokenize(labelled(" 😀", " x"), PreTrainedTokenizerFast(tokenizer_object=core))


@pytest.mark.parametrize("word", [" é", " 好", " 😀", " 1", ' "'])
def test_a_label_word_whose_first_token_has_a_whole_character_is_read(word):
    table = labelled(word, " x")
    vocabulary = ["x", word.strip(), ":", "<unk>"]
    core = Tokenizer(models.WordLevel({piece: number for number, piece in enumerate(vocabulary)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(pattern=":", behavior="isolated")]
    )
    (prompt,) = tokenize(table, PreTrainedTokenizerFast(tokenizer_object=core))
    assert prompt.label_ids.tolist() == [1, 0]


def test_an_unknown_label_word_is_refused():
    table = prompts_table()
    table["text"] = table["text"].str.replace(" Negative", " Neutrall")
    table["label_words"] = [[" Neutrall", " Positive"]] * len(table)
    with pytest.raises(InputError, match="the label word ' Neutrall' is unknown to the tokenizer"):
        tokenize(table, word_level())


def test_a_span_that_is_not_the_label_word_is_refused(tokenizer):
    table = prompts_table()
    table.at[2, "label_spans"] = [[start - 1, end - 1] for start, end in table.at[2, "label_spans"]]
    with pytest.raises(InputError, match=r"prompt 102: characters [0-9]+ to [0-9]+ are .*, not the label word"):
        tokenize(table, tokenizer)


def test_a_class_index_without_a_label_word_is_refused(tokenizer):
    table = prompts_table()
    table["gold"] = 2
    with pytest.raises(InputError, match="prompt 100: class indices in gold and demo_labels must be from 0 to 1"):
        tokenize(table, tokenizer)


@pytest.mark.parametrize(
    ("column", "value", "sentence"),
    [
        ("prompt_id", 101, "duplicate prompt_id 101"),
        ("demo_labels", [0], "prompt 100: 1 demo_labels but 2 label_spans"),
        ("label_spans", [[1, 2, 3], [4, 5, 6]], "prompt 100: each label span must be a [start, end) pair"),
        ("text", " ", "prompt 100: the text is empty"),
        ("text", "Review: fine\nSentiment: Positive", "prompt 100: the text ends with a label word"),
    ],
)
def test_a_table_that_is_not_in_order_is_refused(tokenizer, column, value, sentence):
    table = prompts_table()
    table.at[0, column] = value
    with pytest.raises(InputError, match=re.escape(sentence)):
        tokenize(table, tokenizer)


def test_a_label_word_that_shares_a_token_with_its_surroundings_is_refused(tokenizer):
    # " Positives" is one unknown word for this tokenizer, so its token covers more than the label word.
    table = prompts_table(count=1)
    text = table.at[0, "text"]
    start, end = table.at[0, "label_spans"][0]
    table.at[0, "text"] = text[: end - 4] + text[end - 4 : end] + "s" + text[end:]
    moved = [[s + (s > start), e + (s > start)] for s, e in table.at[0, "label_spans"]]
    table.at[0, "label_spans"] = moved
    with pytest.raises(InputError, match="shares a token with the surrounding text"):
        tokenize(table, word_level())
