"""Tests of verdicts: the outcome of a rule for measured rows, and that a missing value never satisfies a rule."""

import math

import pandas as pd
import pytest
import yaml

from icl_lens.errors import InputError
from icl_lens.report import claims
from icl_lens.studies import registry

from ..conftest import REPOSITORY

ANCHORS = REPOSITORY / "resources/claims/anchors.yaml"


def claim(value=None, model=None, **rule):
    rule = claims.Rule.model_validate(rule, strict=False)
    return claims.Claim(id="c", item="figure_4", where="", statement="", value=value, model=model, rule=rule)


def table(*cells, **columns):
    """Return a table with one row per (value, low, high) tuple."""
    values, lows, highs = zip(*cells, strict=True)
    return pd.DataFrame({"model": "m", "value": values, "low": lows, "high": highs, "prompts": 20, **columns})


def outcome(made, shown, own=()):
    (verdict,) = claims.judge(made, shown, own)
    return verdict.outcome


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ((0.9, 0.8, 0.95), "same pattern"),
        ((0.9, 0.4, 0.95), "partly"),
        ((0.4, 0.3, 0.95), "another pattern"),
        ((0.5, 0.5, 0.5), "another pattern"),
        ((math.nan, math.nan, math.nan), "not testable here"),
    ],
)
def test_the_whole_interval_must_obey(cell, expected):
    assert outcome(claim(above=0.5), table(cell)) == expected


def test_only_the_papers_own_model_reproduces():
    good, bad = table((0.9, 0.8, 1.0)), table((0.1, 0.0, 0.2))
    assert outcome(claim(above=0.5), good, own=["m"]) == "reproduced"
    assert outcome(claim(above=0.5), bad, own=["m"]) == "not reproduced"
    near = claim(value=0.88, model="a/m", within=0.03)
    assert outcome(near, good) == "not testable here"
    assert outcome(near, good, own=["m"]) == "reproduced"
    assert outcome(near, bad, own=["m"]) == "not reproduced"


def test_a_missing_value_among_others_makes_it_partly():
    shown = table((0.9, 0.8, 1.0), (math.nan, math.nan, math.nan))
    assert outcome(claim(above=0.5), shown) == "partly"
    assert outcome(claim(above=0.5, take="mean"), shown) == "not testable here"
    assert outcome(claim(above=0.5, take="any"), shown) == "same pattern"


def test_each_any_and_mean():
    shown = table((0.9, 0.8, 1.0), (0.2, 0.1, 0.3))
    assert outcome(claim(above=0.5), shown) == "partly"
    assert outcome(claim(above=0.5, take="any"), shown) == "same pattern"
    assert outcome(claim(above=0.5, take="mean"), shown) == "partly"  # mean .55, interval [.45, .65]
    assert outcome(claim(below=0.1), shown) == "another pattern"


def test_part_of_the_depth():
    shown = table(*[(value, value, value) for value in (0.1, 0.2, 0.3, 0.8, 0.9, 1.0)], layer=range(1, 7))
    assert outcome(claim(below=0.35, depth=(0, 0.5)), shown) == "same pattern"
    assert outcome(claim(above=0.7, depth=(0.5, 1)), shown) == "same pattern"
    assert outcome(claim(above=0.25, depth=(0, 0.5)), shown) == "partly"
    assert outcome(claim(rows={"prompts": 19}, above=0.25, depth=(0, 0.5)), shown) == "not testable here"


def test_a_difference_holds_where_the_intervals_lie_apart():
    shown = table((0.9, 0.8, 1.0), (0.4, 0.3, 0.5), side=["last", "first"], layers=2)
    assert outcome(claim(rows={"side": "first"}, minus={"side": "last"}, below=0), shown) == "same pattern"
    shown.loc[0, "low"] = 0.45
    assert outcome(claim(rows={"side": "first"}, minus={"side": "last"}, below=0), shown) == "partly"


def test_texts_and_their_beginnings():
    shown = pd.DataFrame({"model": "m", "isolated": ["no", "in the first 2 layers"], "label": ["World", "Sports"]})
    assert outcome(claim(rows={"isolated": "in the first *"}, column="label", equals="World"), shown) == "another pattern"
    assert outcome(claim(rows={"isolated": "no"}, column="label", equals="World"), shown) == "same pattern"


def test_each_model_has_its_verdict():
    shown = pd.concat([table((0.9, 0.8, 1.0)), table((0.1, 0.0, 0.2)).assign(model="n")])
    assert [(v.model, v.outcome) for v in claims.judge(claim(above=0.5), shown)] == [
        ("m", "same pattern"),
        ("n", "another pattern"),
    ]


def test_what_was_not_made_is_not_testable():
    assert outcome(claim(above=0.5), None) == "not testable here"
    assert outcome(claim(above=0.5, rows={"side": "first"}), table((0.9, 0.8, 1.0), side="last")) == "not testable here"


def test_a_rule_about_an_absent_column_is_refused():
    with pytest.raises(InputError, match="claim c: figure_4 has no column side"):
        claims.judge(claim(above=0.5, rows={"side": "first"}), table((0.9, 0.8, 1.0)))


def test_a_difference_that_does_not_pair_rows_is_refused():
    shown = table((0.9, 0.8, 1.0), (0.8, 0.7, 0.9), (0.1, 0.0, 0.2), side=["last", "last", "first"], layers=2)
    with pytest.raises(InputError, match="claim c: rows and minus of the rule do not select pairs"):
        claims.judge(claim(rows={"side": "first"}, minus={"side": "last"}, below=0), shown)


def test_the_shipped_claims_are_about_items_that_exist():
    paper = claims.load(ANCHORS)
    assert len(paper.claims) >= 20
    for one in paper.claims:
        assert one.item in registry.items(), one.id
        assert claims.rule_in_words(one)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c["claims"][0]["rule"].update(within=1), "needs exactly one test"),
        (lambda c: c["claims"][0].update(rule={"within": 0.1}), "needs the paper's value"),
        (lambda c: c["claims"].append(c["claims"][0]), "duplicate id"),
        (lambda c: c.update(claims=[]), "at least 1"),
        (lambda c: c["claims"][0].pop("item"), "claims.0.item"),
        (lambda c: c["claims"][0].update(verdict="reproduced"), "claims.0.verdict"),
    ],
)
def test_a_faulty_claims_file_is_refused_in_one_sentence(tmp_path, change, said):
    content = yaml.safe_load(ANCHORS.read_text())
    change(content)
    path = tmp_path / "claims.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(InputError, match="claims file") as raised:
        claims.load(path)
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_file_that_is_no_yaml_is_refused(tmp_path):
    (tmp_path / "claims.yaml").write_text("claims: [")
    with pytest.raises(InputError, match=r"claims file .* is not valid YAML"):
        claims.load(tmp_path / "claims.yaml")
