"""Tests that whole figures and tables agree with the plain references: each value of their CSV.

``benchmarks/artifacts.py`` compares all items after a run of Snakemake. Here the workflow runs in one process.
"""

import csv

import pytest

from icl_lens.studies import registry

from ..one_process import Run
from ..reference.items import cases
from ..reference.items.comparison import Item, compare

# Items with different ways to average, which take a few seconds together.
QUICK = ("figure_5", "table_1", "kr_figure_3", "cr_figure_2")
BY_NAME = {item.name: item for item in cases.ITEMS}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder for the models of all cases."""
    return tmp_path_factory.mktemp("reference items")


def differences(config, names):
    """Make items in one process, and return what differs from the references, by item."""
    run, reference = Run(config, draw=False), cases.run_of(config)
    found = {}
    for name in names:
        run.item(name)
        compared = compare(BY_NAME[name], BY_NAME[name].rows(reference), cases.csv_of(config, name))
        assert compared.values > 0
        if compared.faults:
            found[name] = compared.faults
    return found


def test_values_equal_those_of_the_references(folder):
    config = {**cases.config_of("one", folder), "queries": 5, "results": str(folder / "quick")}
    assert differences({**config, "plugins": []}, QUICK) == {}


@pytest.mark.long
@pytest.mark.parametrize("case", cases.CASES)
def test_each_item_equals_its_reference(case, folder):
    config = {**cases.config_of(case, folder), "plugins": []}  # a single process makes no items of plugins
    names = [item.name for item in cases.items_of(config)]
    assert len(names) > 25
    assert differences(config, names) == {}


def test_each_notebook_draws_an_item_with_a_reference():
    known = registry.items()
    drawn = {item.notebook for item in known.values()}
    compared = {known[name].notebook for name in BY_NAME if name in known}
    left_out = {known[name].notebook for name in cases.NOT_COMPARED}
    assert drawn == compared | left_out
    assert not compared & left_out


ROWS = Item("table_9", list, ("task",), ("title",))


@pytest.fixture
def written(tmp_path):
    """A function that writes a CSV with two rows and a changed cell, and compares it with a reference."""

    def change(column="value", row=0, to=None, expected=None):
        rows = [
            {"task": "sst2", "title": "SST-2", "value": "0.5", "n": "2", "low": "0", "kind": "a"},
            {"task": "trec", "title": "TREC", "value": "", "n": "3", "low": "0", "kind": "b"},
        ]
        if to is not None:
            rows[row][column] = to
        path = tmp_path / "table.csv"
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
        reference = [
            {"task": "sst2", "value": 0.5, "n": 2, "kind": "a"},
            {"task": "trec", "value": float("nan"), "n": 3, "kind": "b"},
        ]
        return compare(ROWS, expected if expected is not None else reference, path)

    return change


def test_equal_rows_agree_and_intervals_are_skipped(written):
    compared = written()
    assert (compared.faults, compared.rows, compared.values, compared.skipped) == ((), 2, 6, ("title", "low"))
    assert written(to="0.50004").faults == ()


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        ({"to": "0.5001"}, "value of (sst2) is 0.5001, the reference 0.5"),
        ({"to": ""}, "value of (sst2) is '', the reference 0.5"),
        ({"row": 1, "to": "0.5"}, "value of (trec) is '0.5', the reference nan"),
        ({"column": "kind", "to": "b"}, "kind of (sst2) is 'b', the reference 'a'"),
        ({"column": "task", "to": "emoc"}, "row (emoc) is only in the CSV"),
        ({"expected": [{"task": "sst2", "value": 0.5, "kind": "a"}]}, "column n has no reference"),
    ],
)
def test_a_difference_is_named(written, changed, fault):
    assert fault in written(**changed).faults


def test_duplicate_rows_are_named(written):
    assert "1 rows of the CSV repeat the key task" in written(column="task", row=1, to="sst2").faults
