"""Settings shared by both studies with controls, which therefore use the same prompts and the same untrained copy.

The studies are :mod:`icl_lens.studies.anchors.isolation_controls` and :mod:`icl_lens.studies.anchors.attention_controls`. This
module does not import torch.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from icl_lens.section import Section, Seed
from icl_lens.studies.anchors import isolating
from icl_lens.studies.anchors.isolating import TARGETS, Draw, Scope, Target
from icl_lens.studies.study import Keys

Control = Literal["none", "shuffled", "untrained"]
CONTROLS: dict[Control, str] = {
    "none": "as it is",
    "shuffled": "labels shuffled",
    "untrained": "untrained copy",
}


class Settings(Section):
    """Settings of the controls: prompts, isolation and seed."""

    seed: Seed = Field(default=0, description="Seed of the untrained copy's weights and of the label shuffling.")
    queries: int = Field(default=20, ge=1, description="Number of prompts per seed (the first ones); all if there are fewer.")
    targets: list[Target] = Field(
        default=list(TARGETS),
        min_length=1,
        description="See `studies.isolation.targets`. By default all four; for a template without a newline, or without a "
        "token before its label word, use a shorter list.",
    )
    blocking: Literal["before_softmax", "after_softmax"] = Field(
        default="before_softmax", description="See `studies.isolation.blocking`."
    )
    random_scope: Scope = Field(default="prompt", description="See `studies.isolation.random_scope`.")
    draws: int = Field(default=1, ge=1, description="See `studies.isolation.draws`.")
    draw: Draw = Field(default="order", description="See `studies.isolation.draw`.")
    orders: int = Field(default=10, ge=1, description="See `studies.isolation.orders`.")


KEYS = Keys(
    "controls",
    Settings,
    "Isolation and deep attention with shuffled labels and with an untrained copy of the model.",
)


def isolation(settings: Settings, depth: int) -> isolating.Settings:
    """Return the isolation settings for a model of ``depth`` layers, with only Figure 4's number of layers."""
    shared = settings.model_dump(include={"targets", "blocking", "random_scope", "draws", "draw", "orders"})
    return isolating.Settings(layers=[isolating.main_layers(depth)], **shared)
