import copy
import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch

from icl_lens.attention.head_outputs import head_outputs
from icl_lens.errors import InputError
from icl_lens.models.edges import KINDS, count_edges
from icl_lens.models.language_model import LanguageModel
from icl_lens.prompts.label_words import LabelWords
from icl_lens.prompts.positions import tokenize
from icl_lens.report import claims
from icl_lens.statistics.resampling import Bootstrap
from icl_lens.studies.anchors.saliency import compute as saliency
from icl_lens.studies.challenges.ch_saliency import compute as ch_saliency
from icl_lens.studies.challenges.ch_saliency import summary
from icl_lens.studies.challenges.ch_saliency.edge_classes import existing_classes, find_classes
from icl_lens.studies.challenges.ch_saliency.names import ATTRIBUTIONS, BEFORE_QUERY, EDGES, LAYER, TRUTHS
from icl_lens.studies.challenges.ch_saliency.reruns import Reruns
from icl_lens.studies.challenges.ch_saliency.study import Settings
from icl_lens.studies.challenges.ch_saliency.token_tree import token_tree
from icl_lens.studies.challenges.edge_sets import SETS
from icl_lens.studies.challenges.edges import find_edges
from icl_lens.studies.challenges.token_classes import token_classes

from ..conftest import REPOSITORY
from ..families import FAMILIES, UNSUPPORTED, WINDOWS, unsupported
from ..prompts_table import prompts_table, words_table
from ..reference import ch_saliency as reference

# Largest allowed difference from the plain reference, as a share of the largest value.
TOLERANCE = 1e-4

LABEL_WORDS = {
    "alike": (" very positive", " very negative"),
    "one token and several": (" Negative", " very positive", " very good"),
    "scripts": (" 好", " 坏了"),
}

STEPS = 3
# Classes that the reference computes for each family; the others are further masks of the same code.
SOME = ("wp", "pq", "ww", "last -> content", "query -> all", "label -> text", "demonstration -> earlier", LAYER)


def plain_of(family, model, prompt):
    """Return reference runs in float64, which transformers' grouped products of DeepSeek-V3 do not support."""
    network = copy.deepcopy(model.network)
    return reference.Plain(
        network if family == "deepseek_v3" else network.double(),
        prompt.ids.tolist(),
        prompt.label_ids.tolist(),
        prompt.label_words.tokens if prompt.label_words else None,
    )


def windows_of(family, length):
    """Return for each layer which positions can be seen, shape (T, T)."""
    rows, columns = np.indices((length, length))
    return [(columns <= rows) & (rows - columns < WINDOWS.get(family, {}).get(layer, length)) for layer in range(3)]


def worst(found, expected):
    found, expected = np.concatenate([np.ravel(x) for x in found]), np.concatenate([np.ravel(x) for x in expected])
    return np.abs(found - expected).max() / np.abs(expected).max()


def select(rows, layer, answer, quantity, control=False):
    mask = (rows["layer"] == layer) & (rows["answer"] == answer) & (rows["quantity"] == quantity)
    return rows[mask & (rows["control"] == control)].set_index("edges")


@pytest.mark.parametrize("family", FAMILIES)
def test_it_agrees_with_the_plain_reference(language_model, tokenizer, family):
    model = language_model(family, layers=2)
    prompt = tokenize(prompts_table("sst2", count=2), tokenizer)[1]
    assert_agreement(family, model, prompt)


def assert_agreement(family, model, prompt):
    """Compare all results of a prompt in two layers with the plain reference."""
    rows = ch_saliency.compute(model, [prompt], 400, settings=Settings(steps=STEPS, random=False))
    plain = plain_of(family, model, prompt)
    own = int(plain.before.argmax())
    classes, length = plain_classes(plain, prompt), len(prompt.ids)
    positions = np.array([name if isinstance(name, int) else length - 1 + len(name) for name in plain.names])
    found, expected = {}, {}
    for layer, seen in enumerate(windows_of(family, length + prompt.appended)[:2]):
        seen = torch.from_numpy(seen[np.ix_(positions, positions)])
        edges = {name: classes[name] & seen for name in SOME}
        zeroed = plain.zeroed(layer) if layer else None  # each layer takes a run per token
        for answer, quantity in (("gold", "loss"), ("own", "margin")):
            y = prompt.gold if answer == "gold" else own
            of = select(rows, layer, answer, quantity)
            assert of.at["wp", "before"] == pytest.approx(float(reference.FUNCTIONS[quantity](plain.before, y)), rel=1e-4)
            attributed = reference.attributions(plain, layer, y, quantity, edges, STEPS)
            truths = reference.truths(plain, layer, y, quantity, edges)
            heads = reference.heads(plain, layer, y, quantity, STEPS)
            for name, mask in edges.items():
                if not mask.any():
                    assert name not in of.index
                    continue
                values = {**attributed[name], "truth_post": truths[name][0], "truth_pre": truths[name][1]}
                if zeroed is not None:
                    values["value_zeroing"] = float(zeroed[mask].sum())
                for key, value in {**values, **(heads if name == LAYER else {})}.items():
                    found.setdefault((key, quantity), []).append(of.at[name, key])
                    expected.setdefault((key, quantity), []).append(value)
    differences = {key: worst(found[key], expected[key]) for key in found}
    assert len(differences) == 2 * 15
    assert max(differences.values()) <= TOLERANCE, differences


def plain_classes(plain, prompt):
    """Return the edges of each class, from those between tokens of the prompt, which test_token_classes compares."""
    known = token_classes(prompt)
    groups = [prompt.anchors[prompt.anchor_demonstrations == k].tolist() for k in range(len(prompt.demo_labels))]
    return plain.classes({f"{s.rows} -> {s.columns}": torch.from_numpy(find_edges(known, s)) for s in SETS}, groups)


def one_path(prompt):
    """Return the prompt with label words of which the second begins with all tokens of the first but the last."""
    ids = prompt.ids.tolist()
    return dataclasses.replace(prompt, label_words=LabelWords(((ids[2], ids[5]), (ids[2], ids[9], ids[4]))))


@pytest.mark.parametrize(
    ("family", "words", "anchor"),
    [
        ("gpt2", "alike", "all"),
        ("gemma3_text", "alike", "first"),
        ("llama", "one token and several", "last"),
        ("gptj", "scripts", "all"),
    ],
)
def test_whole_label_words_agree_with_the_plain_reference(language_model, tokenizer, family, words, anchor):
    prompt = tokenize(words_table(LABEL_WORDS[words], count=2), tokenizer, score="whole", anchor=anchor)[1]
    assert len(prompt.label_words.paths) > 1
    assert_agreement(family, language_model(family, layers=2), prompt)


def test_label_words_with_a_shared_beginning_agree_with_the_plain_reference(language_model, tokenizer):
    prompt = one_path(tokenize(words_table(LABEL_WORDS["alike"], count=2), tokenizer, score="whole")[1])
    assert prompt.label_words.paths == ((prompt.ids[2], prompt.ids[9]),)
    assert_agreement("gemma2", language_model("gemma2", layers=2), prompt)


@pytest.mark.parametrize("words", LABEL_WORDS)
def test_the_edges_of_whole_label_words_are_those_of_the_papers_study(tokenizer, words):
    for anchor in ("first", "all"):
        for prompt in tokenize(words_table(LABEL_WORDS[words]), tokenizer, score="whole", anchor=anchor):
            classes = find_classes(prompt)
            assert [classes[kind].sum() for kind in KINDS] == count_edges([prompt])[:, 0].tolist()
            rows, columns = np.indices((len(prompt.ids) + prompt.appended,) * 2)
            window = (columns <= rows) & (rows - columns < 9)
            found = {each.name: each.edges.sum() for each in existing_classes(prompt, classes, window, None)}
            expected = count_edges([prompt], torch.from_numpy(window))[:, 0].tolist()
            assert [found.get(kind, 0) for kind in KINDS] == expected


def test_words_of_one_token_have_the_results_of_first_tokens(language_model, tokenizer):
    model = language_model("llama", layers=2)
    table = prompts_table("sst2", count=1)
    first, whole = (
        ch_saliency.compute(model, tokenize(table, tokenizer, score=score), 1000, settings=Settings(steps=2))
        for score in ("first", "whole")
    )
    for name in (*ATTRIBUTIONS, *TRUTHS, "before", "heads"):
        assert worst(whole[name], first[name]) <= TOLERANCE, name


def test_random_edges_agree_with_the_plain_reference(language_model, tokenizer):
    model = language_model("llama", layers=2)
    prompt = tokenize(prompts_table("agnews", count=1), tokenizer)[0]
    rows = select(ch_saliency.compute(model, [prompt], 300, settings=Settings(steps=1, seed=4)), 0, "gold", "loss", True)
    plain = plain_of("llama", model, prompt)
    length = len(prompt.ids)
    drawn = {each.name: each.edges for each in existing_classes(prompt, find_classes(prompt), None, 4) if each.control}
    assert set(rows.index) == set(drawn)
    truths = reference.truths(plain, 0, prompt.gold, "loss", {name: torch.from_numpy(mask) for name, mask in drawn.items()})
    for number, name in enumerate([*EDGES]):
        order = np.random.default_rng([4, prompt.seed, prompt.prompt_id, number]).random((2, length, length))
        edges = find_classes(prompt)[name]
        seen = np.tril(np.ones((length, length), dtype=bool))
        expected = reference.random_edges(edges, seen, order, token_classes(prompt).query[0])
        assert (expected is not None and edges.any()) == (name in drawn), name
        if name in drawn:
            assert (drawn[name] == expected).all(), name
    assert worst(rows["truth_post"], [truths[name][0] for name in rows.index]) <= TOLERANCE
    assert worst(rows["truth_pre"], [truths[name][1] for name in rows.index]) <= TOLERANCE


def test_edges_of_whole_label_words_are_those_of_the_plain_reference_and_random_ones_are_cut_alike(language_model, tokenizer):
    model = language_model("llama", layers=2)
    words = LABEL_WORDS["one token and several"]
    prompt = tokenize(words_table(words, count=2), tokenizer, score="whole", anchor="all")[1]
    a, b, c, d = np.unique(prompt.ids)[:4].tolist()
    prompt = dataclasses.replace(prompt, label_words=LabelWords(((a, b), (c, d), (a, d, b))))
    plain, tree, length = plain_of("llama", model, prompt), token_tree(prompt), len(prompt.ids)
    paths = prompt.label_words.paths
    places = zip(tree.rows.tolist(), tree.positions.tolist(), strict=True)
    names = [place if place < length else paths[row][: place - length + 1] for row, place in places]
    assert names != plain.names, "the order of the appended tokens does not matter"
    nodes = [names.index(name) for name in plain.names]
    found, expected = find_classes(prompt), plain_classes(plain, prompt)
    assert set(found) == set(expected) - {"last -> label"}
    for name, edges in found.items():
        assert (edges[np.ix_(nodes, nodes)] == expected[name].numpy()).all(), name
    rows = select(ch_saliency.compute(model, [prompt], 300, settings=Settings(steps=1)), 0, "gold", "loss", True)
    drawn = {each.name: each.edges for each in existing_classes(prompt, found, None, 0) if each.control}
    assert set(rows.index) == set(drawn) >= {"pq", "wp", "last -> all"}
    masks = {name: torch.from_numpy(edges[np.ix_(nodes, nodes)]) for name, edges in drawn.items()}
    truths = reference.truths(plain, 0, prompt.gold, "loss", masks)
    assert worst(rows["truth_post"], [truths[name][0] for name in rows.index]) <= TOLERANCE
    assert worst(rows["truth_pre"], [truths[name][1] for name in rows.index]) <= TOLERANCE


@pytest.mark.parametrize("score", ["first", "whole"])
def test_random_edges_have_the_number_of_the_class(tokenizer, score):
    table = prompts_table("agnews", count=3, shots=2) if score == "first" else words_table(LABEL_WORDS["alike"])
    for prompt in tokenize(table, tokenizer, score=score):
        sees, query = token_tree(prompt).sees, token_classes(prompt).query[0]
        classes = {(each.name, each.control): each.edges for each in existing_classes(prompt, find_classes(prompt), None, 0)}
        assert ("ww", True) not in classes
        for (name, control), edges in classes.items():
            if control:
                own = classes[name, False]
                assert not (edges & own).any()
                assert edges.sum() == own.sum()
                assert not np.triu(edges).any()
                assert not (edges & ~sees).any()
                assert not edges[:, 0].any()
                candidates = np.tril(sees & ~own, -1)[:, 1:].sum(1)
                least = np.minimum(own.sum(1), candidates)
                assert (edges.sum(1) >= least).all(), name
                assert (edges.sum(1) == least)[query:].all(), name


@pytest.fixture
def reruns(language_model, tokenizer):
    """Return the plain run of a prompt, with the open context, the prompt and the edges of its classes."""
    model = language_model("gpt2")
    assert model.supports_single_row
    assert model.last_row_mode
    assert model.can_resume
    prompt = tokenize(prompts_table("sst2", count=1), tokenizer)[0]
    with head_outputs(model.network) as edit:
        yield Reruns(model, prompt, edit, 4000), prompt, find_classes(prompt)


def test_integrated_gradients_along_a_class_alone_are_the_effect_of_its_cut(reruns):
    runs, prompt, classes = reruns
    for layer in range(2):
        heads = runs.heads[layer]
        weights = heads.scores()[0].softmax(-1)
        for name in ("wp", "pq", "query -> all", "label -> text"):
            cut = ch_saliency.cut_outputs(weights, heads.values()[0], torch.from_numpy(classes[name])[None])[0]
            (path,) = ch_saliency.integrate(runs, layer, [prompt.gold], 200, base=cut)
            forecast = -float((path.of_margin * (heads.outputs[0] - cut)).sum())
            (after,) = ch_saliency._values(runs.run(layer, 0, 1, lambda _, cut=cut: cut[None]), [prompt.gold])
            (before,) = ch_saliency._values(runs.scores[None], [prompt.gold])
            assert forecast == pytest.approx(after[0, 1] - before[0, 1], rel=1e-3, abs=1e-5)
            forecast = -float((path.of_loss * (heads.outputs[0] - cut)).sum())
            assert forecast == pytest.approx(after[0, 0] - before[0, 0], rel=1e-3, abs=1e-5)


def test_integrated_gradients_become_complete_with_more_points(language_model, tokenizer):
    prompts = tokenize(prompts_table("sst2", count=2), tokenizer)
    errors = []
    for steps in (4, 256):
        rows = ch_saliency.compute(language_model("gpt2"), prompts, 4000, settings=Settings(steps=steps, random=False))
        errors.append(summary.completeness(rows[rows["edges"] == LAYER]).max())
    assert errors[1] < 1e-3 < errors[0]


@pytest.mark.parametrize(("family", "whole"), [("gptj", False), ("gemma3_text", False), ("gemma3_text", True)])
def test_saliency_is_that_of_the_papers_study(language_model, tokenizer, family, whole):
    model = language_model(family)
    prompts = tokenize(prompts_table("emoc", count=3), tokenizer)
    if whole:
        prompts = tokenize(words_table(LABEL_WORDS["alike"], count=2), tokenizer, score="whole", anchor="all")
    rows = ch_saliency.compute(model, prompts, 1000, settings=Settings(steps=1, random=False))
    means = saliency.compute(model, prompts, 1000)
    of_gold = rows[(rows["answer"] == "gold") & (rows["quantity"] == "loss")].set_index(["prompt_id", "layer", "edges"])
    for kind in KINDS:
        expected = means.set_index(["prompt_id", "layer"])[f"s_{kind}_visible"]
        of_kind = of_gold.xs(kind, level="edges")
        found = (of_kind["abs_of_sum"] / of_kind["count"]).reindex(expected.index, fill_value=0)
        assert np.abs(found - expected).max() <= TOLERANCE * expected.max()


def test_the_loss_has_the_gradient_of_the_margin_times_the_wrong_probability(language_model, tokenizer):
    rows = ch_saliency.compute(
        language_model("gpt2"), tokenize(prompts_table(count=2), tokenizer), 4000, settings=Settings(steps=1)
    )
    keys = ["prompt_id", "layer", "edges", "control", "answer"]
    of_loss, of_margin = (rows[rows["quantity"] == name].set_index(keys) for name in ("loss", "margin"))
    np.testing.assert_allclose(of_loss["before"], np.log1p(np.exp(-of_margin["before"])))
    slope = 1 / (1 + np.exp(of_margin["before"]))
    for name, sign in (("abs_of_sum", 1), ("sum_of_abs", 1), ("largest_head", 1), ("signed", -1)):
        np.testing.assert_allclose(of_loss[name], sign * slope * of_margin[name], rtol=1e-6)
    for name in ("attention", "value_zeroing", "count"):
        assert of_loss[name].equals(of_margin[name])


def test_in_the_last_layer_only_edges_to_the_last_position_have_an_effect(language_model, tokenizer):
    rows = ch_saliency.compute(
        language_model("gpt2"), tokenize(prompts_table(count=2), tokenizer), 1000, settings=Settings(steps=2)
    )
    last = rows[
        (rows["layer"] == 2) & rows["edges"].isin(["wp", "label -> text", "demonstration -> earlier"]) & ~rows["control"]
    ]
    assert len(last)
    for name in ("abs_of_sum", "sum_of_abs", "signed", "ig", *TRUTHS):
        assert (last[name] == 0).all()
    assert (last["attention"] > 0).all()


def test_the_columns_of_the_last_position_add_up(language_model, tokenizer):
    rows = ch_saliency.compute(language_model("gpt2"), tokenize(prompts_table("agnews", count=2), tokenizer), 1000)
    parts = [f"last -> {name}" for name in ("after", "template", "stop", "content")]
    for (_, _), of_layer in rows[~rows["control"]].groupby(["prompt_id", "layer"]):
        of = of_layer[(of_layer["answer"] == "gold") & (of_layer["quantity"] == "loss")].set_index("edges")
        present = [*(name for name in parts if name in of.index), "pq"]
        for name in ("attention", "value_zeroing", "sum_of_abs", "signed", "ig", "count"):
            assert of.loc[present, name].sum() == pytest.approx(of.at["last -> all", name], rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("missing", ["shares_prefixes", "can_resume", "supports_single_row"])
@pytest.mark.parametrize("score", ["first", "whole"])
def test_models_without_a_shortcut_have_the_same_results(language_model, tokenizer, monkeypatch, missing, score):
    model = language_model("gpt2", layers=2)
    table = prompts_table(count=1) if score == "first" else words_table([" bad one", " so good"], 1)
    prompts = tokenize(table, tokenizer, score=score)
    usual = ch_saliency.compute(model, prompts, 1000, settings=Settings(steps=2))
    for name in {missing, "last_row_mode"} if missing == "shares_prefixes" else {missing}:
        monkeypatch.setattr(LanguageModel, name, property(lambda self, name=name: None if name == "last_row_mode" else False))
    slow = ch_saliency.compute(model, prompts, 1000, settings=Settings(steps=2))
    for name in (*ATTRIBUTIONS, *TRUTHS, "before"):
        assert worst(slow[name], usual[name]) <= TOLERANCE
    for name in ("heads", "heads_michel", "heads_ig", "heads_truth"):
        assert worst(slow[name], usual[name]) <= TOLERANCE


def test_the_batch_size_does_not_matter(language_model, tokenizer):
    model, prompts = language_model("llama", layers=2), tokenize(prompts_table(count=1), tokenizer)
    prompts += tokenize(words_table(LABEL_WORDS["alike"], count=1), tokenizer, score="whole")
    one, other = (ch_saliency.compute(model, prompts, budget, settings=Settings(steps=3)) for budget in (100, 5000))
    for name in (*ATTRIBUTIONS, *TRUTHS):
        assert worst(one[name], other[name]) <= TOLERANCE


def test_the_effects_of_the_own_answer_are_those_of_the_predicted_class(language_model, tokenizer):
    model = language_model("gpt2")
    prompts = tokenize(prompts_table("agnews", count=4), tokenizer)
    rows = ch_saliency.compute(model, prompts, 1000, settings=Settings(steps=2, random=False))
    relabelled = []
    for prompt in prompts:
        with head_outputs(model.network) as edit:
            own = int(Reruns(model, prompt, edit, 1000).scores.argmax())
        relabelled.append(dataclasses.replace(prompt, gold=own))
    assert any(a.gold != b.gold for a, b in zip(prompts, relabelled, strict=True))
    of_gold = ch_saliency.compute(model, relabelled, 1000, settings=Settings(steps=2, random=False))
    own, gold = rows[rows["answer"] == "own"], of_gold[of_gold["answer"] == "gold"]
    for name in (*ATTRIBUTIONS, *TRUTHS, "before"):
        np.testing.assert_allclose(own[name], gold[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("family", ["gpt_neo", "gpt_oss"])
def test_unsupported_families_are_errors(tokenizer, family):
    network, reason = unsupported(family, len(tokenizer))
    model = LanguageModel(family, network, tokenizer, "float32", {"name": family, "family": family})
    with pytest.raises(InputError) as error:
        ch_saliency.compute(model, tokenize(prompts_table(count=1), tokenizer), 1000)
    assert str(error.value) == f"model family {family!r} is not supported: {UNSUPPORTED[family]}"
    assert reason == UNSUPPORTED[family]


def test_a_prompt_without_demonstrations_is_an_error(language_model, tokenizer):
    table = prompts_table()
    table.at[3, "demo_labels"] = table.at[3, "label_spans"] = []
    with pytest.raises(InputError, match="prompt 103 has no demonstrations, but the classes of its tokens"):
        ch_saliency.compute(language_model("gpt2"), tokenize(table, tokenizer), 1000)


def test_values_beyond_a_number_formats_range_are_errors(language_model, tokenizer, monkeypatch):
    model = language_model("gpt2", layers=1)
    model.network.lm_head.weight.mul_(1e6)
    model.network.half()
    monkeypatch.setattr(ch_saliency, "require_supported", lambda network: None)
    with pytest.raises(
        InputError,
        match=r"of 1 of 1 prompts \(for example prompt 100\) exceed the range of float16; set dtype to float32",
    ):
        ch_saliency.compute(model, tokenize(prompts_table(count=1), tokenizer), 1000, settings=Settings(steps=1))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 0.05), (torch.bfloat16, 0.3)])
def test_half_precision_stays_near(language_model, tokenizer, dtype, tolerance):
    model = language_model("llama")
    prompts = tokenize(prompts_table("agnews", count=2), tokenizer)
    full = ch_saliency.compute(model, prompts, 2000, settings=Settings(steps=2, random=False))
    model.network.to(dtype)
    half = ch_saliency.compute(model, prompts, 2000, settings=Settings(steps=2, random=False))
    for name in (*ATTRIBUTIONS, *TRUTHS):
        assert worst(half[name], full[name]) <= tolerance, name


def test_progress_counts_each_prompt(language_model, tokenizer):
    done = []
    ch_saliency.compute(
        language_model("gpt2", layers=2), tokenize(prompts_table(count=2), tokenizer), 500, done.append, Settings(steps=1)
    )
    assert done == [1, 1]


def table(prompts=8, seed=0, **changes):
    """Return rows of a study with random effects, and attributions that are functions of the effects."""
    generator = np.random.default_rng(seed)
    found = []
    effect = {(layer, name): generator.normal() for layer in range(4) for name in EDGES}
    heads = generator.normal(size=(4, 3))
    for number in range(prompts):
        for layer in range(4):
            for name in (*EDGES, LAYER):
                for control in (False, True) if name != LAYER else (False,):
                    truth = effect.get((layer, name), 1.0) + 0.01 * generator.normal()
                    row = {
                        "model": "m", "task": "sst2", "set": "fresh-1shot", "seed": 42 + number % 4, "prompt_id": number,
                        "query_index": number, "demonstrations": number // 4, "layer": layer, "edges": name,
                        "control": control, "count": 2, "before": 0.0, "attention": generator.random(),
                        "value_zeroing": generator.random(), "abs_of_sum": abs(truth), "sum_of_abs": 2 * abs(truth),
                        "largest_head": 1 / abs(truth), "signed": truth, "ig": truth, "truth_post": truth, "truth_pre": truth,
                        "heads": np.abs(heads[layer]), "heads_michel": 10.0**layer * np.abs(heads[layer]),
                        "heads_signed": heads[layer], "heads_ig": heads[layer][::-1], "heads_truth": heads[layer],
                    }  # fmt: skip
                    found += [{**row, "answer": a, "quantity": q} for a in ("gold", "own") for q in ("loss", "margin")]
    rows = pd.DataFrame(found)
    return rows.assign(**changes)


def value(summarised, **keys):
    keys = {
        "task": "sst2",
        "answer": "gold",
        "quantity": "loss",
        "per": "class",
        "edges": "classes",
        "truth": "truth_post",
        **keys,
    }
    (found,) = summarised[np.logical_and.reduce([summarised[key] == item for key, item in keys.items()])].to_dict("records")
    return found


@pytest.fixture(scope="module")
def summarised():
    return summary.summarise(table(), Bootstrap(resamples=20))


def test_rank_correlations_of_known_attributions(summarised):
    for scope in ("cells", "classes", "layers"):
        assert value(summarised, scope=scope, method="abs_of_sum")["value"] == pytest.approx(1)
        assert value(summarised, scope=scope, method="largest_head")["value"] < -0.95
        assert value(summarised, scope=scope, truth="sum_of_abs", method="abs_of_sum")["value"] == pytest.approx(1)
        assert value(summarised, scope=scope, method="ceiling")["value"] > 0.95
        assert np.isnan(value(summarised, scope=scope, method="count")["value"])
    cells = value(summarised, scope="cells", method="attention")
    assert abs(cells["value"]) < 0.5
    assert cells["low"] < cells["value"] < cells["high"]
    assert cells["prompts"] == 8
    assert value(summarised, scope="forecast", method="signed")["value"] == pytest.approx(1)
    assert value(summarised, scope="forecast", method="ig")["value"] == pytest.approx(-1)
    assert value(summarised, task="mean of tasks", scope="cells", method="signed")["value"] == pytest.approx(1)


def test_rank_correlations_of_heads(summarised):
    assert value(summarised, scope="heads", method="sum_of_abs")["value"] == pytest.approx(1)
    michel, by_layer = (value(summarised, scope="heads", method=name)["value"] for name in ("michel", "michel_by_layer"))
    assert michel < 0.9  # a larger scale in deeper layers changes the order
    heads = np.abs(np.stack(table()["heads_truth"].iloc[:1].to_list()))
    assert heads.shape == (1, 3)
    assert by_layer > michel


def test_the_correlation_is_spearmans_of_absolute_means():
    rows = table(prompts=3)
    part = rows[(rows["answer"] == "gold") & (rows["quantity"] == "loss") & ~rows["control"] & (rows["edges"] != LAYER)]
    part = part[~((part["layer"] == 3) & part["edges"].isin(BEFORE_QUERY))]
    means = part.groupby(["layer", "edges"])[["value_zeroing", "truth_pre"]].mean().abs()
    expected = means.corr(method="spearman").iloc[0, 1]
    found = value(summary.summarise(rows, Bootstrap(resamples=5)), scope="cells", truth="truth_pre", method="value_zeroing")
    assert found["value"] == pytest.approx(expected)


def test_the_claims_select_rows_of_the_figure(summarised):
    paper = claims.load(REPOSITORY / "src/icl_lens/resources/claims/challenges.yaml")
    found = {
        claim.id: claims.cells(claim, summarised.drop(columns="replicates"))["value"].tolist()
        for claim in paper.claims
        if claim.item == "ch_figure_saliency"
    }
    assert {name: len(values) for name, values in found.items()} == {"sum-alike": 1, "saliency-true": 1, "zeroing-better": 1}
    assert found["sum-alike"] == pytest.approx([1])
    assert found["saliency-true"] == pytest.approx([1])


def test_a_class_that_half_of_the_prompts_lack_is_averaged_over_the_others_and_rarer_ones_are_not_ranked():
    rows = table()
    lacking = rows[~((rows["edges"] == "pq") & (rows["prompt_id"] >= 4))]
    rare = rows[~((rows["edges"] == "pq") & (rows["prompt_id"] >= 3))]
    sizes = {}
    for name, part in (("all", rows), ("lacking", lacking), ("rare", rare)):
        of = part[(part["answer"] == "gold") & (part["quantity"] == "loss") & ~part["control"] & (part["edges"] != LAYER)]
        sizes[name] = len(summary._cells(of).layers)
    most = 4 * len(EDGES) - len(BEFORE_QUERY)
    assert sizes == {"all": most, "lacking": most, "rare": most - 4}


def test_edges_without_effect_are_not_ranked(language_model, tokenizer):
    assert set(BEFORE_QUERY) == {"wp", "label -> text", "label -> others", "demonstration -> earlier"}
    rows = ch_saliency.compute(
        language_model("gpt2"), tokenize(prompts_table("agnews", count=2), tokenizer), 400, settings=Settings(steps=1)
    )
    rows = rows[rows["edges"] != LAYER]
    last = rows[rows["layer"] == rows["layer"].max()]
    inside = last["edges"].isin(BEFORE_QUERY)
    assert (last.loc[inside, ["truth_post", "truth_pre", "abs_of_sum"]] == 0).all(axis=None)
    assert (last.loc[~inside & ~last["control"], "abs_of_sum"] > 0).all()


def test_means_of_cells():
    rows = table()
    found = summary.cells_of(rows[(rows["answer"] == "gold") & (rows["quantity"] == "loss")], Bootstrap(resamples=20))
    one = found[
        (found["layer"] == 1) & (found["edges"] == "pq") & (found["method"] == "attention") & ~found["control"].astype(bool)
    ]
    part = rows[(rows["layer"] == 1) & (rows["edges"] == "pq") & (rows["answer"] == "gold") & (rows["quantity"] == "loss")]
    assert one["value"].item() == pytest.approx(part.loc[~part["control"], "attention"].mean())
    errors = found[found["method"] == "completeness"]
    assert errors["edges"].unique().tolist() == [LAYER]
    assert len(errors) == 4
    np.testing.assert_allclose(errors["value"], 2)  # ig = truth_post, although complete gradients have the opposite sign
