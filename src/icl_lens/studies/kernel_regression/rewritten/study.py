"""The study rewritten: the model's predictions for test texts that are rewritten by rules.

*In-context learning as kernel regression* (Han et al., TMLR 2025), Table 1.
"""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import Field

from icl_lens.artifacts.schema import FLOAT, FLOATS, INTEGER, TEXT, study_schema
from icl_lens.section import Section, Seed
from icl_lens.studies.cost import Cost
from icl_lens.studies.item import Item
from icl_lens.studies.study import Keys, Study

Rewriting = Literal["original", "rare_words", "complex_syntax", "typos"]
REWRITINGS: tuple[Rewriting, ...] = get_args(Rewriting)
"""Rows of Table 1, in its order; the first leaves the text unchanged."""


class Settings(Section):
    """Settings of the rewritings and of their strength."""

    queries: int = Field(
        default=40, ge=1, description="The first so many prompts of each seed are run, or all where there are fewer."
    )
    seed: Seed = Field(default=0, description="Of the typos and of the clauses.")
    typos: float = Field(
        default=0.15, gt=0, le=1, description="The chance of each letter to be swapped, dropped, doubled or mistyped (ours)."
    )
    clauses: int = Field(default=2, ge=1, description="How many clauses are put around each text (ours).")


SCHEMA = study_schema(
    "rewritten",
    {
        "rewriting": TEXT,
        "gold": INTEGER,
        "prediction": INTEGER,
        "class_log_probs": FLOATS,
        "query_tokens": INTEGER,
        "replaced": FLOAT,
    },
    keys=("rewriting",),
    every_prompt=True,
)

STUDY = Study(
    package=__package__,
    help="answers to test texts with rare words, with more complex syntax, and with typos",
    schema=SCHEMA,
    cost=Cost(passes=4, queries=lambda settings: settings.queries),
    settings=Keys("rewritten", Settings, "Test texts rewritten by rules: how many typos, how many clauses."),
    inputs="prepare",
    items=(
        Item(
            name="kr_table_1",
            title="Accuracy on test texts as they are and rewritten: rare words, more complex syntax, typos",
            notebook="kernel_regression/kr_table_1",
            set="fresh-4shot",
            studies=("rewritten",),
            tasks=("sst2",),
            paper_models="GPT-J",
        ),
    ),
)
