"""Settings of isolation: the isolated positions, the isolated layers and the number of draws.

*Label Words are Anchors*, section 2.2 and appendix D. The settings belong to :mod:`icl_lens.studies.anchors.isolation`; other
studies also use them. This module does not import torch.
"""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple, get_args

from pydantic import Field

from icl_lens.errors import InputError
from icl_lens.models.isolated_layers import DEEP, main_layers
from icl_lens.section import Section

Target = Literal["label", "random", "newline", "template"]
TARGETS: tuple[Target, ...] = get_args(Target)
Scope = Literal["prompt", "demonstrations"]
Draw = Literal["order", "prompt"]

SIDES = ("first", "last")

# Numbers of most likely tokens that word loyalty compares, in the paper and in the released notebook.
WORDS = (5, 10)


class Settings(Section):
    """Settings of isolation: positions, layers and method."""

    targets: list[Target] = Field(
        default=["label", "random"],
        min_length=1,
        description="Positions that cannot attend to the text before them: the label words (label); the same number of "
        "random other tokens (random, the paper's control); the newline after each label word or, with `chat: turns`, the end "
        "of the assistant's turn (newline); the last template token before each label word (template).",
    )
    layers: list[Annotated[int, Field(ge=1)]] | None = Field(
        default=None,
        min_length=1,
        description="Numbers k of first layers and of last layers. Empty: 1, 3, 5 and 7 in models with at least 14 layers; "
        "in smaller models, each k from 1 to half the depth, and a fifth of the depth, rounded up (Figure 4).",
    )
    blocking: Literal["before_softmax", "after_softmax"] = Field(
        default="before_softmax",
        description="before_softmax: attention scores are masked, so that an isolated token attends only to itself "
        "(released code). after_softmax: attention weights are set to 0 and the row is not renormalized (the paper's text).",
    )
    random_scope: Scope = Field(
        default="prompt",
        description="Range of the random tokens. prompt: all positions except the last two, including the template and the "
        "query (released code). demonstrations: the positions before the last label word.",
    )
    draws: int = Field(
        default=2, ge=1, description="Number of draws of the random tokens. A draw is the same for all layers, sides and k."
    )
    draw: Draw = Field(
        default="order",
        description="order: each draw has several random orders of the tokens, and the prompts with the same order share the "
        "computation of their demonstrations. prompt: independent random tokens for each prompt, as in the released code; "
        "slower.",
    )
    orders: int = Field(
        default=10,
        ge=1,
        description="For draw: order, the number of random orders for each task, seed and draw. The prompts of a seed are "
        "divided evenly among them; the confidence interval over prompts resamples orders with their prompts.",
    )


class Condition(NamedTuple):
    """One isolation condition."""

    target: Target
    draw: int
    side: str
    layers: int


def layer_counts(depth: int) -> list[int]:
    """Return all values of k for Figures 4 and 8, ascending."""
    swept = {1, 3, 5, 7} if depth >= DEEP else set(range(1, depth // 2 + 1))
    return sorted(swept | {main_layers(depth)})


def conditions(settings: Settings, depth: int) -> list[Condition]:
    """Return all conditions, in the order of the rows.

    Raises:
        InputError: The settings request more layers than the model has.
    """
    counts = layer_counts(depth) if settings.layers is None else sorted(set(settings.layers))
    if counts[-1] > depth:
        raise InputError(
            f"studies.isolation.layers contains {counts[-1]}, but the model has only {depth} layers; use smaller numbers"
        )
    return [
        Condition(target, draw, side, k)
        for target in TARGETS
        if target in settings.targets
        for draw in range(settings.draws if target == "random" else 1)
        for side in SIDES
        for k in counts
    ]
