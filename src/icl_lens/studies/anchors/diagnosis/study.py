"""Settings and declaration of the study ``diagnosis``.

*Label Words are Anchors*, section 3.3 and appendix J, Figures 6 and 14.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from icl_lens.artifacts.schema import FLOAT, INTEGER, TEXT, study_schema
from icl_lens.section import Section
from icl_lens.studies.cost import Cost, Job, Work, one_pass
from icl_lens.studies.item import Item
from icl_lens.studies.study import Further, Keys, Study


class Settings(Section):
    """Settings of the error diagnosis: layer of the queries and keys, and number of principal directions."""

    layer: int | None = Field(
        default=None,
        ge=0,
        description="Layer of the query and key vectors, counted from 0. Empty: two thirds of the depth, as in the "
        "released notebook (layer 32 in a model of 48 layers).",
    )
    directions: int = Field(
        default=10, ge=1, description="Number of principal directions of the queries in Figure 6 (M; 10 in the paper)."
    )
    sweep: list[Annotated[int, Field(ge=1)]] = Field(
        default=[5, 10, 20, 50, 100, 200],
        min_length=1,
        description="Values of M in Figure 14. A value above the number of directions (the number of queries per seed "
        "minus 1, or the width) means all directions.",
    )


def main_layer(depth: int) -> int:
    """Return the default layer of a model with ``depth`` layers, for example 32 for the 48 layers of GPT2-XL."""
    return 2 * depth // 3


def counts(settings: Settings) -> list[int]:
    """Return all values of M for Figures 6 and 14, ascending."""
    return sorted({settings.directions, *settings.sweep})


SCHEMA = study_schema(
    "diagnosis",
    {
        "keys": TEXT,
        "sets": INTEGER,
        "layer": INTEGER,
        "components": INTEGER,
        "components_there": INTEGER,
        "class_i": INTEGER,
        "class_j": INTEGER,
        "predicted_confusion": FLOAT,
    },
    keys=("keys", "layer", "components", "class_i", "class_j"),
)


def _work(job: Job) -> Work:
    """Estimate one pass per query, each with its own demonstrations, through the layers up to the studied layer."""
    return one_pass(job._replace(fresh=True), job.seeds * job.queries).times((main_layer(job.layers) + 1) / job.layers)


def _shortage(settings: Settings, seeds: int, prompts: int) -> str:
    if prompts >= 2:
        return ""
    return f"error diagnosis requires at least 2 prompts per seed, got {prompts}; increase queries, or add test texts"


STUDY = Study(
    package=__package__,
    help="class confusion predicted from the keys of the label words",
    schema=SCHEMA,
    cost=Cost(passes=1, work=_work),
    settings=Keys("diagnosis", Settings, "Class confusion predicted from the keys of the label words."),
    further=(
        Further(
            "pooled",
            "a prompts table of the same queries with varying demonstrations (pooled-1shot)",
            "pooled-1shot",
        ),
    ),
    inputs="prepare",
    needs_gold=False,
    shortage=_shortage,
    labels=("whole", "last", "all"),
    items=(
        Item(
            name="figure_6",
            title="Class confusion predicted from the keys of the label words, and the real confusion",
            notebook="anchors/figure_6",
            set="ordered-1shot",
            studies=("diagnosis", "icl"),
            tasks=("trec",),
            paper_models="GPT2-XL",
        ),
        Item(
            name="figure_14",
            title="Class confusion predicted from different numbers of principal directions of the queries",
            notebook="anchors/figure_14",
            set="ordered-1shot",
            studies=("diagnosis", "icl"),
            tasks=("trec",),
            paper_models="GPT2-XL",
        ),
    ),
)
