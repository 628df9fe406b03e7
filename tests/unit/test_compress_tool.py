"""Tests of ``icl-lens compress`` and ``icl-lens classify`` with a user's own demonstrations in one file."""

import io
import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from icl_lens.cli.commands import main
from icl_lens.errors import InputError
from icl_lens.models import batching, loading
from icl_lens.models.answers import class_log_probs
from icl_lens.models.logits import class_logits
from icl_lens.prompts import chat
from icl_lens.prompts.positions import tokenize
from icl_lens.prompts.protocol import write_prompt
from icl_lens.studies.anchors import compressed_demonstrations
from icl_lens.tasks.task import TASKS
from icl_lens.tools import demo_cache, text_files
from icl_lens.tools.model_identity import identify

from ..chat_templates import chat_tokenizer
from ..conftest import byte_level
from ..families import tiny
from ..prompts_table import shared_table
from ..reduced_products import emulated

DEMOS = [("a fine film , warm and clever", "Positive"), ("dull , slow and empty", " Negative"), ("that is so funny", 1)]
QUERIES = ["How many moons has Mars ?", "i lost my keys again", "dull and clever", "a fine striker scored twice in Rome"]


@pytest.fixture
def demos(tmp_path):
    path = tmp_path / "demos.jsonl"
    path.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in DEMOS))
    return path


@pytest.fixture
def cache(checkpoint, demos, tmp_path):
    out = tmp_path / "demos.cache"
    assert compress(checkpoint, demos, out) == 0
    return out


def compress(folder, demos, out, *more, task="sst2"):
    return main([str(a) for a in ("compress", "--model", folder, "--task", task, "--demos", demos, "--out", out, *more)])


def classify(capsys, folder, cache, *more):
    capsys.readouterr()
    rc = main([str(a) for a in ("classify", "--model", folder, "--cache", cache, *more)])
    said = capsys.readouterr()
    return rc, [json.loads(line) for line in said.out.splitlines()], said.err


def prompts_of(tokenizer, as_chat=False):
    texts, labels = [text for text, _ in DEMOS], [1, 0, 1]
    shared = {"gold": 0, "seed": 0, "label_words": list(TASKS["sst2"].label_words), "demo_labels": labels}
    rows = [{"prompt_id": n, **shared, **write_prompt(TASKS["sst2"], texts, labels, q)} for n, q in enumerate(QUERIES)]
    return tokenize(chat.convert(pd.DataFrame(rows), tokenizer, as_chat), tokenizer)


def test_answers_are_those_of_hidden_anchor_for_the_same_prompts(checkpoint, cache, tmp_path, capsys):
    (tmp_path / "texts.txt").write_text("\n".join(QUERIES) + "\n")
    answers = {}
    for budget in (1, 4096):
        rc, rows, _ = classify(capsys, checkpoint, cache, tmp_path / "texts.txt", "--batch-tokens", budget)
        assert rc == 0
        assert [row["text"] for row in rows] == QUERIES
        answers[budget] = rows
    model = loading.load(checkpoint)
    prompts = prompts_of(model.tokenizer)
    with torch.inference_mode():
        compressed = compressed_demonstrations.compress(model, prompts[0], compressed_demonstrations.kept_positions(prompts[0]))
        for batch in compressed_demonstrations.batches(model, prompts, 4096, compressed):
            expected = (
                compressed_demonstrations.query_logits(model, batch, compressed).gather(1, batch.label_ids).double().softmax(-1)
            )
            for place, row in zip(batch.index, expected.tolist(), strict=True):
                for rows in answers.values():
                    assert list(rows[place]["probabilities"]) == ["Negative", "Positive"]
                    assert list(rows[place]["probabilities"].values()) == pytest.approx(row, abs=1e-5)
                    assert rows[place]["label"] == ["Negative", "Positive"][int(np.argmax(row))]


def test_fast_products_are_used_and_recorded(checkpoint, demos, cache, tmp_path, capsys):
    (tmp_path / "texts.txt").write_text("\n".join(QUERIES) + "\n")
    exact = classify(capsys, checkpoint, cache, tmp_path / "texts.txt")[1]
    out = tmp_path / "fast.cache"
    with emulated():
        assert compress(checkpoint, demos, out, "--matmul", "fast") == 0
        rc, fast, _ = classify(capsys, checkpoint, out, "--matmul", "fast", tmp_path / "texts.txt")
    assert rc == 0
    headers = [demo_cache.read_header(path) for path in (cache, out)]
    assert [(header.matmul, header.products) for header in headers] == [("exact", "float32"), ("fast", "bfloat16")]
    assert headers[0].content != headers[1].content
    moved = [abs(a["probabilities"]["Positive"] - b["probabilities"]["Positive"]) for a, b in zip(exact, fast, strict=True)]
    assert 0 < max(moved) < 0.05


def test_with_every_position_kept_answers_are_those_of_the_plain_prompt(checkpoint, demos, tmp_path, capsys):
    assert compress(checkpoint, demos, tmp_path / "all", "--keep", "all") == 0
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": q, "id": 7}) + "\n" for q in QUERIES))
    rc, rows, _ = classify(capsys, checkpoint, tmp_path / "all", tmp_path / "texts.jsonl")
    assert rc == 0
    model = loading.load(checkpoint)
    prompts = prompts_of(model.tokenizer)
    with torch.inference_mode():
        for batch in batching.batches(model, prompts, 1):
            (place,) = batch.index
            expected = class_logits(model, batch).double().softmax(-1)[0].tolist()
            assert list(rows[place]["probabilities"].values()) == pytest.approx(expected, abs=1e-5)


def test_demonstrations_can_be_turns_of_a_chat(demos, tmp_path, capsys):
    tokenizer, folder = chat_tokenizer("llama-3"), tmp_path / "model"
    tiny("gpt2", len(tokenizer), context=4096).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (tmp_path / "texts.txt").write_text("\n".join(QUERIES) + "\n")
    expected = prompts_of(tokenizer, "turns")
    model = loading.load(folder)
    with torch.inference_mode():
        probabilities = [
            class_logits(model, batch).double().softmax(-1)[0].tolist() for batch in batching.batches(model, expected, 1)
        ]
        order = [batch.index[0] for batch in batching.batches(model, expected, 1)]
    for keep in ("all", "anchors"):
        assert compress(folder, demos, tmp_path / keep, "--chat-turns", "--keep", keep) == 0
        header = demo_cache.read_header(tmp_path / keep)
        assert header.chat == "turns"
        assert header.label_words == [" Negative", " Positive"]
        assert header.ids == expected[0].ids[: compressed_demonstrations.query_start(expected[0])].tolist()
        rc, rows, _ = classify(capsys, folder, tmp_path / keep, tmp_path / "texts.txt")
        assert rc == 0
        assert list(rows[0]["probabilities"]) == ["Negative", "Positive"]
        if keep == "all":
            for place, row in zip(order, probabilities, strict=True):
                assert list(rows[place]["probabilities"].values()) == pytest.approx(row, abs=1e-5)
    assert demo_cache.read_header(tmp_path / "anchors").kept == compressed_demonstrations.kept_positions(expected[0]).tolist()


def test_the_header_says_whose_cache_it_is(checkpoint, cache):
    with safe_open(cache, framework="pt") as file:
        said = json.loads(file.metadata()[demo_cache.KIND.key])
        assert sorted(file.keys()) == sorted(f"{name}.{layer}" for name in ("keys", "values") for layer in range(3))
    prompt = prompts_of(byte_level())[0]
    assert said["format"] == demo_cache.KIND.version
    assert said["template"] == TASKS["sst2"].template
    assert said["label_words"] == [" Negative", " Positive"]
    assert said["start"] == compressed_demonstrations.query_start(prompt) == len(said["ids"])
    assert said["kept"] == compressed_demonstrations.kept_positions(prompt).tolist()
    assert said["dtype"] == "float32"
    assert (said["made_by"]["family"], said["made_by"]["layers"]) == ("gpt2", 3)
    assert said["labels"] == [1, 0, 1]
    assert str(checkpoint.parent) not in json.dumps(said)


def test_texts_come_by_line_by_json_by_table_and_by_standard_input(checkpoint, cache, tmp_path, capsys, monkeypatch):
    (tmp_path / "t.csv").write_text('id,text\n1,"a fine film , warm"\n2,"two\nlines"\n')
    _, rows, _ = classify(capsys, checkpoint, cache, tmp_path / "t.csv")
    assert [row["text"] for row in rows] == ["a fine film , warm", "two\nlines"]
    for arguments in ((), ("-",), ("-", "--format", "jsonl")):
        given = b'{"text": "dull"}\n\n' if "jsonl" in arguments else b"dull\r\n"
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(given)))
        _, rows, _ = classify(capsys, checkpoint, cache, *arguments)
        assert [row["text"] for row in rows] == ["dull"]
        assert sum(rows[0]["probabilities"].values()) == pytest.approx(1)


def test_another_model_or_tokenizer_is_refused_and_another_folder_is_not(checkpoint, cache, tokenizer, tmp_path, capsys):
    (tmp_path / "t.txt").write_text("dull\n")
    moved, model, spoken = tmp_path / "moved", tmp_path / "model", tmp_path / "spoken"
    shutil.copytree(checkpoint, moved)
    assert classify(capsys, moved, cache, tmp_path / "t.txt")[0] == 0
    tiny("gpt2", len(tokenizer), seed=1, context=4096).save_pretrained(model)
    tokenizer.save_pretrained(model)
    rc, rows, said = classify(capsys, model, cache, tmp_path / "t.txt")
    assert (rc, rows) == (1, [])
    assert "was made with another model, tiny (gpt2, 3 layers); its files differ from those of model" in said
    shutil.copytree(checkpoint, spoken)
    byte_level(vocabulary=300).save_pretrained(spoken)
    rc, rows, said = classify(capsys, spoken, cache, tmp_path / "t.txt")
    assert (rc, rows) == (1, [])
    assert "was made with another tokenizer; its files differ from those of spoken" in said


def test_what_is_no_cache_or_a_damaged_one_is_said(checkpoint, cache, tmp_path, capsys):
    (tmp_path / "t.txt").write_text("dull\n")
    whole = cache.read_bytes()
    middle = len(whole) - 1000
    header = demo_cache.read_header(cache)
    tensors = load_file(cache)

    def with_header(**changes):
        said = json.loads(header.model_dump_json()) | changes
        save_file(tensors, tmp_path / "made", metadata={demo_cache.KIND.key: json.dumps(said)})
        return (tmp_path / "made").read_bytes()

    save_file(tensors, tmp_path / "foreign")
    for content, sentence in (
        (b"hello", "is not a cache of icl-lens: it is not a safetensors file"),
        (b"", "is not a cache of icl-lens: it is not a safetensors file"),
        ((tmp_path / "foreign").read_bytes(), "is not a cache of icl-lens: it is a safetensors file of another kind"),
        (whole[:-10], "is corrupted or truncated"),
        (whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :], "is corrupted or truncated"),
        (with_header(format=99), "has version 99 of the cache format, but this version of icl-lens reads version 2"),
        (with_header(kept=[3, 2]), "its header is inconsistent"),
        (with_header(start="x"), "its header cannot be read"),
    ):
        (tmp_path / "bad").write_bytes(content)
        rc, rows, said = classify(capsys, checkpoint, tmp_path / "bad", tmp_path / "t.txt")
        assert (rc, rows) == (1, [])
        assert sentence in said
        assert len(said.splitlines()) == 1
    assert "none.cache does not exist" in classify(capsys, checkpoint, tmp_path / "none.cache", tmp_path / "t.txt")[2]


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        (
            "d.jsonl",
            '{"text": "a", "label": "Positive"}\n{"text": "b", "label": "Meh"}\n',
            "line 2: unknown label 'Meh'; labels of task sst2",
        ),
        ("d.jsonl", '{"text": "a", "label": 2}\n', "line 1: unknown label 2; labels of task sst2: Negative, Positive"),
        ("d.jsonl", '{"text": "a", "label": true}\n', "line 1: unknown label True"),
        ("d.jsonl", '{"text": "a", "label": [0]}\n', "line 1: unknown label [0]"),
        ("d.jsonl", "", "contains no demonstrations"),
        ("d.csv", "text,label\n", "contains no demonstrations"),
        ("d.jsonl", '\n{"text": "a"}\n', "line 2: missing field 'label' (found: 'text')"),
        ("d.jsonl", '{"text": 3, "label": 0}\n', "line 1: 'text' must be a string, got 3"),
        ("d.jsonl", '{"text": " ", "label": 0}\n', "line 1: the text is empty"),
        ("d.jsonl", "{text\n", "line 1: not valid JSON"),
        ("d.jsonl", "[1]\n", "line 1: each line must be a JSON object such as"),
        ("d.csv", "text,label\na,0\na,b,1\n", "line 3: 3 fields, but the header has 2 (text, label)"),
        ("d.csv", 'text,label\n"a,0\n', "not valid CSV"),
        ("d.txt", "a\n", "demonstrations must be a .csv, .tsv, .jsonl or .parquet file"),
    ],
)
def test_demonstrations_that_cannot_be_used_are_one_sentence_and_no_cache(
    tmp_path, capsys, checkpoint, name, content, sentence
):
    (tmp_path / name).write_text(content)
    assert compress(checkpoint, tmp_path / name, tmp_path / "out.cache") == 1
    said = capsys.readouterr().err
    assert sentence in said
    assert len(said.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_label_word_whose_first_token_is_a_blank_is_one_sentence_and_no_cache(tmp_path, capsys, checkpoint):
    words = {"template": "Review: {text}\nSentiment:{label}", "label_words": {"pos": " Positive", "neg": " 😡"}}
    definition = json.dumps({**words, "train": "a", "test": "b"})
    path = _written(tmp_path / "d.jsonl", '{"text": "fine", "label": "pos"}\n{"text": "dull", "label": "neg"}\n' * 2)
    assert compress(checkpoint, path, tmp_path / "out.cache", "--definition", definition, task="mine") == 1
    assert not (tmp_path / "out.cache").exists()
    command = ["reweight-components", "--model", checkpoint, "--task", "mine", "--definition", definition, "--train", path]
    assert main([str(a) for a in (*command, "--demonstrations", 2, "--out", tmp_path / "out.weights")]) == 1
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 2
    for line in told:
        assert "the first token of the label word ' 😡' is ' ', only whitespace" in line


def test_bytes_that_are_no_text_are_told_by_line(tmp_path):
    (tmp_path / "t.txt").write_bytes(b"fine\nd\xffull\n")
    with pytest.raises(InputError, match="line 2: not UTF-8 text"):
        text_files.texts(tmp_path / "t.txt")
    (tmp_path / "t.txt").write_text("fine\n\ndull\n")
    with pytest.raises(InputError, match="line 2: the text is empty"):
        text_files.texts(tmp_path / "t.txt")
    (tmp_path / "t.txt").write_text("")
    with pytest.raises(InputError, match="contains no texts"):
        text_files.texts(tmp_path / "t.txt")
    (tmp_path / "t.jsonl").write_text('{"text": "\\ud800"}')
    with pytest.raises(InputError, match="line 1: 'text' contains a lone surrogate"):
        text_files.texts(tmp_path / "t.jsonl")


def test_class_names_are_labels_and_numbers_only_where_no_class_is_named_so(tmp_path):
    path = tmp_path / "d.csv"
    path.write_text("\ufefflabel,text\nnegative,a\nPositive,b\n1,c\n")
    assert text_files.demonstrations(path, TASKS["sst2"]) == (["a", "b", "c"], [0, 1, 1])
    numbered = replace(TASKS["sst2"], classes=("1", "0"))
    assert text_files.demonstrations(_written(path, "label,text\n1,a\n0,b\n"), numbered) == (["a", "b"], [0, 1])
    with pytest.raises(InputError, match="line 2: unknown label '2'"):
        text_files.demonstrations(_written(path, "label,text\n2,a\n"), numbered)


def _written(path, content):
    path.write_text(content)
    return path


def test_a_class_without_a_demonstration_is_allowed_and_said(checkpoint, tmp_path, caplog):
    path = _written(tmp_path / "d.jsonl", '{"text": "a fine film", "label": 1}\n')
    with caplog.at_level("WARNING"):
        assert compress(checkpoint, path, tmp_path / "one") == 0
    assert "class Negative has no demonstration" in caplog.text
    assert "model tiny is untrained" in caplog.text
    assert demo_cache.read_header(tmp_path / "one").labels == [1]


def test_texts_that_are_demonstrations_are_said_with_the_line_of_the_first(checkpoint, cache, tmp_path, caplog, capsys):
    texts = _written(tmp_path / "t.txt", "\n".join([QUERIES[0], f"  {DEMOS[1][0]} ", QUERIES[1], DEMOS[0][0]]) + "\n")
    assert "also demonstrations" not in caplog.text  # compressing needs a query, which is one of them
    with caplog.at_level("WARNING"):
        assert classify(capsys, checkpoint, cache, texts)[0] == 0
    told = "2 of 4 texts are also demonstrations, so the prompt contains their label; the first is line 2"
    assert told in caplog.messages
    caplog.clear()
    assert classify(capsys, checkpoint, cache, _written(tmp_path / "t.txt", QUERIES[0] + "\n"))[0] == 0
    assert "demonstrations" not in caplog.text


def test_a_control_token_in_a_demonstration_or_text_is_plain_text(tmp_path, caplog, capsys):
    tokenizer = byte_level(bos_token="<s>")
    tiny("gpt2", len(tokenizer)).save_pretrained(tmp_path / "m")
    tokenizer.save_pretrained(tmp_path / "m")
    demos = _written(tmp_path / "d.jsonl", '{"text": "<s> fine", "label": 1}\n{"text": "dull", "label": 0}\n')
    with caplog.at_level("WARNING"):
        assert compress(tmp_path / "m", demos, tmp_path / "c") == 0
    assert "contain the control token <s> of the tokenizer of m; it is tokenized as plain text" in caplog.text
    assert tokenizer.bos_token_id not in demo_cache.read_header(tmp_path / "c").ids
    texts = _written(tmp_path / "t.txt", "good <s>\n")
    assert classify(capsys, tmp_path / "m", tmp_path / "c", texts)[0] == 0


def test_what_is_too_long_for_the_context_is_said_before_any_answer(tokenizer, demos, tmp_path, capsys):
    short = tmp_path / "short"
    tiny("gpt2", len(tokenizer), context=90).save_pretrained(short)
    tokenizer.save_pretrained(short)
    assert compress(short, demos, tmp_path / "c") == 0
    texts = _written(tmp_path / "t.txt", "dull\n" + "fine " * 80 + "\n")
    rc, rows, said = classify(capsys, short, tmp_path / "c", texts)
    assert (rc, rows) == (1, [])
    start = demo_cache.read_header(tmp_path / "c").start
    assert "line 2: the text has " in said
    assert f"leave only {90 - start} of the 90 tokens of the context of short" in said
    many = _written(tmp_path / "many.jsonl", '{"text": "a fine film , warm and clever", "label": 1}\n' * 20)
    assert compress(short, many, tmp_path / "d") == 1
    assert "fill the context of short (90 tokens)" in capsys.readouterr().err
    assert not (tmp_path / "d").exists()


def test_a_cache_is_whole_or_not_there(checkpoint, demos, cache, tmp_path, monkeypatch):
    before = cache.read_bytes()

    def break_off(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr("safetensors.torch.save_file", break_off)
    with pytest.raises(OSError, match="no space left"):
        compress(checkpoint, demos, cache)
    assert cache.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["demos.cache", "demos.jsonl"]


@pytest.mark.parametrize("family", ["gptj", "gpt_neox", "llama", "mistral", "gemma2"])
def test_a_cache_gives_back_what_was_kept(language_model, checkpoint, family, tmp_path):
    model = language_model(family)
    prompts = tokenize(shared_table("agnews", count=4), model.tokenizer)
    compressed = compressed_demonstrations.compress(model, prompts[0], compressed_demonstrations.kept_positions(prompts[0]))
    folder = tmp_path / "model"
    model.network.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    about = {"task": "agnews", "template": "{text}{label}", "label_words": [" a", " b"], "texts": ["x"], "labels": [0]}
    made_by = identify(model, folder)
    demo_cache.save(tmp_path / "c", compressed, made_by=made_by, dtype="float32", bos="auto", chat=False, **about)
    again = demo_cache.load(tmp_path / "c", model, folder).compressed
    assert again.kept.tolist() == compressed.kept.tolist()
    assert again.ids.tolist() == compressed.ids.tolist()
    for name in ("keys", "values"):
        for one, other in zip(getattr(again.prefix, name), getattr(compressed.prefix, name), strict=True):
            assert torch.equal(one, other)


def test_whole_label_words_are_scored_as_the_cache_says(checkpoint, demos, tmp_path, capsys):
    definition = "{like: sst2, label_words: {negative: ' very negative', positive: ' very positive'}}"
    demos.write_text("".join(json.dumps({"text": text, "label": n % 2}) + "\n" for n, (text, _) in enumerate(DEMOS)))
    out = tmp_path / "whole.cache"
    options = ("--definition", definition, "--keep", "all")
    assert compress(checkpoint, demos, out, *options, task="alike") == 1
    assert "set labels: {score: whole} (--label-score whole)" in capsys.readouterr().err
    assert compress(checkpoint, demos, out, *options, "--label-score", "whole", task="alike") == 0
    (tmp_path / "texts.txt").write_text("\n".join(QUERIES) + "\n")
    rc, rows, _ = classify(capsys, checkpoint, out, tmp_path / "texts.txt")
    assert rc == 0
    task = replace(TASKS["sst2"], label_words=(" very negative", " very positive"))
    texts, labels = [text for text, _ in DEMOS], [0, 1, 0]
    shared = {"gold": 0, "seed": 0, "label_words": list(task.label_words), "demo_labels": labels}
    prompts = [{"prompt_id": n, **shared, **write_prompt(task, texts, labels, q)} for n, q in enumerate(QUERIES)]
    model = loading.load(checkpoint)
    expected = class_log_probs(model, tokenize(pd.DataFrame(prompts), model.tokenizer, score="whole"), 400)
    found = np.array([list(row["probabilities"].values()) for row in rows])
    assert np.abs(found - np.exp(expected)).max() <= 1e-5
