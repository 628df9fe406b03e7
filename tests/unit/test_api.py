"""The public Python API."""

import copy
import dataclasses
import hashlib
import inspect
import json
import logging
import os
import pickle
import re
import socket
import subprocess
import sys
import types
import warnings
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM, BertConfig, BertLMHeadModel

import icl_lens
from icl_lens import api, progress
from icl_lens.api import process, stubs, studies
from icl_lens.api.model import Model
from icl_lens.artifacts import code, parquet, tensors
from icl_lens.config.parse import parse_settings
from icl_lens.errors import InputError
from icl_lens.hub import converted, fetch, fetched, packages
from icl_lens.models import loading
from icl_lens.prompts.protocol import write_prompt
from icl_lens.prompts.schema import PROMPTS
from icl_lens.section import Section
from icl_lens.studies import plugins as registered_plugins
from icl_lens.studies import registry
from icl_lens.studies.run_synthetic import run_synthetic
from icl_lens.tasks.task import TASKS

from .. import plugins
from ..conftest import REPOSITORY, TEXTS
from ..families import tiny
from ..study_cases import CASES, prompts_writer, run_case, write_models

WORDS = ["Negative", "Positive"]
PARTS = ("text", "label_words", "demo_labels", "label_spans", "text_spans", "query_span", "prefix_spans")


def example(query="warm and clever", gold=None, **options):
    """Return a prompt of SST-2 with two demonstrations."""
    return icl_lens.Prompt.from_examples(
        "sst2", [("a fine film", "Positive"), ("dull and slow", "Negative")], query, gold=gold, **options
    )


def parsed(text, words=WORDS, **options):
    return icl_lens.Prompt.parse(text, words, **options)


def parts(prompt):
    """Return the texts of the parts of a prompt."""
    return {
        "demonstrations": list(prompt.demonstrations),
        "query": prompt.query,
        "pieces": [prompt.text[slice(*span)] for span in prompt.prefix_spans],
        "labels": [prompt.text[slice(*span)] for span in prompt.label_spans],
    }


@pytest.fixture(scope="module")
def model():
    return icl_lens.load("embedded", device="cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tokenizer):
    """Return a folder with a tiny model and an encoder, which is the working directory."""
    path = tmp_path_factory.mktemp("studies")
    write_models(path, tokenizer)
    before = Path.cwd()
    os.chdir(path)
    yield path
    os.chdir(before)


# Names.


def test_the_package_and_its_names_are_known_without_libraries():
    script = (
        "import sys, icl_lens; dir(icl_lens); assert 'saliency' in icl_lens.__all__; "
        "print(*sorted({'numpy', 'pandas', 'pyarrow', 'pydantic', 'torch', 'transformers', 'typer'} & set(sys.modules)))"
    )
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert told.stdout.strip() == ""


def test_each_study_is_a_public_name_and_no_module_hides_one():
    assert set(registry.packages()) | {"compress", "reweight"} <= set(icl_lens.__all__) <= set(dir(icl_lens))
    modules = {path.stem for path in code.PACKAGE.iterdir()}
    assert set(icl_lens.__all__) & modules == set()
    assert icl_lens.compress is icl_lens.compression
    assert icl_lens.reweight is icl_lens.reweighting
    assert icl_lens.list_studies()["saliency"] == registry.study("saliency").help
    assert list(icl_lens.list_studies()) == list(registry.studies())


def test_a_name_that_does_not_exist_is_an_attribute_error():
    for module in (icl_lens, studies):
        with pytest.raises(AttributeError, match="has no attribute 'saliencies'"):
            module.saliencies  # noqa: B018
    with pytest.raises(ImportError):
        from icl_lens import __absent__  # noqa: F401


def test_type_checkers_see_the_names():
    source = (code.PACKAGE / "__init__.py").read_text(encoding="utf-8")
    listed = re.search(r"    __all__ = \[\n(.*?)    \]", source, re.DOTALL)[1]
    assert re.findall(r'"(\w+)"', listed) == sorted(api.PLACES)
    for name, place in api.PLACES.items():
        module = place.removesuffix(f".{name}")  # a name can be a module
        assert re.search(rf"from icl_lens\.{re.escape(module)} import [^\n]*\b{name}\b", source), name
    assert (code.PACKAGE / "py.typed").is_file()
    assert stubs.FILE.read_text(encoding="utf-8") == stubs.text(), "run `python -m icl_lens.api.stubs`"
    compile(stubs.text(), "studies.pyi", "exec")


@pytest.mark.parametrize("name", sorted({*api.PLACES, *registry.packages()}))
def test_each_public_name_is_documented(name):
    public = getattr(icl_lens, name)
    assert public.__doc__.strip()
    functions = [public]
    if inspect.isclass(public):
        own = (each for key, each in vars(public).items() if not key.startswith("_"))
        functions = [getattr(each, "__func__", each) for each in own if isinstance(each, classmethod | types.FunctionType)]
    if inspect.ismodule(public):
        functions = [getattr(public, key) for key in public.__all__]
    for function in functions:
        documented = re.search(r"Args:\n(.*?)(\n\n *\w+:\n|$)", function.__doc__ or "", re.DOTALL)
        for argument in list(inspect.signature(function).parameters):
            if argument not in ("self", "cls"):
                assert re.search(rf"^ +{argument}: ", documented[1], re.MULTILINE), (function, argument)


@pytest.mark.parametrize("name", registry.packages())
def test_the_documentation_of_a_study_names_each_column_and_its_paper(name):
    study, function = registry.study(name), getattr(icl_lens, name)
    returns = " ".join(function.__doc__.split("\nReturns:\n")[1].split())
    assert [column for column in study.schema.columns if f"`{column}` (" not in returns] == []
    assert ":func:" not in function.__doc__
    assert ":mod:" not in function.__doc__
    assert function.__name__ == name
    signature = inspect.signature(function)
    for setting, argument in studies.setting_arguments(study).items():
        default = study.settings.section.model_fields[setting].get_default(call_default_factory=True)
        assert signature.parameters[argument].default == (None if isinstance(default, Section) else default)
    assert ("model" in signature.parameters) == (study.reads is not None)


# Studies.


@pytest.mark.parametrize("study", CASES)
def test_a_study_gives_the_table_that_the_command_writes(folder, study):
    case, write, out = CASES[study], prompts_writer(folder), folder / f"{study}.parquet"
    run_case(study, write, out)
    settings = parse_settings(study, json.dumps(case.settings)) if case.settings else None
    options = [table.option for table in registry.study(study).further]
    given = {option: write(name, None) for option, name in zip(options, case.further, strict=True)}
    arguments = studies.setting_arguments(registry.study(study))
    given |= {arguments[name]: value for name, value in case.settings.items()}
    found = getattr(icl_lens, study)(icl_lens.load("model", batch_tokens=400), write(case.prompts, settings), **given)
    if registry.study(study).tensors:
        found, named = found
        expected = tensors.read(out.with_suffix(".safetensors"))[0]
        assert set(named) == set(expected)
        assert all(np.array_equal(named[name], expected[name], equal_nan=True) for name in expected)
    table = parquet.read(out, registry.study(study).schema)[0].drop(columns=list(case.varies))
    pd.testing.assert_frame_equal(found.drop(columns=list(case.varies)), table)


def test_a_study_without_prompts_takes_only_settings(tmp_path):
    given = {"trials": 3, "seeds": (0, 1), "demonstrations": np.array([1, 2]), "limit": 64, "pretraining": 100}
    found = icl_lens.hidden_markov(**given)
    settings = parse_settings("hidden_markov", json.dumps({**given, "seeds": [0, 1], "demonstrations": [1, 2]}))
    run_synthetic(registry.study("hidden_markov"), tmp_path / "table.parquet", settings)
    pd.testing.assert_frame_equal(found, parquet.read(tmp_path / "table.parquet", registry.study("hidden_markov").schema)[0])
    with pytest.raises(InputError, match=r"^hidden_markov: too many positional arguments; see help"):
        icl_lens.hidden_markov(1)


def test_prompts_in_any_form_give_the_same(model, tmp_path):
    listed = [example(gold="Positive"), example("dull", gold="Negative")]
    table = icl_lens.prompts_table(listed)
    assert list(table) == list(PROMPTS.columns)
    assert table["prompt_id"].tolist() == [0, 1]
    path = tmp_path / "prompts.parquet"
    parquet.write(path, table, PROMPTS, {})
    expected = icl_lens.icl(model, listed)
    for form in (tuple(listed), table, table.assign(more=1)[["more", *reversed(table.columns)]], path, str(path)):
        pd.testing.assert_frame_equal(icl_lens.icl(model, form), expected)
    single = icl_lens.icl(model, listed[0])
    assert single["prediction"].tolist() == expected["prediction"].tolist()[:1]
    pd.testing.assert_frame_equal(icl_lens.icl(model, listed), expected)  # a second call


def test_tables_tell_which_queries_and_demonstrations_are_equal():
    other = icl_lens.Prompt.from_examples("sst2", [("dull and slow", 0), ("new", 1)], "warm and clever")
    table = icl_lens.prompts_table([example(), example("cold"), other])
    assert table["query_index"].tolist() == [0, 1, 0]
    assert table["demo_indices"].tolist() == [[0, 1], [0, 1], [1, 2]]
    assert table["set"].unique().tolist() == ["own"]
    assert table["shots"].tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda table: table.drop(columns=["text", "seed"]), "prompts is not a prompts table: missing column seed, text"),
        (lambda table: table.assign(seed="one"), r"prompts is not a prompts table: .*one"),
        (lambda table: table.assign(text=[["a"]]), r"prompts is not a prompts table: .*list"),
        (lambda table: table.assign(text=pd.Series([object()], dtype=object)), r"prompts is not a prompts table: .*object"),
        (lambda table: table.assign(task=None), "prompts has empty cells in column task"),
        (lambda table: table.iloc[:0], "prompts has no rows; a prompts table needs at least one"),
        (lambda table: pd.concat([table, table["text"]], axis=1), "prompts is not a prompts table: duplicate column"),
        (lambda table: pd.concat([table, table]), "duplicate prompt_id 0 in the prompts table; ids must be unique"),
        (lambda table: [], "prompts is empty; pass at least one prompt"),
        (lambda table: [table], r"prompts must be an icl_lens\.Prompt, a list of them, a prompts table"),
        (lambda table: 3, r"prompts must be an icl_lens\.Prompt, a list of them, .*, got 3"),
        (lambda table: "absent.parquet", r"absent\.parquet does not exist; expected a prompts table \(Parquet\)"),
    ],
)
def test_invalid_prompts_are_refused_in_one_sentence(model, change, fault):
    with pytest.raises(InputError, match=f"^{fault}") as caught:
        icl_lens.icl(model, change(icl_lens.prompts_table(example(gold=0))))
    assert "\n" not in str(caught.value)


def test_a_further_table_is_named_in_the_error(model):
    prompts = example(gold=0)
    with pytest.raises(InputError, match=r"^train is empty; pass at least one prompt"):
        icl_lens.reweight(model, prompts, train=[], baseline=prompts)
    with pytest.raises(InputError, match=r"^reweighting: missing a required argument: 'train'; see help"):
        icl_lens.reweight(model, prompts)


def test_a_study_of_other_prompts_refuses_prompts(model):
    with pytest.raises(
        InputError, match=r"^prompts must be a paired_prompts table \(a DataFrame, or the path of a file\), got"
    ):
        icl_lens.representation_change(model, [example()])


@pytest.mark.parametrize(
    ("call", "fault"),
    [
        (lambda m, p: icl_lens.isolation(m, p, layer=[1]), "isolation: unknown argument 'layer'; did you mean 'layers'?"),
        (lambda m, p: icl_lens.icl(m, p, zzz=1), "icl: unknown argument 'zzz'; its arguments are model, prompts"),
        (lambda m, p: icl_lens.icl(m), "icl: missing a required argument: 'prompts'; see help(icl_lens.icl)"),
        (lambda m, p: icl_lens.isolation(m, p, draws=0), "isolation: 'draws' must be greater than or equal to 1, got 0"),
        (lambda m, p: icl_lens.isolation(m, p, layers=1), "isolation: 'layers' must be a list, such as [1], got 1"),
        (
            lambda m, p: icl_lens.isolation(m, p, targets=["labels"]),
            "isolation: 'targets[0]' must be 'label', 'random', 'newline' or 'template', got 'labels'",
        ),
        (lambda m, p: icl_lens.flow(m, p, prompts_=0), "flow: 'prompts_' must be greater than or equal to 1, got 0"),
        (
            lambda m, p: icl_lens.representation_change(m, p, lines={"slope": [1.0]}),
            "representation_change: unknown key 'lines.slope' (= [1.0]); did you mean 'slopes'?",
        ),
        (
            lambda m, p: icl_lens.icl(m.language_model.network, p),
            "icl: model must be an icl_lens.Model, which icl_lens.load and icl_lens.wrap return, got 'LlamaForCausalLM'",
        ),
    ],
)
def test_invalid_arguments_are_refused_in_one_sentence(model, call, fault):
    with pytest.raises(InputError, match=f"^{re.escape(fault)}"):
        call(model, example(gold=0))


def test_settings_accept_values_of_numpy_and_tuples(model):
    prompts = example()
    expected = icl_lens.isolation(model, prompts, layers=[1, 2], draws=1)
    pd.testing.assert_frame_equal(icl_lens.isolation(model, prompts, layers=range(1, 3), draws=np.int64(1)), expected)
    pd.testing.assert_frame_equal(icl_lens.isolation(model, prompts, layers=np.array([1, 2]), draws=1), expected)


# Queries without a gold label.


GOLD = [name for name, study in registry.studies().items() if study.reads is PROMPTS and not study.further]


@pytest.mark.parametrize("study", [name for name in GOLD if registry.study(name).needs_gold and CASES[name].prompts[0] != "l"])
def test_a_study_that_needs_gold_labels_refuses_prompts_without(model, study):
    sentence = (
        "^prompts: prompt 1 has no gold label, but .* needs one; set gold to the correct label, or use icl_lens.with_pred"
    )
    with pytest.raises(InputError, match=sentence):
        getattr(icl_lens, study)(model, [example(gold=1), example()])


@pytest.mark.parametrize("study", [name for name in CASES if not registry.study(name).needs_gold])
def test_a_study_that_needs_no_gold_labels_does_not_depend_on_them(folder, study):
    case, declared, write = CASES[study], registry.study(study), prompts_writer(folder)
    if declared.reads is not PROMPTS:
        assert "gold" not in declared.reads.columns
        return
    arguments = studies.setting_arguments(declared)
    given = {arguments[name]: value for name, value in case.settings.items()}
    options = [table.option for table in declared.further]
    given |= {option: write(name, None) for option, name in zip(options, case.further, strict=True)}
    table = parquet.read(write(case.prompts, None), PROMPTS)[0]
    results = []
    for gold in (table["gold"], 1 - table["gold"], None):
        found = getattr(icl_lens, study)(icl_lens.load("model"), table.assign(gold=gold), **given)
        results.append((found[0] if declared.tensors else found).drop(columns=list(case.varies)))
    correct, wrong, unknown = results
    own = list(declared.gold_columns)
    assert all((correct[name] != wrong[name]).any() for name in own)
    for other in (wrong, unknown):
        pd.testing.assert_frame_equal(correct.drop(columns=own), other.drop(columns=own))
    assert unknown[own].isna().to_numpy().all()


def test_only_the_unknown_gold_labels_are_missing(model):
    found = icl_lens.icl(model, [example(gold="Negative"), example()])
    assert found["gold"].tolist() == [0, pd.NA]
    assert found["gold"].dtype == "Int64"
    assert icl_lens.icl(model, example(gold=1))["gold"].dtype == "int64"
    rows = icl_lens.compress(model, [example(gold=0), example()], draws=1)
    assert (rows["correct"].isna() == (rows["prompt_id"] == 1)).all()


def test_predictions_can_be_the_gold_labels(model):
    prompts = [example(gold=1), example(), example("a dull film")]
    found = icl_lens.with_predicted_gold(model, prompts)
    assert found[0] is prompts[0]
    assert [prompt.gold for prompt in found[1:]] == icl_lens.icl(model, prompts)["prediction"].tolist()[1:]
    assert set(icl_lens.saliency(model, found)["prompt_id"]) == {0, 1, 2}
    with pytest.raises(InputError, match=r"^prompt 0 is longer than the context of embedded, so it has no prediction"):
        icl_lens.with_predicted_gold(model, [example("long " * 2000), example()])


# Prompts.


def test_prompts_from_examples_are_those_of_the_protocol():
    for name, task in TASKS.items():
        labels = [len(task.label_words) - 1, 0, 1]
        found = icl_lens.Prompt.from_examples(name, [(TEXTS[n], label) for n, label in enumerate(labels)], TEXTS[3], gold=1)
        row = found.row()
        assert {key: row[key] for key in write_prompt(task, [], [], "x")} == write_prompt(task, TEXTS[:3], labels, TEXTS[3])
        assert (row["task"], row["gold"], row["label_words"]) == (name, 1, list(task.label_words))
        assert set(row) == set(PROMPTS.columns)


def test_labels_are_words_names_or_numbers():
    for label in ("Positive", " Positive", "positive", 1, np.int64(1), "1"):
        assert icl_lens.Prompt.from_examples("sst2", [("fine", label)], "dull").demo_labels == (1,)
    assert icl_lens.Prompt.from_examples("sst2", [{"text": "fine", "label": "Positive"}], "dull").demo_labels == (1,)
    prompt = example()
    assert prompt.demonstrations == [("a fine film", " Positive"), ("dull and slow", " Negative")]
    assert prompt.query == "warm and clever"
    assert prompt.with_gold("Positive").gold == 1
    assert prompt.with_gold("Positive").with_gold(None) == prompt
    assert repr(prompt) == "Prompt(2 demonstrations, query 'warm and clever', labels Negative, Positive, gold unknown)"
    assert "gold 'Positive'" in repr(prompt.with_gold(1))
    assert pickle.loads(pickle.dumps(prompt)) == prompt


def test_a_prompt_needs_no_demonstrations(model):
    prompt = icl_lens.Prompt.from_examples("sst2", [], "warm and clever")
    table = icl_lens.prompts_table(prompt)
    assert table["shots"].tolist() == [0]
    pd.testing.assert_frame_equal(icl_lens.icl(model, prompt), icl_lens.icl(model, table))
    with pytest.raises(InputError, match="prompt 0 has no demonstration"):
        icl_lens.deep_attention(model, prompt)


def test_a_template_is_a_task():
    expected = icl_lens.Prompt.from_examples("Q: {text}\nA:{label}", [("x", " no")], "y", label_words=[" yes", " no"])
    assert expected.text == "Q: x\nA: no\nQ: y\nA:"
    spaced = icl_lens.Prompt.from_examples("Q: {text}\nA: {label}", [("x", "no")], "y", label_words=["yes", "no"])
    assert spaced == expected
    task = icl_lens.Task("mine", "Mine", "Q: {text}\nA:{label}", (" yes", " no"), ("y", "n"))
    assert icl_lens.Prompt.from_examples(task, [("x", "n")], "y") == dataclasses.replace(expected, task="mine")
    braces = icl_lens.Prompt.from_examples("Q: {text}\nA:{label}", [("{label}", 0)], "{text}", label_words=[" yes", " no"])
    assert braces.text == "Q: {label}\nA: yes\nQ: {text}\nA:"


@pytest.mark.parametrize(
    ("task", "options", "fault"),
    [
        ("sst", {}, r"task: 'sst' is unknown \(known: sst2, .*\); use one of these, an icl_lens\.Task, or a template with"),
        (3, {}, r"task must be the name of a task, an icl_lens\.Task or a template, got 3"),
        ("Review:{label}", {"label_words": [" a", " b"]}, r"template 'Review:\{label\}' must contain \{text\} once"),
        ("Review: {text}", {"label_words": [" a", " b"]}, r"template 'Review: \{text\}' must contain \{text\} once, end with"),
        ("Review: {text} {label}!", {"label_words": [" a", " b"]}, r"template .* must contain \{text\} once, end with"),
        ("Review: {text}\nIs: {label}", {"label_words": [" a", "b"]}, r"template .* must not have whitespace before \{label\}"),
        ("Review: {text}\nIs:{label}", {}, "label_words is missing; a template needs one label word per class"),
        ("Review: {text}\nIs:{label}", {"label_words": ["a", "b"]}, "label_words: 'a' must be a word with a leading space"),
        ("Review: {text}\nIs:{label}", {"label_words": [" a", " a"]}, "label_words: duplicate word 'a'; words must be unique"),
        ("Review: {text}\nIs:{label}", {"label_words": [" a"]}, "label_words must contain at least two words"),
        ("Review: {text}\nIs:{label}", {"label_words": " a b"}, "label_words must be a list with one word per class"),
        ("Review: {text}\nIs:{label}", {"label_words": [" a", 3]}, "label_words: 3 must be a word"),
        ("sst2", {"label_words": [" a", " b"]}, "label_words are those of task sst2; remove label_words, or pass a template"),
        ("sst2", {"demonstrations": [("x", "Neutral")]}, r"demonstrations\[0\]: unknown label 'Neutral'; the labels are Neg"),
        ("sst2", {"demonstrations": [("x", 2)]}, r"demonstrations\[0\]: unknown label 2; the labels are .* \(or 0 to 1\)"),
        ("sst2", {"demonstrations": [("x", True)]}, r"demonstrations\[0\]: unknown label True"),
        ("sst2", {"demonstrations": ["x"]}, r"demonstrations\[0\] must be a pair of a text and a label, got 'x'"),
        ("sst2", {"demonstrations": [(" ", 0)]}, r"demonstrations\[0\]: the text must be a string that is not empty, got ' '"),
        ("sst2", {"query": ""}, "query: the text must be a string that is not empty, got ''"),
        ("sst2", {"query": None}, "query: the text must be a string that is not empty, got None"),
        ("sst2", {"gold": "Neutral"}, "gold: unknown label 'Neutral'; the labels are Negative, Positive"),
    ],
)
def test_invalid_examples_are_refused_in_one_sentence(task, options, fault):
    with pytest.raises(InputError, match=f"^{fault}"):
        icl_lens.Prompt.from_examples(task, **{"demonstrations": [], "query": "x", **options})


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("demonstrations", [1, 2, 5])
def test_a_written_prompt_is_parsed_into_the_same_parts(name, demonstrations):
    task = TASKS[name]
    generator = np.random.default_rng(demonstrations)
    words = [word.strip() for word in task.label_words]
    for draw in range(40):
        texts = [TEXTS[n] for n in generator.integers(len(TEXTS), size=demonstrations + 1)]
        if draw % 2:  # texts that contain label words, begin and end alike, and contain a colon
            texts = [f"a {words[n % len(words)]} note: {text} {words[0]} ." for n, text in enumerate(texts)]
        labels = generator.integers(len(words), size=demonstrations).tolist()
        expected = icl_lens.Prompt.from_examples(name, list(zip(texts[:-1], labels, strict=True)), texts[-1])
        for text, options in (
            (expected.text, {}),
            (f"{expected.text} \n", {}),
            (expected.text, {"template": task.template}),
            (expected.text, {"template": task.template.replace("{label}", " {label}")}),
        ):
            found = parsed(text, words, task=name, **options)
            assert {part: getattr(found, part) for part in PARTS} == {part: getattr(expected, part) for part in PARTS}
        assert found == expected


FORMATS = {
    "an instruction": (
        "Classify each review.\nThe labels are Positive and Negative.\n\nReview: great\nSentiment: Positive\n\nReview: bad\n"
        "Sentiment: Negative\n\nReview: so so\nSentiment:",
        [("great", " Positive"), ("bad", " Negative")],
        "so so",
        ["Review:", "Sentiment:"],
    ),
    "an instruction and one demonstration": (
        "Classify.\n\nReview: great\nSentiment: Positive\n\nReview: so so\nSentiment:",
        [("great", " Positive")],
        "so so",
        ["Review:", "Sentiment:"],
    ),
    "one line": (
        "great film => Positive\nbad film => Negative\nso so film =>",
        [("great film", " Positive"), ("bad film", " Negative")],
        "so so film",
        ["=>"],
    ),
    "no space": (
        "great film=>Positive\nbad film=>Negative\nso so film=>",
        [("great film", "Positive"), ("bad film", "Negative")],
        "so so film",
        ["=>"],
    ),
    "label in its own line": (
        "great film\nPositive\nbad film\nNegative\nso so film\n",
        [("great film", "Positive"), ("bad film", "Negative")],
        "so so film",
        [],
    ),
    "text and label on the same line as their pieces": (
        "Text: great film. Label: Positive\n\nText: bad film. Label: Negative\n\nText: so so film. Label:",
        [("great film.", " Positive"), ("bad film.", " Negative")],
        "so so film.",
        ["Text:", "Label:"],
    ),
    "headings": (
        "### Text\ngreat film\n### Label\nPositive\n### Text\nbad film\n### Label\nNegative\n### Text\nso so film\n### Label\n",
        [("great film", "Positive"), ("bad film", "Negative")],
        "so so film",
        ["### Text", "### Label"],
    ),
    "texts of several lines": (
        "Review: great\nfilm\nOptions: good, bad\nSentiment: Positive\nReview: bad\n\nfilm\nOptions: good, bad\nSentiment: "
        "Negative\nReview: so\nso\nOptions: good, bad\nSentiment:",
        [("great\nfilm", " Positive"), ("bad\n\nfilm", " Negative")],
        "so\nso",
        ["Review:", "Options: good, bad\nSentiment:"],
    ),
    "a full stop after the label": (
        "Review: great\nSentiment: Positive.\nReview: bad\nSentiment: Negative.\nReview: so so\nSentiment:",
        [("great", " Positive"), ("bad", " Negative")],
        "so so",
        ["Review:", "Sentiment:"],
    ),
    "the query is a demonstration": (
        "Review: great\nSentiment: Positive\nReview: great\nSentiment:",
        [("great", " Positive")],
        "great",
        ["Review:", "Sentiment:"],
    ),
    "other scripts": (
        "文本: 好电影\n情感: Positive\n文本: 坏电影 😀\n情感: Negative\n文本: 一般\n情感:",
        [("好电影", " Positive"), ("坏电影 😀", " Negative")],
        "一般",
        ["文本:", "情感:"],
    ),
}


@pytest.mark.parametrize("form", FORMATS)
def test_a_text_in_a_format_of_the_user_is_parsed(form):
    text, demonstrations, query, pieces = FORMATS[form]
    prompt = parsed(text)
    assert parts(prompt) == {
        "demonstrations": demonstrations,
        "query": query,
        "pieces": pieces * (len(demonstrations) + 1),
        "labels": [word for _, word in demonstrations],
    }
    assert prompt.text.rstrip() == text.rstrip()


def test_label_words_of_several_words_and_signs_are_found():
    words = ["good", "very good", "C++", "Sci/Tech"]
    text = "a -> very good\nb -> good\nc -> C++\nd -> Sci/Tech\ne ->"
    assert [label for _, label in parsed(text, words).demonstrations] == [" very good", " good", " C++", " Sci/Tech"]


def test_with_a_template_nothing_is_guessed():
    text = "Q: is it Positive:\nno Answer: Positive\nQ: b\nAnswer: Negative\nQ: c\nAnswer:"
    prompt = parsed(text, template="Q: {text}\nAnswer: {label}")
    assert parts(prompt)["pieces"] == ["Q:", "Answer:"] * 3
    assert prompt.query == "c"
    with pytest.raises(InputError, match=r"^template 'Q: \{label\}' must contain \{text\} once"):
        parsed(text, template="Q: {label}")
    with pytest.raises(InputError, match=r"^template 'Q: \{text\}' must contain \{text\} once, end with"):
        parsed(text, template="Q: {text}")
    with pytest.raises(InputError, match=r"^template must be a string"):
        parsed(text, template=3)
    with pytest.raises(InputError, match=r"^text: must end with 'Label:', which precedes the label words.*'Answer:'"):
        parsed(text, template="Q: {text}\nLabel:{label}")
    with pytest.raises(InputError, match=r"^text: line 3 must begin with 'Review:', as in the template"):
        parsed(text, template="Review: {text}\nAnswer:{label}")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "text must be a prompt with demonstrations and a query, got ''"),
        (None, "text must be a prompt with demonstrations and a query, got None"),
        ("Review: x\nSentiment:", "text: contains none of the label words Negative, Positive; check label_words, or add"),
        ("Review: nonPositive\nSentiment: Positives\nSentiment:", "text: contains none of the label words Negative, Positive"),
        (
            "Review: a Positive film\nSentiment:",
            "text: none of the label words Negative, Positive is the label of a demonstration; such a word ends a line, or .*"
            r"\(the first is 'Positive' \(line 1\)\)",
        ),
        (
            "Review: x\nSentiment:\nReview: y\nSentiment: Positive\n",
            r"text: ends with the label word 'Positive' \(line 4\), so no query follows the demonstrations; end the text with",
        ),
        (
            "Review: x\nSentiment:\nReview: y\nSentiment: Positive\nReview: z\nSentiment:",
            "text: line 2 has 'Sentiment:' without a label word, but demonstrations follow; put the query after the demon",
        ),
        (
            "Review: x\nSentiment: Positive\nReview: y\nSentiment: Neutral\nReview: z\nSentiment:",
            r"text: 'Neutral' after 'Sentiment:' \(line 4\) is none of the label words Negative, Positive; add it to label_w",
        ),
        (
            "Review: x\nSentiment: Positive\nSentiment: Negative\nReview: z\nSentiment:",
            r"text: the label words 'Positive' \(line 2\) and 'Negative' \(line 3\) are in the same demonstration; keep one",
        ),
        (
            "Review: x\nSentiment: Positive Positive\nReview: z\nSentiment:",
            r"text: the label words 'Positive' \(line 2\) and 'Positive' \(line 2\) are in the same demonstration; keep one",
        ),
        (
            "Review: x\nSentiment: Positive\n\nSentiment:",
            r"text: no text follows the last label word 'Positive' \(line 2\); put the query after the demonstrations",
        ),
        (
            "Review: x\nSentiment: Positive\nReview: y\nSentiment: Positive\nReview:\nSentiment:",
            r"text: no text follows the last label word 'Positive' \(line 4\); put the query after the demonstrations",
        ),
        (
            "Sentiment: Positive\nReview: x\nSentiment: Negative\nReview: z\nSentiment:",
            r"text: no text precedes the label word 'Positive' \(line 1\); each demonstration is a text followed by its label",
        ),
        (
            "Review: x\nSentiment: Positive\nReview: y\nSentiment: Negative\nReview: z",
            "text: must end with 'Sentiment:', which precedes the label words, because .*; it ends with 'Review: z'",
        ),
        (
            "Review: x\nSentiment: Positive\nReview: y\nSentiment:\nNegative\nReview: z\nSentiment:",
            r"text: whitespace before the label words differs: ' ' before 'Positive' \(line 2\), '\\n' before 'Neg",
        ),
    ],
)
def test_a_text_that_is_no_prompt_is_refused_in_one_sentence(text, fault):
    with pytest.raises(InputError, match=f"^{fault}") as caught:
        parsed(text)
    assert "\n" not in str(caught.value)


def test_a_parsed_text_is_studied_like_a_written_prompt(model):
    frames = [icl_lens.icl(model, prompt).drop(columns="task") for prompt in (example(), parsed(example().text))]
    pd.testing.assert_frame_equal(*frames)
    found = icl_lens.deep_attention(model, parsed(FORMATS["an instruction"][0]))
    assert (found.groupby("layer")["attention"].sum() > 0).all()


# Models.


def state(network):
    """Return the visible state of a model."""
    modules = {
        name: (
            type(module),
            module.training,
            sorted(vars(module)),
            [len(each) for each in vars(module).values() if isinstance(each, dict)],
        )
        for name, module in network.named_modules()
    }
    parameters = {name: (id(each), each.requires_grad, each.grad) for name, each in network.named_parameters()}
    buffers = {name: id(each) for name, each in network.named_buffers()}
    return modules, parameters, buffers, network.config.to_dict(), network.config._attn_implementation


@pytest.mark.parametrize("family", ["gpt2", "gptj", "gemma2", "llama"])
def test_a_wrapped_model_is_as_before(folder, tokenizer, family):
    network = tiny(family, len(tokenizer), layers=2, context=512).train().requires_grad_(True)
    weights = {name: value.clone() for name, value in network.state_dict().items()}
    frozen = next(network.parameters())
    frozen.requires_grad_(False)
    calls = []
    network.register_forward_hook(lambda *_: calls.append(1))
    before = state(network)
    model = icl_lens.wrap(network, tokenizer)
    assert state(network) == before
    prompts = [example(gold=1), example("dull", gold=0)]
    given = {"layers": [1], "draws": 1}
    found = [icl_lens.icl(model, prompts), icl_lens.saliency(model, prompts), icl_lens.isolation(model, prompts, **given)]
    with pytest.raises(InputError, match=r"^isolation layers|layers"):
        icl_lens.isolation(model, prompts, layers=[99])
    assert state(network) == before
    assert all(torch.equal(value, weights[name]) for name, value in network.state_dict().items())
    assert calls
    network.eval().save_pretrained(folder / family)
    tokenizer.save_pretrained(folder / family)
    loaded = icl_lens.load(folder / family, name=model.name)
    again = [icl_lens.icl(loaded, prompts), icl_lens.saliency(loaded, prompts), icl_lens.isolation(loaded, prompts, **given)]
    for one, other in zip(found, again, strict=True):
        pd.testing.assert_frame_equal(one, other, rtol=1e-3, atol=1e-6)
    network(torch.arange(4)[None]).logits.sum().backward()  # training continues
    assert next(each for each in network.parameters() if each.requires_grad).grad is not None


def test_a_wrapped_model_in_half_precision_is_as_before(tokenizer):
    network = tiny("llama", len(tokenizer), layers=2).to(torch.bfloat16)
    model = icl_lens.wrap(network, tokenizer, name="mine", bos=False, batch_tokens=64)
    assert repr(model).startswith("Model('mine': llama, 2 layers of ")
    assert repr(model).endswith(" heads, bfloat16 on cpu)")
    before = state(network)
    icl_lens.deep_attention(model, example())
    assert state(network) == before
    assert not any(each.is_inference() for each in network.buffers())


def test_the_settings_of_torch_are_as_before(model):
    torch.set_default_dtype(torch.float64)
    try:
        with torch.no_grad():
            found = icl_lens.saliency(model, example(gold=0))
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    pd.testing.assert_frame_equal(found, icl_lens.saliency(model, example(gold=0)))


def test_a_call_changes_nothing_else_in_the_process(folder):
    from huggingface_hub import constants
    from huggingface_hub.utils import are_progress_bars_disabled

    def settings():
        return (
            dict(os.environ),
            list(logging.getLogger().handlers),
            logging.getLogger().level,
            torch.get_num_threads(),
            torch.get_default_dtype(),
            torch.random.get_rng_state().tolist(),
            np.random.get_state()[1].tolist(),
            transformers.logging.get_verbosity(),
            transformers.logging.is_progress_bar_enabled(),
            are_progress_bars_disabled(),
            constants.HF_HUB_OFFLINE,
            list(warnings.filters),
        )

    transformers.logging.set_verbosity_info()
    try:
        with mock.patch.object(constants, "HF_HUB_OFFLINE", False):
            before = settings()
            icl_lens.icl(icl_lens.load("model"), example())
            with pytest.raises(InputError):
                icl_lens.load("model", device="tpu")
            assert settings() == before
    finally:
        transformers.logging.set_verbosity_warning()


def test_loading_does_not_use_the_network(folder, monkeypatch):
    from huggingface_hub import constants

    def refuse(*_):
        raise AssertionError("a model was looked up in the network")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert icl_lens.load("model").name == "model"
    assert icl_lens.load("embedded").name == "embedded"
    with pytest.raises(InputError, match="set fetch=True to download it"):
        icl_lens.load("owner/model")


def test_models_are_loaded_as_told(folder):
    loaded = icl_lens.load("model", name="mine", dtype=torch.bfloat16, bos=False, matmul="fast", batch_tokens=64)
    assert (loaded.name, loaded.language_model.dtype) == ("mine", "bfloat16")
    assert (loaded.bos, loaded.matmul, loaded.batch_tokens) == (False, "fast", 64)
    untrained = icl_lens.load("model", untrained=3)
    assert untrained.language_model.facts["weights"]["drawn_with_seed"] == 3
    assert repr(icl_lens.load("model")).startswith("Model('model': llama, 2 layers of ")


@pytest.mark.parametrize(
    ("source", "options", "fault"),
    [
        ("absent/folder/deep", {}, r"model folder absent/folder/deep does not exist, and this is not a valid Hub name"),
        (
            "owner/name",
            {},
            r"model folder owner/name does not exist, and the Hub model owner/name is not in downloads; check the path, or set "
            r"fetch=True to download it",
        ),
        (
            "owner/name",
            {"revision": "v1", "downloads": "x"},
            r".*the Hub model owner/name at revision v1 is not in x; check the",
        ),
        ("owner/name", {"revision": "..", "fetch": True}, "'..' is not a valid revision"),
        ("model", {"revision": "main"}, "model is a local folder and has no revisions; remove revision"),
        ("model/config.json", {}, r"model/config\.json is a file, not a model folder; specify the folder"),
        ("absent.gguf", {}, r"GGUF file absent\.gguf does not exist"),
        ("", {}, "source must be a folder, a GGUF file or the name of a Hub model, got ''"),
        (3, {}, "source must be a folder, a GGUF file or the name of a Hub model, got 3"),
        ("model", {"device": "tpu"}, r"device 'tpu' is not available \(available: .*cpu\)"),
        ("model", {"dtype": "float8"}, "dtype must be 'float32', 'float16' or 'bfloat16', got 'float8'"),
        ("model", {"matmul": "quick"}, "matmul must be 'exact' or 'fast', got 'quick'"),
        ("model", {"bos": "yes"}, "bos must be 'auto', True or False, got 'yes'"),
        ("model", {"bos": 1}, "bos must be 'auto', True or False, got 1"),
        ("model", {"chat": "no"}, "chat must be False, True or 'turns', got 'no'"),
        ("model", {"batch_tokens": 0}, "batch_tokens must be a positive number of tokens, got 0"),
        ("model", {"placement": "gpu"}, "placement must be 'device' or 'auto', got 'gpu'"),
    ],
)
def test_a_model_that_cannot_be_loaded_is_refused_in_one_sentence(folder, source, options, fault):
    with mock.patch.object(loading, "load", side_effect=loading.load) as load, pytest.raises(InputError, match=f"^{fault}"):
        icl_lens.load(source, **options)
    assert not load.called or "device" in options


def test_a_model_without_a_tokenizer_is_refused(folder, tmp_path):
    tiny("gpt2", 100, layers=1).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"has no tokenizer; add its tokenizer\.json"):
        icl_lens.load(tmp_path)


def test_a_hub_model_is_fetched_only_if_told(folder, monkeypatch, tmp_path):
    place = fetch.model_folder(tmp_path, "owner/name")
    calls = []

    def download(command, name):
        calls.append((command[3:], name))
        place.mkdir(parents=True)
        for path in (folder / "model").iterdir():
            (place / path.name).write_bytes(path.read_bytes())
        files = {path.name: {"size": path.stat().st_size, "sha256": digest(path)} for path in (folder / "model").iterdir()}
        (place / fetched.RECORD).write_text(fetched.Fetched("owner/name", "main", "0" * 40, files).text())

    monkeypatch.setattr(fetch, "_run", download)
    with pytest.raises(InputError, match="set fetch=True"):
        icl_lens.load("owner/name", downloads=tmp_path)
    assert calls == []
    assert icl_lens.load("owner/name", downloads=tmp_path, fetch=True).name == "name"
    assert len(calls) == 1
    assert icl_lens.load("owner/name", downloads=tmp_path).language_model.facts["hub"] == "owner/name"
    assert len(calls) == 1, "a fetched model is not fetched again"
    (place / fetched.RECORD).write_text((place / fetched.RECORD).read_text().replace("owner/name", "Owner/name"))
    with pytest.raises(
        InputError, match=r"contains Owner/name at main, which has the same folder name as owner/name at main; use"
    ):
        icl_lens.load("owner/name", downloads=tmp_path)


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_gguf_file_is_converted_once_into_downloads(folder, monkeypatch, tmp_path):
    pytest.importorskip("gguf", reason="the optional package gguf is not installed")
    file = tmp_path / "tiny.Q4.gguf"
    file.write_bytes(b"GGUF")
    place = fetch.local_gguf_folder("downloads", file) / fetch.CONVERTED
    calls = []

    def convert(given, out):
        calls.append((given, out))
        place.mkdir(parents=True, exist_ok=True)
        files = {}
        for path in (folder / "model").iterdir():
            (place / path.name).write_bytes(path.read_bytes())
            files[path.name] = {"size": path.stat().st_size, "sha256": digest(path)}
        record = converted.Converted(file.name, digest(file), file.stat().st_size, "llama", "Q4", {}, files)
        out.write_text(record.text())

    monkeypatch.setattr("icl_lens.hub.gguf_conversion.convert", convert)
    monkeypatch.setattr("icl_lens.hub.gguf_files.check", lambda path: None)
    for _ in range(2):
        assert icl_lens.load(file).name == "tiny.Q4"
    assert calls == [(file, place / converted.RECORD)]
    file.write_bytes(b"GGUF2")
    icl_lens.load(file)
    assert len(calls) == 2, "the file has changed"
    file.write_bytes(b"GGUF3")
    monkeypatch.setattr(packages, "missing", lambda names: list(names))
    with pytest.raises(InputError, match=r"^converting a GGUF file needs gguf, which is not installed; run `"):
        icl_lens.load(file)


class Container:
    """An object that contains a model."""


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (
            lambda n, t: ("model", t),
            r"network must be a model of transformers \(PreTrainedModel\), got 'model'; use icl_lens.load",
        ),
        (
            lambda n, t: (Container(), t),
            "network must be a model of transformers .*, got 'Container'; pass the model that it contains",
        ),
        (lambda n, t: (n.model, t), "network: LlamaModel has no language-model head; load the model with AutoModelForCausalLM"),
        (lambda n, t: (n.double(), t), "network: the weights are float64; convert them to float32, float16, bfloat16"),
        (
            lambda n, t: (setattr(n, "is_quantized", True) or n, t),
            "network: LlamaForCausalLM has quantised weights that are not those of bitsandbytes; use the float weights",
        ),
        (
            lambda n, t: (n, None),
            "tokenizer: expected a tokenizer of transformers, got NoneType; use the tokenizer of the model",
        ),
        (lambda n, t: (n, "gpt2"), "tokenizer: expected a tokenizer of transformers, got str"),
        (lambda n, t: (n, transformers.CanineTokenizer()), "tokenizer: the tokenizer does not return character offsets"),
        (lambda n, t: (tiny("llama", 50), t), r"tokenizer: the tokenizer has \d+ tokens, but the model has only 50 embeddings"),
        (
            lambda n, t: (transformers.T5ForConditionalGeneration(transformers.T5Config(**SMALL_T5)), t),
            r"network: T5ForConditionalGeneration \('t5'\) is not a decoder-only language model",
        ),
        (lambda n, t: (bert(len(t)), t), "network: BertLMHeadModel is an encoder"),
    ],
)
def test_a_model_that_cannot_be_wrapped_is_refused_in_one_sentence(tokenizer, change, fault):
    with pytest.raises(InputError, match=f"^{fault}"):
        icl_lens.wrap(*change(tiny("llama", len(tokenizer), layers=1), tokenizer))


SMALL_T5 = {"vocab_size": 50, "d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2}


def bert(vocabulary):
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    network = BertLMHeadModel(BertConfig(vocab_size=vocabulary, **shape))
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter)
    return network


def test_an_unsupported_family_gives_the_known_sentence(tokenizer):
    from ..families import unsupported

    network, reason = unsupported("mamba", len(tokenizer))
    model = icl_lens.wrap(network, tokenizer)
    with pytest.raises(InputError, match=re.escape(reason)):
        icl_lens.saliency(model, example(gold=0))


def test_a_model_with_a_chat_template_formats_prompts_as_chats(folder, tokenizer):
    chatty = copy.deepcopy(tokenizer)
    chatty.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    network = AutoModelForCausalLM.from_pretrained("model")
    plain, chat = (icl_lens.tokens(icl_lens.wrap(network, chatty, chat=chat), example()) for chat in (False, True))
    assert len(chat) > len(plain)
    with pytest.raises(InputError, match="the tokenizer has no chat template"):
        icl_lens.tokens(icl_lens.wrap(network, tokenizer, chat=True), example())


def test_models_are_values(model):
    assert isinstance(model, Model)
    assert dataclasses.replace(model, batch_tokens=8).language_model is model.language_model
    with pytest.raises(InputError, match=r"^batch_tokens must be"):
        dataclasses.replace(model, batch_tokens="8")


def test_the_state_is_restored_after_an_error(tokenizer):
    network = tiny("llama", len(tokenizer), layers=1).train().requires_grad_(True)
    before = state(network)
    with pytest.raises(KeyError), process.evaluation(network):
        assert not network.training
        assert not any(each.requires_grad for each in network.parameters())
        network.extra = torch.nn.Linear(1, 1)
        network.register_forward_hook(lambda *_: None)
        raise KeyError
    assert state(network) == before


def test_buffers_that_a_forward_pass_changes_are_restored_and_attributes_of_hooks_are_kept(tokenizer):
    network = tiny("llama", len(tokenizer), layers=1)
    rotary = network.model.rotary_emb
    rotary.max_seq_len_cached, frequencies = 8, rotary.inv_freq
    with process.evaluation(network):
        rotary.register_buffer("inv_freq", frequencies / 2, persistent=False)
        rotary.max_seq_len_cached = 16
        network.lm_head.seen = 3
    assert rotary.inv_freq is frequencies
    assert rotary.max_seq_len_cached == 8
    assert network.lm_head.seen == 3


# Studies of the user.


def test_a_study_of_the_user_is_a_function_like_the_others(model):
    example_study = REPOSITORY / "examples/recency"
    with plugins.added():
        assert icl_lens.add_study(example_study) == "recency"
        assert "recency" in icl_lens.__all__
        assert "recency" in icl_lens.list_studies()
        assert "first_token: Whether the first token" in icl_lens.recency.__doc__
        found = icl_lens.recency(model, example(gold=0), first_token=True)
        assert list(found) == list(registry.study("recency").schema.columns)
        assert found["place"].unique().tolist() == [1, 2]
        with pytest.raises(InputError, match=r"^prompts: prompt 0 has no gold label, but recency needs one"):
            icl_lens.recency(model, example())
    assert "recency" not in icl_lens.__all__
    assert "recency" not in registered_plugins.FOLDERS
    with pytest.raises(AttributeError):
        icl_lens.recency  # noqa: B018


@pytest.mark.parametrize("name", ["load", "compress", "models", "saliency"])
def test_a_study_of_the_user_with_a_taken_name_is_refused(tmp_path, name):
    with (
        pytest.raises(InputError, match=rf"the name '{name}' is taken by icl_lens\.{name}; rename the folder"),
        plugins.added(),
    ):
        icl_lens.add_study(tmp_path / name)


# Progress.


def test_a_notebook_shows_a_bar_after_a_second(monkeypatch, capsys):
    kernel = types.SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: kernel))
    shown = []

    class Bar(progress.tqdm):
        def __init__(self, *_, **options):
            shown.append(options)
            super().__init__(**options)

    monkeypatch.setattr(progress, "_bar", lambda in_notebook: Bar)
    monkeypatch.setattr(progress, "NOTEBOOK_DELAY", 5.0)
    with progress.progress(3, "icl of mine") as advance:
        advance(3)
    assert (shown[0]["total"], shown[0]["desc"], shown[0]["delay"]) == (3, "icl of mine", 5.0)
    assert capsys.readouterr().err == ""
    with monkeypatch.context() as context:
        context.setattr(progress, "NOTEBOOK_DELAY", 0.0)
        with progress.progress(3, "icl of mine") as advance:
            advance(3)
    assert "icl of mine" in capsys.readouterr().err


def test_without_ipywidgets_the_bar_of_a_notebook_is_text(monkeypatch):
    script = (
        "import sys, types, warnings; warnings.simplefilter('error'); sys.modules['ipywidgets'] = None\n"
        "class Shell: kernel = object()\n"
        "sys.modules['IPython'] = types.SimpleNamespace(get_ipython=lambda: Shell())\n"
        "sys.modules['ipykernel.zmqshell'] = types.ModuleType('ipykernel.zmqshell')\n"
        "from icl_lens import progress; progress.NOTEBOOK_DELAY = 0.0\n"
        "with progress.progress(2, 'icl of mine') as advance: advance(2)\n"
    )
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert "icl of mine: 100%" in told.stderr
    assert "ipywidgets" not in told.stderr
