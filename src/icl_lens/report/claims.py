"""A paper's claims as data, and the numbers that the rule of each claim selects.

A claims file (``icl_lens/resources/claims/*.yaml``) lists a paper's statements and a rule for each of them. A rule does not
depend on the run: it selects rows of an item's CSV and gives a condition on their values.
:mod:`icl_lens.report.verdicts` judges them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from pydantic import Field, ValidationError, model_validator

from icl_lens import yaml_text
from icl_lens.errors import InputError
from icl_lens.section import Section
from icl_lens.statistics.resampling import Estimate

Cell = str | int | float

Replicates = Mapping[tuple[int, str], Estimate]
"""(row number in the CSV, column of the lower end of the interval) -> the estimate of the value."""


class Rule(Section):
    """The rows that a claim is about, and the condition on their values, see :mod:`icl_lens.report.verdicts`."""

    rows: dict[str, Cell | list[Cell]] = Field(
        default={},
        description="Column -> the value, or list of values, of the selected rows. A text that ends in * matches a prefix.",
    )
    minus: dict[str, Cell] | None = Field(
        default=None,
        description="Column -> the value in the rows to subtract; their other columns equal those of the selected rows. "
        "The interval is that of the paired difference.",
    )
    depth: tuple[float, float] | None = Field(
        default=None, description="Only layers in this range of relative depth: (0, 0.5] of 6 layers are the first three."
    )
    column: str = Field(default="value", description="Column of the judged value.")
    low: str = Field(default="low", description="Column of the lower end of the interval; none if the value alone decides.")
    high: str = Field(default="high", description="Column of the upper end of the interval.")
    take: Literal["each", "any", "mean"] = Field(
        default="each",
        description="each: all rows must satisfy the rule. any: one row is sufficient. mean: the mean must satisfy it.",
    )
    below: float | None = Field(default=None, description="Upper bound of the value.")
    above: float | None = Field(default=None, description="Lower bound of the value.")
    weaker: float | None = Field(
        default=None,
        description="Bound of the weaker form of the claim, in place of below or above (0 for a difference below -0.2).",
    )
    equals: str | None = Field(default=None, description="Text that the value must equal.")
    within: float | None = Field(
        default=None, ge=0, description="Maximum distance to the paper's value. Judged only for the paper's own models."
    )

    @model_validator(mode="after")
    def _one_test(self) -> Rule:
        if [self.below is not None or self.above is not None, self.equals is not None, self.within is not None].count(
            True
        ) != 1:
            raise ValueError("a rule needs exactly one test: below or above (or both), equals, or within")
        if self.equals is not None and (self.minus is not None or self.take == "mean"):
            raise ValueError("equals compares texts and cannot be combined with minus or take: mean")
        if self.weaker is not None and (self.below is None) == (self.above is None):
            raise ValueError("a rule with weaker needs either below or above")
        return self


class Claim(Section):
    """One statement of a paper, with the rule that tests it."""

    id: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    item: str = Field(description="Figure or table with the data of the claim.")
    where: str = Field(description="Place in the paper.")
    statement: str
    value: Cell | None = Field(default=None, description="The paper's number, in the unit of the CSV.")
    model: str | None = Field(default=None, description="The paper's model, by its name on the Hub.")
    rule: Rule

    @model_validator(mode="after")
    def _number_for_within(self) -> Claim:
        if self.rule.within is not None and (isinstance(self.value, str) or self.value is None or self.model is None):
            raise ValueError("a rule with within needs the paper's value as a number and the paper's model")
        return self


class Paper(Section):
    """A paper and its claims."""

    name: str
    reference: str
    models: list[str] = Field(default=[], description="The paper's models, by their names on the Hub.")
    claims: list[Claim] = Field(min_length=1)

    @model_validator(mode="after")
    def _distinct(self) -> Paper:
        names = [claim.id for claim in self.claims]
        duplicate = next((name for name in names if names.count(name) > 1), None)
        if duplicate:
            raise ValueError(f"duplicate id {duplicate}; ids must be unique")
        return self


def load(path: Path | str) -> Paper:
    """Read a claims file.

    Raises:
        InputError: If the file is missing, is not valid YAML or does not match the schema.
    """
    try:
        content = yaml_text.read(path)
    except InputError as error:
        raise InputError(f"claims file {error}") from error
    try:
        return Paper.model_validate(content, strict=False)
    except ValidationError as error:
        first = error.errors()[0]
        location = ".".join(map(str, first["loc"]))
        raise InputError(f"claims file {path}{f', {location}' if location else ''}: {first['msg']}") from error


def cells(claim: Claim, shown: pd.DataFrame, replicates: Replicates | None = None) -> pd.DataFrame:
    """Return the cells to which a claim's rule applies.

    A cell is a selected row of the CSV, the difference of two rows (``minus``), or the mean of all of these (``take: mean``).
    The interval of a difference or mean is computed from the replicates of its rows, never from the ends of their intervals.

    Args:
        claim: The claim.
        shown: The rows of one model in the CSV of the claim's item. Their index is the row number in the CSV.
        replicates: The estimate behind each number of the CSV, see :func:`icl_lens.report.replicates.read`; needed only for
            differences and means of rows with intervals.

    Returns:
        One row per cell with the columns value, low, high (NaN without an interval), sets (number of demonstration sets; NaN if
        unknown), prompts, cell and problem. The column cell is a name that distinguishes the cells (empty for a single cell),
        and problem is the reason why the cell has no valid interval (empty if it has one, or if it needs none). If the rule
        uses neither ``minus`` nor ``take: mean``, the index is that of the CSV's rows.

    Raises:
        InputError: If the rule names a column that the CSV does not have, or if the rows selected by ``rows`` and ``minus`` do
            not form pairs.
    """
    rule = claim.rule
    rows = _select(claim, shown, rule.rows)
    if rule.depth is not None:
        require_columns(claim, shown, ["layer"])
        order = shown["layer"].drop_duplicates().sort_values(ignore_index=True)
        relative_depth = {layer: (number + 1) / len(order) for number, layer in order.items()}
        first, last = rule.depth
        rows = rows[rows["layer"].map(relative_depth).between(first, last + 1e-9, inclusive="right")]
    require_columns(claim, shown, [rule.column])
    found = _values_and_intervals(rule, rows).assign(cell=_names(rows))
    if rule.minus is None:
        terms = [{row: 1.0} for row in found.index]
    else:
        other = _select(claim, shown, {**rule.rows, **rule.minus})
        keys = [c for c in ("task", "set", "seed", "layer", "layers", "class", "side") if c in rows and c not in rule.minus]
        try:
            pairs = pd.concat([rows[keys], found.assign(row=found.index)], axis=1).merge(
                other[keys].assign(row_other=other.index), on=keys, validate="one_to_one"
            )
        except pd.errors.MergeError as error:
            raise InputError(
                f"claim {claim.id}: rows and minus of the rule do not select pairs of rows of {claim.item}; add columns to rows"
            ) from error
        terms = [{row: 1.0, subtracted: -1.0} for row, subtracted in zip(pairs["row"], pairs["row_other"], strict=True)]
        found = found.loc[pairs["row"]].assign(cell=_names(pairs[keys]).to_numpy()).reset_index(drop=True)
    if rule.take == "mean" and terms:
        weights: dict[int, float] = {}
        for row, weight in (entry for cell in terms for entry in cell.items()):
            weights[row] = weights.get(row, 0.0) + weight / len(terms)
        terms = [weights]
    if rule.minus is None and rule.take != "mean":
        return found.assign(problem="")
    rows_with_intervals = _values_and_intervals(rule, shown)
    combined = [_combined(claim, rows_with_intervals, weights, replicates or {}) for weights in terms]
    names = [""] if rule.take == "mean" else found["cell"].tolist()
    table = pd.DataFrame(combined, columns=["value", "low", "high", "sets", "prompts", "problem"])
    return table.assign(cell=names if len(table) else "")


def _combined(
    claim: Claim, rows: pd.DataFrame, weights: Mapping[int, float], replicates: Replicates
) -> tuple[float, float, float, float, float, str]:
    """Return the weighted sum of some rows of a CSV: value, interval, demonstration sets, prompts and problem.

    Args:
        claim: The claim.
        rows: The rows, see :func:`_values_and_intervals`.
        weights: Row number -> weight.
        replicates: See :func:`cells`.
    """
    terms = rows.loc[list(weights)]
    value = float((terms["value"] * list(weights.values())).sum(skipna=False))
    sets, prompts = terms["sets"].min(), terms["prompts"].max()
    without = (value, np.nan, np.nan, sets, prompts)
    if np.isnan(value) or (terms[["low", "high"]].isna().all(axis=None) and terms["sets"].isna().all()):
        return (*without, "")  # a missing value, or numbers without intervals
    if not all((row, claim.rule.low) in replicates for row in weights):
        return (*without, f"the rule combines rows of {claim.item} that have no replicates")
    estimates = [replicates[row, claim.rule.low] for row in weights]

    def weighted_sum(*values: np.ndarray) -> np.ndarray:
        return sum(weight * each for weight, each in zip(weights.values(), values, strict=True))

    bounds = None
    if all(each.bounds is not None for each in estimates):
        ends = [sorted(weight * end for end in each.bounds) for weight, each in zip(weights.values(), estimates, strict=True)]
        bounds = (sum(low for low, _ in ends), sum(high for _, high in ends))
    try:
        estimate = Estimate.combine(weighted_sum, *estimates, bounds=bounds)
    except ValueError as error:
        return (*without, f"the rule combines rows of {claim.item}, but {error}")
    return (value, float(estimate.low), float(estimate.high), int(estimate.sets), prompts, "")


# Columns that distinguish cells, in the order in which they appear in a cell's name.
_DISTINGUISHING_COLUMNS = (
    *("task", "distractors", "set", "metric", "quantity", "measure", "method", "positions", "against", "how", "target", "side"),
    *("layers", "layer", "two_classes", "rewriting", "hypothesis", "component", "pair", "condition", "n"),
)


def _names(rows: pd.DataFrame) -> pd.Series:
    """Return a name for each row that distinguishes it from the others, for example "SST-2, layer 3"."""
    titles = rows.assign(task=rows["title"]) if {"task", "title"} <= set(rows) else rows
    distinguishing = [name for name in _DISTINGUISHING_COLUMNS if name in rows and rows[name].nunique(dropna=False) > 1]
    with_column_name = ("layer", "layers", "n", "distractors")

    def name(row: pd.Series) -> str:
        distinguishing_values = ((column, row[column]) for column in distinguishing if pd.notna(row[column]))
        return ", ".join(
            f"{column} {value:g}" if column in with_column_name else str(value) for column, value in distinguishing_values
        )

    return titles.apply(name, axis=1) if distinguishing else pd.Series("", index=rows.index)


def _values_and_intervals(rule: Rule, rows: pd.DataFrame) -> pd.DataFrame:
    """Return the value, low, high, sets and prompts of each row; NaN where the CSV has no such number.

    ``sets`` is given only if the CSV has columns for the interval.
    """
    if rule.equals is not None:  # 1 if equal, 0 otherwise
        value = rows[rule.column].eq(rule.equals).astype(float).where(rows[rule.column].notna())
    else:
        value = pd.to_numeric(rows[rule.column], errors="coerce")

    def numbers(*names: str) -> pd.Series:
        name = next((name for name in names if name in rows), None)
        return pd.Series(np.nan, index=rows.index) if name is None else pd.to_numeric(rows[name], errors="coerce")

    has_ends = rule.low in rows and rule.high in rows
    sets = numbers("sets", "seeds") if has_ends else numbers()
    low, high = (numbers(rule.low), numbers(rule.high)) if has_ends else (numbers(), numbers())
    return pd.DataFrame({"value": value, "low": low, "high": high, "sets": sets, "prompts": numbers("prompts")})


def _select(claim: Claim, shown: pd.DataFrame, selection: dict) -> pd.DataFrame:
    require_columns(claim, shown, list(selection))
    selected = pd.Series(True, index=shown.index)
    for column, value in selection.items():
        matches = pd.Series(False, index=shown.index)
        for one in value if isinstance(value, list) else [value]:
            is_prefix = isinstance(one, str) and one.endswith("*")
            matches |= shown[column].astype(str).str.startswith(one[:-1]) if is_prefix else shown[column].eq(one)
        selected &= matches
    return shown[selected]


def require_columns(claim: Claim, shown: pd.DataFrame, columns: Sequence[str]) -> None:
    """Check that the CSV of a claim's item has some columns.

    Raises:
        InputError: If a column is missing.
    """
    missing = next((name for name in columns if name not in shown), None)
    if missing is not None:
        raise InputError(
            f"claim {claim.id}: {claim.item} has no column {missing} (it has {', '.join(map(str, shown.columns))})"
        )


def rule_in_words(claim: Claim) -> str:
    """Describe a rule in words."""
    rule = claim.rule
    selection = ", ".join(f"{k} = {' or '.join(map(str, v)) if isinstance(v, list) else v}" for k, v in rule.rows.items())
    text = f"{rule.column} where {selection}" if selection else rule.column
    if rule.minus is not None:
        text += f", minus the value where {', '.join(f'{k} = {v}' for k, v in rule.minus.items())}"
    if rule.depth is not None:
        text += f", at {rule.depth[0]:.0%} to {rule.depth[1]:.0%} of the depth"
    take = {"each": "each cell", "any": "at least one cell", "mean": "the mean"}[rule.take]
    tests = [f"above {rule.above:g}"] if rule.above is not None else []
    tests += [f"below {rule.below:g}"] if rule.below is not None else []
    tests += [f"equal to {rule.equals}"] if rule.equals is not None else []
    tests += [f"within {rule.within:g} of the paper's value"] if rule.within is not None else []
    return f"{text}: {take} {' and '.join(tests)}"
