"""Settings and declaration of the study ``flow``: which prompts, and which edges of them, are kept."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from icl_lens.artifacts.schema import FLOAT, INTEGER, study_schema
from icl_lens.section import Section
from icl_lens.studies.cost import Cost
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

    seeds: int = Field(default=5, ge=1, description="The first so many seeds have prompts in it.")
    prompts: int = Field(default=5, ge=1, description="The first so many prompts of each.")
    prompt_ids: PromptIds | None = Field(
        default=None, min_length=1, description="Instead of these: the prompts of these prompt_id."
    )
    also: PromptIds = Field(
        default=[],
        description="Besides: the prompts of these prompt_id. Those that items.figure_1.prompt and items.figure_2.prompt name "
        "are added by themselves.",
    )
    least: float = Field(
        default=0.001,
        ge=0,
        lt=1,
        description="Edges below this share of the layer's largest are left out; 0 keeps all along which anything flows.",
    )
    least_attention: float = Field(
        default=0.05, gt=0, description="Edges with at least this attention weight, mean over heads, are kept all the same."
    )


STUDY = Study(
    package=__package__,
    help="the information flow of a few prompts along every edge",
    schema=SCHEMA,
    cost=Cost(passes=0),  # a few prompts
    settings=Keys("flow", Settings, "Whose information flow is kept along every edge, for Figures 1 and 2 to draw."),
    walked=True,
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
            title="Both hypotheses on one prompt: label words gather information in shallow layers and give it in deep ones",
            notebook="anchors/figure_2",
            set="fresh-1shot",
            studies=("flow", "tokens", "icl"),
            tasks=("sst2",),
            one_prompt=True,
        ),
    ),
)
