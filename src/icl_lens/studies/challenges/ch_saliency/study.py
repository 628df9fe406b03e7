"""Settings and declaration of the study ``ch_saliency``: attributions to attention edges against the effect of cutting them."""

from __future__ import annotations

from pydantic import Field

from icl_lens.artifacts.schema import FLAG, FLOAT, FLOATS, INTEGER, TEXT, study_schema
from icl_lens.section import Section, Seed
from icl_lens.studies.challenges.ch_saliency.names import EDGES
from icl_lens.studies.cost import Cost, Job, Work, one_pass
from icl_lens.studies.item import Item
from icl_lens.studies.study import Keys, Study

SCHEMA = study_schema(
    "ch_saliency",
    {
        "layer": INTEGER,
        "edges": TEXT,
        "control": FLAG,
        "answer": TEXT,
        "quantity": TEXT,
        "count": INTEGER,
        "before": FLOAT,
        "attention": FLOAT,
        "value_zeroing": FLOAT,
        "abs_of_sum": FLOAT,
        "sum_of_abs": FLOAT,
        "largest_head": FLOAT,
        "signed": FLOAT,
        "ig": FLOAT,
        "truth_post": FLOAT,
        "truth_pre": FLOAT,
        "heads": FLOATS,
        "heads_michel": FLOATS,
        "heads_signed": FLOATS,
        "heads_ig": FLOATS,
        "heads_truth": FLOATS,
    },
    keys=("layer", "edges", "control", "answer", "quantity"),
)


class Settings(Section):
    """Settings of the comparison of attributions with the effects of cuts."""

    queries: int = Field(default=1, ge=1, description="Number of prompts per seed (the first ones).")
    steps: int = Field(
        default=32, ge=1, description="Number of points (midpoints of equal parts) of the integral of integrated gradients."
    )
    random: bool = Field(
        default=True,
        description="Whether as many random edges as each class has are also attributed and cut, as a control.",
    )
    seed: Seed = Field(default=0, description="Seed of the random edges.")


def _work(job: Job) -> Work:
    """Estimate the passes: gradients, cuts and zeroed values.

    A pass that starts at a random layer runs half of the layers. The cuts in the rows of the query or of the last position read
    only these tokens, and half of the other classes of edges have a random counterpart.
    """
    settings, length = job.settings, job.query + job.demonstrations
    half = (job.layers + 1) / 2
    gradients = (job.layers - 1) * (settings.steps + 1)  # the last layer computes one row
    of_query, of_others = (sum(name.startswith("query") is query for name in EDGES) for query in (True, False))
    factor = 1.75 if settings.random else 1.0
    cuts = 2 * half * (factor * of_query * job.query / length + of_others / 2 * factor)
    zeroed = length / 2
    return one_pass(job, job.seeds * min(job.queries, settings.queries)).times(1 + gradients + cuts + zeroed)


STUDY = Study(
    package=__package__,
    help="attributions of the loss to attention edges, against the effect of cutting the edges",
    schema=SCHEMA,
    cost=Cost(passes=1, work=_work, kept="graph"),
    settings=Keys(
        "ch_saliency",
        Settings,
        "Attributions of the loss to attention edges (saliency, integrated gradients, value zeroing) against the effect of "
        "cutting them.",
    ),
    inputs="prepare",
    labels=("whole", "last", "all"),
    shards="length",
    items=(
        Item(
            name="ch_figure_saliency",
            title="Rank correlation of attributions with the effect of cutting the same attention edges",
            notebook="challenges/ch_figure_saliency",
            set="fresh-1shot",
            studies=("ch_saliency", "icl"),
        ),
        Item(
            name="ch_figure_saliency_cells",
            title="Attributions and effects of cuts of each class of attention edges in each layer",
            notebook="challenges/ch_figure_saliency_cells",
            set="fresh-1shot",
            studies=("ch_saliency", "icl"),
        ),
        Item(
            name="ch_figure_saliency_forecast",
            title="Forecasts of the effect of cutting attention edges, and completeness of integrated gradients",
            notebook="challenges/ch_figure_saliency_forecast",
            set="fresh-1shot",
            studies=("ch_saliency", "icl"),
        ),
    ),
)
