"""Numerical difference between two ways to compute the same result, per model family: a Markdown table, float32, CPU.

    .venv/bin/python benchmarks/families.py [FAMILY ...]

Tiny random models (tests/families.py) run on AGNews-like prompts. Some of the prompts share their demonstrations. Each number
is the largest difference as a share of the largest value:

    batch     last logits of padded batches against last logits of each prompt alone
    prefix    last logits after a shared prefix against last logits of each prompt alone
    blocked   last logits with label words isolated in the first and last layer: fused kernel against explicit computation
    rows      one recorded row of attention weights per prompt and layer against the same row of transformers' eager attention
    saliency  S_wp, S_pq and S_ww (the worst of them) against the plain reference in tests/reference/saliency.py
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from icl_lens.attention.block import block
from icl_lens.attention.record import record, record_rows
from icl_lens.attention.supported import require_supported
from icl_lens.models import batching
from icl_lens.models.language_model import LanguageModel
from icl_lens.models.logits import last_logits
from icl_lens.prompts.positions import TokenizedPrompt, tokenize
from icl_lens.studies.anchors.saliency import compute as saliency

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.conftest import byte_level
from tests.families import FAMILIES, tiny
from tests.prompts_table import shared_table
from tests.reference.saliency import saliency as reference

BUDGET = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("families", nargs="*", default=list(FAMILIES), metavar="FAMILY", help=f"of {', '.join(FAMILIES)}")
    families = parser.parse_args().families
    unknown = [family for family in families if family not in FAMILIES]
    if unknown:
        parser.error(f"no such family: {', '.join(unknown)}")
    tokenizer = byte_level()
    prompts = tokenize(shared_table("agnews", count=8), tokenizer)
    print("| family | kernel | batch | prefix | blocked | rows | saliency |")
    print("|---|---|---|---|---|---|---|")
    for family in families:
        network = tiny(family, len(tokenizer))
        model = LanguageModel(name=family, network=network, tokenizer=tokenizer, dtype="float32", facts={})
        require_supported(network)
        assert model.shares_prefixes
        kernel = network.config.get_text_config()._attn_implementation
        differences = (_batch(model, prompts), _prefix(model, prompts), _blocked(model, prompts), _rows(model, prompts))
        print(f"| {family} | {kernel} | " + " | ".join(f"{d:.0e}" for d in (*differences, _saliency(model, prompts))) + " |")


def _difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found - expected).abs().max() / expected.abs().max()).item()


@torch.inference_mode()
def _logits(model: LanguageModel, prompts: list[TokenizedPrompt], batches: Iterable[batching.Batch]) -> torch.Tensor:
    """Return the last logits in the order of the prompts, shape (N, V)."""
    rows = torch.full((len(prompts), len(model.tokenizer)), torch.nan)
    for batch in batches:
        rows[batch.index] = last_logits(model, batch)
    return rows


@torch.inference_mode()
def _one_by_one(model: LanguageModel, prompts: list[TokenizedPrompt]) -> torch.Tensor:
    return torch.stack([model.network(torch.from_numpy(p.ids)[None], use_cache=False).logits[0, -1] for p in prompts])


def _batch(model: LanguageModel, prompts: list[TokenizedPrompt]) -> float:
    return _difference(_logits(model, prompts, batching.batches(model, prompts, BUDGET)), _one_by_one(model, prompts))


def _prefix(model: LanguageModel, prompts: list[TokenizedPrompt]) -> float:
    return _difference(_logits(model, prompts, batching.shared_batches(model, prompts, BUDGET)), _one_by_one(model, prompts))


@torch.inference_mode()
def _blocked(model: LanguageModel, prompts: list[TokenizedPrompt]) -> float:
    worst = 0.0
    for batch in batching.batches(model, prompts, BUDGET):
        keys = batch.mask.shape[1]
        edges = torch.zeros(len(batch.index), keys, keys, dtype=torch.bool)
        for row, i in enumerate(batch.index):
            for anchor in prompts[i].anchors:
                edges[row, anchor, :anchor] = True
        with block(model.network, {0: edges, model.layers - 1: edges}):
            fused = last_logits(model, batch)
            with record(model.network):
                explicit = last_logits(model, batch)
        worst = max(worst, _difference(fused, explicit))
    return worst


@torch.inference_mode()
def _rows(model: LanguageModel, prompts: list[TokenizedPrompt]) -> float:
    found = []
    for batch in batching.batches(model, prompts, BUDGET):
        with record_rows(model.network, batch.last) as rows:
            last_logits(model, batch)
        found.append((batch, rows))
    kernel = model.network.config.get_text_config()._attn_implementation
    model.network.set_attn_implementation("eager")
    worst = 0.0
    for batch, rows in found:
        matrices = model.network(**batch.inputs(), output_attentions=True).attentions
        for layer, matrix in enumerate(matrices):
            worst = max(worst, _difference(rows[layer], matrix[range(len(batch.index)), :, batch.last]))
    model.network.set_attn_implementation(kernel)
    return worst


def _saliency(model: LanguageModel, prompts: list[TokenizedPrompt]) -> float:
    rows = saliency.compute(model, prompts, BUDGET)
    plain = np.stack(
        [reference(model.network, p.ids.tolist(), p.anchors.tolist(), p.label_ids.tolist(), p.gold) for p in prompts], axis=1
    )  # (3, N, L)
    found = [rows[metric].to_numpy().reshape(len(prompts), -1) for metric in saliency.METRICS]
    return max(np.abs(actual - expected).max() / expected.max() for actual, expected in zip(found, plain, strict=True))


if __name__ == "__main__":
    main()
