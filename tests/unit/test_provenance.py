from pathlib import Path

from icl_lens import provenance

from ..conftest import REPOSITORY


def names(paths):
    return {path.relative_to(provenance.PACKAGE).as_posix() for path in paths}


def test_source_files_follow_imports_and_no_more():
    saliency = names(provenance.source_files("icl_lens.studies.saliency"))
    assert {"studies/saliency.py", "studies/__init__.py", "attention.py", "models.py", "positions.py", "errors.py"} <= saliency
    assert not saliency & {"studies/icl.py", "prompts.py", "figures.py", "cli.py", "config.py", "corpora/files.py"}
    prompts = names(provenance.source_files("icl_lens.prompts"))
    assert "tasks.py" in prompts
    assert "models.py" not in prompts


def test_a_notebook_depends_on_what_its_cells_import():
    used = names(provenance.notebook_sources(REPOSITORY / "notebooks/figure_3.ipynb"))
    assert {"figures.py", "artifacts.py", "items.py"} <= used
    assert "models.py" not in used


def test_the_code_hash_changes_with_any_of_its_files(monkeypatch):
    before = provenance.code_hash("icl_lens.studies.saliency")
    real = provenance.file_hash
    monkeypatch.setattr(provenance, "file_hash", lambda path: "edited" if Path(path).name == "attention.py" else real(path))
    assert provenance.code_hash("icl_lens.studies.saliency") != before


def test_an_artifacts_name_is_its_place_in_the_results_tree():
    study = "/home/me/studies/results/studies/gpt2/sst2/fresh-1shot/icl.parquet"
    name = provenance.artifact_name
    assert name("/home/me/studies/results/prompts/sst2/x.parquet", study) == "prompts/sst2/x.parquet"
    assert name("results/figures/figure_3.csv", "results/figures/figure_3.json") == "figures/figure_3.csv"
    assert name("/home/me/prompts/own.parquet", study) == "own.parquet"
    assert name("/home/me/prompts/own.parquet", "/home/me/icl.parquet") == "own.parquet"


def test_the_hash_of_files_tells_their_names_and_content(tmp_path):
    for name, text in (("a", "1"), ("b", "2")):
        (tmp_path / name).write_text(text)
    first = provenance.files_hash([tmp_path / "a", tmp_path / "b"])
    assert provenance.files_hash([tmp_path / "b", tmp_path / "a"]) == first
    (tmp_path / "b").write_text("3")
    assert provenance.files_hash([tmp_path / "a", tmp_path / "b"]) != first
