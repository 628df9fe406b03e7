"""What a study of compressed demonstrations does: by which methods, how often drawn; its settings, free of torch.

*Label Words are Anchors*, section 3.2 (Tables 2, 3 and 6). :mod:`icl_lens.studies.compression` and
:mod:`icl_lens.studies.latency` do it; the config and the tables read this alone.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

from pydantic import Field

from icl_lens.section import Section

Method = Literal["full", "text_anchor", "hidden_random", "hidden_anchor"]
METHODS: tuple[Method, ...] = get_args(Method)
Positions = Literal["continued", "restarted"]
POSITIONS: tuple[Positions, ...] = get_args(Positions)

# The uncompressed run, which every method is compared with, and Text_anchor have positions of their own accord.
OWN = "own"

# Word loyalty compares the sets of so many likeliest tokens.
WORDS = 5


class Settings(Section):
    """How demonstrations are compressed."""

    positions: list[Positions] = Field(
        default=["continued"],
        min_length=1,
        description="Where a query's positions go on behind kept keys and values: where the demonstrations end (continued), or "
        "at 0 (restarted, as the released compress.py does for GPT2-XL). Table 2 shows all that are named.",
    )
    draws: int = Field(
        default=5, ge=1, description="Draws of Hidden_random, of which Hidden_random-top is the best; 20 in the paper."
    )
    accumulate: bool = Field(
        default=False,
        description="Whether a draw keeps the random tokens of all draws before it, too, as the released compress_top.py does.",
    )


class Condition(NamedTuple):
    """One way to compress."""

    method: Method
    draw: int
    positions: str


def conditions(settings: Settings) -> list[Condition]:
    """Every condition, in the order of the rows."""
    found = [Condition("text_anchor", 0, OWN)]
    for positions in POSITIONS:
        if positions in settings.positions:
            found += [Condition("hidden_random", draw, positions) for draw in range(settings.draws)]
            found.append(Condition("hidden_anchor", 0, positions))
    return found
