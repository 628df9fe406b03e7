"""Settings and declaration of the study ``isolated_words`` (Table 5)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from icl_lens.artifacts.schema import FLOATS, INTEGER, TEXT, TEXTS, study_schema
from icl_lens.section import Section
from icl_lens.studies.cost import Cost, Job, Work, one_pass
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
        description="Number k of first layers and of last layers. Empty: 5, or a fifth of the depth, rounded up, in models "
        "with fewer than 14 layers.",
    )
    blocking: Literal["before_softmax", "after_softmax"] = Field(
        default="before_softmax", description="See `studies.isolation.blocking`."
    )
    words: int = Field(default=10, ge=1, description="Number of most probable next tokens to store.")


def _work(job: Job) -> Work:
    """Estimate the prediction of all prompts, one by one, which is needed if no prompt of some class is predicted correctly."""
    return one_pass(job._replace(fresh=True), job.seeds * job.queries)


STUDY = Study(
    package=__package__,
    help="the most probable next tokens with isolated label words, for one prompt per class",
    schema=SCHEMA,
    cost=Cost(passes=1, work=_work, vocabulary=True),
    settings=Keys("isolated_words", Settings, "Isolation of label words in Table 5."),
    labels=("whole", "last", "all"),
    items=(
        Item(
            name="table_5",
            title="Predicted label and most probable next tokens with isolated label words: the reason for word loyalty",
            notebook="anchors/table_5",
            set="shared-1shot",
            studies=("isolated_words",),
            tasks=("agnews",),
        ),
    ),
)
