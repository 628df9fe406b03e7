"""Declaration of the study ``ch_edge_cuts``: its settings, the ranges of layers in which edges are cut, and its cost."""

from __future__ import annotations

from typing import NamedTuple

from pydantic import Field

from icl_lens.artifacts.schema import FLAG, FLOAT, INTEGER, TEXT, study_schema
from icl_lens.section import Section
from icl_lens.studies.cost import Cost, Job, Work, one_pass
from icl_lens.studies.item import Item
from icl_lens.studies.study import Keys, Study

UNCUT = "none"
"""Rows, columns, layers and variant of the run without a cut."""

VARIANTS = ("set", "random", "mass")
"""The cut of a set of edges, and its two controls: as many random edges, and random edges with the same attention."""


class Settings(Section):
    """Settings of the study."""

    queries: int = Field(default=3, ge=1, description="Number of prompts per seed (the first ones); all if there are fewer.")
    window_queries: int = Field(
        default=1,
        ge=0,
        description="Number of prompts per seed for which the edges of query, label and demonstration rows are also cut in "
        "windows of layers. The edges of the last position are cut in windows for all prompts, because this costs less.",
    )
    draws: int = Field(default=5, ge=1, description="Number of draws of the random control.")
    tolerance: float = Field(
        default=0.05,
        gt=0,
        lt=1,
        description="Maximum relative difference in attention between a set of edges and its mass-matched control.",
    )
    seed: int = Field(default=0, ge=0, description="Seed of the controls.")


class Span(NamedTuple):
    """A range of layers, from ``start`` to ``stop`` - 1."""

    name: str
    start: int
    stop: int


def spans(layers: int) -> list[Span]:
    """Return the ranges of layers in which edges are cut: all layers, the two halves, and windows.

    A window has a third of the layers, rounded to the nearest integer. Consecutive windows are half a window apart, and the
    last one ends at the last layer.

    Args:
        layers: Number of layers of the model.
    """
    size = max(1, round(layers / 3))
    last = layers - size
    starts = sorted({*range(0, last + 1, max(1, size // 2)), last})
    half = layers // 2
    found = [Span("all", 0, layers), Span("first half", 0, half), Span("second half", half, layers)]
    return [span for span in found if span.stop > span.start] + [Span("window", start, start + size) for start in starts]


SCHEMA = study_schema(
    "ch_edge_cuts",
    {
        "rows": TEXT,
        "columns": TEXT,
        "span": TEXT,
        "start": INTEGER,
        "stop": INTEGER,
        "variant": TEXT,
        "draw": INTEGER,
        "valid": FLAG,
        "gold": INTEGER,
        "prediction": INTEGER,
        "label_agrees": FLAG,
        "word_jaccard_5": FLOAT,
        "margin": FLOAT,
        "effect": FLOAT,
        "own_effect": FLOAT,
        "edges": INTEGER,
        "cut_tokens": INTEGER,
        "tokens": INTEGER,
        "mass": FLOAT,
    },
    keys=("rows", "columns", "span", "start", "variant", "draw"),
)


def _work(job: Job) -> Work:
    """Estimate the passes of all cuts. A cut starts at its lowest layer, and reads only the positions from its rows on."""
    settings, depth = job.settings, job.layers
    variants = len(VARIANTS) - 1 + settings.draws
    all_prompts = job.seeds * min(job.queries, settings.queries)
    window_prompts = job.seeds * min(job.queries, settings.queries, settings.window_queries)
    total = one_pass(job, all_prompts).times(2)
    for span in spans(depth):
        share = (depth - span.start) / depth
        windowed = span.name == "window"
        for rows, number in (("last", 7), ("query", 7), ("prefix", 3)):
            prompts = window_prompts if windowed and rows != "last" else all_prompts
            passes = number * variants * share
            if rows == "last":
                once = Work(prompts, prompts, prompts * (job.query + job.demonstrations), prompts)
            else:
                once = one_pass(job, prompts, None if rows == "prefix" else 0)
            total += once.times(passes)._replace(prompts=0, rows=prompts * number * variants)
    return total


STUDY = Study(
    package=__package__,
    help="predictions without the attention edges to a class of tokens, compared with as many and with as strong random edges",
    schema=SCHEMA,
    cost=Cost(passes=1, work=_work, kept="states", vocabulary=True),
    settings=Keys("ch_edge_cuts", Settings, "Cuts of the attention edges to classes of tokens, with matched random controls."),
    inputs="prepare",
    shards="prefix",
    labels=("whole", "last", "all"),
    items=(
        Item(
            name="ch_figure_cuts",
            title="Loss of margins and accuracy without the attention to a class of tokens, one demonstration per class",
            notebook="challenges/ch_edge_cuts",
            set="shared-1shot",
            studies=("ch_edge_cuts",),
        ),
        Item(
            name="ch_figure_cut_layers",
            title="Loss of gold margin without the attention to a class of tokens in a third of the layers, one demonstration "
            "per class",
            notebook="challenges/ch_edge_cut_layers",
            set="shared-1shot",
            studies=("ch_edge_cuts",),
        ),
        Item(
            name="ch_table_cuts",
            title="Accuracy, balanced accuracy, loyalties and gold margin without the attention to a class of tokens, one "
            "demonstration per class",
            notebook="challenges/ch_table_cuts",
            set="shared-1shot",
            studies=("ch_edge_cuts",),
        ),
    ),
)
