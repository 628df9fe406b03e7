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


def coverage_of_means(runs, seeds, prompts, between, truth, text_effect=0.0):
    """Compute the share of ``runs`` in which the interval contains the true mean.

    The true mean is over the given seeds (interval over prompts), or over all seeds and texts that could have been drawn (main
    interval). Values of prompts of a seed are exponential with variance 1. Seeds differ by a normal effect with standard
    deviation ``between``. With ``text_effect``, all seeds have the same texts, which differ by a normal effect.
    """
    generator, hits = np.random.default_rng(1), 0
    for _ in range(runs):
        effects = between * generator.normal(size=(seeds, 1))
        target = effects.mean() if truth == "these seeds" else 0.0
        texts = text_effect * generator.normal(size=prompts)
        rows = table(effects + texts + generator.exponential(size=(seeds, prompts)) - 1)
        if text_effect:
            rows["query_index"] = rows["prompt_id"] % 1000
        found = resampling.mean(rows, ["x"], Bootstrap(resamples=400))
        low, high = (found.prompts_low, found.prompts_high) if truth == "these seeds" else (found.low, found.high)
        hits += bool(low[0] <= target <= high[0])
    return hits / runs
