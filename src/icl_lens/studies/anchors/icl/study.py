"""Declaration of the study ``icl``: the model's prediction for each prompt."""

from __future__ import annotations

from icl_lens.artifacts.schema import FLOATS, INTEGER, INTEGERS, study_schema
from icl_lens.studies.cost import Cost
from icl_lens.studies.study import Study

SCHEMA = study_schema(
    "icl",
    {
        "gold": INTEGER,
        "prediction": INTEGER,
        "class_log_probs": FLOATS,
        "top_tokens": INTEGERS,
    },
    every_prompt=True,
)

STUDY = Study(
    package=__package__,
    help="the model's prediction for each prompt",
    schema=SCHEMA,
    cost=Cost(passes=1, vocabulary=True),
    needs_gold=False,
    gold_columns=("gold",),
    shards="prefix",
    walked=True,
    labels=("whole", "last", "all"),
)
