"""What tables show of compression: loyalties and accuracy by method, ratios of seconds.

Table 2 (*Label Words are Anchors*, section 3.2): label loyalty, word loyalty of the 5 likeliest tokens and accuracy, means over
a seed's prompts, then seeds, then tasks, with the intervals of :mod:`icl_lens.statistics`. Of Hidden_random each prompt counts
by its mean over the draws. Hidden_random-top is, for each task and seed, the draw with the highest label loyalty (the first of
equals), chosen on the prompts that it is then measured on, as in the paper: its interval does not know of that choice.

Tables 3 and 6: the acceleration ratio, seconds of the whole prompt / seconds of the query behind compressed demonstrations.
"""

from __future__ import annotations

import pandas as pd

from icl_lens.compression_plan import OWN, POSITIONS, WORDS
from icl_lens.errors import InputError
from icl_lens.latency_plan import METHODS
from icl_lens.statistics import OVER_TASKS, Bootstrap, mean

# What is averaged, and the name of its mean.
METRICS = {"label_agrees": "label_loyalty", f"word_jaccard_{WORDS}": "word_loyalty", "correct": "accuracy"}

TOP = "hidden_random_top"

_CONDITION = ["method", "positions"]

_ORDER = ("full", "text_anchor", "hidden_random", TOP, "hidden_anchor")
_POSITIONS = (OWN, *POSITIONS)


def summarise(rows: pd.DataFrame, plan: Bootstrap | None = None) -> pd.DataFrame:
    """Every method's loyalties and accuracy, for each model and prompt set.

    Args:
        rows: Compression tables, of one or more models, tasks and sets.
        plan: How to resample.

    Returns:
        One row a model, set, task (and :data:`~icl_lens.statistics.OVER_TASKS`), method (and :data:`TOP` of the draws),
        positions; of each metric its value, ``_low`` and ``_high`` (the interval's ends), ``_lowest_draw`` and
        ``_highest_draw`` (of a mean over one draw alone; the value itself where there is one draw); draws, prompts, seeds.
    """
    plan = plan or Bootstrap()
    rows = pd.concat([rows, best_draws(rows)], ignore_index=True)
    found = []
    for (model, name), of_set in rows.groupby(["model", "set"], sort=False):
        for task, of_task in [(OVER_TASKS, of_set), *of_set.groupby("task", sort=False)]:
            for condition, part in of_task.groupby(_CONDITION, sort=False):
                estimate = mean(part, list(METRICS), plan)
                drawn = part if condition[0] == "hidden_random" else part.assign(draw=0)
                draws = [mean(one, list(METRICS), Bootstrap(resamples=1)).value for _, one in drawn.groupby("draw")]
                row = {"model": model, "set": name, "task": task, **dict(zip(_CONDITION, condition, strict=True))}
                for number, metric in enumerate(METRICS.values()):
                    row |= {
                        metric: float(estimate.value[number]),
                        f"{metric}_low": float(estimate.low[number]),
                        f"{metric}_high": float(estimate.high[number]),
                        f"{metric}_lowest_draw": float(min(draw[number] for draw in draws)),
                        f"{metric}_highest_draw": float(max(draw[number] for draw in draws)),
                    }
                found.append({**row, "draws": len(draws), "prompts": estimate.prompts, "seeds": part["seed"].nunique()})
    # Model by model and task by task as they came; within these as the paper has the methods.
    table = pd.DataFrame(found)
    block = table.groupby(["model", "set", "task"], sort=False).ngroup()
    places, methods = table["positions"].map(_POSITIONS.index), table["method"].map(_ORDER.index)
    order = sorted(range(len(table)), key=lambda row: (block[row], places[row], methods[row]))
    return table.iloc[order].reset_index(drop=True)


def best_draws(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of Hidden_random-top: of each model, set, task, seed and positions the draw with the highest label loyalty.

    Args:
        rows: Compression tables.
    """
    drawn = rows[rows["method"] == "hidden_random"]
    key = ["model", "set", "task", "seed", "positions"]
    loyalty = drawn.groupby([*key, "draw"])["label_agrees"].mean().reset_index().sort_values("draw", kind="stable")
    best = loyalty.loc[loyalty.groupby(key)["label_agrees"].idxmax()]
    return drawn.merge(best[[*key, "draw"]], on=[*key, "draw"]).assign(method=TOP)


def accelerations(rows: pd.DataFrame) -> pd.DataFrame:
    """How many times faster a query is, for each model, set, task and number of prompts at a time.

    A prompt's seconds are the median of its repeats, a seed's the mean of its prompts'. The ratio is that of the means over
    seeds, as in the released notebook; lowest and highest are the ratios of single seeds.

    Args:
        rows: latency tables, of one or more models, tasks and sets.

    Raises:
        InputError: A table does not have all methods.

    Returns:
        One row a model, set, task and whether prompts go together: together (False for one at a time), ratio, lowest and
        highest (full / hidden_anchor), shared, shared_lowest and shared_highest (full / shared); for each method
        ``seconds_METHOD`` a prompt and ``spread_METHOD`` (the largest less the smallest of a pass's repeats, as a share of
        their median; the median pass); demo_tokens, cache_tokens (of ``hidden_anchor``), query_tokens, demo_words,
        query_words (means over seeds of means over prompts); passes, seeds.
    """
    found = []
    rows = rows.assign(together=rows["prompts"] > 1)
    for key, part in rows.groupby(["model", "set", "task", "together"], sort=False):
        if set(part["method"]) != set(METHODS):
            raise InputError(f"the latency table of {key[0]} on {key[2]} lacks one of the methods {', '.join(METHODS)}")
        passes = part.groupby(["method", "seed", "prompt_id"])["seconds"].agg(["median", "min", "max"])
        alone = passes["median"] / part.groupby(["method", "seed", "prompt_id"])["prompts"].first()
        seeds = alone.groupby(["method", "seed"]).mean().unstack("method")
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
