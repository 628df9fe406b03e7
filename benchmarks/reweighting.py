"""What anchor re-weighting costs: the study's training and test against its plain reference.

    .venv/bin/python benchmarks/reweighting.py [MODEL_FOLDER] [--count N] [--epochs N] [--seeds N] [--threads N]

Both train the same seeds on the same examples in the same order and answer the same prompts; they are timed once, one after the
other, after a warm-up of the study. The opponent is tests/reference/reweighting.py, the implementation that it must agree with:
one prompt at a time, read whole, gradients through the whole forward pass. It answers and trains, as released, seed by seed.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as the command line sets it

import numpy as np
import torch

from icl_lens import models, prompts
from icl_lens.config import EMBEDDED_MODEL
from icl_lens.corpora import builtin
from icl_lens.positions import tokenize
from icl_lens.reweighting_plan import Settings
from icl_lens.studies import reweighting
from icl_lens.tasks import TASKS

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.reference import reweighting as reference

BATCH_TOKENS = 4096


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", type=Path, default=Path(EMBEDDED_MODEL))
    parser.add_argument("--count", type=int, default=20, help="prompts per task and seed")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = models.load(options.model, device="cpu")
    plain = models.load(options.model, device="cpu").network
    settings = Settings(epochs=options.epochs)
    seeds = list(range(42, 42 + options.seeds))
    size = f"{model.layers} layers, {model.facts['parameters']:,} parameters"
    print(f"{options.model}: {size}, CPU, {options.threads} threads")
    print(
        f"{options.seeds} seeds, {options.epochs} epochs, {options.count} prompts a task and seed, 1 demonstration per class\n"
    )
    print(
        "| task | steps | training, reference / study | test, reference / study | beta: largest difference / largest ", end=""
    )
    print("| losses | log-probabilities |")
    print("|---|---|---|---|---|---|---|")
    for name, task in TASKS.items():
        corpus = builtin.generate(name, 0)
        sets = ("shared-1shot", "shared-1shot-auxiliary")
        shown, auxiliary = (
            tokenize(prompts.build(task, corpus, set_name, seeds, options.count), model.tokenizer) for set_name in sets
        )
        runs = {seed: [p for p in auxiliary if p.seed == seed] for seed in seeds}
        reweighting.train(model, {seeds[0]: runs[seeds[0]]}, Settings(epochs=1))  # warm-up
        trained, ours = _timed(lambda runs=runs: reweighting.train(model, runs, settings, BATCH_TOKENS))
        expected, theirs = _timed(lambda runs=runs: _reference(plain, runs, settings))
        answers, ours_test = _timed(lambda shown=shown, trained=trained: _test(model, shown, trained))
        wanted, theirs_test = _timed(lambda shown=shown, expected=expected: _reference_test(plain, shown, expected))
        errors = (
            _error([trained[s].beta for s in seeds], [expected[s][0].numpy() for s in seeds]),
            _error([trained[s].losses for s in seeds], [np.array(expected[s][1]) for s in seeds]),
            _error([answers], [wanted]),
        )
        steps = sum(len(examples) for examples in runs.values()) * options.epochs
        print(f"| {task.title} | {steps} | {theirs / ours:.1f}x | {theirs_test / ours_test:.1f}x | ", end="")
        print(" | ".join(f"{error:.1e}" for error in errors), "|", flush=True)


def _reference(network, runs, settings) -> dict:
    """Seed -> (beta, losses), seed by seed."""
    found = {}
    for seed, examples in runs.items():
        generator = np.random.default_rng([settings.seed, seed])
        orders = [generator.permutation(len(examples)).tolist() for _ in range(settings.epochs)]
        rows = [(p.ids.tolist(), p.anchors.tolist(), p.label_ids.tolist(), p.gold) for p in examples]
        heads = network.config.num_attention_heads
        found[seed] = reference.train(network, rows, orders, heads, settings.learning_rate)
    return found


def _test(model, shown, trained) -> np.ndarray:
    """Re-weighted log-probabilities, shape (N, C), by the study's own function."""
    rows = [None] * len(shown)
    for seed, found in trained.items():
        index = [i for i, p in enumerate(shown) if p.seed == seed]
        for i, row in zip(
            index, reweighting.log_probabilities(model, [shown[i] for i in index], BATCH_TOKENS, found.beta), strict=True
        ):
            rows[i] = row
    return np.stack(rows)


@torch.no_grad()
def _reference_test(network, shown, expected) -> np.ndarray:
    """The same by the reference."""
    logits = [
        reference.class_logits(network, p.ids.tolist(), p.anchors.tolist(), p.label_ids.tolist(), expected[p.seed][0])
        for p in shown
    ]
    return torch.stack(logits).log_softmax(-1).numpy()


def _error(found, expected) -> float:
    """The largest difference, as a share of the largest value."""
    return max(np.abs(a - b).max() for a, b in zip(found, expected, strict=True)) / max(np.abs(b).max() for b in expected)


def _timed(run) -> tuple:
    start = time.perf_counter()
    result = run()
    return result, time.perf_counter() - start


if __name__ == "__main__":
    main()
