import dataclasses
import math
from collections import Counter

import numpy as np
import pytest

from icl_lens.errors import InputError
from icl_lens.prompts.positions import TokenizedPrompt, tokenize
from icl_lens.studies.anchors.isolated_positions import fixed_positions, random_positions
from icl_lens.tasks.task import TASKS

from ..prompts_table import prompts_table


def prompt(length=12, anchors=(3, 6), seed=42, prompt_id=0):
    return TokenizedPrompt(
        prompt_id=prompt_id,
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


def all_sets(scope, bos=None, draws=6000, **options):
    """Return how often each set of positions is drawn."""
    return Counter(tuple(random_positions(prompt(**options), scope, draw, bos).tolist()) for draw in range(draws))


@pytest.mark.parametrize(
    ("scope", "bos", "eligible"),
    [
        ("prompt", None, [0, 1, 2, 4, 5, 7, 8, 9]),  # 0 to q - 2 without the anchors, where q = 11
        ("prompt", 100, [1, 2, 4, 5, 7, 8, 9]),
        ("demonstrations", None, [0, 1, 2, 4, 5]),
    ],
)
def test_each_set_of_eligible_positions_is_equally_likely(scope, bos, eligible):
    counts = all_sets(scope, bos)
    sets = math.comb(len(eligible), 2)
    assert set(counts) == {(a, b) for a in eligible for b in eligible if a < b}
    expected = 6000 / sets
    chi_squared = sum((count - expected) ** 2 / expected for count in counts.values())
    freedom = sets - 1
    assert chi_squared < freedom + 4 * math.sqrt(2 * freedom)


def test_prompts_that_share_a_beginning_have_few_different_sets_in_it():
    alike = [prompt(length=40, anchors=(5, 11, 17, 23), prompt_id=i) for i in range(300)]
    drawn = [random_positions(p, "prompt", 0) for p in alike]
    early = {tuple(d[d < 24].tolist()) for d in drawn}
    assert len(early) == len({len(e) for e in early}) <= 5
    assert len({tuple(d.tolist()) for d in drawn}) > 20


def test_a_draw_repeats_and_follows_seed_draw_and_prompt():
    base = prompt(length=200, anchors=(50, 100))
    again = random_positions(base, "prompt", 0)
    assert random_positions(base, "prompt", 0).tolist() == again.tolist()
    others = [
        random_positions(base, "prompt", 1),
        random_positions(dataclasses.replace(base, seed=43), "prompt", 0),
        random_positions(dataclasses.replace(base, ids=base.ids + 1), "prompt", 0),
    ]
    assert all(o.tolist() != again.tolist() for o in others)


def test_too_few_eligible_positions_are_refused():
    with pytest.raises(InputError, match="2 random positions are required, but only 1 are eligible"):
        random_positions(prompt(length=5, anchors=(1, 2)), "prompt", 0, bos=None)


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
