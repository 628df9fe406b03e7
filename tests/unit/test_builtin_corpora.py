"""Tests of the built-in corpora: their contents, and what a bag-of-words model can and cannot predict from them."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from functools import cache
from itertools import islice

import numpy as np
import pandas as pd
import pytest

from icl_lens.corpora import builtin
from icl_lens.corpora.builtin.grammar import Grammar, Writer, attach_punctuation, words
from icl_lens.corpora.builtin.overlap import OverlapIndex
from icl_lens.tasks.task import TASKS

SEED = 0
TEMPLATE_WORDS = {"review", "sentiment", "question", "answer", "type", "article", "dialogue", "emotion"}
LABEL_WORDS = {word.strip().lower() for task in TASKS.values() for word in task.label_words}
# The class counts of the original releases, repeated here to detect a mistake in the package.
ORIGINAL = {
    "sst2": {"train": (29780, 37569), "test": (428, 444)},
    "trec": {"train": (86, 1250, 1162, 1223, 835, 896), "test": (9, 94, 138, 65, 81, 113)},
    "agnews": {"train": (30000,) * 4, "test": (1900,) * 4},
    "emoc": {"train": (14948, 4243, 5463, 5506), "test": (4677, 284, 250, 298)},
}
BAG_OF_WORDS_BOUND = {"sst2": 0.75, "trec": 0.50, "agnews": 0.60, "emoc": 0.60}

every_task = pytest.mark.parametrize("task", list(TASKS))


@cache
def corpus(task: str, seed: int = SEED) -> pd.DataFrame:
    return builtin.generate(task, seed)


def split_of(task: str, split: str) -> pd.DataFrame:
    table = corpus(task)
    return table[table["split"] == split].reset_index(drop=True)


def plain_words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", text.lower())


def four_letters(text: str) -> set[str]:
    return {word for word in plain_words(text) if len(word) >= 4}


def not_in_a_longer_stop_list(text: str) -> set[str]:
    more = "again all any before few more most other over same some such too under very once own off only just now"
    return builtin.content_words(text) - set(more.split())


def split_at_blanks(text: str) -> set[str]:
    return {token for token in text.lower().split() if builtin.content_words(token) or not token.isalnum()}


def all_but_the_commonest(text: str) -> set[str]:
    return set(plain_words(text)) - {"a", "an", "and", "in", "is", "of", "the", "to"}


@every_task
def test_the_same_seed_gives_the_same_table_and_another_seed_another(task):
    pd.testing.assert_frame_equal(builtin.generate(task, SEED), corpus(task))
    other = builtin.generate(task, SEED + 1)
    assert len(set(other["text"]) & set(corpus(task)["text"])) < 0.01 * len(other)


def test_the_first_texts_are_those_of_every_machine():
    """Compare with fixed texts to detect changes in numpy, Python or the order of a lexicon."""
    rng = np.random.default_rng(7)
    found = [next(builtin.texts(task, 0, rng)) for task in TASKS]
    assert found == [
        "it repels readers : the pacing is witless and the scene certainly tedious .",
        "What is the truncated contraction of CPU in the cartoon from Cairo ?",
        "Why hostages abandon the constitution: Lopez and neighbors praise Spanish militants.",
        "my cousin ordered the hotel lately i see, in chicago? just counting and cooking today with my teacher",
    ]


@every_task
def test_columns_and_indices(task):
    table = corpus(task)
    assert list(table.columns) == ["split", "index", "text", "label"]
    assert list(table["split"].unique()) == ["train", "test"]
    for split in ("train", "test"):
        rows = split_of(task, split)
        assert rows["index"].tolist() == list(range(len(rows)))
        assert set(rows["label"]) == set(range(len(TASKS[task].label_words)))
        # Classes are mixed: the rows are not sorted by class.
        assert (rows["label"].diff() != 0).mean() > 0.2


@every_task
def test_sizes_and_class_balance_are_like_the_originals(task):
    for split, fewest, smallest_class in (("train", 3000, 60), ("test", 600, 9)):
        labels = split_of(task, split)["label"]
        counts = np.bincount(labels)
        original = np.array(ORIGINAL[task][split])
        assert len(labels) >= fewest
        assert counts.min() >= smallest_class
        assert tuple(counts) == builtin.class_counts(task)[split]
        np.testing.assert_allclose(counts / counts.sum(), original / original.sum(), atol=0.003)


@every_task
def test_no_text_occurs_twice(task):
    assert not corpus(task)["text"].str.lower().duplicated().any()


@every_task
@pytest.mark.parametrize(
    "definition",
    [builtin.content_words, four_letters, not_in_a_longer_stop_list, split_at_blanks, all_but_the_commonest],
)
def test_no_test_text_shares_more_than_half_its_content_words_with_a_training_text(task, definition):
    holders = defaultdict(list)
    for row, text in enumerate(split_of(task, "train")["text"]):
        for word in definition(text):
            holders[word].append(row)
    for text in split_of(task, "test")["text"]:
        content = definition(text)
        assert len(content) >= 5, text
        shared = Counter(row for word in content for row in holders[word])
        assert max(shared.values(), default=0) <= len(content) / 2, text


def test_overlap_index_assumes_the_worst_about_doubtful_words():
    index = OverlapIndex(["red fox very quick"], lambda text: set(text.split()), frozenset({"very", "quite"}))
    # "very" counts because the texts share it, and "quite" does not because they do not share it: 2 of 3, then 1 of 2.
    assert index.largest_shares(["red whale very", "red whale quite"]) == pytest.approx([2 / 3, 1 / 2])


def test_overlap_index_finds_the_largest_share():
    index = OverlapIndex(["the red fox ran home", "a blue whale sang"])
    shares = index.largest_shares(["a red fox sang well", "the blue whale sang", "of the and", "green grass grew"])
    assert shares.tolist() == [0.5, 1.0, 0.0, 0.0]


def nearest_demonstration_accuracy(task: str, *, balanced: bool, content: bool, cosine: bool, prompts: int) -> float:
    """Return how often the query has the same class as the demonstration that shares the most words with it."""
    rng = np.random.default_rng(11)
    train, test = split_of(task, "train"), split_of(task, "test")
    classes = len(TASKS[task].label_words)

    def bag(text: str) -> Counter:
        kept = builtin.content_words(text) if content else None
        return Counter(word for word in plain_words(text) if kept is None or word in kept)

    demonstrations = [[bag(text) for text in train.loc[train["label"] == label, "text"]] for label in range(classes)]
    queries = [[bag(text) for text in test.loc[test["label"] == label, "text"]] for label in range(classes)]
    prior = None if balanced else np.bincount(test["label"]) / len(test)
    right = 0
    for _ in range(prompts):
        gold = int(rng.choice(classes, p=prior))
        query = queries[gold][rng.integers(len(queries[gold]))]
        scores = np.empty(classes)
        for label in range(classes):
            other = demonstrations[label][rng.integers(len(demonstrations[label]))]
            if cosine:
                norms = sum(n * n for n in query.values()) * sum(n * n for n in other.values())
                scores[label] = sum(n * other[word] for word, n in query.items()) / norms**0.5
            else:
                scores[label] = len(query.keys() & other.keys())
        best = np.flatnonzero(scores >= scores.max() - 1e-9)
        right += int(rng.choice(best)) == gold
    return right / prompts


@every_task
@pytest.mark.parametrize("balanced", [False, True], ids=["natural", "balanced"])
@pytest.mark.parametrize("content", [False, True], ids=["all-words", "content-words"])
@pytest.mark.parametrize("cosine", [False, True], ids=["shared", "cosine"])
def test_shared_words_with_one_demonstration_per_class_do_not_give_the_class(task, balanced, content, cosine):
    accuracy = nearest_demonstration_accuracy(task, balanced=balanced, content=content, cosine=cosine, prompts=1000)
    assert accuracy < BAG_OF_WORDS_BOUND[task] - 0.05


@every_task
def test_a_unigram_model_of_the_training_split_tells_the_class(task):
    train, test = split_of(task, "train"), split_of(task, "test")
    vocabulary = {word: i for i, word in enumerate(sorted({w for text in train["text"] for w in plain_words(text)}))}
    classes = len(TASKS[task].label_words)
    counts = np.ones((classes, len(vocabulary)))
    for text, label in zip(train["text"], train["label"], strict=True):
        for word in plain_words(text):
            counts[label, vocabulary[word]] += 1
    log_likelihood = np.log(counts / counts.sum(axis=1, keepdims=True))
    log_prior = np.log(np.bincount(train["label"]) / len(train))
    predicted = np.array(
        [np.argmax(log_prior + log_likelihood[:, [vocabulary[w] for w in plain_words(t)]].sum(axis=1)) for t in test["text"]]
    )
    gold = test["label"].to_numpy()
    assert (predicted == gold).mean() >= 0.95
    for label in range(classes):
        assert (predicted[gold == label] == label).mean() >= 0.75, TASKS[task].classes[label]


@every_task
def test_the_test_split_has_no_word_that_the_training_split_lacks(task):
    def tokens(split: str) -> set[str]:
        return {token for text in split_of(task, split)["text"] for token in text.split()}

    assert tokens("test") <= tokens("train")


@every_task
def test_telling_words(task):
    telling = builtin.indicative_words(task)
    for label, own in enumerate(telling):
        assert not any(own & other for other in telling[:label])
    counts = Counter(word for text in split_of(task, "train")["text"] for word in plain_words(text))
    for label, own in enumerate(telling):
        rare = task == "trec" and label == 0
        assert len(own) >= (15 if rare else 80)
        assert min(counts[word] for word in own) >= (3 if rare else 8)
        assert np.median([counts[word] for word in own]) >= (4 if rare else 10)
    for text, label in zip(corpus(task)["text"], corpus(task)["label"], strict=True):
        present = set(plain_words(text))
        assert len(present & telling[label]) >= 2, text
        for other, words_of_other in enumerate(telling):
            assert other == label or not present & words_of_other, text


@every_task
def test_no_text_holds_a_label_word_or_a_template_word(task):
    used = {word for text in corpus(task)["text"] for word in plain_words(text)}
    assert not used & (LABEL_WORDS | TEMPLATE_WORDS)


@every_task
def test_surface_style(task):
    for text in corpus(task)["text"]:
        assert text.isascii(), text
        assert text == " ".join(text.split()), text
        assert 7 <= len(text.split()) <= 22, text
        assert not re.search(r"\b[Aa] [aeio]|\b[Aa]n [^aeiou]", text), text
    texts = corpus(task)["text"]
    lower_case = texts.str.fullmatch(r"[^A-Z]*")
    if task == "sst2":
        assert lower_case.all()
        assert texts.str.endswith(" .").all()
        assert not texts.str.contains(r"\w[.,:]", regex=True).any()
    elif task == "trec":
        assert texts.str.match(r"[A-Z]").all()
        assert texts.str.endswith(" ?").all()
    elif task == "agnews":
        assert texts.str.match(r"[A-Z]").all()
        assert texts.str.endswith(".").all()
        assert not texts.str.contains(r" [.,:]", regex=True).any()
    else:
        assert lower_case.all()
        assert not texts.str.contains(r" [.,:?]", regex=True).any()


def test_the_vocabulary_is_small_enough_for_one_token_a_word():
    vocabulary = {word for task in TASKS for text in corpus(task)["text"] for word in re.findall(r"[A-Za-z0-9]+", text)}
    assert len(vocabulary) <= 2500


@every_task
def test_fresh_texts_follow_their_generator_and_keep_the_style(task):
    for label in range(len(TASKS[task].label_words)):
        fresh = list(islice(builtin.texts(task, label, np.random.default_rng(3)), 30))
        assert fresh == list(islice(builtin.texts(task, label, np.random.default_rng(3)), 30))
        assert len(set(fresh)) == 30
        assert all(len(set(plain_words(text)) & builtin.indicative_words(task)[label]) >= 2 for text in fresh)


def test_an_unknown_task_is_refused():
    with pytest.raises(KeyError):
        builtin.generate("imdb", 0)


def test_content_words_drop_function_words_case_and_punctuation():
    assert builtin.content_words("The plot , is Dull ; what about THE cast?") == {"plot", "dull", "cast"}


def test_grammar_deals_every_word_before_it_repeats_one():
    writer = Writer(
        Grammar({"text": ("{colour} and {colour}",), "colour": words("red green blue azure")}), np.random.default_rng(0)
    )
    drawn = [word for _ in range(2) for word in writer.write("text").split(" and ")]
    assert sorted(drawn) == ["azure", "blue", "green", "red"]


def test_grammar_agrees_its_articles():
    rules = {"text": ("a {noun}",), "noun": words("owl union cat")}
    writer = Writer(Grammar(rules), np.random.default_rng(0))
    assert {writer.write("text") for _ in range(20)} == {"an owl", "a union", "a cat"}


def test_grammar_names_what_is_missing_or_doubled():
    with pytest.raises(ValueError, match="verb"):
        Grammar({"text": ("they {verb} it",)})
    with pytest.raises(ValueError, match="no alternative"):
        Grammar({"text": ()})
    with pytest.raises(ValueError, match="red"):
        words("red blue red")


def test_attach_punctuation():
    assert attach_punctuation("Paris : no deal , they said .") == "Paris: no deal, they said."
