"""Tests of the inputs outside a results folder: the audit compares their content with what the artifacts record."""

import json
import shutil

import pytest

from icl_lens.artifacts import hashes, parquet
from icl_lens.cli.commands import main
from icl_lens.errors import InputError
from icl_lens.hub.checkpoints import checkpoint_hash
from icl_lens.results import audit, inputs
from icl_lens.studies import registry
from tests import artifacts

from .test_audit import STUDY, results, rows, write  # noqa: F401 (a fixture)


@pytest.fixture
def traced(results, tmp_path, checkpoint):  # noqa: F811
    """A results folder with inputs outside it: a data file, a model, an encoder, a notebook and a template."""
    for name in ("model", "encoder"):
        shutil.copytree(checkpoint, tmp_path / name)
    for name in ("train.csv", "figure.ipynb", "index.html.jinja"):
        (tmp_path / name).write_text("as it was")
    digest = hashes.file_hash(tmp_path / "train.csv")
    table, about = artifacts.read(results / "corpora/sst2.parquet", "corpora")
    artifacts.write(results / "corpora/sst2.parquet", table, about | {"inputs": {"train: train.csv": digest}})
    models = {"model": {"name": "m", "files": checkpoint_hash(tmp_path / "model")}}
    encoders = {"encoders": {"e": checkpoint_hash(tmp_path / "encoder")}}
    write(results, STUDY, "saliency", rows(), ["corpora/sst2.parquet"], **models, **encoders)
    for name, more in (
        ("figures/figure_3", {"notebook": {"figure.ipynb": digest}}),
        ("report/index", {"page": {"index": digest}}),
    ):
        record = json.loads((results / f"{name}.json").read_text())
        record["inputs"] = {key: hashes.file_hash(results / key) for key in record["inputs"]}
        (results / f"{name}.json").write_text(json.dumps(record | more))
    paths = {
        "models": {"m": tmp_path / "model"},
        "encoders": {"e": tmp_path / "encoder"},
        "texts": {"sst2": {"train: train.csv": tmp_path / "train.csv"}},
        "notebooks": {"figure_3": tmp_path / "figure.ipynb"},
        "page": {"index": tmp_path / "index.html.jinja"},
    }
    inputs.write(results, inputs.ExternalInputs(**paths))
    assert audit.audit(results, registry.schemas()) == (4, [])
    return results


CHANGED = {
    "train.csv": ("corpora/sst2.parquet", "train.csv"),
    "model/config.json": (STUDY, "model m ("),
    "encoder/model.safetensors": (STUDY, "encoder e ("),
    "figure.ipynb": ("figures/figure_3.json", "figure.ipynb"),
    "index.html.jinja": ("report/index.json", "index.html.jinja"),
}


@pytest.mark.parametrize("name", CHANGED)
def test_the_audit_names_a_changed_input_and_what_was_made_from_it(traced, tmp_path, name):
    made, title = CHANGED[name]
    with (tmp_path / name).open("ab") as file:
        file.write(b" ")
    (fault,) = audit.audit(traced, registry.schemas())[1]
    assert fault.sentence.startswith(f"{traced / made}: stale, because ")
    assert title in fault.sentence
    assert traced / made in audit.repair(traced, registry.schemas())


def test_a_model_that_contradicts_its_record_is_named_and_nothing_is_deleted(traced, tmp_path):
    (tmp_path / "model/fetched.json").write_text("{}")
    (fault,) = audit.audit(traced, registry.schemas())[1]
    assert "one of its inputs cannot be used: " in fault.sentence
    assert "fetched.json is corrupted" in fault.sentence
    assert not fault.remove


def test_an_input_that_does_not_exist_is_named_but_no_fault(traced, tmp_path, capsys):
    (tmp_path / "train.csv").unlink()
    shutil.rmtree(tmp_path / "model")
    assert main(["audit", str(traced)]) == 0
    shown = capsys.readouterr().out
    for name in ("model", "train.csv"):
        assert f"not compared: {tmp_path / name} does not exist" in shown


@pytest.mark.parametrize("content", [None, "{}"])
def test_an_input_whose_path_is_unknown_is_named_but_no_fault(traced, tmp_path, capsys, content):
    (traced / inputs.FILE).unlink()
    if content:
        (traced / inputs.FILE).write_text(content)
    (tmp_path / "train.csv").write_text("changed")
    assert main(["audit", str(traced)]) == 0
    shown = capsys.readouterr().out
    for title in ("task sst2, train: train.csv", "model m", "encoder e", "notebook figure.ipynb", "index of the report page"):
        assert f"not compared: {title}: its path is not in {traced / inputs.FILE}" in shown


def test_a_linked_results_folder_has_the_same_inputs_by_each_name(traced, tmp_path):
    target = tmp_path / "disk/deep/results"
    target.parent.mkdir(parents=True)
    shutil.move(traced, target)
    traced.symlink_to(target)
    paths = {"texts": {"sst2": {"train: train.csv": tmp_path / "train.csv"}}}
    (target / inputs.FILE).unlink()
    inputs.write(traced, inputs.ExternalInputs(**paths))
    (tmp_path / "train.csv").write_text("changed")
    for folder in (traced, target):
        (fault,) = audit.audit(folder, registry.schemas())[1]
        assert (
            fault.sentence
            == f"{folder / 'corpora/sst2.parquet'}: stale, because {tmp_path / 'train.csv'} has changed since this was made"
        )


def test_paths_are_relative_to_the_results_and_later_runs_add_theirs(traced, tmp_path):
    content = json.loads((traced / inputs.FILE).read_text())
    assert content["models"] == {"m": "../model"}
    inputs.write(traced, inputs.ExternalInputs(models={"other": tmp_path / "other"}))
    assert inputs.read(traced).models == {"m": "../model", "other": "../other"}
    assert inputs.read(traced).notebooks == content["notebooks"]


@pytest.mark.parametrize(
    "content", ["", "[]", '{"models": 3}', '{"models": {"m": 3}}', '{"elsewhere": {}}', "[" * 100_000, "\0"]
)
def test_a_corrupted_list_of_inputs_is_one_sentence(traced, content):
    (traced / inputs.FILE).write_text(content)
    with pytest.raises(InputError, match=r"inputs.json is corrupted; delete it, and rerun"):
        audit.audit(traced, registry.schemas())


def test_other_versions_of_libraries_are_named_but_no_fault(traced, capsys):
    about = parquet.read_metadata(traced / STUDY)
    artifacts.write(traced / STUDY, *([artifacts.read(traced / STUDY, "saliency")[0]]), about | {"libraries": {"torch": "1.0"}})
    (found,) = audit.other_versions(traced)
    assert found.startswith("torch 1.0 (installed: ")
    main(["audit", str(traced)])
    assert "made with another version of a library: torch 1.0" in capsys.readouterr().out
