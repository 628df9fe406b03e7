"""Comparison of reference rows with a CSV that the workflow wrote."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

TOLERANCE = 1e-4
"""Largest difference, relative to the largest value of a column."""

INTERVALS = re.compile(r"(.*_)?(low|high|replicates)|sets|orders")
"""Names of the columns of confidence intervals, which are compared only if the reference has them."""


@dataclass(frozen=True)
class Item:
    """A figure or table, and how to compare it.

    Attributes:
        name: Name of the item.
        rows: Function of a run that returns the rows of the CSV, in any order. A row has the key columns and values.
        keys: Columns that identify a row.
        skipped: Further columns that are not compared, such as titles and times.
        scale: Columns within which the largest value of a column is taken, for a column with different quantities.
    """

    name: str
    rows: Callable[..., list[dict]]
    keys: tuple[str, ...]
    skipped: tuple[str, ...] = ()
    scale: tuple[str, ...] = ()


@dataclass(frozen=True)
class Compared:
    """Result of a comparison.

    Attributes:
        name: Name of the item.
        rows: Number of rows of the CSV.
        values: Number of compared values.
        columns: Compared columns.
        skipped: Columns that are not compared.
        difference: Largest difference, relative to the largest value of the column.
        faults: What differs, in words; empty if the item agrees.
    """

    name: str
    rows: int
    values: int
    columns: tuple[str, ...]
    skipped: tuple[str, ...]
    difference: float
    faults: tuple[str, ...]


def compare(item: Item, expected: Sequence[dict], path: Path | str) -> Compared:
    """Compare reference rows with a CSV: the same rows, and in each row the same values.

    Args:
        item: The item.
        expected: Reference rows.
        path: The CSV.
    """
    with open(path, newline="", encoding="utf-8") as file:
        written = list(csv.DictReader(file))
    columns = list(written[0]) if written else []
    values = list(dict.fromkeys(name for row in expected for name in row if name not in item.keys))
    unknown = [c for c in columns if c not in {*item.keys, *item.skipped, *values} and not INTERVALS.fullmatch(c)]
    faults = [f"column {name} has no reference" for name in unknown]
    faults += [f"column {name} is only in the reference" for name in (*item.keys, *values) if name not in columns]
    values = [name for name in values if name in columns]
    found, wanted = ({_key(item, row): row for row in rows} for rows in (written, expected))
    for name, rows, by_key in (("CSV", written, found), ("reference", expected, wanted)):
        if len(by_key) < len(rows):
            faults.append(f"{len(rows) - len(by_key)} rows of the {name} repeat the key {', '.join(item.keys)}")
    faults += [f"row {_shown(key)} is only in the CSV" for key in found if key not in wanted]
    faults += [f"row {_shown(key)} is only in the reference" for key in wanted if key not in found]
    largest: dict[tuple, float] = {}
    for row in expected:
        for name in values:
            number = _number(row.get(name))
            if number is not None and not math.isnan(number):
                group = (name, *(_text(row.get(each)) for each in item.scale))
                largest[group] = max(largest.get(group, 0.0), abs(number))
    difference, compared = 0.0, 0
    for key in (key for key in wanted if key in found):
        for name in values:
            one, other = wanted[key].get(name), found[key].get(name)
            if _text(one) == _text(other):
                compared += 1
                continue
            a, b = _number(one), _number(other)
            if a is None or b is None or math.isnan(a) or math.isnan(b):
                faults.append(f"{name} of {_shown(key)} is {other!r}, the reference {one!r}")
                continue
            group = (name, *(_text(wanted[key].get(each)) for each in item.scale))
            relative = abs(a - b) / largest[group] if largest[group] else math.inf
            difference, compared = max(difference, relative), compared + 1
            if relative > TOLERANCE:
                faults.append(f"{name} of {_shown(key)} is {b:.6g}, the reference {a:.6g}")
    skipped = tuple(c for c in columns if c not in {*item.keys, *values, *unknown})
    return Compared(item.name, len(written), compared, tuple(values), skipped, difference, tuple(faults))


def _key(item: Item, row: dict) -> tuple[str, ...]:
    return tuple(_text(row.get(name)) for name in item.keys)


def _shown(key: tuple[str, ...]) -> str:
    return "(" + ", ".join(part for part in key if part) + ")"


def _text(value: object) -> str:
    """Return a cell as text that does not depend on its type: a whole number without a point, a missing value as empty."""
    number = _number(value)
    if number is None:
        return str(value)
    if math.isnan(number):
        return ""
    return str(int(number)) if number == int(number) else repr(number)


def _number(value: object) -> float | None:
    """Return a cell as a number, a missing value as NaN, and other text as None."""
    if value is None or value == "":
        return math.nan
    if isinstance(value, bool) or value in ("True", "False"):
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None
