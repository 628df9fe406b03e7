"""Tests of `icl-lens init`, the files of a new project, and the example configs."""

import re
from pathlib import Path

import pytest
import yaml

from icl_lens import project, resources
from icl_lens.cli.commands import main
from icl_lens.config import parse
from icl_lens.studies import registry

from ..conftest import REPOSITORY
from ..plugins import added

FILES = [".gitignore", "README.md", "Snakefile", "config.yaml", "profiles"]


def test_a_new_project_has_a_config_with_the_defaults_a_snakefile_and_the_profiles(tmp_path, capsys):
    folder = tmp_path / "two words/project"
    assert main(["init", str(folder)]) == 0
    output = capsys.readouterr().out
    assert f"created {folder}: {', '.join(FILES)}" in output
    assert f"cd '{folder}' && snakemake --cores all" in output
    assert sorted(path.name for path in folder.iterdir()) == FILES
    assert parse.load(folder / "config.yaml").model_dump() == parse.load().model_dump()
    for profile in ("default", "slurm"):
        path = f"profiles/{profile}/profile.yaml"
        assert (folder / path).read_bytes() == (REPOSITORY / path).read_bytes()


def test_the_keys_that_are_comments_in_the_config_are_valid():
    text = (resources.PROJECT / "config.yaml").read_text()
    config = parse.parse(yaml.safe_load(re.sub(r"^#(?=[a-z-]|  )", "", text, flags=re.MULTILINE)))
    assert config.models[0].hub
    assert config.representation_models[0].path
    assert config.own_tasks["tickets"].label_words == {"billing": " Business", "outage": " Technology"}


def test_an_empty_folder_and_the_working_folder_can_become_a_project(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["init", "."]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == FILES
    assert "then run: snakemake --cores all" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["full"], "icl-lens init: folder full is not empty; specify a new or an empty folder"),
        (["full/file"], "icl-lens init: full/file is a file; specify a new or an empty folder"),
        (
            ["new", "--study", "My-Study"],
            "icl-lens init: --study: 'My-Study' is not a valid study name; start with a lower-case",
        ),
        (["new", "--study", "class"], "icl-lens init: --study: 'class' is not a valid study name"),
        (["new", "--study", "saliency"], "icl-lens init: --study: the name 'saliency' is taken; specify another name"),
        (["new", "--study", "audit"], "icl-lens init: --study: the name 'audit' is taken; specify another name"),
        (["new", "--study", "code"], "icl-lens init: --study: the name 'code' is taken; specify another name"),
    ],
)
def test_what_cannot_become_a_project_is_one_sentence_and_nothing_is_written(
    tmp_path, monkeypatch, capsys, arguments, sentence
):
    monkeypatch.chdir(tmp_path)
    Path("full").mkdir()
    Path("full/file").write_text("kept")
    assert main(["init", *arguments]) == 1
    error = capsys.readouterr().err
    assert error.startswith(sentence)
    assert error.count("\n") == 1
    assert [str(path) for path in sorted(Path().rglob("*"))] == ["full", "full/file"]


def test_a_project_with_a_study_of_its_own_declares_it_under_its_name(tmp_path):
    folder = tmp_path / "project"
    project.create(folder, "lengths")
    study = folder / "studies/lengths"
    assert sorted(path.name for path in study.iterdir()) == ["compute.py", "lengths.ipynb", "study.py", "summary.py"]
    assert yaml.safe_load((folder / "config.yaml").read_text())["plugins"] == ["studies/lengths"]
    for path in study.iterdir():
        assert project.EXAMPLE not in path.read_text()
    with added(study):
        assert registry.items()["figure_lengths"].notebook == "lengths"


def test_the_example_configs_are_printed_by_name(capsys):
    assert main(["config", "--example", "paper"]) == 0
    assert capsys.readouterr().out == (REPOSITORY / "config/paper.yaml").read_text()
    assert main(["config", "--example", "papers"]) == 1
    assert "the examples are component_reweighting, " in capsys.readouterr().err
    assert main(["config", "--example", "paper", "--schema"]) == 1
    assert capsys.readouterr().err == "icl-lens config: give only one of --schema, --reference and --example\n"
