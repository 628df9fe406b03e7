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
class Publication:
    """Files in ``docs/`` that one ``icl-lens publish`` or one run of the rule ``report`` wrote.

    Attributes:
        page: Document that describes the run.
        scorecard: CSV with the verdicts.
        folder: Folder of the pictures and CSV files of the items; empty if there is none.
    """

    page: str
    scorecard: str
    folder: str = ""


@dataclass(frozen=True)
class Scorecard:
    """Verdicts on the claims for one model. Different papers can come from different runs.

    Attributes:
        title: Title of the model.
        publications: Paper -> the files of its run.
        rows: (paper, claim) -> columns of the scorecard.
    """

    title: str
    publications: Mapping[str, Publication]
    rows: Mapping[tuple[str, str], Mapping[str, str]] = field(repr=False)

    def counts(self, paper: str) -> list[int]:
        """Return how many claims of a paper have each of :data:`icl_lens.report.verdicts.OUTCOMES`."""
        found = [row["verdict"] for (name, _), row in self.rows.items() if name == paper]
        return [found.count(verdict) for verdict in OUTCOMES]


_GEMMA = (
    Publication("gemma.md", "gemma-scorecard.csv", "gemma"),
    Publication("gemma-challenges.md", "gemma-challenges-scorecard.csv", "gemma-challenges"),
)
_MODELS = {
    "Gemma 3 270M": _GEMMA,
    "Embedded models": (Publication("embedded-model.md", "embedded-scorecard.csv"),),
}


@cache
def scorecards() -> tuple[Scorecard, ...]:
    """Return the committed scorecards."""
    found = []
    for title, publications in _MODELS.items():
        rows: dict[tuple[str, str], Mapping[str, str]] = {}
        by_paper: dict[str, Publication] = {}
        for publication in publications:
            if not (DOCS / publication.scorecard).is_file():  # not run yet
                continue
            with (DOCS / publication.scorecard).open(encoding="utf-8", newline="") as stream:
                read = {(row["paper"], row["claim"]): row for row in csv.DictReader(stream)}
            rows |= read
            by_paper |= dict.fromkeys((paper for paper, _ in read), publication)
        found.append(Scorecard(title, by_paper, rows))
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


_SHOWS_GEMMA = "Gemma 3 270M on the original data sets"


def pictures(item: str) -> list[Picture]:
    """Return the committed pictures of a figure."""
    candidates = [Picture(f"{publication.folder}/{item}.png", _SHOWS_GEMMA) for publication in _GEMMA]
    candidates.append(Picture(f"{item}.png", "the embedded model"))
    return [picture for picture in candidates if (DOCS / picture.file).is_file()]


def numbers(item: str) -> Picture | None:
    """Return the committed CSV of an item."""
    files = [f"{publication.folder}/{item}.csv" for publication in _GEMMA]
    return next((Picture(file, _SHOWS_GEMMA) for file in files if (DOCS / file).is_file()), None)


@cache
def _gemma_sections() -> Mapping[str, str]:
    return {
        heading.lower(): f"{publication.page}#{anchor}"
        for publication in reversed(_GEMMA)
        if (DOCS / publication.page).is_file()
        for heading, anchor in headings((DOCS / publication.page).read_text(encoding="utf-8")).items()
    }


def gemma_section(heading: str) -> str | None:
    """Return the link to the section about an item in a page about Gemma; None if there is none."""
    return _gemma_sections().get(heading.lower())
