"""Settings and declaration of the study ``flow``: which prompts, and which edges of them, are kept."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from icl_lens.artifacts.schema import FLOAT, INTEGER, study_schema
from icl_lens.section import Section
from icl_lens.studies.cost import Cost, Job, Work, one_pass
from icl_lens.studies.item import Item
from icl_lens.studies.study import Keys, Study

SCHEMA = study_schema(
    "flow",
    {
        "layer": INTEGER,
        "query": INTEGER,
        "key": INTEGER,
        "saliency": FLOAT,
        "attention": FLOAT,
        "layer_total": FLOAT,
        "s_wp": FLOAT,
        "s_pq": FLOAT,
        "s_ww": FLOAT,
    },
    keys=("layer", "query", "key"),
    version=2,
)

PromptIds = list[Annotated[int, Field(ge=0)]]


class Settings(Section):
    """Settings of the information flow: which prompts and which edges are kept."""

    seeds: int = Field(default=5, ge=1, description="Number of seeds (the first ones) from which prompts are taken.")
    prompts: int = Field(default=5, ge=1, description="Number of prompts per seed (the first ones).")
    prompt_ids: PromptIds | None = Field(
        default=None, min_length=1, description="The prompt_id of each prompt to include, instead of `seeds` and `prompts`."
    )
    also: PromptIds = Field(
        default=[],
        description="The prompt_id of additional prompts to include. The prompts in items.figure_1.prompt and "
        "items.figure_2.prompt are added automatically.",
    )
    least: float = Field(
        default=0.001,
        ge=0,
        lt=1,
        description="Edges with less flow than this share of the layer's largest are omitted; 0 keeps all edges with a "
        "nonzero flow.",
    )
    least_attention: float = Field(
        default=0.05, gt=0, description="Edges with at least this attention weight (mean over heads) are always kept."
    )


def _work(job: Job) -> Work:
    """Estimate a forward and a backward pass over the selected prompts."""
    settings = job.settings
    selected = len(settings.prompt_ids or ()) or min(settings.seeds, job.seeds) * min(settings.prompts, job.queries)
    return one_pass(job, selected + len(settings.also)).times(2)


STUDY = Study(
    package=__package__,
    help="information flow along each edge, for a few prompts",
    schema=SCHEMA,
    cost=Cost(passes=2, work=_work, attention=1.4, kept="graph"),
    settings=Keys("flow", Settings, "Prompts and edges for which the information flow is stored (Figures 1 and 2)."),
    walked=True,
    labels=("whole", "last", "all"),
    items=(
        Item(
            name="figure_1",
            title="Information flow in one prompt, in a shallow and in a deep layer",
            notebook="anchors/figure_1",
            set="fresh-1shot",
            studies=("flow", "tokens", "icl"),
            tasks=("sst2",),
            one_prompt=True,
        ),
        Item(
            name="figure_2",
            title="Both hypotheses on one prompt: label words collect information in shallow layers and pass it on in deep "
            "layers",
            notebook="anchors/figure_2",
            set="fresh-1shot",
            studies=("flow", "tokens", "icl"),
            tasks=("sst2",),
            one_prompt=True,
        ),
    ),
)
