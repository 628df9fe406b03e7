"""Difference of isolation and deep attention from their plain references, per family: a Markdown table, float32, CPU.

    .venv/bin/python benchmarks/hypotheses.py [FAMILY ...]

Tiny random models (tests/families.py) run on AGNews-like prompts. Some of the prompts share their demonstrations. Except for
counts, each number is the largest difference as a share of the largest value:

    before, after    last logits with positions isolated in the first and last 1 and 2 layers, for each target, blocked before
                     and after the softmax; in brackets, the largest difference that the isolation causes
    deep             attention from the last position to the label words of each class, for each layer
    rows             number of rows of the isolation table for both ways of blocking, and the number of rows with a prediction
                     or overlap that differs from the reference
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch

from icl_lens.models.batching import group_by_prefix
from icl_lens.models.language_model import LanguageModel
from icl_lens.prompts.positions import TokenizedPrompt, tokenize
from icl_lens.statistics.attention_auc import attention_scores
from icl_lens.studies.anchors import isolated_runs, isolating
from icl_lens.studies.anchors.deep_attention import compute as deep_attention
from icl_lens.studies.anchors.isolated_positions import fixed_positions, random_positions
from icl_lens.studies.anchors.isolating import TARGETS, Settings
from icl_lens.studies.anchors.isolation import compute as isolation

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.conftest import byte_level
from tests.families import FAMILIES, tiny
from tests.prompts_table import shared_table
from tests.reference.deep_attention import class_attention
from tests.reference.isolation import isolated_logits, jaccard

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
    print("| family | before | after | deep | rows | rows that differ |")
    print("|---|---|---|---|---|---|")
    for family in families:
        model = LanguageModel(family, tiny(family, len(tokenizer)), tokenizer, "float32", {})
        reference = LanguageModel(family, tiny(family, len(tokenizer)), tokenizer, "float32", {})
        cells, rows, differing = [], 0, 0
        for blocking in ("before_softmax", "after_softmax"):
            settings = Settings(targets=list(TARGETS), layers=[1, 2], draws=2, blocking=blocking)
            difference, effect, compared, unequal = _isolation(model, reference, prompts, settings)
            cells.append(f"{difference:.0e} ({effect:.0e})")
            rows, differing = rows + compared, differing + unequal
        cells.append(f"{_deep(model, reference, prompts):.0e}")
        print(f"| {family} | {' | '.join(cells)} | {rows} | {differing} |")


@torch.inference_mode()
def _isolation(
    model: LanguageModel, reference: LanguageModel, prompts: list[TokenizedPrompt], settings: Settings
) -> tuple[float, float, int, int]:
    """Return the largest difference of logits, the largest effect, and the numbers of compared and of differing rows."""
    table = isolation.compute(model, prompts, BUDGET, settings=settings)
    actual = table[["prediction", "word_jaccard_5", "word_jaccard_10"]].to_numpy(dtype=float)
    planned = isolating.conditions(settings, model.layers)
    actual = actual.reshape(len(prompts), len(planned), 3)
    difference = effect = largest = 0.0
    unequal = 0
    plain = [isolated_logits(reference.network, p.ids.tolist(), [], [], settings.blocking)[0] for p in prompts]
    for number, (target, draw, side, k) in enumerate(planned):
        layers = range(k) if side == "first" else range(model.layers - k, model.layers)
        if target == "random":
            positions_of_prompts = [random_positions(p, settings, draw, model.tokenizer.bos_token_id) for p in prompts]
        else:
            positions_of_prompts = [fixed_positions(p, target, lambda token: model.tokenizer.decode([token])) for p in prompts]
        for group in group_by_prefix(model, prompts):
            for batch, logits in isolated_runs.runs(
                model, prompts, group, positions_of_prompts, layers, settings.blocking, BUDGET
            ):
                for i, row in zip(batch.index, logits, strict=True):
                    prompt = prompts[i]
                    ids, positions = prompt.ids.tolist(), positions_of_prompts[i].tolist()
                    expected, _ = isolated_logits(reference.network, ids, positions, layers, settings.blocking)
                    difference = max(difference, (row - expected).abs().max().item())
                    effect = max(effect, (plain[i] - expected).abs().max().item())
                    largest = max(largest, expected.abs().max().item())
                    words = [jaccard(expected.topk(n).indices.tolist(), plain[i].topk(n).indices.tolist()) for n in (5, 10)]
                    expected_row = np.array([int(expected[prompt.label_ids].argmax()), *words])
                    unequal += bool((np.abs(actual[i, number] - expected_row) > 1e-12).any())
    return difference / largest, effect / largest, len(table), unequal


def _deep(model: LanguageModel, reference: LanguageModel, prompts: list[TokenizedPrompt]) -> float:
    actual = attention_scores(deep_attention.compute(model, prompts, BUDGET), [p.prompt_id for p in prompts])  # (L, N, C)
    expected = np.stack(
        [
            class_attention(reference.network, p.ids.tolist(), p.anchors.tolist(), p.demo_labels.tolist(), len(p.label_ids))
            for p in prompts
        ],
        axis=1,
    )  # (L, N, C)
    return np.abs(actual - expected).max() / expected.max()


if __name__ == "__main__":
    main()
