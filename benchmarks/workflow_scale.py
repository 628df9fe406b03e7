"""Growth of a run's cost with the number of models: a Markdown table of `snakemake -n`, `snakemake --summary` and the plan.

    .venv/bin/python benchmarks/workflow_scale.py [--models 10 100 1000] [--tasks 8] [--targets studies]
        [--folder FOLDER] [--profile]

The command writes a config with many models and up to eight tasks, and no job runs. The target `studies` has all results of the
models, without the figures, which show fewer models. A model is a folder of hard links to the embedded checkpoint. The tasks
are the four of the paper and four own tasks, each with two files of texts. The files of the results tree are the outputs, logs
and benchmarks of all jobs.

Seconds are CPU seconds of the process, because other processes affect them little. Memory is its peak resident memory.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

REPOSITORY = Path(__file__).resolve().parents[1]
CHECKPOINT = REPOSITORY / "src/icl_lens/organism/checkpoint"
PAPER_TASKS = ("sst2", "trec", "agnews", "emoc")
OWN_TASKS = ("first", "second", "third", "fourth")
# Texts per class of each split of an own task. They suffice for all prompt sets, so that no figure leaves out a task.
TEXTS = 60


class Usage(NamedTuple):
    """What one process used, with the processes that it waited for.

    Attributes:
        cpu: CPU seconds.
        wall: Seconds from start to end.
        memory: Peak resident memory in MiB.
    """

    cpu: float
    wall: float
    memory: float


class Tree(NamedTuple):
    """The size of a results tree.

    Attributes:
        files: The number of files.
        largest: The largest number of entries in one folder.
    """

    files: int
    largest: int


HEAD = ("models", "tasks", "jobs", "dry run: s", "MiB", "summary: s", "MiB", "plan: s", "MiB", "files", "in one folder")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--tasks", type=int, choices=range(1, 9), default=8)
    parser.add_argument("--targets", nargs="+", default=["studies"], help="targets of Snakemake, such as figure_3")
    parser.add_argument("--folder", type=Path, help="folder of the simulation; a temporary folder by default")
    parser.add_argument("--profile", action="store_true", help="also write FOLDER/MODELS.prof, a cProfile of `snakemake -n`")
    parser.add_argument("--only-dry-run", action="store_true", help="measure only `snakemake -n`")
    options = parser.parse_args()
    if options.profile and options.folder is None:
        parser.error("--profile requires --folder")
    with contextlib.ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="icl-lens-scale-")))
        print(f"| {' | '.join(HEAD)} |")
        print("|---" * len(HEAD) + "|")
        for models in options.models:
            cells = measure(folder.resolve() / str(models), models, options)
            print(f"| {' | '.join(f'{cell:,.0f}' for cell in cells)} |", flush=True)


def measure(folder: Path, models: int, options: argparse.Namespace) -> list[float]:
    """Measure the cost of one number of models in a folder of its own, and return the cells of a row of the table."""
    config = write_config(folder, models, options.tasks)
    arguments = ["--snakefile", REPOSITORY / "Snakefile", "--workflow-profile", REPOSITORY / "profiles/default"]
    arguments += ["--cores", "1", "--configfile", config]
    dry_run = [*options.targets, "-n", "--quiet", "rules", "reason", "host", *arguments]
    planned = run(folder, [sys.executable, "-m", "snakemake", *dry_run], "dry-run")
    jobs = number_of_jobs((folder / "dry-run.out").read_text())
    if options.profile:
        profiled = [sys.executable, "-m", "cProfile", "-o", folder.with_suffix(".prof"), "-m", "snakemake", *dry_run]
        run(folder, profiled, "profile")
    row = [models, options.tasks, jobs, planned.cpu, planned.memory]
    if options.only_dry_run:
        return [*row, *[math.nan] * (len(HEAD) - len(row))]
    summary = [*options.targets, "--summary", "--quiet", "all", *arguments]
    summarised = run(folder, [sys.executable, "-m", "snakemake", *summary], "summary")
    command = [sys.executable, "-m", "icl_lens", "plan", "--config", config]
    estimated = run(folder, command, "plan", standard_input=folder / "summary.out")
    with (folder / "summary.out").open(newline="") as stream:
        results = tree(csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))
    return [*row, summarised.cpu, summarised.memory, estimated.cpu, estimated.memory, *results]


def write_config(folder: Path, models: int, tasks: int) -> Path:
    """Write the models, the texts of the own tasks and the config, and return the config's path."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "models").mkdir(parents=True)
    names = [f"model-{number:04}" for number in range(models)]
    # Hard links need a source on the same device.
    shutil.copytree(CHECKPOINT, folder / "checkpoint")
    for name in names:
        shutil.copytree(folder / "checkpoint", folder / "models" / name, copy_function=os.link)
    own = [name for name in (*PAPER_TASKS, *OWN_TASKS)[:tasks] if name in OWN_TASKS]
    path = folder / "scale.json"  # JSON is valid YAML
    path.write_text(
        json.dumps(
            {
                "models": [{"name": name, "path": f"models/{name}"} for name in names],
                "tasks": [*PAPER_TASKS[:tasks], *own],
                "own_tasks": {name: own_task(folder, name) for name in own},
                "device": "cpu",
            }
        )
    )
    return path


def own_task(folder: Path, name: str) -> dict[str, Any]:
    """Write the texts of one own task, and return its definition."""
    for split in ("train", "test"):
        lines = [f"{label}\t{name} {split} text {number}" for number in range(TEXTS) for label in ("no", "yes")]
        (folder / f"{name}-{split}.tsv").write_text("\n".join(["label\ttext", *lines]) + "\n")
    return {
        "template": "Text: {text}\nAnswer:{label}",
        "label_words": {"no": " No", "yes": " Yes"},
        **{split: f"{name}-{split}.tsv" for split in ("train", "test")},
    }


def run(folder: Path, command: Sequence[Any], name: str, standard_input: Path | None = None) -> Usage:
    """Run a command in a folder, write its output to NAME.out and NAME.err there, and return what it used."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "src")}
    with (
        (folder / f"{name}.out").open("w") as output,
        (folder / f"{name}.err").open("w") as errors,
        (standard_input or Path(os.devnull)).open() as given,
    ):
        start = time.perf_counter()
        process = subprocess.Popen(
            list(map(str, command)), cwd=folder, env=environment, stdin=given, stdout=output, stderr=errors
        )
        # Unlike subprocess, it also returns what this child used.
        _, status, used = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{name} failed; see {folder / name}.err")
    scale = 1024**2 if sys.platform == "darwin" else 1024
    return Usage(used.ru_utime + used.ru_stime, wall, used.ru_maxrss / scale)


def number_of_jobs(output: str) -> int:
    """Return the total of the table of jobs that `snakemake -n` prints."""
    totals = re.findall(r"^total\s+(\d+)\s*$", output, re.MULTILINE)
    return int(totals[-1])


def tree(summary: Iterable[Mapping[str, str]]) -> Tree:
    """Return the size of the results tree after a run, from Snakemake's summary.

    Each job has a log under the path of its output, and each job of a study also has a file of benchmarks. The summary lists
    only logs that exist.
    """
    paths: set[PurePosixPath] = set()
    for row in summary:
        path = PurePosixPath(row["output_file"])
        paths.add(path)
        root, stage, *rest = path.parts
        stem = PurePosixPath(stage, *rest).with_name(path.name.partition(".")[0])
        if stage != "notebooks":  # written by the job of the figure
            paths.add(PurePosixPath(root, "logs", f"{stem}.log"))
        if stage in ("studies", "synthetic"):
            paths.add(PurePosixPath(root, "benchmarks", f"{stem}.jsonl"))
    entries: Counter[PurePosixPath] = Counter()
    folders: set[PurePosixPath] = set()
    for path in paths:
        entries[path.parent] += 1
        for parent in path.parents:
            if parent in folders or parent == parent.parent:
                break
            folders.add(parent)
            entries[parent.parent] += 1
    return Tree(len(paths), max(entries.values()))


if __name__ == "__main__":
    main()
