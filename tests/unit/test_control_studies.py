import copy
import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch

from icl_lens.config import plan
from icl_lens.config.parse import parse, parse_settings
from icl_lens.errors import InputError
from icl_lens.models import loading
from icl_lens.prompts.positions import tokenize
from icl_lens.statistics.attention_auc import attention_scores
from icl_lens.studies import registry
from icl_lens.studies.anchors import controls, isolating
from icl_lens.studies.anchors.attention_controls import compute as attention_controls
from icl_lens.studies.anchors.control_settings import CONTROLS, Settings
from icl_lens.studies.anchors.icl import compute as icl
from icl_lens.studies.anchors.isolation_controls import compute as isolation_controls
from icl_lens.studies.inputs import Given
from icl_lens.studies.run import run
from tests import artifacts

from ..prompts_table import prompts_table, shared_table
from .test_deep_attention import TOLERANCE, expected
from .test_isolation import check

FAMILIES = ("gpt2", "gptj", "gpt_neox", "llama")
STUDIES = ("isolation_controls", "attention_controls")


def drawn_anew(model, seed):
    """Return an untrained model of the same architecture, initialized by transformers."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = type(model.network)(copy.deepcopy(model.network.config)).eval()
    return dataclasses.replace(model, network=network)


def prepared(model, table, settings, as_read):
    """Return the input of the studies for a prompts table."""
    return controls.prepare(Given(model, table, {}, settings, "auto", False, as_read))


def prompts_of(model, tokenizer, table, settings):
    """Return the original prompts and the prompts with shuffled labels."""
    found = prepared(model, table, settings, lambda rows: tokenize(rows, tokenizer))
    return {"prompts": found.prompts, **found.more}


def subjects(model, tokenizer, table, settings):
    """Return the prompts, and each control's model and prompts. The shuffled labels are read from the texts of the prompts."""
    prompts = prompts_of(model, tokenizer, table, settings)
    return prompts, {
        "none": (model, prompts["prompts"]),
        "shuffled": (model, prompts["shuffled"]),
        "untrained": (drawn_anew(model, settings.seed), prompts["prompts"]),
    }


@pytest.mark.parametrize("blocking", ["before_softmax", "after_softmax"])
@pytest.mark.parametrize("family", FAMILIES)
def test_isolation_of_every_control_agrees_with_the_plain_reference(language_model, tokenizer, family, blocking):
    model = language_model(family)
    settings = Settings(seed=3, blocking=blocking)
    prompts, each = subjects(model, tokenizer, shared_table("agnews", count=6), settings)
    rows = isolation_controls.compute(model, **prompts, batch_tokens=600, settings=settings)
    assert list(rows["control"].unique()) == list(CONTROLS)
    assert set(rows["layers"]) == {isolating.main_layers(model.layers)}
    for control, (subject, its) in each.items():
        part = rows[rows["control"] == control]
        assert len(part) == 6 * 4 * 2
        # The largest logits of an untrained model are nearly equal, so rounding affects more of its rows.
        assert check(subject, its, part, settings) > (0 if control == "untrained" else len(part))


@pytest.mark.parametrize("family", FAMILIES)
def test_attention_and_answers_of_every_control_agree_with_the_plain_reference(language_model, tokenizer, family):
    model = language_model(family)
    settings = Settings(seed=5)
    prompts, each = subjects(model, tokenizer, shared_table("trec", count=6), settings)
    rows = attention_controls.compute(model, **prompts, batch_tokens=900, settings=settings)
    found = {}
    for control, (subject, its) in each.items():
        part = rows[rows["control"] == control]
        ids = [p.prompt_id for p in its]
        found[control] = attention_scores(part, ids).transpose(1, 0, 2)  # (N, L, C)
        plain = expected(subject, its)
        assert np.abs(found[control] - plain).max() <= TOLERANCE * plain.max()
        for p, (_, of_prompt) in zip(its, part.groupby("prompt_id", sort=False), strict=True):
            logits = subject.network(torch.tensor([p.ids.tolist()])).logits[0, -1, p.label_ids]
            (gold,), (prediction,) = of_prompt["gold"].unique(), of_prompt["prediction"].unique()
            assert gold == p.gold
            assert logits[prediction] >= logits.max() - TOLERANCE * logits.abs().max()
    assert all(np.abs(found[c] - found["none"]).max() > 0.01 for c in ("shuffled", "untrained"))


def test_the_model_itself_is_left_as_it_was(language_model, tokenizer):
    model = language_model("llama")
    before = icl.compute(model, tokenize(prompts_table(), tokenizer), 2000)
    prompts = prompts_of(model, tokenizer, prompts_table(), Settings())
    attention_controls.compute(model, **prompts, batch_tokens=2000)
    pd.testing.assert_frame_equal(icl.compute(model, tokenize(prompts_table(), tokenizer), 2000), before)


def test_only_the_first_prompts_of_each_seed_are_run(language_model, tokenizer):
    found = prompts_of(language_model("gpt2"), tokenizer, prompts_table(count=6), Settings(queries=2))
    for prompts in found.values():
        assert [(p.seed, p.prompt_id) for p in prompts] == [(42, 100), (43, 101), (42, 102), (43, 103)]
    assert all(before.text != after.text for before, after in zip(found["prompts"], found["shuffled"], strict=True))


@pytest.mark.parametrize("study", STUDIES)
def test_an_artifact_says_its_settings_and_fits_its_schema(checkpoint, tmp_path, study):
    metadata = artifacts.describe("prompts", "icl_lens.prompts.protocol", inputs={}, settings={}, seeds=[42, 43])
    artifacts.write(tmp_path / "prompts.parquet", prompts_table(), metadata)
    out = tmp_path / f"{study}.parquet"
    settings = Settings(seed=7, queries=2)
    run(registry.study(study), checkpoint, tmp_path / "prompts.parquet", out, settings=settings, device="cpu")
    rows, about = artifacts.read(out, study)
    assert set(rows["control"]) == set(CONTROLS)
    assert set(rows["set"]) == {"fresh-1shot"}
    assert (about["observed"]["prompts"], about["observed"]["left_out"]) == (4, 0)
    assert {key: about["settings"][key] for key in settings.model_dump()} == settings.model_dump(mode="json")
    copied = about["untrained_copy"]
    assert copied["drawn_with_seed"] == 7
    network = loading.load(checkpoint).network
    assert copied["architecture"] == type(network).__name__
    assert copied["initializer_range"] == network.config.initializer_range


def test_a_prompt_that_fits_in_one_order_only_is_left_out_of_both(language_model, tokenizer):
    model = language_model("gpt2")

    def as_read(rows):
        prompts = tokenize(rows, tokenizer)
        if rows["set"].iloc[0].endswith("-shuffled"):
            prompts[1] = dataclasses.replace(prompts[1], ids=np.zeros(model.context + 1, dtype=np.int64))
        return prompts

    found = prepared(model, prompts_table(count=3), Settings(), as_read)
    assert [[p.prompt_id for p in prompts] for prompts in (found.prompts, found.more["shuffled"])] == [[100, 102]] * 2
    assert found.left_out == 1


def test_a_template_without_a_newline_is_told(language_model, tokenizer):
    table = prompts_table(count=2)
    table["text"] = table["text"].str.replace("\n", " ")
    prompts = prompts_of(language_model("gpt2"), tokenizer, table, Settings())
    with pytest.raises(InputError, match="remove `newline` from the targets"):
        isolation_controls.compute(language_model("gpt2"), **prompts, batch_tokens=2000)
    settings = Settings(targets=["label", "template"])
    rows = isolation_controls.compute(language_model("gpt2"), **prompts, batch_tokens=2000, settings=settings)
    assert set(rows["target"]) == {"label", "template"}


def test_both_studies_have_the_settings_under_one_key():
    own = parse({"studies": {"controls": {"queries": 3}}}).studies.controls
    assert [parse_settings(study, "{queries: 3}") for study in STUDIES] == [own, own]


def test_the_plan_counts_the_prompts_and_passes_of_the_controls():
    from pathlib import PurePosixPath

    def estimated(study, **controls):
        given = parse({"queries": 100, "seeds": [1, 2], "studies": {"controls": controls}} if controls else {"seeds": [1, 2]})
        return plan.estimate(given, PurePosixPath(f"results/studies/organism/sst2/shared-1shot/{study}.parquet"))

    for study in ("isolation_controls", "attention_controls"):
        assert estimated(study, queries=30).predicted.prompts == 60
    fewer = estimated("isolation_controls", queries=30, targets=["label"])
    assert fewer.hours < estimated("isolation_controls", queries=30).hours
