"""What a run says of a claim, in five words, with the cell that decides it and its spread over seeds.

:mod:`icl_lens.report.claims` judges by values and intervals together; its ``partly`` means both that a claim holds in some
cells and that the prompts are too few to decide. Here these are told apart. Each cell (a row that the rule judges) *holds*
where its whole 95 % interval obeys the rule, *fails* where its whole interval is outside, holds *weakly* where its whole
interval obeys the rule's weaker bound, and is *open* otherwise: other prompts could have given either. Of a claim about every
cell,

- it holds if every cell holds;
- it holds in weakened form if more than half of the cells hold at least weakly;
- it does not hold if that is not so and at least one cell fails;
- it cannot be told from so many prompts otherwise.

A claim about any cell holds if one does, in weakened form if one does weakly, and does not hold if all fail.
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
    "cannot be told",
    "not testable here",
)


@dataclass(frozen=True)
class Reading:
    """What a run says of a claim, for one model.

    Attributes:
        claim: The claim.
        model: The model's name; empty where nothing was run.
        reading: One of :data:`READINGS`.
        outcome: What :func:`icl_lens.report.claims.judge` says.
        reason: Why it is not testable; else how many cells hold, hold weakly, are open, or fail.
        cells: How many the rule judges.
        cell: Which of them decides: the farthest from obeying the rule of a claim about every cell, the nearest of a claim
            about any; empty where there is one only.
        value: Its value; NaN where nothing was measured.
        low: Its interval's lower end.
        high: Its interval's upper end.
        lowest: The lowest value over cells.
        highest: The highest value over cells.
        seed_lowest: The lowest of the deciding cell's values of single seeds; NaN where there is no spread over seeds.
        seed_highest: The highest of them.
        seed_sd: Their sample standard deviation.
        seeds: How many there are.
        seeds_obeying: In how many seeds the values of the cells obey the rule.
        prompts: How many prompts it rests on; 0 where the CSV does not say.
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
        """Whether there is a number to show."""
        return not np.isnan(self.value) and self.claim.rule.equals is None


def read(verdict: Verdict, shown: pd.DataFrame | None, by_seed: Mapping[int, pd.DataFrame]) -> Reading:
    """The reading of a verdict.

    Args:
        verdict: On one claim and model.
        shown: The item's CSV, None where the item was not made.
        by_seed: The CSV with each seed's own values, see :func:`icl_lens.report.seed_spread.by_seed`.
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
        counts = {HOLDS: "holds", WEAKENED: "holds weakly", OPEN: "cannot be told", FAILS: "fails"}
        said = [f"{word} in {states.count(state)}" for state, word in counts.items() if state in states]
        reading |= {"reading": _together(states, claim.rule.take == "any")}
        reading |= {"reason": f"{', '.join(said)} of {len(states)} cells" if len(states) > 1 else verdict.reason}
    margins = [_margin(claim, value) for value in known["value"]]
    place = int(np.argmax(margins) if claim.rule.take == "any" else np.argmin(margins))
    deciding = known.iloc[place]
    own = [claims.cells(claim, one[one["model"] == model].drop(columns=_ends(claim, one))) for one in by_seed.values()]
    of_seeds = [one.loc[deciding.name, "value"] for one in own]
    lowest, highest, sd, seeds = spread(of_seeds)
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
        seeds_obeying=sum(_obeys(claim, one["value"].to_numpy(dtype=float)) for one in own),
        prompts=verdict.prompts or int(known["prompts"].fillna(0).max()),
    )


def _ends(claim: Claim, shown: pd.DataFrame) -> list[str]:
    """The columns with interval ends, which are the whole's and not a seed's."""
    return [name for name in (claim.rule.low, claim.rule.high) if name in shown]


def _bounds(claim: Claim) -> tuple[float, float]:
    """The open interval that a value must lie in."""
    rule = claim.rule
    if rule.equals is not None:
        return 0.5, np.inf
    if rule.within is not None:
        return float(claim.value) - rule.within, float(claim.value) + rule.within
    return (-np.inf if rule.above is None else rule.above), (np.inf if rule.below is None else rule.below)


def _margin(claim: Claim, value: float) -> float:
    """How far inside the bounds a value lies; negative outside."""
    low, high = _bounds(claim)
    return min(value - low, high - value)


def _obeys(claim: Claim, values: np.ndarray) -> bool:
    """Whether the values of a seed's cells obey the rule; a missing one does not."""
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


def _together(states: list[str], enough: bool) -> str:
    """The reading of all cells.

    Args:
        states: Of each cell.
        enough: Whether one cell is enough.
    """
    if enough:
        return next((state for state in (HOLDS, WEAKENED, OPEN) if state in states), FAILS)
    if set(states) == {HOLDS}:
        return HOLDS
    if 2 * sum(state in (HOLDS, WEAKENED) for state in states) > len(states):
        return WEAKENED
    return FAILS if FAILS in states else OPEN
