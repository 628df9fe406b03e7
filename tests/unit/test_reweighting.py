import dataclasses

import numpy as np
import pytest
import torch

from icl_lens.artifacts.tensors import read as read_tensors
from icl_lens.errors import InputError
from icl_lens.models import batching, prefixes
from icl_lens.models.logits import last_logits
from icl_lens.prompts.positions import tokenize
from icl_lens.results import audit
from icl_lens.studies import registry
from icl_lens.studies.anchors.reweighting import compute as reweighting
from icl_lens.studies.anchors.reweighting.study import METHODS, Settings
from icl_lens.studies.inputs import Given
from icl_lens.studies.run import run as run_study
from tests import artifacts

from ..families import FAMILIES
from ..prompts_table import shared_table
from ..reference import reweighting as reference

# Largest allowed difference from the plain reference in float32, as a share of the largest value.
TOLERANCE = 1e-4

# Few steps, each large enough to change the result.
SETTINGS = Settings(epochs=2, learning_rate=0.05)


def tables(task="agnews", count=7, seed=42):
    """Return prompts of one seed that share their demonstrations, and training prompts with the same demonstrations."""
    whole = shared_table(task, count=2 * count + 2)
    whole = whole[whole["text"].str.startswith(whole["text"][0][: whole["label_spans"][0][-1][1]])]
    whole = whole.assign(seed=seed, set="shared-1shot").reset_index(drop=True)
    half = len(whole) // 2
    return whole[:half], whole[half:].reset_index(drop=True)


def few(table):
    """Return the same prompts with two demonstrations per class, by repeating their own demonstrations."""
    rows = table.to_dict("records")
    for row in rows:
        end = row["label_spans"][-1][1] + 1  # the newline before the query
        moved = {
            name: [[edge + end for edge in span] for span in row[name]]
            for name in ("label_spans", "text_spans", "prefix_spans")
        }
        pieces = len(row["demo_labels"]) * 2
        row |= {
            "shots": 2,
            "text": row["text"][:end] + row["text"],
            "query_span": [edge + end for edge in row["query_span"]],
            "label_spans": [*row["label_spans"], *moved["label_spans"]],
            "text_spans": [*row["text_spans"], *moved["text_spans"]],
            "prefix_spans": [*row["prefix_spans"][:pieces], *moved["prefix_spans"]],
            "demo_labels": row["demo_labels"] * 2,
            "demo_indices": row["demo_indices"] * 2,
        }
    return type(table)(rows)


def inputs(tokenizer):
    table, auxiliary = tables()
    return tokenize(table, tokenizer), tokenize(auxiliary, tokenizer), tokenize(few(table), tokenizer)


def run(model, tokenizer, settings=SETTINGS, budget=2000):
    prompts, auxiliary, more = inputs(tokenizer)
    return reweighting.compute(
        model, prompts, budget, settings=settings, auxiliary=auxiliary, few_shot=more, shots=2, prompt_shots=1
    )


def close(found, expected):
    return np.abs(found - expected).max() <= TOLERANCE * np.abs(expected).max()


def log_probs(rows, method):
    return np.stack(rows[rows["method"] == method]["class_log_probs"])


@pytest.mark.parametrize("family", FAMILIES)
def test_beta_losses_and_answers_agree_with_the_plain_reference(language_model, tokenizer, family):
    model = language_model(family)
    prompts, auxiliary, more = inputs(tokenizer)
    assert len(prompts) > 2 and len(auxiliary) > 2  # noqa: PT018 - both check that there is something to compare
    rows, tensors = run(model, tokenizer)
    generator = np.random.default_rng([SETTINGS.seed, 42])
    orders = [generator.permutation(len(auxiliary)).tolist() for _ in range(SETTINGS.epochs)]
    examples = [(p.ids.tolist(), p.anchors.tolist(), p.label_ids.tolist(), p.gold) for p in auxiliary]
    beta, losses = reference.train(model.network, examples, orders, 4, SETTINGS.learning_rate)
    assert np.abs(beta.numpy()).max() > 0.05
    assert close(tensors["beta_42"], beta.numpy())
    assert close(tensors["losses_42"], np.array(losses))
    assert tensors["classes_42"].tolist() == prompts[0].demo_labels.tolist()
    nothing = torch.zeros_like(beta)
    for method, shown, scale in (
        ("vanilla", prompts, nothing),
        ("reweighted", prompts, beta),
        ("few_shot", more, torch.zeros(3, 4, 8)),
    ):
        with torch.no_grad():
            plain = torch.stack(
                [
                    reference.class_logits(model.network, p.ids.tolist(), p.anchors.tolist(), p.label_ids.tolist(), scale)
                    for p in shown
                ]
            ).log_softmax(-1)
        assert close(log_probs(rows, method), plain.numpy())
        assert rows[rows["method"] == method]["prediction"].tolist() == plain.argmax(-1).tolist()
    assert not np.allclose(log_probs(rows, "vanilla"), log_probs(rows, "reweighted"), atol=1e-3)


def test_rows_are_every_prompt_by_every_method(language_model, tokenizer):
    rows, _ = run(language_model("gpt2"), tokenizer)
    prompts, _, _ = inputs(tokenizer)
    assert rows["prompt_id"].tolist() == np.repeat([p.prompt_id for p in prompts], 3).tolist()
    assert rows["method"].tolist() == list(METHODS) * len(prompts)
    assert rows.groupby("method")["shots"].first().to_dict() == {"vanilla": 1, "few_shot": 2, "reweighted": 1}
    assert rows["gold"].tolist() == np.repeat([p.gold for p in prompts], 3).tolist()


@pytest.mark.parametrize("family", ["gpt2", "gptj", "gemma2", "mistral"])
def test_neither_batch_size_nor_shared_beginnings_change_anything(language_model, tokenizer, family):
    model = language_model(family)
    rows, tensors = run(model, tokenizer)
    single, _ = run(model, tokenizer, budget=1)
    whole = language_model(family)
    whole.__dict__["shares_prefixes"] = False
    unshared, beta = run(whole, tokenizer)
    assert close(beta["beta_42"], tensors["beta_42"])
    for other in (single, unshared):
        for method in METHODS:
            assert close(log_probs(other, method), log_probs(rows, method))


def test_training_reads_each_beginning_once_and_then_single_tokens(language_model, tokenizer):
    model = language_model("gpt2")
    _, auxiliary, _ = inputs(tokenizer)
    assert model.shares_prefixes
    assert model.last_row_mode
    read = []
    model.network.register_forward_pre_hook(lambda m, a, k: read.append(tuple(k["input_ids"].shape)), with_kwargs=True)
    reweighting.train(model, {42: auxiliary}, SETTINGS)
    (group,) = prefixes.groups(auxiliary)
    tails = [len(p.ids) - len(group.ids) - 1 for p in auxiliary if len(p.ids) > len(group.ids) + 1]
    assert read[:2] == [(1, len(group.ids)), (len(tails), max(tails))]
    assert read[2:] == [(1, 1)] * SETTINGS.epochs * len(auxiliary)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_seed_learns_side_by_side_what_it_learns_alone(language_model, tokenizer, family):
    model = language_model(family)
    _, auxiliary, _ = inputs(tokenizer)
    # A second seed with other prompts: longer ones in another order. The first prompts of the first seed end with more text.
    longer = [dataclasses.replace(p, ids=np.concatenate([p.ids, p.ids[-9:]]), gold=(p.gold + 1) % 4) for p in auxiliary[::-1]]
    runs = {42: auxiliary, 43: longer}
    assert model.shares_prefixes
    assert model.last_row_mode
    rows = []
    handle = model.network.register_forward_pre_hook(lambda m, a, k: rows.append(len(k["input_ids"])), with_kwargs=True)
    together = reweighting.train(model, runs, SETTINGS)
    handle.remove()
    assert rows.count(2) == SETTINGS.epochs * len(auxiliary)
    for seed, examples in runs.items():
        (alone,) = reweighting.train(model, {seed: examples}, SETTINGS, batch_tokens=1).values()
        assert close(together[seed].beta, alone.beta)
        assert close(together[seed].losses, alone.losses)
    assert not np.allclose(together[42].beta, together[43].beta, atol=0.01)


def test_seeds_are_trained_apart_where_there_is_no_room(language_model, tokenizer):
    model = language_model("gpt2")
    _, auxiliary, _ = inputs(tokenizer)
    assert model.shares_prefixes
    assert model.last_row_mode
    rows = []
    model.network.register_forward_pre_hook(lambda m, a, k: rows.append(len(k["input_ids"])), with_kwargs=True)
    found = reweighting.train(model, {43: auxiliary, 42: auxiliary, 44: auxiliary[1:]}, SETTINGS, batch_tokens=10)
    assert sorted(found) == [42, 43, 44]
    assert set(rows) == {1}
    assert rows.count(1) >= SETTINGS.epochs * (3 * len(auxiliary) - 1)


def test_training_leaves_the_model_as_it_is_and_without_gradients(language_model, tokenizer):
    model = language_model("llama")
    before = {name: p.clone() for name, p in model.network.named_parameters()}
    kernel = model.network.config._attn_implementation
    run(model, tokenizer)
    assert all(torch.equal(before[name], p) and p.grad is None for name, p in model.network.named_parameters())
    assert model.network.config._attn_implementation == kernel


def test_the_seed_of_the_settings_and_of_the_run_decide_the_order(language_model, tokenizer):
    model = language_model("gpt2")
    _, auxiliary, _ = inputs(tokenizer)
    first, same, other, another = (
        reweighting.train(model, {seed: auxiliary}, settings)[seed].beta
        for seed, settings in (
            (42, SETTINGS),
            (42, SETTINGS),
            (43, SETTINGS),
            (42, SETTINGS.model_copy(update={"seed": 1})),
        )
    )
    assert np.array_equal(first, same)
    assert not np.array_equal(first, other)
    assert not np.array_equal(first, another)


def test_the_loss_falls_where_there_is_something_to_learn(language_model, tokenizer):
    _, tensors = run(language_model("gpt2"), tokenizer, Settings(epochs=20, learning_rate=0.05))
    assert tensors["losses_42"][-1] < tensors["losses_42"][0] - 0.05


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_near(language_model, tokenizer, dtype):
    model = language_model("llama")
    _, full = run(model, tokenizer)
    model.network.to(dtype)
    rows, half = run(model, tokenizer)
    assert half["beta_42"].dtype == np.float32
    assert np.isfinite(np.stack(rows["class_log_probs"])).all()
    assert np.corrcoef(half["beta_42"].ravel(), full["beta_42"].ravel())[0, 1] > 0.9


def test_training_that_leaves_the_numbers_range_is_told(language_model, tokenizer):
    model = language_model("gpt2")
    with pytest.raises(InputError, match="seed 42: training exceeds the range of float32"):
        run(model, tokenizer, Settings(epochs=2, learning_rate=1e30))


def prepared(model, tokenizer, settings=SETTINGS, **changed):
    table, auxiliary = tables()
    read = {"table": table, "train": auxiliary, "baseline": few(table)} | changed
    further = {key: read[key] for key in ("train", "baseline")}
    given = Given(model, read["table"], further, settings, "auto", False, lambda rows: tokenize(rows, tokenizer))
    return reweighting.prepare(given).more


def test_the_baseline_has_as_many_demonstrations_as_the_context_holds(language_model, tokenizer):
    model = language_model("gpt2")
    assert prepared(model, tokenizer)["shots"] == 2
    longest = max(len(p.ids) for p in inputs(tokenizer)[2])
    assert prepared(language_model("gpt2", context=longest), tokenizer)["shots"] == 2
    found = prepared(language_model("gpt2", context=longest - 1), tokenizer)
    assert found["shots"] == 1
    assert [p.ids.tolist() for p in found["few_shot"]] == [p.ids.tolist() for p in inputs(tokenizer)[0]]


def test_tables_that_do_not_go_together_are_told(language_model, tokenizer):
    model = language_model("gpt2")
    table, auxiliary = tables()
    with pytest.raises(InputError, match="seed 42: there are no training prompts"):
        prepared(model, tokenizer, train=auxiliary.assign(seed=43))
    strange = auxiliary.assign(demo_indices=[[9, 8, 7, 6]] * len(auxiliary))
    with pytest.raises(InputError, match="seed 42: the training prompts and the prompts have different demonstrations"):
        prepared(model, tokenizer, train=strange)
    with pytest.raises(InputError, match="the prompts with more demonstrations and the prompts have different queries"):
        prepared(model, tokenizer, baseline=few(table).assign(query_index=0))
    with pytest.raises(InputError, match="the prompts with more demonstrations and the prompts have different queries"):
        prepared(model, tokenizer, baseline=few(table)[1:])
    fresh = table.assign(demo_indices=[[n, 1, 2, 3] for n in range(len(table))])
    with pytest.raises(InputError, match=r"seed 42: the prompts have [0-9]+ different sets of demonstrations"):
        prepared(model, tokenizer, table=fresh)


def test_a_prompt_without_demonstrations_and_a_seed_without_training_texts_are_refused(language_model, tokenizer):
    model = language_model("gpt2")
    prompts, _, _ = inputs(tokenizer)
    bare = dataclasses.replace(prompts[0], anchors=np.empty(0, dtype=np.int64))
    with pytest.raises(InputError, match="has no demonstration, but re-weighting requires label words"):
        reweighting.compute(model, [bare], 2000, auxiliary=[], few_shot=[], shots=2, prompt_shots=1)
    with pytest.raises(InputError, match="seed 42: no training prompt fits the context of gpt2"):
        reweighting.compute(model, prompts, 2000, auxiliary=[], few_shot=prompts, shots=1, prompt_shots=1)


def test_a_continued_beginning_is_the_beginning_read_at_once(language_model, tokenizer):
    model = language_model("mistral")
    _, auxiliary, _ = inputs(tokenizer)
    ids = auxiliary[0].ids
    with torch.inference_mode():
        whole = prefixes.read(model.network, ids[:40])
        parts = prefixes.read(model.network, ids[25:40], prefixes.read(model.network, ids[:25]))
        assert prefixes.read(model.network, ids[:0], whole) is whole
        logits = [last_logits(model, next(batching.batches(model, auxiliary, 1, [0], prefix))) for prefix in (whole, parts)]
    assert parts.length == 40
    assert parts.keys[0].shape[-2] == 15
    assert close(logits[1].numpy(), logits[0].numpy())


@pytest.mark.parametrize("budget", [None, 1, 40])
@pytest.mark.parametrize("family", FAMILIES)
def test_beginnings_read_side_by_side_are_those_read_alone(language_model, tokenizer, family, budget):
    model = language_model(family)
    ids = inputs(tokenizer)[1][0].ids
    with torch.inference_mode():
        common = prefixes.read(model.network, ids[:20])
        rest = [ids[20:31], ids[21:21], ids[23:40], ids[20:21]]
        found = prefixes.read_each(model.network, rest, common, budget)
        assert found[1] is common
        for one, own in zip(found, rest, strict=True):
            alone = prefixes.read(model.network, own, common)
            assert one.length == alone.length == 20 + len(own)
            for many, few in zip((*one.keys, *one.values), (*alone.keys, *alone.values), strict=True):
                assert close(many.numpy(), few.numpy())
                assert many.untyped_storage().nbytes() == few.untyped_storage().nbytes(), "no more is held"


def test_the_artifact_and_its_tensors_are_written_together_and_audited(tmp_path, checkpoint):
    table, auxiliary = tables()
    paths = {}
    for name, rows in {"shared-1shot": table, "shared-1shot-auxiliary": auxiliary, "shared-2shot": few(table)}.items():
        paths[name] = tmp_path / f"prompts/agnews/{name}.parquet"
        artifacts.write(
            paths[name], rows.assign(set=name), artifacts.describe("prompts", "icl_lens.prompts.protocol", {}, {}, [42])
        )
    out = tmp_path / "studies/tiny/agnews/shared-1shot/reweighting.parquet"
    further = {"train": paths["shared-1shot-auxiliary"], "baseline": paths["shared-2shot"]}
    study = registry.study("reweighting")
    run_study(study, checkpoint, paths["shared-1shot"], out, settings=SETTINGS, further=further, device="cpu")
    rows, metadata = artifacts.read(out, "reweighting")
    tensors, header = read_tensors(out.with_suffix(".safetensors"))
    assert set(rows["method"]) == set(METHODS)
    assert tensors["beta_42"].shape == (3, 4, 4)
    assert tensors["losses_42"].shape == (2,)
    assert header["settings"] == metadata["settings"]
    assert len(metadata["inputs"]) == 3
    assert audit.audit(tmp_path, registry.schemas())[1] == []
    beside = out.with_suffix(".safetensors")
    beside.write_bytes(beside.read_bytes()[:-1] + b"\0")
    (fault,) = audit.audit(tmp_path, registry.schemas())[1]
    assert "reweighting.safetensors has changed since" in fault.sentence
    assert audit.repair(tmp_path, registry.schemas()) == [out, beside]


def test_damaged_tensors_are_told(tmp_path):
    path = tmp_path / "x.safetensors"
    with pytest.raises(InputError, match="does not exist"):
        read_tensors(path)
    path.write_bytes(b"nothing")
    with pytest.raises(InputError, match="is not a valid safetensors file"):
        read_tensors(path)
