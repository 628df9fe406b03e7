"""Spread over seeds of the numbers of a figure or table, in addition to their confidence intervals.

The spread is the lowest and the highest value of a single seed, and the standard deviation over seeds. In prompt sets named
``shared-...`` or ``labelled-...``, a seed is one demonstration set. In ``fresh-...`` prompt sets, each query has its own
demonstrations, and a seed decides how they are drawn and ordered and which queries are used.

This module computes the item's summary once per seed. All choices of the summary, such as a head or a temperature, are those
made on all seeds, so the item shows the mean of the values per seed. These values also differ by chance, because one seed has
few prompts.

There is no spread over seeds for items of studies with a single seed (representation change), or for measures that compare
seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from icl_lens.artifacts import parquet, tensors
from icl_lens.statistics.answers import balanced_columns, majority_baseline, scores, with_gold
from icl_lens.statistics.resampling import Bootstrap
from icl_lens.studies import registry


@dataclass(frozen=True)
class OneSeed(Bootstrap):
    """Settings of a single resample that contains each prompt of one seed once and no prompt of the other seeds.

    Attributes:
        place: Index of the seed among the task's seeds in ascending order, from 0.
    """

    resamples: int = 1
    place: int = 0

    def prompt_weights(self, task: str, seed: int, prompts: int) -> np.ndarray:
        """Return a weight of 1 for each prompt, shape (1, n)."""
        return np.ones((1, prompts))

    def seed_weights(self, task: str, seeds: int) -> np.ndarray:
        """Return a weight of 1 for the seed at ``place`` and 0 for the other seeds, shape (1, S)."""
        return (np.arange(seeds) == self.place).astype(float)[None]


def columns(item: str) -> tuple[str, ...]:
    """Return the columns of an item's CSV for which :func:`by_seed` gives values per seed."""
    source = _SOURCES.get(registry.items()[item].drawn_by)
    return source.values if source else ()


def by_seed(results: Path, item: str, shown: pd.DataFrame, inputs: Iterable[str]) -> dict[int, pd.DataFrame]:
    """Compute an item's values separately for each seed.

    Args:
        results: The results folder.
        item: Name of the figure or table.
        shown: The item's CSV.
        inputs: Tables from which the item was drawn, relative to the results folder.

    Returns:
        For each seed, the CSV with that seed's values in the value columns (NaN where the seed has no value). Intervals and all
        other columns are those of the item. Empty if the item has no spread over seeds, or if its tasks have different seeds.

    Raises:
        InputError: If a table is missing or corrupted.
    """
    source = _SOURCES.get(registry.items()[item].drawn_by)
    if source is None:
        return {}
    folders = list(dict.fromkeys(str(Path(name).parent) for name in inputs if Path(name).stem == source.study))
    parts = [_Part(results / folder, source.study) for folder in folders]
    seeds = {tuple(sorted(part.rows["seed"].unique())) for part in parts}
    if len(seeds) != 1 or len(next(iter(seeds))) < 2:
        return {}
    found = {}
    for place, seed in enumerate(next(iter(seeds))):
        own = source.of_seed(parts, OneSeed(place=place), int(seed))
        if source.titles:
            own["task"] = own["task"].replace({part.task: part.title for part in parts})
        keys = [name for name in _KEYS if name in own and name in shown]
        values = _comparable(own[keys]).join(own[list(source.values)])
        merged = _comparable(shown[keys]).merge(values, on=keys, how="left", validate="many_to_one")
        found[int(seed)] = shown.assign(**{name: merged[name].to_numpy() for name in source.values})
    return found


def _comparable(keys: pd.DataFrame) -> pd.DataFrame:
    """Convert key columns so that those of a summary and those of its CSV compare equal.

    Numbers become floats, and missing texts become empty strings.
    """
    numbers = {name: keys[name].astype(float) for name in keys.select_dtypes("number")}
    texts = {name: keys[name].fillna("").astype(str) for name in keys if name not in numbers}
    return keys.assign(**numbers, **texts)


def spread(values: Sequence[float]) -> tuple[float, float, float, int]:
    """Return the minimum, the maximum, the sample standard deviation and the number of the values that are not NaN.

    The first three are NaN for fewer than two such values.
    """
    known = np.asarray([value for value in values if not np.isnan(value)], dtype=float)
    if len(known) < 2:
        return np.nan, np.nan, np.nan, len(known)
    return float(known.min()), float(known.max()), float(known.std(ddof=1)), len(known)


def accuracies(answers: pd.DataFrame) -> pd.DataFrame:
    """Compute a model's accuracy and balanced accuracy on each prompt set, with intervals, and the majority baseline.

    Args:
        answers: icl tables of one or more models, tasks and prompt sets.

    Returns:
        One row per model, task and prompt set: accuracy, the columns of
        :meth:`~icl_lens.statistics.resampling.Estimate.columns`, seed_lowest, seed_highest and seed_sd (of the accuracies of
        single seeds), seeds, and the columns of :func:`icl_lens.statistics.answers.balanced_columns`.
    """
    found = []
    for key, part in answers.groupby(["model", "task", "set"], sort=False):
        right = part.assign(correct=part["gold"] == part["prediction"])
        estimate = scores(right, ["correct"])[:, 0]  # (2,)
        of_seeds = right.groupby("seed")["correct"].mean()
        lowest, highest, sd, seeds = spread(of_seeds.tolist())
        found.append(
            {
                **dict(zip(("model", "task", "set"), key, strict=True)),
                "accuracy": float(estimate.value[0]),
                **estimate[0].columns(),
                "seed_lowest": lowest,
                "seed_highest": highest,
                "seed_sd": sd,
                "seeds": seeds,
                **balanced_columns(estimate[1], majority_baseline(part)),
            }
        )
    return pd.DataFrame(found)


class _Part:
    """A study's table of one model, task and prompt set, with its tensors."""

    def __init__(self, folder: Path, study: str) -> None:
        self.folder, self.study = folder, study
        self.rows, self.metadata = parquet.read(folder / f"{study}.parquet", registry.study(study).schema)
        self.task = self.rows["task"].iloc[0]
        self.title = (self.metadata.get("task") or {}).get("title", self.task)

    def read_tensors(self) -> dict[str, np.ndarray]:
        """Read the study's tensors."""
        return tensors.read(self.folder / f"{self.study}.safetensors")[0]

    def other(self, study: str) -> pd.DataFrame:
        """Read another study's rows of the same prompts."""
        return parquet.read(self.folder / f"{study}.parquet", registry.study(study).schema)[0]


def _together(parts: Sequence[_Part]) -> pd.DataFrame:
    return pd.concat([part.rows for part in parts], ignore_index=True)


def _lows(table: pd.DataFrame, values: Mapping[str, str]) -> pd.DataFrame:
    """Replace the values of a summary by the lower ends of their intervals over prompts.

    In a summary computed with :class:`OneSeed`, this lower end is the seed's value.
    """
    return table.assign(**{value: table[low] for value, low in values.items()})


def _saliency(parts: Sequence[_Part], plan: OneSeed, seed: int) -> pd.DataFrame:
    from icl_lens.studies.anchors.saliency import summary

    return _lows(summary.summarise(_together(parts), plan), {"share": "prompts_low"})


def _isolation(parts: Sequence[_Part], plan: OneSeed, seed: int) -> pd.DataFrame:
    from icl_lens.studies.anchors.isolation import summary

    return _lows(summary.summarise(_together(parts), plan), {"value": "prompts_low"})


def _deep_attention(parts: Sequence[_Part], plan: OneSeed, seed: int) -> pd.DataFrame:
    from icl_lens.studies.anchors.deep_attention import summary

    answers = pd.concat([part.other("icl") for part in parts], ignore_index=True)
    return _lows(summary.summarise(_together(parts), answers, plan)[0], {"value": "prompts_low"})


def _reweighting(parts: Sequence[_Part], plan: OneSeed, seed: int) -> pd.DataFrame:
    from icl_lens.studies.anchors.reweighting import summary

    classes = {part.task: len(part.rows["class_log_probs"].iloc[0]) for part in parts}
    values = {"accuracy": "prompts_low", "balanced_accuracy": "balanced_accuracy_prompts_low"}
    return _lows(summary.summarise(_together(parts), classes, plan), values)


def _compression(parts: Sequence[_Part], plan: OneSeed, seed: int) -> pd.DataFrame:
    from icl_lens.studies.anchors.compression import summary

    values = {name: f"{name}_prompts_low" for name in (*summary.METRICS.values(), "balanced_accuracy")}
    rows = with_gold(_together(parts), pd.concat([part.other("icl") for part in parts], ignore_index=True))
    return _lows(summary.summarise(rows, plan), values)


def _latency(parts: Sequence[_Part], plan: OneSeed, seed: int) -> pd.DataFrame:
    from icl_lens.studies.anchors.latency.summary import accelerations

    rows = _together(parts)
    return accelerations(rows[rows["seed"] == seed])


def _reconstruction(parts: Sequence[_Part], plan: OneSeed, seed: int) -> pd.DataFrame:
    from icl_lens.studies.kernel_regression import reconstruction

    made = [reconstruction.summarise(part.rows, part.read_tensors(), _settings(part), plan) for part in parts]
    return _lows(pd.concat(made, ignore_index=True), {"value": "prompts_low"})


def _heads(parts: Sequence[_Part], plan: OneSeed, seed: int) -> pd.DataFrame:
    from icl_lens.studies.kernel_regression import heads

    made = [heads.by_head(part.rows, _settings(part), plan) for part in parts]
    return _lows(pd.concat(made, ignore_index=True), {"value": "prompts_low"})


def _settings(part: _Part) -> Any:
    """Return the study's settings with a single permutation, because the null distribution is not used here."""
    from icl_lens.studies.kernel_regression.settings import Settings

    known = {key: part.metadata["settings"][key] for key in Settings.model_fields}
    return Settings(**{**known, "permutations": 1})


def _rewritten(parts: Sequence[_Part], plan: OneSeed, seed: int) -> pd.DataFrame:
    from icl_lens.studies.kernel_regression.rewritten import summary

    return _lows(summary.summarise(_together(parts), plan), {"value": "prompts_low"})


def _methods(parts: Sequence[_Part], plan: OneSeed, seed: int) -> pd.DataFrame:
    from icl_lens.studies.component_reweighting.components import summary

    rows = _together(parts)
    by_task = {(part.metadata["model"]["name"], part.task): part.read_tensors() for part in parts}
    return summary.methods(rows[rows["seed"] == seed], by_task)


def _best_and_worst(parts: Sequence[_Part], plan: OneSeed, seed: int) -> pd.DataFrame:
    from icl_lens.studies.component_reweighting.components import summary

    return summary.best_and_worst([_answers(part, seed) for part in parts])


def _answers(part: _Part, seed: int) -> Any:
    """Return the components' predictions for the prompts of one seed."""
    from icl_lens.studies.component_reweighting.components.summary import Answers

    every = Answers.of(part.metadata["model"]["name"], part.task, part.read_tensors(), part.rows)
    own = every.seed == seed  # (N,)
    by_template = ("predictions", "full", "attention", "reconstruction")
    cut = {name: {template: each[own] for template, each in getattr(every, name).items()} for name in by_template}
    return replace(every, **cut, **{name: getattr(every, name)[own] for name in ("gold", "seed", "prompt_id", "units", "half")})


@dataclass(frozen=True)
class _Source:
    """How an item's values are computed for one seed.

    Attributes:
        study: Name of the study table from which the seeds are read.
        of_seed: Function (tables, plan, seed) -> the item's rows.
        values: The value columns.
        titles: Whether the item names tasks by their titles.
    """

    study: str
    of_seed: Callable[[Sequence[_Part], OneSeed, int], pd.DataFrame]
    values: tuple[str, ...] = ("value",)
    titles: bool = False


# Notebook of the item -> how the item's values are computed for one seed.
_SOURCES = {
    "figure_3": _Source("saliency", _saliency, ("share",)),
    "figure_4": _Source("isolation", _isolation),
    "figure_8": _Source("isolation", _isolation),
    "figure_5": _Source("deep_attention", _deep_attention),
    "table_1": _Source("reweighting", _reweighting, ("accuracy", "balanced_accuracy"), titles=True),
    "table_2": _Source("compression", _compression, ("label_loyalty", "word_loyalty", "accuracy", "balanced_accuracy")),
    "table_3": _Source("latency", _latency, ("ratio", "shared")),
    "kr_table_1": _Source("rewritten", _rewritten),
    "kr_table_2": _Source("kernel_regression", _reconstruction),
    "kr_figure_3": _Source("kernel_regression", _heads),
    "cr_table_1": _Source("components", _best_and_worst, ("value", "balanced_accuracy", "heads"), titles=True),
    "cr_table_3": _Source("components", _methods, ("value", "balanced_accuracy"), titles=True),
}

# Columns that together identify a row of an item; an item has some of them.
_KEYS = (
    *("model", "task", "set", "metric", "layer", "head", "target", "side", "layers", "two_classes", "method", "positions"),
    *("together", "quantity", "against", "how", "rewriting", "measure"),
)
