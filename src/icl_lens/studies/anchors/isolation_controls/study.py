"""Declaration of the study ``isolation_controls``: isolation with controls."""

from __future__ import annotations

from icl_lens.artifacts.schema import FLAG, FLOAT, INTEGER, TEXT, study_schema
from icl_lens.studies.anchors import isolation_cost
from icl_lens.studies.anchors.control_settings import CONTROLS, KEYS, isolation
from icl_lens.studies.cost import Cost, Job, Work
from icl_lens.studies.item import Item
from icl_lens.studies.study import Study

SCHEMA = study_schema(
    "isolation_controls",
    {
        "control": TEXT,
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
    keys=("control", "target", "side", "layers", "draw"),
)


def _work(job: Job) -> Work:
    """Estimate the isolation of the prompts of each control."""
    shortened = job._replace(queries=min(job.queries, job.settings.queries))
    return isolation_cost.work(shortened, isolation(job.settings, job.layers)).times(len(CONTROLS))


STUDY = Study(
    package=__package__,
    help="isolation with shuffled labels and with an untrained copy of the model",
    schema=SCHEMA,
    cost=Cost(passes=len(CONTROLS), work=_work, kept="states", vocabulary=True, models=2),
    settings=KEYS,
    inputs="prepare",
    needs_gold=False,
    shards="prefix",
    labels=("whole", "last", "all"),
    items=(
        Item(
            name="figure_controls",
            title="Isolation and deep attention with the original model and labels, with shuffled labels, and with an "
            "untrained copy of the model, one demonstration per class",
            notebook="anchors/figure_controls",
            set="shared-1shot",
            studies=("isolation_controls", "attention_controls"),
            # Only the tasks with the fewest and the most classes: each task costs two jobs, and the paper has no such figure.
            tasks=("sst2", "trec"),
        ),
    ),
)
