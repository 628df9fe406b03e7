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

    tasks: int = Field(default=8, ge=1, description="Tasks that the pre-training distribution mixes, each equally often (8).")
    states: int = Field(default=80, ge=1, description="Hidden states of the merged model, the same number of each task (80).")
    observations: int = Field(default=100, ge=2, description="Tokens that a state may emit, the delimiter aside (100).")
    transition_concentration: float = Field(
        default=0.02,
        gt=0,
        description="Each row of transitions within a task is drawn from a Dirichlet distribution with this parameter (ours; "
        "the paper does not say). Small: nearly deterministic.",
    )
    emission_concentration: float = Field(
        default=0.002, gt=0, description="The same of each state's emissions (ours; it decides the level of the table)."
    )
    length: int = Field(default=10, ge=1, description="Tokens of x, which the label follows (ours; the paper does not say).")
    pretraining: int = Field(
        default=4000,
        ge=1,
        description="Sequences of the pre-training distribution whose second moment the kernel inverts (ours).",
    )
    ridge: float = Field(
        default=1e-4,
        gt=0,
        description="Added to the diagonal of that second moment, as a share of its mean diagonal entry (ours).",
    )
    clip: bool = Field(default=True, description="Whether a negative kernel value counts as 0 (ours; the paper does not say).")
    demonstrations: list[Annotated[int, Field(ge=1)]] = Field(
        default=[1, 2, 4, 8, 16, 32, 64, 128], min_length=1, description="Numbers n of demonstrations (the paper's)."
    )
    limit: int = Field(
        default=4096,
        ge=1,
        description="So many demonstrations of one task, shared by all its prompts, stand for infinitely many (ours): what is "
        "left of the distance there is its floor.",
    )
    trials: int = Field(default=100, ge=1, description="Prompts of each model; the paper does not say.")
    seeds: list[Seed] = Field(
        default=list(range(12)), min_length=1, description="One model is drawn for each seed; the paper does not say how many."
    )

    @model_validator(mode="after")
    def _fits(self) -> Settings:
        if self.states % self.tasks:
            raise ValueError(f"{self.states} states cannot be shared out among {self.tasks} tasks evenly")
        for name in ("demonstrations", "seeds"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise ValueError(f"{name}: a number stands there twice")
        if self.limit <= max(self.demonstrations):
            raise ValueError(f"limit must be more than the {max(self.demonstrations)} demonstrations of the longest prompt")
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
    help="compare kernel regression with the posterior of random models",
    schema=SCHEMA,
    cost=Cost(passes=0),
    settings=Keys(
        "hidden_markov",
        Settings,
        "Kernel regression beside the exact posterior on random hidden Markov models; no language model is run.",
    ),
    reads=None,
    items=(
        Item(
            name="kr_table_3",
            title="Kernel regression and the exact Bayesian posterior on random hidden Markov models, by the number of "
            "demonstrations",
            notebook="kernel_regression/kr_table_3",
            reads=("synthetic/hidden_markov.parquet",),
        ),
    ),
)
