"""Results of latency for Tables 3 and 6: the acceleration ratio.

*Label Words are Anchors*, section 3.2 and appendix I. The ratio is the time for the full prompt divided by the time for the
query with compressed demonstrations.
"""

from __future__ import annotations

import pandas as pd

from icl_lens.errors import InputError
from icl_lens.studies.anchors.latency.study import METHODS


def accelerations(rows: pd.DataFrame) -> pd.DataFrame:
    """Compute the acceleration ratios for each model, set and task, with single prompts and with batches.

    The time of a prompt is the median of its repeats, and the time of a seed is the mean over its prompts. The ratio is the
    ratio of the means over seeds, as in the released notebook. The lowest and highest values are ratios of single seeds.

    Args:
        rows: latency tables of one or more models, tasks and sets.

    Raises:
        InputError: A table does not have all methods.

    Returns:
        One row per model, set, task and value of together: together (whether prompts run in batches; False for one prompt at a
        time), ratio, lowest and highest (full / hidden_anchor), shared, shared_lowest and shared_highest (full / shared). For
        each method: ``seconds_METHOD`` per prompt and ``spread_METHOD`` (the range of a pass's repeats as a share of their
        median; median over passes). Further columns: demo_tokens, cache_tokens (of ``hidden_anchor``), query_tokens,
        demo_words, query_words (means over seeds of means over prompts), passes, seeds.
    """
    found = []
    rows = rows.assign(together=rows["prompts"] > 1)
    for key, part in rows.groupby(["model", "set", "task", "together"], sort=False):
        if set(part["method"]) != set(METHODS):
            raise InputError(
                f"the latency table of {key[0]} on {key[2]} has the methods {', '.join(sorted(set(part['method'])))}; expected "
                f"{', '.join(METHODS)}; rerun the latency study"
            )
        passes = part.groupby(["method", "seed", "prompt_id"])["seconds"].agg(["median", "min", "max"])
        per_prompt = passes["median"] / part.groupby(["method", "seed", "prompt_id"])["prompts"].first()
        seeds = per_prompt.groupby(["method", "seed"]).mean().unstack("method")
        spread = ((passes["max"] - passes["min"]) / passes["median"]).groupby("method").median()
        row = dict(zip(("model", "set", "task", "together"), key, strict=True))
        for method, names in (
            ("hidden_anchor", ("ratio", "lowest", "highest")),
            ("shared", ("shared", "shared_lowest", "shared_highest")),
        ):
            ratios = seeds["full"] / seeds[method]
            row |= dict(zip(names, (seeds["full"].mean() / seeds[method].mean(), ratios.min(), ratios.max()), strict=True))
        for method in METHODS:
            row |= {f"seconds_{method}": seeds[method].mean(), f"spread_{method}": spread[method]}
        compressed = part[part["method"] == "hidden_anchor"].eval("demo_tokens = prompt_tokens - query_tokens")
        lengths = ["demo_tokens", "cache_tokens", "query_tokens", "demo_words", "query_words"]
        row |= compressed.groupby("seed")[lengths].mean().mean().to_dict()
        found.append({**row, "passes": len(passes) // len(METHODS), "seeds": len(seeds)})
    return pd.DataFrame(found)
