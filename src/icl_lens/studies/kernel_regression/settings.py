"""Settings of the kernel regression studies: how they pool attention and which prompts they score. Does not import torch.

*In-context learning as kernel regression* (Han et al., TMLR 2025), sections 5.2 and 5.5. The studies kernel_regression and
kernel_regression_controls share these settings, so that the controls use only prompts on which no head was chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from pydantic import Field, field_validator

from icl_lens.section import Section, Seed
from icl_lens.statistics import halves

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
        description="Whether position 0 is excluded from all demonstrations. Many heads attend strongly to the first "
        "token, whatever it is. Without a BOS token, position 0 belongs to the first demonstration and would be its "
        "maximum (our choice).",
    )
    bins: int = Field(
        default=30,
        ge=2,
        description="Number of positions to which each text is resampled in the attention map (30 in the paper).",
    )
    held_out: float = Field(
        default=0.3,
        gt=0,
        lt=1,
        description="Share of each seed's prompts on which heads are scored. The heads are chosen on the other prompts "
        "(the paper holds out 300 of 1000). Prompts with the same test text are held out together.",
    )
    seed: Seed = Field(
        default=0, description="Seed of the held-out split, of the permutations and of the orders in the controls."
    )
    permutations: int = Field(
        default=200, ge=1, description="Number of permutations of the labels within prompts, for the null distribution."
    )
    control_queries: int = Field(
        default=10,
        ge=1,
        description="Number of held-out prompts per seed that the controls run (the first ones); all if there are fewer.",
    )
    orders: int = Field(default=4, ge=1, description="Number of additional orders of the same demonstrations in the controls.")
    encoders: dict[str, str] = Field(
        default_factory=dict,
        description="Sentence encoders for the kernels in Table 2: name in the table -> folder with the encoder's "
        "checkpoint in safetensors, or a folder under `downloads` to which it is downloaded "
        "(downloads/models/OWNER--NAME/REVISION). The embedding of a text is the mean of its token vectors.",
    )

    @field_validator("encoders")
    @classmethod
    def _check_names(cls, encoders: dict[str, str]) -> dict[str, str]:
        if TF_IDF in encoders:
            raise ValueError(
                f"the name {TF_IDF} is reserved for the kernel that is always included; use another name for the encoder"
            )
        return encoders


def held_out(seeds: Sequence[int], texts: Sequence[int], settings: Settings) -> np.ndarray:
    """Select the prompts on which heads are scored; see :func:`icl_lens.statistics.halves.held_out`.

    Args:
        seeds: The run's seed for each prompt, shape (N,).
        texts: The test text of each prompt, shape (N,).
        settings: Settings with the held-out share and the seed.

    Returns:
        Boolean mask of the held-out prompts, shape (N,).
    """
    return halves.held_out(seeds, texts, settings.held_out, settings.seed)


def first_held_out(seeds: Sequence[int], texts: Sequence[int], settings: Settings) -> np.ndarray:
    """Select the held-out prompts that the controls run, shape (N,): for each seed, the first prompts in the draw."""
    mask = held_out(seeds, texts, settings)
    for seed in np.unique(seeds):
        indices = np.flatnonzero((np.asarray(seeds) == seed) & mask)
        ranked = sorted(indices, key=lambda i: halves.rank(settings.seed, texts[i]))
        mask[ranked[settings.control_queries :]] = False
    return mask
