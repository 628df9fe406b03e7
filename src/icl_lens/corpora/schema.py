"""The schema of corpora tables."""

from __future__ import annotations

from icl_lens.artifacts.schema import INTEGER, TEXT, Schema

CORPORA = Schema(
    "corpora",
    1,
    {"split": TEXT, "index": INTEGER, "text": TEXT, "label": INTEGER},
    keys=("split", "index"),
    stage="corpora",
)
"""Schema of corpora tables, with one row per text."""
