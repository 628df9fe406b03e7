"""Tests of the study ch_labels against its plain reference, of its label conditions, and of prompts without demonstrations."""

from dataclasses import replace
from functools import partial
from itertools import cycle
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from icl_lens.errors import InputError
from icl_lens.models.language_model import LanguageModel
from icl_lens.prompts.demonstrations import demonstration_texts, replace_query
from icl_lens.prompts.positions import tokenize
from icl_lens.prompts.protocol import Protocol, build, with_fewer_shots, write_prompt
from icl_lens.studies import computing, registry
from icl_lens.studies.challenges.ch_labels import compute as labels
from icl_lens.studies.challenges.ch_labels.study import CONDITIONS, NEW_WORDS, STUDY, Condition, Settings, conditions
from icl_lens.studies.challenges.ch_labels.versions import Tokens, choose_words, content_free, new_labels, shown_class, version
from icl_lens.studies.inputs import Given
from icl_lens.tasks.task import TASKS

from ..chat_templates import chat_tokenizer
from ..conftest import TEXTS, sentencepiece_like
from ..families import FAMILIES, tiny, unsupported
from ..prompts_table import prompts_table, shared_table, words_table
from ..reference import labels as reference
from ..study_cases import CASES, PAIRED

# Tolerance against the plain reference, relative to the largest value, in float32.
TOLERANCE = 1e-4


def run(model, table, settings, batch_tokens=800, **options):
    return computing.compute(STUDY, model, table, settings, batch_tokens=batch_tokens, **options)


def plain_functions(score, anchor):
    """Return the functions of the plain reference for the options about label words."""
    if score == anchor == "first":
        return SimpleNamespace(
            tokens=reference.tokens,
            log_probs=reference.log_probs,
            flow=reference.flow,
            isolated=reference.isolated,
            flat=lambda anchors: anchors,
            alone=list,
        )
    assert score == "whole"
    return SimpleNamespace(
        tokens=partial(reference.whole_tokens, anchor=anchor),
        log_probs=reference.whole_log_probs,
        flow=reference.whole_flow,
        isolated=reference.whole_isolated,
        flat=lambda groups: [position for group in groups for position in group],
        alone=lambda positions: [[position] for position in positions],
    )


def check(model, tokenizer, table, settings, found, every=1, score="first", anchor="first"):
    """Compare each ``every``-th row with the plain reference, and return the largest relative difference."""
    of = plain_functions(score, anchor)
    originals = {row["prompt_id"]: row for row in table.to_dict("records")}
    words = found.facts["new_label_words"]
    network, worst, compared = model.network, 0.0, 0
    free: dict[str, list] = {}
    for number, row in enumerate(found.rows.to_dict("records")):
        original = originals[row["prompt_id"]]
        true, own = [int(label) for label in original["demo_labels"]], list(original["label_words"])
        names = words.get(row["condition"], own)
        given = list(row["labels"])
        expected = reference.new_labels(row["condition"], true, len(own), row["draw"])
        assert expected is None or given == expected
        assert row["gold"] == original["gold"]
        assert row["shown"] == (reference.mapped(true, given, row["gold"]) if given else -1)
        assert row["gold_share"] == (np.mean([a == b for a, b in zip(true, given, strict=True)]) if given else 0)
        if number % every:
            continue
        task = TASKS.get(original["task"], TASKS["sst2"])
        template, texts = task.template, demonstration_texts(original) if given else []
        shown_words = [names[label] for label in given]
        query = original["text"][slice(*original["query_span"])]
        text, spans = reference.write(template, texts, shown_words, query)
        ids, anchors, label_ids = of.tokens(tokenizer, text, spans, names)
        scores = of.log_probs(network, ids, label_ids)
        largest = max(map(abs, scores))
        worst = max(worst, np.abs(row["log_probs"] - scores).max() / largest)
        demonstrations = text[: text.rindex(template.split("{text}")[0])]
        if demonstrations not in free:
            free[demonstrations] = []
            for content in settings.content_free:
                other, places = reference.write(template, texts, shown_words, content)
                of_free = of.tokens(tokenizer, other, places, names)
                free[demonstrations].append(of.log_probs(network, of_free[0], of_free[2]))
        prediction, share = reference.calibrated(scores, free[demonstrations])
        worst = max(worst, np.abs(row["content_free"] - share).max())
        ratios = np.sort(np.array(scores) - np.log(share))
        if np.diff(ratios)[-1] > TOLERANCE * largest:
            assert row["calibrated"] == prediction
        if np.diff(np.sort(scores))[-1] > TOLERANCE * largest:
            assert row["prediction"] == int(np.argmax(scores))
        masses = {
            "shown_mass": [label_ids[label] for label in set(given)],
            "own_mass": of.tokens(tokenizer, text, [], own)[2],
        }
        for name, chosen in masses.items():
            mass = np.exp(of.log_probs(network, ids, chosen)).sum() if chosen else 0.0
            worst = max(worst, abs(row[name] - mass) / (mass or 1.0))
        if not len(row["s_wp"]):
            continue
        for prefix, target in (("", row["gold"]), ("shown_", row["shown"])):
            flow = np.stack([row[f"{prefix}{name}"] for name in ("s_wp", "s_pq", "s_ww")])
            assert flow.size or target < 0
            if flow.size:
                plain = of.flow(network, ids, anchors, label_ids, target)
                worst = max(worst, np.abs(flow - plain).max() / np.abs(plain).max())
        k = settings.layers
        drawn = labels._random_positions(
            SimpleNamespace(ids=np.array(ids), anchors=np.array(of.flat(anchors)), seed=original["seed"], prompt_id=0),
            settings,
            tokenizer.bos_token_id,
        )
        sides = (range(k), range(model.layers - k, model.layers))
        isolated = (anchors, of.alone(drawn))
        for place, (positions, layers) in enumerate((each, side) for each in isolated for side in sides):
            same, overlap, gap = of.isolated(network, ids, positions, layers, label_ids)
            if gap > TOLERANCE * largest:
                compared += 1
                assert (row["isolated_agrees"][place], row["isolated_overlap"][place]) == (same, pytest.approx(overlap))
    assert compared
    return worst


@pytest.mark.parametrize("family", FAMILIES)
def test_it_agrees_with_the_plain_reference(language_model, tokenizer, family):
    model = language_model(family)
    names = ["inverted", "random", "one", "strings"]
    settings = Settings(conditions=names, draws=1, flow_queries=1, layers=1)
    table = shared_table("sst2", count=4)
    found = run(model, table, settings)
    assert len(found.rows) == len(table) * len(conditions(settings, 2))
    assert check(model, tokenizer, table, settings, found, every=3) <= TOLERANCE


ALIKE = (" very positive", " very negative")


@pytest.mark.parametrize(("family", "anchor"), list(zip(FAMILIES, cycle(("all", "last")))))
def test_whole_label_words_that_begin_alike_agree_with_the_plain_reference(language_model, tokenizer, family, anchor):
    model, table = language_model(family), words_table(ALIKE, count=2)
    settings = Settings(conditions=["inverted", "words"], words=["very positive", "foo", "very good", "very bad"], layers=1)
    found = run(model, table, settings, label_score="whole", label_anchor=anchor)
    assert len(found.rows) == 2 * len(conditions(settings, 2))
    assert found.facts["new_label_words"] == {"words": [" very good", " very bad"]}
    assert check(model, tokenizer, table, settings, found, score="whole", anchor=anchor) <= TOLERANCE


def test_all_conditions_agree_with_a_bos_token_and_four_classes():
    tokenizer = sentencepiece_like(bos=True)
    model = LanguageModel("llama", tiny("llama", len(tokenizer)), tokenizer, "float32", {"name": "llama"})
    table = prompts_table("emoc", count=3, shots=2)
    known = {"words": ["Negative", "World", "Sports", "Business"], "letters": ["Mars", "Rome", "How", "What"]}
    settings = Settings(layers=2, **known, strings=["warm", "dull", "film", "keys"])
    found = run(model, table, settings)
    assert list(dict.fromkeys(found.rows["condition"])) == list(CONDITIONS)
    assert check(model, tokenizer, table, settings, found, every=5) <= TOLERANCE


def test_prompts_of_a_chat_agree_with_those_of_the_chat_template():
    tokenizer = chat_tokenizer("chatml")
    model = LanguageModel("llama", tiny("llama", len(tokenizer)), tokenizer, "float32", {"name": "llama"})
    settings = Settings(conditions=["inverted", "words"], flow_queries=1, layers=1)
    rows = run(model, shared_table("sst2", count=4), settings, as_chat="turns").rows
    inverted, gold = (rows[rows["condition"] == name] for name in ("inverted", "gold"))
    assert [list(each) for each in inverted["labels"]] == [[1 - label for label in each] for each in gold["labels"]]
    assert not np.allclose(np.stack(inverted["log_probs"]), np.stack(gold["log_probs"]))


@pytest.mark.parametrize("whole", [False, True])
def test_batch_size_sharing_and_resuming_change_no_result(language_model, tokenizer, monkeypatch, whole):
    model = language_model("qwen2")
    table = words_table(ALIKE, count=4, shared=True) if whole else shared_table("agnews", count=4)
    options = {"label_score": "whole", "label_anchor": "all"} if whole else {}
    settings = Settings(conditions=["inverted", "letters"], flow_queries=2, layers=1)
    rows = run(model, table, settings, **options).rows

    def require_same(others):
        for name in rows:
            if rows[name].dtype == object:
                assert all(np.allclose(a, b, atol=1e-5) for a, b in zip(rows[name], others[name], strict=True)), name
            elif rows[name].dtype.kind == "f":
                assert np.allclose(rows[name], others[name], atol=1e-5), name
            else:
                assert (rows[name] == others[name]).all(), name

    require_same(run(model, table, settings, batch_tokens=1, **options).rows)
    monkeypatch.setattr(LanguageModel, "can_resume", False)
    require_same(run(model, table, settings, **options).rows)
    monkeypatch.setattr(LanguageModel, "shares_prefixes", False)
    require_same(run(model, table, settings, **options).rows)


# The versions of the prompts.


def versions_of(table, settings, name, draw=0):
    words = list(table["label_words"].iloc[0])
    true = np.bincount(table["gold"], minlength=len(words)) / len(table)
    return version(table, Condition(name, draw), settings, words, true)


def test_gold_labels_leave_the_prompts_unchanged_and_other_labels_change_the_label_words_only():
    table, settings = prompts_table("trec", count=4, shots=2), Settings()
    for column in ("text", "label_spans", "text_spans", "query_span", "prefix_spans", "demo_labels", "label_words"):
        assert versions_of(table, settings, "gold")[column].tolist() == table[column].tolist()
    for name, draw in conditions(settings, 6):
        for before, after in zip(
            table.to_dict("records"), versions_of(table, settings, name, draw).to_dict("records"), strict=True
        ):
            if name == "none":
                continue
            words = [after["label_words"][label] for label in after["demo_labels"]]
            assert [after["text"][slice(*span)] for span in after["label_spans"]] == words
            assert demonstration_texts(after) == demonstration_texts(before)
            assert after["text"][slice(*after["query_span"])] == before["text"][slice(*before["query_span"])]
            assert (after["gold"], after["prompt_id"], after["seed"]) == (before["gold"], before["prompt_id"], before["seed"])
            assert [after["text"][slice(*s)] for s in after["prefix_spans"]] == [
                before["text"][slice(*s)] for s in before["prefix_spans"]
            ]


def test_random_labels_have_their_distributions():
    table, settings = prompts_table("agnews", count=1, shots=2), Settings()
    row, true = table.iloc[0].to_dict(), np.array([0.7, 0.2, 0.1, 0.0])
    own = np.array(row["demo_labels"])
    drawn = {
        name: np.array([new_labels(row, Condition(name, draw), settings, true) for draw in range(600)])
        for name in ("random", "random-true", "wrong")
    }
    shares = {name: np.bincount(each.ravel(), minlength=4) / each.size for name, each in drawn.items()}
    assert shares["random"] == pytest.approx([0.25] * 4, abs=0.03)  # 4,800 draws: 5 standard errors
    assert shares["random-true"] == pytest.approx(true, abs=0.033)
    assert not (drawn["wrong"] == own).any()
    steps = np.bincount(((drawn["wrong"] - own) % 4).ravel(), minlength=4) / drawn["wrong"].size
    assert steps == pytest.approx([0, 1 / 3, 1 / 3, 1 / 3], abs=0.035)
    assert abs(np.corrcoef(drawn["random"][:-1].ravel(), drawn["random"][1:].ravel())[0, 1]) < 0.08


def test_prompts_with_the_same_demonstrations_have_the_same_random_labels():
    table = build(TASKS["sst2"], corpus(), "shared-5shot", [0, 1], 3)
    drawn = [versions_of(table, Settings(seed=seed), "random", draw) for seed, draw in ((0, 0), (0, 1), (1, 0))]
    by_seed = drawn[0].groupby("seed")["demo_labels"].agg(lambda each: len({tuple(labels) for labels in each}))
    assert by_seed.tolist() == [1, 1]
    assert len({tuple(each["demo_labels"].iloc[0]) for each in drawn} | {tuple(drawn[0]["demo_labels"].iloc[-1])}) == 4


def test_the_label_of_the_most_demonstrations_of_a_class_is_the_shown_one():
    assert shown_class([0, 1, 1, 1], [1, 0, 0, 1], 1) == 0
    assert shown_class([0, 1, 1], [1, 0, 1], 1) == -1
    assert shown_class([0, 1, 1], [1, 0, 1], 2) == -1
    assert shown_class([], [], 0) == -1


def measured(**tokens):
    """Return a function that measures words by a dict: word -> (number of tokens, scored tokens)."""

    def measure(word):
        if word.strip() not in tokens:
            return None
        count, *scored = tokens[word.strip()]
        return Tokens(count, tuple(scored))

    return measure


def test_new_label_words_have_as_many_tokens_and_other_first_tokens():
    measure = measured(Good=(1, 1), Bad=(2, 2), foo=(1, 3), far=(1, 3), bar=(1, 1), nit=(2, 4), orb=(3, 5), vex=(1, 6))
    original = [" Good", " Bad"]
    assert choose_words("strings", original, ["foo", "far", "bar", "nit"], measure) == [" foo", " nit"]
    assert choose_words("strings", original, ["nit", "foo"], measure) == [" foo", " nit"]
    assert choose_words("strings", original, ["unknown", "orb", "foo"], measure) == [" foo", " orb"]  # the closest number
    assert choose_words("strings", ["Good", "Bad"], ["foo", "nit"], measure) == ["foo", "nit"]
    with pytest.raises(InputError, match=r"studies.ch_labels.strings contains only 1 texts .* task has 2 classes"):
        choose_words("strings", original, ["foo", "far", "bar"], measure)


def test_new_label_words_can_begin_alike_if_whole_words_are_scored():
    measure = measured(
        Good=(2, 1, 2), Bad=(2, 1, 3), foo=(2, 1, 4), far=(1, 1), nit=(3, 1, 2, 5), orb=(3, 1, 4, 6), zup=(2, 1, 7)
    )
    original = [" Good", " Bad"]
    # far is the beginning of all words, nit begins with Good, orb begins with foo
    assert choose_words("strings", original, ["far", "nit", "foo", "orb", "zup"], measure) == [" foo", " zup"]
    with pytest.raises(InputError, match=r"studies.ch_labels.strings contains only 1 texts that differ from each other and"):
        choose_words("strings", original, ["far", "nit", "foo", "orb"], measure)


def test_content_free_prompts_have_the_demonstrations_of_their_prompts():
    table = shared_table("sst2", count=6)
    free, sets = content_free(table, ["N/A", ""])
    assert sets.tolist() == [0, 1, 0, 1, 2, 3]
    for place, row in enumerate(table.to_dict("records")):
        for number, text in enumerate(["N/A", ""]):
            found = free.iloc[2 * sets[place] + number]
            start, end = row["query_span"]
            assert found["text"] == row["text"][:start] + text + row["text"][end:]
            assert found["text"][slice(*found["query_span"])] == text
            assert [found["text"][slice(*s)] for s in found["prefix_spans"]] == [
                row["text"][slice(*s)] for s in row["prefix_spans"]
            ]


@pytest.mark.parametrize("anchor", ["first", "last", "all"])
def test_random_isolated_positions_belong_to_the_demonstrations(tokenizer, anchor):
    prompts = tokenize(shared_table("agnews", count=6), tokenizer, anchor=anchor)
    drawn = [labels._random_positions(p, Settings(), None).tolist() for p in prompts]
    for prompt, positions in zip(prompts, drawn, strict=True):
        assert len(set(positions) - set(prompt.anchors.tolist())) == len(prompt.anchors)
        assert max(positions) < prompt.anchors[-1]
    assert drawn[0] == drawn[2]
    assert drawn[0] != drawn[1]
    with_bos = [labels._random_positions(p, Settings(seed=seed), int(p.ids[0])) for p in prompts for seed in range(40)]
    assert min(each.min() for each in with_bos) == 1


# Prompts without demonstrations.


def corpus():
    rows = [
        {"split": split, "index": n, "text": f"{TEXTS[n % len(TEXTS)]} {n}", "label": n % 2}
        for split, size in (("train", 24), ("test", 6))
        for n in range(size)
    ]
    return pd.DataFrame(rows)


def test_prompts_without_demonstrations_have_the_queries_of_the_other_sets(language_model, tokenizer):
    empty, shared = (build(TASKS["sst2"], corpus(), name, [0, 1], 4) for name in ("shared-0shot", "shared-1shot"))
    assert Protocol.of("shared-0shot").shots_per_class(2) == 0
    removed = versions_of(shared, Settings(), "none").assign(set="shared-0shot")
    assert removed.drop(columns="demo_indices").to_dict("records") == empty.drop(columns="demo_indices").to_dict("records")
    assert removed["demo_indices"].tolist() == empty["demo_indices"].tolist() == [[]] * len(empty)
    assert empty["text"].iloc[0] == f"Review: {corpus()['text'][24 + empty['query_index'].iloc[0]]}\nSentiment:"
    with pytest.raises(InputError, match=r"'fresh-0shot' is not a prompt set; use a name such as .*shared-0shot"):
        Protocol.of("fresh-0shot")
    model = language_model("llama")
    rows = run(model, shared, Settings(conditions=["none"], flow_queries=0)).rows
    rows = rows[rows["condition"] == "none"]
    icl = computing.compute(registry.study("icl"), model, empty).rows
    assert rows["prediction"].tolist() == icl["prediction"].tolist()
    normalised = [each - np.logaddexp.reduce(each) for each in rows["log_probs"]]
    assert np.allclose(np.stack(normalised), np.stack(icl["class_log_probs"]), atol=1e-5)
    assert (rows["zero_shot"] == rows["prediction"]).all()


def test_fewer_shots_of_a_prompt_without_a_template_before_its_text():
    task = replace(TASKS["sst2"], template="{text} ->{label}", label_words=(" No", " Yes"))
    row = {
        "label_words": [" No", " Yes"],
        "demo_labels": [0, 1],
        "demo_indices": [0, 1],
        **write_prompt(task, ["a", "b"], [0, 1], "c"),
    }
    assert with_fewer_shots(pd.DataFrame([row]), 0)["text"].tolist() == ["c ->"]


def test_an_empty_query_keeps_the_template():
    row = prompts_table(count=1).iloc[0].to_dict()
    changed = {**row, **replace_query(row, "")}
    assert changed["text"].endswith("\nReview: \nSentiment:")
    assert changed["query_span"][0] == changed["query_span"][1]


RUNS_WITHOUT_DEMONSTRATIONS = {"icl", "tokens", "rewritten"}

# What a study says about prompts without demonstrations, if it is not that there are none.
_DIFFERENT = "demonstrations have fewer than two different labels"
REFUSALS = {
    "isolation_controls": _DIFFERENT,
    "attention_controls": _DIFFERENT,
    "kernel_regression_controls": _DIFFERENT,
    "diagnosis": "does not have exactly one demonstration of each class",
    "components": "the prompts contain 0 labelled texts, but 8 are required",
}


@pytest.mark.parametrize("study", [name for name, case in CASES.items() if case.prompts != PAIRED])
def test_every_study_runs_or_refuses_prompts_without_demonstrations(study, language_model):
    empty = build(TASKS["sst2"], corpus(), "shared-0shot", [0, 1], 3)
    declared = registry.study(study)
    further = {each.option: empty for each in declared.further}
    values = {key: value for key, value in CASES[study].settings.items() if key != "encoders"}
    settings = declared.settings.section(**values) if declared.settings else None
    if study in RUNS_WITHOUT_DEMONSTRATIONS:
        assert set(computing.compute(declared, language_model("llama"), empty, settings, further).rows["prompt_id"]) <= set(
            range(6)
        )
        return
    with pytest.raises(InputError, match=REFUSALS.get(study, r"prompt \d+ has no demonstration")) as raised:
        computing.compute(declared, language_model("llama"), empty, settings, further)
    assert "\n" not in str(raised.value)


# Errors, refusals and progress.


@pytest.mark.parametrize(
    ("options", "told"), [({}, r"set labels: \{score: whole\}"), ({"label_score": "whole"}, "never has the")]
)
def test_label_words_without_tokens_of_their_own_are_refused(language_model, options, told):
    with pytest.raises(InputError, match=told):
        run(language_model("llama"), words_table((" very", " very positive")), Settings(), **options)


def test_each_prompt_of_several_paths_counts_once(language_model, tokenizer):
    given = Given(
        language_model("llama"),
        words_table(ALIKE),
        {},
        Settings(conditions=["inverted"], flow_queries=0),
        "auto",
        False,
        partial(tokenize, tokenizer=tokenizer, score="whole"),
    )
    inputs, done = labels.prepare(given), []
    labels.compute(given.model, inputs.prompts, inputs.more["versions"], 800, done.append, given.settings)
    assert max(len(p.label_words.paths) for p in inputs.prompts) > 1
    assert sum(done) == len(inputs.prompts)


def test_invalid_prompts_and_settings_are_one_sentence(language_model, tokenizer):
    model, table = language_model("llama"), prompts_table("sst2", count=2)
    both = pd.concat([table, prompts_table("agnews", count=3).iloc[2:]])
    with pytest.raises(InputError, match=r"prompt 102 has the label words World, .* prompt 100 has Negative, Positive"):
        run(model, both, Settings())
    with pytest.raises(InputError, match=r"studies.ch_labels.layers is 4, but the model has only 3 layers"):
        run(model, table, Settings(layers=4))
    network, reason = unsupported("mamba", len(tokenizer))
    mamba = LanguageModel("m", network, tokenizer, "float32", {"name": "m"})
    with pytest.raises(InputError, match=reason):
        run(mamba, table, Settings())


def test_predictions_need_no_attention(tokenizer):
    mamba = LanguageModel("m", unsupported("mamba", len(tokenizer))[0], tokenizer, "float32", {"name": "m"})
    rows = run(mamba, prompts_table("sst2", count=2), Settings(flow_queries=0)).rows
    assert set(rows["condition"]) == set(CONDITIONS)
    assert not any(len(each) for name in ("s_wp", "shown_s_pq", "isolated_agrees") for each in rows[name])


def test_conditions_that_are_compared_with_all_others_are_always_run():
    assert [each.name for each in conditions(Settings(conditions=["words"]), 2)] == ["none", "gold", "words"]
    assert [each for each in conditions(Settings(draws=2), 3) if each.name in ("one", "wrong")] == [
        *(Condition("wrong", draw) for draw in (0, 1)),
        *(Condition("one", c) for c in (0, 1, 2)),
    ]
    assert set(NEW_WORDS) < set(CONDITIONS)
