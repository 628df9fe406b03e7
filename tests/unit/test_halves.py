"""Tests of the division of prompts for a choice on one part and its score on the other."""

import numpy as np
import pandas as pd
import pytest

from icl_lens.statistics.halves import chosen_on_other_half, halves, held_out, texts_of


def test_each_seed_has_its_share_whatever_the_order_of_the_prompts():
    seeds, texts = np.repeat([1, 2], 10), np.arange(20)
    selected = held_out(seeds, texts, 0.3, 0)
    assert [int(selected[seeds == seed].sum()) for seed in (1, 2)] == [3, 3]
    order = np.random.default_rng(0).permutation(20)
    assert (held_out(seeds[order], texts[order], 0.3, 0) == selected[order]).all()
    assert (held_out(seeds, texts, 0.3, 1) != selected).any()


@pytest.mark.parametrize(("share", "expected"), [(0.01, 1), (0.5, 2), (0.99, 3)])
def test_neither_all_nor_none_of_a_seed_s_prompts_are_selected(share, expected):
    assert held_out([5] * 4, range(4), share, 0).sum() == expected


def test_a_text_that_recurs_in_other_seeds_is_selected_in_all_of_them_or_in_none():
    generator = np.random.default_rng(0)
    seeds = np.repeat(np.arange(5), 60)
    texts = np.concatenate([generator.choice(150, 60, replace=False) for _ in range(5)])
    for share in (0.3, 0.5):
        selected = held_out(seeds, texts, share, 0)
        assert (pd.Series(selected).groupby(texts).nunique() == 1).all()
        counts = pd.Series(selected).groupby(seeds).mean()
        assert (abs(counts - share) < 0.15).all()


def test_texts_of_one_seed_balance_the_texts_that_recur():
    seeds = np.repeat([1, 2], 30)
    texts = np.concatenate([np.arange(30), np.arange(20, 50)])  # ten texts recur
    half = halves(seeds, texts)
    assert [int(half[seeds == seed].sum()) for seed in (1, 2)] == [15, 15]
    assert (half[20:30] == half[30:40]).all()


def test_both_halves_have_the_same_classes():
    seeds, texts = np.repeat(np.arange(4), 25), np.arange(100)
    texts[25:35] = texts[:10]  # ten texts recur
    classes = texts % 3
    half = halves(seeds, texts, classes)
    for seed in range(4):
        for number in range(3):
            cell = half[(seeds == seed) & (classes == number)]
            assert abs(cell.mean() - 0.5) <= 1.5 / len(cell)
        assert abs(half[seeds == seed].sum() - 12.5) <= 1
    assert (halves(seeds, texts) != half).any()


def test_a_prompt_that_is_left_out_changes_at_most_one_other():
    seeds, texts = np.repeat([1, 2], 20), np.arange(40)
    selected = held_out(seeds, texts, 0.3, 0)
    kept = np.arange(40) != 7
    assert (held_out(seeds[kept], texts[kept], 0.3, 0) != selected[kept]).sum() <= 1


def test_each_half_is_scored_with_what_the_other_half_chooses():
    half = np.array([0, 0, 1, 1, 1])
    chosen = chosen_on_other_half(half, lambda of: int(of.sum()))
    assert chosen.tolist() == [3, 3, 2, 2, 2]
    assert chosen_on_other_half(np.zeros(3, dtype=int), lambda of: 1).tolist() == [-1, -1, -1]


def test_without_a_column_for_it_each_prompt_has_its_own_text():
    rows = pd.DataFrame({"prompt_id": [3, 4], "query_index": [9, 9]})
    assert texts_of(rows).tolist() == [9, 9]
    assert texts_of(rows.drop(columns="query_index")).tolist() == [3, 4]
