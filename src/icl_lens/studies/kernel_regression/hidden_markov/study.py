"""The study hidden_markov: kernel regression and the exact Bayesian posterior on random hidden Markov models.

*In-context learning as kernel regression* (Han et al., TMLR 2025), appendix C, Table 3. The paper states the numbers of tasks,
states and observations; the other defaults are ours.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from icl_lens.artifacts.schema import FLAG, FLOAT, INTEGER, Schema
from icl_lens.section import Section, Seed
from icl_lens.studies.cost import Cost
from icl_lens.studies.item import Item
from icl_lens.studies.study import Keys, Study


class Settings(Section):
    """Settings of the models, of the prompts drawn from them, and of the kernel."""

    tasks: int = Field(
        default=8,
        ge=1,
        description="Number of tasks, which are equally frequent in the pre-training distribution (8 in the paper).",
    )
    states: int = Field(
        default=80,
        ge=1,
        description="Number of hidden states of the merged model, divided equally among the tasks (80 in the paper).",
    )
    observations: int = Field(
        default=100, ge=2, description="Number of tokens that a state can emit, without the delimiter (100 in the paper)."
    )
    transition_concentration: float = Field(
        default=0.02,
        gt=0,
        description="Parameter of the Dirichlet distribution of each row of transitions within a task (ours; the paper "
        "does not state it). A small value makes transitions nearly deterministic.",
    )
    emission_concentration: float = Field(
        default=0.002,
        gt=0,
        description="Parameter of the Dirichlet distribution of each state's emissions (ours; it determines the level "
        "of the table).",
    )
    length: int = Field(
        default=10, ge=1, description="Number of tokens of x, before the label (ours; the paper does not state it)."
    )
    pretraining: int = Field(
        default=4000,
        ge=1,
        description="Number of pre-training sequences from which the kernel's second moment is computed (ours).",
    )
    ridge: float = Field(
        default=1e-4,
        gt=0,
        description="Ridge on the diagonal of the second moment, as a share of its mean diagonal entry (ours).",
    )
    clip: bool = Field(
        default=True, description="Whether negative kernel values are set to 0 (ours; the paper does not state it)."
    )
    demonstrations: list[Annotated[int, Field(ge=1)]] = Field(
        default=[1, 2, 4, 8, 16, 32, 64, 128], min_length=1, description="Numbers n of demonstrations (the paper's values)."
    )
    limit: int = Field(
        default=4096,
        ge=1,
        description="Number of demonstrations of one task, shared by all its prompts, that approximates infinitely many "
        "(ours). The distance with this number of demonstrations is the lower limit of the distance.",
    )
    trials: int = Field(default=100, ge=1, description="Number of prompts per model (ours; the paper does not state it).")
    seeds: list[Seed] = Field(
        default=list(range(12)),
        min_length=1,
        description="Seeds of the models, one model per seed (ours; the paper does not state the number).",
    )

    @model_validator(mode="after")
    def _check_sizes(self) -> Settings:
        if self.states % self.tasks:
            raise ValueError(f"states must be a multiple of tasks, got {self.states} states and {self.tasks} tasks")
        for name in ("demonstrations", "seeds"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise ValueError(f"{name} must not contain duplicates, got {values}")
        if self.limit <= max(self.demonstrations):
            raise ValueError(
                f"limit must be greater than the largest number of demonstrations, {max(self.demonstrations)}, got {self.limit}"
            )
        return self


SCHEMA = Schema(
    "hidden_markov",
    1,
    {
        "seed": INTEGER,
        "trial": INTEGER,
        "task": INTEGER,
        "n": INTEGER,
        "limit": FLAG,
        "distance": FLOAT,
        "agrees": FLAG,
        "correct": FLAG,
        "posterior_correct": FLAG,
        "weightless": FLAG,
        "confidence": FLOAT,
    },
    keys=("seed", "trial", "task", "n", "limit"),
    stage="synthetic",
)

STUDY = Study(
    package=__package__,
    help="kernel regression against the exact posterior of random HMMs",
    schema=SCHEMA,
    cost=Cost(passes=0),
    settings=Keys(
        "hidden_markov",
        Settings,
        "Kernel regression against the exact posterior of random hidden Markov models; no language model is run.",
    ),
    reads=None,
    items=(
        Item(
            name="kr_table_3",
            title="Kernel regression against the exact Bayesian posterior of random hidden Markov models, by the number of "
            "demonstrations",
            notebook="kernel_regression/kr_table_3",
            reads=("synthetic/hidden_markov.parquet",),
        ),
    ),
)
