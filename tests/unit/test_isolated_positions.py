import dataclasses
import math
import random
from collections import Counter

import numpy as np
import pytest

from icl_lens.errors import InputError
from icl_lens.prompts.positions import TokenizedPrompt, tokenize
from icl_lens.studies.anchors import isolated_positions
from icl_lens.studies.anchors.isolated_positions import fixed_positions, order_of, random_positions
from icl_lens.studies.anchors.isolating import Settings
from icl_lens.tasks.task import TASKS

from ..prompts_table import prompts_table
from ..reference.isolation import released_random_positions


def prompt(length=12, anchors=(3, 6), seed=42, place=0):
    return TokenizedPrompt(
        prompt_id=place,
        place=place,
        ids=np.arange(100, 100 + length),
        anchors=np.array(anchors),
        demo_labels=np.arange(len(anchors)),
        label_ids=np.arange(len(anchors)),
        gold=0,
        unknown=0,
        seed=seed,
        text="",
        spans=np.zeros((length, 2), dtype=np.int64),
    )


def all_sets(scope, bos=None, draws=6000, draw="order", **options):
    """Return how often each set of positions is drawn."""
    settings, one = Settings(random_scope=scope, draw=draw), prompt(**options)
    return Counter(tuple(random_positions(one, settings, number, bos).tolist()) for number in range(draws))


@pytest.mark.parametrize(
    ("scope", "bos", "eligible"),
    [
        ("prompt", None, [0, 1, 2, 4, 5, 7, 8, 9]),  # 0 to q - 2 without the anchors, where q = 11
        ("prompt", 100, [1, 2, 4, 5, 7, 8, 9]),
        ("demonstrations", None, [0, 1, 2, 4, 5]),
    ],
)
@pytest.mark.parametrize("draw", ["order", "prompt"])
def test_each_set_of_eligible_positions_is_equally_likely(scope, bos, eligible, draw):
    counts = all_sets(scope, bos, draw=draw, place=7)
    sets = math.comb(len(eligible), 2)
    assert set(counts) == {(a, b) for a in eligible for b in eligible if a < b}
    expected = 6000 / sets
    chi_squared = sum((count - expected) ** 2 / expected for count in counts.values())
    freedom = sets - 1
    assert chi_squared < freedom + 4 * math.sqrt(2 * freedom)


@pytest.mark.parametrize("draw", ["order", "prompt"])
def test_the_positions_of_a_prompt_are_distributed_as_in_the_released_code(draw):
    one, settings, generator = prompt(length=14, anchors=(2, 6, 9), place=3), Settings(draw=draw), random.Random(0)
    draws = 3000
    ours = Counter(tuple(random_positions(one, settings, number).tolist()) for number in range(draws))
    released = Counter(tuple(released_random_positions(generator, 14, (2, 6, 9))) for _ in range(draws))
    assert set(ours) == set(released)  # all 84 sets
    chi_squared = sum((ours[each] - released[each]) ** 2 / (ours[each] + released[each]) for each in ours)
    freedom = len(ours) - 1
    assert chi_squared < freedom + 4 * math.sqrt(2 * freedom)


def early_sets(prompts, settings, draw=0):
    """Return the set of positions of each prompt within the demonstrations."""
    return [tuple(p for p in random_positions(each, settings, draw).tolist() if p < each.anchors[-1]) for each in prompts]


def test_a_seed_has_ten_orders_and_prompts_with_one_order_share_their_positions_in_the_demonstrations():
    same_length = [prompt(length=40, anchors=(5, 11, 17, 23), place=place) for place in range(300)]
    settings = Settings()
    sets, orders = early_sets(same_length, settings), [order_of(p, settings) for p in same_length]
    assert sorted(set(orders)) == list(range(10))
    assert len(set(zip(orders, sets, strict=True))) == 10  # one set per order
    assert len(set(sets)) >= 9  # the sets of two orders can be equal by chance
    # The positions after the last label word are drawn separately for each prompt.
    assert len({tuple(random_positions(p, settings, 0).tolist()) for p in same_length}) > 50
    # Other draws divide the prompts in the same way but have other orders.
    assert len(set(zip(sets, early_sets(same_length, settings, 1), strict=True))) == 10


def test_prompts_are_divided_evenly_among_the_orders_also_the_first_ones():
    for seed in (42, 43):
        for count in (1, 7, 10, 12, 25, 100):
            dealt = Counter(order_of(prompt(seed=seed, place=place), Settings()) for place in range(count))
            assert len(dealt) == min(10, count)
            assert max(dealt.values()) - min(dealt.values()) <= (count > 10)
    # The division is random: prompts of one order are not at regular distances, and seeds differ.
    dealt = [[order_of(prompt(seed=seed, place=place), Settings()) for place in range(100)] for seed in (42, 43)]
    assert dealt[0] != dealt[1]
    assert dealt[0][:10] != dealt[0][10:20]


def test_places_follow_the_ids_in_each_seed_whatever_the_rows_order(tokenizer):
    table = prompts_table(count=7)  # seeds 42 and 43 alternate
    places = {p.prompt_id: p.place for p in tokenize(table, tokenizer)}
    assert places == {100: 0, 101: 0, 102: 1, 103: 1, 104: 2, 105: 2, 106: 3}
    assert places == {p.prompt_id: p.place for p in tokenize(table[::-1], tokenizer)}


def test_separate_draws_for_each_prompt_are_as_many_as_prompts():
    same_length = [prompt(length=400, anchors=(50, 110, 170, 330), place=place) for place in range(40)]
    settings = Settings(draw="prompt")
    assert [order_of(p, settings) for p in same_length] == list(range(40))
    some = [each for each in early_sets(same_length, settings) if each]
    assert len(set(some)) == len(some) > 30


def test_a_draw_repeats_and_follows_seed_draw_and_text():
    base = prompt(length=200, anchors=(50, 100))
    settings = Settings()
    again = random_positions(base, settings, 0)
    assert random_positions(base, settings, 0).tolist() == again.tolist()
    others = [
        random_positions(base, settings, 1),
        random_positions(dataclasses.replace(base, seed=43), settings, 0),
        random_positions(dataclasses.replace(base, ids=base.ids + 1), settings, 0),
    ]
    assert all(o.tolist() != again.tolist() for o in others)


def test_prompts_of_two_tasks_have_independent_positions_in_their_queries():
    # Only the query matters here: two demonstrations, each one position before the query.
    tasks = [
        [dataclasses.replace(prompt(length=100, anchors=(1, 3), place=place), ids=ids) for place in range(30)]
        for ids in (np.arange(100), np.arange(100) + 1)
    ]
    first, second = ([random_positions(p, Settings(), 0).tolist() for p in prompts] for prompts in tasks)
    assert sum(one == two for one, two in zip(first, second, strict=True)) <= 1


@pytest.mark.parametrize(("before", "after", "required"), [(5, 3, 2), (60, 20, 2), (300, 30, 16), (4, 0, 3), (0, 5, 2)])
def test_the_number_of_positions_after_the_last_label_word_is_hypergeometric(before, after, required):
    points = (np.arange(100_000) + 0.5) / 100_000
    counts = Counter(isolated_positions._number_after(u, before, after, required) for u in points)
    for number in range(required + 1):
        expected = math.comb(after, number) * math.comb(before, required - number) / math.comb(before + after, required)
        assert counts[number] / len(points) == pytest.approx(expected, abs=2e-5)


def test_too_few_eligible_positions_are_refused():
    with pytest.raises(InputError, match="2 random positions are required, but only 1 are eligible"):
        random_positions(prompt(length=5, anchors=(1, 2)), Settings(), 0, bos=None)


@pytest.mark.parametrize("task", sorted(TASKS))
@pytest.mark.parametrize("shots", [1, 2])
def test_the_fixed_targets_are_the_tokens_they_name(tokenizer, task, shots):
    for p in tokenize(prompts_table(task, shots=shots), tokenizer):
        read = {t: fixed_positions(p, t, lambda i: tokenizer.decode([i])) for t in ("label", "newline", "template")}
        assert read["label"].tolist() == p.anchors.tolist()
        assert {tokenizer.decode([p.ids[i]]) for i in read["newline"]} == {"\n"}
        assert {tokenizer.decode([p.ids[i]]) for i in read["template"]} == {":"}
        words = TASKS[task].label_words
        for label, start, end in zip(p.demo_labels, p.anchors, read["newline"], strict=True):
            assert tokenizer.decode(p.ids[start:end]) == words[label]


def test_a_label_word_at_the_very_beginning_has_no_template_before_it():
    with pytest.raises(InputError, match="prompt 0: a label word has no template token before it"):
        fixed_positions(prompt(anchors=(0, 4)), "template", str)
