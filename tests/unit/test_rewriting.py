"""Tests of the rule-based rewriting of test texts and of a model's predictions for the rewritten texts."""

import numpy as np
import pandas as pd
import pytest

from icl_lens.corpora import builtin
from icl_lens.corpora.builtin.film_reviews import LEXICONS
from icl_lens.errors import InputError
from icl_lens.prompts.positions import tokenize
from icl_lens.statistics.resampling import Bootstrap
from icl_lens.studies.anchors.icl import compute as icl
from icl_lens.studies.kernel_regression.rewritten import compute as rewritten
from icl_lens.studies.kernel_regression.rewritten.rare_words import RARE_WORDS
from icl_lens.studies.kernel_regression.rewritten.rewriting import (
    _CLAUSES,
    complex_syntax,
    rare_words,
    rewrite,
    share_replaced,
    typos,
)
from icl_lens.studies.kernel_regression.rewritten.study import REWRITINGS, Settings
from icl_lens.studies.kernel_regression.rewritten.summary import PAPER, summarise

from ..prompts_table import prompts_table


def test_rare_words_are_none_of_the_built_in_texts_and_have_no_rare_word_of_their_own():
    texts = builtin.generate("sst2", 0)["text"]
    common = {word for text in texts for word in text.split()}
    assert not set(RARE_WORDS.values()) & common
    assert not set(RARE_WORDS.values()) & set(RARE_WORDS)
    # Each opinion word of the built-in texts is replaced.
    assert {word for lexicon in LEXICONS for words in lexicon.values() for word in words} <= set(RARE_WORDS)
    assert all(word == word.lower() for pair in RARE_WORDS.items() for word in pair)


def test_a_listed_word_is_replaced_and_its_capitals_stay():
    assert (
        rare_words("a dull film , Dull and DULL ; duller")
        == "a hebetudinous photoplay , Hebetudinous and HEBETUDINOUS ; duller"
    )
    assert share_replaced("a dull film , duller") == 0.5
    assert share_replaced("12 !") == 0


def test_clauses_stand_around_a_text_that_stays_whole():
    seen = set()
    for seed in range(30):
        found = complex_syntax("it is dull .", 2, np.random.default_rng(seed))
        assert "it is dull" in found
        assert found.endswith(" .")
        assert found.count(".") == 1
        seen.add(found)
        frames = [c for c in _CLAUSES if all(part.strip() in found for part in c.split("{}"))]
        assert len(frames) >= 2
    assert len(seen) > 10
    with pytest.raises(InputError, match=r"studies\.rewritten\.clauses is 9, but only 8 clauses are available"):
        complex_syntax("x", 9, np.random.default_rng(0))


def test_no_clause_says_an_opinion_word():
    assert not {word for clause in _CLAUSES for word in clause.split()} & set(RARE_WORDS) - {"always", "way", "people"}


def test_typos_touch_about_the_share_asked_and_nothing_but_letters():
    text = "the quick brown fox , 12 dogs ! " * 40
    found = typos(text, 0.15, np.random.default_rng(0))
    assert [c for c in found if not c.isalpha()] == [c for c in text if not c.isalpha()]
    words = list(zip(text.split(), found.split(), strict=True))
    changed = np.mean([a != b for a, b in words if a.isalpha()])
    assert 0.3 < changed < 0.7  # 1 - 0.85 ** 4 of the words, which have about four letters each
    assert typos(text, 1e-9, np.random.default_rng(0)) == text
    assert typos("a", 1.0, np.random.default_rng(1)).strip()


@pytest.mark.parametrize("how", REWRITINGS)
def test_only_the_query_changes_and_every_span_is_where_its_words_are(how):
    table = prompts_table("sst2", count=6, shots=2)
    found = rewrite(table, how, Settings())
    assert found.columns.tolist() == table.columns.tolist()
    changed = 0
    for old, new in zip(table.to_dict("records"), found.to_dict("records"), strict=True):
        for name in ("label_spans", "text_spans", "prefix_spans"):
            assert [new["text"][a:b] for a, b in new[name]] == [old["text"][a:b] for a, b in old[name]]
        start, end = new["query_span"]
        assert new["text"][:start] == old["text"][:start]
        assert new["text"][end:] == old["text"][old["query_span"][1] :]
        changed += new["text"] != old["text"]
    assert changed == 0 if how == "original" else changed >= 3


def test_a_query_is_rewritten_by_its_own_text_and_the_seed_alone():
    table = prompts_table("sst2", count=6)
    whole = rewrite(table, "typos", Settings())
    assert rewrite(table.iloc[3:], "typos", Settings())["text"].tolist() == whole["text"].tolist()[3:]
    assert rewrite(table, "typos", Settings(seed=1))["text"].tolist() != whole["text"].tolist()


def test_the_first_prompts_of_each_seed_are_run():
    tables = rewritten.rewritten_tables(prompts_table(count=9), Settings(queries=2))
    assert all(rows["prompt_id"].tolist() == [100, 101, 102, 103] for rows in tables.values())


def test_answers_are_those_to_the_rewritten_prompts(language_model, tokenizer):
    model, table = language_model("gpt2"), prompts_table("sst2", count=5)
    settings = Settings()
    tables = rewritten.rewritten_tables(table, settings)
    assert list(tables) == ["prompts", "rare_words", "complex_syntax", "typos"]
    prompts = {name: tokenize(rows, tokenizer) for name, rows in tables.items()}
    done = []
    rows = rewritten.compute(model, **prompts, batch_tokens=2000, settings=settings, progress=done.append)
    assert sum(done) == 5
    assert rows["rewriting"].tolist() == np.repeat(REWRITINGS, 5).tolist()
    for how in REWRITINGS:
        name = "prompts" if how == "original" else how
        plain = icl.compute(model, tokenize(rewrite(table, how, settings), tokenizer), 2000)
        found = rows[rows["rewriting"] == how]
        assert np.allclose(found["class_log_probs"].tolist(), plain["class_log_probs"].tolist(), atol=1e-5)
        whole = [len(tokenizer(p.text[p.query_span[0] - 1 : p.query_span[1]])["input_ids"]) for p in prompts[name]]
        # A space that is a separate token is not part of the text.
        assert all(n in (m, m - 1) for n, m in zip(found["query_tokens"], whole, strict=True))
    assert rows["replaced"].iloc[0] == share_replaced(table["text"][0][slice(*table["query_span"][0])])


def test_the_summary_has_accuracies_and_paired_drops():
    rows = []
    for prompt_id in range(20):
        for how in REWRITINGS:
            # Typos make the same ten prompts wrong in each resample; rare words make one prompt wrong.
            wrong = {"typos": prompt_id < 10, "rare_words": prompt_id == 0}.get(how, False)
            rows.append(
                {
                    **{"model": "m", "set": "fresh-4shot", "task": "sst2", "seed": 42, "prompt_id": prompt_id},
                    "demonstrations": prompt_id,
                    **{"rewriting": how, "gold": 0, "prediction": int(wrong), "query_tokens": 7, "replaced": 0.25},
                }
            )
    table = summarise(pd.DataFrame(rows), Bootstrap(resamples=200)).set_index(["metric", "rewriting"])
    assert table["value"]["accuracy", "original"] == 1
    assert table["value"]["drop", "typos"] == 0.5
    assert 0.2 < table["low"]["drop", "typos"] < 0.5 < table["high"]["drop", "typos"] < 0.8
    assert table["value"]["drop", "rare_words"] == pytest.approx(0.05)
    assert table["value"]["drop", "complex_syntax"] == table["prompts_high"]["drop", "complex_syntax"] == 0
    assert ("drop", "original") not in table.index
    assert table["paper"]["drop", "typos"] == pytest.approx(0.271)
    assert table["paper"]["accuracy", "rare_words"] == PAPER["rare_words"]
    assert (table.loc["accuracy", "majority_baseline"] == 1).all()
    assert table.loc["drop", "majority_baseline"].isna().all()
    # All texts are of one class, so its recall is the accuracy.
    assert table["balanced_accuracy"].tolist() == table["value"].tolist()
    assert table["commonest_answer"]["accuracy", "typos"] == 0.5
