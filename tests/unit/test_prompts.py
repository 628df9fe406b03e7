"""Tests of the draws against the calls of the released code, written out here with the libraries that it used."""

import datasets
import numpy as np
import pandas as pd
import pytest

from icl_lens.errors import InputError
from icl_lens.prompts import protocol
from icl_lens.tasks.task import TASKS
from tests import artifacts


def corpus(classes=3, train=60, test=20):
    generator = np.random.default_rng(0)
    rows = [
        {"split": split, "index": i, "text": f"{split} text {i} ", "label": int(generator.integers(classes))}
        for split, count in (("train", train), ("test", test))
        for i in range(count)
    ]
    return pd.DataFrame(rows)


def as_datasets(table):
    return {
        split: datasets.Dataset.from_pandas(part.drop(columns="split"), preserve_index=False)
        for split, part in table.groupby("split")
    }


@pytest.mark.parametrize("seed", [42, 46])
@pytest.mark.parametrize("shots", [1, 2])
def test_fresh_demonstrations_are_those_of_the_released_code(seed, shots):
    table = corpus(classes=4)
    data = as_datasets(table)
    # attention_attr.py draws the test subset. For each of its texts, it then draws new demonstrations with replacement.
    test_sample = data["test"].shuffle(seed=seed).select(range(15))
    labels = np.array(data["train"]["label"])
    by_class = [np.where(labels == c)[0] for c in range(4)]
    np.random.seed(seed)
    expected = []
    for _ in range(len(test_sample)):
        ids = []
        for pool in by_class:
            ids.extend(np.random.choice(pool, shots))
        expected.append(list(data["train"].select(ids).shuffle(seed=seed)["index"]))

    built = protocol.build(TASKS["agnews"], table, f"fresh-{shots}shot", [seed], 15)
    assert built["query_index"].tolist() == list(test_sample["index"])
    assert built["demo_indices"].tolist() == expected
    assert all(sorted(row) == sorted(list(range(4)) * shots) for row in built["demo_labels"])


def test_fresh_prompts_of_a_seed_have_one_order_of_classes():
    built = protocol.build(TASKS["agnews"], corpus(classes=4), "fresh-2shot", [42, 43], 15)
    orders = built.groupby("seed")["demo_labels"].agg(lambda rows: len({tuple(row) for row in rows}))
    assert orders.tolist() == [1, 1]


@pytest.mark.parametrize("seed", [42, 46])
def test_a_pool_is_the_released_sampler_s_64_shots_class_by_class(seed):
    table = corpus(classes=4, train=600, test=80)
    train = as_datasets(table)["train"]
    # Error_analysis.ipynb draws 64 texts of each class with sample_two_set_with_shot_per_class.
    # Prompt i has the (i mod 64)-th text of each class.
    indices = list(range(len(train)))
    np.random.RandomState(seed).shuffle(indices)
    by_class = [[index for index in indices if train[index]["label"] == c][:64] for c in range(4)]
    expected = [[pool[k] for pool in by_class] for k in range(64)]

    pooled = protocol.build(TASKS["agnews"], table, "pooled-1shot", [seed], 70)
    assert pooled["demo_indices"].tolist() == [*expected, *expected[:6]]
    assert {tuple(row) for row in pooled["demo_labels"]} == {(0, 1, 2, 3)}
    ordered = protocol.build(TASKS["agnews"], table, "ordered-1shot", [seed], 70)
    assert ordered["demo_indices"].tolist() == [expected[0]] * 70
    assert ordered["query_index"].tolist() == pooled["query_index"].tolist()


def test_a_class_with_few_texts_makes_the_pool_smaller_which_the_metadata_says(tmp_path):
    table = corpus(classes=4)
    rarest = int(table[table["split"] == "train"]["label"].value_counts().min())
    about = artifacts.describe(
        "corpora", "icl_lens.prompts.protocol", inputs={}, settings={}, seeds=[], corpus={"source": "builtin"}
    )
    artifacts.write(tmp_path / "corpus.parquet", table, about)
    built = {}
    for name in ("pooled-1shot", "ordered-1shot", "shared-1shot"):
        protocol.write(TASKS["agnews"], tmp_path / "corpus.parquet", name, [42], 20, tmp_path / f"{name}.parquet")
        built[name], about = artifacts.read(tmp_path / f"{name}.parquet", "prompts")
        assert about["settings"].get("pool") == (None if name == "shared-1shot" else rarest)
    sets = [tuple(row) for row in built["pooled-1shot"]["demo_indices"]]
    assert rarest < 20
    assert len(set(sets)) == rarest
    assert sets[rarest] == sets[0]


@pytest.mark.parametrize("name", ["pooled-2shot", "ordered-2shot"])
def test_a_pool_has_one_demonstration_per_class(name):
    with pytest.raises(InputError, match="is not a prompt set"):
        protocol.Protocol.of(name)


@pytest.mark.parametrize("seed", [42, 46])
@pytest.mark.parametrize("shots", [1, 3])
def test_shared_demonstrations_are_those_of_the_released_code(seed, shots):
    table = corpus(classes=4)
    train = as_datasets(table)["train"]
    # sample_two_set_with_shot_per_class shuffles all indices and takes the first texts of each class in this order.
    state = np.random.get_state()
    indices = list(range(len(train)))
    np.random.seed(seed)
    np.random.shuffle(indices)
    np.random.set_state(state)
    counts, expected = dict.fromkeys(range(4), 0), []
    for index in indices:
        label = train[index]["label"]
        if counts[label] < shots:
            counts[label] += 1
            expected.append(index)

    built = protocol.build(TASKS["agnews"], table, f"shared-{shots}shot", [seed], 10)
    assert built["demo_indices"].tolist() == [expected] * 10


def test_fewer_queries_are_the_first_of_the_same():
    few, many = (protocol.build(TASKS["agnews"], corpus(4), "fresh-1shot", [42], n) for n in (5, 1000))
    pd.testing.assert_frame_equal(few, many.iloc[:5])
    assert len(many) == 20


def test_prompt_ids_are_unique_over_seeds():
    built = protocol.build(TASKS["agnews"], corpus(4), "fresh-1shot", [42, 43, 44], 7)
    assert built["prompt_id"].tolist() == list(range(21))
    assert built.groupby("seed").size().tolist() == [7, 7, 7]


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_a_prompt_is_the_papers_and_every_span_is_what_it_says(task):
    texts, labels, query = ["one {text} ", "two {label}\\", "three"], [1, 0, 1], "the query: {0} "
    prompt = protocol.write_prompt(task, texts, labels, query)
    lines = [task.template.replace("{label}", "@").replace("{text}", "%") for _ in range(4)]
    filled = [
        line.replace("@", task.label_words[label]).replace("%", text)
        for line, text, label in zip(lines, texts, labels, strict=False)
    ]
    assert prompt["text"] == "\n".join([*filled, lines[-1].replace("@", "").replace("%", query)])

    def at(span):
        return prompt["text"][slice(*span)]

    assert [at(s) for s in prompt["label_spans"]] == [task.label_words[label] for label in labels]
    assert [at(s) for s in prompt["text_spans"]] == texts
    assert at(prompt["query_span"]) == query
    first, second = (piece.strip() for piece in task.template.removesuffix("{label}").split("{text}"))
    assert [at(s) for s in prompt["prefix_spans"]] == [first, second] * 4
    assert prompt["text"].endswith(":")


def test_the_papers_example():
    prompt = protocol.write_prompt(TASKS["sst2"], ["fine ", "dull "], [1, 0], "so so ")
    assert prompt["text"] == (
        "Review: fine \nSentiment: Positive\nReview: dull \nSentiment: Negative\nReview: so so \nSentiment:"
    )


@pytest.mark.parametrize("name", ["fresh", "fresh-0shot", "fresh-1shots", "new-1shot", ""])
def test_a_set_that_names_no_protocol_is_told(name):
    with pytest.raises(InputError, match="is not a prompt set; use a name such as fresh-1shot"):
        protocol.build(TASKS["agnews"], corpus(4), name, [42], 5)


def test_too_few_training_texts_are_told():
    with pytest.raises(
        InputError, match=r"task agnews: 30 demonstrations per class .* has only [0-9]+ texts of class 0 \(World\)"
    ):
        protocol.build(TASKS["agnews"], corpus(4), "fresh-30shot", [42], 5)
    with pytest.raises(InputError, match=r"has only 0 texts of class 3 \(Technology\)"):
        protocol.build(TASKS["agnews"], corpus(3), "shared-1shot", [42], 5)


def test_an_empty_split_and_a_strange_label_are_told():
    table = corpus(4)
    with pytest.raises(InputError, match="the test split of the corpus is empty"):
        protocol.build(TASKS["agnews"], table[table["split"] == "train"], "fresh-1shot", [42], 5)
    with pytest.raises(InputError, match="the labels of the corpus must be from 0 to 1"):
        protocol.build(TASKS["sst2"], table, "fresh-1shot", [42], 5)


@pytest.mark.parametrize("seed", [42, 46])
def test_auxiliary_queries_are_the_second_set_of_the_released_code(seed):
    table = corpus(classes=4, train=120)
    train = as_datasets(table)["train"]
    # sample_two_set_with_shot_per_class adds a text to the second set if its class already has all texts of the first set.
    indices = list(range(len(train)))
    np.random.seed(seed)
    np.random.shuffle(indices)
    counts, second = dict.fromkeys(range(4), 0), []
    for index in indices:
        label = train[index]["label"]
        if 1 <= counts[label] < 1 + 4:
            second.append(index)
        counts[label] += 1

    built = protocol.build(TASKS["agnews"], table, "shared-1shot-auxiliary", [seed], 10)
    one, five = (protocol.build(TASKS["agnews"], table, f"shared-{k}shot", [seed], 10) for k in (1, 5))
    assert built["query_index"].tolist() == second
    assert built["gold"].tolist() == [train[index]["label"] for index in second]
    assert [row["text"][slice(*row["query_span"])] for row in built.to_dict("records")] == train.select(second)["text"]
    assert built["demo_indices"].tolist() == [one["demo_indices"][0]] * 16
    assert sorted(five["demo_indices"][0]) == sorted(one["demo_indices"][0] + second)


def test_sets_with_more_shots_have_the_same_queries_under_the_same_ids():
    one, five = (protocol.build(TASKS["agnews"], corpus(4, 120), f"shared-{k}shot", [42, 43], 7) for k in (1, 5))
    columns = ["prompt_id", "seed", "query_index", "gold"]
    pd.testing.assert_frame_equal(one[columns], five[columns])


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_fewer_shots_of_a_shared_set_are_the_set_with_fewer_shots(task):
    table = corpus(len(task.label_words), train=200)
    many = protocol.build(task, table, "shared-5shot", [42, 43], 6)
    for shots in (1, 3, 5):
        fewer = protocol.with_fewer_shots(many, shots).drop(columns="set")
        pd.testing.assert_frame_equal(
            fewer, protocol.build(task, table, f"shared-{shots}shot", [42, 43], 6).drop(columns="set")
        )


def test_too_few_training_texts_for_an_auxiliary_set_are_told():
    with pytest.raises(
        InputError, match=r"1 demonstrations and 30 further examples per class are required, but .* has only [0-9]+ "
    ):
        protocol.build(TASKS["agnews"], corpus(4), "shared-1shot-auxiliary", [42], 5, auxiliary=30)
    with pytest.raises(InputError, match="is not a prompt set"):
        protocol.build(TASKS["agnews"], corpus(4), "fresh-1shot-auxiliary", [42], 5)
