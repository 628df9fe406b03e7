"""Tests of the wheel: its files, and commands and workflow from an installation without the repository."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from icl_lens.artifacts import code

from ..conftest import REPOSITORY
from .conftest import COPIED
from .test_workflow import jobs

SOURCES = (*COPIED, "setup.py", "pyproject.toml", "README.md", "LICENSE")
WORKFLOW = "icl_lens/resources/workflow/"
DEMONSTRATIONS = [
    ("a fine film", "positive"),
    ("dull and slow", "negative"),
    ("warm and clever", "positive"),
    ("empty", "negative"),
]


def build(source: Path, folder: Path) -> Path:
    """Build a wheel from a folder or a source distribution, without the network."""
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check", "--quiet"]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", *options, "--wheel-dir", str(folder), str(source)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return next(folder.glob("*.whl"))


def names(wheel: Path) -> set[str]:
    """Return the names of the files in a wheel, without its metadata."""
    return {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}


@pytest.fixture(scope="session")
def source(tmp_path_factory) -> Path:
    """Return a copy of the repository, because a build writes into it."""
    folder = tmp_path_factory.mktemp("source")
    for name in SOURCES:
        copy = shutil.copytree if (REPOSITORY / name).is_dir() else shutil.copy
        copy(
            *(REPOSITORY / name, folder / name),
            **({"ignore": shutil.ignore_patterns("__pycache__", "*.egg-info")} if copy is shutil.copytree else {}),
        )
    return folder


@pytest.fixture(scope="session")
def wheel(source, tmp_path_factory) -> Path:
    # A file of an earlier build, whose source is deleted in the meantime.
    stale = source / "build/lib" / WORKFLOW / "workflow/rules/deleted.smk"
    stale.parent.mkdir(parents=True)
    stale.touch()
    return build(source, tmp_path_factory.mktemp("wheel"))


def files(folder: Path) -> set[str]:
    return {
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts
    }


def test_the_wheel_contains_the_package_and_the_files_of_the_workflow(wheel):
    package = {f"icl_lens/{name}" for name in files(code.PACKAGE)}
    folders = ("config", "workflow", "notebooks", "profiles", "envs", "examples/recency", "examples/tickets")
    copied = {f"{folder}/{name}" for folder in folders for name in files(REPOSITORY / folder)}
    assert names(wheel) == package | {f"{WORKFLOW}{name}" for name in copied | {"Snakefile", "config.yaml"}}


@pytest.mark.long
def test_the_source_distribution_builds_the_same_wheel(source, wheel, tmp_path):
    script = f"from setuptools import build_meta; build_meta.build_sdist({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", script], cwd=source, check=True, capture_output=True)
    (tmp_path / "wheel").mkdir()
    assert names(build(next(tmp_path.glob("*.tar.gz")), tmp_path / "wheel")) == names(wheel)


class Installed:
    """An environment with the wheel, whose libraries are those of the environment that runs the tests."""

    def __init__(self, folder: Path, wheel: Path) -> None:
        venv.create(folder, with_pip=False)
        self.python = folder / "bin/python"
        # Python reads .pth files only in the environment's own folder, so an editable icl-lens is not visible here.
        paths = {"base": str(folder), "platbase": str(folder)}
        self.site_packages = Path(sysconfig.get_path("purelib", "venv", paths))
        (self.site_packages / "libraries.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
        options = ["--quiet", "--no-deps", "--no-index", "--disable-pip-version-check"]
        subprocess.run([sys.executable, "-m", "pip", "--python", self.python, "install", *options, wheel], check=True)

    def run(self, *command: str | Path, folder: Path, told: str = "") -> subprocess.CompletedProcess:
        """Run a command of the environment; ``stdout`` contains both standard output and standard error."""
        environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
        return subprocess.run(
            [self.python.parent / command[0], *map(str, command[1:])],
            cwd=folder,
            env=environment,
            input=told,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )

    def snakemake(self, *arguments: str | Path, folder: Path) -> subprocess.CompletedProcess:
        return self.run("python", "-m", "snakemake", *arguments, folder=folder)


@pytest.fixture(scope="session")
def installed(wheel, tmp_path_factory) -> Installed:
    environment = Installed(tmp_path_factory.mktemp("environment"), wheel)
    found = environment.run("python", "-c", "import icl_lens; print(icl_lens.__file__)", folder=wheel.parent).stdout.strip()
    assert found == str(environment.site_packages / "icl_lens/__init__.py")
    return environment


@pytest.fixture(scope="session")
def project(installed, checkpoint, tmp_path_factory) -> Path:
    """A new project with the tiny model, one task and one of the user's own studies."""
    folder = tmp_path_factory.mktemp("projects") / "my project"
    done = installed.run("icl-lens", "init", folder, "--study", "lengths", folder=folder.parent)
    assert done.returncode == 0, done.stdout
    shutil.copytree(checkpoint, folder / "models/tiny")
    keys = {"models": [{"name": "tiny", "path": "models/tiny"}], "tasks": ["sst2"], "seeds": [42, 43], "queries": 2}
    (folder / "tiny.yaml").write_text(json.dumps({**keys, "groups": ["anchors"]}))
    return folder


@pytest.mark.long
def test_a_project_makes_figures_from_the_workflow_in_the_wheel(installed, project):
    planned = installed.snakemake("--cores", "2", "-n", folder=project)
    assert jobs(planned)["report"] == 1, planned.stdout
    assert jobs(planned)["lengths_study"] == 4, "the project's own study, for each of the default tasks"
    targets = ("figure_3", "figure_lengths")
    done = installed.snakemake(*targets, "--cores", "2", "--configfile", "tiny.yaml", folder=project)
    assert done.returncode == 0, done.stdout
    assert {"figure_3.png", "figure_lengths.png"} <= {path.name for path in (project / "results/figures").iterdir()}
    again = installed.snakemake(*targets, "--cores", "2", "-n", "--configfile", "tiny.yaml", folder=project)
    assert "Nothing to be done" in again.stdout
    audit = installed.run("icl-lens", "--plugin", "studies/lengths", "audit", folder=project)
    assert audit.returncode == 0, audit.stdout
    assert "no faults" in audit.stdout
    report = installed.run(
        "icl-lens", "report", "--results", "results", "--items", "figure_3", "--out", "r.html", folder=project
    )
    assert report.returncode == 0, report.stdout
    assert "Label Words are Anchors" in (project / "r.html").read_text(), "the claims in the wheel are the default"


@pytest.mark.long
def test_texts_are_classified_from_the_wheel_alone(installed, checkpoint, tmp_path):
    lines = [json.dumps({"text": text, "label": label}) for text, label in DEMONSTRATIONS]
    (tmp_path / "demos.jsonl").write_text("\n".join(lines))
    options = ("--model", checkpoint, "--task", "sst2", "--demos", "demos.jsonl", "--out", "cache.safetensors")
    done = installed.run("icl-lens", "compress", *options, folder=tmp_path)
    assert done.returncode == 0, done.stdout
    classified = installed.run(
        *("icl-lens", "classify", "--model", checkpoint, "--cache", "cache.safetensors"), folder=tmp_path, told="a warm film\n"
    )
    assert classified.returncode == 0, classified.stdout
    assert json.loads(classified.stdout.splitlines()[-1])["label"] in ("Positive", "Negative")
