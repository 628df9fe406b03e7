"""Tests of user-defined tasks: the config keys they accept and the error messages for invalid ones."""

import re
from pathlib import Path

import pytest
import yaml
from transformers import AutoTokenizer

from icl_lens.artifacts.hashes import STAGES
from icl_lens.config import parse
from icl_lens.config.keys import EMBEDDED_MODEL
from icl_lens.corpora import columns
from icl_lens.corpora.columns import Columns
from icl_lens.errors import InputError
from icl_lens.prompts import protocol
from icl_lens.tasks.own import OwnTask
from icl_lens.tasks.task import TASKS, Task

from ..conftest import REPOSITORY

WORDS = {"neg": " bad", "pos": " good"}
FILES = {"train": "a.csv", "test": "b.csv"}
GOOD = {"template": "Review: {text}\nVerdict:{label}", "label_words": WORDS, **FILES}
TREC = {"NUM": " F", "LOC": " E", "HUM": " D", "DESC": " C", "ENTY": " B", "ABBR": " A"}


def parsed(keys, name="mine"):
    return parse.parse({"tasks": [name], "own_tasks": {name: keys}})


def refused(keys, name="mine"):
    with pytest.raises(InputError) as caught:
        parsed(keys, name)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_task_is_what_its_keys_say():
    assert parsed(GOOD).task("mine") == Task(
        name="mine",
        title="mine",
        template="Review: {text}\nVerdict:{label}",
        label_words=(" bad", " good"),
        classes=("neg", "pos"),
    )
    assert parsed({**GOOD, "title": "My reviews"}).task("mine").title == "My reviews"


def test_a_task_from_the_hub_names_splits_and_has_defaults():
    own = parsed({"template": GOOD["template"], "label_words": WORDS, "hub": "owner/name"}).own_tasks["mine"]
    assert (own.train, own.test, own.config, own.revision) == ("train", "test", "default", "refs/convert/parquet")
    assert (own.text, own.label) == (["text"], "label")


def test_numbers_as_keys_are_the_labels_as_text():
    words = yaml.safe_load('{0: " bad", 1: " good"}')
    assert parsed({**GOOD, "label_words": words}).task("mine").classes == ("0", "1")


def test_a_task_like_another_has_its_texts_template_and_classes_with_words_mapped_by_name():
    task = parsed({"like": "trec", "label_words": TREC}).task("mine")
    assert task.classes == TASKS["trec"].classes
    assert task.label_words == (" A", " B", " C", " D", " E", " F")
    assert task.template == TASKS["trec"].template
    assert task.title == "TREC (A, B, C, D, E, F)"


def test_a_task_like_another_may_have_its_own_template_and_title():
    keys = {"like": "sst2", "label_words": {"positive": " up", "negative": " down"}, "template": "{text}. So:{label}"}
    task = parsed({**keys, "title": "Ups"}).task("mine")
    assert (task.template, task.title, task.label_words) == ("{text}. So:{label}", "Ups", (" down", " up"))


def test_items_show_a_task_of_ones_own_beside_the_papers():
    settings = parse.parse({"tasks": ["mine", "sst2"], "own_tasks": {"mine": GOOD}})
    assert settings.shown("figure_3")[1] == ["sst2", "mine"]
    assert set(settings.shown("table_4")[1]) == {"sst2", "mine"}
    chosen = {"figure_3": {"tasks": ["mine"]}}
    assert parse.parse({"tasks": ["mine", "sst2"], "own_tasks": {"mine": GOOD}, "items": chosen}).shown("figure_3")[1] == [
        "mine"
    ]


def test_a_task_that_is_defined_but_not_named_is_not_shown():
    settings = parse.parse({"tasks": ["sst2"], "own_tasks": {"mine": GOOD}})
    assert all("mine" not in settings.shown(item)[1] for item in ("figure_3", "figure_9", "table_4"))


@pytest.mark.parametrize("template", ["{text}:{label}", "A { brace: {text}\n}Verdict:{label}", "Text {text}\n\nVerdict{label}"])
def test_a_template_may_be_anything_that_a_prompt_can_be_written_from(template):
    task = parsed({**GOOD, "template": template}).task("mine")
    prompt = protocol.write_prompt(task, ["one {text}", "two"], [0, 1], "three")
    assert prompt["text"].count("{text}") == 1, "a text that holds a brace is left as it is"
    for (start, end), word in zip(prompt["label_spans"], task.label_words, strict=True):
        assert prompt["text"][start:end] == word


@pytest.mark.parametrize(
    "template",
    [
        "",
        "Verdict:{label}",
        "{text}",
        "{label}: {text}",
        "{text}{text}:{label}",
        "{text}:{label}{label}",
        "{text} {x}:{label}",
        "{text} {}:{label}",
        "{text}:{label}.",
    ],
)
def test_a_template_that_no_query_can_be_written_from_is_refused(template):
    told = refused({**GOOD, "template": template})
    assert told.startswith(f"config: own_tasks.mine: template {template!r} must contain {{text}} once, end with {{label}}")


@pytest.mark.parametrize("template", ["{text}\nVerdict: {label}", "{text}\n{label}", "{text}:\t{label}"])
def test_a_blank_before_the_label_is_refused_and_told_where_it_belongs(template):
    assert "must not have whitespace before {label}" in refused({**GOOD, "template": template})


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ({"neg": "bad", "pos": " good"}, "label_words: 'bad' must be a word with a leading space"),
        ({"neg": " ", "pos": " good"}, "label_words: ' ' must be a word with a leading space"),
        ({"neg": " bad ", "pos": " good"}, "label_words: ' bad ' must be a word with a leading space and no trailing space"),
        ({"neg": "", "pos": " good"}, "label_words: '' must be a word with a leading space"),
        ({"neg": " good", "pos": " good"}, "label_words: duplicate word ' good'; words must be unique"),
        ({"neg": " bad"}, "must have at least 2 items"),
        ([" bad", " good"], "must be a mapping"),
        ({"neg": None, "pos": " good"}, "label_words.neg' must be a valid string, got None"),
        ({1: " bad", "1": " good", "2": " so"}, "duplicate label, once as a number and once as text"),
        ({0.5: " bad", "pos": " good"}, "label_words"),
        ({None: " bad", "pos": " good"}, "label_words"),
    ],
)
def test_label_words_that_cannot_be_are_one_sentence(words, sentence):
    told = refused({**GOOD, "label_words": words})
    assert sentence in told
    assert "own_tasks.mine" in told


@pytest.mark.parametrize(("key", "read"), [("yes", True), ("no", False), ("true", True), ("off", False)])
def test_an_unquoted_yes_is_told(key, read):
    words = yaml.safe_load(f'{{{key}: " good", other: " bad"}}')
    told = refused({**GOOD, "label_words": words})
    assert (
        f"a label must be text, got {read} (YAML reads unquoted yes, no, true and false as booleans); put it in quotes" in told
    )
    assert told.startswith("config: own_tasks.mine.label_words: ")
    quoted = yaml.safe_load(f'{{"{key}": " good", other: " bad"}}')
    assert parsed({**GOOD, "label_words": quoted}).task("mine").classes == (key, "other")


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"label_words": WORDS, **FILES}, "own_tasks.mine: template is missing"),
        ({"template": GOOD["template"], **FILES}, "'own_tasks.mine.label_words' is missing"),
        (
            {k: v for k, v in GOOD.items() if k != "test"},
            "own_tasks.mine: test is missing; set it to a file, or set hub to a data set on the Hub",
        ),
        ({"template": GOOD["template"], "label_words": WORDS}, "own_tasks.mine: test is missing"),
        ({**GOOD, "config": "x"}, "own_tasks.mine: revision and config need hub"),
        ({**GOOD, "revision": "x"}, "own_tasks.mine: revision and config need hub"),
        ({**GOOD, "text": "title"}, "'own_tasks.mine.text' must be a list, such as ['title'], got 'title'"),
        ({**GOOD, "text": []}, "'own_tasks.mine.text' must have at least 1 item, got []"),
        ({**GOOD, "tempate": "x"}, "unknown key 'own_tasks.mine.tempate' (= 'x'); did you mean 'template'?"),
        (
            {"like": "sst2", "label_words": {"negative": " A", "positive": " B"}, "train": "x"},
            "like: sst2 provides the texts",
        ),
        ({"like": "sst2", "label_words": WORDS}, "label_words: the keys must be the classes of sst2"),
        ({"like": "ssst", "label_words": WORDS}, "own_tasks.mine: like: 'ssst' is unknown (known: sst2, trec, agnews, emoc)"),
        ({"like": "mine", "label_words": WORDS}, "own_tasks.mine: like: 'mine' is unknown (known: sst2"),
    ],
)
def test_a_fault_names_the_task_the_key_and_the_remedy(keys, sentence):
    assert sentence in refused(keys)


def test_a_name_of_the_papers_or_of_a_folder_of_the_results_is_refused():
    assert refused(GOOD, "sst2") == "config: own_tasks.sst2: sst2 is a task of the paper; choose another name"
    for name in STAGES:
        assert f"the name {name!r} is reserved for a folder of the results; choose another" in refused(GOOD, name)
    assert "must be a name of letters" in refused(GOOD, "my/task")


def test_a_definition_says_the_same_as_the_config():
    """Pass the definition as the workflow does: as JSON, which is valid YAML, with only the keys that were given."""
    odd = {**GOOD, "template": 'It\'s "é☃": {text}\n\t$V:{label}'}
    for keys in (GOOD, {"like": "trec", "label_words": TREC}, odd):
        own = OwnTask.model_validate(keys)
        task, again = parse.parse_task("mine", own.model_dump_json(exclude_unset=True))
        assert (task, again) == (parsed(keys).task("mine"), own)


def test_a_task_without_a_definition_must_be_the_papers():
    assert parse.parse_task("sst2", None) == (TASKS["sst2"], None)
    with pytest.raises(InputError, match="'mine' is unknown"):
        parse.parse_task("mine", None)
    with pytest.raises(InputError, match="--definition is not valid YAML"):
        parse.parse_task("mine", "{a: [")


EXAMPLE = REPOSITORY / "config/own-task.yaml"


def test_the_example_in_the_guide_is_the_config_that_is_shipped():
    examples = re.findall(r"```yaml\n(.*?)```", (REPOSITORY / "docs/own-task.md").read_text(), re.DOTALL)
    assert EXAMPLE.read_text() in examples
    assert len(EXAMPLE.read_text().splitlines()) <= 10


def test_the_example_has_texts_of_both_teams_and_none_twice():
    settings = parse.load(EXAMPLE)
    (name,) = settings.tasks
    own, task = settings.own_tasks[name], settings.task(name)
    files = {"train": [REPOSITORY / own.train], "test": [REPOSITORY / own.test]}
    assert all(not Path(path).is_absolute() for path in (own.train, own.test))
    table = columns.read(name, Columns(tuple(own.text), own.label, task.classes), files)
    assert table.groupby(["split", "label"]).size().to_dict() == {
        ("train", 0): 20,
        ("train", 1): 20,
        ("test", 0): 12,
        ("test", 1): 12,
    }
    assert table["text"].is_unique


def test_the_examples_label_words_are_single_tokens_of_the_embedded_model():
    tokenizer = AutoTokenizer.from_pretrained(REPOSITORY / EMBEDDED_MODEL)
    for word in parse.load(EXAMPLE).task("tickets").label_words:
        (token,) = tokenizer(word, add_special_tokens=False)["input_ids"]
        assert token != tokenizer.unk_token_id
