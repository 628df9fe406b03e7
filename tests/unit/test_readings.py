"""Tests of readings: when a claim holds, holds in weakened form, does not hold, or remains open."""

import math

import pandas as pd
import pytest

from icl_lens.report import claims, readings
from icl_lens.report.readings import FAILS, HOLDS, OPEN, UNTESTED, WEAKENED

SURE, UNSURE, AGAINST, LESS = (0.9, 0.8, 1.0), (0.6, 0.4, 0.8), (0.2, 0.1, 0.3), (0.3, 0.2, 0.4)


def claim(**rule):
    made = claims.Rule.model_validate(rule, strict=False)
    value, model = (0.9, "a/m") if "within" in rule else (None, None)
    return claims.Claim(id="c", item="figure_5", where="", statement="", value=value, model=model, rule=made)


def table(*cells):
    """Return a table with one row per layer from cells of (value, low, high)."""
    rows = [dict(zip(("value", "low", "high"), cell, strict=True)) for cell in cells]
    return pd.DataFrame(rows).assign(model="m", layer=range(1, len(rows) + 1), prompts=20)


def read(made, shown, by_seed=()):
    (verdict,) = claims.judge(made, shown)
    return readings.read(verdict, shown, dict(enumerate(by_seed)))


@pytest.mark.parametrize(
    ("rule", "cells", "expected"),
    [
        ({"above": 0.5}, [SURE], HOLDS),
        ({"above": 0.5}, [UNSURE], OPEN),
        ({"above": 0.5}, [AGAINST], FAILS),
        ({"above": 0.5}, [(0.5, 0.5, 0.5)], FAILS),
        ({"above": 0.5, "weaker": 0}, [AGAINST], WEAKENED),
        ({"above": 0.5, "weaker": 0.15}, [AGAINST], FAILS),
        ({"below": -0.2, "weaker": 0}, [(-0.1, -0.15, -0.05)], WEAKENED),
        ({"below": -0.2, "weaker": 0}, [(-0.1, -0.25, 0.05)], OPEN),
        ({"above": 0.5}, [SURE, SURE], HOLDS),
        ({"above": 0.5}, [SURE, SURE, AGAINST], WEAKENED),
        ({"above": 0.5}, [SURE, SURE, UNSURE], WEAKENED),
        ({"above": 0.5}, [SURE, AGAINST], FAILS),
        ({"above": 0.5}, [SURE, UNSURE], OPEN),
        ({"above": 0.5}, [SURE, (math.nan, math.nan, math.nan)], OPEN),
        ({"above": 0.5, "take": "any"}, [SURE, AGAINST], HOLDS),
        ({"above": 0.5, "take": "any"}, [AGAINST, UNSURE], OPEN),
        ({"above": 0.5, "take": "any"}, [AGAINST, LESS], FAILS),
        ({"above": 0.5, "weaker": 0.15, "take": "any"}, [AGAINST, LESS], WEAKENED),
        ({"above": 0.5, "take": "mean"}, [SURE, LESS], OPEN),
        ({"within": 0.1}, [SURE], UNTESTED),
        ({"above": 0.5}, [(math.nan, math.nan, math.nan)], UNTESTED),
    ],
)
def test_readings(rule, cells, expected):
    assert read(claim(**rule), table(*cells)).reading == expected


def test_the_deciding_cell_is_the_one_farthest_from_the_rule_or_nearest_where_any_will_do():
    shown = table(SURE, AGAINST, UNSURE)
    found = read(claim(above=0.5), shown)
    assert (found.cell, found.value, found.low, found.high) == ("layer 2", *AGAINST)
    assert (found.lowest, found.highest, found.cells) == (0.2, 0.9, 3)
    assert found.reason == "holds in 1, is inconclusive in 1, fails in 1 of 3 cells"
    assert read(claim(above=0.5, take="any"), shown).cell == "layer 1"


def test_a_cell_has_a_name_of_its_own():
    shown = pd.concat([table(SURE, AGAINST).assign(two_classes=way) for way in ("normalised", "raw")], ignore_index=True)
    names = claims.cells(claim(above=0.5), shown)["cell"]
    assert list(names) == ["layer 1, normalised", "layer 2, normalised", "layer 1, raw", "layer 2, raw"]


def test_the_spread_is_that_of_the_deciding_cell_and_counts_the_seeds_that_obey():
    shown = table(SURE, UNSURE)
    seeds = [shown.assign(value=values) for values in ([0.9, 0.4], [0.95, 0.6], [0.85, 0.8])]
    found = read(claim(above=0.5), shown, seeds)
    assert (found.seed_lowest, found.seed_highest, found.seeds) == (0.4, 0.8, 3)
    assert found.seed_sd == pytest.approx(0.2)
    assert found.seeds_obeying == 2
    assert read(claim(above=0.5, take="any"), shown, seeds).seeds_obeying == 3
    assert read(claim(above=0.5), shown).seeds == 0


def test_a_number_of_another_model_is_measured_and_not_judged():
    found = read(claim(within=0.05), table(UNSURE))
    assert found.reading == UNTESTED
    assert (found.value, found.low, found.high, found.prompts) == (*UNSURE, 20)


def test_what_was_not_made_has_no_number():
    (verdict,) = claims.judge(claim(above=0.5), None)
    found = readings.read(verdict, None, {})
    assert found.reading == UNTESTED
    assert not found.measured


def test_a_weaker_bound_needs_one_bound_to_weaken():
    with pytest.raises(ValueError, match="weaker needs either below or above"):
        claim(above=0, below=1, weaker=0.5)
