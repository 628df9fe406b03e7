"""Tests of the fast paths on Gemma 3 270M against the plain references, on six real prompts.

They need the model that `make gemma` converts.
"""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from icl_lens.corpora import files
from icl_lens.models import loading
from icl_lens.models.batching import group_by_prefix
from icl_lens.prompts import protocol
from icl_lens.prompts.positions import tokenize
from icl_lens.statistics.attention_auc import attention_scores
from icl_lens.studies.anchors import compressed_demonstrations, isolated_runs
from icl_lens.studies.anchors.deep_attention import compute as deep_attention
from icl_lens.studies.anchors.icl import compute as icl
from icl_lens.studies.anchors.reweighting import compute as reweighting
from icl_lens.studies.anchors.reweighting.study import Settings
from icl_lens.studies.anchors.saliency import compute as saliency
from icl_lens.tasks.task import TASKS

from ..conftest import REPOSITORY
from ..reference import reweighting as plain_reweighting
from ..reference.compression import compressed_logits
from ..reference.deep_attention import class_attention
from ..reference.isolation import isolated_logits
from ..reference.saliency import saliency as plain_saliency

# Loading the model twice takes 4 GB and half a minute.
pytestmark = pytest.mark.long

# Tolerance against the plain reference, relative to the largest value, in float32.
TOLERANCE = 1e-4

FILES = {
    "sst2": ("sst2/train.tsv", "sst2/dev.tsv"),
    "trec": ("trec/train_5500.label", "trec/TREC_10.label"),
    "agnews": ("agnews/train_subset.csv", "agnews/test.csv"),
}


@pytest.fixture(scope="module")
def folder():
    found = sorted((REPOSITORY / "downloads" / "gguf").glob("*/*/gemma-3-270m-q4_k_m.gguf/converted/converted.json"))
    if not found:
        pytest.skip("Gemma 3 270M is not here; `make gemma` converts it")
    return found[0].parent


@pytest.fixture(scope="module")
def model(folder):
    return loading.load(folder, device="cpu")


@pytest.fixture(scope="module")
def plain(folder):
    network = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    return network.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def read(model, shared_data):
    """Return two prompts per task, which share their demonstrations."""
    found = {}
    for task, names in FILES.items():
        corpus = files.read(task, *(shared_data / name for name in names))
        found[task] = tokenize(protocol.build(TASKS[task], corpus, "shared-1shot", [42], 2), model.tokenizer)
    return found


def require_near(found, expected):
    found, expected = np.asarray(found, dtype=float), np.asarray(expected, dtype=float)
    assert found.shape == expected.shape
    difference = np.abs(found - expected).max() / np.abs(expected).max()
    print(f"largest difference: {difference:.1e} of the largest value")
    assert difference <= TOLERANCE


@pytest.mark.parametrize("task", FILES)
def test_answers(model, plain, read, task):
    found = np.stack(icl.compute(model, read[task], 1000)["class_log_probs"])
    with torch.inference_mode():
        logits = [plain(input_ids=torch.from_numpy(p.ids)[None]).logits[0, -1].double() for p in read[task]]
    of = [x[torch.from_numpy(p.label_ids)].log_softmax(-1).numpy() for x, p in zip(logits, read[task], strict=True)]
    require_near(found, np.stack(of))


@pytest.mark.parametrize("task", FILES)
def test_saliency(model, plain, read, task):
    rows = saliency.compute(model, read[task], 1000)
    found = rows[list(saliency.METRICS)].to_numpy().reshape(len(read[task]), -1, 3)
    of = [plain_saliency(plain, p.ids.tolist(), p.anchors.tolist(), p.label_ids.tolist(), p.gold).T for p in read[task]]
    require_near(found, np.stack(of))


@pytest.mark.parametrize("task", FILES)
def test_deep_attention(model, plain, read, task):
    found = attention_scores(deep_attention.compute(model, read[task], 1000), [p.prompt_id for p in read[task]])  # (L, N, C)
    of = [
        class_attention(plain, p.ids.tolist(), p.anchors.tolist(), p.demo_labels.tolist(), len(p.label_ids)) for p in read[task]
    ]
    require_near(found.transpose(1, 0, 2), np.stack(of))


@pytest.mark.parametrize("layers", [range(5), range(13, 18)], ids=["first", "last"])
@pytest.mark.parametrize("task", FILES)
def test_isolation(model, plain, read, task, layers):
    found = {}
    with torch.inference_mode():
        for group in group_by_prefix(model, read[task]):
            cut = [p.anchors for p in read[task]]
            for batch, logits in isolated_runs.runs(model, read[task], group, cut, layers, "before_softmax", 1000):
                found |= dict(zip(batch.index, logits, strict=True))
    of = [isolated_logits(plain, p.ids.tolist(), p.anchors.tolist(), layers, "before_softmax")[0] for p in read[task]]
    require_near(np.stack([found[i] for i in range(len(of))]), np.stack(of))


@pytest.mark.parametrize("task", FILES)
def test_compression(model, plain, read, task):
    prompt = read[task][0]
    kept = compressed_demonstrations.kept_positions(prompt)
    with torch.inference_mode():
        compressed = compressed_demonstrations.compress(model, prompt, kept)
        batch = next(compressed_demonstrations.batches(model, [prompt], 1000, compressed))
        found = compressed_demonstrations.query_logits(model, batch, compressed)[0]
    require_near(
        found, compressed_logits(plain, prompt.ids.tolist(), compressed_demonstrations.query_start(prompt), kept.tolist())
    )


def test_reweighting(model, plain, read):
    examples = read["sst2"]
    settings = Settings(epochs=2)
    trained = reweighting.train(model, {42: examples}, settings)[42]
    generator = np.random.default_rng([settings.seed, 42])
    orders = [generator.permutation(len(examples)).tolist() for _ in range(settings.epochs)]
    rows = [(p.ids.tolist(), p.anchors.tolist(), p.label_ids.tolist(), p.gold) for p in examples]
    beta, losses = plain_reweighting.train(plain, rows, orders, 4, settings.learning_rate)
    require_near(trained.beta, beta)
    require_near(trained.losses, losses)
