"""Memory of the studies in addition to the weights: counted and measured for saliency, and the largest model for a GPU.

    .venv/bin/python benchmarks/memory.py count [--shape XL] [--tokens 1000]
    .venv/bin/python benchmarks/memory.py measure [--shape 124M] [--tokens 1000]
    .venv/bin/python benchmarks/memory.py cards                          (Linux)

`count` runs one forward pass of one prompt on the device "meta", where tensors have shapes but no contents. It adds up the
tensors that autograd saves for the backward pass, each tensor once and without weights, for the plain reference and for
icl-lens. During the backward pass, each of the two also holds a few matrices of one layer: of size heads x tokens x tokens for
the reference, and of a bounded number of rows for icl-lens. The output lists them separately.

`measure` runs both computations, each in its own process. It reads the largest resident set (on CUDA, the largest allocation)
above the memory of the weights.

`cards` measures each study on two small models. It prints a table and explains how the numbers are derived.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import contest
import sides
import torch
from contest import SHAPES, Pair
from transformers import GPT2Config, GPT2LMHeadModel

from icl_lens.attention import flow_kernel
from icl_lens.attention.flow import flows
from icl_lens.network import activations
from icl_lens.network.vocabulary import restrict_tokens
from icl_lens.studies import registry
from icl_lens.studies.anchors.isolating import Settings as Isolation
from icl_lens.studies.anchors.latency.study import Settings as Latency
from icl_lens.studies.anchors.reweighting.study import Settings as Reweighting
from icl_lens.studies.anchors.saliency import compute as saliency
from icl_lens.studies.component_reweighting.decomposition import Decomposer, decompose

GIB = 2**30
WAYS = ("plain", "icl-lens")
STUDIES = (
    "icl",
    "saliency",
    "flow",
    "deep_attention",
    "isolation",
    "isolation, after the softmax",
    "compression",
    "latency",
    "reweighting",
    "kernel_regression",
    "prediction_similarity",
    "components",
)
_SETTINGS = {
    "isolation, after the softmax": Isolation(blocking="after_softmax"),
    "latency": Latency(prompts=1, repeats=1),
}
WIDTH, DEPTHS = 512, (4, 12)  # width and numbers of layers of the measured models
LABELS = 6  # number of label words, as in TREC


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["count", "measure", "one", "cards", "one-study"])
    parser.add_argument("--shape", choices=SHAPES)
    parser.add_argument("--tokens", type=int, default=1000)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--study", choices=(*STUDIES, "saliency, plain"), help=argparse.SUPPRESS)
    parser.add_argument("--depth", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.what == "count":
        _count(options.shape or "XL", options.tokens)
    elif options.what == "measure":
        _measure(options.shape or "124M", options.tokens, options.device)
    elif options.what == "one":
        print(json.dumps(_one(options.shape, options.tokens, options.way, options.device)))
    elif options.what == "one-study":
        print(json.dumps(_one_study(options.study, options.depth)))
    else:
        _cards()


def _network(shape: str, way: str, tokens: int, device: str) -> GPT2LMHeadModel:
    with torch.device(device):
        network = GPT2LMHeadModel(GPT2Config(**SHAPES[shape], n_positions=max(1024, tokens))).eval().requires_grad_(False)
    if way == "icl-lens":
        activations.fuse(network)
    return network


def _loss(network: GPT2LMHeadModel, way: str, tokens: int) -> tuple[torch.Tensor, tuple]:
    """Return the label words' summed logits, with their autograd graph, and the other tensors kept for the backward pass."""
    ids = (torch.arange(tokens, device=network.device) % 5000)[None]  # (1, T)
    labels = torch.arange(LABELS, device=network.device)
    # An explicit mask, because tensors on the device "meta" have no values from which a mask could be derived.
    mask = torch.full((tokens, tokens), torch.finfo(torch.float32).min, device=network.device).triu(1)[
        None, None
    ]  # (1, 1, T, T)
    if way == "plain":
        network.set_attn_implementation("eager")
        embeddings = network.get_input_embeddings()(ids).detach().requires_grad_()
        output = network(inputs_embeds=embeddings, attention_mask=mask, output_attentions=True, use_cache=False)
        return output.logits[0, -1, labels].sum(), tuple(output.attentions)
    with restrict_tokens(network, labels):
        return network(ids, attention_mask=mask, use_cache=False, logits_to_keep=1).logits.sum(), ()


def _count(shape: str, tokens: int) -> None:
    layers, heads = (SHAPES[shape][name] for name in ("n_layer", "n_head"))
    totals = {}
    for way in WAYS:
        network = _network(shape, way, tokens, "meta")
        weights = {p.untyped_storage()._cdata for p in network.parameters()}
        saved: dict[int, tuple[torch.Tensor, int]] = {}

        def pack(tensor: torch.Tensor, saved=saved, weights=weights) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage._cdata not in weights:
                saved[storage._cdata] = (tensor, storage.nbytes())
            return tensor

        hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
        rows = torch.full((1,), tokens - 1, device="meta")
        context = flows(network, lambda *_: None, rows=rows) if way == "icl-lens" else torch.enable_grad()
        with hooks, context:
            _loss(network, way, tokens)
        totals[way] = sum(size for _, size in saved.values())
    matrix = 4 * heads * tokens**2
    rows = min(heads * tokens**2, max(flow_kernel._ELEMENTS_DEFAULT, heads * tokens))
    logits = 4 * tokens * 50257
    # Plain: the gradients of the matrices of all layers, which are requested together, three temporary matrices of one layer,
    # and the logits of all positions with their gradient. icl-lens: four matrices of some rows, and flow, mean and mask.
    peak = {"plain": (layers + 3) * matrix + 2 * logits, "icl-lens": 4 * 4 * rows + 3 * 4 * tokens**2}
    print(f"saliency of one prompt of {tokens} tokens, GPT-2 of {shape} shape ({layers} layers, {heads} heads), float32\n")
    print("| | saved for the backward pass | peak allocated in the backward pass | total |")
    print("|---|---|---|---|")
    for way in WAYS:
        print(
            f"| {way} | {totals[way] / GIB:.2f} GiB | {peak[way] / GIB:.2f} GiB | {(totals[way] + peak[way]) / GIB:.2f} GiB |"
        )
    activation_bytes = {"plain": totals["plain"] - layers * matrix, "icl-lens": totals["icl-lens"]}
    unit = 4 * SHAPES[shape]["n_embd"] * tokens * layers
    print("\nsaved in units of width x tokens x layers, without one attention matrix per layer: ", end="")
    print(", ".join(f"{way} {size / unit:.1f}" for way, size in activation_bytes.items()))
    sums = [totals[way] + peak[way] for way in WAYS]
    print(f"\nicl-lens / plain: {sums[1] / sums[0]:.3f}; target: at most 0.333")


def _measure(shape: str, tokens: int, device: str) -> None:
    print(f"saliency of one prompt of {tokens} tokens, GPT-2 of {shape} shape, float32, {device}, one process per row\n")
    print("| | peak above the weights |")
    print("|---|---|")
    peaks = {}
    for way in WAYS:
        arguments = ["one", "--shape", shape, "--tokens", str(tokens), "--way", way, "--device", device]
        process = subprocess.run([sys.executable, __file__, *arguments], check=True, capture_output=True, text=True)
        peaks[way] = json.loads(process.stdout.splitlines()[-1])
        print(f"| {way} | {peaks[way] / 2**20:.0f} MiB |")
    print(f"\nicl-lens / plain: {peaks['icl-lens'] / peaks['plain']:.3f}")


def _one(shape: str, tokens: int, way: str, device: str) -> int:
    network = _network(shape, way, tokens, device)

    def run_once(length: int) -> None:
        if way == "plain":
            loss, matrices = _loss(network, way, length)
            gradients = torch.autograd.grad(loss, matrices)
            for weights, gradient in zip(matrices, gradients, strict=True):
                (weights[0] * gradient[0]).sum(0).abs().double().sum()
        else:
            rows = torch.tensor([length - 1], device=device)
            with flows(network, lambda layer, flow, mean: flow.sum(dtype=torch.float64), rows=rows):
                _loss(network, way, length)[0].backward()

    run_once(16)  # warm-up, so that the libraries allocate their own memory
    return _peak(lambda: run_once(tokens), device)


def _study(name: str, pair: Pair) -> Callable[[], object]:
    """Return a function that runs one study with its defaults on two prompts of about a thousand tokens, one at a time."""
    plain = name.endswith(", plain")
    shots = "fresh-7shot" if name.startswith(("icl", "saliency", "flow")) else "shared-7shot"
    prompts = contest.tokenized(pair, "trec", shots, 2)
    settings = _SETTINGS.get(name)
    if name == "components":
        return lambda: decompose(pair.model, Decomposer(pair.model.network), prompts, 1)
    if name == "reweighting":
        auxiliary = contest.tokenized(pair, "trec", f"{shots}-auxiliary", 4)
        return lambda: sides.fast_reweighting(pair, prompts, auxiliary, 1, Reweighting(epochs=1))
    if plain:
        return lambda: sides.plain_saliency(pair, prompts)
    study = import_module(registry.study(name.partition(",")[0]).module)
    return lambda: study.compute(pair.model, prompts, 1, **({"settings": settings} if settings else {}))


def _one_study(name: str, depth: int) -> dict[str, float]:
    """Return the largest growth of the resident set in bytes and the mean number of tokens per prompt."""
    small = contest.embedded("cpu")
    shape = {"n_embd": WIDTH, "n_layer": depth, "n_head": WIDTH // 64}
    pair = contest.random_gpt2("cards", small.model.tokenizer, "cpu", GPT2Config(**shape, n_positions=2048))
    prompts = contest.tokenized(pair, "trec", "fresh-7shot", 2)
    run = _study(name, pair)
    warm_up_prompts = contest.tokenized(pair, "trec", "fresh-1shot", 1)
    saliency.compute(pair.model, warm_up_prompts, 1)  # warm-up, so that the libraries allocate their own memory
    return {"bytes": _peak(run), "tokens": contest.mean_length(prompts)}


def _peak(run: Callable[[], object], device: str = "cpu") -> int:
    """Return the largest growth in bytes of the resident set (Linux) or of the CUDA allocation while ``run`` runs."""
    gc.collect()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    Path("/proc/self/clear_refs").write_text("5")  # reset the recorded maximum
    before = _status("VmRSS")
    run()
    return _status("VmHWM") - before


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(field)).split()[1])


def _cards() -> None:
    """Print the largest GPT-2-like model (d = 64 heads, depth 0.03 d) that fits a GPU with weights and one prompt's study."""
    shallow, deep = DEPTHS
    print(
        f"""Measured on a CPU in float32, one process per row: the peak resident set above the weights while a study
runs on two prompts, one at a time, with random GPT-2 models of width {WIDTH} and {shallow} or {deep} layers.
These two values give a and k in the memory b d T (a + k L) in bytes, where b is the size of a number (4, or 2
in half precision), d the width, T the number of tokens and L the number of layers. The table shows the
largest model of depth 0.03 d, with 12 L d^2 + 50257 d parameters, that fits with this memory for 1,000
tokens and 1 GiB for the libraries (for saliency and the information flow on a GPU, also 1.25 GiB for the
matrix rows that are computed at a time).
"""
    )
    print("| study | tokens | a | k | 24 GB, float32 | 24 GB, half | 80 GB, float32 | 80 GB, half |")
    print("|---|---|---|---|---|---|---|---|")
    for name in (*STUDIES, "saliency, plain"):
        found = {}
        for depth in DEPTHS:
            arguments = [sys.executable, __file__, "one-study", "--study", name, "--depth", str(depth)]
            # Freed memory returns to the system at once, so that the resident set excludes free gaps in the heap.
            process = subprocess.run(
                arguments, check=True, capture_output=True, text=True, env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
            )
            found[depth] = json.loads(process.stdout.splitlines()[-1])
        tokens = found[deep]["tokens"]
        units = {depth: result["bytes"] / (4 * WIDTH * tokens) for depth, result in found.items()}
        k = max(0.0, (units[deep] - units[shallow]) / (deep - shallow))
        a = max(0.0, units[shallow] - k * shallow)
        extra = 1.25 * GIB if name in ("saliency", "flow") else 0.0
        cells = [f"{_largest(a, k, extra, card, b) / 1e9:.1f} billion" for card in (24e9, 80e9) for b in (4, 2)]
        print(f"| {name.replace('_', ' ')} | {tokens:.0f} | {a:.0f} | {k:.1f} | {' | '.join(cells)} |", flush=True)


def _largest(a: float, k: float, extra: float, card: float, b: int, tokens: int = 1000) -> float:
    best = 0.0
    for d in range(64, 20000, 64):
        depth = round(0.03 * d)
        parameters = 12 * depth * d * d + 50257 * d
        if b * parameters + b * d * tokens * (a + k * depth) + extra + GIB <= card:
            best = parameters
    return best


if __name__ == "__main__":
    main()
