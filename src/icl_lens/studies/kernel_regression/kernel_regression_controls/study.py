"""The study kernel_regression_controls: kernel regression with permuted inputs, flipped labels or reordered demonstrations.

*In-context learning as kernel regression* (Han et al., TMLR 2025); the paper does not include these controls.
"""

from __future__ import annotations

from icl_lens.artifacts.schema import INTEGER, INTEGERS, SINGLES, TEXT, study_schema
from icl_lens.studies.cost import Cost
from icl_lens.studies.item import Item
from icl_lens.studies.kernel_regression.keys import KEYS
from icl_lens.studies.study import Study

SCHEMA = study_schema(
    "kernel_regression_controls",
    {
        "control": TEXT,
        "draw": INTEGER,
        "layer": INTEGER,
        "head": INTEGER,
        "gold": INTEGER,
        "prediction": INTEGER,
        "demo_labels": INTEGERS,
        "max": SINGLES,
        "mean": SINGLES,
        "label": SINGLES,
    },
    keys=("control", "draw", "layer", "head"),
)

STUDY = Study(
    package=__package__,
    help="kernel regression with permuted inputs, flipped labels and reordered demonstrations",
    schema=SCHEMA,
    # The unchanged prompts, those with permuted inputs, those with flipped labels, and each further order.
    cost=Cost(passes=0, more=lambda job: 3 + job.settings.orders, queries=lambda settings: settings.control_queries),
    settings=KEYS,
    inputs="prepare",
    needs_gold=False,
    gold_columns=("gold",),
    shards="prefix",
    labels=("whole", "last", "all"),
    items=(
        Item(
            name="kr_figure_controls",
            title="Kernel regression with permuted inputs, with flipped labels, and with reordered demonstrations",
            notebook="kernel_regression/kr_figure_controls",
            set="fresh-4shot",
            studies=("kernel_regression", "kernel_regression_controls"),
            # The tasks with the fewest and the most classes. The paper has no such figure, and each task costs a job.
            tasks=("sst2", "trec"),
        ),
    ),
)
