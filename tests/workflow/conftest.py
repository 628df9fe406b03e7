"""Fixtures that run Snakemake in a copy of the repository whose path contains a space."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ..conftest import REPOSITORY

COPIED = ("Snakefile", "config.yaml", "config", "examples", "workflow", "profiles", "src", "notebooks", "envs")


# A configuration that makes each item in the shortest possible time.
TINY = {
    "models": [{"name": "tiny", "path": "my models/tiny"}],
    "tasks": ["sst2", "trec"],
    "seeds": [42, 43],
    "queries": 3,
    "device": "cpu",
    "studies": {
        "isolation": {"draws": 1},
        "controls": {"queries": 2},
        "compression": {"draws": 2},
        "latency": {"prompts": 1, "repeats": 2},
        "flow": {"seeds": 2, "prompts": 1},
        "reweighting": {"epochs": 1},
        "kernel_regression": {"permutations": 20, "control_queries": 1, "orders": 1},
        "components": {"queries": 2, "epochs": 20, "calibration_epochs": 20, "sweep": [0.0]},
        "hidden_markov": {
            **{"tasks": 4, "states": 16, "observations": 20, "pretraining": 200, "demonstrations": [1, 4], "limit": 32},
            **{"trials": 4, "seeds": [0, 1]},
        },
        "label_probes": {"folds": 2},
        "representation_change": {
            **{"new_tokens": 3, "permutations": 19, "folds": 2},
            "lines": {"slopes": [5.0, 10.0], "intercepts": [0.0, 5.0], "queries_per_line": 2, "examples": [0, 1]},
            "reading": {"queries": 20, "distractors": [1], "examples": [0, 1]},
        },
    },
}


class Clone:
    """A copy of the repository that runs its own code."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in COPIED:
            source = REPOSITORY / name
            if source.is_dir():
                shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
            else:
                folder.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, folder / name)

    def snakemake(self, *arguments: str, **more) -> subprocess.CompletedProcess:
        """Run Snakemake in the copy; ``stdout`` contains both standard output and standard error."""
        with self.start(*arguments, **more) as process:
            output, _ = process.communicate(timeout=900)
        return subprocess.CompletedProcess(process.args, process.returncode, output)

    def icl_lens(self, *arguments: str, told: str = "") -> subprocess.CompletedProcess:
        """Run a command of the copy's own package; ``told`` is the standard input."""
        return subprocess.run(
            [sys.executable, "-m", "icl_lens", *map(str, arguments)],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(self.folder / "src")},
            input=told,
            capture_output=True,
            text=True,
            check=False,
        )

    def start(self, *arguments: str, folder: Path | None = None, **environment: str) -> subprocess.Popen:
        """Start Snakemake in the copy or in another working folder, in a separate process group."""
        return subprocess.Popen(
            [Path(sys.executable).parent / "snakemake", *map(str, arguments)],
            cwd=folder or self.folder,
            # The copy's package takes precedence over the installed one, in Snakemake and in each job.
            env={**os.environ, "PYTHONPATH": str(self.folder / "src"), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def config(self, name: str, **keys) -> Path:
        """Write a config overlay (JSON is valid YAML)."""
        path = self.folder / f"{name}.yaml"
        path.write_text(json.dumps(keys))
        return path


@pytest.fixture(scope="session")
def clone(tmp_path_factory) -> Clone:
    return Clone(tmp_path_factory.mktemp("workflow") / "a fresh clone")


@pytest.fixture(scope="session")
def with_model(clone, checkpoint) -> Clone:
    """A clone with the tiny model of the tiny configuration."""
    shutil.copytree(checkpoint, clone.folder / "my models" / "tiny")
    return clone


@pytest.fixture(scope="session")
def tiny(with_model) -> tuple[Clone, Path]:
    """A clone and its tiny configuration."""
    return with_model, with_model.config("tiny", **TINY)


@pytest.fixture(scope="session")
def tiny_run(tiny) -> tuple[Clone, Path]:
    """A clone and its tiny configuration, after a run that made all items."""
    clone, overlay = tiny
    done = clone.snakemake("--cores", "2", "--configfile", overlay.name)
    assert done.returncode == 0, done.stdout
    return clone, overlay
