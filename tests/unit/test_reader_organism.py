import json
import re

import numpy as np
import pytest
import torch

from icl_lens.config import parse
from icl_lens.config.keys import EMBEDDED_MODEL, READER_MODEL
from icl_lens.errors import InputError
from icl_lens.models import generation, loading
from icl_lens.organism.recipe import Architecture
from icl_lens.prompts.positions import encode
from icl_lens.reader_organism import CHECKPOINT, card, training
from icl_lens.reader_organism.code import code_hashes
from icl_lens.reader_organism.material import Material, build_vocabulary
from icl_lens.reader_organism.recipe import Recipe
from icl_lens.studies.representation_change import lines, reading
from icl_lens.studies.representation_change.paired_answers import parse_number
from icl_lens.studies.representation_change.settings import Lines, Reading

TINY = Recipe(
    steps=3,
    checkpoints=2,
    architecture=Architecture(width=16, layers=2, heads=2, feed_forward=16, local_layers=1),
    list_tokens=150,
    story_tokens=150,
    list_examples=[0, 1],
    story_examples=[0, 1],
)
LIST = re.compile(r"\((\d\.\d\d),(\d+\.\d+)\)")


@pytest.fixture(scope="module")
def material():
    return Material(Recipe(), build_vocabulary(1024))


def texts(material, batch):
    return [material.tokenizer.decode(row, skip_special_tokens=True) for row in batch.ids]


def lists_of(text):
    return [[(x, y) for x, y in LIST.findall(line)] for line in text.strip().split("\n")]


def test_digits_and_words_are_one_token_each():
    tokenizer = build_vocabulary(64)
    assert tokenizer.tokenize(" (0.86,22.2);") == ["Ġ(", "0", ".", "8", "6", ",", "2", "2", ".", "2", ");"]
    for text in reading.build(Reading(queries=20), 1)["text"]:
        assert len(tokenizer.tokenize(text)) == len(re.findall(r"\w+|[.?:\n]", text))
    assert tokenizer.decode(tokenizer("Zebras!")["input_ids"]) == "Zebras!"


def test_no_line_of_the_grid_is_trained_on(material):
    tested = {(m, b) for m in Lines().slopes for b in Lines().intercepts}
    assert not tested & set(material.lines)
    assert len(material.lines) > 1000


def test_no_pair_of_the_reading_grid_is_trained_on(material):
    seen = set()
    for _ in range(40):
        for text in texts(material, material.stories()):
            seen |= set(re.findall(r"(\w+) is (\w+ \w+ \w+)\.", text))
    assert len(seen) > 300
    assert not {(n, a) for n, a in seen if n in reading.NAMES and a in reading.ACTIVITIES}
    assert {n for n, _ in seen} >= set(reading.NAMES)
    assert {a for _, a in seen} >= set(reading.ACTIVITIES)


def test_one_rule_completes_all_lists_of_a_prompt(material):
    shares = []
    for _ in range(60):
        for text in texts(material, material.lists()):
            repeated = [points[-1][0] == points[-1][1] for points in lists_of(text)]
            shares.append(repeated[-1])
            # Uninformative examples never repeat a value, whether or not the last list does.
            assert len(set(repeated)) == 1 or not any(repeated[:-1])
    assert 0.4 < np.mean(shares) < 0.7


def test_losses_weigh_answers_most_and_never_padding(material):
    for batch in (material.lists(), material.stories()):
        assert set(np.unique(batch.weights).tolist()) <= {0.0, float(np.float32(0.05)), 1.0}
        for ids, weights, answers in zip(batch.ids, batch.weights, batch.answers, strict=True):
            length = int((weights > 0).sum())
            assert (weights[length:] == 0).all()
            assert (weights[answers > 0] == 1).all()
            last = material.tokenizer.decode(ids[:length]).strip().split("\n")[-1]
            said = material.tokenizer.decode(ids[answers > 0]).strip()
            assert last.rstrip(").").endswith(said.rstrip("."))


def test_a_training_gives_the_same_bytes_again(tmp_path):
    for name in ("one", "two"):
        training.run(TINY, checkpoints=tmp_path / name / "checkpoints", facts=tmp_path / f"{name}.json")
    one, two = (tmp_path / name / "checkpoints" / "step-000003" / "model.safetensors" for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()
    first = tmp_path / "one" / "checkpoints" / "step-000000" / "model.safetensors"
    assert first.read_bytes() != one.read_bytes()
    facts = json.loads((tmp_path / "one.json").read_text())
    assert facts["recipe"]["steps"] == facts["curve"][-1]["step"] == 3


def test_a_card_says_what_was_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(card, "Lines", lambda: Lines(queries_per_line=1, examples=[0, 1]))
    monkeypatch.setattr(card, "Reading", lambda queries: Reading(queries=20, distractors=[1], examples=[0, 1]))
    training.run(TINY, checkpoints=tmp_path / "checkpoints", facts=tmp_path / "facts.json")
    card.write(tmp_path / "checkpoints", tmp_path / "facts.json", tmp_path / "model")
    said = json.loads((tmp_path / "model" / "card.json").read_text())
    assert {row["step"] for row in said["evaluation"]} == {0, 3}
    assert "reading, 1 distractors" in (tmp_path / "model" / "README.md").read_text()
    assert loading.load(tmp_path / "model").layers == 2
    with pytest.raises(InputError, match="lacks the checkpoint of step 3"):
        card.write(tmp_path / "model", tmp_path / "facts.json", tmp_path / "other")


def test_a_recipe_that_cannot_be_is_refused():
    with pytest.raises(InputError, match="did you mean 'steps'"):
        parse.parse_reader_recipe("{step: 3}")


def test_the_shipped_models_are_small_and_the_reader_is_what_its_recipe_says():
    files = [file for folder in (EMBEDDED_MODEL, READER_MODEL) for file in CHECKPOINT.parents[3].joinpath(folder).iterdir()]
    assert sum(file.stat().st_size for file in files) < 8e6
    said = json.loads((CHECKPOINT / "card.json").read_text())
    assert said["training"]["recipe"] == json.loads(Recipe().model_dump_json())
    assert said["training"]["code"] == code_hashes()
    assert (CHECKPOINT / "README.md").read_text() == card.render(said)


@torch.inference_mode()
def test_examples_lower_the_shipped_readers_error_on_both_tasks():
    model = loading.load(CHECKPOINT, device="cpu")

    def answered(table):
        return table.assign(answer=generation.greedy_answers(model, encode(table, model.tokenizer), 6, 4096))

    listed = answered(lines.build(Lines(queries_per_line=1, examples=[0, 2]), 1).query("not control"))
    listed["error"] = [abs(parse_number(a) - float(t)) for a, t in zip(listed["answer"], listed["truth"], strict=True)]
    told = answered(reading.build(Reading(queries=20, distractors=[1], examples=[0, 2]), 1).query("not control"))
    told["error"] = [float(t not in a) for a, t in zip(told["answer"], told["truth"], strict=True)]
    for table in (listed, told):
        none, most = table.groupby("examples")["error"].mean()
        assert most < 0.75 * none
