"""Tests of the paths in the config: home folders, environment variables, and the models that are included in the package."""

import re

import pytest

from icl_lens.artifacts.code import PACKAGE
from icl_lens.config import keys, parse, user_paths
from icl_lens.errors import InputError

OWN = {"template": "Text: {text}\nLabel:{label}", "label_words": {"a": " A", "b": " B"}}


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DATA", "/data")
    monkeypatch.delenv("UNSET", raising=False)
    return str(tmp_path)


def test_home_folders_and_variables_are_expanded_in_each_path(home):
    config = parse.parse(
        {
            "results": "~/results",
            "downloads": "$DATA/downloads",
            "models": [{"name": "m", "path": "~/m"}, {"name": "g", "gguf": "${DATA}/g.gguf"}],
            "representation_models": [{"name": "r", "path": "$HOME/r"}],
            "tasks": ["own", "sst2"],
            "own_tasks": {"own": {**OWN, "train": "~/train.csv", "test": "$DATA/test.csv"}},
            "data": {"source": "files", "root": "~", "files": {"sst2": {"train": "$DATA/train.tsv"}}},
            "studies": {"kernel_regression": {"encoders": {"e": "~/e"}}},
        }
    )
    assert (config.results, config.downloads) == (f"{home}/results", "/data/downloads")
    assert [model.path or model.gguf for model in config.models] == [f"{home}/m", "/data/g.gguf"]
    assert config.representation_models[0].path == f"{home}/r"
    assert (config.own_tasks["own"].train, config.own_tasks["own"].test) == (f"{home}/train.csv", "/data/test.csv")
    assert (config.data.root, config.data.files["sst2"].train) == (home, "/data/train.tsv")
    assert config.studies.kernel_regression.encoders == {"e": f"{home}/e"}


def test_a_plugin_is_found_in_the_home_folder(home):
    with pytest.raises(InputError, match=rf"^config: plugins: {re.escape(home)}/my_study is not a folder"):
        parse.parse({"plugins": ["~/my_study"]})


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"results": "$UNSET/x"}, "config: 'results' (= '$UNSET/x') names the environment variable UNSET, which is not set"),
        (
            {"models": [{"name": "m", "path": "${UNSET}"}]},
            "config: 'models[0].path' (= '${UNSET}') names the environment variable UNSET, which is not set",
        ),
        ({"data": {"root": "~nobody-here/x"}}, "config: 'data.root' (= '~nobody-here/x') names the home folder ~nobody-here,"),
        ({"results": "results/{x}"}, "config: 'results' (= 'results/{x}') contains '{', which Snakemake reads as part of"),
        ({"downloads": "a<b>"}, "config: 'downloads' (= 'a<b>') contains '<', which Snakemake reads as part of a wildcard"),
        (
            {"studies": {"kernel_regression": {"encoders": {"e": "{e}"}}}},
            "config: 'studies.kernel_regression.encoders.e' (= '{e}') contains '{'",
        ),
    ],
)
def test_a_path_that_cannot_be_used_is_one_sentence_with_its_key(home, config, sentence):
    with pytest.raises(InputError) as caught:
        parse.parse(config)
    assert str(caught.value).startswith(sentence)
    assert "\n" not in str(caught.value)


def test_values_of_another_type_are_left_to_the_parser():
    assert user_paths.expand({"results": 3, "models": None, "data": []}) == {"results": 3, "models": None, "data": []}
    with pytest.raises(InputError, match="'results' must be"):
        parse.parse({"results": 3})


def test_included_models_are_found_from_another_folder(tmp_path, monkeypatch):
    here = parse.parse({})
    monkeypatch.chdir(tmp_path)
    there = parse.parse({"models": [{"name": "organism", "path": keys.EMBEDDED_MODEL}, {"name": "own", "path": "own"}]})
    assert [model.path for model in there.models] == [str(PACKAGE / "organism/checkpoint"), "own"]
    assert there.representation_models[0].path == str(PACKAGE / "reader_organism/checkpoint")
    assert here.models[0].path == keys.EMBEDDED_MODEL, "the repository's own results keep their relative paths"
    (tmp_path / keys.EMBEDDED_MODEL).mkdir(parents=True)
    assert parse.parse({}).models[0].path == keys.EMBEDDED_MODEL, "the user's folder has precedence"
