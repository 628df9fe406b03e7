"""Memory of the studies beside the weights: saliency counted and measured, and the largest model that a card takes.

    .venv/bin/python benchmarks/memory.py count [--shape XL] [--tokens 1000]
    .venv/bin/python benchmarks/memory.py measure [--shape 124M] [--tokens 1000]
    .venv/bin/python benchmarks/memory.py cards

`count` runs one forward pass of one prompt on the device "meta", where tensors have shapes and no contents, and adds up what
autograd saves for the way back, each tensor once and no weights, for the plain reference and for icl-lens. On the way back
each holds besides it a few matrices of one layer: of heads x tokens x tokens for the reference, of a bounded number of rows for
icl-lens; they are stated. `measure` runs both for real, in a process each, and reads the largest resident set (on CUDA the
largest allocation) above what the weights take. `cards` is a formula, printed with its table.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys

import contest
import torch
from contest import SHAPES
from transformers import GPT2Config, GPT2LMHeadModel

from icl_lens import activations, attention, flow_kernel
from icl_lens.vocabulary import only

GIB = 2**30
WAYS = ("plain", "icl-lens")
# Numbers of float32 that autograd keeps a token and layer, in units of the width, matrices left out.
KEPT, KEPT_PLAIN = 9, 21
LABELS = 6  # label words, those of TREC


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["count", "measure", "one", "cards"])
    parser.add_argument("--shape", choices=SHAPES)
    parser.add_argument("--tokens", type=int, default=1000)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.what == "count":
        _count(options.shape or "XL", options.tokens)
    elif options.what == "measure":
        _measure(options.shape or "124M", options.tokens, options.device)
    elif options.what == "one":
        print(json.dumps(_one(options.shape, options.tokens, options.way, options.device)))
    else:
        _cards(options.tokens)


def _network(shape: str, way: str, tokens: int, device: str) -> GPT2LMHeadModel:
    with torch.device(device):
        network = GPT2LMHeadModel(GPT2Config(**SHAPES[shape], n_positions=max(1024, tokens))).eval().requires_grad_(False)
    if way == "icl-lens":
        activations.fuse(network)
    return network


def _loss(network: GPT2LMHeadModel, way: str, tokens: int) -> tuple[torch.Tensor, tuple]:
    """The label words' summed logits, with a graph behind them, and what else is alive until the way back."""
    ids = (torch.arange(tokens, device=network.device) % 5000)[None]  # (1, T)
    labels = torch.arange(LABELS, device=network.device)
    # Said in full, for on the device "meta" nothing can be read off a mask of tokens.
    mask = torch.full((tokens, tokens), torch.finfo(torch.float32).min, device=network.device).triu(1)[
        None, None
    ]  # (1, 1, T, T)
    if way == "plain":
        network.set_attn_implementation("eager")
        embeddings = network.get_input_embeddings()(ids).detach().requires_grad_()
        output = network(inputs_embeds=embeddings, attention_mask=mask, output_attentions=True, use_cache=False)
        return output.logits[0, -1, labels].sum(), tuple(output.attentions)
    with only(network, labels):
        return network(ids, attention_mask=mask, use_cache=False, logits_to_keep=1).logits.sum(), ()


def _count(shape: str, tokens: int) -> None:
    layers, heads = (SHAPES[shape][name] for name in ("n_layer", "n_head"))
    held = {}
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
        flows = attention.flows(network, lambda *_: None) if way == "icl-lens" else torch.enable_grad()
        with hooks, flows:
            _loss(network, way, tokens)
        held[way] = sum(size for _, size in saved.values())
    matrix = 4 * heads * tokens**2
    rows = min(heads * tokens**2, max(flow_kernel._ELEMENTS_ELSEWHERE, heads * tokens))
    logits = 4 * tokens * 50257
    # Plain: the gradients of all layers' matrices, which are asked for together, and three at work in one layer; the logits of
    # all positions and their gradient. icl-lens: four matrices of some rows, and flow, mean and mask.
    back = {"plain": (layers + 3) * matrix + 2 * logits, "icl-lens": 4 * 4 * rows + 3 * 4 * tokens**2}
    print(f"saliency of one prompt of {tokens} tokens, GPT-2 of {shape} shape ({layers} layers, {heads} heads), float32\n")
    print("| | saved for the way back | made on the way back, at most | together |")
    print("|---|---|---|---|")
    for way in WAYS:
        print(f"| {way} | {held[way] / GIB:.2f} GiB | {back[way] / GIB:.2f} GiB | {(held[way] + back[way]) / GIB:.2f} GiB |")
    activations_alone = {"plain": held["plain"] - layers * matrix, "icl-lens": held["icl-lens"]}
    unit = 4 * SHAPES[shape]["n_embd"] * tokens * layers
    print("\nsaved in units of width x tokens x layers, one matrix a layer left out: ", end="")
    print(", ".join(f"{way} {size / unit:.1f}" for way, size in activations_alone.items()))
    whole = [held[way] + back[way] for way in WAYS]
    print(f"\nicl-lens / plain: {whole[1] / whole[0]:.3f}; wanted: at most 0.333")


def _measure(shape: str, tokens: int, device: str) -> None:
    print(f"saliency of one prompt of {tokens} tokens, GPT-2 of {shape} shape, float32, {device}, a process each\n")
    print("| | largest above the weights |")
    print("|---|---|")
    peaks = {}
    for way in WAYS:
        asked = ["one", "--shape", shape, "--tokens", str(tokens), "--way", way, "--device", device]
        done = subprocess.run([sys.executable, __file__, *asked], check=True, capture_output=True, text=True)
        peaks[way] = json.loads(done.stdout.splitlines()[-1])
        print(f"| {way} | {peaks[way] / 2**20:.0f} MiB |")
    print(f"\nicl-lens / plain: {peaks['icl-lens'] / peaks['plain']:.3f}")


def _one(shape: str, tokens: int, way: str, device: str) -> int:
    network = _network(shape, way, tokens, device)

    def once(length: int) -> None:
        if way == "plain":
            loss, matrices = _loss(network, way, length)
            gradients = torch.autograd.grad(loss, matrices)
            for weights, gradient in zip(matrices, gradients, strict=True):
                (weights[0] * gradient[0]).sum(0).abs().double().sum()
        else:
            with attention.flows(network, lambda layer, flow, mean: flow.sum(dtype=torch.float64)):
                _loss(network, way, length)[0].backward()

    once(16)  # libraries make their own room
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        once(tokens)
        return torch.cuda.max_memory_allocated() - before
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    once(tokens)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024


def _cards(tokens: int) -> None:
    """The largest GPT-2-like model (d = 64 heads, depth 0.03 d) whose weights and one prompt's activations fit."""
    print(
        f"""One prompt of T = {tokens} tokens; a model of width d has d / 64 heads, L = 0.03 d layers and P = 12 L d^2 + 50257 d
parameters. Bytes: b P for the weights (b: 4 in float32, 2 in half precision), 1 GiB for the libraries, and

- saliency: {KEPT} b d T L, which autograd keeps (`count` says so), and 1.25 GiB of rows of matrices;
- saliency, plain: {KEPT_PLAIN} b d T L, the steps of GELU among it, and 2 b (d / 64) T^2 L: weights and gradients;
- every other study (no gradient; keys and values are kept): b (2 d T L + 12 d T + 50257).
"""
    )
    print("| study | 24 GB, float32 | 24 GB, half | 80 GB, float32 | 80 GB, half |")
    print("|---|---|---|---|---|")
    for title, needs in (("saliency", _saliency), ("saliency, plain", _plain), ("every other study", _forward)):
        cells = [f"{_largest(needs, card, b, tokens) / 1e9:.1f} billion" for card in (24e9, 80e9) for b in (4, 2)]
        print(f"| {title} | {' | '.join(cells)} |")


def _saliency(d: float, depth: float, t: int, b: int) -> float:
    return b * KEPT * d * t * depth + 1.25 * GIB


def _plain(d: float, depth: float, t: int, b: int) -> float:
    return b * (KEPT_PLAIN * d * t * depth + 2 * d / 64 * t * t * depth)


def _forward(d: float, depth: float, t: int, b: int) -> float:
    return b * (2 * d * t * depth + 12 * d * t + 50257)


def _largest(needs, card: float, b: int, tokens: int) -> float:
    best = 0.0
    for d in range(64, 20000, 64):
        depth = round(0.03 * d)
        parameters = 12 * depth * d * d + 50257 * d
        if b * parameters + needs(d, depth, tokens, b) + GIB <= card:
            best = parameters
    return best


if __name__ == "__main__":
    assert contest.SHAPES is SHAPES
    main()
