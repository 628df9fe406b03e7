"""Results of the label conditions for the figures and the table, with confidence intervals.

Means are over the prompts of a seed, then over seeds, then over tasks; the intervals are those of
:mod:`icl_lens.statistics.resampling`. A prompt's value is its mean over the draws of a condition. With y the gold class, f(y)
the class whose label word the demonstrations give it, and y_0 the prediction without demonstrations, the metrics are

    truth               the prediction is y
    truth_others        the same, for queries of the classes that no demonstration has as its label (condition ``one``)
    prompt              the prediction is f(y), where f(y) is defined
    prior               the prediction is y_0
    override            the prediction is f(y), for prompts with y_0 = y and f(y) other than y
    calibrated          the calibrated prediction is y (with other label words: f(y))
    calibration_gain    calibrated minus the same of the uncalibrated prediction
    accuracy_loss       truth with gold labels minus truth
    answer_entropy      entropy of the frequencies of the predictions of a seed and draw, divided by log C
    predictive_entropy  mean entropy of the probabilities of the label words, divided by log C
    shown_mass          probability of the label words in the demonstrations, in the vocabulary
    outside_mass        1 minus the sum of the probabilities of the label words
    own_mass            probability of the original label words
    gold_share          share of the demonstrations with their gold label
    loyalty: ...        the prediction with isolated positions is the same (label loyalty)
    overlap: ...        Jaccard index of the five most likely tokens with isolated positions (word loyalty)

Truth and prior are not defined with other label words, because f(y) = y. The override rate does not require that the prediction
is also correct: a prediction cannot be both y and f(y), so such a rate would be 0 by construction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from icl_lens.statistics.resampling import OVER_TASKS, Bootstrap, Estimate, average, mean, mean_of_known, shares, unit_index
from icl_lens.studies.challenges.ch_labels.study import CONDITIONS, DRAWN, ISOLATED, NEW_WORDS, UNDEFINED

SIGNED = ("calibration_gain", "accuracy_loss")
"""Metrics between -1 and 1; all others are between 0 and 1."""

METRICS = (
    *("truth", "truth_others", "prompt", "prior", "override", "calibrated", *SIGNED, "answer_entropy", "predictive_entropy"),
    *("shown_mass", "outside_mass", "own_mass", "gold_share"),
    *(f"{measure}: {name}" for measure in ("loyalty", "overlap") for name in ISOLATED),
)
"""All metrics, in the order of the tables."""

FLOWS = ("s_wp", "s_pq", "s_ww")

LOSSES = {"gold": "", "shown": "shown_"}
"""Loss of the information flow, that of y or of f(y) -> prefix of its columns."""

CONTRAST = "s_pq - s_wp"
"""Metric: difference of two shares, averaged over the first or second half of the layers."""


def summarise(rows: pd.DataFrame, plan: Bootstrap | None = None, metrics: Sequence[str] = METRICS) -> pd.DataFrame:
    """Compute the metrics of each condition, for each model and prompt set.

    Args:
        rows: Tables of the study, of one or more models, tasks and prompt sets.
        plan: Settings of the resampling.
        metrics: The metrics to compute, some of :data:`METRICS`.

    Returns:
        One row per model, set, task (and :data:`~icl_lens.statistics.resampling.OVER_TASKS`), condition and metric that has a
        value: value, the columns of
        :meth:`~icl_lens.statistics.resampling.Estimate.columns`, and seeds.
    """
    return _each(rows, lambda part: _agreement(part, plan or Bootstrap(), metrics))


def flows(rows: pd.DataFrame, plan: Bootstrap | None = None) -> pd.DataFrame:
    """Compute the shares of S_wp, S_pq and S_ww in the flow of each layer, for each condition.

    The shares are those of Figure 3 (:func:`icl_lens.statistics.resampling.shares`), of the flows averaged over the draws.

    Args:
        rows: Tables of the study, of one or more models, tasks and prompt sets.
        plan: Settings of the resampling.

    Returns:
        One row per model, set, task (and :data:`~icl_lens.statistics.resampling.OVER_TASKS`), condition, loss (``gold`` or
        ``shown``), metric and layer, with ``span`` = ``layer``; and with metric :data:`CONTRAST` one each for ``first half``
        and ``second half``, without a layer: value, the columns of
        :meth:`~icl_lens.statistics.resampling.Estimate.columns`, and seeds.
    """
    return _each(rows, lambda part: _shares(part, plan or Bootstrap())).astype({"layer": "Int64"})


def _each(rows: pd.DataFrame, summary: Callable[[pd.DataFrame], list[dict]]) -> pd.DataFrame:
    """Summarise each model and prompt set, over all tasks and for each task."""
    found = []
    for (model, name), of_set in rows.groupby(["model", "set"], sort=False):
        for task, part in [(OVER_TASKS, of_set), *of_set.groupby("task", sort=False)]:
            key = {"model": model, "set": name, "task": task, "seeds": part["seed"].nunique()}
            found += [{**key, **row} for row in summary(part)]
    return pd.DataFrame(found)


def _agreement(rows: pd.DataFrame, plan: Bootstrap, metrics: Sequence[str]) -> list[dict]:
    index = unit_index(rows)
    values = _values(rows)
    wide = values.groupby([*index, "condition"])[[m for m in METRICS if m in values]].mean().unstack("condition")
    truth = wide["truth"]
    for condition in truth:
        if condition not in ("gold", *NEW_WORDS):
            wide["accuracy_loss", condition] = truth["gold"] - truth[condition]
    found: dict[tuple[str, str], Estimate] = {}
    wide = wide[[column for column in wide if column[0] in metrics]]
    for columns, known in _by_prompts(wide):
        part = wide.loc[known, columns].set_axis([", ".join(column) for column in columns], axis=1).reset_index()
        for bounds in ((0.0, 1.0), (-1.0, 1.0)):
            chosen = [column for column in columns if (column[0] in SIGNED) == (bounds[0] < 0)]
            if chosen:
                estimate = mean(part, [", ".join(column) for column in chosen], plan, bounds=bounds)  # (M,)
                found |= {column: estimate[number] for number, column in enumerate(chosen)}
    for condition, part in rows.groupby("condition", sort=False) if "answer_entropy" in metrics else ():
        found["answer_entropy", condition] = _answer_entropy(part, plan)
    return [
        {
            "condition": condition,
            "metric": metric,
            "value": float(found[metric, condition].value),
            **found[metric, condition].columns(),
        }
        for condition in CONDITIONS
        for metric in METRICS
        if (metric, condition) in found
    ]


def _values(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the metrics of each row, except those that need several rows; NaN where a metric is not defined."""
    condition, shown = rows["condition"], rows["shown"]
    has_labels, is_new = condition != "none", condition.isin(NEW_WORDS)
    right, mapped = rows["prediction"] == rows["gold"], rows["prediction"] == shown
    log_probs = [np.asarray(each) for each in rows["log_probs"]]
    normalised = [each - np.logaddexp.reduce(each) for each in log_probs]
    applicable = {
        "truth": (right, ~is_new),
        "truth_others": (right, (condition == "one") & (rows["draw"] != rows["gold"])),
        "prompt": (mapped, shown != UNDEFINED),
        "prior": (rows["prediction"] == rows["zero_shot"], has_labels & ~is_new),
        "override": (
            mapped,
            ~is_new & (rows["zero_shot"] == rows["gold"]) & ~shown.isin([UNDEFINED]) & (shown != rows["gold"]),
        ),
        "calibrated": (rows["calibrated"] == rows["gold"], pd.Series(True, index=rows.index)),
        "shown_mass": (rows["shown_mass"], has_labels),
        "own_mass": (rows["own_mass"], pd.Series(True, index=rows.index)),
        "gold_share": (rows["gold_share"], has_labels & ~is_new),
    }
    values = rows.assign(
        **{name: value.astype(float).where(mask) for name, (value, mask) in applicable.items()},
        calibration_gain=(rows["calibrated"] == rows["gold"]).astype(float) - right,
        outside_mass=[float(np.clip(1 - np.exp(each).sum(), 0, 1)) for each in log_probs],
        predictive_entropy=[float(-(np.exp(each) * each).sum() / np.log(len(each))) for each in normalised],
    )
    for number, name in enumerate(ISOLATED):
        for measure, column in (("loyalty", "isolated_agrees"), ("overlap", "isolated_overlap")):
            values[f"{measure}: {name}"] = [float(each[number]) if len(each) else np.nan for each in rows[column]]
    return values


def _by_prompts(wide: pd.DataFrame) -> Iterator[tuple[list[tuple[str, str]], np.ndarray]]:
    """Yield groups of columns with values for the same prompts, and the mask of these prompts, shape (N,)."""
    known = wide.notna().to_numpy()  # (N, M)
    groups: dict[bytes, list[int]] = {}
    for number in range(known.shape[1]):
        if known[:, number].any():
            groups.setdefault(known[:, number].tobytes(), []).append(number)
    for numbers in groups.values():
        yield [wide.columns[number] for number in numbers], known[:, numbers[0]]


def _answer_entropy(rows: pd.DataFrame, plan: Bootstrap) -> Estimate:
    """Return the entropy of the predictions of one condition: of each seed and draw, then the mean over all."""
    draws = int(rows["draw"].max()) + 1
    classes = {task: len(part["log_probs"].iloc[0]) for task, part in rows.groupby("task")}
    most = max(classes.values())
    index = unit_index(rows)
    units = rows.set_index([*index, "draw"])["prediction"].unstack("draw").sort_index()  # (N, draws)

    def of_seed(part: pd.DataFrame, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        limit = np.log(classes[part.index.get_level_values("task")[0]])

        def entropy(weights: np.ndarray) -> np.ndarray:
            """Return the mean entropy over the draws for weights of the prompts (K, n), shape (K,)."""
            found = []
            for draw in range(draws):
                predictions = part[draw]
                if predictions.isna().any():  # a task with fewer classes has fewer versions of the condition one
                    continue
                counts = weights @ (predictions.to_numpy()[:, None] == np.arange(most))  # (K, C)
                share = counts / counts.sum(1, keepdims=True)
                terms = np.where(share > 0, share * np.log(np.where(share > 0, share, 1)), 0)
                found.append(-terms.sum(1) / limit)
            return np.mean(found, axis=0)

        return entropy(np.ones((1, len(part))))[0], entropy(weights)

    return average(units, of_seed, plan, bounds=(0.0, 1.0))


def _shares(rows: pd.DataFrame, plan: Bootstrap) -> list[dict]:
    found = []
    index = unit_index(rows)
    for condition in (name for name in CONDITIONS if name in set(rows["condition"])):
        for loss, prefix in LOSSES.items():
            columns = [f"{prefix}{name}" for name in FLOWS]
            part = rows[(rows["condition"] == condition) & rows[columns[0]].map(len).gt(0)]
            if part.empty:
                continue
            layers = len(part[columns[0]].iloc[0])
            values = {
                f"{name}, layer {layer}": [each[layer] for each in part[column]]
                for layer in range(layers)
                for name, column in zip(FLOWS, columns, strict=True)
            }
            wide = part[index].assign(**values).groupby(index, as_index=False).mean()
            groups = [[f"{name}, layer {layer}" for name in FLOWS] for layer in range(layers)]
            estimate = shares(wide, groups, plan)  # (L, 3)
            key = {"condition": condition, "loss": loss}
            for place, name in enumerate(FLOWS):
                found += [
                    {**key, "metric": name, "span": "layer", "layer": layer, **_cells(estimate[layer, place])}
                    for layer in range(layers)
                ]
            for span, half in (("first half", range(layers // 2)), ("second half", range(layers // 2, layers))):
                if len(half):
                    contrast = estimate.apply(
                        lambda a, half=half: mean_of_known([a[..., layer, 1] - a[..., layer, 0] for layer in half]), (-1.0, 1.0)
                    )
                    found.append({**key, "metric": CONTRAST, "span": span, "layer": pd.NA, **_cells(contrast)})
    return found


def _cells(estimate: Estimate) -> dict[str, Any]:
    return {"value": float(estimate.value), **estimate.columns()}


def notes_of_conditions(metadata: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the notes of a figure or table about the conditions.

    Args:
        metadata: Metadata of each table that is shown.
    """
    number = metadata[0]["settings"]["draws"]
    draws = "one draw" if number == 1 else f"mean of {number} draws"
    words = [about["new_label_words"] for about in metadata]
    shown = {name: [" ".join(word.strip() for word in each[name]) for each in words if name in each] for name in NEW_WORDS}
    lists = "; ".join(f"{name}: {max(each, key=len)}" for name, each in shown.items() if each)
    longer = [
        f"{name} ({about['model']['name']}: {_range(lengths[name])} tokens, original {_range(lengths['gold'])})"
        for about in metadata
        for lengths in [about["label_word_tokens"]]
        for name in NEW_WORDS
        if name in lengths and lengths[name] != lengths["gold"]
    ]
    return [
        "inverted: label word of the next class. one: the same label word in all demonstrations, mean over the classes. "
        f"{', '.join(DRAWN)} (frequencies of the gold labels for random-true): {draws}; a random label can be the gold label.",
        *([f"Other label words, in the order of the classes: {lists}."] if lists else []),
        *([f"Label words with other numbers of tokens: {'; '.join(dict.fromkeys(longer))}."] if longer else []),
    ]


def _range(lengths: Sequence[int]) -> str:
    low, high = min(lengths), max(lengths)
    return str(low) if low == high else f"{low} to {high}"
