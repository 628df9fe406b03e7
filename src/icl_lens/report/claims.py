"""A paper's claims as data, and the verdict of a run on each claim.

A claims file (``resources/claims/*.yaml``) lists a paper's statements and a rule for each of them. A rule does not depend on
the run: it selects rows of an item's CSV and gives a condition on their values. A missing value never satisfies a rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from pydantic import Field, ValidationError, model_validator

from icl_lens import yaml_text
from icl_lens.errors import InputError
from icl_lens.section import Section

Cell = str | int | float

# Agreement of one row with a rule: the whole interval satisfies it, only the value does, or neither does.
_SATISFIED, _UNCERTAIN, _VIOLATED = 2, 1, 0


class Rule(Section):
    """The rows that a claim is about, and the condition on their values.

    A row satisfies the rule if its whole 95 % confidence interval does. It satisfies the rule partly if only its value does.
    For a row without an interval, the value decides.
    """

    rows: dict[str, Cell | list[Cell]] = Field(
        default={},
        description="Column -> the value, or list of values, of the selected rows. A text that ends in * matches a prefix.",
    )
    minus: dict[str, Cell] | None = Field(
        default=None,
        description="Column -> the value in the rows to subtract; their other columns equal those of the selected rows. The "
        "difference is clear only if the two intervals do not overlap.",
    )
    depth: tuple[float, float] | None = Field(
        default=None, description="Only layers in this range of relative depth: (0, 0.5] of 6 layers are the first three."
    )
    column: str = Field(default="value", description="Column of the judged value.")
    low: str = Field(default="low", description="Column of the lower end of the interval, if there is one.")
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


Outcome = Literal["reproduced", "same pattern", "partly", "not reproduced", "another pattern", "not testable here"]


@dataclass(frozen=True)
class Verdict:
    """The outcome of a claim in a run, for one model.

    Attributes:
        claim: The claim.
        model: Name of the model in the artifacts; empty if nothing was run.
        outcome: ``reproduced`` or ``not reproduced`` for the paper's own model on the original texts; ``same pattern`` or
            ``another pattern`` for all other runs; ``partly`` or ``not testable here`` for both.
        measurement: The measured values as text; empty if nothing was measured.
        prompts: Number of prompts behind the outcome; 0 if the CSV does not give it.
        reason: How the rule led to the outcome.
    """

    claim: Claim
    model: str
    outcome: Outcome
    measurement: str
    prompts: int
    reason: str


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


def judge(claim: Claim, shown: pd.DataFrame | None, original_models: Sequence[str] = (), failure: str = "") -> list[Verdict]:
    """Judge a claim for each model that its item shows.

    Args:
        claim: The claim.
        shown: The item's CSV; None if the item was not made.
        original_models: Names, in the artifacts, of the paper's own models that were run on the original texts.
        failure: The reason why a failed run did not make the item; empty otherwise.

    Raises:
        InputError: If the rule names a column that the CSV does not have.
    """
    if failure:
        return [_not_testable(claim, "", f"{claim.item} was not made in this run: {failure.rstrip('.')}")]
    if shown is None or shown.empty:
        return [_not_testable(claim, "", f"{claim.item} was not made, or it contains no data")]
    if "model" not in shown:
        raise InputError(f"claim {claim.id}: {claim.item} has no column model")
    return [_judge_model(claim, name, rows, name in original_models) for name, rows in shown.groupby("model", sort=False)]


def _judge_model(claim: Claim, model: str, shown: pd.DataFrame, is_original: bool) -> Verdict:
    rule = claim.rule
    if rule.within is not None and not is_original:
        return _not_testable(
            claim,
            model,
            f"the number is for {claim.model} on the original texts, and this run uses another model or other texts",
        )
    judged = cells(claim, shown)
    if judged.empty:
        return _not_testable(claim, model, f"{claim.item} has no rows for this rule")
    known = judged.dropna(subset=["value"])
    if known.empty:
        return _not_testable(claim, model, f"the values are missing in this run, see the notes of {claim.item}")
    target = float(claim.value) if rule.within is not None else None
    states = [_state(rule, row, target) for row in known.itertuples()]
    states += [_VIOLATED] * (len(judged) - len(known))  # a missing value never satisfies a rule
    if rule.take == "any":
        satisfied, violated = max(states) == _SATISFIED, max(states) == _VIOLATED
    else:
        satisfied, violated = min(states) == _SATISFIED, max(states) == _VIOLATED
    outcome: Outcome = "partly"
    if satisfied:
        outcome = "reproduced" if is_original else "same pattern"
    elif violated:
        outcome = "not reproduced" if is_original else "another pattern"
    prompts = int(known["prompts"].max()) if known["prompts"].notna().any() else 0
    return Verdict(claim, model, outcome, "" if rule.equals else _measured(known), prompts, _reason(rule, states))


def cells(claim: Claim, shown: pd.DataFrame) -> pd.DataFrame:
    """Return the cells to which a claim's rule applies.

    Args:
        claim: The claim.
        shown: The rows of one model in the CSV of the claim's item.

    Returns:
        One row per cell with the columns value, low, high, prompts and cell. The column cell is a name that distinguishes the
        cells (empty for a single cell). If the rule uses neither ``minus`` nor ``take: mean``, the index is that of the CSV's
        rows.

    Raises:
        InputError: If the rule names a column that the CSV does not have, or if the rows selected by ``rows`` and ``minus`` do
            not form pairs.
    """
    rule = claim.rule
    rows = _select(claim, shown, rule.rows)
    if rule.depth is not None:
        _require(claim, shown, ["layer"])
        order = shown["layer"].drop_duplicates().sort_values(ignore_index=True)
        relative_depth = {layer: (number + 1) / len(order) for number, layer in order.items()}
        first, last = rule.depth
        rows = rows[rows["layer"].map(relative_depth).between(first, last + 1e-9, inclusive="right")]
    _require(claim, shown, [rule.column])
    found = _values_and_intervals(rule, rows).assign(cell=_names(rows))
    if rule.minus is not None:
        other = _select(claim, shown, {**rule.rows, **rule.minus})
        keys = [c for c in ("task", "set", "seed", "layer", "layers", "class", "side") if c in rows and c not in rule.minus]
        try:
            pairs = pd.concat([rows[keys], found], axis=1).merge(
                pd.concat([other[keys], _values_and_intervals(rule, other)], axis=1),
                on=keys,
                suffixes=("", "_other"),
                validate="one_to_one",
            )
        except pd.errors.MergeError as error:
            raise InputError(
                f"claim {claim.id}: rows and minus of the rule do not select pairs of rows of {claim.item}; add columns to rows"
            ) from error
        found = pd.DataFrame(
            {
                "value": pairs["value"] - pairs["value_other"],
                # A conservative interval, because the rows give no paired one: it excludes 0 only if the two intervals do not
                # overlap.
                "low": pairs["low"] - pairs["high_other"],
                "high": pairs["high"] - pairs["low_other"],
                "prompts": pairs["prompts"],
                "cell": _names(pairs[keys]),
            }
        )
    if rule.take == "mean" and len(found):
        found = found.drop(columns="cell").mean(skipna=False).to_frame().T.assign(cell="")
    return found


# Columns that distinguish cells, in the order in which they appear in a cell's name.
_DISTINGUISHING_COLUMNS = (
    *("task", "distractors", "set", "metric", "quantity", "measure", "method", "positions", "against", "how", "target", "side"),
    *("layers", "layer", "two_classes", "rewriting", "hypothesis", "component", "pair", "n"),
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
    if rule.equals is not None:  # 1 if equal, 0 otherwise
        value = rows[rule.column].eq(rule.equals).astype(float).where(rows[rule.column].notna())
    else:
        value = pd.to_numeric(rows[rule.column], errors="coerce")
    ends = [
        pd.to_numeric(rows[name], errors="coerce").fillna(value) if name in rows else value for name in (rule.low, rule.high)
    ]
    prompts = rows["prompts"] if "prompts" in rows else pd.Series(np.nan, index=rows.index)
    return pd.DataFrame({"value": value, "low": ends[0], "high": ends[1], "prompts": prompts})


def _select(claim: Claim, shown: pd.DataFrame, selection: dict) -> pd.DataFrame:
    _require(claim, shown, list(selection))
    selected = pd.Series(True, index=shown.index)
    for column, value in selection.items():
        matches = pd.Series(False, index=shown.index)
        for one in value if isinstance(value, list) else [value]:
            is_prefix = isinstance(one, str) and one.endswith("*")
            matches |= shown[column].astype(str).str.startswith(one[:-1]) if is_prefix else shown[column].eq(one)
        selected &= matches
    return shown[selected]


def _require(claim: Claim, shown: pd.DataFrame, columns: list[str]) -> None:
    missing = next((name for name in columns if name not in shown), None)
    if missing is not None:
        raise InputError(
            f"claim {claim.id}: {claim.item} has no column {missing} (it has {', '.join(map(str, shown.columns))})"
        )


def _state(rule: Rule, row, target: float | None) -> int:
    if target is not None:
        return _SATISFIED if abs(row.value - target) <= rule.within else _VIOLATED
    if rule.equals is not None:
        return _SATISFIED if row.value == 1 else _VIOLATED
    lowest = -np.inf if rule.above is None else rule.above
    highest = np.inf if rule.below is None else rule.below
    if not lowest < row.value < highest:
        return _VIOLATED
    return _SATISFIED if lowest < row.low and row.high < highest else _UNCERTAIN


def _measured(known: pd.DataFrame) -> str:
    if len(known) == 1:
        value, low, high = (known[name].iloc[0] for name in ("value", "low", "high"))
        return _number(value) if low == high == value else f"{_number(value)} [{_number(low)}, {_number(high)}]"
    return f"{_number(known['value'].min())} to {_number(known['value'].max())} in {len(known)} cells"


def _number(value: float) -> str:
    return f"{value:.3f}".replace("-", "\u2212")


def _reason(rule: Rule, states: list[int]) -> str:
    if len(states) == 1:
        return {
            _SATISFIED: "the whole interval satisfies the rule",
            _UNCERTAIN: "the value satisfies the rule, but not the whole interval",
            _VIOLATED: "the value does not satisfy the rule",
        }[states[0]]
    counts = {
        _SATISFIED: "satisfy the rule",
        _UNCERTAIN: "satisfy it only by their value, not by the whole interval",
        _VIOLATED: "do not satisfy it or are missing",
    }
    parts = [f"{states.count(state)} {text}" for state, text in counts.items() if state in states]
    return f"of {len(states)} cells, {', '.join(parts)}"


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


def _not_testable(claim: Claim, model: str, reason: str) -> Verdict:
    return Verdict(claim, model, "not testable here", "", 0, reason)
