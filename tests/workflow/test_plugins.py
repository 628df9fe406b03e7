"""Tests of a study that is added as a folder, as a plugin and in the package, and of the errors of a faulty plugin."""

import re
import shutil

import pandas as pd
import pytest

from icl_lens.artifacts import parquet

from .conftest import TINY
from .test_workflow import jobs

STUDY, FIGURE = "recency", "figure_recency"
PLUGIN = f"examples/{STUDY}"


@pytest.fixture(scope="module")
def small_run(with_model):
    """A clone and its overlay, after a run that made one paper's figures, which need few jobs."""
    keys = {**TINY, "tasks": ["sst2"], "groups": ["representation_change"], "results": "results/small"}
    overlay = with_model.config("small", **keys)
    done = with_model.snakemake("--cores", "2", "--configfile", overlay.name)
    assert done.returncode == 0, done.stdout
    return with_model, overlay


def files_of(folder):
    """Return the contents of all files of a clone that users write, keyed by relative path."""
    made = {"results", ".snakemake", "__pycache__", "my models", "downloads"}
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not made & set(path.relative_to(folder).parts)
    }


def run_with(clone, overlay, *arguments, **keys):
    """Run Snakemake with an additional overlay on the small configuration."""
    other = clone.config("with-plugin", **keys)
    return clone.snakemake(*arguments, "--cores", "2", "--configfile", overlay.name, other.name)


def audit(clone, *options):
    """Return the completed `icl-lens audit` of the clone's results."""
    return clone.icl_lens(*options, "audit", "results/small")


def test_a_study_outside_the_package_is_run_drawn_audited_planned_and_reported(small_run):
    clone, overlay = small_run
    planned = jobs(run_with(clone, overlay, "-n", plugins=[PLUGIN]))
    own = {f"{STUDY}_study", "icl", "prompts", "corpora"}  # the figure also reads icl
    assert own <= set(planned) <= own | {"figure", "report", "all", "default", "total"}, "a new study reruns no other one"
    assert planned["figure"] == 1
    summary = run_with(clone, overlay, "--summary", "--quiet", "all", plugins=[PLUGIN]).stdout
    summary = "\n".join(line for line in summary.splitlines() if "\t" in line)  # drop Snakemake's log lines
    plan = clone.icl_lens("plan", "--config", "config.yaml", overlay.name, "with-plugin.yaml", told=summary)
    assert re.search(rf"^\| tiny \| {STUDY} \| \d+ \| \d+ \|", plan.stdout, re.MULTILINE), plan.stdout + plan.stderr
    done = run_with(clone, overlay, plugins=[PLUGIN])
    assert done.returncode == 0, done.stdout
    results = clone.folder / "results/small"
    drawn = pd.read_csv(results / f"figures/{FIGURE}.csv")
    assert len(drawn)
    (table, *_) = sorted(results.glob(f"studies/tiny/*/*/{STUDY}.parquet"))
    about = parquet.read_metadata(table)
    assert about["modules"][0] == f"icl_lens.studies.plugins.{STUDY}.compute"
    assert FIGURE in (results / "report/index.html").read_text()
    said = audit(clone, "--plugin", PLUGIN)
    assert said.returncode == 0, said.stdout
    unknown = audit(clone)
    assert unknown.returncode == 1
    assert "pass its folder with --plugin" in unknown.stdout
    # Without the plugin nothing else changes. Only the page that showed the figure is rewritten.
    for path in results.rglob(f"*{STUDY}*"):
        path.unlink()
    done = clone.snakemake("--cores", "2", "--configfile", overlay.name)
    assert done.returncode == 0, done.stdout
    assert audit(clone).returncode == 0


def test_a_new_study_is_a_folder_a_notebook_and_its_tests_and_reruns_nothing(small_run):
    """Check which files the same study needs as part of the package, and which jobs run."""
    clone, overlay = small_run
    before = files_of(clone.folder)
    own = clone.folder / f"src/icl_lens/studies/kernel_regression/{STUDY}"
    shutil.copytree(clone.folder / PLUGIN, own, ignore=shutil.ignore_patterns("*.ipynb", "__pycache__"))
    (own / "__init__.py").touch()
    notebook = clone.folder / f"notebooks/kernel_regression/{STUDY}.ipynb"
    text = (clone.folder / PLUGIN / f"{STUDY}.ipynb").read_text()
    notebook.write_text(text.replace("icl_lens.studies.plugins.", "icl_lens.studies.kernel_regression."))
    study = own / "study.py"
    study.write_text(study.read_text().replace(f'notebook="{STUDY}"', f'notebook="kernel_regression/{STUDY}"'))
    try:
        touched = {name for name, content in files_of(clone.folder).items() if before.get(name) != content}
        folder = f"src/icl_lens/studies/kernel_regression/{STUDY}"
        names = ("__init__", "study", "compute", "summary")
        assert touched == {*(f"{folder}/{name}.py" for name in names), f"notebooks/kernel_regression/{STUDY}.ipynb"}
        planned = jobs(clone.snakemake("-n", "--cores", "2", "--configfile", overlay.name))
        assert not set(planned) - {"all", "default", "total"}, "a new study reruns nothing"
        planned = jobs(clone.snakemake(FIGURE, "-n", "--cores", "2", "--configfile", overlay.name))
        assert set(planned) <= {STUDY, "icl", "prompts", "corpora", "figure", FIGURE, "total"}, planned
        done = clone.snakemake(FIGURE, "--cores", "2", "--configfile", overlay.name)
        assert done.returncode == 0, done.stdout
        assert audit(clone).returncode == 0, audit(clone).stdout
    finally:
        shutil.rmtree(own)
        notebook.unlink()
        for path in (clone.folder / "results/small").rglob(f"*{STUDY}*"):
            path.unlink()


def without_study(folder):
    (folder / "study.py").unlink()


def without_notebook(folder):
    (folder / f"{folder.name}.ipynb").unlink()


def rows_unlike_schema(folder):
    path = folder / "study.py"
    whole = path.read_text()
    changed = re.sub(r'^( +)"layer": INTEGER,', r'\1"layer": INTEGER,\n\1"mood": INTEGER,', whole, count=1, flags=re.MULTILINE)
    assert changed != whole
    path.write_text(changed)


@pytest.mark.parametrize(
    ("name", "fault", "said"),
    [
        ("nothing_in_it", without_study, "plugins/nothing_in_it contains no study.py"),
        ("saliency", lambda folder: None, "the name 'saliency' is taken by a study of icl-lens; rename the folder"),
        ("undrawn", without_notebook, "which is not in"),
        ("strange", rows_unlike_schema, "study strange: schema: the rows of compute() lack the column 'mood'"),
    ],
)
def test_a_mistake_in_a_plugin_is_one_sentence(small_run, name, fault, said):
    clone, overlay = small_run
    folder = clone.folder / "plugins" / name
    shutil.copytree(clone.folder / PLUGIN, folder)
    for path in folder.iterdir():
        if path.is_file():
            path.write_text(re.sub(rf"\b(figure_)?{STUDY}\b", lambda match: (match[1] or "") + name, path.read_text()))
    for path in folder.glob(f"{STUDY}.ipynb"):
        path.rename(folder / f"{name}.ipynb")
    fault(folder)
    try:
        done = run_with(clone, overlay, f"figure_{name}", plugins=[f"plugins/{name}"], results="with-mistakes")
        said_by_jobs = "".join(path.read_text() for path in clone.folder.glob(f"with-mistakes/logs/studies/*/*/*/{name}.log"))
        assert done.returncode == 1
        assert said in done.stdout + said_by_jobs
        assert "Traceback" not in done.stdout + said_by_jobs
    finally:
        shutil.rmtree(clone.folder / "plugins")
        shutil.rmtree(clone.folder / "with-mistakes", ignore_errors=True)
