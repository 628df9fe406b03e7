"""What isolation costs: a label condition against a plain forward pass, and the study against its plain reference.

    .venv/bin/python benchmarks/isolation.py [MODEL_FOLDER] [--count N] [--threads N]

Everything is timed in one run, alternating, after a warm-up, and the median of the repeats counts. The opponent of the study
is tests/reference/isolation.py, the implementation that it must agree with: one prompt at a time, whole attention matrices.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as the command line sets it

import numpy as np
import torch

from icl_lens import models, prompts
from icl_lens.conditions import isolated, random_positions
from icl_lens.config import EMBEDDED_MODEL
from icl_lens.corpora import builtin
from icl_lens.isolation_plan import TARGETS, Settings
from icl_lens.positions import tokenize
from icl_lens.studies import isolation
from icl_lens.tasks import TASKS

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.reference.isolation import isolated_logits, jaccard

BATCH_TOKENS = 4096
REPEATS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", type=Path, default=Path(EMBEDDED_MODEL))
    parser.add_argument("--count", type=int, default=100, help="prompts per task")
    parser.add_argument("--referred", type=int, default=4, help="of them, those that the reference computes")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = models.load(options.model, device="cpu")
    plain = models.load(options.model, device="cpu").network
    settings = Settings(targets=list(TARGETS))
    planned = isolation.conditions(settings, model.layers)
    size = f"{model.layers} layers, {model.facts['parameters']:,} parameters"
    print(f"{options.model}: {size}, CPU, {options.threads} threads")
    print(f"{options.count} prompts a task, 1 demonstration per class, {len(planned)} conditions\n")
    print("| task | tokens | label / plain, prompts read whole | label / plain, beginning shared ", end="")
    print("| study / reference, runs per second | rows compared | rows that differ |")
    print("|---|---|---|---|---|---|---|")
    for name, task in TASKS.items():
        table = prompts.build(task, builtin.generate(name, 0), "shared-1shot", [42], options.count)
        tokenized = models.fitting(model, tokenize(table, model.tokenizer))
        whole = _whole(model, tokenized)
        shared = _shared(model, tokenized)
        few = tokenized[: options.referred]
        contest = {
            "study": lambda tokenized=tokenized: isolation.compute(model, tokenized, BATCH_TOKENS, settings=settings),
            "reference": lambda few=few: _reference(model, plain, few, settings, planned),
        }
        seconds, results = _time(contest, repeats=1)
        pace = seconds["reference"] / len(few) / (seconds["study"] / len(tokenized))
        compared, different = _compare(results["study"], results["reference"], len(planned))
        length = statistics.mean(len(p.ids) for p in tokenized)
        print(f"| {task.title} | {length:.0f} | {whole:.2f} | {shared:.2f} | {pace:.1f}x | {compared} | {different} |")


@torch.inference_mode()
def _whole(model, tokenized) -> float:
    """Label words blocked in all layers, in batches of whole prompts, against the same batches without."""

    def forward(blocked: bool) -> None:
        for batch in models.batches(model, tokenized, BATCH_TOKENS):
            cut = [tokenized[i].anchors.tolist() if blocked else () for i in batch.index]
            length = batch.ids.shape[1]
            with isolation.isolate(model.network, cut, range(model.layers), "before_softmax", 0, length, length):
                models.last_logits(model, batch)

    seconds, _ = _time({"plain": lambda: forward(False), "label": lambda: forward(True)})
    return seconds["label"] / seconds["plain"]


@torch.inference_mode()
def _shared(model, tokenized) -> float:
    """The same of the study's own runs, with the beginning read once."""
    anchors = [p.anchors for p in tokenized]

    def run(cut) -> None:
        for group in models.sharing(model, tokenized):
            for _ in isolation.runs(model, tokenized, group, cut, range(model.layers), "before_softmax", BATCH_TOKENS):
                pass

    seconds, _ = _time({"plain": lambda: run(None), "label": lambda: run(anchors)})
    return seconds["label"] / seconds["plain"]


def _reference(model, plain, tokenized, settings, planned) -> np.ndarray:
    """Prediction, and overlap of 5 and of 10 words, of each prompt and condition, shape (N * C, 3)."""
    rows = []
    for prompt in tokenized:
        ids, classes = prompt.ids.tolist(), prompt.label_ids
        before = isolated_logits(plain, ids, [], [], settings.blocking)[0]
        for target, draw, side, k in planned:
            if target == "random":
                cut = random_positions(prompt, settings.random_scope, draw, model.tokenizer.bos_token_id)
            else:
                cut = isolated(prompt, target, lambda t: model.tokenizer.decode([t]))
            layers = range(k) if side == "first" else range(model.layers - k, model.layers)
            after = isolated_logits(plain, ids, cut.tolist(), layers, settings.blocking)[0]
            words = [jaccard(after.topk(n).indices.tolist(), before.topk(n).indices.tolist()) for n in (5, 10)]
            rows.append([int(after[classes].argmax()), *words])
    return np.array(rows)


def _compare(study, reference, conditions: int) -> tuple[int, int]:
    """Number of rows compared, and of those that differ in any of the three columns (near-ties in logits may)."""
    ours = study[["prediction", "word_jaccard_5", "word_jaccard_10"]].to_numpy(dtype=float)[: len(reference)]
    assert len(reference) % conditions == 0
    return len(reference), int((np.abs(ours - reference) > 1e-12).any(1).sum())


def _time(runs: dict[str, Callable], repeats: int = REPEATS) -> tuple[dict[str, float], dict]:
    """Median seconds of each, and what each returned at the warm-up."""
    results = {key: run() for key, run in runs.items()}
    seconds: dict[str, list[float]] = {key: [] for key in runs}
    for _ in range(repeats):
        for key, run in runs.items():
            start = time.perf_counter()
            run()
            seconds[key].append(time.perf_counter() - start)
    return {key: statistics.median(times) for key, times in seconds.items()}, results


if __name__ == "__main__":
    main()
