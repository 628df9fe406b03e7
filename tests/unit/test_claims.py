"""Tests of claims files and of the rows that a rule selects."""

import pandas as pd
import pytest
import yaml

from icl_lens.errors import InputError
from icl_lens.report import claims, verdicts
from icl_lens.studies import registry

from ..conftest import REPOSITORY

ANCHORS = REPOSITORY / "src/icl_lens/resources/claims/anchors.yaml"


def claim(value=None, model=None, **rule):
    rule = claims.Rule.model_validate(rule, strict=False)
    return claims.Claim(id="c", item="figure_4", where="", statement="", value=value, model=model, rule=rule)


def table(*cells, **columns):
    """Return a table with one row per (value, low, high) tuple."""
    values, lows, highs = zip(*cells, strict=True)
    return pd.DataFrame({"model": "m", "value": values, "low": lows, "high": highs, "prompts": 20, **columns})


def test_part_of_the_depth():
    shown = table(*[(value, value, value) for value in (0.1, 0.2, 0.3, 0.8, 0.9, 1.0)], layer=range(1, 7))
    found = [claims.cells(claim(above=0, depth=depth), shown)["value"].tolist() for depth in ((0, 0.5), (0.5, 1), (0.4, 0.5))]
    assert found == [[0.1, 0.2, 0.3], [0.8, 0.9, 1.0], [0.3]]
    assert claims.cells(claim(rows={"prompts": 19}, above=0.25, depth=(0, 0.5)), shown).empty


def test_a_cell_has_a_name_of_its_own():
    cell = (0.9, 0.8, 1.0)
    parts = [table(cell, cell, layer=[1, 2]).assign(two_classes=way) for way in ("normalised", "raw")]
    names = claims.cells(claim(above=0.5), pd.concat(parts, ignore_index=True))["cell"]
    assert list(names) == ["layer 1, normalised", "layer 2, normalised", "layer 1, raw", "layer 2, raw"]


def test_a_weaker_bound_needs_one_bound_to_weaken():
    with pytest.raises(ValueError, match="weaker needs either below or above"):
        claim(above=0, below=1, weaker=0.5)


def test_a_rule_about_an_absent_column_is_refused():
    with pytest.raises(InputError, match="claim c: figure_4 has no column side"):
        verdicts.judge(claim(above=0.5, rows={"side": "first"}), table((0.9, 0.8, 1.0)))


def test_a_difference_that_does_not_pair_rows_is_refused():
    shown = table((0.9, 0.8, 1.0), (0.8, 0.7, 0.9), (0.1, 0.0, 0.2), side=["last", "last", "first"], layers=2)
    with pytest.raises(InputError, match="claim c: rows and minus of the rule do not select pairs"):
        verdicts.judge(claim(rows={"side": "first"}, minus={"side": "last"}, below=0), shown)


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
