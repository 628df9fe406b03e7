"""Saliency prompts per second: icl-lens against the plain reference that runs one prompt at a time, in one run.

    .venv/bin/python benchmarks/saliency.py [MODEL_FOLDER] [--prompts FILE] [--count N] [--threads N]

The opponent is tests/reference/saliency.py, the implementation that icl-lens must agree with; the agreement on the timed
prompts is printed beside the ratio. Both run on the same device's CPU, after a warm-up, alternating, and the median of the
repeats counts.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as the command line sets it

import numpy as np
import torch

from icl_lens import artifacts, models, prompts
from icl_lens.config import EMBEDDED_MODEL
from icl_lens.corpora import builtin
from icl_lens.positions import tokenize
from icl_lens.studies import saliency
from icl_lens.tasks import TASKS

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.reference.saliency import saliency as reference

BATCH_TOKENS = (1, 2048, 4096, 8192)
REPEATS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", type=Path, default=Path(EMBEDDED_MODEL))
    parser.add_argument("--prompts", type=Path, help="a prompts table; by default fresh-1shot of each built-in task")
    parser.add_argument("--count", type=int, default=64, help="prompts per task")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = models.load(options.model, device="cpu")
    plain = models.load(options.model, device="cpu").network
    size = f"{model.layers} layers, {model.facts['parameters']:,} parameters"
    print(f"{options.model}: {size}, CPU, {options.threads} threads")
    if options.prompts:
        tables = {options.prompts.stem: artifacts.read(options.prompts, "prompts")[0].head(options.count)}
    else:
        tables = {
            name: prompts.build(task, builtin.generate(name, 0), "fresh-1shot", [42], options.count)
            for name, task in TASKS.items()
        }
    print("task    tokens  reference/s" + "".join(f"  {budget:>5} tokens/batch" for budget in BATCH_TOKENS) + "  difference")
    for name, table in tables.items():
        tokenized = models.fitting(model, tokenize(table, model.tokenizer))
        _compare(name, model, plain, tokenized)


def _compare(name, model, plain, tokenized) -> None:
    runs = {"reference": lambda: _reference(plain, tokenized)}
    runs |= {budget: lambda budget=budget: saliency.compute(model, tokenized, budget) for budget in BATCH_TOKENS}
    results = {key: run() for key, run in runs.items()}  # also the warm-up
    seconds: dict = {key: [] for key in runs}
    for _ in range(REPEATS):
        for key, run in runs.items():
            start = time.perf_counter()
            run()
            seconds[key].append(time.perf_counter() - start)
    rate = {key: len(tokenized) / statistics.median(times) for key, times in seconds.items()}
    length = statistics.mean(len(p.ids) for p in tokenized)
    ours = results[BATCH_TOKENS[-1]][list(saliency.METRICS)].to_numpy()  # (N * L, 3)
    difference = (np.abs(ours - results["reference"]).max(0) / results["reference"].max(0)).max()
    cells = "".join(f"  {rate[b]:>8.1f}/s {rate[b] / rate['reference']:>6.1f}x" for b in BATCH_TOKENS)
    print(f"{name:<7} {length:>6.0f}  {rate['reference']:>9.1f}/s{cells}  {difference:.1e}")


def _reference(plain, tokenized) -> np.ndarray:
    """Shape (N * L, 3), in the order of the table."""
    rows = [reference(plain, p.ids.tolist(), p.anchors.tolist(), p.label_ids.tolist(), p.gold).T for p in tokenized]
    return np.concatenate(rows)


if __name__ == "__main__":
    main()
