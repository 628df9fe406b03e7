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
PLAIN, FEW_SHOT, PROMPTS, CALIBRATED, CALIBRATED_LOG, SINGLE, REWEIGHTED = (
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
        min_length=1, description="Further templates, like that of the task: {text} once, and {label} at the end."
    )
    contrast: str = Field(description="A template that differs from the task's own by next to nothing: a newline, a blank.")

    @model_validator(mode="after")
    def _are_templates(self) -> Wording:
        for template in [*self.templates, self.contrast]:
            fits = template.count("{text}") == 1 and template.count("{label}") == 1 and template.endswith("{label}")
            if not fits or template.removesuffix("{label}")[-1:].isspace():
                raise ValueError(
                    f"template {template!r} must hold {{text}} once and end with {{label}}, without a blank before it (that "
                    "belongs to the label words)"
                )
        if len({*self.templates, self.contrast}) <= len(self.templates):
            raise ValueError("the same template stands there twice")
        return self


class Settings(Section):
    """Templates, label budgets, and training of the weights. The defaults are those of the released code."""

    templates: dict[str, Wording] = Field(
        default_factory=dict,
        description="Task -> its further `templates` and its `contrast`. The paper's templates were never released; the tasks "
        "of icl-lens bring some, a task that is not named here gets two that say no more than input and output.",
    )
    queries: int = Field(default=50, ge=1, description="Test texts per seed, at most; each is asked under every template.")
    budgets: list[Annotated[int, Field(ge=2, le=LABELLED)]] = Field(
        default=[12, 24], min_length=1, description=f"Labelled texts that a method may take, {LABELLED} at most, ascending."
    )
    learning_rate: float = Field(default=0.05, gt=0, description="Of plain gradient descent on all labelled texts at once.")
    l1: float = Field(default=0.01, ge=0, description="Weight of the sum of all absolute weights in the loss.")
    sweep: list[Annotated[float, Field(ge=0)]] = Field(
        default=[0.0, 0.001, 0.1], description="Other values of l1, with the largest budget."
    )
    epochs: int = Field(default=2000, ge=1, description="Of re-weighting, at most.")
    calibration_epochs: int = Field(default=5000, ge=1, description="Of calibration, at most.")
    patience: int = Field(
        default=3, ge=1, description="Epochs in all, not in a row, whose loss may fail to be the lowest so far."
    )
    check: int = Field(
        default=100, ge=1, description="Every so many epochs training ends if every labelled text is answered right."
    )

    @model_validator(mode="after")
    def _ascending(self) -> Settings:
        if self.budgets != sorted(set(self.budgets)):
            raise ValueError("budgets must ascend")
        return self
