"""The study ``rewritten``: predictions for test texts after rule-based rewriting.

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

    queries: int = Field(default=40, ge=1, description="Number of prompts per seed (the first ones); all if there are fewer.")
    seed: Seed = Field(default=0, description="Seed of the typos and of the clauses.")
    typos: float = Field(
        default=0.15, gt=0, le=1, description="Probability that a letter is swapped, dropped, doubled or mistyped (ours)."
    )
    clauses: int = Field(default=2, ge=1, description="Number of clauses that are put around each text (ours).")


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
    help="predictions for test texts rewritten with rare words, complex syntax or typos",
    schema=SCHEMA,
    cost=Cost(passes=4, queries=lambda settings: settings.queries),
    settings=Keys(
        "rewritten", Settings, "Test texts rewritten by rules: numbers of prompts and clauses, and probability of typos."
    ),
    inputs="prepare",
    needs_gold=False,
    gold_columns=("gold",),
    shards="prefix",
    labels=("whole", "last", "all"),
    items=(
        Item(
            name="kr_table_1",
            title="Accuracy on original test texts, and on test texts rewritten with rare words, complex syntax or typos",
            notebook="kernel_regression/kr_table_1",
            set="fresh-4shot",
            studies=("rewritten",),
            tasks=("sst2",),
            paper_models="GPT-J",
        ),
    ),
)
