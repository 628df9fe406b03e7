"""Tests of the study ch_edge_cuts against its plain reference, and of its controls."""

import numpy as np
import pytest
import torch

from icl_lens.errors import InputError
from icl_lens.models.language_model import LanguageModel
from icl_lens.prompts.positions import tokenize
from icl_lens.prompts.protocol import write_prompt
from icl_lens.studies.challenges.ch_edge_cuts import compute as edge_cuts
from icl_lens.studies.challenges.ch_edge_cuts.controls import draw_random, match_mass
from icl_lens.studies.challenges.ch_edge_cuts.plans import Condition, Planned, labelled_conditions
from icl_lens.studies.challenges.ch_edge_cuts.runs import Runner
from icl_lens.studies.challenges.ch_edge_cuts.study import Settings, Span, spans
from icl_lens.studies.challenges.token_classes import STOP_WORDS
from icl_lens.tasks.task import TASKS

from ..conftest import sentencepiece_like
from ..families import FAMILIES, WINDOWS, tiny, unsupported
from ..prompts_table import prompts_table, shared_table, words_table
from ..reference import label_words
from ..reference.edge_cuts import classes_of, cut_logits, edges_of, gold_margin
from ..reference.isolation import jaccard
from .test_isolation import is_clear

# Tolerance against the plain reference, relative to the largest value, in float32.
TOLERANCE = 1e-4

KEYS = ["rows", "columns", "start", "stop", "variant", "draw"]


@pytest.fixture
def planned(monkeypatch):
    """Return a dict that collects the planned edges of each prompt while a test runs: prompt_id -> conditions."""
    collected = {}
    original = edge_cuts.cut_each

    def remember(model, prompts, *arguments):
        for i, uncut, answers, plans in original(model, prompts, *arguments):
            collected[prompts[i].prompt_id] = plans
            yield i, uncut, answers, plans

    monkeypatch.setattr(edge_cuts, "cut_each", remember)
    return collected


def whole(each, length):
    """Return the edges of a condition as a mask of shape (T, T)."""
    mask = np.zeros((length, length), dtype=bool)
    mask[each.rows, : each.edges.shape[1]] = each.edges
    return mask


def check(model, table, prompts, rows, planned, every=1):
    """Compare each ``every``-th valid row with the plain reference, and return the largest relative difference of margins."""
    by_id = {p.prompt_id: (p, row) for p, row in zip(prompts, table.to_dict("records"), strict=True)}
    worst, overlaps = 0.0, 0
    for prompt_id, of_prompt in rows.groupby("prompt_id", sort=False):
        prompt, row = by_id[prompt_id]
        ids, length = prompt.ids.tolist(), len(prompt.ids)
        before, weights = cut_logits(model.network, ids, np.zeros((length, length), dtype=bool), ())
        attention = torch.stack([each.mean(0) for each in weights])  # (L, T, T)
        seen = (attention > 0).numpy()  # (L, T, T)
        own = int(before[prompt.label_ids].argmax())
        classes = classes_of(prompt.text, prompt.spans.tolist(), STOP_WORDS, row)
        ends = [end for _, end in row["label_spans"]]
        uncut = of_prompt.iloc[0]
        largest = float(before.abs().max())
        assert uncut["margin"] == pytest.approx(gold_margin(before[prompt.label_ids], prompt.gold), abs=TOLERANCE * largest)
        valid = of_prompt[of_prompt["valid"]].iloc[1:]
        for number, found in enumerate(valid.to_dict("records")):
            each = planned[prompt_id][Condition(*(found[key] for key in KEYS))]
            edges = whole(each, length)
            layers = range(found["start"], found["stop"])
            if found["variant"] == "set":
                expected = np.array(edges_of(classes, ends, prompt.spans, found["rows"], found["columns"])) & seen.any(0)
                assert (edges == expected).all(), found
            assert found["edges"] == sum(int((edges & seen[layer]).sum()) for layer in layers)
            if number % every:
                continue
            after, _ = cut_logits(model.network, ids, edges, layers)
            scores = after[prompt.label_ids]
            largest = max(float(after.abs().max()), float(before.abs().max()))
            margins = {
                "margin": gold_margin(scores, prompt.gold),
                "effect": gold_margin(scores, prompt.gold) - gold_margin(before[prompt.label_ids], prompt.gold),
                "own_effect": gold_margin(scores, own) - gold_margin(before[prompt.label_ids], own),
            }
            worst = max(worst, *(abs(found[name] - value) / largest for name, value in margins.items()))
            if is_clear(scores, 1, TOLERANCE * largest):
                assert found["prediction"] == int(scores.argmax())
            if is_clear(after, 5, TOLERANCE * largest) and is_clear(before, 5, TOLERANCE * largest):
                overlaps += 1
                expected = jaccard(after.topk(5).indices.tolist(), before.topk(5).indices.tolist())
                assert found["word_jaccard_5"] == pytest.approx(expected)
    assert overlaps
    return worst


@pytest.mark.parametrize("family", FAMILIES)
def test_it_agrees_with_the_plain_reference(language_model, tokenizer, family, planned):
    model = language_model(family)
    for table, every in ((shared_table("sst2", count=4), 29), (prompts_table("agnews", count=1, shots=2), 23)):
        prompts = tokenize(table, tokenizer)
        rows = edge_cuts.compute(model, prompts, 800, settings=Settings(draws=1, window_queries=1))
        assert check(model, table, prompts, rows, planned, every) <= 2 * TOLERANCE


def edge_cut_prompts(tokenizer, task="sst2", **options):
    return tokenize(shared_table(task, **options), tokenizer)


def test_sentencepiece_tokens_and_a_bos_token_agree(planned):
    tokenizer = sentencepiece_like(bos=True)
    model = LanguageModel("llama", tiny("llama", len(tokenizer)), tokenizer, "float32", {"name": "llama"})
    table = shared_table("emoc", count=4)
    prompts = tokenize(table, tokenizer)
    assert all(p.ids[0] == tokenizer.bos_token_id for p in prompts)
    rows = edge_cuts.compute(model, prompts, 800, settings=Settings(draws=2, window_queries=1))
    assert check(model, table, prompts, rows, planned, 37) <= 2 * TOLERANCE


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen2", "gpt_neox"])
def test_a_query_without_all_demonstrations_is_the_query_behind_the_first_token(language_model, tokenizer, family):
    model = language_model(family)
    prompts = edge_cut_prompts(tokenizer, count=3)
    rows = edge_cuts.compute(model, prompts, 800, settings=Settings(draws=1, window_queries=0))
    cut = rows[(rows["rows"] == "query") & (rows["columns"] == "all") & (rows["span"] == "all") & (rows["variant"] == "set")]
    for prompt, found in zip(prompts, cut.to_dict("records"), strict=True):
        length = len(prompt.ids)
        start = int(prompt.spans[:, 1].searchsorted(prompt.label_spans[-1, 1], side="right"))
        query = next(p for p in range(start, length) if prompt.text[slice(*prompt.spans[p])].strip())
        ids, positions = [prompt.ids[0], *prompt.ids[query:]], [0, *range(query, length)]
        empty = np.zeros((len(ids), len(ids)), dtype=bool)
        logits, _ = cut_logits(model.network, [int(i) for i in ids], empty, (), positions)
        expected = gold_margin(logits[prompt.label_ids], prompt.gold)
        assert found["margin"] == pytest.approx(expected, abs=TOLERANCE * float(logits.abs().max()))
        assert abs(found["effect"]) > 100 * TOLERANCE  # the demonstrations matter


def test_cutting_no_edge_changes_nothing(language_model, tokenizer):
    model = language_model("gemma2")
    prompt = edge_cut_prompts(tokenizer, count=3)[0]
    runner = Runner(model, 800, [0, 1])
    length = len(prompt.ids)
    with torch.inference_mode():
        run, plain = runner.uncut(prompt, 0, None)
        nothing = Planned(np.array([length - 1]), np.zeros((1, length), dtype=bool), 0, 0, 0.0)
        for uncut in (run, runner.before_last(prompt, run)):
            chosen = {Condition("last", "label", start, 3, "set", 0): nothing for start in (0, 1)}
            for _, answer in runner.cut(prompt, chosen, uncut):
                assert np.abs(answer.scores - plain.scores).max() <= 1e-5 * np.abs(plain.scores).max()
                assert (answer.top == plain.top).all()


def test_batch_size_sharing_and_resuming_change_no_answer(language_model, tokenizer, monkeypatch):
    model = language_model("qwen2")
    prompts = edge_cut_prompts(tokenizer, "agnews", count=4)
    settings = Settings(draws=1, window_queries=1)
    shared = edge_cuts.compute(model, prompts, 800, settings=settings)

    def require_same(others):
        for name in shared:
            if shared[name].dtype.kind == "f":
                assert np.abs(shared[name] - others[name]).max() <= 1e-4, name
            else:
                assert (shared[name] == others[name]).all(), name

    require_same(edge_cuts.compute(model, prompts, 1, settings=settings))
    monkeypatch.setattr(LanguageModel, "can_resume", False)
    require_same(edge_cuts.compute(model, prompts, 800, settings=settings))
    monkeypatch.setattr(LanguageModel, "shares_prefixes", False)
    require_same(edge_cuts.compute(model, prompts, 800, settings=settings))


def test_prompts_with_the_same_demonstrations_share_the_controls_of_these(language_model, tokenizer, planned):
    prompts = edge_cut_prompts(tokenizer, count=6)
    edge_cuts.compute(language_model("llama"), prompts, 800, settings=Settings(draws=1, window_queries=1))
    first, third = planned[prompts[0].prompt_id], planned[prompts[2].prompt_id]
    assert prompts[0].ids[: prompts[0].anchors[-1]].tolist() == prompts[2].ids[: prompts[2].anchors[-1]].tolist()
    same = {rows: [] for rows in ("last", "query", "label", "demonstration")}
    for condition in set(first) & set(third):
        one, other = first[condition], third[condition]
        if condition.variant == "random" and one and other and one.edges.shape[0] == other.edges.shape[0]:
            columns = min(one.edges.shape[1], other.edges.shape[1])
            same[condition.rows].append((one.edges[:, :columns] == other.edges[:, :columns]).all())
    assert all(same["label"])
    assert all(same["demonstration"])
    assert not all(same["last"])


# The controls, on invented attention.


def invented(rows=6, columns=40, sets=3):
    """Return sets of edges, eligible edges and the attention of two ranges of layers."""
    generator = np.random.default_rng(0)
    exists = np.tril(np.ones((columns, columns), dtype=bool), -1)[columns - rows :]  # (R, T)
    edges = exists & (generator.random((sets, rows, columns)) < 0.2)  # (S, R, T)
    eligible = exists & ~edges & (np.arange(columns) > 0)  # (S, R, T)
    attention = generator.exponential(size=(2, rows, columns)) * exists
    return edges, eligible, attention / attention.sum(-1, keepdims=True)


def test_a_random_control_has_as_many_eligible_columns_in_each_row():
    edges, eligible, _ = invented()
    counts = np.zeros(edges.shape)
    for draw in range(400):
        for number, cut in enumerate(draw_random(edges, eligible, [1, 2], draw)):
            assert cut.valid
            assert not (cut.edges & ~eligible[number]).any()
            assert (cut.edges.sum(-1) == edges[number].sum(-1)).all()
            counts[number] += cut.edges
    expected = np.where(eligible, (edges.sum(-1) / eligible.sum(-1))[..., None], 0)  # uniform over the eligible columns
    assert np.abs(counts / 400 - expected).max() < 0.13
    again = draw_random(edges, eligible, [1, 2], 7)
    assert all((a.edges == b.edges).all() for a, b in zip(again, draw_random(edges, eligible, [1, 2], 7), strict=True))


def test_a_random_control_without_enough_columns_is_not_valid():
    edges, eligible, _ = invented()
    eligible[1, 2, int(edges[1, 2].sum()) - 1 :] = False
    assert [cut.valid for cut in draw_random(edges, eligible, [1], 0)] == [True, False, True]


def test_missing_columns_are_drawn_from_all_rows():
    edges, eligible, _ = invented()
    eligible[1, 2, int(edges[1, 2].sum()) - 1 :] = False
    for row, draw in ((2, 0), (2, 1)):
        cuts = draw_random(edges, eligible, [1], draw, elsewhere=True)
        assert all(cut.valid and not (cut.edges & ~allowed).any() for cut, allowed in zip(cuts, eligible, strict=True))
        assert [(cut.edges.sum(-1) - own.sum(-1)).tolist() for cut, own in zip(cuts[::2], edges[::2], strict=True)] == [
            [0] * 6
        ] * 2
        surplus = cuts[1].edges.sum(-1) - edges[1].sum(-1)
        assert cuts[1].edges[row].sum() == eligible[1, row].sum()
        assert surplus.sum() == 0
        assert (np.delete(surplus, row) >= 0).all()
    eligible[1, :, 1:] = False
    assert [cut.valid for cut in draw_random(edges, eligible, [1], 0, elsewhere=True)] == [True, False, True]


def test_a_mass_control_has_the_attention_of_the_set_within_the_tolerance():
    edges, eligible, attention = invented()
    for tolerance in (0.05, 0.01):
        matched = match_mass(edges, eligible, attention, tolerance, [1])
        for of_range, mean in zip(matched, attention, strict=True):
            for number, cut in enumerate(of_range):
                target, reached = (mean * edges[number]).sum(), (mean * cut.edges).sum()
                assert cut.valid == (abs(reached - target) <= tolerance * target)
                assert not (cut.edges & ~eligible[number]).any()
                assert ((mean * cut.edges).sum(-1) <= (1 + tolerance + 1e-12) * (mean * edges[number]).sum(-1)).all()
    assert all(cut.valid for of_range in match_mass(edges, eligible, attention, 0.05, [1]) for cut in of_range)


def test_a_mass_control_that_cannot_reach_the_attention_of_the_set_is_not_valid():
    edges, eligible, attention = invented()
    attention[:, :, :] = np.where(edges[0], 1.0, 1e-3)
    assert [cut.valid for cut in match_mass(edges[:1], eligible[:1], attention, 0.05, [1])[0]] == [False]


# Layers, rows and errors.


def test_the_ranges_of_layers():
    assert spans(6) == [
        Span("all", 0, 6),
        Span("first half", 0, 3),
        Span("second half", 3, 6),
        *(Span("window", start, start + 2) for start in range(5)),
    ]
    assert [span[1:] for span in spans(18) if span.name == "window"] == [(0, 6), (3, 9), (6, 12), (9, 15), (12, 18)]
    assert [span[1:] for span in spans(16) if span.name == "window"][-1] == (11, 16)
    assert spans(1) == [Span("all", 0, 1), Span("second half", 0, 1), Span("window", 0, 1)]
    for layers in range(1, 60):
        assert {layer for span in spans(layers) if span.name == "window" for layer in range(*span[1:])} == set(range(layers))


def test_windows_of_all_rows_are_cut_for_the_first_prompts_of_each_seed_only(language_model, tokenizer):
    prompts = edge_cut_prompts(tokenizer, count=4)
    settings = Settings(draws=1, window_queries=1)
    rows = edge_cuts.compute(language_model("llama"), prompts, 800, settings=settings)
    for prompt in prompts:
        of_prompt = rows[rows["prompt_id"] == prompt.prompt_id]
        windowed = of_prompt[(of_prompt["span"] == "window") & (of_prompt["rows"] != "last")]
        assert bool(len(windowed)) == (prompt.place == 0)
        assert len(of_prompt) == 1 + len(labelled_conditions(3, settings, prompt.place == 0))
    invalid = rows[~rows["valid"]]
    assert (invalid["edges"] == 0).all()
    assert (invalid["effect"] == 0).all()


def test_windows_hide_edges_that_are_then_not_counted(tokenizer, language_model, planned):
    table = shared_table("agnews", count=3)
    prompts = tokenize(table, tokenizer)
    rows = edge_cuts.compute(language_model("gemma3_text"), prompts, 800, settings=Settings(draws=1, window_queries=0))
    assert WINDOWS["gemma3_text"] == {0: 8, 2: 8}
    cut = rows[(rows["rows"] == "last") & (rows["columns"] == "label") & (rows["variant"] == "set") & (rows["span"] == "all")]
    for prompt, edges in zip(prompts, cut["edges"], strict=True):
        labels = int((np.array(planned[prompt.prompt_id][Condition("last", "label", 0, 3, "set", 0)].edges)).sum())
        assert edges == labels  # only layer 1 sees beyond its window


def test_a_family_without_attention_is_an_error(tokenizer):
    network, reason = unsupported("mamba", len(tokenizer))
    model = LanguageModel("m", network, tokenizer, "float32", {"name": "m"})
    with pytest.raises(InputError, match=reason):
        edge_cuts.compute(model, edge_cut_prompts(tokenizer, count=1), 800)


def test_a_prompt_without_demonstrations_is_an_error(language_model, tokenizer):
    table = prompts_table(count=1)
    row = {**table.iloc[0].to_dict(), **write_prompt(TASKS["sst2"], [], [], "a good film"), "demo_labels": []}
    prompts = tokenize(type(table)([row]), tokenizer)
    with pytest.raises(InputError, match="prompt 100 has no demonstrations"):
        edge_cuts.compute(language_model("llama"), prompts, 800)


@pytest.mark.parametrize("family", ["gpt2", "gptj", "gemma3_text", "qwen2"])
@pytest.mark.parametrize("shares", [True, False])
def test_whole_label_words_agree_with_the_plain_reference(language_model, tokenizer, monkeypatch, planned, family, shares):
    monkeypatch.setattr(LanguageModel, "shares_prefixes", shares)
    model = language_model(family)
    table = words_table((" very positive", " very negative"), count=2, shared=True)
    prompts = tokenize(table, tokenizer, score="whole")
    assert len(prompts[0].label_words.paths) > 1
    rows = edge_cuts.compute(model, prompts, 800, settings=Settings(draws=1, window_queries=1))
    worst = 0.0
    for number, found in enumerate(rows[rows["valid"]].to_dict("records")):
        if number % 23 and found["rows"] != "none":
            continue
        prompt = prompts[found["prompt_id"]]
        length, edit = len(prompt.ids), None
        if found["rows"] != "none":
            each = planned[found["prompt_id"]][Condition(*(found[key] for key in KEYS))]
            edit = cutting(whole(each, length), range(found["start"], found["stop"]))
        with torch.no_grad():
            scores = label_words.scores(model.network, prompt.ids.tolist(), prompt.label_words.tokens, edit)
        expected = gold_margin(scores, prompt.gold)
        worst = max(worst, abs(found["margin"] - expected) / float(scores.abs().max()))
        if is_clear(scores, 1, TOLERANCE * float(scores.abs().max())):
            assert found["prediction"] == int(scores.argmax())
    assert worst <= TOLERANCE


def cutting(edges, layers):
    """Return an edit that cuts edges, shape (T, T), also those of the appended tokens, which are like the last position."""

    def edited(layer, weights):
        if layer not in layers:
            return weights
        cut = torch.zeros(weights.shape[-2:], dtype=torch.bool)
        length = len(edges)
        cut[:length, :length] = torch.from_numpy(edges)
        cut[length:] = cut[length - 1]
        kept = weights * ~cut
        return kept / kept.sum(-1, keepdim=True)

    return edited
