"""Tests of ``icl-lens reweight-components`` and ``icl-lens classify --components``."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from icl_lens.cli.commands import main
from icl_lens.models import loading
from icl_lens.prompts.positions import tokenize
from icl_lens.prompts.protocol import write_prompt
from icl_lens.tasks.task import TASKS
from icl_lens.tools import component_file

from ..chat_templates import chat_tokenizer
from ..conftest import TEXTS, byte_level
from ..families import tiny
from ..reduced_products import emulated
from ..reference import components as plain

LABELLED = [(f"{TEXTS[n % len(TEXTS)]} {n}", n % 2) for n in range(12)]
QUERIES = ["How many moons has Mars ?", "dull and clever", "a fine striker scored twice in Rome"]


def written(path, rows):
    path.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows))
    return path


def reweight(folder, train, out, *more):
    return main(
        [str(a) for a in ("reweight-components", "--model", folder, "--task", "sst2", "--train", train, "--out", out, *more)]
    )


def classify(capsys, folder, weights, texts, *more):
    capsys.readouterr()
    rc = main([str(a) for a in ("classify", "--model", folder, "--components", weights, texts, *more)])
    said = capsys.readouterr()
    return rc, [json.loads(line) for line in said.out.splitlines()], said.err


# Disable the rule that counts epochs without a decrease of the loss. Near the minimum, rounding decides when this rule applies.
PATIENT = {"epochs": 150, "patience": 10**6}


@pytest.fixture
def weights(checkpoint, tmp_path):
    out = tmp_path / "w.safetensors"
    train = written(tmp_path / "train.jsonl", LABELLED)
    assert reweight(checkpoint, train, out, "--settings", json.dumps(PATIENT)) == 0
    return out


@pytest.fixture
def texts(tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(QUERIES) + "\n")
    return path


def parts_of(model, query):
    demos, labels = [text for text, _ in LABELLED[:4]], [label for _, label in LABELLED[:4]]
    import pandas as pd

    shared = {"prompt_id": 0, "gold": 0, "seed": 0, "label_words": list(TASKS["sst2"].label_words), "demo_labels": labels}
    prompt = tokenize(pd.DataFrame([{**shared, **write_prompt(TASKS["sst2"], demos, labels, query)}]), model.tokenizer)[0]
    return plain.component_logits(model.network, prompt.ids.tolist(), prompt.label_ids.tolist())[0][1:-1]


def test_weights_and_answers_are_those_of_the_plain_reference(checkpoint, weights, texts, capsys):
    model = loading.load(checkpoint)
    g = np.stack([parts_of(model, text) for text, _ in LABELLED[4:]])
    expected, epochs = plain.reweighted(g, [label for _, label in LABELLED[4:]], **PATIENT)
    assert load_file(weights)["weights"] == pytest.approx(expected, abs=1e-3)
    header = component_file.read_header(weights)
    assert (header.epochs, header.trained_on, header.labels) == (epochs, 8, [0, 1, 0, 1])
    for budget in (1, 4096):
        rc, rows, _ = classify(capsys, checkpoint, weights, texts, "--batch-tokens", budget)
        assert rc == 0
        assert [row["text"] for row in rows] == QUERIES
        for row in rows:
            z = (parts_of(model, row["text"]) * expected[:, None]).sum(0)
            p = np.exp(z - z.max()) / np.exp(z - z.max()).sum()
            assert list(row["probabilities"].values()) == pytest.approx(p.tolist(), abs=1e-3)
            assert row["label"] == ["Negative", "Positive"][int(z.argmax())]


def test_fast_products_are_used_and_recorded(checkpoint, weights, texts, tmp_path, capsys):
    exact = classify(capsys, checkpoint, weights, texts)[1]
    out = tmp_path / "fast.safetensors"
    train = written(tmp_path / "train.jsonl", LABELLED)
    with emulated():
        assert reweight(checkpoint, train, out, "--settings", json.dumps(PATIENT), "--matmul", "fast") == 0
        fast = classify(capsys, checkpoint, weights, texts, "--matmul", "fast")[1]
    headers = [component_file.read_header(path) for path in (weights, out)]
    assert [(header.matmul, header.products) for header in headers] == [("exact", "float32"), ("fast", "bfloat16")]
    moved = [abs(a["probabilities"]["Positive"] - b["probabilities"]["Positive"]) for a, b in zip(exact, fast, strict=True)]
    assert 0 < max(moved) < 0.1


def test_settings_and_the_number_of_demonstrations_are_the_users(checkpoint, tmp_path, caplog):
    train = written(tmp_path / "train.jsonl", LABELLED)
    with caplog.at_level("INFO"):
        assert reweight(checkpoint, train, tmp_path / "w", "--demonstrations", 2, "--settings", "{epochs: 3, check: 1000}") == 0
    header = component_file.read_header(tmp_path / "w")
    assert (len(header.texts), header.trained_on) == (2, 10)
    assert header.epochs <= 3
    assert "10 training texts, 2 demonstrations" in caplog.text
    assert str(checkpoint.parent) not in header.model_dump_json()


def test_demonstrations_can_be_turns_of_a_chat(texts, tmp_path, capsys):
    tokenizer, folder = chat_tokenizer("chatml"), tmp_path / "model"
    tiny("gpt2", len(tokenizer), context=4096).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    train, answers = written(tmp_path / "train.jsonl", LABELLED), {}
    for form in ("--chat", "--chat-turns"):
        out = tmp_path / f"w{form}"
        assert reweight(folder, train, out, "--settings", "{epochs: 2}", form) == 0
        assert component_file.read_header(out).chat == {"--chat": True, "--chat-turns": "turns"}[form]
        rc, answers[form], _ = classify(capsys, folder, out, texts)
        assert rc == 0
    assert answers["--chat"] != answers["--chat-turns"]


def test_texts_that_are_demonstrations_are_said(checkpoint, texts, tmp_path, caplog, capsys):
    repeated = f" {LABELLED[1][0]} "
    train = written(tmp_path / "train.jsonl", [*LABELLED, (repeated, LABELLED[1][1])])
    with caplog.at_level("WARNING"):
        assert reweight(checkpoint, train, tmp_path / "w", "--settings", "{epochs: 1}") == 0
        told = "of 9 texts are also demonstrations, so the prompt contains their label; the first is labelled text 13"
        assert f"1 {told}" in caplog.messages
        caplog.clear()
        texts.write_text(f"{QUERIES[0]}\n{repeated}\n")
        assert classify(capsys, checkpoint, tmp_path / "w", texts)[0] == 0
    assert "1 of 2 texts are also demonstrations, so the prompt contains their label; the first is line 2" in caplog.messages


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        (LABELLED[:4], "no labelled text is left for training: there are 4 and the first 4 are demonstrations"),
        ([*LABELLED[:4], ("a", 1), ("b", 1)], "class Negative has no training text: none of the texts after the first 4"),
        ([("a", 7)], "line 1: unknown label 7; labels of task sst2: Negative, Positive"),
        ([*LABELLED, ("so long " * 4000, 0)], "labelled text 13: the text has "),
    ],
)
def test_what_cannot_be_trained_on_is_one_sentence_and_no_file(checkpoint, tmp_path, capsys, rows, sentence):
    assert reweight(checkpoint, written(tmp_path / "train.jsonl", rows), tmp_path / "w") == 1
    said = capsys.readouterr().err
    assert sentence in said
    assert len(said.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["train.jsonl"]


def test_another_model_or_tokenizer_is_refused_and_another_folder_is_not(
    checkpoint, weights, texts, tokenizer, tmp_path, capsys
):
    moved, model, spoken = tmp_path / "moved", tmp_path / "model", tmp_path / "spoken"
    shutil.copytree(checkpoint, moved)
    assert classify(capsys, moved, weights, texts)[0] == 0
    tiny("gpt2", len(tokenizer), seed=1, context=4096).save_pretrained(model)
    tokenizer.save_pretrained(model)
    rc, rows, said = classify(capsys, model, weights, texts)
    assert (rc, rows) == (1, [])
    assert "was made with another model, tiny (gpt2, 3 layers); its files differ from those of model" in said
    shutil.copytree(checkpoint, spoken)
    byte_level(vocabulary=300).save_pretrained(spoken)
    assert (
        "was made with another tokenizer; its files differ from those of spoken" in classify(capsys, spoken, weights, texts)[2]
    )


def test_what_holds_no_weights_or_damaged_ones_is_said(checkpoint, weights, texts, tmp_path, capsys):
    whole = weights.read_bytes()
    header = component_file.read_header(weights)
    tensors = load_file(weights)

    def with_header(**changes):
        said = json.loads(header.model_dump_json()) | changes
        save_file(tensors, tmp_path / "made", metadata={component_file.KIND.key: json.dumps(said)})
        return (tmp_path / "made").read_bytes()

    save_file(tensors, tmp_path / "foreign")
    for content, sentence in (
        (b"hello", "it is not a safetensors file"),
        ((tmp_path / "foreign").read_bytes(), "it is a safetensors file of another kind"),
        (whole[:-4], "is corrupted or truncated"),
        (whole[:-4] + bytes([whole[-4] ^ 1]) + whole[-3:], "is corrupted or truncated"),
        (with_header(format=99), "has version 99 of the file format, but this version of icl-lens reads version 2"),
        (with_header(labels=[0]), "its header is inconsistent"),
        (with_header(epochs="x"), "its header cannot be read"),
    ):
        (tmp_path / "bad").write_bytes(content)
        rc, rows, said = classify(capsys, checkpoint, tmp_path / "bad", texts)
        assert (rc, rows) == (1, [])
        assert sentence in said
        assert len(said.splitlines()) == 1
    assert (
        "none does not exist; create it with `icl-lens reweight-components`"
        in classify(capsys, checkpoint, tmp_path / "none", texts)[2]
    )


def test_a_text_too_long_is_said_before_any_answer(checkpoint, weights, tmp_path, capsys):
    (tmp_path / "long.txt").write_text("dull\n" + "fine " * 5000 + "\n")
    rc, rows, said = classify(capsys, checkpoint, weights, tmp_path / "long.txt")
    assert (rc, rows) == (1, [])
    assert "line 2: the text has " in said


def test_a_cache_and_components_are_not_both_given(checkpoint, weights, texts, capsys):
    assert main(["classify", "--model", str(checkpoint), "--components", str(weights), "--cache", "x", str(texts)]) == 1
    assert "give either --cache or --components, not both" in capsys.readouterr().err
