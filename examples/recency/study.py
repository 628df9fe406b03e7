"""Settings and declaration of the recency study: attention of the last position to demonstrations, by their place."""

from __future__ import annotations

from pydantic import Field

from icl_lens.artifacts.schema import FLOAT, INTEGER, study_schema
from icl_lens.section import Section
from icl_lens.studies.cost import Cost
from icl_lens.studies.item import Item
from icl_lens.studies.study import Keys, Study


class Settings(Section):
    """Settings of the recency study."""

    first_token: bool = Field(
        default=False,
        description="Whether the first token of the prompt belongs to the first demonstration. By default it does not, because "
        "many models attend to the first token regardless of its content.",
    )


SCHEMA = study_schema(
    "recency",
    {
        "layer": INTEGER,
        "place": INTEGER,
        "attention": FLOAT,
        "tokens": INTEGER,
    },
    keys=("layer", "place"),
    every_prompt=True,
)

STUDY = Study(
    package=__package__,
    help="attention of the last position to each demonstration, by its place in the prompt",
    schema=SCHEMA,
    cost=Cost(passes=1),
    settings=Keys("recency", Settings, "Attention to the demonstrations by their place in the prompt."),
    items=(
        Item(
            name="figure_recency",
            title="Attention of the last position to each demonstration by its place in the prompt, in each layer, "
            "four demonstrations per class",
            notebook="recency",
            set="fresh-4shot",
            studies=("recency", "icl"),
        ),
    ),
)
