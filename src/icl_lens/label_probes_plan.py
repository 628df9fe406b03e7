"""What is read off keys and values around label words, and by which probes; the settings, free of torch.

*In-context learning as kernel regression* (Han et al., TMLR 2025), Figure 5. :mod:`icl_lens.studies.label_probes`
does it; the config and the figures read this alone.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from pydantic import Field

from icl_lens.section import Section, Seed

Feature = Literal["key", "turned_key", "value"]
Target = Literal["token", "label"]


class Probe(NamedTuple):
    """What is told from what."""

    feature: Feature
    target: Target


PROBES: dict[Probe, str] = {
    Probe("key", "token"): "keys tell the next token that the text announces",
    Probe("turned_key", "token"): "the same, keys after the rotary embedding",
    Probe("value", "label"): "values tell the label",
}
"""The paper's two probes, and its first again on keys as attention multiplies them; what each says, for a picture."""


class Settings(Section):
    """Where probes read, and how they are fitted and tested."""

    queries: int = Field(
        default=30,
        ge=1,
        description="The first so many prompts of each seed are read, or all where there are fewer. The features of their "
        "demonstrations are held at once: 4 bytes x 3 x offsets x demonstrations x key and value heads of all layers x width.",
    )
    offsets: list[int] = Field(
        default=[-1, 0, 1, 2, 3],
        min_length=1,
        description="Positions that are read, counted from the first token of a demonstration's label word (the paper's).",
    )
    ridge: float = Field(
        default=0.01, gt=0, description="The penalty of the ridge regression, beside sums over demonstrations (the paper's)."
    )
    folds: int = Field(default=5, ge=2, description="Parts into which the prompts are divided, each tested once (ours).")
    tokens: int = Field(
        default=5,
        ge=2,
        description="Only texts that announce one of the so many commonest tokens are told apart (ours).",
    )
    seed: Seed = Field(default=0, description="Of the division into folds.")
