"""Settings and declaration of the study ``isolated_words`` (Table 5)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from icl_lens.artifacts.schema import FLOATS, INTEGER, TEXT, TEXTS, study_schema
from icl_lens.section import Section
from icl_lens.studies.cost import Cost
from icl_lens.studies.item import Item
from icl_lens.studies.study import Keys, Study

SCHEMA = study_schema(
    "isolated_words",
    {
        "gold": INTEGER,
        "side": TEXT,
        "layers": INTEGER,
        "prediction": INTEGER,
        "top_tokens": TEXTS,
        "top_log_probs": FLOATS,
    },
    keys=("side", "layers"),
)


class Settings(Section):
    """Settings of the isolation of label words, and the number of words that are kept."""

    layers: int | None = Field(
        default=None,
        ge=1,
        description="The number k of first and of last layers. Empty: 5, or a fifth of the depth rounded up below 14 layers.",
    )
    blocking: Literal["before_softmax", "after_softmax"] = Field(
        default="before_softmax", description="As in `studies.isolation`."
    )
    words: int = Field(default=10, ge=1, description="How many of the likeliest next tokens are kept.")


STUDY = Study(
    package=__package__,
    help="the likeliest next tokens with label words isolated, for one prompt a class",
    schema=SCHEMA,
    cost=Cost(passes=0),  # a few prompts
    settings=Keys("isolated_words", Settings, "How label words are isolated in Table 5."),
    items=(
        Item(
            name="table_5",
            title="Why word loyalty: predicted label and likeliest next tokens with label words isolated",
            notebook="anchors/table_5",
            set="shared-1shot",
            studies=("isolated_words",),
            tasks=("agnews",),
        ),
    ),
)
