"""Cost of decomposing prompts into components, compared with the plain reference and with a plain forward pass.

    .venv/bin/python benchmarks/components.py [MODEL_FOLDER] [--count N] [--threads N]

The script measures all times in one run, after a warm-up. The baseline is tests/reference/components.py, the implementation
that the study must agree with. It processes one prompt at a time and measures each head by silencing the others. The output
also shows the cost of a forward pass over the same prompts without the decomposition.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # the value that the command line sets

import numpy as np
import torch

from icl_lens.config.keys import EMBEDDED_MODEL
from icl_lens.corpora import builtin
from icl_lens.models import loading
from icl_lens.models.answers import class_log_probs
from icl_lens.prompts import protocol
from icl_lens.prompts.positions import tokenize
from icl_lens.studies.component_reweighting.components import compute as components
from icl_lens.studies.component_reweighting.decomposition import Decomposer, decompose
from icl_lens.studies.component_reweighting.settings import Settings
from icl_lens.studies.inputs import Given
from icl_lens.tasks.task import TASKS

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.reference.components import component_logits

BATCH_TOKENS = 4096


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", type=Path, default=Path(EMBEDDED_MODEL))
    parser.add_argument("--count", type=int, default=100, help="prompts per task")
    parser.add_argument("--referred", type=int, default=10, help="of them, those that the reference computes")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = loading.load(options.model, device="cpu")
    decomposer = Decomposer(model.network)
    size = f"{model.layers} layers, {model.facts['parameters']:,} parameters"
    print(f"{options.model}: {size}, CPU, {options.threads} threads")
    print(f"{options.count} prompts per task, 4 demonstrations (TREC: 6), {len(decomposer.parts())} components\n")
    rates = "prompts per second: by component, plain forward pass"
    print(f"| task | tokens per prompt | {rates} | by component / reference | largest difference |")
    print("|---|---|---|---|---|")
    for name, task in TASKS.items():
        table = protocol.build(task, builtin.generate(name, 0), "labelled-24", [42], options.count)
        settings = Settings(queries=options.count)
        given = Given(model, table, {}, settings, "auto", False, lambda rows: tokenize(rows, model.tokenizer))
        tokenized = components.prepare(given).prompts
        referred = tokenized[: options.referred]
        decompose(model, decomposer, referred, BATCH_TOKENS)
        decomposed_seconds, found = _time(lambda tokenized=tokenized: decompose(model, decomposer, tokenized, BATCH_TOKENS))
        plain_seconds, _ = _time(lambda tokenized=tokenized: class_log_probs(model, tokenized, BATCH_TOKENS))
        reference_seconds, expected = _time(
            lambda referred=referred: np.stack(
                [component_logits(model.network, p.ids.tolist(), p.label_ids.tolist())[0] for p in referred]
            )
        )
        pace = reference_seconds / len(referred) / (decomposed_seconds / len(tokenized))
        difference = np.abs(found.parts[: len(referred)].numpy() - expected).max() / np.abs(expected).max()
        length = np.mean([len(p.ids) for p in tokenized])
        speeds = f"{len(tokenized) / decomposed_seconds:.0f}, {len(tokenized) / plain_seconds:.0f}"
        print(f"| {task.title} | {length:.0f} | {speeds} | {pace:.1f}x | {difference:.0e} |")


def _time(run: Callable) -> tuple[float, object]:
    """Return the median seconds of three runs and the result of the first run."""
    seconds, results = [], []
    for _ in range(3):
        start = time.perf_counter()
        results.append(run())
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), results[0]


if __name__ == "__main__":
    main()
