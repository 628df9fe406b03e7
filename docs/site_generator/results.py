"""Committed results that the pages show: scorecards, pictures and tables of models that were studied."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache

from icl_lens import resources
from icl_lens.report import claims
from icl_lens.report.claims import Paper
from icl_lens.report.verdicts import OUTCOMES
from icl_lens.studies import registry

from .layout import DOCS, headings


@dataclass(frozen=True)
class Scorecard:
    """Verdicts on the claims for one run.

    Attributes:
        title: Title of the run's model.
        file: Name of the file in ``docs/``.
        page: Document in ``docs/`` that describes the run.
        rows: (paper, claim) -> columns of the scorecard.
    """

    title: str
    file: str
    page: str
    rows: Mapping[tuple[str, str], Mapping[str, str]] = field(repr=False)

    def counts(self, paper: str) -> list[int]:
        """Return how many claims of a paper have each of :data:`icl_lens.report.verdicts.OUTCOMES`."""
        found = [row["verdict"] for (name, _), row in self.rows.items() if name == paper]
        return [found.count(verdict) for verdict in OUTCOMES]


# Scorecards in docs/, written by `icl-lens publish` and by the rule `report` (results/report/scorecard.csv).
_RUNS = (
    ("Gemma 3 270M", "gemma-scorecard.csv", "gemma.md"),
    ("Embedded models", "embedded-scorecard.csv", "embedded-model.md"),
)


@cache
def scorecards() -> tuple[Scorecard, ...]:
    """Return the committed scorecards."""
    found = []
    for title, file, page in _RUNS:
        if (DOCS / file).is_file():
            with (DOCS / file).open(encoding="utf-8", newline="") as stream:
                rows = {(row["paper"], row["claim"]): row for row in csv.DictReader(stream)}
            found.append(Scorecard(title, file, page, rows))
    return tuple(found)


@cache
def papers() -> Mapping[str, Paper]:
    """Return group -> claims of its paper, for each group with a claims file."""
    files = {name: resources.CLAIMS / f"{name}.yaml" for name in registry.groups()}
    return {name: claims.load(file) for name, file in files.items() if file.is_file()}


@dataclass(frozen=True)
class Picture:
    """A committed picture of a figure.

    Attributes:
        file: Path in ``docs/``.
        shows: Title of the model, in the words of a caption.
    """

    file: str
    shows: str


_GEMMA = "Gemma 3 270M on the original data sets"


def pictures(item: str) -> list[Picture]:
    """Return the committed pictures of a figure."""
    candidates = [Picture(f"gemma/{item}.png", _GEMMA), Picture(f"{item}.png", "the embedded model")]
    return [picture for picture in candidates if (DOCS / picture.file).is_file()]


def numbers(item: str) -> Picture | None:
    """Return the committed CSV of an item."""
    file = f"gemma/{item}.csv"
    return Picture(file, _GEMMA) if (DOCS / file).is_file() else None


@cache
def _gemma_headings() -> Mapping[str, str]:
    return {heading.lower(): anchor for heading, anchor in headings((DOCS / "gemma.md").read_text(encoding="utf-8")).items()}


def gemma_section(heading: str) -> str | None:
    """Return the link to the section about an item in the page about Gemma; None if it has none."""
    anchor = _gemma_headings().get(heading.lower())
    return f"gemma.md#{anchor}" if anchor else None
