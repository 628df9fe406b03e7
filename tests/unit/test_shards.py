"""Tests of shards: merged shards have the bytes of the table that one job writes, and invalid shards give one sentence."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from icl_lens.artifacts import hashes, parquet, shards
from icl_lens.cli.commands import main
from icl_lens.config.parse import parse_settings
from icl_lens.errors import InputError
from icl_lens.models import loading
from icl_lens.models.language_model import LanguageModel
from icl_lens.prompts.positions import tokenize
from icl_lens.prompts.protocol import build
from icl_lens.results import audit
from icl_lens.results.shards import merge
from icl_lens.studies import registry, sharding
from icl_lens.studies.run import run
from icl_lens.tasks.task import TASKS
from tests import artifacts

from ..conftest import TEXTS
from ..families import tiny
from ..prompts_table import shared_table

SEEDS, QUERIES = [42, 43], 4

# The studies that can be split, each with its prompt set and the smallest settings that cover its code.
SPLIT = {
    "icl": ("shared-1shot", {}),
    "saliency": ("shared-1shot", {}),
    "isolation": ("shared-1shot", {"layers": [1], "draws": 1}),
    "compression": ("shared-1shot", {"draws": 1}),
    "deep_attention": ("shared-1shot", {}),
    "isolation_controls": ("shared-1shot", {"queries": 3, "targets": ["label"]}),
    "attention_controls": ("shared-1shot", {"queries": 3}),
    "kernel_regression_controls": ("fresh-2shot", {"control_queries": 2, "orders": 1}),
    "rewritten": ("fresh-1shot", {"queries": 3}),
    "ch_edge_cuts": ("shared-1shot", {"draws": 1, "queries": 3}),
    "ch_saliency": ("fresh-1shot", {"queries": 2, "steps": 1}),
    "ch_labels": ("shared-1shot", {"queries": 3, "flow_queries": 2, "draws": 1, "conditions": ["random", "words"]}),
    "ch_demonstrations": ("shared-1shot", {"queries": 3}),
}

# The studies that are one job, each with the reason.
WHOLE = {
    "flow": "it selects a few prompts",
    "isolated_words": "it selects a prompt of each class by its prediction",
    "latency": "it measures time",
    "tokens": "it does not run the model",
    "diagnosis": "its components come from all prompts",
    "reweighting": "it trains on all prompts",
    "kernel_regression": "its map and its document frequencies come from all prompts",
    "prediction_similarity": "it runs each text of several prompts once",
    "label_probes": "it fits probes to all prompts",
    "components": "it trains on all prompts",
    "representation_change": "it fits to all prompts",
    "hidden_markov": "it reads no prompts",
}


def test_every_study_is_split_or_declared_whole():
    declared = {name: study.shards for name, study in registry.studies().items()}
    assert {name for name, how in declared.items() if how} == set(SPLIT)
    assert {name for name, how in declared.items() if how is None} == set(WHOLE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tokenizer):
    """Return a folder with a model, which shares its keys among heads and rotates them."""
    folder = tmp_path_factory.mktemp("shards")
    tiny("llama", len(tokenizer), layers=2, context=2048).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    return folder


@pytest.fixture(scope="module")
def written(folder):
    """Return a function that maps the name of a prompt set to its file in a results folder."""
    # Texts of many lengths, so that a batch has prompts of several shards.
    rows = [
        {"split": split, "index": n, "text": f"{' '.join([TEXTS[n % len(TEXTS)]] * (1 + n % 3))} {n}", "label": n % 2}
        for split, size in (("train", 24), ("test", 9))
        for n in range(size)
    ]

    def write(name):
        path = folder / "results/prompts/sst2" / f"{name}.parquet"
        if not path.exists():
            table = build(TASKS["sst2"], pd.DataFrame(rows), name, SEEDS, QUERIES, auxiliary=1)
            artifacts.write(path, table, artifacts.describe("prompts", "icl_lens.prompts.protocol", {}, {}, SEEDS))
        return path

    return write


@pytest.fixture(autouse=True)
def loaded_once(monkeypatch, models):
    """Load the model once, because loading takes most of the time."""
    load = loading.load

    def load_once(*arguments, **options):
        kind = LanguageModel.__dict__["shares_prefixes"]
        if kind not in models:
            models[kind] = load(*arguments, **options)
        return models[kind]

    monkeypatch.setattr(loading, "load", load_once)


@pytest.fixture(scope="module")
def models():
    return {}


def job(folder, written, name, out, shard=None, batch_tokens=400, prompts=None):
    """Run a study, or one of its shards."""
    prompt_set, values = SPLIT[name]
    settings = parse_settings(name, json.dumps(values)) if values else None
    run(
        registry.study(name),
        folder / "model",
        prompts or written(prompt_set),
        out,
        device="cpu",
        settings=settings,
        batch_tokens=batch_tokens,
        shard=shard,
    )
    return out


def merged(folder, written, name, count, tmp_path, **options):
    """Run all shards of a study in reverse order, and merge them."""
    files = [
        job(folder, written, name, tmp_path / f"{number}.parquet", shards.Shard(number, count), **options)
        for number in range(count, 0, -1)
    ]
    merge(tmp_path / "merged.parquet", registry.study(name).schema, files)
    return tmp_path / "merged.parquet"


@pytest.mark.parametrize("name", SPLIT)
def test_merged_shards_have_the_bytes_of_one_job(name, folder, written, tmp_path):
    whole = job(folder, written, name, tmp_path / "whole.parquet")
    count = 2 if name == "kernel_regression_controls" else 3  # it has two held-out prompts
    assert merged(folder, written, name, count, tmp_path).read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("name", ["isolation", "saliency"])
def test_a_shard_can_be_one_prompt_of_a_model_that_shares_no_prefixes(name, folder, written, monkeypatch, tmp_path):
    monkeypatch.setattr(LanguageModel, "shares_prefixes", False)
    whole = job(folder, written, name, tmp_path / "whole.parquet", batch_tokens=200)
    count = len(SEEDS) * QUERIES
    assert merged(folder, written, name, count, tmp_path, batch_tokens=200).read_bytes() == whole.read_bytes()


def test_without_the_other_prompts_of_its_batches_a_shard_would_have_other_bytes(folder, written, tmp_path):
    """Otherwise, the tests above could not fail."""
    schema = registry.study("saliency").schema
    whole, _ = parquet.read(job(folder, written, "saliency", tmp_path / "whole.parquet"), schema)
    prompts, about = artifacts.read(written("shared-1shot"), "prompts")
    few = prompts.iloc[[1, 4]]
    artifacts.write(tmp_path / "few.parquet", few, about)
    alone, _ = parquet.read(
        job(folder, written, "saliency", tmp_path / "alone.parquet", prompts=tmp_path / "few.parquet"), schema
    )
    same = whole[whole["prompt_id"].isin(few["prompt_id"])]["s_ww"].to_numpy()
    np.testing.assert_allclose(alone["s_ww"], same, rtol=1e-4)
    assert (alone["s_ww"].to_numpy() != same).any()


def test_a_shard_computes_only_the_batches_of_its_own_prompts(folder, written, monkeypatch, tmp_path):
    rows = []
    forward = torch.nn.Embedding.forward
    monkeypatch.setattr(torch.nn.Embedding, "forward", lambda self, ids: rows.append(ids.numel()) or forward(self, ids))
    job(folder, written, "isolation", tmp_path / "whole.parquet")
    of_whole, rows[:] = sum(rows), []
    job(folder, written, "isolation", tmp_path / "part.parquet", shards.Shard(1, 2))
    assert sum(rows) < 0.8 * of_whole  # each run also checks the model


def test_prompts_with_the_same_demonstrations_stay_together(language_model, tokenizer):
    model = language_model("llama")
    prompts = tokenize(shared_table(count=14), tokenizer)  # two groups of six prompts, and two further prompts
    for count in (1, 2, 3, 5, 14):
        parts = [
            sharding.prompt_ids(model, prompts, shards.Shard(number, count), "prefix", "icl") for number in range(1, count + 1)
        ]
        assert all(parts)
        assert sorted(i for part in parts for i in part) == sorted(p.prompt_id for p in prompts)
        assert max(map(len, parts)) <= 2 * len(prompts) / count + 1
    halves = [sharding.prompt_ids(model, prompts, shards.Shard(number, 2), "prefix", "icl") for number in (1, 2)]
    first = {p.prompt_id for p in prompts[:-2:2]}
    assert first in halves or first | {p.prompt_id for p in prompts[-2:]} in halves
    by_length = [sharding.prompt_ids(model, prompts, shards.Shard(number, 2), "length", "saliency") for number in (1, 2)]
    lengths = {p.prompt_id: len(p.ids) for p in prompts}
    assert min(lengths[i] for i in by_length[0]) >= max(lengths[i] for i in by_length[1])


def test_more_shards_than_prompts_and_other_invalid_options_give_one_sentence(folder, written, capsys):
    prompts, out = written("shared-1shot"), folder / "out.parquet"
    for command, shard, sentence in (
        ("icl", "1/9", "--shard 1/9: icl of model model has only 8 prompts; set shards to at most 8"),
        ("icl", "3/2", "--shard must be I/N with I from 1 to N, for example 2/8, got '3/2'"),
        ("icl", "0/2", "--shard must be I/N with I from 1 to N, for example 2/8, got '0/2'"),
        ("icl", "half", "--shard must be I/N with I from 1 to N, for example 2/8, got 'half'"),
        ("tokens", "1/2", "--shard 1/2: tokens cannot be split into shards; run it without --shard"),
    ):
        arguments = ["--model", str(folder / "model"), "--prompts", str(prompts), "--out", str(out), "--shard", shard]
        assert main([command, *arguments]) == 1
        assert capsys.readouterr().err == f"icl-lens {command}: {sentence}\n"
        assert not out.exists()


@pytest.fixture
def made(folder, written):
    """Return a results folder with the table of a study and its two shards."""
    results = folder / "results"
    table = results / "studies/model/sst2/shared-1shot/icl.parquet"
    for number in (1, 2):
        job(folder, written, "icl", table.parent / f"shards/icl.{number}-of-2.parquet", shards.Shard(number, 2))
    assert main(["merge-shards", "--out", str(table), "--shards", *map(str, sorted(table.parent.glob("shards/*")))]) == 0
    return results


def test_the_audit_finds_a_damaged_shard_and_the_merge_refuses_it(made, capsys):
    schemas = registry.schemas()
    table = made / "studies/model/sst2/shared-1shot/icl.parquet"
    shard, other = (table.parent / f"shards/icl.{number}-of-2.parquet" for number in (1, 2))
    intact = shard.read_bytes()
    assert [fault.sentence for fault in audit.audit(made, schemas)[1] if "prompts/" not in fault.sentence] == []

    damaged = bytearray(intact)
    damaged[len(damaged) // 3] ^= 1
    shard.write_bytes(damaged)
    (fault,) = (fault for fault in audit.audit(made, schemas)[1] if fault.sentence.startswith(str(shard)))
    assert fault.remove == (shard,)
    assert main(["merge-shards", "--out", str(made / "x.parquet"), "--shards", str(shard), str(other)]) == 1
    assert str(shard) in capsys.readouterr().err
    assert not (made / "x.parquet").exists()

    shard.write_bytes(other.read_bytes())
    sentences = [fault.sentence for fault in audit.audit(made, schemas)[1]]
    assert f"{shard}: it is 2-of-2, but the path of the file has 1-of-2" in sentences

    rows, metadata = parquet.read(other, shards.schema_of(registry.study("icl").schema))
    parquet.write(other, rows.iloc[1:], shards.schema_of(registry.study("icl").schema), metadata)
    assert f"{other}: 3 prompts have rows, but 4 prompts were run" in [f.sentence for f in audit.audit(made, schemas)[1]]
    metadata["seeds"] = [1]
    parquet.write(other, rows, shards.schema_of(registry.study("icl").schema), metadata)
    stale = f"{other}: its seeds differs from that of {table}, so one of them is stale"
    assert stale in [fault.sentence for fault in audit.audit(made, schemas)[1]]
    shard.write_bytes(intact)


def test_shards_that_do_not_belong_together_are_refused(folder, written, tmp_path):
    schema = registry.study("icl").schema
    first, second = (job(folder, written, "icl", tmp_path / f"{number}.parquet", shards.Shard(number, 2)) for number in (1, 2))
    third = job(folder, written, "icl", tmp_path / "3.parquet", shards.Shard(1, 3))
    other = job(folder, written, "icl", tmp_path / "other.parquet", shards.Shard(2, 2), batch_tokens=500)
    whole = job(folder, written, "icl", tmp_path / "whole.parquet")
    out = tmp_path / "out.parquet"
    for files, sentence in (
        ([first], "shard 2/2 of icl is missing; give all 2 shards"),
        ([first, first], "are both shard 1/2; give each shard once"),
        ([first, third], "are shards of different tables: their number of shards differs"),
        ([first, other], "are shards of different tables: their settings differs"),
        ([whole], "is not a shard of a study"),
        ([tmp_path / "none.parquet"], "does not exist; expected a shard of a study"),
    ):
        with pytest.raises(InputError, match=sentence):
            merge(out, schema, files)
    merge(out, schema, [second, first])
    assert hashes.file_hash(out) == hashes.file_hash(whole)
