"""Coverage of confidence intervals on simulated data."""

from __future__ import annotations

import numpy as np
import pandas as pd

from icl_lens.statistics import resampling
from icl_lens.statistics.resampling import Bootstrap


def table(values, tasks=1):
    """Build a table with one row per prompt from values of shape (tasks * seeds, prompts)."""
    values = np.asarray(values)
    seeds = len(values) // tasks
    return pd.DataFrame(
        [
            {"task": f"task{s // seeds}", "seed": 42 + s % seeds, "prompt_id": 1000 * (s % seeds) + n, "x": value}
            for s, row in enumerate(values)
            for n, value in enumerate(row)
        ]
    )


def coverage_of_means(runs, seeds, prompts, between, seeds_too, truth):
    """Compute the share of ``runs`` in which the interval contains the true mean.

    The true mean is over the given seeds, or over all seeds that could have been drawn. Values of prompts of a seed are
    exponential with variance 1. Seeds differ by a normal effect with standard deviation ``between``.
    """
    generator, hits = np.random.default_rng(1), 0
    for _ in range(runs):
        effects = between * generator.normal(size=(seeds, 1))
        target = effects.mean() if truth == "these seeds" else 0.0
        rows = table(effects + generator.exponential(size=(seeds, prompts)) - 1)
        found = resampling.mean(rows, ["x"], Bootstrap(resamples=400, seeds_too=seeds_too))
        hits += bool(found.low[0] <= target <= found.high[0])
    return hits / runs
