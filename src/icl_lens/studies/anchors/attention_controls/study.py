"""Declaration of the study ``attention_controls``: deep attention with controls."""

from __future__ import annotations

from icl_lens.artifacts.schema import FLOAT, INTEGER, TEXT, study_schema
from icl_lens.studies.anchors.control_settings import CONTROLS, KEYS
from icl_lens.studies.cost import Cost
from icl_lens.studies.study import Study

SCHEMA = study_schema(
    "attention_controls",
    {
        "control": TEXT,
        "gold": INTEGER,
        "prediction": INTEGER,
        "layer": INTEGER,
        "class": INTEGER,
        "attention": FLOAT,
    },
    keys=("control", "layer", "class"),
)

STUDY = Study(
    package=__package__,
    help="deep attention and predictions with shuffled labels and with an untrained copy of the model",
    schema=SCHEMA,
    # Attention and predictions of each control.
    cost=Cost(passes=2 * len(CONTROLS), queries=lambda settings: settings.queries, models=2),
    settings=KEYS,
    inputs="prepare",
    needs_gold=False,
    gold_columns=("gold",),
    shards="prefix",
    labels=("whole", "last", "all"),
)
