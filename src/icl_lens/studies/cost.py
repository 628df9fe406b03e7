"""What a job of a study is estimated to take, in forward passes: for the plan of a run, before it is started."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple


class Job(NamedTuple):
    """One study of one model on one task and prompt set.

    Attributes:
        settings: The study's settings, None where it has none.
        task: The task's name.
        layers: How many the model has.
        seeds: How many there are.
        queries: Test texts per seed, after the config's limit and the size of the test set.
        query: Tokens of a query with its template.
        demonstrations: Tokens of a prompt's demonstrations.
        fresh: Whether each query has demonstrations of its own.
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
    """What a job is estimated to be.

    Attributes:
        prompts: How many prompts it is about.
        tokens: How many tokens pass through the whole model, counted once a pass.
    """

    prompts: int
    tokens: float


@dataclass(frozen=True)
class Cost:
    """A study as so many forward passes over its prompts; demonstrations that all prompts of a seed share are read once.

    Attributes:
        passes: Forward passes that it is worth whatever its settings; 0 where loading the model is the cost.
        more: Further passes over the same tokens that the settings ask for.
        queries: At most so many prompts of a seed, by the settings.
        behind: Further passes over the queries alone, by the settings.
        work: Instead of all this: the whole estimate.
    """

    passes: float
    more: Callable[[Job], float] | None = None
    queries: Callable[[Any], int] | None = None
    behind: Callable[[Any], float] | None = None
    work: Callable[[Job], Work] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.passes, int | float):
            raise TypeError(f"passes is {self.passes!r}; it must be a number")

    def __call__(self, job: Job) -> Work:
        """The estimate of one job."""
        if self.work is not None:
            return self.work(job)
        prompts = job.seeds * min([job.queries, *([self.queries(job.settings)] if self.queries else [])])
        tokens = prompts * job.query + (prompts if job.fresh else job.seeds) * job.demonstrations
        passes = self.passes + (self.more(job) if self.more else 0)
        behind = prompts * job.query * self.behind(job.settings) if self.behind else 0
        return Work(prompts, tokens * passes + behind)
