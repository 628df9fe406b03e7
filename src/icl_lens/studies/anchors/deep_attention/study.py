"""Declaration of the study ``deep_attention``: attention of the last position to label words."""

from __future__ import annotations

from icl_lens.artifacts.schema import FLOAT, INTEGER, study_schema
from icl_lens.studies.cost import Cost
from icl_lens.studies.item import Item
from icl_lens.studies.study import Study

SCHEMA = study_schema(
    "deep_attention",
    {
        "layer": INTEGER,
        "class": INTEGER,
        "attention": FLOAT,
    },
    keys=("layer", "class"),
    every_prompt=True,
)

STUDY = Study(
    package=__package__,
    help="attention of the last position to the label words of each class, in each layer",
    schema=SCHEMA,
    cost=Cost(passes=1),
    needs_gold=False,
    shards="prefix",
    labels=("whole", "last", "all"),
    items=(
        Item(
            name="figure_5",
            title="How well attention to the label words predicts the model's output in each layer, one demonstration per "
            "class",
            notebook="anchors/figure_5",
            set="shared-1shot",
            studies=("deep_attention", "icl"),
            paper_models="GPT2-XL and GPT-J",
        ),
        Item(
            name="figure_11",
            title="How well attention to the label words predicts the model's output in each layer, two demonstrations per "
            "class",
            notebook="anchors/figure_5",
            set="shared-2shot",
            studies=("deep_attention", "icl"),
            paper_models="GPT2-XL and GPT-J",
        ),
        Item(
            name="figure_13",
            title="How well attention to meaningless labels (A and B) predicts the model's output in each layer, eight "
            "demonstrations per class",
            notebook="anchors/figure_5",
            set="shared-8shot",
            studies=("deep_attention", "icl"),
            tasks=("sst2_ab",),
            paper_models="LLaMA-33B",
        ),
    ),
)
