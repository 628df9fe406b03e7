"""Declaration of the study ``tokens``: the tokens of each prompt."""

from __future__ import annotations

from icl_lens.artifacts.schema import FLAG, INTEGER, TEXT, study_schema
from icl_lens.studies.cost import Cost
from icl_lens.studies.study import Study

SCHEMA = study_schema(
    "tokens",
    {
        "position": INTEGER,
        "token": TEXT,
        "start": INTEGER,
        "end": INTEGER,
        "class": INTEGER,
        "last": FLAG,
    },
    keys=("position", "class"),
)

STUDY = Study(
    package=__package__,
    help="the tokens of each prompt, their positions, and which of them are label words",
    schema=SCHEMA,
    cost=Cost(passes=0),  # the study does not run the model
    needs_gold=False,
    walked=True,
    labels=("whole", "last", "all"),
)
