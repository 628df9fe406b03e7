"""Growth of cost with prompt length, batch size and number of queries: benchmarks/scaling.png and its numbers.

    .venv/bin/python benchmarks/scaling.py [--clock cpu] [--longest 4096] [--repeats 3]

The model has random weights and the shape of the embedded model (6 layers, width 64, 2 heads). Its context length is sufficient
for prompts of 4,096 tokens. The growth law is the exponent between one length and the next,
log(cost ratio) / log(length ratio).
"""

from __future__ import annotations

import argparse
import math
import os
from pathlib import Path

import contest
import numpy as np
import torch
from contest import Clock
from matplotlib.figure import Figure
from transformers import LlamaConfig, LlamaForCausalLM

from icl_lens.models.language_model import LanguageModel
from icl_lens.prompts.positions import TokenizedPrompt
from icl_lens.studies.anchors.deep_attention import compute as deep_attention
from icl_lens.studies.anchors.saliency import compute as saliency
from tests.reference.deep_attention import class_attention
from tests.reference.saliency import saliency as plain_saliency

LENGTHS = (64, 128, 256, 512, 1024, 2048, 4096)
BATCHES = (1, 2, 4, 8, 16, 32, 64)
QUERIES = (1, 4, 16, 64, 256)
DEMONSTRATIONS, QUERY = 128, 24  # tokens
VOCABULARY = 2000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--longest", type=int, default=LENGTHS[-1])
    parser.add_argument("--threads", type=int, default=int(os.environ.get("OMP_NUM_THREADS", 0)) or torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".png"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 6, "num_attention_heads": 2}
    config = LlamaConfig(**shape, vocab_size=VOCABULARY, max_position_embeddings=8192)
    network = LlamaForCausalLM(config).eval().requires_grad_(False)
    plain = LlamaForCausalLM(config).eval().requires_grad_(False)
    plain.load_state_dict(network.state_dict())
    model = LanguageModel("random", network, None, "float32", {})
    clock = Clock(options.clock, "cpu")

    def seconds(runs: dict) -> dict:
        return contest.contest(runs, clock, options.repeats)[0]

    def arguments(p: TokenizedPrompt) -> tuple:
        return p.ids.tolist(), p.anchors.tolist(), p.label_ids.tolist(), p.gold

    figure = Figure(figsize=(12, 3.6), layout="constrained")
    axes = figure.subplots(1, 3)
    names = ("saliency, plain", "saliency", "deep attention")
    lengths = [length for length in LENGTHS if length <= options.longest]
    cost: dict[str, list[float]] = {name: [] for name in names}
    for length in lengths:
        prompt = _prompt(0, length)
        found = seconds(
            {
                names[0]: lambda p=prompt: plain_saliency(plain, *arguments(p)),
                names[1]: lambda p=prompt: saliency.compute(model, [p], 1),
                names[2]: lambda p=prompt: deep_attention.compute(model, [p], 1),
            }
        )
        for name in names:
            cost[name].append(found[name])
    print(f"clock: {options.clock}, {options.threads} threads, median of {options.repeats}")
    print("milliseconds per prompt (one at a time), and the exponent relative to the previous length\n")
    print(f"| tokens | {' | '.join(names)} |\n|---{'|---' * len(names)}|")
    for n, length in enumerate(lengths):
        cells = [f"{1000 * cost[name][n]:.1f}" + (f" ({_exponent(cost[name], lengths, n):.2f})" if n else "") for name in names]
        print(f"| {length} | {' | '.join(cells)} |")
    for name in names:
        axes[0].loglog(lengths, cost[name], marker="o", label=name)
    axes[0].set(xlabel="tokens per prompt", ylabel="seconds per prompt (batch size 1)", title="length")

    prompts = [_prompt(n, 128) for n in range(max(BATCHES))]
    found = seconds({str(size): lambda size=size: saliency.compute(model, prompts, 128 * size) for size in BATCHES})
    rate = [len(prompts) / found[str(size)] for size in BATCHES]
    print(f"\n| prompts of 128 tokens per batch | {' | '.join(map(str, BATCHES))} |\n|---{'|---' * len(BATCHES)}|")
    print(f"| saliency, prompts per second | {' | '.join(f'{r:.0f}' for r in rate)} |")
    axes[1].semilogx(BATCHES, rate, marker="o", color="C1", base=2)
    axes[1].set(xlabel="prompts of 128 tokens per batch", ylabel="prompts per second (saliency)", title="batch", ylim=0)

    shared = {count: [_prompt(n, DEMONSTRATIONS + QUERY, DEMONSTRATIONS) for n in range(count)] for count in QUERIES}
    runs = {f"fast {count}": lambda p=p: deep_attention.compute(model, p, 4096) for count, p in shared.items()}

    def one_by_one(prompts: list[TokenizedPrompt]) -> list[np.ndarray]:
        return [class_attention(plain, p.ids.tolist(), p.anchors.tolist(), p.demo_labels.tolist(), 2) for p in prompts]

    found = seconds(runs | {f"plain {count}": lambda p=p: one_by_one(p) for count, p in shared.items()})
    print(f"\n| queries of {QUERY} tokens after {DEMONSTRATIONS} | {' | '.join(map(str, QUERIES))} |")
    print("|---" * (1 + len(QUERIES)) + "|")
    for side, title, colour in (("plain", "deep attention, plain", "C3"), ("fast", "deep attention", "C2")):
        values = [found[f"{side} {count}"] for count in QUERIES]
        each = [f"{1000 * value / count:.2f}" for value, count in zip(values, QUERIES, strict=True)]
        print(f"| {title}, milliseconds per query | {' | '.join(each)} |")
        axes[2].loglog(QUERIES, values, marker="o", label=title, color=colour)
    axes[2].set(xlabel="queries that share demonstrations", ylabel="seconds in all", title="queries")
    for axis in (axes[0], axes[2]):
        axis.legend(frameon=False, fontsize=8)
    figure.savefig(options.out, dpi=90, metadata={"Software": None})


def _exponent(cost: list[float], lengths: list[int], n: int) -> float:
    return math.log(cost[n] / cost[n - 1]) / math.log(lengths[n] / lengths[n - 1])


def _prompt(number: int, length: int, shared: int = 0) -> TokenizedPrompt:
    """Return a prompt of random tokens with two label words; its first ``shared`` tokens are the same in each prompt."""
    ids = np.random.default_rng(number).integers(1, VOCABULARY, length)
    ids[:shared] = np.random.default_rng(10**6).integers(1, VOCABULARY, shared)
    anchors = np.array([length // 4, length // 2]) if not shared else np.array([shared // 2, shared - 2])
    spans = np.zeros((length, 2), dtype=np.int64)
    return TokenizedPrompt(number, ids, anchors, np.array([0, 1]), np.array([5, 6]), 0, 0, 42, "", spans)


if __name__ == "__main__":
    main()
