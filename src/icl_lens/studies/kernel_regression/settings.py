"""Settings of the kernel regression studies: how they pool attention and which prompts they score. Does not import torch.

*In-context learning as kernel regression* (Han et al., TMLR 2025), sections 5.2 and 5.5. The studies kernel_regression and
kernel_regression_controls share these settings, so that the controls use only prompts on which no head was chosen.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from pydantic import Field, field_validator

from icl_lens.section import Section, Seed

Pooling = Literal["max", "mean", "label"]
POOLINGS: tuple[Pooling, ...] = get_args(Pooling)
"""Methods that reduce the attention to a demonstration to one number.

``max`` is the largest weight in the demonstration's span (the paper's method). ``mean`` is the mean weight in the span.
``label`` is the sum over the tokens of the label word.
"""

PARTS = ("first", "texts", "labels", "rest", "query", "end")
"""Parts into which a row of attention is divided.

The prompt's first token; the demonstrations without their label words; the label words; the tokens between demonstrations and
before the first one; the query up to the end of its text; the part of the template after the query's text.
"""

TF_IDF = "TF-IDF"
"""Name of the text kernel that is always included."""

# The encoders of the paper's Table 2.
ENCODERS = ("all-MiniLM-L6-v2", "bert-base-nli-mean-tokens")

PLAIN, INPUTS_PERMUTED, LABELS_FLIPPED, ORDER = CONTROLS = ("none", "inputs_permuted", "labels_flipped", "order")
"""The unchanged prompts and the three controls.

``inputs_permuted`` permutes the demonstrations' texts while the labels keep their positions. ``labels_flipped`` replaces the
label word of each class with the label word of the next class. ``order`` reorders whole demonstrations.
"""


class Settings(Section):
    """Settings for reading attention, holding out prompts and running the controls."""

    drop_first: bool = Field(
        default=True,
        description="Whether position 0 counts in no demonstration. Many heads rest on the first token whatever it is; without "
        "a beginning-of-sequence token it stands in the first demonstration, whose maximum it would be (our choice).",
    )
    bins: int = Field(
        default=30, ge=2, description="Positions to which each text is resampled in the attention map (the paper's 30)."
    )
    held_out: float = Field(
        default=0.3,
        gt=0,
        lt=1,
        description="The share of each seed's prompts on which heads are scored; they are chosen on the others (the paper: 300 "
        "of 1000).",
    )
    seed: Seed = Field(default=0, description="Of that split, of the permutations, and of the controls' orders.")
    permutations: int = Field(
        default=200, ge=1, description="How often labels are shuffled within prompts, for the null distribution."
    )
    control_queries: int = Field(
        default=10, ge=1, description="The controls run so many held-out prompts of each seed, or all where there are fewer."
    )
    orders: int = Field(default=4, ge=1, description="The controls' further orders of the same demonstrations.")
    encoders: dict[str, str] = Field(
        default_factory=dict,
        description="Sentence encoders whose kernels Table 2 compares with: name in the table -> folder with the encoder's "
        "checkpoint in safetensors, or a folder under `downloads` that it is fetched to "
        "(downloads/models/OWNER--NAME/REVISION). Its token vectors are averaged.",
    )

    @field_validator("encoders")
    @classmethod
    def _own_names(cls, encoders: dict[str, str]) -> dict[str, str]:
        if TF_IDF in encoders:
            raise ValueError(f"encoders: {TF_IDF} is the kernel that is always there; name the encoder otherwise")
        return encoders


def held_out(seeds: Sequence[int], ids: Sequence[int], settings: Settings) -> np.ndarray:
    """Select the prompts on which heads are scored.

    The same share of each seed's prompts is held out: at least one prompt, and never all prompts of a seed that has more than
    one.

    A prompt's rank in the draw depends only on the seed in the settings, the seed of its run and its prompt_id. The other
    prompts in a table therefore affect only how many prompts are held out.

    Args:
        seeds: The run's seed for each prompt, shape (N,).
        ids: The prompt_id of each prompt, shape (N,).
        settings: Settings with the held-out share and the seed.

    Returns:
        Boolean mask of the held-out prompts, shape (N,).
    """
    chosen = np.zeros(len(ids), dtype=bool)
    for seed in np.unique(seeds):
        places = np.flatnonzero(np.asarray(seeds) == seed)
        count = max(1, min(round(settings.held_out * len(places)), len(places) - 1))
        chosen[sorted(places, key=lambda i: _rank(settings.seed, seeds[i], ids[i]))[:count]] = True
    return chosen


def first_held_out(seeds: Sequence[int], ids: Sequence[int], settings: Settings) -> np.ndarray:
    """Select the held-out prompts that the controls run, shape (N,): for each seed, the first prompts in the draw."""
    chosen = held_out(seeds, ids, settings)
    for seed in np.unique(seeds):
        places = np.flatnonzero((np.asarray(seeds) == seed) & chosen)
        chosen[sorted(places, key=lambda i: _rank(settings.seed, seeds[i], ids[i]))[settings.control_queries :]] = False
    return chosen


def _rank(draw: int, seed: int, prompt_id: int) -> bytes:
    """Return a prompt's rank in the draw as a sortable value."""
    return hashlib.sha256(f"{draw}/{int(seed)}/{int(prompt_id)}".encode()).digest()
