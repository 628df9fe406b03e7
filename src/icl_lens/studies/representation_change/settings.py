"""Settings of the study ``representation_change``; free of torch.

Yousefi et al. (arXiv 2310.00313) published neither code nor these numbers, so each default is our choice and can be changed in
the config. :mod:`icl_lens.studies.representation_change.lines` and :mod:`icl_lens.studies.representation_change.reading` write
the prompts, and :mod:`icl_lens.studies.representation_change.representation_change.compute` runs them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, model_validator

from icl_lens.section import Section, Seed

SET = "paired"
"""Name of the prompt set of both tasks in paths."""

POOLINGS = ("mean", "max", "last")
"""Methods of pooling the vectors of a query's tokens into one. Claims refer to the first."""

SETS = ("relevant", "irrelevant", "context")
"""Token sets for attention: relevant to the answer, not relevant to it, and the answers of the examples."""

COMPONENTS = {"lines": ("slope", "intercept"), "reading": ("name", "activity")}
"""Components of the prompts of each task, in the order of the column ``components``. The keys are the tasks."""

Count = Annotated[int, Field(ge=0)]


def _conditions(examples: Sequence[int]) -> list[tuple[int, bool]]:
    """List the conditions as (examples, control) pairs.

    Each number of examples except 0 also has a control of the same length.
    """
    return [(k, control) for k in sorted(examples) for control in ((False, True) if k else (False,))]


def condition_name(examples: int, control: bool) -> str:
    """Return a short name of a condition: "none", "2" or "2, control"."""
    return f"{examples}, control" if control else str(examples) if examples else "none"


def probed(task: str, distractors: int) -> tuple[str, ...]:
    """Return what probes predict: the components, and the position of the informative sentence if there are distractors."""
    return (*COMPONENTS[task], "position") if distractors else COMPONENTS[task]


class Lines(Section):
    """Prompts of the regression task."""

    slopes: list[float] = Field(default=[5.0, 10.0, 15.0, 20.0], min_length=2, description="Slopes of the grid of lines.")
    intercepts: list[float] = Field(
        default=[0.0, 5.0, 10.0, 20.0], min_length=2, description="Intercepts of the grid of lines."
    )
    queries_per_line: int = Field(
        default=4, ge=1, description="Number of queries per line. The original study, as reconstructed from memory, has 16."
    )
    points: list[Annotated[int, Field(ge=2, le=8)]] = Field(
        default=[3],
        min_length=1,
        description="Numbers of complete points before the last point of a list. The queries alternate between these numbers.",
    )
    examples: list[Count] = Field(
        default=[0, 1, 2, 4, 8], min_length=2, description="Numbers of complete lists before the query; must include 0."
    )

    @model_validator(mode="after")
    def _there_are_enough_lines(self) -> Lines:
        if 0 not in self.examples or max(self.examples) < 1:
            raise ValueError(f"examples must contain 0, the baseline, and at least one positive number, got {self.examples}")
        lines = len(self.slopes) * len(self.intercepts)
        if max(self.examples) >= lines:
            raise ValueError(
                f"examples contains {max(self.examples)}, but the grid has only {lines - 1} other lines; use fewer examples "
                "or more lines"
            )
        return self

    def conditions(self) -> list[tuple[int, bool]]:
        """Return the conditions in order, as (examples, whether they are the control)."""
        return _conditions(self.examples)


class Reading(Section):
    """Prompts of the reading task."""

    distractors: list[Annotated[int, Field(ge=0, le=8)]] = Field(
        default=[0, 1, 2], min_length=1, description="Numbers of sentences about other people. Each number is a separate panel."
    )
    queries: int = Field(
        default=60,
        ge=20,
        le=100,
        description="Number of queries per number of distractors. A query is a pair from the 10 by 10 grid of names "
        "and activities.",
    )
    examples: list[Annotated[int, Field(ge=0, le=8)]] = Field(
        default=[0, 1, 2], min_length=2, description="Numbers of solved examples before the query; must include 0."
    )
    format: Literal["hinted", "bare"] = Field(
        default="hinted", description="hinted: with the words Question: and Answer:. bare: only the question."
    )

    @model_validator(mode="after")
    def _something_to_compare(self) -> Reading:
        if 0 not in self.examples or max(self.examples) < 1:
            raise ValueError(f"examples must contain 0, the baseline, and at least one positive number, got {self.examples}")
        return self

    def conditions(self) -> list[tuple[int, bool]]:
        """Return the conditions in order, as (examples, whether they are the control)."""
        return _conditions(self.examples)


class Settings(Section):
    """Settings of the prompts and of the computations on them."""

    seed: Seed = Field(default=42, description="Seed of the prompts, of the permutations and of the folds.")
    lines: Lines = Field(default_factory=Lines, description="Prompts of the regression task.")
    reading: Reading = Field(default_factory=Reading, description="Prompts of the reading task.")
    new_tokens: int = Field(default=6, ge=1, description="Maximum number of tokens of an answer, which is decoded greedily.")
    permutations: int = Field(
        default=1000, ge=19, description="Number of permutations of the prompts for a Mantel null distribution."
    )
    folds: int = Field(
        default=5,
        ge=2,
        description="Number of folds on which a probe is tested. All prompts of a line or of a pair are in the same fold.",
    )
    penalty: float = Field(
        default=1.0, gt=0, description="C of the probe: the weight of its errors relative to its L2 penalty."
    )
