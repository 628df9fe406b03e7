"""Tests that the benchmark rows run on each available device and that both sides agree. They do not test the speed."""

import argparse
import sys

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from icl_lens.models import batching, information_flow
from icl_lens.prompts.positions import tokenize

from ..conftest import REPOSITORY
from ..prompts_table import prompts_table
from ..reduced_products import emulated

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here")),
]
ROWS = ("saliency", "isolation", "random", "attention", "reweighting", "compression", "cuts", "labels", "tf32")


@pytest.fixture
def table(monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    import table

    yield table
    for name in ("table", "contest", "sides", "bare"):
        sys.modules.pop(name, None)


@pytest.fixture(params=DEVICES)
def bench(request, table, monkeypatch):
    monkeypatch.setitem(table.contest.SHAPES, "XL", {"n_embd": 32, "n_layer": 8, "n_head": 2})
    options = argparse.Namespace(clock="wall", device=request.param, data=None, tokenizer=None, whole=None)
    plan = table.Plan(budget=2000, fresh=3, few_fresh=2, queries=4, few=1, seeds=1, epochs=1, draws=1, repeats=1)
    return table.Bench(table._pair("XL", options), plan, options)


def test_the_rows_of_a_gpu_run_and_their_sides_agree(table, bench):
    assert bench.all_items() is None, "nothing was timed yet"
    for row in ROWS:
        found = getattr(bench, row)()
        assert found.difference <= found.tolerance, row
        assert found.value > 0
        assert set(bench.pace[row]) == {"sst2", "trec", "agnews"}
    assert bench.forward().value > 0
    assert bench.all_items().value > 0
    said, valid = bench.context()
    assert valid
    assert "forward passes a second" in said


def test_the_processors_features_and_bare_rates_are_told(table):
    x86 = "processor\t: 0\nflags\t\t: fpu avx2 avx512f amx_bf16 amx_tile\nbugs\t\t: avx512_bf16\n"
    assert table.contest.features(x86) == ["avx2", "avx512f", "amx_tile", "amx_bf16"]
    assert table.contest.features("Features\t: fp asimd bf16\n") == ["asimd", "bf16"]
    assert table.contest.features("") == []
    with emulated():
        rates = table.contest.rates(table.Clock("wall", "cpu"), repeats=1)
    assert {matmul: form for matmul, (form, _) in rates.items()} == {"exact": "float32", "fast": "bfloat16"}
    assert all(rate > 0 for _, rate in rates.values())


def test_a_row_whose_sides_differ_makes_the_table_void(table, bench, monkeypatch, capsys):
    inner = table.sides.fast_attention
    monkeypatch.setattr(table.sides, "fast_attention", lambda *given: inner(*given) * 1.001)
    monkeypatch.setattr(table, "Bench", lambda *given: bench)
    monkeypatch.setattr(sys, "argv", ["table.py", "--models", "embedded", "--rows", "attention", "--repeats", "1"])
    with pytest.raises(SystemExit, match="VOID: embedded, attention: the results differ"):
        table.main()
    assert "void (results differ by" in capsys.readouterr().out


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "llama", "gemma3_text"])
def test_the_bare_products_of_saliency_are_most_of_those_it_computes(table, language_model, tokenizer, family):
    model = language_model(family)
    prompts = tokenize(prompts_table("trec", count=2), tokenizer)
    run, operations = table.bare.saliency(model.network, prompts)
    with FlopCounterMode(display=False) as bare:
        run()
    assert bare.get_total_flops() == operations
    assert model.supports_single_row  # evaluate this cached property now, so that the counter below does not count it
    assert model.last_row_mode
    with FlopCounterMode(display=False) as whole:
        for batch in batching.batches(model, prompts, 1, kept="graph"):
            information_flow.measure(model, batch, lambda *_: None)
    assert operations <= whole.get_total_flops() <= 1.25 * operations


def test_a_checkpoint_is_measured_by_its_folder(table, checkpoint, monkeypatch, capsys):
    arguments = ["table.py", "--model", str(checkpoint), "--rows", "saliency", "bare"]
    monkeypatch.setattr(sys, "argv", arguments)
    plan = table.Plan(
        budget=2000, fresh=2, few_fresh=1, queries=2, few=1, seeds=1, epochs=1, draws=1, repeats=1, tasks=("sst2",)
    )
    monkeypatch.setitem(table.PLANS, "checkpoint", plan)
    table.main()
    out = capsys.readouterr().out
    assert "| saliency, fresh demonstrations | 2.2 |" in out
    assert "times the bare products it cannot spare, at most | 1.25 |" in out
    assert "GFLOP/s" in out
