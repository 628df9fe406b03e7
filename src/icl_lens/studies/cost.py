"""Estimated cost of the jobs of a study, in forward passes and tokens, for the plan of a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

Kept = Literal["layer", "states", "graph"]
"""Activations that a study keeps until a batch is done, as in :data:`icl_lens.network.memory.Kept`."""

TEMPLATE = 3
"""Assumed number of tokens before the query's text: a newline, a word and a colon."""


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
        classes: Number of classes.
    """

    settings: Any
    task: str
    layers: int
    seeds: int
    queries: int
    query: int
    demonstrations: int
    fresh: bool
    classes: int = 2


class Work(NamedTuple):
    """Estimated size of a job.

    Attributes:
        prompts: Number of prompts.
        tokens: Number of tokens that pass through the whole model, counted once per forward and once per backward pass.
        pairs: Number of pairs of a query and a key in the attention of one layer, counted like the tokens.
        rows: Number of rows whose last logits are computed: the prompts, or their tails, of each forward pass.
        passes: Number of passes over all prompts, counted like the tokens, regardless of the length of their prefixes.
        steps: Number of passes over single tokens that cannot be batched.
    """

    prompts: int
    tokens: float
    pairs: float = 0.0
    rows: float = 0.0
    passes: float = 1.0
    steps: float = 0.0

    def __add__(self, other: Work) -> Work:
        """Return the work of this job with that of further passes over the same prompts."""
        return Work(self.prompts, *(a + b for a, b in zip(self[1:], other[1:], strict=True)))

    def times(self, passes: float) -> Work:
        """Return the work of several such passes."""
        return Work(self.prompts, *(passes * value for value in self[1:]))


@dataclass(frozen=True)
class Cost:
    """Cost of a study, as a number of forward passes over its prompts.

    The estimate counts demonstrations that all prompts of a seed share only once per pass.

    Attributes:
        passes: Number of forward passes that do not depend on the settings; 0 if loading the model dominates the cost. A
            backward pass with frozen weights counts as one more pass.
        more: Function of the job that returns the number of additional passes over the same tokens. A pass that starts at a
            later layer counts as the share of the layers that it runs.
        queries: Function of the settings that returns the maximum number of prompts per seed.
        behind: Function of the settings that returns the number of additional passes over the queries only.
        work: Function of the job that returns the whole estimate; it replaces all other attributes except the following.
        kept: The activations that the study keeps until a batch is done.
        vocabulary: Whether the study computes the logits of the whole vocabulary, rather than those of the label words.
        attention: Factor on the number of attention operations, for a study that computes attention matrices explicitly.
        models: Number of models that the memory holds at a time.
    """

    passes: float
    more: Callable[[Job], float] | None = None
    queries: Callable[[Any], int] | None = None
    behind: Callable[[Any], float] | None = None
    work: Callable[[Job], Work] | None = None
    kept: Kept = "layer"
    vocabulary: bool = False
    attention: float = 1.0
    models: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.passes, int | float):
            raise TypeError(f"passes must be a number, got {self.passes!r}")

    def __call__(self, job: Job) -> Work:
        """Return the estimate for one job."""
        if self.work is not None:
            return self.work(job)
        prompts = job.seeds * min([job.queries, *([self.queries(job.settings)] if self.queries else [])])
        passes = self.passes + (self.more(job) if self.more else 0)
        behind = self.behind(job.settings) if self.behind else 0
        work = one_pass(job, prompts).times(passes)
        return work + one_pass(job._replace(demonstrations=0), prompts).times(behind) if behind else work


def one_pass(job: Job, prompts: int, prefixes: int | None = None) -> Work:
    """Return the work of one forward pass over some of a job's prompts.

    Args:
        job: The job.
        prompts: Number of prompts.
        prefixes: Number of different demonstrations, which are read once each; by default, one per seed, or one per prompt if
            the job is ``fresh``.
    """
    # The prompts also share the beginning of the query's template.
    shared = min(TEMPLATE, job.query - 1) if job.demonstrations else 0
    job = job._replace(query=job.query - shared, demonstrations=job.demonstrations + shared)
    if job.fresh and prefixes is None:
        length = job.query + job.demonstrations
        return Work(prompts, prompts * length, prompts * length**2, prompts)
    prefixes = job.seeds if prefixes is None else prefixes
    tokens = prompts * job.query + prefixes * job.demonstrations
    pairs = prompts * job.query * (job.query + job.demonstrations) + prefixes * job.demonstrations**2
    return Work(prompts, tokens, pairs, prompts)
