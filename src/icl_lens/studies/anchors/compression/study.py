"""Methods, settings and declaration of the study ``compression`` (*Label Words are Anchors*, section 3.2, Table 2)."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

from pydantic import Field

from icl_lens.artifacts.schema import FLAG, FLOAT, INTEGER, TEXT, study_schema
from icl_lens.section import Section
from icl_lens.studies.cost import Cost
from icl_lens.studies.item import Item
from icl_lens.studies.study import Keys, Study

Method = Literal["full", "text_anchor", "hidden_random", "hidden_anchor"]
Positions = Literal["continued", "restarted"]
POSITIONS: tuple[Positions, ...] = get_args(Positions)

OWN = "own"
"""Value of ``positions`` for Text_anchor and for the full run, with which each method is compared."""

WORDS = 5
"""Number of most likely tokens that word loyalty compares."""


class Settings(Section):
    """Settings of the compression of demonstrations."""

    positions: list[Positions] = Field(
        default=["continued"],
        min_length=1,
        description="Positions of the query after the kept keys and values: they continue after the full demonstrations "
        "(continued) or restart at 0 (restarted, as in the released compress.py for GPT2-XL). Table 2 shows each value in "
        "the list.",
    )
    draws: int = Field(
        default=5,
        ge=1,
        description="Number of draws of Hidden_random; Hidden_random-top is the best of them, chosen on one half of the test "
        "texts and evaluated on the other half. The paper uses 20.",
    )
    accumulate: bool = Field(
        default=False,
        description="Whether a draw also keeps the random tokens of all earlier draws, as in the released compress_top.py.",
    )


class Condition(NamedTuple):
    """One compression condition."""

    method: Method
    draw: int
    positions: str


def conditions(settings: Settings) -> list[Condition]:
    """Return all conditions, in the order of the rows."""
    found = [Condition("text_anchor", 0, OWN)]
    for positions in POSITIONS:
        if positions in settings.positions:
            found += [Condition("hidden_random", draw, positions) for draw in range(settings.draws)]
            found.append(Condition("hidden_anchor", 0, positions))
    return found


SCHEMA = study_schema(
    "compression",
    {
        "method": TEXT,
        "draw": INTEGER,
        "positions": TEXT,
        "prediction": INTEGER,
        "correct": FLAG,
        "label_agrees": FLAG,
        "word_jaccard_5": FLOAT,
    },
    keys=("method", "draw", "positions"),
)

STUDY = Study(
    package=__package__,
    help="prediction with compressed demonstrations (a subset of keys and values)",
    schema=SCHEMA,
    # One pass over the full prompts, and one over the queries for each condition. Text_anchor has few further tokens.
    cost=Cost(passes=1, behind=lambda settings: len(conditions(settings)), vocabulary=True),
    settings=Keys(
        "compression",
        Settings,
        "Compression of demonstrations to a few keys and values, or to the text of their template and label words (Table 2).",
    ),
    needs_gold=False,
    gold_columns=("correct",),
    shards="prefix",
    labels=("whole", "last", "all"),
    items=(
        Item(
            name="table_2",
            title="Predictions with compressed demonstrations: agreement with the full prompt, and accuracy",
            notebook="anchors/table_2",
            set="shared-1shot",
            studies=("compression", "icl"),
            paper_models="GPT2-XL and GPT-J",
        ),
    ),
)
