"""Shared code of the benchmarks: two models with the same weights, prompts of a given length, and a clock.

A contest runs its sides in turn (A B A B) after one warm-up each. The result of each side is the median of its times. The
callers compare the results of the warm-ups: a contest is valid only if they are equal.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # the value that the command line sets

import numpy as np
import pandas as pd
import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, PreTrainedModel, PreTrainedTokenizerBase
from transformers.pytorch_utils import Conv1D

from icl_lens.config.keys import EMBEDDED_MODEL
from icl_lens.corpora import builtin, files
from icl_lens.models import batching, loading
from icl_lens.models.language_model import LanguageModel
from icl_lens.network import activations, precision
from icl_lens.prompts import protocol
from icl_lens.prompts.positions import TokenizedPrompt, tokenize
from icl_lens.tasks.task import TASKS

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the plain references are part of the tests

SHAPES = {
    "124M": {"n_embd": 768, "n_layer": 12, "n_head": 12},
    "XL": {"n_embd": 1600, "n_layer": 48, "n_head": 25},
}

# The built-in texts are shorter than the texts of the data sets. This number of texts of one label, joined to one text, gives
# prompts of similar length (SST-2 71, TREC 131, AGNews 291 tokens with GPT-2's tokenizer: 165 on average).
LONG_AS_REAL = {"sst2": 1, "trec": 1, "agnews": 4, "emoc": 1}

_FILES = {
    "sst2": ("train.tsv", "dev.tsv"),
    "trec": ("train_5500.label", "TREC_10.label"),
    "agnews": ("train_subset.csv", "test.csv"),
}


@dataclass(frozen=True)
class Pair:
    """A model as icl-lens runs it, and a transformers model with the same weights for the plain side."""

    title: str
    model: LanguageModel
    plain: PreTrainedModel


def embedded(device: str) -> Pair:
    """Load the embedded model."""
    model = loading.load(EMBEDDED_MODEL, device=device)
    plain = AutoModelForCausalLM.from_pretrained(EMBEDDED_MODEL, dtype=torch.float32).to(device)
    return Pair("embedded", model, plain.eval().requires_grad_(False))


def checkpoint(folder: Path, device: str) -> Pair:
    """Load a model from a folder."""
    model = loading.load(folder, device=device)
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).to(device)
    return Pair("checkpoint", model, plain.eval().requires_grad_(False))


def random_gpt2(shape: str, tokenizer: PreTrainedTokenizerBase, device: str, config: GPT2Config | None = None) -> Pair:
    """Create a GPT-2 with random weights on the device, from one of :data:`SHAPES` or from a config."""
    config = config or GPT2Config(**SHAPES[shape])
    torch.manual_seed(0)
    with torch.device(device):
        plain, network = (GPT2LMHeadModel(config).eval().requires_grad_(False) for _ in range(2))
    network.load_state_dict(plain.state_dict())
    activations.fuse(network)
    return Pair(shape, LanguageModel(shape, network, tokenizer, "float32", {}), plain)


def tokenized(
    pair: Pair, task: str, prompt_set: str, count: int, data: Path | None = None, long: bool = False, seeds: tuple = (42,)
) -> list[TokenizedPrompt]:
    """Return tokenized prompts of one task, ``count`` per seed.

    The texts come from the original files under ``data``, or else from the built-in corpus. With ``long``, built-in texts are
    joined so that they are about as long as the original ones.
    """
    table = prompts_table(task, prompt_set, count, data, long, seeds)
    return batching.fitting(pair.model, tokenize(table, pair.model.tokenizer))


def prompts_table(
    task: str, prompt_set: str, count: int, data: Path | None = None, long: bool = False, seeds: tuple = (42,)
) -> pd.DataFrame:
    """Return the prompts table of one task, see :func:`tokenized`."""
    return protocol.build(TASKS[task], _corpus(task, data, long), prompt_set, list(seeds), count)


@cache
def _corpus(task: str, data: Path | None, long: bool) -> pd.DataFrame:
    if data and task in _FILES:
        return files.read(task, *(data / task / name for name in _FILES[task]))
    corpus = builtin.generate(task, 0)
    return _joined(corpus, LONG_AS_REAL[task]) if long and LONG_AS_REAL[task] > 1 else corpus


def _joined(corpus: pd.DataFrame, times: int) -> pd.DataFrame:
    """Join each ``times`` consecutive texts of one split and label to one text."""
    rows = []
    for (split, label), part in corpus.groupby(["split", "label"]):
        texts = part["text"].tolist()
        starts = range(0, len(texts) - times + 1, times)
        rows += [{"split": split, "label": label, "text": " ".join(texts[i : i + times])} for i in starts]
    frame = pd.DataFrame(rows)
    return frame.assign(index=frame.groupby("split").cumcount())


def mean_length(prompts: list[TokenizedPrompt]) -> float:
    return statistics.mean(len(p.ids) for p in prompts)


@dataclass(frozen=True)
class Clock:
    """A clock that measures wall seconds, or CPU seconds of this process (all its threads).

    Other processes on the machine do not affect the CPU seconds.
    """

    kind: str
    device: str

    def now(self) -> float:
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() if self.kind == "wall" else time.process_time()


def contest(runs: Mapping[str, Callable], clock: Clock, repeats: int) -> tuple[dict[str, float], dict[str, object]]:
    """Run the sides in turn and return the median seconds of each side and its result from the warm-up."""
    results = {side: run() for side, run in runs.items()}
    seconds: dict[str, list[float]] = {side: [] for side in runs}
    for _ in range(repeats):
        for side, run in runs.items():
            start = clock.now()
            run()
            seconds[side].append(clock.now() - start)
    return {side: statistics.median(times) for side, times in seconds.items()}, results


# The processor features that determine the speed of float32 products, with their Linux names on x86 and ARM.
FEATURES = ("avx2", "avx512f", "avx512_bf16", "amx_tile", "amx_bf16", "asimd", "bf16")


def features(cpuinfo: str) -> list[str]:
    """Return the :data:`FEATURES` that a processor has, from the text of /proc/cpuinfo."""
    flags = {
        flag
        for line in cpuinfo.splitlines()
        if line.partition(":")[0].strip().lower() in ("flags", "features")
        for flag in line.partition(":")[2].split()
    }
    return [name for name in FEATURES if name in flags]


def rates(clock: Clock, repeats: int = 5) -> dict[str, tuple[str, float]]:
    """Return the format and the operations per second of bare products on the device, for exact and for fast products.

    The format is the one in which the device computes the products. The product is 1024 x 768 x 3072, as in a feed-forward
    layer of the 124M shape.
    """
    device = torch.device(clock.device)
    first, second = torch.randn(1024, 768, device=device), torch.randn(768, 3072, device=device)
    found, formats = {}, {}

    def run(matmul: str) -> Callable[[], None]:
        def products() -> None:
            with precision.products(matmul, device) as formats[matmul]:
                for _ in range(20):
                    first @ second

        return products

    seconds, _ = contest({matmul: run(matmul) for matmul in ("exact", "fast")}, clock, repeats)
    for matmul, each in seconds.items():
        found[matmul] = formats[matmul], 20 * 2 * 1024 * 768 * 3072 / each
    return found


def relative_difference(found: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest absolute difference as a share of the largest absolute expected value."""
    found, expected = np.asarray(found, dtype=float), np.asarray(expected, dtype=float)
    assert found.shape == expected.shape, f"{found.shape} against {expected.shape}"
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@torch.inference_mode()
def products(network: PreTrainedModel, tokens: int, batch: int = 1) -> tuple[Callable[[], None], float]:
    """Return the bare products of a forward pass over prompts of one length, and their number of operations.

    The products use the model's own matrices. They are the products of the linear layers, of the attention scores and outputs,
    and of one row per prompt with the vocabulary matrix.
    """
    device, dtype = network.device, network.dtype
    pairs = []
    for module in network.modules():
        if module is network.get_output_embeddings():
            pairs.append((torch.randn(batch, module.in_features, device=device, dtype=dtype), module.weight.t()))
        elif isinstance(module, Conv1D):
            pairs.append((torch.randn(batch * tokens, module.weight.shape[0], device=device, dtype=dtype), module.weight))
        elif isinstance(module, torch.nn.Linear):
            pairs.append((torch.randn(batch * tokens, module.in_features, device=device, dtype=dtype), module.weight.t()))
    shape = network.config.get_text_config()
    heads = shape.num_attention_heads
    width = shape.hidden_size // heads
    queries, scores = (torch.randn(batch * heads, tokens, n, device=device, dtype=dtype) for n in (width, tokens))
    for _ in range(shape.num_hidden_layers):
        pairs += [(queries, queries.transpose(1, 2)), (scores, queries)]
    outputs = [torch.matmul(a, b) for a, b in pairs]
    operations = sum(2 * out.numel() * a.shape[-1] for out, (a, _) in zip(outputs, pairs, strict=True))

    def run() -> None:
        for (a, b), out in zip(pairs, outputs, strict=True):
            torch.matmul(a, b, out=out)

    return torch.inference_mode()(run), float(operations)
