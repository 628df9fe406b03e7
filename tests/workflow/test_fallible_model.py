"""Tests of each study, notebook, summary, claim and tool with models that make mistakes, and in other unusual cases."""

import functools
import json
import re
import warnings

import pytest

from icl_lens.cli import commands
from icl_lens.config import parse
from icl_lens.models import loading
from icl_lens.report import page
from icl_lens.results import audit
from icl_lens.studies import registry
from icl_lens.tasks.task import TASKS
from tests import artifacts

from ..fallible import NEARLY_CONSTANT, ORGANISM, READER, noisy, one_head
from ..one_process import Run
from .conftest import TINY

# One task, two demonstration sets and a few items, which is fast enough for `make test`.
QUICK = {**TINY, "tasks": ["trec"], "queries": 4}
FEW = ("figure_6", "figure_14", "table_1", "cr_figure_2")


def items_of(mapping):
    """Return the items that `all` makes of a config, and the format and training tables if it has models for them."""
    parsed = parse.parse(mapping)
    extra = ("table_precision", "cr_figure_3")
    return [name for name, item in registry.items().items() if all(parsed.shown(name)) and (item.in_all or name in extra)]


def draw(run, item):
    """Make one item; a warning, or a nan or inf in a text or cell, is an error.

    Raises:
        AssertionError: A file of the item contains nan or inf.
        Exception: The notebook raises an error or issues a warning.
    """
    run.inputs(item)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run.item(item)
    folder = run.results / f"{registry.items()[item].kind}s"
    for path in folder.glob(f"{item}.*"):
        if path.suffix in (".svg", ".md", ".tex"):
            said = re.findall(r"[^<>\n]{0,80}\b(?:nan|inf)\b[^<>\n]{0,80}", path.read_text())
            assert not said, (path.name, said)


def setting(folder, path, **keys):
    """Return a config with one model."""
    return {**TINY, "models": [{"name": "odd", "path": str(path)}], "results": str(folder / "results"), **keys}


@pytest.fixture(scope="module")
def fallible(tmp_path_factory):
    return noisy(ORGANISM, tmp_path_factory.mktemp("fallible") / "model")


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    return noisy(READER, tmp_path_factory.mktemp("reader") / "model")


@pytest.fixture(scope="module")
def quick(fallible, reader, tmp_path_factory):
    models = {"models": [{"name": "fallible", "path": str(fallible)}]}
    models["representation_models"] = [{"name": "reader", "path": str(reader)}]
    return Run({**QUICK, **models, "results": str(tmp_path_factory.mktemp("quick") / "results")}, draw=False)


def test_the_model_errs(fallible, tmp_path):
    keys = {"tasks": ["sst2", "trec"], "seeds": [42, 43, 44], "queries": 12}
    run = Run(setting(tmp_path, fallible, **keys))
    accuracy, one_class, never = {}, 0, 0
    for task, classes in (("sst2", 2), ("trec", 6)):
        answers, _ = artifacts.read(run.study("odd", task, "shared-1shot", "icl"), "icl")
        accuracy[task] = (answers["gold"] == answers["prediction"]).mean()
        one_class += int((answers.groupby("seed")["prediction"].nunique() == 1).sum())
        never += classes - answers["prediction"].nunique()
    assert 0.5 < accuracy["sst2"] < 0.9
    assert 1 / 6 < accuracy["trec"] < 0.9
    assert one_class >= 1
    assert never >= 1


@pytest.mark.parametrize("item", FEW)
def test_an_item_is_made_of_a_model_that_errs(quick, item):
    draw(quick, item)


def test_the_tools_take_a_model_that_errs(fallible, tmp_path, capsys, monkeypatch):
    classes = TASKS["trec"].classes
    texts = [(f"What is the {word} of {name} ?", name) for word in ("name", "place", "number") for name in classes]
    labelled, queries = tmp_path / "train.jsonl", tmp_path / "queries.txt"
    labelled.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in texts))
    queries.write_text("What is a quark ?\nWhen was that ?\n")
    common = ("--model", str(fallible), "--task", "trec", "--device", "cpu")
    cache, weights = str(tmp_path / "a.cache"), str(tmp_path / "a.weights")
    settings = json.dumps({"epochs": 20, "sweep": [0.0]})
    monkeypatch.setattr(loading, "load", functools.cache(loading.load))  # load the model once for four commands
    assert commands.main(["compress", *common, "--demos", str(labelled), "--out", cache]) == 0
    made = ["--train", str(labelled), "--demonstrations", "6", "--settings", settings, "--out", weights]
    assert commands.main(["reweight-components", *common, *made]) == 0
    capsys.readouterr()
    for option, value in (("--cache", cache), ("--components", weights)):
        assert commands.main(["classify", "--model", str(fallible), option, value, str(queries), "--device", "cpu"]) == 0
        answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert len(answers) == 2
        assert "NaN" not in json.dumps(answers)


# Unusual models: nearly always one class, a single head, or the paper's own number formats with several steps. Also small data.
ODD = {
    "one task": {"tasks": ["trec"], "queries": 4},
    "all tasks, rendered": {"tasks": ["sst2", "trec", "agnews", "emoc"], "seeds": [42, 43, 44], "queries": 8},
    "nearly always one class": {"tasks": ["sst2", "trec"], "queries": 4},
    "one head, two classes, one seed": {"tasks": ["sst2"], "seeds": [42], "queries": 4},
    "two formats and two steps": {"tasks": ["sst2"], "queries": 4, "groups": ["component_reweighting"]},
}


def odd_models(case, fallible, folder):
    """Return the models of a case as config entries."""
    if case == "nearly always one class":
        return [{"name": "odd", "path": str(noisy(ORGANISM, folder / "odd", NEARLY_CONSTANT))}]
    if case == "one head, two classes, one seed":
        return [{"name": "odd", "path": str(one_head(folder / "odd"))}]
    if case == "two formats and two steps":
        steps = [{"name": f"odd-step-{step}", "path": str(fallible), "step": step} for step in (10, 20)]
        return [{"name": name, "path": str(fallible), "dtype": name} for name in ("float32", "bfloat16")] + steps
    return [{"name": "odd", "path": str(fallible)}]


@pytest.mark.long
@pytest.mark.parametrize("case", ODD)
def test_every_item_is_made_of_an_odd_case(case, fallible, reader, tmp_path):
    mapping = {**TINY, **ODD[case], "models": odd_models(case, fallible, tmp_path), "results": str(tmp_path / "results")}
    mapping["representation_models"] = [{"name": "reader", "path": str(reader)}]
    run = Run(mapping, draw=case == "all tasks, rendered")
    items, failed = run.items() + [name for name in items_of(mapping) if name not in run.items()], {}
    for item in items:
        try:
            draw(run, item)
        except Exception as error:
            failed[item] = repr(error)
    assert not failed
    html = run.report(run.items()).read_text()
    assert {*page.OUTCOMES} >= set(re.findall(r'<tr data-outcome="([^"]+)"', html))
    assert not re.findall(r">[^<]*\bnan\b[^<]*<", html.partition("<script")[0])
    assert 'id="walk-data"' in html
    assert [fault.sentence for fault in audit.audit(run.results, registry.schemas())[1]] == []
