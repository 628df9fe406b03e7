"""Readings of a claim in a run on a five-level scale, with the deciding cell and its spread over seeds.

:mod:`icl_lens.report.claims` judges values and intervals together: its ``partly`` covers both a claim that holds only in some
cells and a claim with too few prompts for a conclusion. This module distinguishes these cases. A cell is a row that the rule
judges. Each cell has one of four states:

- it *holds* if its whole 95 % interval satisfies the rule;
- it holds *weakly* if its whole interval satisfies the rule's weaker bound;
- it *fails* if its whole interval is outside the bounds;
- it is *open* otherwise, that is, its interval contains a bound, so other prompts could have given either result.

A claim about every cell

- holds if every cell holds;
- otherwise holds in weakened form if more than half of the cells hold at least weakly;
- otherwise does not hold if at least one cell fails;
- otherwise is inconclusive with this number of prompts.

A claim about any cell holds if one cell holds, otherwise holds in weakened form if one cell holds weakly, and does not hold if
all cells fail. Otherwise it is inconclusive.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from icl_lens.report import claims
from icl_lens.report.claims import Claim, Verdict
from icl_lens.report.seed_spread import spread

HOLDS, WEAKENED, FAILS, OPEN, UNTESTED = READINGS = (
    "holds",
    "holds in weakened form",
    "does not hold",
    "inconclusive",
    "not testable here",
)


@dataclass(frozen=True)
class Reading:
    """The result of a run for a claim and one model.

    Attributes:
        claim: The claim.
        model: Name of the model; empty if nothing was run.
        reading: One of :data:`READINGS`.
        outcome: Outcome according to :func:`icl_lens.report.claims.judge`.
        reason: If the claim is not testable, the reason; otherwise how many cells hold, hold weakly, are open, or fail.
        cells: Number of cells that the rule judges.
        cell: Name of the deciding cell; empty if there is only one cell. For a claim about every cell, this is the cell
            farthest from satisfying the rule; for a claim about any cell, the cell closest to it.
        value: Value of the deciding cell; NaN if nothing was measured.
        low: Lower end of its interval.
        high: Upper end of its interval.
        lowest: Lowest value over all cells.
        highest: Highest value over all cells.
        seed_lowest: Lowest value of the deciding cell over single seeds; NaN if there is no spread over seeds.
        seed_highest: Highest value of the deciding cell over single seeds.
        seed_sd: Sample standard deviation of these values.
        seeds: Number of these values.
        seeds_obeying: Number of seeds for which the values of the cells satisfy the rule.
        prompts: Number of prompts behind the reading; 0 if the CSV does not give it.
    """

    claim: Claim
    model: str
    reading: str
    outcome: str
    reason: str
    cells: int = 0
    cell: str = ""
    value: float = np.nan
    low: float = np.nan
    high: float = np.nan
    lowest: float = np.nan
    highest: float = np.nan
    seed_lowest: float = np.nan
    seed_highest: float = np.nan
    seed_sd: float = np.nan
    seeds: int = 0
    seeds_obeying: int = 0
    prompts: int = 0

    @property
    def measured(self) -> bool:
        """Whether the reading has a number to show."""
        return not np.isnan(self.value) and self.claim.rule.equals is None


def read(verdict: Verdict, shown: pd.DataFrame | None, by_seed: Mapping[int, pd.DataFrame]) -> Reading:
    """Compute the numbers behind a verdict, and their range over seeds.

    Args:
        verdict: The verdict on one claim for one model.
        shown: The item's CSV; None if the item was not made.
        by_seed: The CSV with the values of each seed, see :func:`icl_lens.report.seed_spread.by_seed`.
    """
    claim, model = verdict.claim, verdict.model
    reading = {"reading": UNTESTED, "outcome": verdict.outcome, "reason": verdict.reason}
    if shown is None or not model:
        return Reading(claim, model, **reading)
    found = claims.cells(claim, shown[shown["model"] == model])
    known = found.dropna(subset=["value"])
    if known.empty:
        return Reading(claim, model, **reading)
    states = [_state(claim, row) for row in known.itertuples()] + [OPEN] * (len(found) - len(known))
    if verdict.outcome != "not testable here":
        counts = {HOLDS: "holds", WEAKENED: "holds weakly", OPEN: "is inconclusive", FAILS: "fails"}
        parts = [f"{word} in {states.count(state)}" for state, word in counts.items() if state in states]
        reading |= {"reading": _combine(states, claim.rule.take == "any")}
        reading |= {"reason": f"{', '.join(parts)} of {len(states)} cells" if len(states) > 1 else verdict.reason}
    margins = [_margin(claim, value) for value in known["value"]]
    index = int(np.argmax(margins) if claim.rule.take == "any" else np.argmin(margins))
    deciding = known.iloc[index]
    per_seed = [
        claims.cells(claim, seed_csv[seed_csv["model"] == model].drop(columns=_ends(claim, seed_csv)))
        for seed_csv in by_seed.values()
    ]
    seed_values = [seed_cells.loc[deciding.name, "value"] for seed_cells in per_seed]
    lowest, highest, sd, seeds = spread(seed_values)
    return Reading(
        claim,
        model,
        **reading,
        cells=len(found),
        cell=deciding["cell"],
        value=float(deciding["value"]),
        low=float(deciding["low"]),
        high=float(deciding["high"]),
        lowest=float(known["value"].min()),
        highest=float(known["value"].max()),
        seed_lowest=lowest,
        seed_highest=highest,
        seed_sd=sd,
        seeds=seeds,
        seeds_obeying=sum(_satisfies(claim, seed_cells["value"].to_numpy(dtype=float)) for seed_cells in per_seed),
        prompts=verdict.prompts or int(known["prompts"].fillna(0).max()),
    )


def _ends(claim: Claim, shown: pd.DataFrame) -> list[str]:
    """Return the columns with interval ends. They are computed over all seeds and are not valid for a single seed."""
    return [name for name in (claim.rule.low, claim.rule.high) if name in shown]


def _bounds(claim: Claim) -> tuple[float, float]:
    """Return the open interval of the values that satisfy the rule."""
    rule = claim.rule
    if rule.equals is not None:
        return 0.5, np.inf
    if rule.within is not None:
        return float(claim.value) - rule.within, float(claim.value) + rule.within
    return (-np.inf if rule.above is None else rule.above), (np.inf if rule.below is None else rule.below)


def _margin(claim: Claim, value: float) -> float:
    """Return the distance from a value to the nearest bound; negative if the value is outside the bounds."""
    low, high = _bounds(claim)
    return min(value - low, high - value)


def _satisfies(claim: Claim, values: np.ndarray) -> bool:
    """Return whether the values of a seed's cells satisfy the rule. A missing value does not satisfy it."""
    margins = np.array([_margin(claim, value) for value in values])
    return bool((margins > 0).any() if claim.rule.take == "any" else (margins > 0).all())


def _state(claim: Claim, row) -> str:
    low, high = _bounds(claim)
    if low < row.low and row.high < high:
        return HOLDS
    weaker = claim.rule.weaker
    if weaker is not None and (row.low > weaker if claim.rule.above is not None else row.high < weaker):
        return WEAKENED
    return FAILS if row.high <= low or row.low >= high else OPEN


def _combine(states: list[str], any_sufficient: bool) -> str:
    """Combine the states of all cells into one reading.

    Args:
        states: State of each cell.
        any_sufficient: Whether it is sufficient that one cell holds.
    """
    if any_sufficient:
        return next((state for state in (HOLDS, WEAKENED, OPEN) if state in states), FAILS)
    if set(states) == {HOLDS}:
        return HOLDS
    if 2 * sum(state in (HOLDS, WEAKENED) for state in states) > len(states):
        return WEAKENED
    return FAILS if FAILS in states else OPEN
