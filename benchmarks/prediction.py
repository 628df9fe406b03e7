"""Predicted against measured time and memory of study jobs on this machine's CPU, and the fit of the CPU's constants.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/prediction.py [--gemma FOLDER] [--folder FOLDER]    (Linux, under 15 minutes)

Each job is one command in its own process, with one thread: the embedded model, a GPT-2 of 124M parameters with random weights,
and Gemma 3 270M (converted by `make gemma`). The time is the CPU time of the process, user and system (``getrusage``), which
equals wall time on an idle machine. The memory is its largest resident set. The processes are forks of one process that has
imported the libraries. The time of this import, which a new process needs once, is added to each job.

The results are kept in FOLDER (default: .prediction). Rerun the command to resume; delete the folder to measure again.
The command prints the tables of docs/scale.md, and the constants of the card `cpu` in `src/icl_lens/config/prediction.py` that
fit these measurements best.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from scipy.optimize import least_squares

from icl_lens.artifacts import hashes
from icl_lens.cli import commands, preloaded
from icl_lens.config import model_sizes, parse, prediction
from icl_lens.config.keys import EMBEDDED_MODEL, Config
from icl_lens.hub.checkpoints import checkpoint_hash
from icl_lens.studies import registry

SEEDS, TASK = (42, 43), "trec"
PRIOR = 0.1  # weight of a current constant, relative to a measured job
LIMITS = {"seconds": 1.5, "bytes": 1.2}  # accepted factor between prediction and measurement

# Fewer conditions and repeats than by default, so that the benchmark takes less than 15 minutes.
SETTINGS = {"isolation": {"draws": 1, "orders": 4}, "controls": {"orders": 4}, "latency": {"prompts": 2, "repeats": 3}}

# Study, prompt set, and share of the model's number of queries.
JOBS = (
    ("icl", "shared-1shot", 4.0),
    ("saliency", "fresh-1shot", 1.0),
    ("isolation", "shared-1shot", 1.0),
    ("compression", "shared-1shot", 2.0),
    ("reweighting", "shared-1shot", 0.5),
    ("isolation_controls", "shared-1shot", 0.5),
    ("latency", "shared-1shot", 1.0),
    ("deep_attention", "shared-2shot", 4.0),
    ("diagnosis", "ordered-1shot", 1.0),
    ("kernel_regression", "fresh-4shot", 0.5),
    ("flow", "fresh-1shot", 1.0),
    ("isolated_words", "shared-1shot", 1.0),
    ("attention_controls", "shared-1shot", 1.0),
    ("prediction_similarity", "fresh-4shot", 0.5),
)


class Case(NamedTuple):
    """A measured model: its folder and number of queries."""

    folder: Path
    queries: int


class Result(NamedTuple):
    """A measured job and its prediction."""

    model: str
    study: str
    measured: dict[str, float]
    predicted: prediction.Prediction
    terms: prediction.Terms


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gemma", type=Path, help="Folder of the converted Gemma 3 270M; the default is that of `make gemma`.")
    parser.add_argument("--folder", type=Path, default=Path(".prediction"), help="Folder of the results.")
    parser.add_argument("--studies", nargs="+", help="Measure only these studies.")
    parser.add_argument("--scale", type=float, default=1.0, help="Factor on the number of queries.")
    parser.add_argument("--stored", action="store_true", help="Measure nothing; print the results in the folder.")
    options = parser.parse_args()
    if os.environ.get("OMP_NUM_THREADS") != "1":
        parser.error("set OMP_NUM_THREADS=1, because the prediction is fitted to one thread")
    options.folder.mkdir(parents=True, exist_ok=True)
    gemma = options.gemma or next(Path("downloads").glob("gguf/**/converted/model.safetensors"), Path("-/-")).parent
    cases = {
        "embedded": Case(Path(EMBEDDED_MODEL), 200),
        "124M": Case(options.folder / "124M", 16),
        **({"gemma": Case(gemma, 16)} if gemma.is_dir() else {}),
    }
    # In a workflow, the hashes of the checkpoints are cached, too.
    cache = options.folder / "hashes"
    cache.mkdir(exist_ok=True)
    os.environ[hashes.HASHES] = str(cache.resolve())
    start = _start(options.folder)
    if not options.stored:
        for case in cases.values():
            checkpoint_hash(case.folder)
    results = []
    for study, prompt_set, share in JOBS:
        for name, case in cases.items():
            queries = max(2, round(options.scale * share * case.queries))
            if options.stored and not _stored(options.folder, name, study, queries).is_file():
                continue
            if options.studies is None or study in options.studies:
                found = _measure(options.folder, name, case, study, prompt_set, queries)
                results.append(found._replace(measured={**found.measured, "seconds": found.measured["seconds"] + start}))
    print(f"import of the libraries, included in each job: {start:.1f} s\n")
    _print(results)
    _fit(results)


def _start(folder: Path) -> float:
    """Return the CPU seconds of the import of the libraries, and import them for the later forks.

    A child process writes the GPT-2 of 124M parameters with random weights, and the tokenizer of the embedded model.
    """
    stored = folder / "start.json"
    if not (folder / "124M" / "tokenizer.json").is_file():
        _wait(_fork(lambda: _write_random_gpt2(folder / "124M")))
    before = time.process_time()
    for library in preloaded.LIBRARIES:
        importlib.import_module(library)
    importlib.import_module("icl_lens.studies.run")
    if not stored.is_file():
        stored.write_text(json.dumps(time.process_time() - before), encoding="utf-8")
    return json.loads(stored.read_text(encoding="utf-8"))


def _write_random_gpt2(folder: Path) -> None:
    import torch
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(bos_token_id=0, eos_token_id=0)).save_pretrained(folder)
    AutoTokenizer.from_pretrained(EMBEDDED_MODEL).save_pretrained(folder)


def _fork(run: Callable[[], object]) -> int:
    """Start a function in a fork of this process, and return its process id. The fork exits with status 1 if it fails."""
    process = os.fork()
    if process == 0:
        status = 1
        try:
            status = int(run() or 0)
        finally:
            sys.stderr.flush()
            os._exit(status)
    return process


def _wait(process: int) -> dict[str, float]:
    """Wait for a fork, and return its CPU seconds and its largest resident set in bytes."""
    _, status, usage = os.wait4(process, 0)
    if status:
        raise SystemExit("a job failed; its error is above")
    return {"seconds": usage.ru_utime + usage.ru_stime, "bytes": 1024 * usage.ru_maxrss}


def _measure(folder: Path, name: str, case: Case, study_name: str, prompt_set: str, queries: int) -> Result:
    """Run one job, or read its stored result."""
    study = registry.study(study_name)
    model = {"name": name, "path": str(case.folder)}
    config = parse.parse({"models": [model], "seeds": list(SEEDS), "queries": queries, "studies": SETTINGS})
    stored = _stored(folder, name, study_name, queries)
    if not stored.is_file():
        out = folder / "out" / f"{name}-{study_name}.parquet"
        settings = config.settings(study_name, TASK)
        arguments = ["--model", str(case.folder), "--prompts", str(_prompts(folder, prompt_set, queries)), "--out", str(out)]
        for table in study.further:
            arguments += [f"--{table.option}", str(_prompts(folder, table.set_name(settings), queries))]
        if settings is not None:
            arguments += ["--settings", settings.model_dump_json()]
        print(f"{name}: {study_name}", file=sys.stderr, flush=True)
        measured = _run([study.command, *arguments, "--device", "cpu"])
        stored.write_text(json.dumps(measured), encoding="utf-8")
    measured = json.loads(stored.read_text(encoding="utf-8"))
    return Result(name, study_name, measured, *_predict(config, name, study_name, prompt_set))


def _stored(folder: Path, name: str, study_name: str, queries: int) -> Path:
    return folder / f"{name}-{study_name}-{queries}.json"


def _run(arguments: list[str]) -> dict[str, float]:
    """Run a command of icl-lens in a fork, and return its CPU seconds and its largest resident set in bytes."""
    return _wait(_fork(lambda: commands.main(arguments)))


def _prompts(folder: Path, prompt_set: str, queries: int) -> Path:
    """Write a prompts table, unless it exists."""
    corpus, prompts = folder / f"{TASK}.parquet", folder / f"{prompt_set}-{queries}.parquet"
    if not corpus.is_file():
        _run(["corpora", "--task", TASK, "--seed", "0", "--out", str(corpus)])
    if not prompts.is_file():
        seeds = [part for seed in SEEDS for part in ("--seeds", str(seed))]
        arguments = ["--task", TASK, "--corpus", str(corpus), "--set", prompt_set, *seeds, "--queries", str(queries)]
        _run(["prompts", *arguments, "--out", str(prompts)])
    return prompts


def _predict(config: Config, name: str, study_name: str, prompt_set: str) -> tuple[prediction.Prediction, prediction.Terms]:
    """Return the prediction of a job, and the numbers by which the constants of the time are multiplied."""
    study, card = registry.study(study_name), prediction.CARDS["cpu"]
    size = model_sizes.size(config, config.model(name))
    job = prediction.job_of(config, study, TASK, prompt_set, size.layers)
    path = PurePosixPath("studies", name, TASK, prompt_set, f"{study_name}.parquet")
    return prediction.predict(config, path, card), prediction.terms(size, study, job, card)


def _print(results: list[Result]) -> None:
    print("| model | study | measured: CPU s | predicted / measured | measured: GB | predicted / measured |")
    print("|---|---|---|---|---|---|")
    ratios: dict[str, list[float]] = {"seconds": [], "bytes": []}
    for result in results:
        cells = []
        for kind, predicted in (("seconds", result.predicted.seconds), ("bytes", result.predicted.host_bytes)):
            measured = result.measured[kind]
            ratio = predicted / measured
            ratios[kind].append(max(ratio, 1 / ratio))
            shown = f"{measured:.1f}" if kind == "seconds" else f"{measured / 1e9:.2f}"
            cells.append(f"{shown} | {ratio:.2f}" if ratios[kind][-1] <= LIMITS[kind] else f"{shown} | **{ratio:.2f}**")
        print(f"| {result.model} | {result.study} | {' | '.join(cells)} |")
    for kind, factors in ratios.items():
        within = sum(factor <= LIMITS[kind] for factor in factors)
        print(
            f"\n{kind}: {within} of {len(factors)} jobs within a factor of {LIMITS[kind]}, median factor "
            f"{statistics.median(factors):.2f}, largest {max(factors):.2f}"
        )


def _fit(results: list[Result]) -> None:
    """Print the constants with the smallest squared logarithms of predicted / measured, and of new / current constant.

    The jobs of each study are also predicted with constants that are fitted without them.
    """
    measured = np.array([result.measured["seconds"] for result in results])  # (J,)
    terms = np.array([list(result.terms) for result in results])  # (J, F)
    card = prediction.CARDS["cpu"]
    current = np.array(card.constants._replace(operations=1 / card.rates["float32"]))  # (F,)

    def fit(chosen: np.ndarray) -> np.ndarray:
        """Return the constants that fit the chosen jobs, shape (F,)."""

        def residuals(logarithms: np.ndarray) -> np.ndarray:
            ratios = terms[chosen] @ (current * np.exp(logarithms)) / measured[chosen]
            return np.concatenate([np.log(ratios), PRIOR * logarithms])

        return current * np.exp(least_squares(residuals, np.zeros(len(current))).x)

    studies = np.array([result.study for result in results])  # (J,)
    fitted = fit(np.ones(len(results), dtype=bool))  # (F,)
    factors = terms @ fitted / measured  # (J,)
    held_out = np.array([terms[j] @ fit(studies != study) / measured[j] for j, study in enumerate(studies)])  # (J,)
    within = (np.maximum(held_out, 1 / held_out) <= LIMITS["seconds"]).sum()
    print("\nconstants that fit best, in seconds per unit (in brackets: those of the card `cpu`):")
    for name, new, old in zip(prediction.Terms._fields, fitted, current, strict=True):
        print(f"  {name}: {new:.2g} ({old:.2g})")
    print(f"with them, predicted / measured is between {factors.min():.2f} and {factors.max():.2f}")
    print(
        f"with constants fitted to the jobs of the other studies, it is between {held_out.min():.2f} and {held_out.max():.2f}; "
        f"{within} of {len(results)} jobs are within a factor of {LIMITS['seconds']}"
    )


if __name__ == "__main__":
    main()
