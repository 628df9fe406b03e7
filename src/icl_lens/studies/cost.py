"""Cost estimates for the jobs of a study, in forward passes. The plan of a run uses them before the run starts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple


class Job(NamedTuple):
    """One study of one model on one task and prompt set.

    Attributes:
        settings: The study's settings, or None if it has none.
        task: The task's name.
        layers: Number of layers of the model.
        seeds: Number of seeds.
        queries: Number of test texts per seed, limited by the config and by the size of the test set.
        query: Number of tokens of a query, including its template.
        demonstrations: Number of tokens of a prompt's demonstrations.
        fresh: Whether each query has its own demonstrations.
    """

    settings: Any
    task: str
    layers: int
    seeds: int
    queries: int
    query: int
    demonstrations: int
    fresh: bool


class Work(NamedTuple):
    """Estimated size of a job.

    Attributes:
        prompts: Number of prompts.
        tokens: Number of tokens that pass through the whole model, counted once per pass.
    """

    prompts: int
    tokens: float


@dataclass(frozen=True)
class Cost:
    """Cost of a study, as a number of forward passes over its prompts.

    The estimate counts demonstrations that all prompts of a seed share only once per pass.

    Attributes:
        passes: Number of forward passes that do not depend on the settings; 0 if loading the model dominates the cost.
        more: Function of the job that returns the number of additional passes over the same tokens.
        queries: Function of the settings that returns the maximum number of prompts per seed.
        behind: Function of the settings that returns the number of additional passes over the queries only.
        work: Function of the job that returns the whole estimate; it replaces all other attributes.
    """

    passes: float
    more: Callable[[Job], float] | None = None
    queries: Callable[[Any], int] | None = None
    behind: Callable[[Any], float] | None = None
    work: Callable[[Job], Work] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.passes, int | float):
            raise TypeError(f"passes must be a number, got {self.passes!r}")

    def __call__(self, job: Job) -> Work:
        """Return the estimate for one job."""
        if self.work is not None:
            return self.work(job)
        prompts = job.seeds * min([job.queries, *([self.queries(job.settings)] if self.queries else [])])
        tokens = prompts * job.query + (prompts if job.fresh else job.seeds) * job.demonstrations
        passes = self.passes + (self.more(job) if self.more else 0)
        query_tokens = prompts * job.query * self.behind(job.settings) if self.behind else 0
        return Work(prompts, tokens * passes + query_tokens)
