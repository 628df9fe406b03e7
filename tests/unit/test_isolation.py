import numpy as np
import pytest
import torch

from icl_lens.errors import InputError
from icl_lens.models import prefixes
from icl_lens.models.language_model import LanguageModel
from icl_lens.prompts.positions import tokenize
from icl_lens.studies import registry
from icl_lens.studies.anchors import isolated_runs, isolating
from icl_lens.studies.anchors.isolated_positions import fixed_positions, random_positions
from icl_lens.studies.anchors.isolating import Settings
from icl_lens.studies.anchors.isolation import compute as isolation
from icl_lens.studies.anchors.isolation.summary import summarise
from icl_lens.studies.run import run
from tests import artifacts

from ..conftest import sentencepiece_like, word_level
from ..families import FAMILIES, tiny
from ..prompts_table import prompts_table, shared_table
from ..reference.isolation import isolated_logits, jaccard

# Tolerance against the plain reference, relative to the largest value, in float32.
TOLERANCE = 1e-4


def every_target(**more):
    """Return settings that isolate each of the targets."""
    return Settings(targets=list(isolating.TARGETS), **more)


def positions_of(model, prompt, row, settings):
    if row["target"] == "random":
        return random_positions(prompt, settings, row["draw"], model.tokenizer.bos_token_id).tolist()
    return fixed_positions(prompt, row["target"], lambda t: model.tokenizer.decode([t])).tolist()


def check(model, prompts, rows, settings):
    """Compare each row with the plain reference at the same positions, and return the number of Jaccard indices compared."""
    plain, compared = {}, 0
    by_id = {p.prompt_id: p for p in prompts}
    for row in rows.to_dict("records"):
        prompt = by_id[row["prompt_id"]]
        ids = prompt.ids.tolist()
        k, depth = row["layers"], model.layers
        layers = range(k) if row["side"] == "first" else range(depth - k, depth)
        cut = positions_of(model, prompt, row, settings)
        if prompt.prompt_id not in plain:
            plain[prompt.prompt_id] = isolated_logits(model.network, ids, [], [], settings.blocking)[0]
        before = plain[prompt.prompt_id]
        after, weights = isolated_logits(model.network, ids, cut, layers, settings.blocking)
        for p in cut:
            assert all((weights[layer][:, p, :p] == 0).all() for layer in layers)
        margin = TOLERANCE * max(float(after.abs().max()), float(before.abs().max()))
        if is_clear(after[prompt.label_ids], 1, margin):
            assert row["prediction"] == int(after[prompt.label_ids].argmax())
            if is_clear(before[prompt.label_ids], 1, margin):
                assert row["label_agrees"] == (row["prediction"] == int(before[prompt.label_ids].argmax()))
        for size in (5, 10):
            if is_clear(after, size, margin) and is_clear(before, size, margin):
                expected = jaccard(after.topk(size).indices.tolist(), before.topk(size).indices.tolist())
                assert row[f"word_jaccard_{size}"] == pytest.approx(expected, abs=1e-12)
                compared += 1
    return compared


def is_clear(logits, size, margin):
    """Return whether the ``size`` largest exceed the others by more than two margins, so that rounding cannot swap them."""
    ordered = logits.sort(descending=True).values
    return len(ordered) <= size or float(ordered[size - 1] - ordered[size]) > 2 * margin


@pytest.mark.parametrize("blocking", ["before_softmax", "after_softmax"])
@pytest.mark.parametrize("family", FAMILIES)
def test_it_agrees_with_the_plain_reference(language_model, tokenizer, family, blocking):
    model = language_model(family)
    settings = every_target(draws=1, layers=[1, 2], blocking=blocking)
    for task, shots, make in (("sst2", 1, shared_table), ("agnews", 2, prompts_table)):
        prompts = tokenize(make(task, count=4, shots=shots), tokenizer)
        rows = isolation.compute(model, prompts, 600, settings=settings)
        assert len(rows) == len(prompts) * 4 * 2 * 2
        assert check(model, prompts, rows, settings) > len(rows)  # each row has two sizes


@pytest.mark.parametrize("scope", ["prompt", "demonstrations"])
@pytest.mark.parametrize("shots", [1, 2])
def test_label_words_of_several_tokens_and_six_classes_agree(language_model, tokenizer, shots, scope):
    model = language_model("llama")
    settings = every_target(draws=3, layers=[1], random_scope=scope)
    prompts = tokenize(shared_table("trec", count=5, shots=shots), tokenizer)
    rows = isolation.compute(model, prompts, 2000, settings=settings)
    assert check(model, prompts, rows, settings) > len(rows)


def test_a_beginning_of_sequence_token_is_never_drawn_and_the_rest_agrees():
    tokenizer = sentencepiece_like()
    model = LanguageModel("llama", tiny("llama", len(tokenizer)), tokenizer, "float32", {"name": "llama"})
    settings = every_target(draws=4, layers=[2])
    prompts = tokenize(shared_table("emoc", count=4), tokenizer)
    assert all(p.ids[0] == tokenizer.bos_token_id for p in prompts)
    drawn = [random_positions(p, Settings(), draw, tokenizer.bos_token_id) for p in prompts for draw in range(200)]
    assert min(d.min() for d in drawn) == 1
    rows = isolation.compute(model, prompts, 2000, settings=settings)
    assert check(model, prompts, rows, settings) > len(rows)


@pytest.mark.parametrize("blocking", ["before_softmax", "after_softmax"])
@pytest.mark.parametrize("family", ["gpt2", "gptj", "mistral", "gemma2"])
def test_logits_are_the_references(language_model, tokenizer, family, blocking, monkeypatch):
    model = language_model(family)
    prompts = tokenize(shared_table("emoc", count=4), tokenizer)
    seen = {}
    original = isolated_runs.runs

    def remember(*args, **kwargs):
        for batch, logits in original(*args, **kwargs):
            for place, row in zip(batch.index, logits, strict=True):
                seen.setdefault(place, []).append(row)
            yield batch, logits

    monkeypatch.setattr(isolated_runs, "runs", remember)
    settings = every_target(layers=[2], draws=1, blocking=blocking)
    rows = isolation.compute(model, prompts, 2000, settings=settings)
    for place, prompt in enumerate(prompts):
        of_prompt = rows[rows["prompt_id"] == prompt.prompt_id].to_dict("records")
        for row, logits in zip(of_prompt, seen[place][1:], strict=True):  # the first logits are those of the plain run
            layers = [0, 1] if row["side"] == "first" else [1, 2]
            cut = positions_of(model, prompt, row, settings)
            expected, _ = isolated_logits(model.network, prompt.ids.tolist(), cut, layers, blocking)
            assert (logits - expected).abs().max() <= TOLERANCE * expected.abs().max()


def test_batch_size_and_sharing_change_no_answer(language_model, tokenizer, monkeypatch):
    model = language_model("qwen2")
    prompts = tokenize(shared_table("trec", count=6), tokenizer)
    settings = every_target(draws=2, layers=[1, 3])
    shared = isolation.compute(model, prompts, 2000, settings=settings)
    assert shared.equals(isolation.compute(model, prompts, 1, settings=settings))
    monkeypatch.setattr(isolated_runs, "STATE_BYTES", 1)  # process the states of one prompt at a time
    assert shared.equals(isolation.compute(model, prompts, 2000, settings=settings))
    model.__dict__["can_resume"] = False
    assert shared.equals(isolation.compute(model, prompts, 2000, settings=settings))
    del model.__dict__["can_resume"]
    monkeypatch.setattr(
        isolated_runs, "group_by_prefix", lambda model, prompts: prefixes.groups(prompts, min_size=len(prompts) + 1)
    )
    assert shared.equals(isolation.compute(model, prompts, 2000, settings=settings))


def counted_reads(monkeypatch, model, prompts, **settings):
    """Return how often isolation in the first and in the last layer reads a shared prefix, and in how many forward passes."""
    read, original = [], prefixes.read_each
    isolation.compute(model, prompts[:2], 4000, settings=Settings(layers=[1], draws=1))  # runs the checks of the model
    with monkeypatch.context() as patched:
        patched.setattr(prefixes, "read_each", lambda network, ids, *more: read.append(ids) or original(network, ids, *more))
        isolation.compute(model, prompts, 4000, settings=Settings(layers=[1], draws=1, **settings))
    shared = [len(ids) for ids in read if len(ids[0])]
    return sum(shared), len(shared)


def test_prompts_with_one_order_share_their_beginning(language_model, tokenizer, monkeypatch):
    model = language_model("gpt2")
    prompts = [p for p in tokenize(shared_table("sst2", count=122), tokenizer)[:120] if p.seed == 42]
    assert len(prompts) == 60
    assert model.shares_prefixes
    for target in ("label", "newline", "template"):
        # The plain run, the first layers, the last layers.
        assert counted_reads(monkeypatch, model, prompts, targets=[target]) == (3, 3)
    reads, passes = counted_reads(monkeypatch, model, prompts, targets=["random"])
    assert passes == 3  # all orders in one forward pass
    # Queries of four lengths can have different numbers of tokens after the last label word with the same order.
    assert 1 + 2 * 7 < reads <= 1 + 2 * 16
    few, _ = counted_reads(monkeypatch, model, prompts, targets=["random"], orders=1)
    assert few <= 1 + 2 * 2
    separate, _ = counted_reads(monkeypatch, model, prompts, targets=["random"], draw="prompt")
    assert separate > reads + 20


def test_each_row_has_the_order_of_its_prompt_which_does_not_depend_on_the_others(language_model, tokenizer):
    model = language_model("gpt2")
    prompts = tokenize(shared_table("sst2", count=30), tokenizer)
    settings = every_target(draws=2, layers=[1])
    rows = isolation.compute(model, prompts, 2000, settings=settings)
    orders = rows.groupby("prompt_id")["order"].unique()
    assert (orders.map(len) == 1).all()  # the same for all targets and draws, so that conditions can be paired
    of_seed = {seed: [orders[p.prompt_id][0] for p in prompts if p.seed == seed] for seed in (42, 43)}
    assert all(sorted(set(dealt)) == list(range(10)) for dealt in of_seed.values())
    for part in (prompts[3:4], prompts[5::3]):
        alone = isolation.compute(model, part, 2000, settings=settings)
        kept = rows[rows["prompt_id"].isin([p.prompt_id for p in part])].reset_index(drop=True)
        assert alone.equals(kept)


def test_separate_draws_and_orders_agree(language_model, tokenizer):
    model = language_model("qwen2")
    table = shared_table("emoc", count=122).head(120)
    prompts = tokenize(table, tokenizer)
    by_draw = {}
    for draw in ("order", "prompt"):
        settings = Settings(targets=["random"], layers=[1, 2], draws=3, draw=draw)
        rows = isolation.compute(model, prompts, 20000, settings=settings)
        rows = rows.merge(table[["prompt_id", "task", "set", "seed"]], on="prompt_id").assign(model="m")
        by_draw[draw] = summarise(rows[rows["side"] == "first"]).query("task == 'emoc' and metric != 'label_loyalty'")
        assert by_draw[draw]["orders"].eq(10 if draw == "order" else 60).all()
    order, prompt = (by_draw[draw].reset_index(drop=True) for draw in ("order", "prompt"))
    assert (order["value"].between(0.05, 0.99)).all()  # isolation changes something
    half = {name: (each["prompts_high"] - each["prompts_low"]) / 2 for name, each in (("order", order), ("prompt", prompt))}
    assert ((order["value"] - prompt["value"]).abs() <= np.hypot(half["order"], half["prompt"])).mean() > 0.8
    assert half["order"].mean() > half["prompt"].mean()


def test_in_all_layers_the_first_are_the_last_and_something_changes(language_model, tokenizer):
    model = language_model("gpt2")
    prompts = tokenize(shared_table("emoc", count=8), tokenizer)
    rows = isolation.compute(model, prompts, 2000, settings=Settings(targets=["label"], layers=[3]))
    assert (rows[rows["side"] == "first"]["word_jaccard_10"].to_numpy() < 1).any()
    first, last = (rows[rows["side"] == side].drop(columns="side").reset_index(drop=True) for side in ("first", "last"))
    assert first.equals(last)  # both isolate all three layers


@pytest.mark.parametrize(
    ("depth", "expected", "main"),
    [(1, [1], 1), (3, [1], 1), (6, [1, 2, 3], 2), (13, [1, 2, 3, 4, 5, 6], 3), (14, [1, 3, 5, 7], 5), (48, [1, 3, 5, 7], 5)],
)
def test_the_numbers_of_layers_follow_the_depth(depth, expected, main):
    assert isolating.layer_counts(depth) == expected
    assert isolating.main_layers(depth) == main
    assert main in expected


def test_conditions_are_paired_by_their_draw_and_in_a_fixed_order():
    found = isolating.conditions(Settings(targets=["random", "label"], draws=2, layers=[2, 1]), 6)
    assert [tuple(c) for c in found[:4]] == [("label", 0, s, k) for s in ("first", "last") for k in (1, 2)]
    assert [tuple(c) for c in found[4:]] == [("random", d, s, k) for d in (0, 1) for s in ("first", "last") for k in (1, 2)]


def test_bad_input_is_refused_in_one_sentence(language_model, tokenizer):
    model = language_model("gpt2")
    prompts = tokenize(prompts_table(), tokenizer)
    with pytest.raises(InputError, match=r"studies\.isolation\.layers contains 9, but the model has only 3 layers"):
        isolation.compute(model, prompts, 2000, settings=every_target(layers=[9]))
    table = prompts_table()
    table.at[3, "demo_labels"] = table.at[3, "label_spans"] = []
    with pytest.raises(InputError, match="prompt 103 has no demonstration, but isolation requires label words"):
        isolation.compute(model, tokenize(table, tokenizer), 2000)
    words = word_level()
    flat = LanguageModel("flat", tiny("gpt2", len(words)), words, "float32", {})
    with pytest.raises(InputError, match="remove `newline` from the targets"):
        isolation.compute(flat, tokenize(prompts_table("agnews"), words), 2000, settings=every_target())


def test_progress_ends_at_the_number_of_prompts(language_model, tokenizer):
    done = []
    prompts = tokenize(prompts_table(count=7), tokenizer)
    isolation.compute(language_model("gpt2"), prompts, 200, done.append, every_target(draws=1))
    assert sum(done) == 7
    assert len(done) > 1


def test_half_precision_runs(language_model, tokenizer):
    model = language_model("llama")
    model.network.to(torch.bfloat16)
    prompts = tokenize(shared_table(count=5), tokenizer)
    for blocking in ("before_softmax", "after_softmax"):
        rows = isolation.compute(model, prompts, 2000, settings=every_target(blocking=blocking, draws=1))
        assert rows["word_jaccard_5"].between(0, 1).all()


def test_an_artifact_says_its_settings(checkpoint, tmp_path):
    table = prompts_table(count=4)
    metadata = artifacts.describe("prompts", "icl_lens.prompts.protocol", inputs={}, settings={}, seeds=[42, 43])
    artifacts.write(tmp_path / "prompts" / "sst2.parquet", table, metadata)
    out = tmp_path / "studies" / "isolation.parquet"
    settings = Settings(draws=2, targets=["random"])
    run(registry.study("isolation"), checkpoint, tmp_path / "prompts" / "sst2.parquet", out, settings=settings, device="cpu")
    rows, found = artifacts.read(out, "isolation")
    assert set(rows["draw"]) == {0, 1}
    assert {k: found["settings"][k] for k in ("draws", "targets", "blocking", "random_scope")} == {
        "draws": 2,
        "targets": ["random"],
        "blocking": "before_softmax",
        "random_scope": "prompt",
    }
    with pytest.raises(ValueError, match="study icl requires settings of type NoneType, got Settings"):
        run(registry.study("icl"), checkpoint, tmp_path / "prompts" / "sst2.parquet", out, settings=settings)
