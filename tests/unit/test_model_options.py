"""Tests of the options with which commands load and run a model."""

import inspect
from dataclasses import asdict, fields
from pathlib import Path

import pytest

from icl_lens.cli import options, studies, tools
from icl_lens.cli.options import MODEL_OPTIONS, with_model_options
from icl_lens.errors import InputError
from icl_lens.models.options import LoadOptions, RunOptions, merge
from icl_lens.studies import registry

# A value of each option that differs from the default, and the value of its field.
VALUES = {
    "name": ("n", "name", "n"),
    "device": ("cpu", "device", "cpu"),
    "dtype": ("float16", "dtype", "float16"),
    "matmul": ("fast", "matmul", "fast"),
    "batch_tokens": (7, "batch_tokens", 7),
    "bos": ("yes", "bos", True),
    "chat": (True, "as_chat", True),
    "chat_turns": (True, "as_chat", "turns"),
    "label_score": ("whole", "label_score", "whole"),
    "label_anchor": ("all", "label_anchor", "all"),
    "untrained": (3, "untrained_seed", 3),
    "adapter": (Path("a"), "adapter", Path("a")),
    "placement": ("auto", "placement", "auto"),
    "max_memory": ('{"cpu": "2GB"}', "max_memory", {"cpu": "2GB"}),
}


def command(*without):
    """Return the function of a command with the options, and what it receives."""
    received = []

    @with_model_options(*without)
    def function(first, /, *, model: str, load_options: LoadOptions, run_options: RunOptions, last: int = 0) -> None:
        received.append((first, model, last, load_options, run_options))

    return function, received


def defaults():
    return {name: option.default for name, option in MODEL_OPTIONS.items()}


def test_without_options_a_command_gets_the_defaults():
    function, received = command()
    function(1, model="m", last=2, **defaults())
    assert received == [(1, "m", 2, LoadOptions(), RunOptions())]


@pytest.mark.parametrize("name", VALUES)
def test_each_option_sets_its_field_and_no_other(name):
    value, field, expected = VALUES[name]
    function, received = command()
    function(1, model="m", **{**defaults(), name: value})
    ((_, _, _, load, run),) = received
    found, before = asdict(load) | asdict(run), asdict(LoadOptions()) | asdict(RunOptions())
    assert found == before | {field: expected}
    assert found != before


def test_each_field_has_an_option():
    assert {field for _, field, _ in VALUES.values()} == {
        field.name for kind in (LoadOptions, RunOptions) for field in fields(kind)
    }
    assert set(VALUES) | {"revision", "downloads"} == set(MODEL_OPTIONS)


def test_a_command_can_leave_options_out():
    function, received = command("name", "chat", "chat_turns")
    names = list(inspect.signature(function).parameters)
    assert names == ["first", "model", *(name for name in MODEL_OPTIONS if name not in ("name", "chat", "chat_turns")), "last"]
    function(1, model="m", **{name: option.default for name, option in MODEL_OPTIONS.items() if name in names})
    assert received[0][-2:] == (LoadOptions(), RunOptions())


def test_options_that_exclude_each_other_are_one_sentence():
    function, _ = command()
    with pytest.raises(InputError, match="--chat and --chat-turns cannot be combined; remove one of them"):
        function(1, model="m", **{**defaults(), "chat": True, "chat_turns": True})


def test_the_commands_have_the_options_that_they_use():
    have = {
        "study": set(inspect.signature(studies._command(registry.study("icl"))).parameters),
        "compress": set(inspect.signature(tools._compress).parameters),
        "reweight": set(inspect.signature(tools._reweight_components).parameters),
        "classify": set(inspect.signature(tools._classify).parameters),
    }
    assert {name: set(MODEL_OPTIONS) - parameters for name, parameters in have.items()} == {
        "study": set(),
        "compress": {"batch_tokens", "label_anchor", "untrained"},
        "reweight": {"label_score", "label_anchor", "untrained"},
        "classify": {"name", "dtype", "bos", "chat", "chat_turns", "label_score", "label_anchor", "untrained"},
    }
    assert options.MODEL_OPTIONS["matmul"].annotation is options.Matmul


def test_options_are_merged_by_name():
    load, run = merge(LoadOptions(device="cpu"), None, dtype="float16", bos=True)
    assert (load, run) == (LoadOptions(device="cpu", dtype="float16"), RunOptions(bos=True))
    with pytest.raises(TypeError, match="unexpected keyword argument 'untrained'"):
        merge(None, None, untrained=3)
