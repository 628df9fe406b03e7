"""Coverage and width of 95 % confidence intervals on simulated studies, for each way to compute an interval.

    .venv/bin/python benchmarks/coverage.py [--runs N] [--methods NAME ...] [--cases NAME ...]
    .venv/bin/python benchmarks/coverage.py --trade

A simulated study has S demonstration sets (seeds), each with n queries. The interval should contain the mean over *all*
demonstration sets and queries that could have been drawn, in 95 % of the studies. The cases were fixed before a method was
chosen. The standard deviation between demonstration sets is that of the accuracy of Gemma 3 270M on real texts (0.12 with one
demonstration per class), and a larger one (0.2).

Cases:

- ``accuracy``: binary outcomes. The accuracy of a demonstration set is beta-distributed; on the scale of logits, a query has an
  effect of standard deviation 1.
- ``ceiling``: the same with a mean accuracy of 0.95.
- ``shares``: the share of one of three positive quantities in their sum, as in S_wp, S_pq and S_ww. The quantities of a prompt
  are log-normal, and the logarithm of the first has an effect of the demonstration set.
- ``AUC``: the area under the ROC curve of the label words' scores, as in Figure 5: a class's score for the prompts in which the
  model predicts the class, against the other prompts.
- ``difference``: the difference of two accuracies on the same prompts, such as a condition and its control.

A further case was added after the method was chosen, to show a limit of each method:

- ``rare``: one demonstration set of 20 has an accuracy of 0.8, and all others of 1.

The queries are either nested in demonstration sets (each set has its own texts) or crossed (all sets have the same texts).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import norm
from scipy.stats import t as student

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

LEVEL = 0.95
SEEDS = (5, 10)
QUERIES = (20, 100)
BETWEEN = (0.12, 0.2)
CLASSES = 4


@dataclass(frozen=True)
class Study:
    """A simulated study.

    Attributes:
        values: Measured columns of each prompt, shape (S, n, M).
        texts: Number of the query's text, shape (S, n).
        truth: The value that the interval should contain.
    """

    values: np.ndarray
    texts: np.ndarray
    truth: float


@dataclass(frozen=True)
class Case:
    """A kind of statistic, and how its studies are drawn.

    Attributes:
        name: Name in the table.
        draw: Function (generator, S sets, effects of T texts) -> function of texts (n,) and set -> values (n, M).
        statistic: Function of the values of a seed (..., n, M) and the weights of its prompts (..., n) -> value (...).
    """

    name: str
    draw: Callable[[np.random.Generator, int, float], Callable[[int, np.ndarray], np.ndarray]]
    statistic: Callable[[np.ndarray, np.ndarray], np.ndarray]


def _logit(p):
    return np.log(p) - np.log1p(-p)


def _expit(x):
    return 1 / (1 + np.exp(-x))


def _beta(generator, mean, deviation, size):
    """Draw from a beta distribution with this mean and standard deviation."""
    total = mean * (1 - mean) / deviation**2 - 1
    return np.clip(generator.beta(mean * total, (1 - mean) * total, size), 1e-6, 1 - 1e-6)


def draw_accuracy(mean):
    def draw(generator, sets, between):
        effect = _logit(_beta(generator, mean, min(between, 0.6 * (1 - mean)), sets))  # (S,)
        return lambda s, text: (generator.random(len(text)) < _expit(effect[s] + text))[:, None].astype(float)

    return draw


def draw_difference(generator, sets, between):
    first = _beta(generator, 0.7, between, sets)
    change = 0.5 * generator.standard_normal(sets) - 0.6  # on the scale of logits, correlated through `first`

    def values(s, text):
        shared = generator.random(len(text))  # one prompt in two conditions
        second = np.where(generator.random(len(text)) < 0.5, shared, generator.random(len(text)))
        base = _logit(first[s]) + text
        return np.stack([shared < _expit(base), second < _expit(base + change[s])], axis=-1).astype(float)

    return values


def draw_shares(generator, sets, between):
    effect = 4 * between * generator.standard_normal(sets)  # on a share of 0.4, a standard deviation of about `between`

    def values(s, text):
        logs = generator.standard_normal((len(text), 3)) + np.stack([effect[s] + 0.5 * text, 0.3 * text, 0 * text], axis=-1)
        return np.exp(logs)

    return values


def draw_auc(generator, sets, between):
    separation = 0.6 + 4 * between * generator.standard_normal(sets)  # AUC about 0.66, its deviation about `between`

    def values(s, text):
        predicted = generator.integers(0, CLASSES, len(text))
        scores = generator.standard_normal((len(text), CLASSES)) + 0.3 * text[:, None]
        scores[np.arange(len(text)), predicted] += separation[s]
        return np.concatenate([scores, predicted[:, None]], axis=-1)

    return values


def mean_statistic(values, weights):
    return (values[..., 0] * weights).sum(-1) / weights.sum(-1)


def difference_statistic(values, weights):
    return ((values[..., 0] - values[..., 1]) * weights).sum(-1) / weights.sum(-1)


def share_statistic(values, weights):
    means = (values * weights[..., None]).sum(-2)  # (..., 3)
    return means[..., 0] / means.sum(-1)


def auc_statistic(values, weights):
    """Return the mean over classes of the AUC; the values (n, C + 1) are the scores of the classes and the predicted class."""
    weights = np.asarray(weights, dtype=float)
    found = []
    for c in range(CLASSES):
        score, positive = values[:, c], values[:, -1] == c  # (n,)
        order = np.argsort(score)
        sorted_weights = weights[..., order]  # (..., n)
        negative = np.where(positive[order], 0, sorted_weights)
        pairs = (np.where(positive[order], sorted_weights, 0) * (negative.cumsum(-1))).sum(-1)
        total = np.where(positive, weights, 0).sum(-1) * np.where(positive, 0, weights).sum(-1)
        found.append(np.divide(pairs, total, out=np.full(np.shape(pairs), np.nan), where=total > 0))
    return np.nanmean(np.stack(found), axis=0)


def draw_rare(generator, sets, between):
    accuracy = np.where(generator.random(sets) < 0.05, 0.8, 1.0)  # (S,)
    return lambda s, text: (generator.random(len(text)) < accuracy[s])[:, None].astype(float)


CASES = (
    Case("accuracy", draw_accuracy(0.7), mean_statistic),
    Case("ceiling", draw_accuracy(0.95), mean_statistic),
    Case("shares", draw_shares, share_statistic),
    Case("AUC", draw_auc, auc_statistic),
    Case("difference", draw_difference, difference_statistic),
    Case("rare", draw_rare, mean_statistic),
)


def simulate(case: Case, generator: np.random.Generator, seeds: int, queries: int, between: float, crossed: bool) -> Study:
    """Draw one study; its truth is filled in by :func:`true_value`."""
    draw = case.draw(generator, seeds, between)
    if crossed:
        texts = np.broadcast_to(np.arange(queries), (seeds, queries))
    else:
        texts = np.arange(seeds * queries).reshape(seeds, queries)
    effects = generator.standard_normal(texts.max() + 1)  # (T,)
    values = np.stack([draw(s, effects[texts[s]]) for s in range(seeds)])  # (S, n, M)
    return Study(values, texts, np.nan)


def true_value(case: Case, between: float, sets: int = 4000, queries: int = 2000) -> float:
    """Return the mean over demonstration sets of the value on very many texts, with a standard error of about 0.003."""
    generator = np.random.default_rng(7)
    draw = case.draw(generator, sets, between)
    ones = np.ones(queries)
    return float(np.mean([case.statistic(draw(s, generator.standard_normal(queries)), ones) for s in range(sets)]))


def _counts(generator: np.random.Generator, resamples: int, size: int) -> np.ndarray:
    """Return how often each of ``size`` units is drawn, shape (R, size)."""
    return generator.multinomial(size, np.full(size, 1 / size), resamples)


class Resamples:
    """The statistic of a study on the whole data and on resamples of prompts, of texts, and of seeds."""

    def __init__(self, study: Study, case: Case, generator: np.random.Generator, resamples: int = 400) -> None:
        self.study, self.case = study, case
        seeds, queries = study.texts.shape
        self.by_seed = np.array([case.statistic(values, np.ones(queries)) for values in study.values])  # (S,)
        self.value = np.nanmean(self.by_seed)
        within = [case.statistic(values, _counts(generator, resamples, queries)) for values in study.values]
        self.within = np.stack(within, axis=1)  # (R, S): prompts resampled within each seed
        counts = _counts(generator, resamples, study.texts.max() + 1)
        shared = [case.statistic(values, counts[:, text]) for values, text in zip(study.values, study.texts, strict=True)]
        self.shared = np.stack(shared, axis=1)  # (R, S): texts resampled, the same for all seeds
        self.seeds = _counts(generator, resamples, seeds)  # (R, S)
        self.crossed = len(np.unique(study.texts)) < study.texts.size


def prompts_only(drawn: Resamples) -> tuple[float, float]:
    """Percentile interval over prompts, with fixed demonstration sets."""
    return tuple(np.nanquantile(np.nanmean(drawn.within, axis=1), [0.025, 0.975]))


def seeds_and_prompts(drawn: Resamples) -> tuple[float, float]:
    """Percentile interval over seeds, then over the prompts of each seed."""
    resampled = np.nansum(drawn.within * drawn.seeds, axis=1) / drawn.seeds.sum(1)
    return tuple(np.nanquantile(resampled, [0.025, 0.975]))


def t_over_seeds(drawn: Resamples) -> tuple[float, float]:
    """Student's t interval of the values of the seeds."""
    seeds = len(drawn.by_seed)
    half = student.ppf(0.975, seeds - 1) * drawn.by_seed.std(ddof=1) / np.sqrt(seeds)
    return drawn.value - half, drawn.value + half


def expanded_percentile(drawn: Resamples) -> tuple[float, float]:
    """Percentile interval over seeds, and over texts if they recur; its quantiles are corrected for few seeds (Hesterberg)."""
    seeds = len(drawn.by_seed)
    values = drawn.shared if drawn.crossed else np.broadcast_to(drawn.by_seed, drawn.within.shape)
    resampled = (values * drawn.seeds).sum(1) / drawn.seeds.sum(1)
    tail = norm.cdf(-np.sqrt(seeds / (seeds - 1)) * student.ppf(0.975, seeds - 1))
    return tuple(np.nanquantile(resampled, [tail, 1 - tail]))


def two_way_t(drawn: Resamples) -> tuple[float, float]:
    """Student's t interval; the variance is that over seeds, and the part of the texts that seeds have in common."""
    seeds = len(drawn.by_seed)
    of_seeds = drawn.by_seed.var(ddof=1) / seeds
    of_texts = (
        max(0.0, np.nanmean(drawn.shared, axis=1).var() - np.nanmean(drawn.within, axis=1).var()) if drawn.crossed else 0.0
    )
    total = of_seeds + of_texts
    if total == 0:
        return drawn.value, drawn.value
    freedom = total**2 / (of_seeds**2 / (seeds - 1) + of_texts**2 / max(1, drawn.study.texts.shape[1] - 1))
    half = student.ppf(0.975, freedom) * np.sqrt(total)
    return drawn.value - half, drawn.value + half


def two_way_logit(drawn: Resamples) -> tuple[float, float]:
    """The interval of :func:`two_way_t` on the scale of logits (delta method), for values between 0 and 1."""
    low, high = two_way_t(drawn)
    value = drawn.value if drawn.case.name != "difference" else (drawn.value + 1) / 2
    half = (high - low) / 2 if drawn.case.name != "difference" else (high - low) / 4
    if not 0 < value < 1:
        return low, high
    ends = _expit(_logit(value) + np.array([-1, 1]) * half / (value * (1 - value)))
    return tuple(ends if drawn.case.name != "difference" else 2 * ends - 1)


def two_way_logit_floor(drawn: Resamples) -> tuple[float, float]:
    """The main interval: that of :func:`two_way_logit`, with a variance over seeds that is at least that over prompts."""
    seeds = len(drawn.by_seed)
    prompts = np.nanmean(drawn.within, axis=1).var(ddof=1)
    of_seeds = max(drawn.by_seed.var(ddof=1) / seeds, prompts)
    of_texts = max(0.0, np.nanmean(drawn.shared, axis=1).var(ddof=1) - prompts) if drawn.crossed else 0.0
    total = of_seeds + of_texts
    is_difference = drawn.case.name == "difference"
    value = (drawn.value + 1) / 2 if is_difference else drawn.value
    if not 0 < value < 1:  # all prompts agree: the exact binomial interval
        beyond = 1 - 0.025 ** (1 / drawn.study.texts.size)
        ends = np.array([0, beyond] if value <= 0 else [1 - beyond, 1])
    else:
        freedom = total**2 / (of_seeds**2 / (seeds - 1) + of_texts**2 / max(1, drawn.study.texts.max()))
        half = student.ppf(0.975, freedom) * np.sqrt(total) / (2 if is_difference else 1)
        ends = _expit(_logit(value) + np.array([-1, 1]) * half / (value * (1 - value)))
    return tuple(2 * ends - 1 if is_difference else ends)


METHODS = {
    function.__name__: function
    for function in (
        prompts_only,
        seeds_and_prompts,
        t_over_seeds,
        expanded_percentile,
        two_way_t,
        two_way_logit,
        two_way_logit_floor,
    )
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--cases", nargs="+", default=[case.name for case in CASES], choices=[case.name for case in CASES])
    parser.add_argument("--trade", action="store_true", help="instead, divide 500 prompts among demonstration sets")
    arguments = parser.parse_args()
    if arguments.trade:
        trade(arguments.runs)
        return
    titles = " | ".join(name.replace("_", " ") for name in arguments.methods)
    print(f"| case | sd between sets | sets | queries | texts | {titles} |")
    print("|---" * (5 + len(arguments.methods)) + "|")
    for case in (case for case in CASES if case.name in arguments.cases):
        for between in BETWEEN:
            truth = true_value(case, between)
            for seeds in SEEDS:
                for queries in QUERIES:
                    for crossed in (False, True):
                        cells = coverage(case, between, truth, seeds, queries, crossed, arguments.runs, arguments.methods)
                        texts = "crossed" if crossed else "nested"
                        print(f"| {case.name} | {between} | {seeds} | {queries} | {texts} | {' | '.join(cells)} |", flush=True)


def trade(runs: int, prompts: int = 500) -> None:
    """Print the width of the interval of an accuracy for a constant number of prompts, divided among demonstration sets."""
    print("| sd between sets | texts | sets | queries | coverage (median width) |")
    print("|---|---|---|---|---|")
    case = CASES[0]
    for between in BETWEEN:
        truth = true_value(case, between)
        for crossed in (False, True):
            for seeds in (5, 10, 20, 50):
                queries = prompts // seeds
                cell = coverage(case, between, truth, seeds, queries, crossed, runs, ["two_way_logit_floor"])[0]
                print(f"| {between} | {'crossed' if crossed else 'nested'} | {seeds} | {queries} | {cell} |", flush=True)


def coverage(case, between, truth, seeds, queries, crossed, runs, methods) -> list[str]:
    """Return coverage and median width of each method, as text."""
    generator = np.random.default_rng(1)
    hits, widths = {name: 0 for name in methods}, {name: [] for name in methods}
    for _ in range(runs):
        drawn = Resamples(simulate(case, generator, seeds, queries, between, crossed), case, generator)
        for name in methods:
            low, high = METHODS[name](drawn)
            hits[name] += bool(low <= truth <= high)
            widths[name].append(high - low)
    return [f"{hits[name] / runs:.3f} ({np.median(widths[name]):.3f})" for name in methods]


if __name__ == "__main__":
    main()
