"""Speed of each study relative to its plain reference: a Markdown table, each number a ratio measured in one run.

    .venv/bin/python benchmarks/table.py [--models embedded 124M] [--rows ROW ...] [--repeats N] [--queries N] [--clock cpu]
    .venv/bin/python benchmarks/table.py --device cuda --models XL
    .venv/bin/python benchmarks/table.py --model FOLDER [--data DIR]     (a real model; 8 prompts of one seed, two tasks)

Both sides use the same weights and the same prompts. They run in turn (A B A B), and the table shows ratios of median times. A
row is void if the results of its sides differ by more than 1e-4 of the largest value. The whole table is void if the plain
reference is slower than the known speed of the released code. The measured time is the time of a study's own `compute`,
including its checks of the model. If prompts share their demonstrations, the plain side runs only the first few of them. It
processes each prompt separately, so its total time is the time per prompt times the number of prompts.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

import bare
import contest
import numpy as np
import sides
import torch
import transformers
from contest import Clock, Pair
from transformers import GPT2TokenizerFast

from icl_lens.models import batching
from icl_lens.models.logits import last_logits
from icl_lens.network import precision
from icl_lens.studies.anchors.compression.study import Settings as Compression
from icl_lens.studies.anchors.isolating import Settings as Isolation
from icl_lens.studies.anchors.reweighting.study import Settings as Reweighting
from icl_lens.studies.challenges.ch_edge_cuts.study import Settings as EdgeCuts
from icl_lens.studies.challenges.ch_labels.study import Settings as Labels
from icl_lens.studies.challenges.ch_saliency.study import Settings as ChSaliency

TASKS = ("sst2", "trec", "agnews")
TOLERANCE = 1e-4
# Tolerance for fast products, by the format in which the device computes them.
TOLERANCE_FAST = {"float32": TOLERANCE, "tf32": 1e-2, "bfloat16": 1e-1}

# Prompts per second of the released code on 2 cores, for the 124M shape and prompts of 165 tokens. On these cores, a bare
# product of 1024 x 768 x 3072 runs at 157 to 237 GFLOP/s. The midpoint represents an idle machine.
RELEASED = {"forward": 2.5, "saliency": 1.0}
IDLE = 197e9


@dataclass(frozen=True)
class Plan:
    """The amount of work to run for a model.

    Attributes:
        budget: Tokens per batch.
        fresh: Number of prompts with their own demonstrations, per seed and task.
        few_fresh: Number of these prompts that the plain side runs.
        queries: Number of prompts that share their demonstrations, per seed and task.
        few: Number of these prompts that the plain side runs.
        seeds: Number of seeds.
        epochs: Number of training epochs.
        draws: Number of random draws of compression.
        repeats: Number of runs of each side. The result is their median.
        tasks: Tasks to take the prompts from.
    """

    budget: int
    fresh: int
    few_fresh: int
    queries: int
    few: int
    seeds: int
    epochs: int
    draws: int
    repeats: int
    tasks: tuple[str, ...] = TASKS


PLANS = {
    # One job of the default run: five seeds with a hundred queries each.
    "embedded": Plan(budget=4096, fresh=100, few_fresh=64, queries=100, few=4, seeds=5, epochs=2, draws=5, repeats=3),
    # The plain side runs the number of prompts that the released code was timed on: 18, six per data set.
    "124M": Plan(budget=512, fresh=18, few_fresh=6, queries=16, few=1, seeds=1, epochs=1, draws=5, repeats=1),
    # A real model: short and long prompts, few enough for a run of some minutes.
    "checkpoint": Plan(
        budget=4096, fresh=8, few_fresh=4, queries=8, few=1, seeds=1, epochs=1, draws=5, repeats=1, tasks=("sst2", "agnews")
    ),
    "XL": Plan(budget=16384, fresh=16, few_fresh=16, queries=200, few=2, seeds=1, epochs=2, draws=20, repeats=3),
}

TARGETS = {
    "saliency": ("saliency, fresh demonstrations", {"embedded": 5, "124M": 2, "XL": 3, "checkpoint": 2.2}),
    "bare": ("saliency: times the bare products it cannot spare, at most", {"checkpoint": 1.25}),
    "isolation": ("isolation, label conditions of Figure 8", {"embedded": 10, "124M": 4, "XL": 10, "checkpoint": 5}),
    "random": ("isolation, random conditions", {"embedded": 4, "124M": 2, "XL": 4, "checkpoint": 3}),
    "attention": ("deep attention", {"embedded": 10, "124M": 4, "XL": 10, "checkpoint": 4}),
    "shapley": (
        "Shapley values of four demonstrations, ten queries with the same ones (1 / .45)",
        {"embedded": 2.2, "124M": 2.2, "checkpoint": 2.2},
    ),
    "shapley_fresh": (
        "Shapley values of four demonstrations of one query (1 / .75)",
        {"embedded": 1.33, "124M": 1.33, "checkpoint": 1.33},
    ),
    "reweighting": ("re-weighting, train and test", {"embedded": 6, "124M": 3, "XL": 6, "checkpoint": 4}),
    "compression": ("compression, all methods", {"embedded": 6, "124M": 3, "XL": 8, "checkpoint": 5}),
    "ch_saliency": ("attributions and effects of cuts, 8 points", {"embedded": 8}),
    "cuts": ("cut edges, all conditions", {"embedded": 5, "checkpoint": 3}),
    "labels": ("predictions with other labels, all conditions", {"embedded": 4, "124M": 2, "XL": 4, "checkpoint": 2}),
    "whole": ("whole main paper for one task, Snakemake run against plain loop", {"embedded": 4}),
    "forward": ("forward pass: share of the rate of bare products", {"124M": 0.7, "XL": 0.6}),
    "tf32": (f"saliency with TF32, within {TOLERANCE_FAST['tf32']:g} of plain float32", {"XL": 8}),
    "all_items": ("the main paper's items, 4 tasks x 5 seeds x at most 1,000 queries: minutes", {"XL": 30}),
}

# Queries per seed, summed over the four tasks, at most 1,000 per task.
PAPER_QUERIES = 872 + 500 + 1000 + 1000


@dataclass
class Measured:
    """A cell of the table: the number, its parts, and the difference between the sides (0 if nothing is compared)."""

    value: float
    parts: str
    difference: float = 0.0
    tolerance: float = TOLERANCE

    def __str__(self) -> str:
        if self.difference > self.tolerance:
            return f"void (results differ by {self.difference:.0e})"
        return f"{self.value:.2g} ({self.parts})" if self.parts else f"{self.value:.2g}"


class Bench:
    """Measurements of the table rows for one model."""

    def __init__(self, pair: Pair, plan: Plan, options: argparse.Namespace) -> None:
        self.pair, self.plan, self.options = pair, plan, options
        self.clock = Clock(options.clock, options.device)
        self.long = pair.title != "embedded"
        self.pace: dict[str, dict[str, float]] = {}  # seconds per prompt of icl-lens, by row and task
        self.plain_pace: dict[str, dict[str, float]] = {}  # the same for the plain side

    def read(self, task: str, prompt_set: str, count: int) -> list:
        seeds = tuple(range(42, 42 + self.plan.seeds))
        return contest.tokenized(self.pair, task, prompt_set, count, self.options.data, self.long, seeds)

    def _mean(
        self,
        row: str,
        prompt_set: str,
        count: int,
        few: int,
        fast: Callable,
        plain: Callable,
        tasks: Sequence[str] = (),
        read: Callable | None = None,
    ) -> Measured:
        """Return the mean over tasks (those of the plan by default) of the ratio of seconds per prompt."""
        ratios, differences = {}, []
        pace, plain_pace = self.pace.setdefault(row, {}), self.plain_pace.setdefault(row, {})
        for task in tasks or self.plan.tasks:
            prompts = (read or self.read)(task, prompt_set, count)
            runs = {"fast": lambda prompts=prompts: fast(prompts), "plain": lambda prompts=prompts: plain(prompts[:few])}
            seconds, results = contest.contest(runs, self.clock, self.plan.repeats)
            pace[task], plain_pace[task] = seconds["fast"] / len(prompts), seconds["plain"] / min(few, len(prompts))
            ratio = ratios[f"{task} {contest.mean_length(prompts):.0f} tokens"] = plain_pace[task] / pace[task]
            differences.append(contest.relative_difference(results["fast"][:few], results["plain"]))
            print(f"  {row}, {task}: {ratio:.2f}, difference {differences[-1]:.0e}", file=sys.stderr, flush=True)
        parts = ", ".join(f"{task} {ratio:.2g}" for task, ratio in ratios.items())
        return Measured(statistics.mean(ratios.values()), parts, max(differences))

    def saliency(self) -> Measured:
        pair, plan = self.pair, self.plan
        fast = lambda prompts: sides.fast_saliency(pair, prompts, plan.budget)  # noqa: E731
        plain = lambda prompts: sides.plain_saliency(pair, prompts)  # noqa: E731
        return self._mean("saliency", "fresh-1shot", plan.fresh, plan.few_fresh, fast, plain)

    def bare(self) -> Measured:
        """Return the seconds of saliency divided by the seconds of its bare products, on the same prompts, run in turn."""
        ratios = {}
        for task in self.plan.tasks:
            prompts = self.read(task, "fresh-1shot", self.plan.fresh)
            products, operations = bare.saliency(self.pair.model.network, prompts)
            fast = lambda prompts=prompts: sides.fast_saliency(self.pair, prompts, self.plan.budget)  # noqa: E731
            seconds, _ = contest.contest({"fast": fast, "bare": products}, self.clock, self.plan.repeats)
            rate = operations / seconds["bare"] / 1e9
            ratios[f"{task} {contest.mean_length(prompts):.0f} tokens, bare {rate:.0f} GFLOP/s"] = (
                seconds["fast"] / seconds["bare"]
            )
        parts = ", ".join(f"{name}: {ratio:.2f}" for name, ratio in ratios.items())
        print(f"  bare: {parts}", file=sys.stderr, flush=True)
        return Measured(statistics.mean(ratios.values()), parts)

    def tf32(self) -> Measured:
        pair, plan = self.pair, self.plan
        formats = set()

        def fast(prompts: list) -> np.ndarray:
            with precision.products("fast", pair.model.device) as form:
                formats.add(form)
                return sides.fast_saliency(pair, prompts, plan.budget)

        plain = lambda prompts: sides.plain_saliency(pair, prompts)  # noqa: E731
        found = self._mean("tf32", "fresh-1shot", plan.fresh, plan.few_fresh, fast, plain)
        found.tolerance = max(TOLERANCE_FAST[form] for form in formats)
        return found

    def ch_saliency(self) -> Measured:
        pair, plan, settings = self.pair, self.plan, ChSaliency(steps=8, random=False)
        fast = lambda prompts: sides.fast_ch_saliency(pair, prompts, plan.budget, settings)  # noqa: E731
        plain = lambda prompts: sides.plain_ch_saliency(pair, prompts, settings)  # noqa: E731
        # The plain side runs about two thousand forward and backward passes per prompt of this task.
        return self._mean("ch_saliency", "fresh-1shot", 2, 1, fast, plain, ("sst2",))

    def _isolation(self, row: str, settings: Isolation) -> Measured:
        pair, plan = self.pair, self.plan
        fast = lambda prompts: sides.fast_isolation(pair, prompts, plan.budget, settings)  # noqa: E731
        plain = lambda prompts: sides.plain_isolation(pair, prompts, settings)  # noqa: E731
        return self._mean(row, "shared-1shot", plan.queries, plan.few, fast, plain)

    def isolation(self) -> Measured:
        return self._isolation("isolation", Isolation(targets=["label"], layers=self._figure_8()))

    def random(self) -> Measured:
        return self._isolation("random", Isolation(targets=["random"], layers=self._figure_8()))

    def _figure_8(self) -> list[int] | None:
        """Return Figure 8's numbers of layers, or None for the embedded model (each number up to half the depth)."""
        return None if self.pair.title == "embedded" else [1, 3, 5, 7]

    def cuts(self) -> Measured:
        pair, plan = self.pair, self.plan
        settings = EdgeCuts(window_queries=plan.queries, draws=plan.draws)  # windows of all rows for each prompt
        fast = lambda prompts: sides.fast_cuts(pair, prompts, plan.budget, settings)  # noqa: E731
        plain = lambda prompts: sides.plain_cuts(pair, prompts)  # noqa: E731
        # Each prompt has about a thousand conditions, so few prompts are enough.
        return self._mean("cuts", "shared-1shot", min(plan.queries, 4), 1, fast, plain)

    def attention(self) -> Measured:
        pair, plan = self.pair, self.plan
        fast = lambda prompts: sides.fast_attention(pair, prompts, plan.budget)  # noqa: E731
        few = 4 * plan.few
        return self._mean(
            "attention", "shared-1shot", plan.queries, few, fast, lambda prompts: sides.plain_attention(pair, prompts)
        )

    def compression(self) -> Measured:
        pair, plan, settings = self.pair, self.plan, Compression(draws=self.plan.draws)
        fast = lambda prompts: sides.fast_compression(pair, prompts, plan.budget, settings)  # noqa: E731
        plain = lambda prompts: sides.plain_compression_of(pair, prompts, settings)  # noqa: E731
        return self._mean("compression", "shared-1shot", plan.queries, plan.few, fast, plain)

    def _shapley(self, row: str, prompt_set: str, few: int) -> Measured:
        pair, budget = self.pair, self.plan.budget
        tasks = [task for task in self.plan.tasks if task != "trec"]  # its prompts have six demonstrations

        def read(task: str, prompt_set: str, count: int) -> list:
            table = contest.prompts_table(task, prompt_set, count, self.options.data, self.long)
            return sides.subsets(pair, table, 4)

        fast = lambda prompts: sides.fast_shapley(pair, prompts, budget)  # noqa: E731
        plain = lambda prompts: sides.plain_shapley(pair, prompts)  # noqa: E731
        return self._mean(row, prompt_set, 10, few, fast, plain, tasks, read)

    def shapley(self) -> Measured:
        return self._shapley("shapley", "shared-2shot", 3)

    def shapley_fresh(self) -> Measured:
        return self._shapley("shapley_fresh", "fresh-2shot", 3)

    def reweighting(self) -> Measured:
        pair, plan = self.pair, self.plan
        settings = Reweighting(epochs=plan.epochs)
        ratios, differences = {}, []
        pace, plain_pace = self.pace.setdefault("reweighting", {}), self.plain_pace.setdefault("reweighting", {})
        for task in self.plan.tasks:
            prompts, auxiliary = (self.read(task, name, 4 * plan.few) for name in ("shared-1shot", "shared-1shot-auxiliary"))
            runs = {
                "fast": lambda a=prompts, b=auxiliary: sides.fast_reweighting(pair, a, b, plan.budget, settings),
                "plain": lambda a=prompts, b=auxiliary: sides.plain_reweighting_of(pair, a, b, settings),
            }
            seconds, results = contest.contest(runs, self.clock, self.plan.repeats)
            ratios[task] = seconds["plain"] / seconds["fast"]
            differences += [contest.relative_difference(a, b) for a, b in zip(results["fast"], results["plain"], strict=True)]
            steps = len(auxiliary) * plan.epochs + len(
                prompts
            )  # a step and a prediction each cost about one forward pass of a prompt
            pace[task], plain_pace[task] = seconds["fast"] / steps, seconds["plain"] / steps
            print(f"  reweighting, {task}: {ratios[task]:.2f}, difference {max(differences):.0e}", file=sys.stderr, flush=True)
        parts = ", ".join(f"{task} {ratio:.2g}" for task, ratio in ratios.items())
        return Measured(statistics.mean(ratios.values()), parts, max(differences))

    def labels(self) -> Measured:
        """Compare the predictions of all label conditions.

        The fast side also runs the content-free texts. The plain side does not, because it would run them once per
        demonstration set.
        """
        plan, settings = self.plan, Labels(queries=self.plan.queries, flow_queries=0)
        ratios, differences = {}, []
        pace, plain_pace = self.pace.setdefault("labels", {}), self.plain_pace.setdefault("labels", {})
        for task in plan.tasks:
            seeds = tuple(range(42, 42 + plan.seeds))
            table = contest.prompts_table(task, "shared-1shot", plan.queries, self.options.data, self.long, seeds)
            inputs = sides.label_versions(self.pair, table, settings)
            runs = {
                "fast": lambda inputs=inputs: sides.fast_labels(self.pair, inputs, plan.budget, settings),
                "plain": lambda inputs=inputs: sides.plain_labels(self.pair, inputs, plan.few),
            }
            seconds, results = contest.contest(runs, self.clock, plan.repeats)
            pace[task], plain_pace[task] = seconds["fast"] / len(inputs.prompts), seconds["plain"] / len(results["plain"])
            ratios[task] = plain_pace[task] / pace[task]
            differences.append(contest.relative_difference(results["fast"][: len(results["plain"])], results["plain"]))
            print(f"  labels, {task}: {ratios[task]:.2f}, difference {differences[-1]:.0e}", file=sys.stderr, flush=True)
        parts = ", ".join(f"{task} {ratio:.2g}" for task, ratio in ratios.items())
        return Measured(statistics.mean(ratios.values()), parts, max(differences))

    def forward(self) -> Measured:
        """Compare a forward pass with its bare products.

        The pass runs over prompts of one length and computes next-token logits at the last position.
        """
        prompt = self.read("trec", "fresh-1shot", 1)[0]
        rows = 1 if self.options.device == "cpu" else 16
        batch = next(batching.batches(self.pair.model, [prompt] * rows, rows * len(prompt.ids)))
        bare, operations = contest.products(self.pair.model.network, len(prompt.ids), rows)
        run = torch.inference_mode()(lambda: last_logits(self.pair.model, batch))
        seconds, _ = contest.contest({"run": run, "bare": bare}, self.clock, max(9, self.plan.repeats))
        rate = operations / seconds["bare"] / 1e9
        return Measured(seconds["bare"] / seconds["run"], f"{len(prompt.ids)} tokens x {rows}, bare {rate:.0f} GFLOP/s")

    def all_items(self) -> Measured | None:
        """Estimate the minutes of all items from the seconds per prompt, draws, conditions and epochs of the rows above."""
        rows = ("saliency", "isolation", "random", "attention", "compression", "reweighting")
        if not set(rows) <= set(self.pace):
            return None
        pace = {row: statistics.mean(self.pace[row].values()) for row in rows}
        seconds = sum(pace[row] for row in rows[:-1]) * 5 * PAPER_QUERIES
        steps = 5 * (PAPER_QUERIES + 4 * (2 + 6 + 4 + 4) * Reweighting().epochs)
        return Measured((seconds + pace["reweighting"] * steps) / 60, "from the pace of the rows above")

    def whole(self) -> Measured | None:
        """Compare Snakemake's wall time for the main paper's items on TREC only with the plain loop over the same prompts."""
        rows = ("saliency", "isolation", "random", "attention", "compression", "reweighting")
        if self.options.whole is None or not set(rows) <= set(self.plain_pace) or self.options.clock != "wall":
            return None
        targets = [f"figure_{n}" for n in range(1, 7)] + [f"table_{n}" for n in range(1, 4)]
        seeds, queries = 5, self.options.whole
        with tempfile.TemporaryDirectory() as folder:
            config = Path(folder) / "config.json"  # JSON is valid YAML
            item_options = {name: {"tasks": ["trec"]} for name in targets if not name.startswith("table")}
            config.write_text(
                json.dumps({"tasks": ["trec"], "queries": queries, "results": f"{folder}/results", "items": item_options})
            )
            cores = ["--cores", str(self.options.threads), "--quiet", "all"]
            command = [str(Path(sys.executable).parent / "snakemake"), *targets, *cores, "--configfile", str(config)]
            start = time.perf_counter()
            subprocess.run(command, check=True)
            seconds = time.perf_counter() - start
        prompts = seeds * queries
        pace = {row: self.plain_pace[row]["trec"] for row in rows}
        plain = sum(pace[row] for row in rows[:-1]) * prompts
        plain += pace["reweighting"] * (prompts + seeds * 6 * 4 * Reweighting().epochs)
        parts = f"TREC, {seeds} seeds x {queries} queries: {seconds:.0f} s, plain {plain:.0f} s by its pace in the rows above"
        return Measured(plain / seconds, parts)

    def context(self) -> tuple[str, bool]:
        """Describe the speed of plain transformers and check that the reference is at least as fast as the released code."""
        prompts = [p for task in self.plan.tasks for p in self.read(task, "fresh-1shot", 2)[:2]]
        plain, device = self.pair.plain, self.options.device

        @torch.inference_mode()
        def forward(kernel: str, **options: object) -> None:
            plain.set_attn_implementation(kernel)
            for p in prompts:
                plain(torch.from_numpy(p.ids)[None].to(device), use_cache=False, **options)

        runs = {
            "the reference (eager, matrices kept)": lambda: forward("eager", output_attentions=True),
            "eager": lambda: forward("eager"),
            "sdpa": lambda: forward("sdpa"),
        }
        seconds, _ = contest.contest(runs, self.clock, self.plan.repeats)
        rate = {name: len(prompts) / s for name, s in seconds.items()}
        summary = ", ".join(f"{name} {r:.2f}" for name, r in rate.items())
        summary = (
            f"forward passes a second, one prompt at a time, all logits ({contest.mean_length(prompts):.0f} tokens): {summary}"
        )
        if self.pair.title != "124M":
            return summary, True
        first, second = torch.randn(1024, 768), torch.randn(768, 3072)
        speed, _ = contest.contest({"product": lambda: [first @ second for _ in range(20)]}, self.clock, 5)
        product = 20 * 2 * 1024 * 768 * 3072 / speed["product"]
        share = min(1.0, product / IDLE)
        reached = {"forward": rate["the reference (eager, matrices kept)"]}
        if "saliency" in self.plain_pace:
            reached["saliency"] = 1 / statistics.mean(self.plain_pace["saliency"].values())
        valid = all(reached[name] >= RELEASED[name] * share for name in reached)
        limits = ", ".join(f"{name} {reached[name]:.2f} a second, wanted {RELEASED[name] * share:.2f}" for name in reached)
        summary += (
            f"; the reference against the released code, whose rate is scaled by {share:.2f} because a bare product runs at "
            f"{product / 1e9:.0f} GFLOP/s here and now: {limits}: {'valid' if valid else 'void'}"
        )
        return summary, valid


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    named = [name for name in PLANS if name != "checkpoint"]
    parser.add_argument("--models", nargs="+", choices=named, default=["embedded", "124M"])
    parser.add_argument("--model", type=Path, metavar="FOLDER", help="a checkpoint, in the place of --models")
    parser.add_argument("--rows", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall", help="cpu: CPU seconds, on a busy machine")
    parser.add_argument("--repeats", type=int, help="3 by default, of the 124M shape 1")
    parser.add_argument("--queries", type=int, help="prompts that share demonstrations, a seed and task")
    parser.add_argument("--whole", type=int, metavar="QUERIES", help="time Snakemake, too, with so many queries")
    parser.add_argument("--data", type=Path, help="a folder of the original files (sst2/, trec/, agnews/)")
    parser.add_argument("--tokenizer", type=Path, help="a folder with GPT-2's vocab.json and merges.txt")
    parser.add_argument("--threads", type=int, default=int(os.environ.get("OMP_NUM_THREADS", 0)) or torch.get_num_threads())
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no CUDA device here")
    if options.model:
        options.models = ["checkpoint"]
        print(f"checkpoint: {options.model.resolve().name}; {PLANS['checkpoint'].fresh} prompts of one seed per task")
    torch.set_num_threads(options.threads)
    machine = torch.cuda.get_device_name() if options.device == "cuda" else f"{options.threads} threads of {_processor()}"
    load = f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores" if hasattr(os, "getloadavg") else ""
    print(f"{date.today()}, {machine}, {load}; torch {torch.__version__}, transformers {transformers.__version__}")
    if options.device == "cpu":
        print(f"processor features: {', '.join(contest.features(_cpuinfo())) or 'unknown'}")
    rates = contest.rates(Clock(options.clock, options.device))
    summary = ", ".join(f"{matmul} {rate / 1e9:.0f} GFLOP/s (in {form})" for matmul, (form, rate) in rates.items())
    print(f"bare float32 products, 1024 x 768 x 3072: {summary}")
    print(f"clock: {options.clock}, sides in turn, medians")
    print(f"texts: {'the original files' if options.data else 'built in, AGNews texts joined by four for the larger models'}\n")
    cells: dict[tuple[str, str], str] = {}
    notes = []
    void = []
    for name in options.models:
        pair = _pair(name, options)
        plan = PLANS[name]
        if options.queries:
            plan = replace(plan, queries=options.queries)
        if options.repeats:
            plan = replace(plan, repeats=options.repeats)
        bench = Bench(pair, plan, options)
        for row in options.rows:
            if name in TARGETS[row][1]:
                measured = getattr(bench, row)()
                cells[name, row] = str(measured or "not measured")
                if measured and measured.difference > measured.tolerance:
                    void.append(f"{name}, {row}: the results differ")
        summary, valid = bench.context()
        notes.append(f"{name}: {summary}")
        if not valid:
            void.append(f"{name}: the plain reference is slower than the released code")
        del bench, pair
    print(f"| work, x plain, float32 | {' | '.join(f'{name}: wanted | measured' for name in options.models)} |")
    print("|---" * (1 + 2 * len(options.models)) + "|")
    for row in options.rows:
        title, targets = TARGETS[row]
        pairs = (f"{targets.get(name, '-')} | {cells.get((name, row), '-')}" for name in options.models)
        print(f"| {title} | {' | '.join(pairs)} |")
    print()
    for note in notes:
        print(f"- {note}")
    if void:
        sys.exit(f"\nVOID: {'; '.join(void)}")


def _pair(name: str, options: argparse.Namespace) -> Pair:
    if name == "checkpoint":
        return contest.checkpoint(options.model, options.device)
    small = contest.embedded(options.device)
    if name == "embedded":
        return small
    tokenizer = GPT2TokenizerFast.from_pretrained(options.tokenizer) if options.tokenizer else small.model.tokenizer
    return contest.random_gpt2(name, tokenizer, options.device)


def _cpuinfo() -> str:
    about = Path("/proc/cpuinfo")
    return about.read_text() if about.exists() else ""


def _processor() -> str:
    names = [line.partition(":")[2].strip() for line in _cpuinfo().splitlines() if "model name" in line]
    return names[0] if names else platform.processor()


if __name__ == "__main__":
    main()
