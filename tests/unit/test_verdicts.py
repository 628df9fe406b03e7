"""Tests of verdicts: the state of a cell, the combination of cells, and intervals of combined rows."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from icl_lens.report import claims, replicates, scorecard, verdicts
from icl_lens.report.verdicts import CONTRADICTED, HOLDS, UNDECIDED, UNTESTABLE, WEAKLY
from icl_lens.statistics.resampling import mean

NAN = math.nan
SURE, WEAK, WIDE, AGAINST, LESS = (0.9, 0.8, 1.0), (0.6, 0.48, 0.72), (0.6, 0.3, 0.9), (0.2, 0.1, 0.3), (0.3, 0.2, 0.4)


def claim(value=None, model=None, **rule):
    made = claims.Rule.model_validate(rule, strict=False)
    return claims.Claim(id="c", item="figure_4", where="", statement="", value=value, model=model, rule=made)


def table(*cells, **columns):
    """Return a table with one row per layer from cells of (value, low, high), over 5 demonstration sets."""
    rows = [dict(zip(("value", "low", "high"), cell, strict=True)) for cell in cells]
    return pd.DataFrame(rows).assign(model="m", layer=range(1, len(rows) + 1), prompts=20, sets=5, **columns)


def judge(made, shown, original=(), **more):
    (verdict,) = verdicts.judge(made, shown, original, **more)
    return verdict


@pytest.mark.parametrize(
    ("rule", "cell", "expected"),
    [
        ({"above": 0.5}, SURE, HOLDS),
        ({"above": 0.5}, AGAINST, CONTRADICTED),
        ({"above": 0.5}, (0.5, 0.4, 0.5), CONTRADICTED),
        ({"above": 0.5}, (0.5, 0.5, 0.5), CONTRADICTED),
        # Exactly a quarter of the interval is outside, then a little more.
        ({"above": 0.5}, (0.75, 0.25, 1.25), WEAKLY),
        ({"above": 0.5}, (0.75, 0.24, 1.26), UNDECIDED),
        ({"above": 0.5}, (0.49, 0.48, 0.9), UNDECIDED),  # little is outside, but the value is
        ({"above": 0, "below": 1}, (0.5, -0.1, 1.1), WEAKLY),  # both ends together
        ({"above": 0, "below": 1}, (0.5, -0.3, 1.3), UNDECIDED),
        ({"above": 0.5, "weaker": 0}, AGAINST, WEAKLY),
        ({"above": 0.5, "weaker": 0.15}, AGAINST, CONTRADICTED),
        ({"above": 0.5, "weaker": 0}, WIDE, WEAKLY),
        ({"below": -0.2, "weaker": 0}, (-0.1, -0.15, -0.05), WEAKLY),
        ({"below": -0.2, "weaker": 0}, (-0.1, -0.25, 0.05), UNDECIDED),
        ({"above": 0.5}, (NAN, NAN, NAN), UNTESTABLE),
    ],
)
def test_the_state_of_a_cell(rule, cell, expected):
    assert judge(claim(**rule), table(cell)).outcome == expected


def test_a_value_whose_interval_touches_the_bound_differs_from_one_with_a_wide_interval():
    weak, wide = judge(claim(above=0.5), table(WEAK)), judge(claim(above=0.5), table(WIDE))
    assert (weak.outcome, wide.outcome) == (WEAKLY, UNDECIDED)
    assert weak.reason == "the value satisfies the rule, and 8 % of the interval does not"
    assert wide.reason.startswith("the value satisfies the rule, and the interval contains the bound; about ")
    assert math.isnan(weak.further_sets)


def test_an_undecided_claim_says_how_many_more_sets_would_decide():
    # t(4) / sqrt(5) = 1.2417 for 5 sets; a third of it first for 25 sets: t(24) / 5 = 0.41278.
    assert verdicts.further_sets(0.1, 0.3, 5) == 20
    found = judge(claim(above=0.5), table(WIDE))
    assert found.further_sets == 20
    assert found.reason.endswith("about 20 more demonstration sets would decide")
    # Also for a value on the other side, from which the claim would be contradicted.
    assert judge(claim(above=0.7), table(WIDE)).further_sets == 20
    assert judge(claim(above=0.6), table(WIDE)).reason.endswith("more than 1,000 more demonstration sets would decide")
    assert verdicts.further_sets(0.2, 0.3, 2) == 1
    assert math.isnan(verdicts.further_sets(0.1, 0.3, NAN))
    # An interval that ends at the largest possible value has the width of its longer side.
    assert verdicts.state(claim(above=0.9), 0.95, 0.5, 1.0, 5).further_sets == verdicts.further_sets(0.05, 0.45, 5)


def test_a_claim_is_undecided_with_one_demonstration_set():
    found = judge(claim(above=0.5), table((0.9, NAN, NAN)).assign(sets=1))
    assert found.outcome == UNDECIDED
    assert found.reason == "1 demonstration set: no interval over demonstration sets"
    assert found.measurement == "0.900"


def test_a_missing_interval_over_several_demonstration_sets_decides_nothing():
    found = judge(claim(above=0.5), table((0.9, NAN, NAN)))
    assert found.outcome == UNDECIDED
    assert found.reason == "too few of 5 demonstration sets have a value: no interval over demonstration sets"


def test_combined_rows_end_where_the_values_end_and_have_a_width_if_all_prompts_agree():
    rows = [{"task": "a", "seed": s, "prompt_id": 20 * s + n, "x": True} for s in range(5) for n in range(20)]
    same = mean(pd.DataFrame(rows), ["x"])[0]
    shown, replicated = measured([same, same], side=["last", "first"]).assign(layer=1), {(0, "low"): same, (1, "low"): same}
    equal = judge(claim(rows={"side": "last"}, minus={"side": "first"}, below=0), shown, replicates=replicated)
    width = 1 - 0.025**0.01
    assert (equal.outcome, equal.low, equal.high) == (UNDECIDED, pytest.approx(-width), pytest.approx(width))
    average = judge(claim(take="mean", above=0.5), shown, replicates=replicated)
    assert (average.low, average.high) == (pytest.approx(1 - width), 1)


@pytest.mark.parametrize(("value", "expected"), [(0.9, HOLDS), (0.4, CONTRADICTED)])
def test_a_number_without_an_interval_is_judged_by_its_value_and_the_reason_mentions_it(value, expected):
    unknown = table((value, NAN, NAN)).assign(sets=NAN)  # such as a value in sample
    for shown in (unknown, table((value, NAN, NAN)).drop(columns=["low", "high"]).assign(sets=1)):
        found = judge(claim(above=0.5), shown)
        assert (found.outcome, found.interval) == (expected, False)
        assert found.reason.endswith("this number has no interval")


@pytest.mark.parametrize(
    ("take", "cells", "expected"),
    [
        ("each", [SURE, SURE], HOLDS),
        ("each", [SURE, WEAK], WEAKLY),
        ("each", [SURE, SURE, SURE, WIDE], UNDECIDED),
        ("each", [SURE, SURE, SURE, AGAINST], CONTRADICTED),
        ("each", [WIDE, AGAINST], CONTRADICTED),
        ("each", [SURE, (NAN, NAN, NAN)], UNTESTABLE),
        ("each", [AGAINST, (NAN, NAN, NAN)], CONTRADICTED),
        ("any", [SURE, AGAINST], HOLDS),
        ("any", [WEAK, AGAINST], WEAKLY),
        ("any", [WIDE, AGAINST], UNDECIDED),
        ("any", [AGAINST, LESS], CONTRADICTED),
        ("any", [SURE, (NAN, NAN, NAN)], HOLDS),
        ("any", [AGAINST, (NAN, NAN, NAN)], UNTESTABLE),
    ],
)
def test_the_worst_or_the_best_cell_decides(take, cells, expected):
    assert judge(claim(above=0.5, take=take), table(*cells)).outcome == expected


def test_the_sets_that_decide_several_cells():
    near, far = (0.6, 0.3, 0.9), (0.55, 0.25, 0.85)
    below = (0.4, 0.1, 0.7)
    needed = {cell: judge(claim(above=0.5), table(cell)).further_sets for cell in (near, far, below)}
    assert needed[near] == needed[below] < needed[far]
    assert judge(claim(above=0.5), table(near, far)).further_sets == needed[far]
    assert judge(claim(above=0.5, take="any"), table(near, far)).further_sets == needed[near]
    assert judge(claim(above=0.5), table(far, below)).further_sets == needed[below], "one contradicted cell is sufficient"
    assert judge(claim(above=0.5, take="any"), table(far, below)).further_sets == needed[far]


def test_the_papers_own_model_is_marked_and_the_verdicts_are_the_same():
    for cell, expected in ((SURE, HOLDS), (AGAINST, CONTRADICTED)):
        here, there = judge(claim(above=0.5), table(cell)), judge(claim(above=0.5), table(cell), ["m"])
        assert (here.outcome, here.original, there.outcome, there.original) == (expected, False, expected, True)


def test_a_papers_number_is_judged_only_for_its_own_model():
    near = claim(value=0.88, model="a/m", within=0.03)
    found = judge(near, table(SURE))
    assert (found.outcome, found.value, found.prompts) == (UNTESTABLE, 0.9, 20)
    assert judge(near, table((0.9, 0.86, 0.90)), ["m"]).outcome == HOLDS
    assert judge(near, table(SURE), ["m"]).outcome == WEAKLY, "the paper's number has an interval of its own"
    assert judge(near, table((0.8, 0.7, 0.9)), ["m"]).outcome == UNDECIDED
    assert judge(near, table(AGAINST), ["m"]).outcome == CONTRADICTED
    without = table((0.91, NAN, NAN)).assign(sets=NAN)
    assert judge(near, without, ["m"]).outcome == HOLDS, "exactly at the largest distance"


def of_prompts(values, tasks="a"):
    """Return the estimate of the mean of values (seeds, prompts)."""
    rows = [
        {"task": tasks, "seed": seed, "prompt_id": 100 * seed + number, "x": value}
        for seed, of_seed in enumerate(values)
        for number, value in enumerate(of_seed)
    ]
    return mean(pd.DataFrame(rows), ["x"])[0]


def measured(estimates, **columns):
    """Return a table with one row per estimate."""
    cells = [(float(each.value), float(each.low), float(each.high)) for each in estimates]
    return table(*cells, **columns).assign(sets=estimates[0].sets)


@pytest.fixture
def pair():
    """Two conditions on the same prompts: the seeds differ much, the difference of the conditions is 0.1 and hardly varies."""
    draw = np.random.default_rng(0)
    first = draw.normal(size=(5, 1)) + draw.normal(0, 0.1, (5, 20))
    return of_prompts(first), of_prompts(first - 0.1 + draw.normal(0, 0.01, first.shape))


def test_a_difference_has_the_interval_of_the_paired_difference(pair):
    shown = measured(pair, side=["last", "first"]).assign(layer=1)
    made = claim(rows={"side": "last"}, minus={"side": "first"}, above=0)
    found = judge(made, shown, replicates={(0, "low"): pair[0], (1, "low"): pair[1]})
    difference = pair[0] - pair[1]
    assert (found.outcome, found.low, found.high) == (HOLDS, float(difference.low), float(difference.high))
    # The ends of the two intervals overlap, so that no interval made of them excludes 0.
    assert shown["low"].iloc[0] < shown["high"].iloc[1]


def test_a_mean_has_the_interval_of_the_mean():
    draw = np.random.default_rng(1)
    noise = draw.normal(size=(5, 20)) + draw.normal(size=(5, 1))
    opposed = of_prompts(0.6 + noise), of_prompts(0.6 - noise + draw.normal(0, 0.01, noise.shape))
    shown = measured(opposed)
    replicated = {(row, "low"): each for row, each in enumerate(opposed)}
    found = judge(claim(above=0.5, take="mean"), shown, replicates=replicated)
    assert found.outcome == HOLDS
    assert found.high - found.low < 0.1 < shown["high"].mean() - shown["low"].mean()


def test_without_replicates_nothing_is_combined(pair):
    shown = measured(pair, side=["last", "first"]).assign(layer=1)
    made = claim(rows={"side": "last"}, minus={"side": "first"}, above=0)
    several = pd.concat([shown, shown.assign(layer=2)], ignore_index=True)
    reason = judge(made, several).reason
    assert reason == "of 2 cells, 2 are not testable (the rule combines rows of figure_4 that have no replicates)"
    for found in (judge(made, shown), judge(claim(above=0, take="mean"), shown)):
        assert found.outcome == UNTESTABLE
        assert found.reason == "the rule combines rows of figure_4 that have no replicates"
        assert math.isnan(found.low)


def test_rows_of_different_prompts_are_not_combined(pair):
    other = of_prompts(np.zeros((5, 19)))
    shown = measured((pair[0], other), side=["last", "first"]).assign(layer=1)
    made = claim(rows={"side": "last"}, minus={"side": "first"}, above=0)
    found = judge(made, shown, replicates={(0, "low"): pair[0], (1, "low"): other})
    assert found.outcome == UNTESTABLE
    assert found.reason.startswith("the rule combines rows of figure_4, but estimates of different prompts cannot be paired")


def test_replicates_from_a_file_give_the_same_verdict(pair, tmp_path):
    shown = measured(pair, side=["last", "first"]).assign(layer=1)
    replicates.write(shown.assign(replicates=list(pair)), tmp_path / "figure_4")
    read = replicates.read(tmp_path / f"figure_4{replicates.ENDING}")
    made = claim(rows={"side": "last"}, minus={"side": "first"}, above=0)
    direct = judge(made, shown, replicates={(0, "low"): pair[0], (1, "low"): pair[1]})
    found = judge(made, shown, replicates=read)
    # The file has fewer resamples, in single precision.
    np.testing.assert_allclose([found.low, found.high], [direct.low, direct.high], rtol=1e-3)


def test_a_difference_of_numbers_without_intervals_needs_no_replicates():
    shown = table((0.9, NAN, NAN), (0.4, NAN, NAN), side=["last", "first"]).assign(layer=1)
    made = claim(rows={"side": "last"}, minus={"side": "first"}, low="none", high="none", above=0)
    found = judge(made, shown)
    assert (found.outcome, found.value) == (HOLDS, pytest.approx(0.5))


def test_the_deciding_cell_is_the_one_farthest_from_the_rule_or_nearest_if_any_is_sufficient():
    shown = table(SURE, AGAINST, WIDE)
    found = judge(claim(above=0.5), shown)
    assert (found.cell, found.value, found.low, found.high) == ("layer 2", *AGAINST)
    assert (found.lowest, found.highest, found.cells) == (0.2, 0.9, 3)
    assert found.reason == "of 3 cells, 1 holds, 1 is undecided, 1 is contradicted"
    assert found.measurement == "0.200 to 0.900 in 3 cells (layer 2: 0.200 [0.100, 0.300])"
    assert judge(claim(above=0.5, take="any"), shown).cell == "layer 1"


def test_the_spread_is_that_of_the_deciding_cell_and_counts_the_seeds_that_satisfy_the_rule():
    shown = table(SURE, WIDE)
    by_seed = {n: shown.assign(value=values) for n, values in enumerate(([0.9, 0.4], [0.95, 0.6], [0.85, 0.8]))}
    found = judge(claim(above=0.5), shown, by_seed=by_seed)
    assert (found.seed_lowest, found.seed_highest, found.seeds) == (0.4, 0.8, 3)
    assert found.seed_sd == pytest.approx(0.2)
    assert found.seeds_obeying == 2
    assert judge(claim(above=0.5, take="any"), shown, by_seed=by_seed).seeds_obeying == 3
    assert judge(claim(above=0.5), shown).seeds == 0


def test_an_item_that_was_not_made_has_no_number():
    (found,) = verdicts.judge(claim(above=0.5), None)
    assert (found.outcome, found.measured, found.model) == (UNTESTABLE, False, "")
    failed = judge(claim(above=0.5), None, failure="out of memory.")
    assert failed.reason == "figure_4 was not made in this run: out of memory"
    assert judge(claim(above=0.5, rows={"layer": 9}), table(SURE)).outcome == UNTESTABLE


def test_each_model_has_its_verdict():
    shown = pd.concat([table(SURE), table(AGAINST).assign(model="n")], ignore_index=True)
    found = verdicts.judge(claim(above=0.5), shown)
    assert [(v.model, v.outcome) for v in found] == [("m", HOLDS), ("n", CONTRADICTED)]


def test_texts_and_their_prefixes():
    shown = pd.DataFrame({"model": "m", "isolated": ["no", "in the first 2 layers"], "label": ["World", "Sports"]})
    assert judge(claim(rows={"isolated": "in the first *"}, column="label", equals="World"), shown).outcome == CONTRADICTED
    found = judge(claim(rows={"isolated": "no"}, column="label", equals="World"), shown)
    assert (found.outcome, found.measurement) == (HOLDS, "")


def papers(*rules):
    """Return a paper with one claim per rule, and the verdicts on them, each with an interval."""
    made = [claim(**rule).model_copy(update={"id": f"c{number}"}) for number, rule in enumerate(rules)]
    paper = claims.Paper(name="P", reference="r", claims=made)
    return paper, {"P": [judge(each, table(SURE, AGAINST, WEAK)) for each in made]}


def test_the_number_of_claims_that_hold_by_chance():
    _, found = papers({"above": 0.5}, {"above": 0.5, "take": "any"}, {"above": 0.5, "low": "none", "high": "none"})
    sentence = scorecard.chance_sentence(found["P"])
    # 2.5 % for the claim about each cell, three times as much for the claim about any of three cells, none without intervals.
    assert sentence.startswith("If the true value of each of the 2 claims judged by an interval were exactly at the bound")
    assert "at most 0.1 would be expected to hold by chance (2.5 %" in sentence
    assert scorecard.chance_sentence([]) == ""


def test_counts_are_per_paper_and_a_claim_without_a_model_is_not_counted_in_null_runs():
    paper, found = papers({"above": 0.35}, {"above": 0.5})
    no_model = [replace(v, claim=v.claim.model_copy(update={"id": "hmm", "item": "kr_table_3"})) for v in found["P"][:1]]
    null = scorecard.Null("untrained copy", {"c0": ["holds"], "c1": ["contradicted"], "hmm": ["holds"], "other": ["holds"]})
    (one,) = scorecard.counts({"P": [*found["P"], *no_model]}, [null])
    assert dict(one.outcomes) == {HOLDS: 0, WEAKLY: 0, UNDECIDED: 0, CONTRADICTED: 3}
    assert (one.testable, one.not_testable, one.nulls) == (3, 0, {"untrained copy": (1, 2)})
    shown = scorecard.counts_table(scorecard.counts({**found, "Q": []}, [null]))
    assert shown["paper"].tolist() == ["P", "Q", "all papers"]
    assert shown["hold: untrained copy"].tolist() == ["1 of 2", "0 of 0", "1 of 2"]
    assert scorecard.table([paper], found)["verdict"].tolist() == [CONTRADICTED, CONTRADICTED]
