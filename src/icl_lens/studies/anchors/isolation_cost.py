"""Estimated work of isolation, shared by the declarations of two studies. It belongs to no study's computation."""

from __future__ import annotations

from icl_lens.studies.anchors.isolating import Settings, conditions
from icl_lens.studies.cost import Job, Work, one_pass


def work(job: Job, settings: Settings) -> Work:
    """Estimate the plain run and the runs of all conditions.

    A run starts at the first layer in which it differs from an earlier one (:mod:`icl_lens.studies.anchors.isolated_runs`): a
    condition in the last k layers runs k layers, and a condition in the first k layers runs all but k, except for the largest
    k. Random positions have several demonstrations to read per seed, one for each of their orders.
    """
    planned, depth, prompts = conditions(settings, job.layers), job.layers, job.seeds * job.queries
    largest = max(c.layers for c in planned)
    total = one_pass(job, prompts)
    for condition in planned:
        prefixes = job.seeds
        if condition.target == "random":
            prefixes *= job.queries if settings.draw == "prompt" else min(settings.orders, job.queries)
        once = one_pass(job, prompts, prefixes)
        first = depth if condition.layers == largest else depth - condition.layers
        layers = condition.layers if condition.side == "last" else first
        total += once.times(layers / depth)._replace(rows=prompts)
    return total
