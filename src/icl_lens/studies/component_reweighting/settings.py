"""Settings of the study ``components``: templates, and how components are re-weighted and calibrated; free of torch.

The study follows *When Parts Are Greater Than Sums* (Chang, Thomason, Jia; EMNLP 2024), section 5, and the released code. It is
implemented in :mod:`icl_lens.studies.component_reweighting.components.compute`.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from icl_lens.prompts.sets import LABELLED
from icl_lens.section import Section

OWN, CONTRAST = "f1", "contrast"
"""Names of the task's own template and of the contrast template, which differs from it minimally."""

# Names of methods; a hyphen and the number of labels follow.
PLAIN, FEW_SHOT, PROMPT_SELECTION, CALIBRATED, CALIBRATED_LOG, BEST_COMPONENT, REWEIGHTED = (
    "icl",
    "few_shot",
    "prompt_selection",
    "calib+",
    "calib_log",
    "best_component",
    "comprw",
)
STRICT, WITH_REST, UNSTOPPED = "comprw_strict", "comprw_with_rest", "comprw_unstopped"


class Wording(Section):
    """Templates of one task in addition to its own."""

    templates: list[str] = Field(
        min_length=1,
        description="Further templates, in the same format as the task's own: {text} exactly once, and {label} at the end.",
    )
    contrast: str = Field(
        description="A template that differs minimally from the task's own, for example by a newline or a space."
    )

    @model_validator(mode="after")
    def _check_templates(self) -> Wording:
        for template in [*self.templates, self.contrast]:
            valid = template.count("{text}") == 1 and template.count("{label}") == 1 and template.endswith("{label}")
            if not valid or template.removesuffix("{label}")[-1:].isspace():
                raise ValueError(
                    f"template {template!r} must contain {{text}} exactly once and end with {{label}}, without a space "
                    f"before {{label}} (the space is part of the label words)"
                )
        if len({*self.templates, self.contrast}) <= len(self.templates):
            raise ValueError("duplicate template; all templates and the contrast must be different")
        return self


class Settings(Section):
    """Templates, label budgets, and training of the weights. The defaults are those of the released code."""

    templates: dict[str, Wording] = Field(
        default_factory=dict,
        description="Task -> its further `templates` and its `contrast`. The paper's templates were never released. "
        "icl-lens has templates for its own tasks; any other task that is missing here gets two neutral templates, for "
        "example with Input and Output.",
    )
    queries: int = Field(
        default=50, ge=1, description="Maximum number of test texts per seed. Each is written with every template."
    )
    budgets: list[Annotated[int, Field(ge=2, le=LABELLED)]] = Field(
        default=[12, 24],
        min_length=1,
        description=f"Numbers of labelled texts that a method may use, at most {LABELLED}, in ascending order.",
    )
    learning_rate: float = Field(
        default=0.05, gt=0, description="Learning rate of plain gradient descent on all labelled texts at once."
    )
    l1: float = Field(
        default=0.01, ge=0, description="L1 coefficient: the weight of the sum of the absolute weights in the loss."
    )
    sweep: list[Annotated[float, Field(ge=0)]] = Field(
        default=[0.0, 0.001, 0.1], description="Other values of l1, used with the largest budget."
    )
    epochs: int = Field(default=2000, ge=1, description="Maximum number of epochs of re-weighting.")
    calibration_epochs: int = Field(default=5000, ge=1, description="Maximum number of epochs of calibration.")
    patience: int = Field(
        default=3,
        ge=1,
        description="Training stops after this total number of epochs (not in a row) without a new lowest loss.",
    )
    check: int = Field(
        default=100,
        ge=1,
        description="Interval, in epochs, at which training stops if all labelled texts are classified correctly.",
    )

    @model_validator(mode="after")
    def _check_budgets(self) -> Settings:
        if self.budgets != sorted(set(self.budgets)):
            raise ValueError(f"budgets must be in ascending order without duplicates, got {self.budgets}")
        return self
