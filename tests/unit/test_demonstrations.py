"""Tests of the study ch_demonstrations against its plain reference, of its exact properties, and of its games."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from icl_lens.errors import InputError
from icl_lens.models.language_model import LanguageModel
from icl_lens.prompts import chat
from icl_lens.prompts.demonstrations import keep_demonstrations, replace_query
from icl_lens.prompts.positions import tokenize
from icl_lens.prompts.protocol import write_prompt
from icl_lens.studies.challenges.ch_demonstrations import compute as demonstrations
from icl_lens.studies.challenges.ch_demonstrations import shapley, trees, versions
from icl_lens.studies.challenges.ch_demonstrations.study import CALIBRATED, LEAVE_ONE_OUT, MEASURES, PLAIN, SHAPLEY, Settings
from icl_lens.studies.inputs import Given
from icl_lens.tasks.task import TASKS

from ..chat_templates import CHATML
from ..conftest import byte_level, llama_like, sentencepiece_like
from ..families import FAMILIES, tiny, unsupported
from ..prompts_table import WORDS_TEMPLATE, prompts_table, shared_table, words_table
from ..reference import demonstrations as reference

# Tolerance against the plain reference, relative to the largest value, in float32.
TOLERANCE = 1e-4


def run(model, table, budget=800, as_chat=False, score="first", anchor="first", **settings):
    """Run the study, and return its rows, the prompts and their versions."""
    settings = Settings(**settings)

    def tokenized(rows):
        return tokenize(chat.convert(rows, model.tokenizer, as_chat), model.tokenizer, score=score, anchor=anchor)

    given = Given(model, table, {}, settings, "auto", as_chat, tokenized)
    prepared = demonstrations.prepare(given)
    rows = demonstrations.compute(model, prepared.prompts, budget, settings=settings, **prepared.more)
    return rows, prepared.prompts, prepared.more["versions"]


def values(rows, prompt, control, kind, measure):
    chosen = rows[
        (rows["prompt_id"] == prompt.prompt_id)
        & (rows["control"] == control)
        & (rows["kind"] == kind)
        & (rows["measure"] == measure)
    ]
    return chosen["value"].to_numpy()


def demonstrations_of(row):
    texts = [row["text"][start:end] for start, end in row["text_spans"]]
    return list(zip(texts, row["demo_labels"], strict=True)), row["text"][slice(*row["query_span"])]


def owners_of(prompt):
    """Return the demonstration of each token, from the characters after each label word."""
    ends = [end for _, end in prompt.label_spans.tolist()]
    starts = [end + len(prompt.text[end:]) - len(prompt.text[end:].lstrip()) for end in ends]
    return [None if end == 0 else sum(start < end for start in starts) for _, end in prompt.spans.tolist()]


def check(model, table, rows, prompts, found_versions, every=1):
    """Compare the rows of each ``every``-th prompt with the plain reference; return the largest relative difference."""
    worst = {"values": 0.0, "measures": 0.0, "detail": 0.0}
    by_id = {row["prompt_id"]: row for row in table.to_dict("records")}
    network = model.network
    for prompt, of_prompt in list(zip(prompts, found_versions, strict=True))[::every]:
        row = by_id[prompt.prompt_id]
        shown, query = demonstrations_of(row)
        count, gold, ids, classes = len(shown), prompt.gold, prompt.ids.tolist(), len(prompt.label_ids)
        template = TASKS[row["task"]].template if row["task"] in TASKS else WORDS_TEMPLATE
        whole = prompt.label_words is not None
        words = prompt.label_words.tokens if whole else [(int(i),) for i in prompt.label_ids]
        arguments = (network, model.tokenizer, template, row["label_words"], words, whole)
        owners = owners_of(prompt)
        label_tokens = [
            [t for t, (a, b) in enumerate(prompt.spans.tolist()) if start < b <= end and a < b]
            for start, end in prompt.label_spans.tolist()
        ]
        plain = reference.deleted(*arguments, shown, query)
        of_kinds = {
            "deleted": plain,
            "masked": reference.masked(network, ids, words, whole, owners),
            "unlabelled": reference.unlabelled(network, ids, words, whole, label_tokens),
        }
        scale = max(np.abs(each).max() for each in plain.values())

        def compare(found, expected, size, name, worst=worst):
            assert found.shape == (len(expected),)
            assert np.isfinite(found).all()
            assert np.isfinite(expected).all()
            # A value can be 0 for all demonstrations, if a sliding window ends before them.
            worst[name] = max(worst[name], float(np.abs(found - np.array(expected)).max() / (size or 1)))

        for kind, scores in of_kinds.items():
            v = reference.margins(scores, gold)
            compare(values(rows, prompt, PLAIN, kind, SHAPLEY), reference.shapley(v, count), scale, "values")
            everything = tuple(range(count))
            left_out = [v[everything] - v[tuple(j for j in everything if j != i)] for i in everything]
            compare(values(rows, prompt, PLAIN, kind, LEAVE_ONE_OUT), left_out, scale, "values")
        v = reference.margins(reference.calibrated(*arguments, shown, plain), gold)
        compare(values(rows, prompt, PLAIN, "deleted", CALIBRATED), reference.shapley(v, count), scale, "values")
        if len(of_prompt.games) > 1:
            target = of_prompt.target
            text, label = shown[target]
            key = versions._key(row, Settings())
            changes = {
                "flipped": [*shown[:target], (text, (label + 1) % classes), *shown[target + 1 :]],
                "nonsense": [*shown[:target], (versions.nonsense(text, key), label), *shown[target + 1 :]],
                "duplicate": [*shown[: target + 1], *shown[target:]],
                "reversed": shown[::-1],
            }
            for control, changed in changes.items():
                v = reference.margins(reference.deleted(*arguments, changed, query), gold)
                expected = reference.shapley(v, len(changed))
                if control == "duplicate":  # the copy is the last player
                    expected = np.array([*np.delete(expected, target + 1), expected[target + 1]])
                if control == "reversed":
                    expected = expected[::-1]
                compare(values(rows, prompt, control, "deleted", SHAPLEY), expected, scale, "values")
        starts = [owners.index(i) for i in range(count)]
        spans = [(start, tokens[-1] + 1) for start, tokens in zip(starts, label_tokens, strict=True)]
        texts = [
            [t for t, (a, b) in enumerate(prompt.spans.tolist()) if prompt.text[max(a, start) : min(b, end)].strip()]
            for start, end in prompt.text_spans.tolist()
        ]
        anchors = [prompt.anchors[prompt.anchor_demonstrations == i].tolist() for i in range(count)]
        expected = reference.measures(network, ids, words, whole, gold, anchors, spans, texts)
        for name, each in expected.items():
            compare(values(rows, prompt, PLAIN, "prompt", name), each, np.abs(each).max(), "measures")
        each = reference.detail(network, ids, prompt.label_starts.tolist(), prompt.demo_labels.tolist(), classes, gold)
        compare(values(rows, prompt, PLAIN, "prompt", "detail"), each, np.abs(each).max(), "detail")
    return worst


@pytest.mark.parametrize("family", FAMILIES)
def test_it_agrees_with_the_plain_reference(language_model, tokenizer, family):
    model = language_model(family)
    table = shared_table("agnews", count=5)
    # A prompt with shared demonstrations and controls, and one with its own demonstrations and none.
    worst = check(model, table, *run(model, table, control_queries=1), every=3)
    assert max(worst.values()) <= TOLERANCE


@pytest.mark.parametrize("family", FAMILIES)
def test_whole_label_words_agree_with_the_plain_reference(language_model, tokenizer, family):
    """Two classes begin alike, and the paths of their label words branch off within a word. All tokens are anchors."""
    model = language_model(family)
    table = words_table((" very positive", " very negative"), count=2, shared=True)
    rows, prompts, found = run(model, table, score="whole", anchor="all", control_queries=0)
    assert len(prompts[0].label_words.paths) == 2
    assert len(prompts[0].anchors) > 2
    worst = check(model, table, rows, prompts, found, every=2)
    assert max(worst.values()) <= TOLERANCE


WORDS = {
    "one path": (" 1", " 2", " 3"),
    "different lengths": (" Negative", " very positive", " very good"),
    "emoji": (" 😀", " 😡"),
}


@pytest.mark.parametrize(("anchor", "shares"), [("all", True), ("last", False)], ids=["all, prefixes", "last, no prefixes"])
@pytest.mark.parametrize("words", WORDS.values(), ids=WORDS)
def test_label_words_of_any_shape_agree(language_model, tokenizer, monkeypatch, words, anchor, shares):
    monkeypatch.setattr(LanguageModel, "shares_prefixes", shares)
    model = language_model("gemma3_text")
    table = words_table(words, count=3, shared=anchor == "all")
    results = run(model, table, score="whole", anchor=anchor, control_queries=1)
    assert (results[0]["control"] != PLAIN).any()
    assert max(check(model, table, *results, every=2).values()) <= TOLERANCE
    others, _, _ = run(model, table, budget=1, score="whole", anchor=anchor, control_queries=1)
    assert np.abs(results[0]["value"] - others["value"]).max() <= TOLERANCE * results[0]["value"].abs().max()


@pytest.mark.parametrize("anchor", ["last", "all"])
def test_several_anchors_with_first_tokens_agree(language_model, tokenizer, anchor):
    model = language_model("gpt2")
    table = words_table((" Negative one", " Positive one"), count=1)
    results = run(model, table, anchor=anchor, control_queries=0)
    assert max(check(model, table, *results).values()) <= TOLERANCE


def test_saliency_and_attention_are_summed_over_anchors_and_the_other_measures_ignore_them(language_model, tokenizer):
    model, table = language_model("llama"), words_table((" 1", " 2"), count=2)
    found = {each: run(model, table, score="whole", anchor=each, control_queries=0) for each in ("first", "last", "all")}
    assert found["all"][1][0].anchors.tolist() == sorted([*found["first"][1][0].anchors, *found["last"][1][0].anchors])
    first, last, every = (rows.set_index("measure") for rows, _, _ in found.values())
    summed = ["saliency_label", "saliency_text", "saliency_forecast", "attention"]
    largest = every.loc[summed, "value"].abs().groupby(level=0).max()
    gap = (first.loc[summed, "value"] + last.loc[summed, "value"] - every.loc[summed, "value"]).abs()
    assert (gap.groupby(level=0).max() <= TOLERANCE * largest).all()
    assert (first.loc[summed, "value"] - last.loc[summed, "value"]).abs().groupby(level=0).max().gt(TOLERANCE * largest).all()
    rest = first.index.difference(summed)
    assert {SHAPLEY, LEAVE_ONE_OUT, CALIBRATED, "kernel", "detail"} <= set(rest)
    for others in (last, every):
        assert first.loc[rest, "value"].to_numpy() == pytest.approx(others.loc[rest, "value"].to_numpy(), abs=1e-6)


def test_a_prompt_is_read_once_for_all_paths_of_its_label_words(language_model, tokenizer):
    model = language_model("llama")
    table = words_table((" very positive", " very negative"), count=3, shared=True)
    prompts = tokenize(table, tokenizer, score="whole")
    found = versions.build(table, lambda rows: tokenize(rows, tokenizer, score="whole"), Settings(control_queries=0))
    trees.of_versions(model, [found[0].own], prompts[0], 5000)  # the checks of the model run before
    counts = {}
    for name, classes in (("first", replace(prompts[0], label_words=None)), ("whole", prompts[0])):
        tokens = []
        handle = model.network.get_input_embeddings().register_forward_hook(
            lambda module, args, output, tokens=tokens: tokens.append(args[0].numel())
        )
        trees.of_versions(model, [each.own for each in found], classes, 5000)
        handle.remove()
        counts[name] = sum(tokens)
    runs = sum(len(each.own) for each in found)
    paths = prompts[0].label_words.paths
    assert len(paths) == 2
    # Besides the tokens of the prompts, each run reads its last token and the appended tokens of each path.
    assert counts["whole"] <= counts["first"] + runs * len(paths) * (1 + max(map(len, paths)))


def test_prompts_whose_appended_label_words_exceed_the_context_are_left_out(language_model, tokenizer):
    table = words_table((" very positive", " very negative"), count=2)
    tokenized = tokenize(table, tokenizer, score="whole")
    settings = Settings(control_queries=1)
    found = versions.build(table, lambda rows: tokenize(rows, tokenizer, score="whole"), settings)
    lengths = [each.longest + p.appended for each, p in zip(found, tokenized, strict=True)]
    assert lengths[0] > lengths[1] > len(tokenized[0].ids) + tokenized[0].appended  # a repeated demonstration
    for context, expected in ((lengths[0], [0, 1]), (lengths[0] - 1, [1])):
        _, prompts, _ = run(language_model("gpt2", context=context), table, score="whole", control_queries=1)
        assert [p.prompt_id for p in prompts] == expected


@pytest.mark.parametrize("kind", ["sentencepiece", "llama"])
def test_tokens_that_depend_on_the_place_of_a_demonstration_agree(kind):
    tokenizer = sentencepiece_like(bos=True) if kind == "sentencepiece" else llama_like()
    model = LanguageModel("llama", tiny("llama", len(tokenizer)), tokenizer, "float32", {"name": "llama"})
    table = shared_table("sst2", count=5, shots=2)
    worst = check(model, table, *run(model, table, control_queries=1), every=2)
    assert max(worst.values()) <= TOLERANCE


@pytest.mark.parametrize("as_chat", [True, "turns"])
def test_prompts_in_chat_format_have_the_margins_of_their_versions(as_chat):
    """The values with all demonstrations and with none are those of the prompts that the chat template writes."""
    tokenizer = byte_level()
    tokenizer.chat_template = CHATML
    model = LanguageModel("llama", tiny("llama", len(tokenizer)), tokenizer, "float32", {"name": "llama"})
    table = shared_table("sst2", count=4)
    rows, prompts, _ = run(model, table, as_chat=as_chat, control_queries=1)
    for prompt in prompts:
        row = next(row for row in table.to_dict("records") if row["prompt_id"] == prompt.prompt_id)
        shown = rows[(rows["prompt_id"] == prompt.prompt_id) & (rows["control"] == PLAIN) & (rows["measure"] == SHAPLEY)]
        empty = pd.DataFrame([{**row, **write_prompt(TASKS["sst2"], [], [], demonstrations_of(row)[1]), "demo_labels": []}])
        (alone,) = tokenize(chat.convert(empty, tokenizer, as_chat), tokenizer)
        for ids, column in ((prompt.ids, "margin"), (alone.ids, "empty_margin")):
            logits = reference.last_logits(model.network, ids.tolist())
            expected = reference.gold_margin(logits[prompt.label_ids], prompt.gold)
            found = shown.loc[shown["kind"] == "deleted", column].iloc[0]
            assert found == pytest.approx(expected, abs=TOLERANCE * float(logits.abs().max()))


# Exact properties.


def test_contributions_sum_to_the_margin_that_all_demonstrations_add(language_model, tokenizer):
    for table in (shared_table("agnews", count=4), prompts_table("trec", count=1), prompts_table("sst2", count=2, shots=3)):
        rows, _, _ = run(language_model("qwen2"), table, control_queries=2)
        games = rows[rows["measure"].isin([SHAPLEY, CALIBRATED])]
        for _, game in games.groupby(["prompt_id", "control", "kind", "measure"]):
            added = game["margin"].iloc[0] - game["empty_margin"].iloc[0]
            assert game["value"].sum() == pytest.approx(added, abs=1e-6)
            assert (game["error"] == 0).all()


def test_kinds_of_missing_demonstrations_agree_where_they_must(language_model, tokenizer):
    """Nothing is missing from the whole prompt; relative positions do not change without the only demonstration."""
    for family in ("llama", "gpt2"):
        table = prompts_table("sst2", count=2)
        rows, _, _ = run(language_model(family), table, control_queries=0)
        shown = rows[rows["measure"] == SHAPLEY].set_index(["prompt_id", "kind", "demonstration"]).sort_index()
        whole = shown["margin"].unstack("kind")
        assert np.abs(whole.sub(whole["deleted"], axis=0)).to_numpy().max() <= 1e-4
        empty = shown["empty_margin"].unstack("kind")
        relative = np.abs(empty["masked"] - empty["deleted"]).max()
        # Rotary embeddings depend only on differences of positions.
        assert relative <= 1e-4 if family == "llama" else relative > 1e-3
        assert np.abs(empty["unlabelled"] - empty["deleted"]).max() > 1e-3


def test_a_copy_contributes_as_much_as_its_original(language_model, tokenizer):
    rows, prompts, found = run(language_model("llama"), shared_table("agnews", count=4), control_queries=1)
    for prompt, of_prompt in zip(prompts, found, strict=True):
        if "duplicate" in of_prompt.games:
            twice = values(rows, prompt, "duplicate", "deleted", SHAPLEY)
            assert twice[-1] == pytest.approx(twice[of_prompt.target], abs=1e-9)
    assert sum("duplicate" in each.games for each in found) == 2


def test_batch_size_and_sharing_change_no_value(language_model, tokenizer, monkeypatch):
    model = language_model("gemma3_text")
    table = shared_table("sst2", count=3, shots=2)
    shared, _, _ = run(model, table)

    def require_same(others):
        for name in shared:
            if shared[name].dtype.kind == "f":
                assert np.abs(shared[name] - others[name]).max() <= 1e-4, name
            else:
                assert (shared[name] == others[name]).all(), name

    require_same(run(model, table, budget=1)[0])
    monkeypatch.setattr(LanguageModel, "shares_prefixes", False)
    require_same(run(model, table)[0])


def test_the_keys_of_a_few_versions_are_kept_at_a_time(language_model, tokenizer, monkeypatch):
    model, table = language_model("llama"), shared_table("agnews", count=4)
    whole, _, _ = run(model, table)
    monkeypatch.setattr(trees, "_VERSIONS", 3)
    parts, _, _ = run(model, table)
    assert np.abs(whole["value"] - parts["value"]).max() <= 1e-4


# Games.


def additive(weights):
    return lambda s: float(sum(weights[i] for i in s))


def test_sampled_values_agree_with_exact_ones_within_their_error():
    generator = np.random.default_rng(0)
    weights, pairs = generator.normal(size=7), generator.normal(size=(7, 7))

    def value(s):
        return additive(weights)(s) + sum(pairs[i, j] ** 2 * (s and len(s)) for i in s for j in s if i < j)

    exact = shapley.plan(7, 7, 50, [0])
    expected = shapley.shapley(exact, {s: value(s) for s in exact.coalitions})
    reached = []
    for key in range(40):
        sampled = shapley.plan(7, 6, 50, [key])
        of_sample = {s: value(s) for s in sampled.coalitions}
        found = shapley.shapley(sampled, of_sample)
        assert found.phi.sum() == pytest.approx(value(tuple(range(7))) - value(()))
        assert (found.error > 0).all()
        reached.append((found.phi - expected.phi) / found.error)
        left_out = shapley.leave_one_out(sampled, of_sample)
        assert left_out == pytest.approx(shapley.leave_one_out(exact, {s: value(s) for s in exact.coalitions}))
    # Errors in units of their standard error: about normal.
    assert 0.8 < np.std(reached) < 1.25
    assert np.mean(np.abs(reached) < 1.96) > 0.9


def test_sampled_values_of_an_additive_game_are_exact():
    weights = [0.5, -1.0, 2.0, 0.0, 3.0]
    plan = shapley.plan(5, 2, 3, [1])
    found = shapley.shapley(plan, {s: additive(weights)(s) for s in plan.coalitions})
    assert found.phi == pytest.approx(weights)
    assert found.error == pytest.approx(np.zeros(5), abs=1e-12)


def test_a_sample_draws_each_order_with_its_reverse():
    plan = shapley.plan(8, 6, 50, [3])
    assert plan.orders.shape == (100, 8)
    assert (plan.orders[50:] == plan.orders[:50, ::-1]).all()
    assert len({tuple(order) for order in plan.orders.tolist()}) == 100


def test_more_demonstrations_than_are_exact_are_sampled(language_model, tokenizer):
    table = shared_table("sst2", count=3, shots=2)
    exact, _, _ = run(language_model("llama"), table, control_queries=1)
    sampled, _, _ = run(language_model("llama"), table, control_queries=1, exact=3, pairs=200)
    chosen = (sampled["measure"] == SHAPLEY) & (sampled["control"] != "duplicate")
    assert (sampled.loc[chosen, "error"] > 0).any()
    difference = np.abs(sampled["value"] - exact["value"])[chosen]
    assert (difference <= 5 * sampled.loc[chosen, "error"] + 1e-6).all()
    same = sampled["measure"].isin([LEAVE_ONE_OUT, *MEASURES])
    assert np.abs(sampled["value"] - exact["value"])[same].max() <= 1e-4


# Versions and errors.


def test_at_most_a_number_of_demonstrations_are_kept(language_model, tokenizer):
    _, prompts, _ = run(language_model("llama"), prompts_table("sst2", count=2, shots=4))
    assert [p.demo_labels.tolist() for p in prompts] == [[0, 1, 0, 1, 0, 1], [1, 0, 1, 0, 1, 0]]
    _, prompts, _ = run(language_model("llama"), prompts_table("agnews", count=2, shots=2), control_queries=0)
    assert [len(p.anchors) for p in prompts] == [4, 4]


def test_controls_change_a_demonstration_of_the_gold_class(tokenizer):
    table = shared_table("agnews", count=6)
    settings = Settings(control_queries=5)
    found = versions.build(table, lambda rows: tokenize(rows, tokenizer), settings)
    for row, each in zip(table.to_dict("records"), found, strict=True):
        assert row["demo_labels"][each.target] == row["gold"]
        texts, labels = zip(*demonstrations_of(row)[0], strict=True)
        count = len(labels)
        flipped = versions.write(row, each.games["flipped"].version(tuple(range(count))), settings)
        changed, new_labels = zip(*demonstrations_of(flipped)[0], strict=True)
        assert changed == texts
        assert [i for i in range(count) if labels[i] != new_labels[i]] == [each.target]
        nonsense = versions.write(row, each.games["nonsense"].version(tuple(range(count))), settings)
        changed, new_labels = zip(*demonstrations_of(nonsense)[0], strict=True)
        assert new_labels == labels
        assert [i for i in range(count) if changed[i] != texts[i]] == [each.target]
        assert len(changed[each.target].split()) == len(texts[each.target].split())
        for row_of_version in (flipped, nonsense):
            words = [row_of_version["text"][start:end] for start, end in row_of_version["label_spans"]]
            assert words == [row["label_words"][label] for label in row_of_version["demo_labels"]]


def test_prompts_with_the_same_demonstrations_and_gold_class_have_the_same_target(tokenizer):
    table = shared_table("sst2", count=8, shots=2).assign(seed=42)
    found = versions.build(table, lambda rows: tokenize(rows, tokenizer), Settings(control_queries=8))
    targets = {}
    for row, each in zip(table.to_dict("records"), found, strict=True):
        targets.setdefault((tuple(demonstrations_of(row)[0]), row["gold"]), set()).add(each.target)
    assert {len(each) for each in targets.values()} == {1}
    assert len({id(each.content_free[0]) for each in found}) == 4  # two shared sets, and two prompts with their own


@pytest.mark.parametrize("kept", [[], [1], [0, 2], [3, 2, 1, 0], [1, 1, 2]])
def test_kept_demonstrations_are_written_as_the_template_writes_them(kept):
    for task in TASKS:
        row = prompts_table(task, count=2, shots=2).iloc[1].to_dict()
        shown, query = demonstrations_of(row)
        texts, labels = [shown[i][0] for i in kept], [shown[i][1] for i in kept]
        found = keep_demonstrations(row, kept)
        expected = write_prompt(TASKS[task], texts, labels, query)
        assert {name: found[name] for name in expected} == expected
        assert found["demo_labels"] == labels
        assert found["demo_indices"] == kept
        other = {**row, **found}
        assert {**other, **replace_query(other, "N/A")}["text"] == write_prompt(TASKS[task], texts, labels, "N/A")["text"]


def test_a_family_without_attention_is_an_error(tokenizer):
    network, reason = unsupported("mamba", len(tokenizer))
    model = LanguageModel("m", network, tokenizer, "float32", {"name": "m"})
    with pytest.raises(InputError, match=reason):
        run(model, shared_table("sst2", count=3))


def test_a_prompt_without_demonstrations_is_an_error(language_model):
    row = {
        **prompts_table(count=1).iloc[0].to_dict(),
        **write_prompt(TASKS["sst2"], [], [], "a good film"),
        "demo_labels": [],
        "demo_indices": [],
    }
    with pytest.raises(InputError, match="prompt 100 has no demonstrations"):
        run(language_model("llama"), pd.DataFrame([row]))


def test_a_version_that_cannot_be_tokenized_names_the_prompt(language_model, tokenizer):
    table = shared_table("sst2", count=3)

    def broken(rows):
        if (rows["demo_labels"].map(len) == 1).any():
            raise InputError(f"prompt {rows['prompt_id'].iloc[0]}: cannot be written")
        return tokenize(rows, tokenizer)

    with pytest.raises(InputError, match=r"^prompt 100: cannot be written$"):
        versions.build(table, broken, Settings())


def test_prompts_with_a_version_that_exceeds_the_context_are_left_out(language_model, tokenizer):
    table = shared_table("sst2", count=4, shots=2)
    lengths = [len(p.ids) for p in tokenize(table, tokenizer)]
    model = language_model("llama", context=max(lengths))
    _, prompts, _ = run(model, table, control_queries=0)
    assert len(prompts) == 4
    # A repeated demonstration makes the first prompt of each of two seeds too long.
    rows, prompts, _ = run(model, table, control_queries=1)
    assert [p.prompt_id for p in prompts] == [102, 103]
    assert set(rows["control"]) == {PLAIN}
    model = language_model("llama", context=min(lengths))
    with pytest.raises(InputError, match=r"fits the context of .* \(\d+ tokens\); set studies.ch_demonstrations.control_q"):
        run(model, table.iloc[[int(np.argmin(lengths))]], control_queries=1)
