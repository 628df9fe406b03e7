"""Settings of isolation: which positions are isolated, in which layers, and how often.

*Label Words are Anchors*, section 2.2 and appendix D. The settings belong to :mod:`icl_lens.studies.anchors.isolation`; other
studies also use them. This module does not import torch.
"""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple, get_args

from pydantic import Field

from icl_lens.errors import InputError
from icl_lens.section import Section

Target = Literal["label", "random", "newline", "template"]
TARGETS: tuple[Target, ...] = get_args(Target)
Scope = Literal["prompt", "demonstrations"]

SIDES = ("first", "last")

# Numbers of most likely tokens that word loyalty compares, in the paper and in the released notebook.
WORDS = (5, 10)

# Minimum depth at which the paper's numbers of layers are used unchanged.
_DEEP = 14


class Settings(Section):
    """Settings of isolation: positions, layers and method."""

    targets: list[Target] = Field(
        default=["label", "random"],
        min_length=1,
        description="What is cut off from the text before it: the label words (label); as many random other tokens (random, "
        "the paper's control); the newline after each label word (newline); the template's last token before it (template).",
    )
    layers: list[Annotated[int, Field(ge=1)]] | None = Field(
        default=None,
        min_length=1,
        description="Numbers k of first and of last layers. Empty: 1, 3, 5 and 7 in models of 14 layers or more, below that "
        "every k from 1 to half the depth, and a fifth of the depth rounded up (Figure 4).",
    )
    blocking: Literal["before_softmax", "after_softmax"] = Field(
        default="before_softmax",
        description="before_softmax: scores are blocked, so that an isolated token attends to itself alone (released code). "
        "after_softmax: weights are set to 0 and the row is not renormalised (the paper's sentence).",
    )
    random_scope: Scope = Field(
        default="prompt",
        description="Where random tokens come from. prompt: anywhere but the last two positions, template and query included "
        "(released code). demonstrations: before the last label word.",
    )
    draws: int = Field(default=2, ge=1, description="Draws of the random tokens, each held through all layers, sides and k.")


class Condition(NamedTuple):
    """One isolation condition."""

    target: Target
    draw: int
    side: str
    layers: int


def main_layers(depth: int) -> int:
    """Return Figure 4's k for a model of ``depth`` layers: 5, or a fifth of the depth, rounded up, below 14 layers."""
    return 5 if depth >= _DEEP else -(-depth // 5)


def layer_counts(depth: int) -> list[int]:
    """Return all values of k for Figures 4 and 8, ascending."""
    swept = {1, 3, 5, 7} if depth >= _DEEP else set(range(1, depth // 2 + 1))
    return sorted(swept | {main_layers(depth)})


def conditions(settings: Settings, depth: int) -> list[Condition]:
    """Return all conditions, in the order of the rows.

    Raises:
        InputError: The settings request more layers than the model has.
    """
    counts = layer_counts(depth) if settings.layers is None else sorted(set(settings.layers))
    if counts[-1] > depth:
        raise InputError(f"isolation in {counts[-1]} layers is asked for (layers), but the model has {depth}")
    return [
        Condition(target, draw, side, k)
        for target in TARGETS
        if target in settings.targets
        for draw in range(settings.draws if target == "random" else 1)
        for side in SIDES
        for k in counts
    ]
