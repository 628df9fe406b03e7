"""Null runs: the folders with runs of untrained copies and with shuffled labels, inside the folder of the run to compare.

``config/null-untrained.yaml`` and ``config/null-shuffled-labels.yaml`` make those of the default config.
"""

from __future__ import annotations

from pathlib import Path

NULLS = {"untrained": "untrained copy", "shuffled-labels": "shuffled labels"}
"""Folder of a null run -> its title."""

SCORECARD = "scorecard.csv"
"""Name of the scorecard in the folder of the report page."""


def scorecards(results: Path | str) -> dict[str, Path]:
    """Return the existing scorecards of the null runs of a results folder, ``RESULTS/null/NAME/report/SCORECARD``, by name."""
    paths = {name: Path(results) / "null" / name / "report" / SCORECARD for name in NULLS}
    return {name: path for name, path in paths.items() if path.is_file()}
