"""The study prediction_similarity: how similar the next-token predictions for the query's and each demonstration's text are.

*In-context learning as kernel regression* (Han et al., TMLR 2025), eq. 9 and Figure 4.
"""

from __future__ import annotations

from icl_lens.artifacts.schema import FLOATS, INTEGER, INTEGERS, study_schema
from icl_lens.studies.cost import Cost
from icl_lens.studies.item import Item
from icl_lens.studies.study import Study

SCHEMA = study_schema(
    "prediction_similarity",
    {"similarity": FLOATS, "query_token": INTEGER, "demo_tokens": INTEGERS},
    every_prompt=True,
)

STUDY = Study(
    package=__package__,
    help="similarity of the next-token predictions for the query's text and for each demonstration's text",
    schema=SCHEMA,
    cost=Cost(passes=1),
    needs_gold=False,
    labels=("whole", "last", "all"),
    items=(
        Item(
            name="kr_figure_4",
            title="Correlation between the attention to a demonstration and the similarity of the next-token predictions "
            "for its text and for the query's text, by head",
            notebook="kernel_regression/kr_figure_4",
            set="fresh-4shot",
            studies=("kernel_regression", "prediction_similarity"),
            tasks=("sst2",),
            paper_models="GPT-J",
        ),
    ),
)
