"""Tests of the predicted cost of jobs: the operations are counted, and the memory and its warnings follow from the sizes."""

import io
import statistics
from importlib import import_module
from pathlib import PurePosixPath

import pytest
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from icl_lens.cli import commands
from icl_lens.config import model_sizes, parse, plan, prediction
from icl_lens.config.keys import EMBEDDED_MODEL
from icl_lens.corpora import builtin
from icl_lens.errors import InputError
from icl_lens.models import batching
from icl_lens.models.language_model import LanguageModel
from icl_lens.network import activations
from icl_lens.prompts import protocol
from icl_lens.prompts.positions import tokenize
from icl_lens.studies import registry
from icl_lens.studies.cost import Cost, Job, Work
from icl_lens.tasks.task import TASKS

from ..conftest import REPOSITORY

LAYERS, WIDTH, SEEDS, QUERIES = 14, 32, [42, 43], 6


@pytest.fixture(scope="module")
def counted():
    """Return a random model, and a function that returns its prompts of a set of built-in texts."""
    tokenizer = AutoTokenizer.from_pretrained(REPOSITORY / EMBEDDED_MODEL)
    shape = GPT2Config(
        n_embd=WIDTH, n_layer=LAYERS, n_head=2, vocab_size=len(tokenizer), bos_token_id=0, eos_token_id=0, n_positions=256
    )
    network = GPT2LMHeadModel(shape).eval().requires_grad_(False)
    activations.fuse(network)
    model = LanguageModel("counted", network, tokenizer, "float32", {})
    corpus = builtin.generate("sst2", 0)
    return model, lambda name: batching.fitting(
        model, tokenize(protocol.build(TASKS["sst2"], corpus, name, SEEDS, QUERIES), tokenizer)
    )


@pytest.mark.parametrize(
    ("name", "prompt_set"),
    [
        ("icl", "shared-1shot"),
        ("deep_attention", "shared-2shot"),
        ("saliency", "fresh-1shot"),
        ("isolation", "shared-1shot"),
        ("compression", "shared-1shot"),
    ],
)
def test_the_predicted_operations_are_those_that_are_counted(counted, name, prompt_set):
    model, prompts_of = counted
    study, prompts = registry.study(name), prompts_of(prompt_set)
    settings = study.settings.section() if study.settings else None
    keywords = {"settings": settings} if settings else {}
    compute = import_module(study.module).compute
    compute(model, prompts[:2], batch_tokens=4096, **keywords)  # the checks of the model run once
    with FlopCounterMode(display=False) as counter:
        compute(model, prompts, batch_tokens=4096, **keywords)
    # The counter does not know the CPU's fused attention, and so few prompts have logits at more than their last positions.
    # Therefore only products with the weights of the layers are compared. Those of the backward pass (mm) have no bias.
    of_layers = ("addmm", "mm") if name == "saliency" else ("addmm",)
    found = sum(n for function, n in counter.get_flop_counts()["Global"].items() if function.__name__ in of_layers)
    full = statistics.mean(len(p.ids) for p in prompts)
    query = statistics.mean(len(p.ids) - 1 - p.anchors[-1] for p in prompts)
    job = Job(settings, "sst2", LAYERS, len(SEEDS), QUERIES, query, full - query, prompt_set.startswith("fresh"))
    parameters = sum(p.numel() for p in model.network.parameters())
    vocabulary = len(model.tokenizer)
    size = model_sizes.Size(parameters, LAYERS, 0, WIDTH, vocabulary, 2, 2, WIDTH // 2, 4 * WIDTH, True)
    predicted = prediction.operations(size, study, study.cost(job))
    assert predicted.linear == pytest.approx(found, rel=0.15)


@pytest.fixture
def paper():
    return parse.load(REPOSITORY / "config.yaml", REPOSITORY / "config/paper.yaml")


def table(model, study="isolation", task="agnews"):
    return PurePosixPath(f"r/studies/{model}/{task}/shared-2shot/{study}.parquet")


def test_the_time_is_the_operations_over_the_stated_rate_plus_constants(paper):
    h100 = prediction.card("h100-80gb")
    assert h100.rates["tf32"] == pytest.approx(prediction.SHARE * 494e12)
    exact = prediction.predict(paper, table("gpt2-xl"), h100)
    models = [model.model_copy(update={"matmul": "fast"}) for model in paper.models]
    fast = prediction.predict(paper.model_copy(update={"models": models}), table("gpt2-xl"), h100)
    assert fast.operations == exact.operations
    observed = 1.05  # the loss on eight prompts is measured, too
    saved = exact.operations.total * (1 / h100.rates["float32"] - 1 / h100.rates["tf32"])
    assert saved <= exact.seconds - fast.seconds <= observed * saved


def test_a_shard_has_its_share_of_the_work(paper):
    card = prediction.card("h100-80gb")
    whole = prediction.predict(paper, table("gpt2-xl"), card)
    path = PurePosixPath("r/studies/gpt2-xl/agnews/shared-2shot/shards/isolation.2-of-4.parquet")
    assert plan.estimate(paper, path, card).study == "isolation"
    shard = prediction.predict(paper, path, card)
    assert shard.prompts == whole.prompts / 4
    assert whole.operations.total / 4 < shard.operations.total < whole.operations.total / 2, "the demonstrations are read again"
    with pytest.raises(InputError, match=r"^a\.parquet is not the path of a study"):
        prediction.predict(paper, PurePosixPath("a.parquet"), card)


def test_the_memory_contains_the_weights_in_their_number_format(paper):
    card = prediction.card("a100-80gb")
    found = {}
    for dtype in ("float32", "bfloat16"):
        models = [model.model_copy(update={"dtype": dtype}) for model in paper.models]
        found[dtype] = prediction.predict(paper.model_copy(update={"models": models}), table("gpt-j-6b", "icl"), card)
    saved = found["float32"].device_bytes - found["bfloat16"].device_bytes
    assert saved >= 2 * 6_050_882_784
    cpu = prediction.predict(paper, table("gpt-j-6b", "icl"), prediction.card("cpu"))
    assert cpu.device_bytes == 0
    assert cpu.host_bytes > 4 * 6_050_882_784


@pytest.mark.parametrize(
    ("model", "study", "card", "batch_tokens", "remedy"),
    [
        ("llama-30b", "isolation", "h100-80gb", 8192, "set batch_tokens to "),
        ("gpt-j-6b", "icl", "rtx-4090-24gb", 512, "set dtype to bfloat16, or placement to auto"),
        ("llama-30b", "icl", "a100-40gb", 8192, "set placement to auto, which spreads the layers"),
    ],
)
def test_a_job_that_does_not_fit_is_told_with_the_key_that_helps(paper, model, study, card, batch_tokens, remedy):
    config, card = paper.model_copy(update={"batch_tokens": batch_tokens}), prediction.card(card)
    warning = plan.warn(config, plan.estimate(config, table(model, study), card), card)
    assert warning.startswith(f"warning: {study} of {model} needs ")
    assert f"but {card.name} has {card.memory / 1e9:.1f} GB; {remedy}" in warning
    if "batch_tokens" in remedy:
        fewer = config.model_copy(update={"batch_tokens": int(warning.rpartition(" ")[2])})
        assert plan.warn(fewer, plan.estimate(fewer, table(model, study), card), card) is None


def test_the_plan_has_one_warning_per_model_and_study(paper):
    rows = [
        f"{table(model, study, task)}\t{study}\tmissing"
        for model, study in (("gpt2-xl", "icl"), ("llama-30b", "icl"))
        for task in ("sst2", "agnews")
    ]
    lines = list(plan.report(paper, ["output_file\trule\tplan", *rows], "a100-40gb"))
    warnings = [line for line in lines if line.startswith("warning: ")]
    assert len(warnings) == 1
    assert warnings[0].startswith("warning: icl of llama-30b needs ")


def test_a_job_that_takes_days_is_told_to_be_divided(paper):
    card = prediction.card("t4-16gb")
    study = plan.estimate(paper, table("gpt2-xl"), card)
    slow = plan.StudyJob(study.path, study.model, study.study, study.predicted._replace(seconds=50 * 3600, device_bytes=0))
    assert plan.warn(paper, slow, card).endswith("takes 50 hours on t4-16gb; set shards to 3 to divide it into shorter jobs")


def test_the_longest_jobs_start_first():
    assert plan.wall_time([1, 2, 3, 4], 1) == 10
    assert plan.wall_time([1, 2, 3, 4], 2) == 5
    assert plan.wall_time([1, 2, 3, 4], 8) == 4
    assert plan.wall_time([], 4) == 0


def test_an_unknown_card_is_told_with_the_nearest_name(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO("output_file\trule\tplan\n"))
    arguments = ["plan", "--config", str(REPOSITORY / "config.yaml"), "--card", "h100"]
    assert commands.main(arguments) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "--card: unknown card 'h100'; did you mean 'h100-80gb'? (known: " in said


def test_a_study_that_declares_only_passes_has_a_cost():
    job = Job(None, "sst2", 4, seeds=2, queries=10, query=20, demonstrations=80, fresh=True)
    assert Cost(passes=3)(job) == Work(20, 3 * 20 * 100, 3 * 20 * 100**2, 3 * 20, 3)
    assert Cost(passes=1, behind=lambda settings: 2)(job).tokens == 20 * 100 + 2 * 20 * 20
    assert Cost(passes=1, queries=lambda settings: 5)(job).prompts == 10
