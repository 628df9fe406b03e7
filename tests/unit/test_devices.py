"""Tests of each study's fast path on each available device, against its plain reference on the CPU."""

import numpy as np
import pytest
import torch

from icl_lens.models.batching import group_by_prefix
from icl_lens.prompts.positions import tokenize
from icl_lens.statistics.attention_auc import attention_scores
from icl_lens.studies.anchors import compressed_demonstrations, isolated_runs
from icl_lens.studies.anchors.deep_attention import compute as deep_attention
from icl_lens.studies.anchors.reweighting import compute as reweighting
from icl_lens.studies.anchors.reweighting.study import Settings
from icl_lens.studies.anchors.saliency import compute as saliency

from ..families import tiny
from ..prompts_table import prompts_table, shared_table
from ..reference import reweighting as plain_reweighting
from ..reference.compression import compressed_logits
from ..reference.deep_attention import class_attention
from ..reference.isolation import isolated_logits
from ..reference.saliency import saliency as plain_saliency

# Largest difference from the plain reference, relative to the largest value, in float32.
TOLERANCE = 1e-4

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here")),
]
FAMILIES = ["gpt2", "gptj", "llama", "gemma2"]


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture(params=DEVICES)
def model(request, family, language_model):
    made = language_model(family)
    made.network.to(request.param)
    return made


@pytest.fixture
def plain(family, tokenizer):
    return tiny(family, len(tokenizer))


def require_near(found, expected):
    found, expected = np.asarray(found, dtype=float), np.asarray(expected, dtype=float)
    assert found.shape == expected.shape
    assert np.abs(expected).max() > 0
    assert np.abs(found - expected).max() <= TOLERANCE * np.abs(expected).max()


def test_saliency_agrees(model, plain, tokenizer):
    prompts = tokenize(prompts_table("trec", count=4), tokenizer)
    rows = saliency.compute(model, prompts, 1000)
    found = rows[list(saliency.METRICS)].to_numpy().reshape(len(prompts), -1, 3)
    of = [plain_saliency(plain, p.ids.tolist(), p.anchors.tolist(), p.label_ids.tolist(), p.gold).T for p in prompts]
    require_near(found, np.stack(of))


def test_deep_attention_agrees(model, plain, tokenizer):
    prompts = tokenize(shared_table(count=4), tokenizer)
    found = attention_scores(deep_attention.compute(model, prompts, 1000), [p.prompt_id for p in prompts])  # (L, N, C)
    of = [class_attention(plain, p.ids.tolist(), p.anchors.tolist(), p.demo_labels.tolist(), 4) for p in prompts]
    require_near(found.transpose(1, 0, 2), np.stack(of))


@pytest.mark.parametrize("blocking", ["before_softmax", "after_softmax"])
def test_isolation_agrees(model, plain, tokenizer, blocking):
    prompts = tokenize(shared_table(count=4), tokenizer)
    anchors = [p.anchors for p in prompts]
    found = {}
    with torch.inference_mode():
        for group in group_by_prefix(model, prompts):
            for batch, logits in isolated_runs.runs(model, prompts, group, anchors, (0, 2), blocking, 1000):
                found |= dict(zip(batch.index, logits.cpu(), strict=True))
    of = [isolated_logits(plain, p.ids.tolist(), p.anchors.tolist(), (0, 2), blocking)[0] for p in prompts]
    require_near(np.stack([found[i] for i in range(len(prompts))]), np.stack(of))


def test_compression_agrees(model, plain, tokenizer):
    prompt = tokenize(prompts_table("agnews", count=1), tokenizer)[0]
    kept = compressed_demonstrations.kept_positions(prompt)
    with torch.inference_mode():
        compressed = compressed_demonstrations.compress(model, prompt, kept)
        batch = next(compressed_demonstrations.batches(model, [prompt], 1000, compressed))
        found = compressed_demonstrations.query_logits(model, batch, compressed)[0].cpu()
    require_near(
        found, compressed_logits(plain, prompt.ids.tolist(), compressed_demonstrations.query_start(prompt), kept.tolist())
    )


def test_reweighting_agrees(model, plain, tokenizer):
    table = prompts_table("sst2", count=4).assign(seed=42)
    prompts = tokenize(table, tokenizer)
    settings = Settings(epochs=2)
    trained = reweighting.train(model, {42: prompts}, settings)[42]
    generator = np.random.default_rng([settings.seed, 42])
    orders = [generator.permutation(len(prompts)).tolist() for _ in range(settings.epochs)]
    rows = [(p.ids.tolist(), p.anchors.tolist(), p.label_ids.tolist(), p.gold) for p in prompts]
    beta, losses = plain_reweighting.train(plain, rows, orders, 4, settings.learning_rate)
    require_near(trained.beta, beta)
    require_near(trained.losses, losses)
