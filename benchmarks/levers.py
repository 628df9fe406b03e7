"""Speed of the saliency study in prompts per second, with all optimizations and with each one disabled in turn.

.venv/bin/python benchmarks/levers.py [--models embedded 124M] [--repeats N] [--clock cpu]
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from unittest import mock

import contest
import sides
import torch
from contest import Clock, Pair
from table import PLANS, TASKS
from torch import nn

from icl_lens.attention import flow_kernel
from icl_lens.models.batching import Batch
from icl_lens.network import vocabulary


@contextmanager
def _full_last_layer(pair: Pair) -> Iterator[None]:
    with mock.patch.dict(pair.model.__dict__, supports_single_row=False):
        yield


def _masked(pair: Pair) -> mock._patch:
    original = Batch.inputs
    return mock.patch.object(Batch, "inputs", lambda self: {**original(self), "attention_mask": self.mask})


def _all_logits(pair: Pair) -> mock._patch:
    return mock.patch.object(vocabulary, "restrict_tokens", return_value=nullcontext(False))


def _fused_forward(pair: Pair) -> mock._patch:
    original = flow_kernel._Attention.forward

    def forward(ctx, query, key, value, mask, root, scale, softcap, sink, with_weights):
        ctx.save_for_backward(query, key, value, mask)
        ctx.options = scale, softcap, sink, with_weights
        if softcap is not None or key.shape[-1] != value.shape[-1]:
            return original(ctx, query, key, value, mask, root, scale, softcap, sink, with_weights)
        repeated = (flow_kernel._repeat_heads(x, query.shape[1] // key.shape[1]) for x in (key, value))
        return nn.functional.scaled_dot_product_attention(query, *repeated, attn_mask=mask, scale=scale)

    return mock.patch.object(flow_kernel._Attention, "forward", staticmethod(forward))


ABLATIONS = {
    "all levers": lambda pair: nullcontext(),
    "the last layer at every position": _full_last_layer,
    "a mask over the padding": _masked,
    "attention forward by torch's fused kernel": _fused_forward,
    "all logits at the last position": _all_logits,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=PLANS, default=["embedded", "124M"])
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=int(os.environ.get("OMP_NUM_THREADS", 0)) or torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    clock = Clock(options.clock, "cpu")
    print(f"saliency, prompts per second; {options.clock} clock, {options.threads} threads, median of {options.repeats}\n")
    print(f"| model | task | {' | '.join(ABLATIONS)} |\n|---|---{'|---' * len(ABLATIONS)}|")
    for name in options.models:
        small = contest.embedded("cpu")
        pair = small if name == "embedded" else contest.random_gpt2(name, small.model.tokenizer, "cpu")
        for task in TASKS:
            prompts = contest.tokenized(pair, task, "fresh-1shot", PLANS[name].few_fresh, None, name != "embedded")

            def run(ablation, pair=pair, prompts=prompts, budget=PLANS[name].budget) -> None:
                with ablation(pair):
                    sides.fast_saliency(pair, prompts, budget)

            seconds, _ = contest.contest(
                {title: lambda ablation=ablation, run=run: run(ablation) for title, ablation in ABLATIONS.items()},
                clock,
                options.repeats,
            )
            rates = [len(prompts) / s for s in seconds.values()]
            print(f"| {name} | {task} | {' | '.join(f'{rate:.3g}' for rate in rates)} |", flush=True)


if __name__ == "__main__":
    main()
