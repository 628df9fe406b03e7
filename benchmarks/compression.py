"""What compression gains: the study against its plain reference, and queries behind kept keys against whole prompts.

    .venv/bin/python benchmarks/compression.py [MODEL_FOLDER] [--count N] [--threads N]

Everything is timed in one run, after a warm-up. The opponent of the study is tests/reference/compression.py, the
implementation that it must agree with: one prompt at a time, read whole for every method and draw, eager attention.
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

from icl_lens import compression, models, prompts
from icl_lens.compression_plan import OWN, Condition, Settings, conditions
from icl_lens.compression_summary import accelerations
from icl_lens.config import EMBEDDED_MODEL
from icl_lens.corpora import builtin
from icl_lens.latency_plan import Settings as LatencySettings
from icl_lens.positions import tokenize
from icl_lens.studies import compression as study
from icl_lens.studies import latency
from icl_lens.tasks import TASKS

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.reference.compression import compressed_logits, restarted_logits
from tests.reference.isolation import jaccard

BATCH_TOKENS = 4096
SETTINGS = Settings(positions=["continued", "restarted"], draws=20)


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
    planned = [Condition("full", 0, OWN), *conditions(SETTINGS)]
    size = f"{model.layers} layers, {model.facts['parameters']:,} parameters"
    print(f"{options.model}: {size}, CPU, {options.threads} threads")
    print(f"{options.count} prompts a task, 1 demonstration per class, {len(planned)} conditions\n")
    print("| task | tokens: demonstrations, kept, query | full / hidden_anchor: one by one, in batches ", end="")
    print("| study / reference, runs per second | rows compared | rows that differ |")
    print("|---|---|---|---|---|---|")
    for name, task in TASKS.items():
        table = prompts.build(task, builtin.generate(name, 0), "shared-1shot", [42], options.count)
        tokenized = models.fitting(model, tokenize(table, model.tokenizer))
        timed = latency.compute(model, tokenized, BATCH_TOKENS, settings=LatencySettings(prompts=options.count, repeats=5))
        alone, together = accelerations(timed.assign(model="", task="", set="", seed=42)).to_dict("records")
        few = tokenized[: options.referred]
        study.compute(model, few, BATCH_TOKENS, settings=SETTINGS)
        seconds, ours = _time(lambda tokenized=tokenized: study.compute(model, tokenized, BATCH_TOKENS, settings=SETTINGS))
        slow, theirs = _time(lambda few=few: _reference(model, plain, few, planned))
        pace = slow / len(few) / (seconds / len(tokenized))
        found = ours[["prediction", "word_jaccard_5"]].to_numpy(dtype=float)[: len(theirs)]
        different = int((np.abs(found - theirs) > 1e-12).any(1).sum())
        lengths = ", ".join(f"{alone[key]:.0f}" for key in ("demo_tokens", "kept_tokens", "query_tokens"))
        print(f"| {task.title} | {lengths} | {alone['ratio']:.2f}, {together['ratio']:.2f} ", end="")
        print(f"| {pace:.1f}x | {len(theirs)} | {different} |")


def _reference(model, plain, tokenized, planned) -> np.ndarray:
    """Prediction, and overlap of 5 words, of each prompt and condition, shape (N * C, 2)."""
    rows = []
    for prompt in tokenized:
        ids, length = prompt.ids.tolist(), compression.query_start(prompt)
        full = compressed_logits(plain, ids, 0, [])
        for condition in planned:
            if condition.method == "full":
                logits = full
            elif condition.method == "text_anchor":
                logits = compressed_logits(plain, study.text_anchor(prompt, model.tokenizer).ids.tolist(), 0, [])
            else:
                run = compressed_logits if condition.positions == "continued" else restarted_logits
                logits = run(plain, ids, length, study.kept(prompt, condition, SETTINGS).tolist())
            words = jaccard(logits.topk(5).indices.tolist(), full.topk(5).indices.tolist())
            rows.append([int(logits[prompt.label_ids].argmax()), words])
    return np.array(rows)


def _time(run: Callable) -> tuple[float, object]:
    """The median seconds of three runs, and what the first returned."""
    seconds, results = [], []
    for _ in range(3):
        start = time.perf_counter()
        results.append(run())
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), results[0]


if __name__ == "__main__":
    main()
