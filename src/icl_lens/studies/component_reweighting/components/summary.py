"""Statistics behind the figures and tables of components.

The statistics are accuracies, kinds of components, transfer, methods, agreement with attention, and changes over training. They
follow *When Parts Are Greater Than Sums* (Chang et al., EMNLP 2024), sections 3 to 5. A **run** is one prompt in the paper's
sense: a template and a demonstration set (a seed). As in the paper, an accuracy is the mean over runs, and its spread is the
population standard deviation over runs. The intervals are 95 % bootstrap intervals over test texts
(:mod:`icl_lens.statistics.resampling`).

**Kinds** of components are defined as follows, with M heads and MLPs, C classes, and chance the larger of 1/C and the share of
the most frequent class. The paper describes the kinds in prose; these thresholds are ours:

    biased   predicts one label for at least 99 % of the texts
    good     accuracy at least that of the full model, and above chance (one-sided binomial p < .01 / M)
    bad      accuracy below 1/C - .1, and significantly below 1/C (same test)
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from scipy.stats import binom, hypergeom

from icl_lens.statistics import ranks, resampling
from icl_lens.statistics.resampling import OVER_TASKS, Bootstrap
from icl_lens.studies.component_reweighting.settings import CALIBRATED, CONTRAST, FEW_SHOT, OWN, PLAIN, REWEIGHTED, STRICT

GOOD, BAD, BIASED, OTHER = COMPONENT_KINDS = ("good", "bad", "label-biased", "other")

# Significance level, minimum share of one label in a biased component, margin below 1/C, and number of the best components that
# are compared.
_SIGNIFICANCE, _BIASED_SHARE, _MARGIN, TOP = 0.01, 0.99, 0.1, 5

FULL, BEST, WORST = MEASURES = ("full", "best", "worst")
"""The full model, and the components that answer most and fewest test texts correctly.

Both components are chosen on the test texts, so they are oracles.
"""

LARGE_DIFFERENCE = 0.1
"""Minimum difference between two accuracies of the full model that counts as large (ours)."""

PAIRS = ("demonstrations", "contrast", "templates")
"""What two runs differ in: the demonstrations only, a minimal change of the template, the template."""

HEAD_MEASURES = ("attention", "reconstruction", "accuracy")
"""Measures of a head.

They are: its attention to label words; how often its attention to demonstrations gives the model's answer, as in kernel
regression (a tie counts as the probability of a fair draw); how often its own output gives the correct answer.
"""

CORRELATIONS = ("attention ~ accuracy", "reconstruction ~ accuracy", "reconstruction ~ attention")
"""Pairs of :data:`HEAD_MEASURES` that are correlated over heads."""


@dataclass(frozen=True)
class Answers:
    """Answers of the components of one model on one task.

    Attributes:
        model: Name of the model.
        task: Name of the task.
        classes: C.
        components: One row per head or MLP, M in total: kind (``head``, ``mlp``), layer and head, which count from 0 (NA for
            the head of an MLP).
        templates: T names, the contrast last.
        predictions: Template -> class indices, shape (N, M).
        full: Template -> class indices of the full model, shape (N,).
        gold: Class indices, shape (N,).
        seed: Seed of each prompt, shape (N,).
        prompt_id: Id of each prompt, shape (N,).
        attention: Template -> attention that each head pays to label words, shape (N, M), NaN for an MLP.
        reconstruction: Template -> whether each head's attention to demonstrations gives the model's answer, shape (N, M), NaN
            for an MLP.
    """

    model: str
    task: str
    classes: int
    components: pd.DataFrame
    templates: tuple[str, ...]
    predictions: Mapping[str, np.ndarray]
    full: Mapping[str, np.ndarray]
    gold: np.ndarray
    seed: np.ndarray
    prompt_id: np.ndarray
    attention: Mapping[str, np.ndarray]
    reconstruction: Mapping[str, np.ndarray]

    @classmethod
    def of(cls, model: str, task: str, tensors: Mapping[str, np.ndarray]) -> Answers:
        """Create an instance from the tensors of the study ``components``."""
        movable = np.flatnonzero((tensors["head"] >= 0) | ((tensors["layer"] >= 0) & (tensors["head"] < 0)))
        layer, head = tensors["layer"][movable], tensors["head"][movable]
        components = pd.DataFrame({"kind": np.where(head >= 0, "head", "mlp"), "layer": layer, "head": head})
        components = components.astype({"layer": "Int64", "head": "Int64"})
        components.loc[head < 0, "head"] = pd.NA
        names = sorted(name.removeprefix("parts_") for name in tensors if name.startswith("parts_"))
        templates = (*(name for name in names if name != CONTRAST), CONTRAST)

        def of_heads(what: str) -> dict[str, np.ndarray]:
            values = {name: tensors[f"{what}_{name}"] for name in templates}  # (N, L, H) each
            return {name: np.where(head >= 0, each[:, layer, np.maximum(head, 0)], np.nan) for name, each in values.items()}

        return cls(
            model,
            task,
            tensors[f"parts_{OWN}"].shape[-1],
            components,
            templates,
            {name: tensors[f"parts_{name}"][:, movable].argmax(-1) for name in templates},
            {name: tensors[f"logits_{name}"].argmax(-1) for name in templates},
            tensors["gold"],
            tensors["seed"],
            tensors["prompt_id"],
            of_heads("attention"),
            of_heads("reconstruction"),
        )

    @property
    def main_templates(self) -> tuple[str, ...]:
        """Templates that accuracies are averaged over: all except the contrast."""
        return self.templates[:-1]

    @property
    def seeds(self) -> list[int]:
        """Seeds in ascending order."""
        return sorted(set(self.seed.tolist()))

    def correct(self, template: str) -> np.ndarray:
        """Return whether each component answers each prompt correctly, shape (N, M)."""
        return self.predictions[template] == self.gold[:, None]

    def accuracy(self, template: str, seed: int) -> np.ndarray:
        """Compute the accuracy of each component in one run, shape (M,)."""
        return self.correct(template)[self.seed == seed].mean(0)

    def full_accuracy(self, template: str) -> float:
        """Compute the accuracy of the full model over all prompts."""
        return float((self.full[template] == self.gold).mean())


def kinds(predictions: np.ndarray, gold: np.ndarray, full: float, classes: int) -> np.ndarray:
    """Classify each component in one run by kind, as defined in the module docstring.

    Args:
        predictions: Class indices, shape (n, M).
        gold: Class indices, shape (n,).
        full: Accuracy of the full model.
        classes: C.

    Returns:
        Values of :data:`COMPONENT_KINDS`, shape (M,).
    """
    texts, count = predictions.shape
    correct = (predictions == gold[:, None]).sum(0)  # (M,)
    label_share = np.max([(predictions == c).mean(0) for c in range(classes)], axis=0)  # (M,)
    chance = max(1 / classes, float(np.bincount(gold).max() / texts))
    found = []
    for number, share in zip(correct.tolist(), label_share, strict=True):
        if share >= _BIASED_SHARE:
            found.append(BIASED)
        elif number / texts >= full and chance < 1 and binom.sf(number - 1, texts, chance) < _SIGNIFICANCE / count:
            found.append(GOOD)
        elif number / texts < 1 / classes - _MARGIN and binom.cdf(number, texts, 1 / classes) < _SIGNIFICANCE / count:
            found.append(BAD)
        else:
            found.append(OTHER)
    return np.array(found)


def scatter(answers: Answers, template: str, label: int = 1) -> pd.DataFrame:
    """Compute how often each component is correct under one template, and how often it predicts one label.

    Returns:
        One row per component and seed: model, task, template, seed, kind, layer, head, share (of answers that are the label),
        accuracy, low, high (of the accuracy, over test texts), full (accuracy of the full model), type (of
        :data:`COMPONENT_KINDS`), prompts.
    """
    rows = []
    for seed in answers.seeds:
        in_seed = answers.seed == seed
        predictions = answers.predictions[template][in_seed]
        full = float((answers.full[template][in_seed] == answers.gold[in_seed]).mean())
        weights = Bootstrap().prompt_weights(answers.task, seed, int(in_seed.sum()))  # (R, n)
        correct = answers.correct(template)[in_seed].astype(float)  # (n, M)
        low, high = np.quantile(weights @ correct / in_seed.sum(), [0.025, 0.975], axis=0)
        rows.append(
            answers.components.assign(
                model=answers.model,
                task=answers.task,
                template=template,
                seed=seed,
                share=(predictions == label).mean(0),
                accuracy=correct.mean(0),
                low=low,
                high=high,
                full=full,
                type=kinds(predictions, answers.gold[in_seed], full, answers.classes),
                prompts=int(in_seed.sum()),
            )
        )
    return pd.concat(rows, ignore_index=True)


def best_and_worst(answers: Sequence[Answers], plan: Bootstrap | None = None) -> pd.DataFrame:
    """Compute accuracies of the full model, the best and the worst component, and the number of components of each kind.

    Returns:
        One row per model, task (then :data:`~icl_lens.statistics.resampling.OVER_TASKS`) and measure: model, task, measure,
        value, low, high (NaN without an interval), sd (population, over runs), heads (of ``best``: the share of runs in which
        it is a head), prompts. The measures are those of :data:`MEASURES`; ``best - full``; ``chance_best``, the expected
        accuracy of the best of the same number of components that answer at random; and the number of ``good``, ``bad`` and
        ``label-biased`` components per run.
    """
    rows = []
    for model in dict.fromkeys(each.model for each in answers):
        own = [each for each in answers if each.model == model]
        tables, counts, sds = [], {}, {}
        for each in own:
            chosen, run_means, heads = [], {measure: [] for measure in MEASURES}, []
            kind_counts = {kind: [] for kind in (GOOD, BAD, BIASED)}
            expected = []
            for template in each.main_templates:
                correct = each.correct(template)
                for seed in each.seeds:
                    in_run = each.seed == seed
                    accuracy = correct[in_run].mean(0)
                    best, worst = int(accuracy.argmax()), int(accuracy.argmin())
                    full = (each.full[template] == each.gold)[in_run]
                    chosen.append(
                        pd.DataFrame(
                            {
                                "task": each.task,
                                "seed": seed,
                                "prompt_id": each.prompt_id[in_run],
                                FULL: full,
                                BEST: correct[in_run, best],
                                WORST: correct[in_run, worst],
                            }
                        )
                    )
                    heads.append(each.components["kind"].iloc[best] == "head")
                    for measure in MEASURES:
                        run_means[measure].append(chosen[-1][measure].mean())
                    found_kinds = kinds(each.predictions[template][in_run], each.gold[in_run], float(full.mean()), each.classes)
                    for kind, numbers in kind_counts.items():
                        numbers.append((found_kinds == kind).sum())
                    expected.append(best_by_chance(int(in_run.sum()), 1 / each.classes, len(accuracy)))
            tables.append(pd.concat(chosen))
            counts[each.task] = {**{kind: float(np.mean(found)) for kind, found in kind_counts.items()}}
            counts[each.task]["chance_best"] = float(np.mean(expected))
            sds[each.task] = {measure: float(np.std(found)) for measure, found in run_means.items()} | {"heads": np.mean(heads)}
        table = pd.concat(tables)
        names = [each.task for each in own]
        for task in [*names, OVER_TASKS]:
            tasks = names if task == OVER_TASKS else [task]
            estimate = resampling.mean(table[table["task"].isin(tasks)], list(MEASURES), plan)
            common = {"model": model, "task": task, "prompts": estimate.prompts}
            for place, measure in enumerate(MEASURES):
                rows.append(
                    {
                        **common,
                        "measure": measure,
                        "value": float(estimate.value[place]),
                        "low": float(estimate.low[place]),
                        "high": float(estimate.high[place]),
                        "sd": float(np.mean([sds[name][measure] for name in tasks])),
                        "heads": float(np.mean([sds[name]["heads"] for name in tasks])) if measure == BEST else np.nan,
                    }
                )
            gain = estimate.apply(lambda values: values[..., 1] - values[..., 0])
            low, high = float(np.quantile(gain.resampled, 0.025)), float(np.quantile(gain.resampled, 0.975))
            rows.append({**common, "measure": "best - full", "value": float(gain.value), "low": low, "high": high})
            for measure in ("chance_best", GOOD, BAD, BIASED):
                rows.append({**common, "measure": measure, "value": float(np.mean([counts[name][measure] for name in tasks]))})
    return pd.DataFrame(rows)


def best_by_chance(texts: int, chance: float, count: int) -> float:
    """Compute the expected accuracy of the best of ``count`` components that are independently correct by chance."""
    above = binom.sf(np.arange(texts), texts, chance)  # P(X >= k) for k = 1 to texts
    return float((1 - (1 - above) ** count).sum() / texts)


# Measures of a pair of runs. A run is a template and a seed.
_MEASURES = ("r", "r_apart", "iou", "full")
Run = tuple[str, int]


def transfer(answers: Sequence[Answers], plan: Bootstrap | None = None) -> pd.DataFrame:
    """Compute how similar component accuracies are in two runs, over all pairs of each type.

    Returns:
        One row per model, task (then the mean of tasks), type of pair (:data:`PAIRS`) and measure: model, task, pair, measure,
        value, low, high (over test texts), null (the value without any agreement), pairs, prompts. The measures are: ``r``,
        Pearson's correlation; ``r_apart``, the same over the pairs in which the accuracies of the full model differ by more
        than :data:`LARGE_DIFFERENCE`, NaN if there are no such pairs; ``iou``, intersection over union of the
        :data:`TOP` best components; ``full``, the absolute difference between the accuracies of the full model.
    """
    plan = plan or Bootstrap()
    rows = []
    for model in dict.fromkeys(each.model for each in answers):
        estimates: dict[tuple[str, str], list[tuple[float, np.ndarray]]] = {}
        nulls: list[float] = []
        sizes: dict[str, int] = {}
        prompts = 0
        for each in (one for one in answers if one.model == model):
            accuracy, full = _run_accuracies(each, plan)
            nulls.append(_iou_by_chance(len(each.components)))
            prompts += len(each.gold)
            for pair in PAIRS:
                found = _pairs(each, pair)
                sizes[pair] = sizes.get(pair, 0) + len(found)
                measured = (
                    _agreement(accuracy, full, found)
                    if found
                    else dict.fromkeys(_MEASURES, np.full(1 + plan.resamples, np.nan))
                )
                own = {measure: (float(values[0]), values[1:]) for measure, values in measured.items()}
                for measure, estimate in own.items():
                    estimates.setdefault((pair, measure), []).append(estimate)
                    rows.append(_transfer_row(model, each.task, pair, measure, estimate, nulls[-1], len(found), len(each.gold)))
        for (pair, measure), found in estimates.items():
            over = float(_mean([np.array(value) for value, _ in found])), _mean([drawn for _, drawn in found])
            rows.append(_transfer_row(model, OVER_TASKS, pair, measure, over, float(np.mean(nulls)), sizes[pair], prompts))
    return pd.DataFrame(rows)


def _agreement(
    accuracy: Mapping[Run, np.ndarray], full: Mapping[Run, np.ndarray], pairs: Sequence[tuple[Run, Run]]
) -> dict[str, np.ndarray]:
    """Compute the mean over pairs of runs of each measure of :func:`transfer`, shape (1 + R,).

    The first entry is the value on the full sample; the others are the values on the resamples.
    """
    both = [(accuracy[a], accuracy[b]) for a, b in pairs]
    correlations = [_pearson(a, b) for a, b in both]
    apart = [abs(full[a][0] - full[b][0]) > LARGE_DIFFERENCE for a, b in pairs]
    return {
        "r": _mean(correlations),
        "r_apart": _mean([np.where(far, r, np.nan) for far, r in zip(apart, correlations, strict=True)]),
        "iou": _mean([_iou(a, b) for a, b in both]),
        "full": _mean([np.abs(full[a] - full[b]) for a, b in pairs]),
    }


def _transfer_row(
    model: str, task: str, pair: str, measure: str, found: tuple[float, np.ndarray], iou: float, pairs: int, prompts: int
) -> dict:
    value, drawn = found
    low, high = _corrected_interval(value, drawn)
    if measure in ("iou", "full"):
        low = max(low, 0.0)  # an overlap or a distance is never negative
    null = {"iou": iou, "full": np.nan}.get(measure, 0.0)
    ends = {"value": value, "low": float(low), "high": float(high), "null": null}
    return {"model": model, "task": task, "pair": pair, "measure": measure, **ends, "pairs": pairs, "prompts": prompts}


def _corrected_interval(value: float, drawn: np.ndarray) -> tuple[float, float]:
    """Compute a 95 % bootstrap interval of an agreement, corrected for bias.

    Accuracies on resampled texts are noisier than accuracies on the full sample, so their correlation is lower. The interval is
    shifted by the difference between the value and the mean of the resamples.
    """
    known = drawn[~np.isnan(drawn)]
    if not len(known):
        return np.nan, np.nan
    ends = np.quantile(known, [0.025, 0.975]) + value - known.mean()
    return max(-1.0, float(ends[0])), min(1.0, float(ends[1]))


def _run_accuracies(answers: Answers, plan: Bootstrap) -> tuple[dict, dict]:
    """Compute the accuracies of components and of the full model in each run, on the full sample and on each resample.

    Returns:
        (template, seed) -> accuracies of the components, shape (1 + R, M), and (template, seed) -> accuracies of the full
        model, shape (1 + R,).
    """
    components, full = {}, {}
    for seed in answers.seeds:
        in_seed = answers.seed == seed
        drawn = plan.prompt_weights(answers.task, seed, int(in_seed.sum()))  # (R, n)
        weights = np.concatenate([np.ones((1, drawn.shape[1])), drawn]) / drawn.shape[1]  # (1 + R, n)
        for template in answers.templates:
            components[template, seed] = weights @ answers.correct(template)[in_seed]  # (1 + R, M)
            full[template, seed] = weights @ (answers.full[template] == answers.gold)[in_seed]  # (1 + R,)
    return components, full


def _pairs(answers: Answers, pair: str) -> list[tuple[tuple[str, int], tuple[str, int]]]:
    if pair == "demonstrations":
        return [((t, a), (t, b)) for t in answers.main_templates for a, b in combinations(answers.seeds, 2)]
    if pair == "contrast":
        return [((OWN, seed), (CONTRAST, seed)) for seed in answers.seeds]
    return [((a, seed), (b, seed)) for seed in answers.seeds for a, b in combinations(answers.main_templates, 2)]


def _pearson(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Compute Pearson's correlation along the last axis; NaN where either input is constant."""
    a, b = (x - x.mean(-1, keepdims=True) for x in (first, second))
    spread = np.sqrt((a * a).sum(-1) * (b * b).sum(-1))
    return np.divide((a * b).sum(-1), spread, out=np.full(spread.shape, np.nan), where=spread > 1e-12)


def _iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Compute the intersection over union of the :data:`TOP` best entries along the last axis.

    Among equal entries, earlier ones rank higher.
    """
    a, b = (np.argsort(-x, axis=-1, kind="stable")[..., :TOP] for x in (first, second))
    shared = (a[..., :, None] == b[..., None, :]).any(-1).sum(-1)
    return shared / (a.shape[-1] + b.shape[-1] - shared)


def _iou_by_chance(count: int) -> float:
    """Compute the expected :func:`_iou` of two random draws from ``count`` components."""
    top = min(TOP, count)
    return float(hypergeom.expect(lambda k: k / (2 * top - k), (count, top, top)))


def _mean(values: Sequence[np.ndarray]) -> np.ndarray:
    """Compute the mean over values that are not NaN; NaN where all values are."""
    stacked = np.stack(values)
    known = ~np.isnan(stacked)
    count = known.sum(0)
    return np.divide(np.where(known, stacked, 0).sum(0), count, out=np.full(count.shape, np.nan), where=count > 0)


def methods(rows: pd.DataFrame, tensors: Mapping[tuple[str, str], Mapping[str, np.ndarray]]) -> pd.DataFrame:
    """Compute the accuracy of each method, and the differences between methods that the paper discusses.

    Args:
        rows: Tables of the study ``components`` for one or more models and tasks.
        tensors: Tensors of the study, by model and task.

    Returns:
        One row per model, task (then the mean of tasks) and method (then differences, named ``a - b``): model, task, method,
        labels (number of labels that the method uses, a range over tasks; empty for a difference), value, low, high, sd
        (population, over runs, averaged over tasks), epochs and zeros (for re-weighting methods: number of steps, and share of
        weights at 0), prompts.
    """
    kept = rows[rows["template"] != CONTRAST].assign(correct=lambda table: table["gold"] == table["prediction"])
    found = []
    for model, of_model in kept.groupby("model", sort=False):
        tasks = list(dict.fromkeys(of_model["task"]))
        names = list(dict.fromkeys(of_model["method"]))
        units = of_model.pivot_table(
            index=["task", "seed", "prompt_id", "template"], columns="method", values="correct", aggfunc="first", sort=False
        )[names].astype(float)
        budgets = sorted({int(name.rpartition("-")[2]) for name in names if name.startswith(f"{FEW_SHOT}-")})
        differences = []
        for budget in budgets:
            differences.append((f"{REWEIGHTED}-{budget}", f"{FEW_SHOT}-{budget}"))
            differences.append((f"{REWEIGHTED}-{budget}", f"{CALIBRATED}-{budget}"))
        differences.append((f"{STRICT}-{budgets[-1]}", f"{FEW_SHOT}-{budgets[-1]}"))
        differences.append((f"{REWEIGHTED}-{budgets[-1]}", PLAIN))
        differences = [pair for pair in differences if set(pair) <= set(names)]
        wide = units.reset_index()
        for task in [*tasks, OVER_TASKS]:
            over = tasks if task == OVER_TASKS else [task]
            part = wide[wide["task"].isin(over)]
            estimate = resampling.mean(part, names)
            sd = part.groupby(["task", "seed", "template"])[names].mean().groupby("task").std(ddof=0).mean()
            common = {"model": model, "task": task, "prompts": estimate.prompts}
            for place, name in enumerate(names):
                labels = sorted(of_model.loc[of_model["task"].isin(over) & (of_model["method"] == name), "labels"].unique())
                steps = [tensors[model, each].get(f"epochs_{name}") for each in over]
                weights = [tensors[model, each].get(f"weights_{name}") for each in over]
                trained = steps[0] is not None
                found.append(
                    {
                        **common,
                        "method": name,
                        "labels": " to ".join(map(str, sorted({labels[0], labels[-1]}))),
                        "value": float(estimate.value[place]),
                        "low": float(estimate.low[place]),
                        "high": float(estimate.high[place]),
                        "sd": float(sd[name]),
                        "epochs": float(np.mean([np.mean(each) for each in steps])) if trained else np.nan,
                        "zeros": float(np.mean([np.mean(each == 0) for each in weights])) if trained else np.nan,
                    }
                )
            for first, second in differences:
                a, b = names.index(first), names.index(second)
                gain = estimate.apply(lambda values, a=a, b=b: values[..., a] - values[..., b])
                low, high = np.quantile(gain.resampled, [0.025, 0.975])
                ends = {"value": float(gain.value), "low": float(low), "high": float(high)}
                found.append({**common, "method": f"{first} - {second}", "labels": "", **ends})
    return pd.DataFrame(found)


def anchor_heads(answers: Sequence[Answers], plan: Bootstrap | None = None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Test whether the heads that attend to label words, reconstruct the model's answer, and answer correctly are the same.

    Returns:
        Two tables. The first has one row per model, task and head: model, task, layer, head and :data:`HEAD_MEASURES`,
        averaged over runs.

        The second has one row per model, task (then the mean of tasks) and pair (:data:`CORRELATIONS`): model, task, pair,
        value (Spearman's correlation of the two measures over heads), low, high (over test texts), null_low and null_high
        (central 95 % interval of the correlation when the heads of one measure are shuffled), heads, prompts.
    """
    plan = plan or Bootstrap()
    dots, rows = [], []
    for model in dict.fromkeys(each.model for each in answers):
        found: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {pair: [] for pair in CORRELATIONS}
        prompts = 0
        for each in (one for one in answers if one.model == model):
            heads = each.components["kind"].to_numpy() == "head"
            means = _head_means(each, heads, plan)
            generator = np.random.default_rng(plan.seed)
            orders = np.argsort(generator.random((plan.resamples, int(heads.sum()))), axis=-1)
            for pair, own in found.items():
                one, other = (means[name] for name in pair.split(" ~ "))
                own.append((ranks.spearman(one, other), ranks.spearman(one[0][orders], other[0])))  # (1 + R,), (R,)
                rows.append(_correlation_row(model, each.task, pair, *own[-1], int(heads.sum()), len(each.gold)))
            prompts += len(each.gold)
            values_of_heads = {name: values[0] for name, values in means.items()}
            places = each.components.loc[heads, ["layer", "head"]].reset_index(drop=True)
            dots.append(places.assign(model=model, task=each.task, **values_of_heads))
        for pair, own in found.items():
            correlation, null = (_mean(list(values)) for values in zip(*own, strict=True))
            rows.append(_correlation_row(model, OVER_TASKS, pair, correlation, null, int(heads.sum()), prompts))
    return pd.concat(dots, ignore_index=True), pd.DataFrame(rows)


def _head_means(answers: Answers, heads: np.ndarray, plan: Bootstrap) -> dict[str, np.ndarray]:
    """Compute each measure of :data:`HEAD_MEASURES`, averaged over runs, shape (1 + R, heads).

    The first row is the value on the full sample; the others are the values on the resamples.
    """
    sums = {name: np.zeros((1 + plan.resamples, int(heads.sum()))) for name in HEAD_MEASURES}
    for seed in answers.seeds:
        in_seed = answers.seed == seed
        weights = plan.prompt_weights(answers.task, seed, int(in_seed.sum()))
        weights = np.concatenate([np.ones((1, weights.shape[1])), weights]) / weights.shape[1]  # (1 + R, n)
        for template in answers.main_templates:
            read = (answers.attention[template], answers.reconstruction[template], answers.correct(template))
            for name, values in zip(HEAD_MEASURES, read, strict=True):
                sums[name] += weights @ values[in_seed][:, heads]
    return {name: total / (len(answers.seeds) * len(answers.main_templates)) for name, total in sums.items()}


def _correlation_row(model: str, task: str, pair: str, found: np.ndarray, null: np.ndarray, heads: int, prompts: int) -> dict:
    def ends(values: np.ndarray) -> np.ndarray:
        known = values[~np.isnan(values)]
        return np.quantile(known, [0.025, 0.975]) if len(known) else np.full(2, np.nan)

    (low, high), (null_low, null_high) = _corrected_interval(float(found[0]), found[1:]), ends(null)
    row = {"model": model, "task": task, "pair": pair, "value": float(found[0]), "low": float(low), "high": float(high)}
    return {**row, "null_low": float(null_low), "null_high": float(null_high), "heads": heads, "prompts": prompts}


def template_accuracies(answers: Answers, first: str = OWN, second: str = CONTRAST) -> pd.DataFrame:
    """Compare each component, and the full model, under two templates.

    Returns:
        One row per component, and one for the full model: model, task, kind (``head``, ``mlp``, or ``full`` for the full
        model), layer, head (NA for the full model, and for the head of an MLP), ``first`` and ``second`` (accuracies under the
        two templates, averaged over seeds), prompts.
    """
    means = []
    for template in (first, second):
        runs = [answers.accuracy(template, seed) for seed in answers.seeds]
        full = [(answers.full[template] == answers.gold)[answers.seed == seed].mean() for seed in answers.seeds]
        means.append([*np.mean(runs, axis=0), np.mean(full)])
    components = answers.components
    table = components.reindex(range(len(components) + 1))  # layer and head of the full model are missing
    table["kind"] = [*components["kind"], FULL]
    table = table.assign(first=means[0], second=means[1])
    return table.assign(model=answers.model, task=answers.task, prompts=len(answers.gold))


def accuracy_map(answers: Answers, template: str = OWN) -> np.ndarray:
    """Arrange accuracies as a map, shape (L, H + 1): one row per layer, its heads first and then its MLP.

    Accuracies are averaged over seeds.
    """
    accuracy = np.mean([answers.accuracy(template, seed) for seed in answers.seeds], axis=0)  # (M,)
    return accuracy.reshape(int(answers.components["layer"].max()) + 1, -1)


def over_training(answers: Sequence[Answers], steps: Mapping[str, int], plan: Bootstrap | None = None) -> pd.DataFrame:
    """Compute the accuracies of the full model and of the best component of each run at several training steps.

    Args:
        answers: Answers of checkpoints of the same model. Their names differ only in a number at the end.
        steps: Model -> its training step.
        plan: How to resample.

    Returns:
        Rows of :func:`best_and_worst` with a step, and with the name of the training run in ``model``. In addition, one row
        with the measure ``sd MEASURE`` for each task (and their mean) and for each of ``full`` and ``best``: the standard
        deviation over the checkpoints after the first third of the steps, with step -1 (NaN if there are fewer than two
        checkpoints).
    """
    table = best_and_worst(answers, plan)
    table["step"] = table["model"].map(steps)
    table["model"] = table["model"].map(_training_run)
    table = table.sort_values("step", kind="stable")
    rows = []
    for (model, task, measure), part in table[table["measure"].isin([FULL, BEST])].groupby(
        ["model", "task", "measure"], sort=False
    ):
        late = part[part["step"] > part["step"].max() / 3]
        sd = float(np.std(late["value"])) if len(late) > 1 else np.nan
        rows.append({"model": model, "task": task, "measure": f"sd {measure}", "value": sd, "step": -1})
    found = pd.concat([table, pd.DataFrame(rows)], ignore_index=True)
    return found.assign(prompts=found["prompts"].fillna(0).astype(int))


def _training_run(model: str) -> str:
    """Strip the step from a model's name: ``organism-step-000010`` becomes ``organism``."""
    return re.sub(r"[-_.]*(step|checkpoint)?[-_.]*[0-9]+$", "", model) or model
