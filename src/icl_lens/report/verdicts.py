"""The verdict of a run on each claim, for each model.

A rule accepts a region of values, bounded by ``above`` and ``below``, or the values within a distance of the paper's number. A
cell (see :func:`icl_lens.report.claims.cells`) has a value and a 95 % interval over demonstration sets and test texts. The
state of a cell is the first of these that applies:

1. *not testable*: the value is missing, or the rule combines rows that cannot be combined.
2. *holds* or *contradicted*, if the number has no interval: the value alone decides, and the reason says so.
3. *undecided*, if there is a single demonstration set, or a single one with a value, so that no interval over demonstration
   sets exists.
4. *holds*: the whole interval is inside the region.
5. *holds weakly*: the whole interval satisfies the rule's ``weaker`` bound.
6. *contradicted*: the whole interval is outside the region.
7. *holds weakly*: the value is inside the region, and at most a quarter of the interval's width is outside. (In a symmetric
   interval, the value is then at least a quarter of the width away from the bound.) For ``within``, it is sufficient that the
   value is inside, because the paper's number is also an estimate with an interval.
8. *undecided*: all other cells.

For a claim about each cell, the worst cell decides; for a claim about any cell, the best one. The order, from worst to best, is
contradicted, not testable, undecided, holds weakly, holds.

An undecided cell needs more demonstration sets. :func:`further_sets` computes how many are expected to be sufficient. For a
claim about each cell, this is the number for the cell that needs most of them, or the smallest number that contradicts a cell
whose value is outside the region; for a claim about any cell, the reverse.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import pandas as pd
from scipy import stats

from icl_lens.report import claims
from icl_lens.report.claims import Claim, Replicates, Rule
from icl_lens.report.seed_spread import spread

Outcome = Literal["holds", "holds weakly", "undecided", "contradicted", "not testable"]

HOLDS, WEAKLY, UNDECIDED, CONTRADICTED, UNTESTABLE = OUTCOMES = get_args(Outcome)

LEVEL = 0.95
"""Confidence level of the intervals in the CSV files."""

MOST_FURTHER_SETS = 1000
"""The largest number of further demonstration sets that :func:`further_sets` returns."""

# The largest share of an interval outside the region for "holds weakly".
_TOUCHES = 0.25

# From worst to best.
_ORDER = (CONTRADICTED, UNTESTABLE, UNDECIDED, WEAKLY, HOLDS)


@dataclass(frozen=True)
class Verdict:
    """The verdict on a claim for one model, with the numbers behind it.

    Attributes:
        claim: The claim.
        model: Name of the model in the artifacts; empty if nothing was run.
        outcome: One of :data:`OUTCOMES`.
        reason: How the rule led to the outcome.
        original: Whether the model is the paper's own model, on the original texts.
        interval: Whether the outcome uses an interval. If not, only the value decides.
        further_sets: Number of further demonstration sets that are expected to decide an undecided claim; infinity for more
            than :data:`MOST_FURTHER_SETS`, NaN for other claims and if the number is unknown.
        cells: Number of cells that the rule judges.
        cell: Name of the deciding cell; empty if there is only one cell. For a claim about each cell, this is the cell farthest
            from satisfying the rule; for a claim about any cell, the cell closest to it.
        value: Value of the deciding cell; NaN if nothing was measured.
        low: Lower end of its interval; NaN if it has none.
        high: Upper end of its interval.
        sets: Number of demonstration sets behind its interval; NaN if unknown.
        lowest: Lowest value over all cells.
        highest: Highest value over all cells.
        prompts: Number of prompts; 0 if the CSV does not give it.
        seed_lowest: Lowest value of the deciding cell over single seeds; NaN if there is no spread over seeds.
        seed_highest: Highest value of the deciding cell over single seeds.
        seed_sd: Sample standard deviation of these values.
        seeds: Number of these values.
        seeds_obeying: Number of seeds for which the values of the cells satisfy the rule.
    """

    claim: Claim
    model: str
    outcome: Outcome
    reason: str
    original: bool = False
    interval: bool = False
    further_sets: float = np.nan
    cells: int = 0
    cell: str = ""
    value: float = np.nan
    low: float = np.nan
    high: float = np.nan
    sets: float = np.nan
    lowest: float = np.nan
    highest: float = np.nan
    prompts: int = 0
    seed_lowest: float = np.nan
    seed_highest: float = np.nan
    seed_sd: float = np.nan
    seeds: int = 0
    seeds_obeying: int = 0

    @property
    def measured(self) -> bool:
        """Whether there is a number to show."""
        return not np.isnan(self.value) and self.claim.rule.equals is None

    @property
    def measurement(self) -> str:
        """The measured values as text; empty if nothing was measured."""
        if not self.measured:
            return ""
        deciding = interval_text(self.value, self.low, self.high)
        if self.cells < 2:
            return deciding
        named = f"{self.cell}: {deciding}" if self.cell else deciding
        return f"{number_text(self.lowest)} to {number_text(self.highest)} in {self.cells} cells ({named})"


@dataclass(frozen=True)
class Region:
    """The values that satisfy a rule.

    Attributes:
        low: Lower bound.
        high: Upper bound.
        closed: Whether the bounds belong to the region.
    """

    low: float
    high: float
    closed: bool = False

    def margin(self, value: float) -> float:
        """Return the distance from a value to the nearest bound; negative if the value is outside."""
        return min(value - self.low, self.high - value)

    def contains(self, value: float) -> bool:
        """Return whether a value satisfies the rule. A missing value does not."""
        margin = self.margin(value)
        return margin >= -1e-9 if self.closed else margin > 0

    def excludes(self, low: float, high: float) -> bool:
        """Return whether the whole interval is outside."""
        return (high < self.low or low > self.high) if self.closed else (high <= self.low or low >= self.high)

    def share_outside(self, low: float, high: float) -> float:
        """Return the share of an interval's width that is outside."""
        outside = max(self.low - low, 0.0) + max(high - self.high, 0.0)
        return outside / (high - low) if high > low else 0.0


@dataclass(frozen=True)
class State:
    """The state of one cell.

    Attributes:
        outcome: One of :data:`OUTCOMES`.
        reason: How the rule led to it.
        interval: Whether it uses an interval.
        further_sets: See :class:`Verdict`.
        inside: Whether the value satisfies the rule.
    """

    outcome: Outcome
    reason: str
    interval: bool = False
    further_sets: float = np.nan
    inside: bool = False


def region(claim: Claim) -> Region:
    """Return the values that satisfy a claim's rule."""
    rule = claim.rule
    if rule.equals is not None:  # the value of a cell is 1 if the text is equal, 0 otherwise
        return Region(0.5, np.inf)
    if rule.within is not None:
        return Region(float(claim.value or 0) - rule.within, float(claim.value or 0) + rule.within, closed=True)
    return Region(-np.inf if rule.above is None else rule.above, np.inf if rule.below is None else rule.below)


def state(claim: Claim, value: float, low: float, high: float, sets: float, problem: str = "") -> State:
    """Return the state of one cell.

    Args:
        claim: The claim.
        value: Value of the cell; NaN if it is missing.
        low: Lower end of its interval; NaN if it has none.
        high: Upper end of its interval.
        sets: Number of demonstration sets; NaN if unknown.
        problem: The reason why the cell cannot be judged; empty if it can.
    """
    accepted = region(claim)
    inside = accepted.contains(value)
    if problem or np.isnan(value):
        return State(UNTESTABLE, problem or "the value is missing in this run")
    if np.isnan(low) or np.isnan(high):
        if not np.isnan(sets):
            few = "1 demonstration set" if sets == 1 else f"too few of {sets:.0f} demonstration sets have a value"
            return State(UNDECIDED, f"{few}: no interval over demonstration sets", inside=inside)
        outcome = HOLDS if inside else CONTRADICTED
        verb = "satisfies" if inside else "does not satisfy"
        return State(outcome, f"the value {verb} the rule; this number has no interval", inside=inside)
    if accepted.contains(low) and accepted.contains(high):
        return State(HOLDS, "the whole interval satisfies the rule", interval=True, inside=True)
    if _satisfies_weaker(claim.rule, low, high):
        bound = f"{claim.rule.weaker:g}".replace("-", "\u2212")
        return State(WEAKLY, f"the whole interval satisfies only the weaker bound {bound}", interval=True, inside=inside)
    if accepted.excludes(low, high):
        return State(CONTRADICTED, "the whole interval violates the rule", interval=True)
    outside = accepted.share_outside(low, high)
    if inside and (claim.rule.within is not None or outside <= _TOUCHES):
        reason = f"the value satisfies the rule, and {100 * outside:.0f} % of the interval does not"
        return State(WEAKLY, reason, interval=True, inside=True)
    further = further_sets(abs(accepted.margin(value)), max(value - low, high - value), sets)
    verb = "satisfies" if inside else "does not satisfy"
    reason = f"the value {verb} the rule, and the interval contains the bound"
    return State(UNDECIDED, reason, interval=True, further_sets=further, inside=inside)


def _satisfies_weaker(rule: Rule, low: float, high: float) -> bool:
    if rule.weaker is None:
        return False
    return low > rule.weaker if rule.above is not None else high < rule.weaker


def further_sets(distance: float, half_width: float, sets: float) -> float:
    """Return how many further demonstration sets are expected to exclude a bound.

    The half width of a t interval over S demonstration sets is proportional to t(S - 1) / sqrt(S), where t(k) is the quantile
    of Student's t with k degrees of freedom. The result is the smallest n for which the interval over S + n sets, centred on
    the present value, excludes the bound.

    Args:
        distance: Distance from the value to the bound.
        half_width: Half of the width of the present interval. (The longer half, because an interval ends at the smallest and
            at the largest possible value.)
        sets: Number of demonstration sets of the present interval, S; NaN if unknown.

    Returns:
        The number n; infinity if it is more than :data:`MOST_FURTHER_SETS`; NaN if ``sets`` is unknown or less than 2.
    """
    if np.isnan(sets) or sets < 2:
        return np.nan
    total = sets + np.arange(MOST_FURTHER_SETS + 1)  # (1 + n,)
    relative = stats.t.ppf((1 + LEVEL) / 2, total - 1) / np.sqrt(total)  # (1 + n,)
    sufficient = np.flatnonzero(half_width * relative / relative[0] < distance)
    return float(max(sufficient[0], 1)) if sufficient.size else np.inf


def judge(
    claim: Claim,
    shown: pd.DataFrame | None,
    original_models: Sequence[str] = (),
    failure: str = "",
    replicates: Replicates | None = None,
    by_seed: Mapping[int, pd.DataFrame] | None = None,
) -> list[Verdict]:
    """Judge a claim for each model that its item shows.

    Args:
        claim: The claim.
        shown: The item's CSV; None if the item was not made.
        original_models: Names, in the artifacts, of the paper's own models that were run on the original texts.
        failure: The reason why a failed run did not make the item; empty otherwise.
        replicates: The estimate behind each number of the CSV, see :func:`icl_lens.report.claims.cells`.
        by_seed: The CSV with the values of each seed, see :func:`icl_lens.report.seed_spread.by_seed`.

    Raises:
        InputError: If the rule names a column that the CSV does not have.
    """
    if failure:
        return [Verdict(claim, "", UNTESTABLE, f"{claim.item} was not made in this run: {failure.rstrip('.')}")]
    if shown is None or shown.empty:
        return [Verdict(claim, "", UNTESTABLE, f"{claim.item} was not made, or it contains no data")]
    claims.require_columns(claim, shown, ["model"])
    # A search of the rows of each model would take a time proportional to the square of the number of models.
    of_seeds = {seed: dict(iter(rows.groupby("model", sort=False))) for seed, rows in (by_seed or {}).items()}
    return [
        _judge_model(
            claim,
            name,
            rows,
            name in original_models,
            replicates,
            [models.get(name, by_seed[seed].iloc[:0]) for seed, models in of_seeds.items()],
        )
        for name, rows in shown.groupby("model", sort=False)
    ]


def _judge_model(
    claim: Claim,
    model: str,
    shown: pd.DataFrame,
    original: bool,
    replicates: Replicates | None,
    seed_rows: Sequence[pd.DataFrame],
) -> Verdict:
    found = claims.cells(claim, shown, replicates)
    if found.empty:
        return Verdict(claim, model, UNTESTABLE, f"{claim.item} has no rows for this rule", original)
    states = [state(claim, row.value, row.low, row.high, row.sets, row.problem) for row in found.itertuples()]
    numbers = _numbers(claim, found, seed_rows)
    if claim.rule.within is not None and not original:
        reason = f"the number is for {claim.model} on the original texts, and this run uses another model or other texts"
        return Verdict(claim, model, UNTESTABLE, reason, original, **numbers)
    if found["value"].isna().all():
        return Verdict(
            claim, model, UNTESTABLE, f"the values are missing in this run, see the notes of {claim.item}", original, **numbers
        )
    any_sufficient = claim.rule.take == "any"
    outcome, further = combine(states, any_sufficient)
    reason = _reason(states, outcome)
    if outcome == UNDECIDED and not np.isnan(further):
        amount = f"more than {MOST_FURTHER_SETS:,}" if np.isinf(further) else f"about {further:.0f}"
        reason += f"; {amount} more demonstration set{'' if further == 1 else 's'} would decide"
    return Verdict(
        claim,
        model,
        outcome,
        reason,
        original,
        interval=any(each.interval for each in states),
        further_sets=further,
        **numbers,
    )


def combine(states: Sequence[State], any_sufficient: bool) -> tuple[Outcome, float]:
    """Combine the states of all cells.

    Args:
        states: State of each cell.
        any_sufficient: Whether it is sufficient that one cell satisfies the rule.

    Returns:
        The outcome, and for an undecided one the number of further demonstration sets, see :class:`Verdict`.
    """
    choose = max if any_sufficient else min
    outcome = choose((each.outcome for each in states), key=_ORDER.index)
    if outcome != UNDECIDED:
        return outcome, np.nan
    undecided = [each for each in states if each.outcome == UNDECIDED]
    # One cell on this side of the bound decides the whole claim.
    decisive = [each.further_sets for each in undecided if each.inside == any_sufficient]
    needed = [each.further_sets for each in undecided]
    if decisive and not np.isnan(decisive).all():
        return outcome, float(np.nanmin(decisive))
    return outcome, np.nan if np.isnan(needed).any() else max(needed)


def _reason(states: Sequence[State], outcome: Outcome) -> str:
    if len(states) == 1:
        return states[0].reason
    words = {
        HOLDS: ("holds", "hold"),
        WEAKLY: ("holds weakly", "hold weakly"),
        UNDECIDED: ("is undecided", "are undecided"),
        CONTRADICTED: ("is contradicted", "are contradicted"),
        UNTESTABLE: ("is not testable", "are not testable"),
    }
    outcomes = [each.outcome for each in states]
    parts = [
        f"{number} {plural if number > 1 else singular}"
        for each, (singular, plural) in words.items()
        if (number := outcomes.count(each))
    ]
    reasons = dict.fromkeys(each.reason for each in states if each.outcome == outcome)
    shared = f" ({next(iter(reasons))})" if len(reasons) == 1 and outcome in (UNTESTABLE, UNDECIDED) else ""
    if not shared and outcome in (HOLDS, CONTRADICTED) and not any(each.interval for each in states):
        shared = " (the values decide; these numbers have no intervals)"
    return f"of {len(states)} cells, {', '.join(parts)}{shared}"


def _numbers(claim: Claim, found: pd.DataFrame, seed_rows: Sequence[pd.DataFrame]) -> dict:
    """Return the fields of a verdict with the measured numbers.

    Args:
        claim: The claim.
        found: The cells of the claim for one model.
        seed_rows: For each seed, the rows of this model in the item's CSV with the values of the seed.
    """
    known = found.dropna(subset=["value"])
    if known.empty:
        return {"cells": len(found)}
    accepted = region(claim)
    margins = [accepted.margin(value) for value in known["value"]]
    deciding = known.iloc[int(np.argmax(margins) if claim.rule.take == "any" else np.argmin(margins))]
    ends = [claim.rule.low, claim.rule.high]  # they are computed over all seeds and are not valid for a single seed
    per_seed = [claims.cells(claim, rows.drop(columns=[name for name in ends if name in rows])) for rows in seed_rows]
    seed_values = [seed_cells.loc[deciding.name, "value"] for seed_cells in per_seed]
    lowest, highest, sd, seeds = spread(seed_values)
    choose = any if claim.rule.take == "any" else all
    return {
        "cells": len(found),
        "cell": deciding["cell"],
        "value": float(deciding["value"]),
        "low": float(deciding["low"]),
        "high": float(deciding["high"]),
        "sets": float(deciding["sets"]),
        "lowest": float(known["value"].min()),
        "highest": float(known["value"].max()),
        "prompts": int(known["prompts"].max()) if known["prompts"].notna().any() else 0,
        "seed_lowest": lowest,
        "seed_highest": highest,
        "seed_sd": sd,
        "seeds": seeds,
        "seeds_obeying": sum(choose(map(accepted.contains, seed_cells["value"])) for seed_cells in per_seed),
    }


def number_text(value: float, digits: int = 3) -> str:
    """Return a number as text; empty if it is missing."""
    if pd.isna(value):
        return ""
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "\u2212")  # + 0.0: no negative zero


def interval_text(value: float, low: float, high: float) -> str:
    """Return a value as text, with its interval if it has one."""
    if pd.isna(low) or low == high == value:
        return number_text(value)
    return f"{number_text(value)} [{number_text(low)}, {number_text(high)}]"


def further_sets_text(verdict: Verdict) -> str:
    """Return the number of further demonstration sets as text; empty if the verdict gives none."""
    if np.isnan(verdict.further_sets):
        return ""
    return f"more than {MOST_FURTHER_SETS}" if np.isinf(verdict.further_sets) else f"{verdict.further_sets:.0f}"
