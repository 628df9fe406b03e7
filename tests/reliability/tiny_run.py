"""A small run of the workflow: its config, its copy of the repository, and the files that each run must reproduce."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from ..workflow.conftest import Clone

# One task, one seed and two queries; targets with a corpus, prompts, tables, tensors, figures, notebooks and the report.
CONFIG = {
    "models": [{"name": "organism", "path": "models/organism"}],
    "tasks": ["sst2", "mine"],
    "own_tasks": {
        "mine": {
            "template": "Ticket: {text}\nTeam:{label}",
            "label_words": {"billing": " Business", "outage": " Technology"},
            "train": "examples/tickets/train.csv",
            "test": "examples/tickets/test.csv",
        }
    },
    "seeds": [42],
    "queries": 2,
    "device": "cpu",
    "groups": ["component_reweighting"],
    "items": {
        "figure_3": {"tasks": ["mine"]},
        "table_1": {"tasks": ["sst2"]},
        **{name: {"tasks": ["sst2"]} for name in ("cr_figure_1", "cr_figure_2", "cr_figure_anchors")},
        **{name: {"tasks": ["sst2"]} for name in ("cr_table_1", "cr_table_2", "cr_table_3")},
    },
    "studies": {
        "reweighting": {"epochs": 1},
        "components": {"queries": 2, "epochs": 5, "calibration_epochs": 5, "sweep": [0.0]},
        "hidden_markov": {
            **{"tasks": 2, "states": 8, "observations": 10, "pretraining": 100, "demonstrations": [1, 4], "limit": 16},
            **{"trials": 2, "seeds": [0]},
        },
    },
}
TARGETS = ("all", "figure_3", "table_1", "kr_table_3")


class TinyRun:
    """A copy of the repository with the config of the small run.

    Attributes:
        clone: The copy.
        results: Its results folder.
    """

    def __init__(self, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        self.clone = Clone(folder)
        self.results = folder / "results"
        model = Path(folder, "src/icl_lens/organism/checkpoint")
        if not (folder / "models/organism").exists():
            shutil.copytree(model, folder / "models/organism")
        (folder / "tiny.yaml").write_text(yaml.safe_dump(CONFIG), encoding="utf-8")
        self.arguments = (*TARGETS, "--cores", "2", "--configfile", "tiny.yaml")

    def run(self, *arguments: str) -> subprocess.CompletedProcess:
        """Run the workflow until it ends."""
        return self.clone.snakemake(*self.arguments, *arguments)

    def start(self, *before: str) -> subprocess.Popen:
        """Start the workflow in a session of its own, optionally by another program such as ``faketime``."""
        if not before:
            return self.clone.start(*self.arguments)
        return subprocess.Popen(
            [*before, Path(sys.executable).parent / "snakemake", *self.arguments],
            cwd=self.clone.folder,
            env={**os.environ, "PYTHONPATH": str(self.clone.folder / "src")},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def audit(self, *options: str) -> subprocess.CompletedProcess:
        """Audit the results."""
        return self.clone.icl_lens("audit", "results", *options)

    def clear(self) -> None:
        """Delete all results and Snakemake's metadata about them."""
        for name in ("results", ".snakemake"):
            shutil.rmtree(self.clone.folder / name, ignore_errors=True)

    def hashes(self) -> dict[str, str]:
        """Return the hash of each result, by its path; logs and measured times are left out."""
        return {
            path.relative_to(self.results).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(self.results.rglob("*"))
            if path.is_file() and path.relative_to(self.results).parts[0] not in ("logs", "benchmarks")
        }

    def count(self) -> int:
        """Return the number of files of the run, with logs."""
        return sum(len(files) for _, _, files in os.walk(self.results))

    def uninterrupted(self) -> tuple[dict[str, str], int]:
        """Make all results in one run.

        Returns:
            The hashes of the results, and the number of all files.
        """
        self.clear()
        done = self.run()
        if done.returncode != 0:
            raise RuntimeError(done.stdout[-3000:])
        return self.hashes(), self.count()
