"""The scorecard of a run: its table, the number of claims per verdict, and how many claims would hold by chance.

Some of more than a hundred rules hold by chance or on any model. Two null runs show how many: the run of
``config/null-untrained.yaml`` uses copies of the models with random weights, and the run of
``config/null-shuffled-labels.yaml`` uses texts with shuffled labels. Each writes its own scorecard. The report of a results
folder reads these scorecards from its subfolders, see :mod:`icl_lens.results.nulls`, and counts the same claims there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from icl_lens.errors import InputError
from icl_lens.report import claims, verdicts
from icl_lens.report.claims import Paper
from icl_lens.report.verdicts import HOLDS, LEVEL, OUTCOMES, UNTESTABLE, Verdict, further_sets_text
from icl_lens.results.nulls import NULLS
from icl_lens.studies import registry


def table(papers: Sequence[Paper], found: Mapping[str, Sequence[Verdict]]) -> pd.DataFrame:
    """Return the scorecard, one row per claim and model.

    Args:
        papers: The papers.
        found: Name of a paper -> the verdicts on its claims.
    """
    references = {paper.name: paper.reference for paper in papers}
    return pd.DataFrame(
        {
            "claim": v.claim.id,
            "paper": name,
            "reference": references[name],
            "where": v.claim.where,
            "item": v.claim.item,
            "statement": v.claim.statement,
            "rule": claims.rule_in_words(v.claim),
            "paper_value": v.claim.value,
            "paper_model": v.claim.model,
            "model": v.model,
            "papers_own_model": v.original,
            "verdict": v.outcome,
            "reason": v.reason,
            "further_demonstration_sets": further_sets_text(v),
            "ours": v.measurement,
            "value": v.value if v.measured else None,
            "low": v.low if v.measured else None,
            "high": v.high if v.measured else None,
            "demonstration_sets": v.sets,
            "cell": v.cell,
            "cells": v.cells,
            "lowest_cell": v.lowest if v.measured else None,
            "highest_cell": v.highest if v.measured else None,
            "seed_lowest": v.seed_lowest,
            "seed_highest": v.seed_highest,
            "seed_sd": v.seed_sd,
            "seeds": v.seeds,
            "seeds_obeying": v.seeds_obeying if v.seeds else None,
            "prompts": v.prompts,
        }
        for name, of_paper in found.items()
        for v in of_paper
    ).astype({"seeds_obeying": "Int64", "demonstration_sets": "Int64"})


@dataclass(frozen=True)
class Null:
    """The verdicts of a null run.

    Attributes:
        title: Title of the null run.
        outcomes: Claim id -> the verdicts on it, one per model.
    """

    title: str
    outcomes: Mapping[str, Sequence[str]]

    def count(self, found: Iterable[Verdict]) -> tuple[int, int]:
        """Return how many of a run's testable claims hold in the null run, and how many of them are testable there.

        Claims about an item that runs no model are not counted, because they hold in the null run if they hold at all.
        """
        names = {v.claim.id for v in found if v.outcome != UNTESTABLE and _runs_model(v)}
        outcomes = [outcome for name in names for outcome in self.outcomes.get(name, ()) if outcome != UNTESTABLE]
        return outcomes.count(HOLDS), len(outcomes)


def _runs_model(verdict: Verdict) -> bool:
    item = registry.items().get(verdict.claim.item)
    return item is None or bool(item.studies)


def read_null(name: str, path: Path) -> Null:
    """Read the scorecard of a null run.

    Args:
        name: Folder of the null run.
        path: Its scorecard.

    Raises:
        InputError: If the file is missing or is not a scorecard.
    """
    try:
        rows = pd.read_csv(path, usecols=["claim", "verdict"], dtype=str)
        unknown = set(rows["verdict"]) - set(OUTCOMES)
        if unknown:
            raise ValueError(f"unknown verdict {sorted(map(str, unknown))[0]}")
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} is not the scorecard of a null run ({error}); delete it, or rerun the command that made it"
        ) from error
    return Null(NULLS.get(name, name), rows.groupby("claim")["verdict"].agg(list).to_dict())


@dataclass(frozen=True)
class Counts:
    """The number of claims of a paper, or of all papers.

    Attributes:
        title: Name of the paper.
        outcomes: Verdict -> number of claims (per model), for all verdicts except ``not testable``.
        testable: Sum of ``outcomes``.
        not_testable: Number of claims that are not testable.
        nulls: Title of a null run -> number of the testable claims that hold there, and of those that are testable there.
    """

    title: str
    outcomes: Mapping[str, int]
    testable: int
    not_testable: int
    nulls: Mapping[str, tuple[int, int]]


def counts(found: Mapping[str, Sequence[Verdict]], nulls: Sequence[Null] = ()) -> list[Counts]:
    """Return the counts of each paper and, if there are several, of all papers together."""
    together = {"all papers": [v for of_paper in found.values() for v in of_paper]} if len(found) > 1 else {}
    rows = []
    for title, of_paper in {**found, **together}.items():
        number = Counter(v.outcome for v in of_paper)
        rows.append(
            Counts(
                title,
                {outcome: number[outcome] for outcome in OUTCOMES if outcome != UNTESTABLE},
                len(of_paper) - number[UNTESTABLE],
                number[UNTESTABLE],
                {null.title: null.count(of_paper) for null in nulls},
            )
        )
    return rows


def counts_table(rows: Sequence[Counts]) -> pd.DataFrame:
    """Return the counts as a table of texts, one row per paper."""
    return pd.DataFrame(
        {
            "paper": row.title,
            **{outcome: str(number) for outcome, number in row.outcomes.items()},
            "testable": str(row.testable),
            "not testable": str(row.not_testable),
            **{f"hold: {title}": f"{holds} of {testable}" for title, (holds, testable) in row.nulls.items()},
        }
        for row in rows
    )


def chance_sentence(found: Iterable[Verdict]) -> str:
    """Return one sentence on how many claims would hold by chance at the level of the intervals; empty without intervals.

    If the true value is at the bound of a rule, the interval is on the rule's side with probability (1 - level) / 2. A claim
    about any of k cells has up to k times this probability (Bonferroni); a claim about each cell has at most this probability.
    """
    judged = [v for v in found if v.outcome != UNTESTABLE and v.interval]
    if not judged:
        return ""
    share = (1 - LEVEL) / 2
    expected = sum(min(1.0, share * (v.cells if v.claim.rule.take == "any" else 1)) for v in judged)
    subject = f"each of the {len(judged)} claims" if len(judged) > 1 else "the claim"
    return (
        f"If the true value of {subject} judged by an interval were exactly at the bound of the rule, at most {expected:.1f} "
        f"would be expected to hold by chance ({100 * share:.1f} % of claims about a single number, more for claims about any "
        "of several cells)."
    )


def null_sentence(nulls: Sequence[Null]) -> str:
    """Return one or two sentences that explain the counts of the null runs, or say how to make them."""
    missing = [name for name, title in NULLS.items() if title not in {null.title for null in nulls}]
    parts = []
    if nulls:
        named = " and ".join(f"“hold: {null.title}”" for null in nulls)
        count = f"columns {named} count" if len(nulls) > 1 else f"column {named} counts"
        parts.append(
            f"The {count} the same claims in another run: how many hold there, of those that are testable there. Claims about "
            "data without a model are not counted. A rule that holds there needs no trained model, or no correct labels, to "
            "hold."
        )
    if missing:
        lacking = " and ".join(NULLS[name] for name in missing)
        lead = (
            f"Null runs not made: {lacking}; run" if nulls else f"To count the claims that hold in null runs ({lacking}), run"
        )
        parts.append(f"{lead} `make null`, or for another config the commands in config/README.md.")
    return " ".join(parts)


def headline(found: Mapping[str, Sequence[Verdict]], nulls: Sequence[Null] = ()) -> str:
    """Return one sentence with the number of claims that hold, here and in the null runs."""
    total = counts(found, nulls)[-1]
    weakly = total.outcomes[verdicts.WEAKLY]
    text = f"Of {total.testable} testable claims, {total.outcomes[HOLDS]} hold" + (
        f" and {weakly} hold{'s' * (weakly == 1)} weakly" if weakly else ""
    )
    places = {"untrained copy": "on an untrained copy of the model", "shuffled labels": "with shuffled labels"}
    parts = [f"{holds} of {testable} {places.get(title, title)}" for title, (holds, testable) in total.nulls.items()]
    return text + (f"; of the same claims, {' and '.join(parts)}" if parts else "") + "."
