"""Declaration of the study ``isolation``. Its settings are in :mod:`icl_lens.studies.anchors.isolating`."""

from __future__ import annotations

from icl_lens.artifacts.schema import FLAG, FLOAT, INTEGER, TEXT, study_schema
from icl_lens.studies.anchors import isolation_cost
from icl_lens.studies.anchors.isolating import Settings
from icl_lens.studies.cost import Cost
from icl_lens.studies.item import Item
from icl_lens.studies.study import Keys, Study

SCHEMA = study_schema(
    "isolation",
    {
        "target": TEXT,
        "side": TEXT,
        "layers": INTEGER,
        "draw": INTEGER,
        "order": INTEGER,
        "prediction": INTEGER,
        "label_agrees": FLAG,
        "word_jaccard_5": FLOAT,
        "word_jaccard_10": FLOAT,
    },
    keys=("target", "side", "layers", "draw"),
    every_prompt=True,
)

STUDY = Study(
    package=__package__,
    help="predictions with isolated label words or other tokens, which cannot attend to the text before them",
    schema=SCHEMA,
    cost=Cost(passes=1, work=lambda job: isolation_cost.work(job, job.settings), kept="states", vocabulary=True),
    settings=Keys("isolation", Settings, "Isolation of label words or other tokens from the text before them."),
    needs_gold=False,
    shards="prefix",
    walked=True,
    labels=("whole", "last", "all"),
    items=(
        Item(
            name="figure_4",
            title="Label loyalty and word loyalty when label words, or the same number of random tokens, are isolated in "
            "the first or last layers, one demonstration per class",
            notebook="anchors/figure_4",
            set="shared-1shot",
            studies=("isolation", "icl"),
            paper_models="GPT2-XL and GPT-J",
        ),
        Item(
            name="figure_8",
            title="Label loyalty and word loyalty by the number of isolated layers, one demonstration per class",
            notebook="anchors/figure_8",
            set="shared-1shot",
            studies=("isolation", "icl"),
            paper_models="GPT2-XL and GPT-J",
        ),
        Item(
            name="figure_10",
            title="Label loyalty and word loyalty by the number of isolated layers, two demonstrations per class",
            notebook="anchors/figure_8",
            set="shared-2shot",
            studies=("isolation", "icl"),
            paper_models="GPT2-XL and GPT-J",
        ),
        Item(
            name="figure_12",
            title="Label loyalty and word loyalty under isolation with meaningless labels (A and B), eight demonstrations "
            "per class",
            notebook="anchors/figure_4",
            set="shared-8shot",
            studies=("isolation", "icl"),
            tasks=("sst2_ab",),
            paper_models="LLaMA-33B",
        ),
    ),
)
