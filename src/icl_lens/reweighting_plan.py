"""How anchor re-weighting is trained and what it is compared with; its settings, free of torch.

*Label Words are Anchors*, section 3.1 and appendix H. :mod:`icl_lens.studies.reweighting` does it; the config and the pictures
read this alone.
"""

from __future__ import annotations

from pydantic import Field

from icl_lens.section import Section, Seed

# Further training texts per class, as released.
AUXILIARY = 4

VANILLA, FEW_SHOT, REWEIGHTED = METHODS = ("vanilla", "few_shot", "reweighted")
"""The rows of Table 1: the demonstrations as they are, more of them, and the demonstrations re-weighted."""


class Settings(Section):
    """How beta is trained, and the baselines."""

    learning_rate: float = Field(default=0.01, gt=0, description="Adam's (the paper's; the released code's default is 0.1).")
    epochs: int = Field(default=10, ge=1, description="How often every training example is seen, one at a time.")
    auxiliary: int = Field(
        default=AUXILIARY,
        ge=1,
        description="Training examples per class: those that the draw of the demonstrations meets next.",
    )
    seed: Seed = Field(default=0, description="Of the order of the training examples, drawn anew in each epoch.")
    shots: int = Field(
        default=1 + AUXILIARY,
        ge=2,
        description="Demonstrations per class of the baseline without training, at most: where prompts are longer than the "
        "model's context, the largest number whose prompts all fit.",
    )
