"""Statistics behind the figures and tables of components.

The statistics are accuracies, kinds of components, transfer, methods, agreement with attention, and changes over training. They
follow *When Parts Are Greater Than Sums* (Chang et al., EMNLP 2024), sections 3 to 5. A **run** is one prompt in the paper's
sense: a template and a demonstration set (a seed). As in the paper, an accuracy is the mean over runs, and its spread is the
population standard deviation over runs. The intervals are those of :mod:`icl_lens.statistics.resampling`, over demonstration
sets and test texts; templates are fixed.

**Held-out choice.** The best component of a run is chosen on one half of the test texts and scored on the other half; then the
halves are swapped, and the two scores are averaged over prompts. A text belongs to the same half in each run, and both halves
have the same share of each class (:mod:`icl_lens.statistics.halves`). The worst component is chosen in the same way. The paper
chooses and scores on the same texts; these values are labelled "in sample". They are too high (or too low), so the best one
should be compared only with the expected best of as many guessers.

**Kinds** of components are defined as follows, with M heads and MLPs, C classes, and chance the larger of 1/C and the share of
the most frequent class. The paper describes the kinds in prose; these thresholds are ours:

    biased   predicts one label for at least 99 % of the texts
    good     accuracy at least that of the full model, and above chance (one-sided binomial p < .01 / M)
    bad      accuracy below 1/C - .1, and significantly below 1/C (same test)
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import pandas as pd
from scipy.stats import binom, hypergeom

from icl_lens.statistics import ranks, resampling
from icl_lens.statistics.answers import balanced_columns, majority_baseline
from icl_lens.statistics.answers import scores as accuracies_of
from icl_lens.statistics.halves import chosen_on_other_half, halves, texts_of
from icl_lens.statistics.resampling import (
    OVER_TASKS,
    UNIT,
    Bootstrap,
    Estimate,
    mean_of_known,
    of_weights,
    over_tasks,
    unit_index,
)
from icl_lens.studies.component_reweighting.settings import CALIBRATED, CONTRAST, FEW_SHOT, OWN, PLAIN, REWEIGHTED, STRICT

GOOD, BAD, BIASED, OTHER = COMPONENT_KINDS = ("good", "bad", "label-biased", "other")

# Significance level, minimum share of one label in a biased component, margin below 1/C, and number of the best components that
# are compared.
_SIGNIFICANCE, _BIASED_SHARE, _MARGIN, TOP = 0.01, 0.99, 0.1, 5

FULL, BEST, WORST = "full", "best", "worst"
"""The full model, and the components that answer most and fewest texts correctly: chosen on one half, scored on the other."""

BEST_IN_SAMPLE, WORST_IN_SAMPLE = "best (in sample)", "worst (in sample)"
"""The components that answer most and fewest test texts correctly, scored on the same texts as in the paper."""

GAIN, CHANCE, CHANCE_BEST = "best - full", "chance", "chance_best"
"""The gain of the best component on the texts on which it is not chosen; the larger of 1/C and the majority baseline; and the
expected in-sample accuracy of the best of the same number of components that answer at random."""

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
        units: Columns of :func:`~icl_lens.statistics.resampling.unit_index`, one row per prompt.
        half: Half of the test texts that each prompt belongs to, 0 or 1, shape (N,); see :mod:`icl_lens.statistics.halves`.
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
    units: pd.DataFrame
    half: np.ndarray
    attention: Mapping[str, np.ndarray]
    reconstruction: Mapping[str, np.ndarray]

    @classmethod
    def of(cls, model: str, task: str, tensors: Mapping[str, np.ndarray], rows: pd.DataFrame) -> Answers:
        """Create an instance from the tensors and the table of the study ``components``."""
        units = pd.DataFrame({"task": task, "seed": tensors["seed"], "prompt_id": tensors["prompt_id"]})
        further = [name for name in unit_index(rows) if name not in UNIT]
        units = units.join(rows.drop_duplicates("prompt_id").set_index("prompt_id")[further], on="prompt_id")
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
            units,
            halves(tensors["seed"], texts_of(units), tensors["gold"]),
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

    def full_model(self) -> pd.DataFrame:
        """Return the predictions of the full model for :func:`icl_lens.statistics.answers.accuracy`.

        Returns:
            One row per prompt and main template: the columns of ``units``, model, set (empty), gold, prediction, classes.
        """
        table = self.units.assign(model=self.model, set="", gold=self.gold, classes=self.classes)
        return pd.concat([table.assign(prediction=self.full[name]) for name in self.main_templates], ignore_index=True)

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
    level = chance(gold, classes)
    found = []
    for number, share in zip(correct.tolist(), label_share, strict=True):
        if share >= _BIASED_SHARE:
            found.append(BIASED)
        elif number / texts >= full and level < 1 and binom.sf(number - 1, texts, level) < _SIGNIFICANCE / count:
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
        accuracy, balanced_accuracy, each with its interval with fixed demonstrations (prompts_low, prompts_high,
        balanced_accuracy_prompts_low, balanced_accuracy_prompts_high), majority_baseline, full (accuracy of the full model),
        type (of :data:`COMPONENT_KINDS`), prompts.
    """
    rows = []
    for seed in answers.seeds:
        in_seed = answers.seed == seed
        predictions = answers.predictions[template][in_seed]
        full = float((answers.full[template][in_seed] == answers.gold[in_seed]).mean())
        correct = pd.DataFrame(answers.correct(template)[in_seed]).rename(columns=str)  # (n, M)
        units = answers.units[in_seed].reset_index(drop=True)
        units = units.assign(gold=answers.gold[in_seed])
        both = accuracies_of(units.join(correct), list(correct))  # (2, M)
        estimate, recall = both[0], both[1]
        rows.append(
            answers.components.assign(
                model=answers.model,
                task=answers.task,
                template=template,
                seed=seed,
                share=(predictions == label).mean(0),
                accuracy=estimate.value,
                prompts_low=estimate.prompts_low,
                prompts_high=estimate.prompts_high,
                balanced_accuracy=recall.value,
                balanced_accuracy_prompts_low=recall.prompts_low,
                balanced_accuracy_prompts_high=recall.prompts_high,
                majority_baseline=majority_baseline(units),
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
        value, the columns of :meth:`~icl_lens.statistics.resampling.Estimate.columns` (missing without an interval), those of
        :func:`icl_lens.statistics.answers.balanced_columns` (missing where the value is not an accuracy; without an interval
        where the value has none, and without a majority baseline for a difference), sd (population, over runs), heads (of
        ``best``: the share of prompts whose best component is a head). The measures are :data:`FULL`, :data:`BEST`,
        :data:`WORST`, their difference :data:`GAIN`, :data:`BEST_IN_SAMPLE` and :data:`WORST_IN_SAMPLE` (without an interval),
        :data:`CHANCE`, :data:`CHANCE_BEST`, and the number of ``good``, ``bad`` and ``label-biased`` components per run.
        :data:`BEST`, :data:`WORST` and :data:`GAIN` are missing if no run has two texts.
    """
    rows = []
    for model in dict.fromkeys(each.model for each in answers):
        own = [each for each in answers if each.model == model]
        runs = [(each, template, seed) for each in own for template in each.main_templates for seed in each.seeds]
        prompts = pd.concat([_run_prompts(*run) for run in runs], ignore_index=True)
        means = prompts.groupby(["task", "template", "seed"], sort=False)[[*_ACCURACIES, *_HEADS.values()]].mean().reset_index()
        facts = pd.DataFrame([_run_facts(*run) for run in runs])
        names = [each.task for each in own]
        for task in [*names, OVER_TASKS]:
            tasks = names if task == OVER_TASKS else [task]
            of_tasks, of_runs = prompts[prompts["task"].isin(tasks)], means[means["task"].isin(tasks)]
            held_out = of_tasks.dropna(subset=[BEST])
            for measures, part in (
                ((FULL, BEST_IN_SAMPLE, WORST_IN_SAMPLE), of_tasks),
                ((BEST, WORST, GAIN, CHANCE), held_out),
            ):
                estimate = resampling.mean(part, measures, plan) if len(part) else None
                recall = accuracies_of(part, measures, plan)[1] if len(part) else None
                baseline = majority_baseline(part) if len(part) else np.nan
                for place, measure in enumerate(measures):
                    row = {"model": model, "task": task, "prompts": estimate.prompts if estimate else 0, "measure": measure}
                    row["value"] = float(estimate.value[place]) if estimate else np.nan
                    if estimate and measure not in (BEST_IN_SAMPLE, WORST_IN_SAMPLE):
                        bounds = (-1.0, 1.0) if measure == GAIN else (0.0, 1.0)
                        row |= estimate.apply(lambda means, n=place: means[..., n], bounds).columns()
                        one = recall.apply(lambda means, n=place: means[..., n], bounds)
                        row |= balanced_columns(one, np.nan if measure == GAIN else baseline) if measure != CHANCE else {}
                    elif estimate:
                        row |= {"balanced_accuracy": float(recall.value[place]), "majority_baseline": baseline}
                    if measure in _ACCURACIES:
                        row["sd"] = float(of_runs.groupby("task")[measure].std(ddof=0).mean())
                    if measure in _HEADS:
                        row["heads"] = float(of_runs.groupby("task")[_HEADS[measure]].mean().mean())
                    rows.append(row)
            of_facts = facts[facts["task"].isin(tasks)].groupby("task").mean().mean()
            common = {"model": model, "task": task, "prompts": of_tasks.groupby(["task", "prompt_id"]).ngroups}
            rows += [{**common, "measure": measure, "value": float(value)} for measure, value in of_facts.items()]
    columns = [
        "model",
        "task",
        "measure",
        "value",
        "low",
        "high",
        "prompts_low",
        "prompts_high",
        "balanced_accuracy",
        "balanced_accuracy_low",
        "balanced_accuracy_high",
        "balanced_accuracy_prompts_low",
        "balanced_accuracy_prompts_high",
        "majority_baseline",
        "sd",
        "heads",
        "sets",
        "prompts",
    ]
    return pd.DataFrame(rows).reindex(columns=[*columns, "replicates", "balanced_accuracy_replicates"])


_ACCURACIES = (FULL, BEST, WORST, BEST_IN_SAMPLE, WORST_IN_SAMPLE)
# Measure -> column that says whether its component is a head.
_HEADS = {BEST: "best is a head", BEST_IN_SAMPLE: "best in sample is a head"}


def _run_prompts(answers: Answers, template: str, seed: int) -> pd.DataFrame:
    """Score the full model and the chosen components on each prompt of one run.

    Returns:
        One row per prompt: the columns of ``Answers.units``, template, gold, the accuracies of the full model and of the chosen
        components, :data:`GAIN`, :data:`CHANCE` of the run, and whether the best component is a head. What is chosen on the
        other half is missing if the other half has no prompt.
    """
    in_run = answers.seed == seed
    correct = answers.correct(template)[in_run].astype(float)  # (n, M)
    full = (answers.full[template] == answers.gold)[in_run].astype(float)  # (n,)
    is_head = (answers.components["kind"] == "head").to_numpy(dtype=float)  # (M,)
    place = np.arange(len(correct))
    half = answers.half[in_run]
    best = chosen_on_other_half(half, lambda of: int(correct[of].mean(0).argmax()))  # (n,)
    worst = chosen_on_other_half(half, lambda of: int(correct[of].mean(0).argmin()))  # (n,)
    in_sample = int(correct.mean(0).argmax())
    scores = {
        FULL: full,
        BEST: np.where(best < 0, np.nan, correct[place, best]),
        WORST: np.where(worst < 0, np.nan, correct[place, worst]),
        BEST_IN_SAMPLE: correct[:, in_sample],
        WORST_IN_SAMPLE: correct[:, int(correct.mean(0).argmin())],
        _HEADS[BEST]: np.where(best < 0, np.nan, is_head[best]),
        _HEADS[BEST_IN_SAMPLE]: is_head[in_sample],
    }
    units = answers.units[in_run].reset_index(drop=True)
    level = chance(answers.gold[in_run], answers.classes)
    return units.assign(template=template, gold=answers.gold[in_run], **scores, **{GAIN: scores[BEST] - full, CHANCE: level})


def _run_facts(answers: Answers, template: str, seed: int) -> dict[str, str | float]:
    """Return the best accuracy by chance and the number of components of each kind in one run, by measure, and the task."""
    in_run = answers.seed == seed
    gold, predictions = answers.gold[in_run], answers.predictions[template][in_run]
    full = float((answers.full[template][in_run] == gold).mean())
    found = kinds(predictions, gold, full, answers.classes)
    return {
        "task": answers.task,
        CHANCE_BEST: best_by_chance(len(gold), 1 / answers.classes, predictions.shape[1]),
        **{kind: float((found == kind).sum()) for kind in (GOOD, BAD, BIASED)},
    }


def chance(gold: np.ndarray, classes: int) -> float:
    """Return the larger of 1 / C and the majority baseline."""
    return max(1 / classes, float(np.bincount(gold).max() / len(gold)))


def best_by_chance(texts: int, chance: float, count: int) -> float:
    """Compute the expected accuracy of the best of ``count`` components that are independently correct by chance."""
    above = binom.sf(np.arange(texts), texts, chance)  # P(X >= k) for k = 1 to texts
    return float((1 - (1 - above) ** count).sum() / texts)


_PAIR_MEASURES = {"r": (-1.0, 1.0), "r_apart": (-1.0, 1.0), "iou": (0.0, 1.0), "full": (0.0, 1.0)}
"""Measures of a pair of runs, with their smallest and largest possible value. A run is a template and a seed."""

Run = tuple[str, int]


def transfer(answers: Sequence[Answers], plan: Bootstrap | None = None) -> pd.DataFrame:
    """Compute how similar component accuracies are in two runs, over all pairs of each type.

    Returns:
        One row per model, task (then the mean of tasks), type of pair (:data:`PAIRS`) and measure: model, task, pair, measure,
        value, the columns of :meth:`~icl_lens.statistics.resampling.Estimate.columns`, null (the value without any agreement),
        pairs, prompts. The measures are: ``r``, Pearson's correlation; ``r_apart``, the same over the pairs in which the
        accuracies of the full model differ by more than :data:`LARGE_DIFFERENCE`, NaN if there are no such pairs; ``iou``,
        intersection over union of the :data:`TOP` best components; ``full``, the absolute difference between the accuracies of
        the full model.
    """
    plan = plan or Bootstrap()
    rows = []
    for model in dict.fromkeys(each.model for each in answers):
        own = [each for each in answers if each.model == model]
        estimates = [_agreement(each, plan) for each in own]  # (pairs, measures) each
        nulls = [_iou_by_chance(len(each.components)) for each in own]
        sizes = [[len(_pairs(each, pair)) for pair in PAIRS] for each in own]
        over = over_tasks(estimates)
        for task, estimate, null, counts in [
            *zip([each.task for each in own], estimates, nulls, sizes, strict=True),
            (OVER_TASKS, over, float(np.mean(nulls)), np.sum(sizes, axis=0).tolist()),
        ]:
            for p, pair in enumerate(PAIRS):
                for m, (measure, bounds) in enumerate(_PAIR_MEASURES.items()):
                    one = _unbiased(estimate.apply(lambda v, p=p, m=m: v[..., p, m], bounds))
                    level = {"iou": null, "full": np.nan}.get(measure, 0.0)
                    row = {"model": model, "task": task, "pair": pair, "measure": measure, "value": float(one.value)}
                    rows.append({**row, **one.columns(), "null": level, "pairs": counts[p]})
    return pd.DataFrame(rows)


def _unbiased(estimate: Estimate) -> Estimate:
    """Correct the resamples of an agreement of shape () for bias.

    Accuracies on resampled texts are noisier than accuracies on the full sample, so their correlation is lower. The resamples
    are shifted so that their mean is the value.
    """
    drawn = estimate.over_prompts
    if np.isnan(drawn).all():
        return estimate
    return replace(estimate, over_prompts=np.clip(drawn + estimate.value - np.nanmean(drawn), *estimate.bounds))


def _agreement(answers: Answers, plan: Bootstrap) -> Estimate:
    """Estimate the mean over pairs of runs of each measure of :func:`transfer`, shape (pairs, measures)."""
    pairs = [_pairs(answers, pair) for pair in PAIRS]
    sample = _run_accuracies(answers, np.ones((1, len(answers.gold))))[1]

    def statistic(weights: np.ndarray) -> np.ndarray:
        accuracy, full = _run_accuracies(answers, weights)
        missing = np.full(len(weights), np.nan)
        found = []
        for runs in pairs:
            correlations = [_pearson(accuracy[a], accuracy[b]) for a, b in runs]
            apart = [abs(sample[a][0] - sample[b][0]) > LARGE_DIFFERENCE for a, b in runs]
            far = [r if is_apart else missing for is_apart, r in zip(apart, correlations, strict=True)]
            overlaps = [_iou(accuracy[a], accuracy[b]) for a, b in runs]
            distances = [np.abs(full[a] - full[b]) for a, b in runs]
            measures = (correlations, far, overlaps, distances)
            found.append(np.stack([mean_of_known(each) if each else missing for each in measures], -1))
        return np.stack(found, 1)  # (K, pairs, measures)

    return of_weights(answers.units.set_index(unit_index(answers.units)), statistic, plan)


def _run_accuracies(answers: Answers, weights: np.ndarray) -> tuple[dict[Run, np.ndarray], dict[Run, np.ndarray]]:
    """Compute the accuracies of components and of the full model in each run, NaN for a run without weight.

    Args:
        answers: Answers to N prompts.
        weights: Weights of the prompts, shape (K, N).

    Returns:
        Run -> accuracies of the components, shape (K, M), and run -> accuracies of the full model, shape (K,).
    """
    components, full = {}, {}
    for seed in answers.seeds:
        in_seed = answers.seed == seed
        own = weights[:, in_seed]  # (K, n)
        total = own.sum(1, keepdims=True)  # (K, 1)
        own = np.divide(own, total, out=np.full_like(own, np.nan), where=total > 0)
        for template in answers.templates:
            components[template, seed] = own @ answers.correct(template)[in_seed]  # (K, M)
            full[template, seed] = own @ (answers.full[template] == answers.gold)[in_seed]  # (K,)
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
    """Compute the intersection over union of the :data:`TOP` best entries along the last axis; NaN where an entry is NaN.

    Among equal entries, earlier ones rank higher.
    """
    a, b = (np.argsort(-ranks.without_rounding_errors(x), axis=-1, kind="stable")[..., :TOP] for x in (first, second))
    shared = (a[..., :, None] == b[..., None, :]).any(-1).sum(-1)
    overlap = shared / (a.shape[-1] + b.shape[-1] - shared)
    return np.where(np.isnan(first).any(-1) | np.isnan(second).any(-1), np.nan, overlap)


def _iou_by_chance(count: int) -> float:
    """Compute the expected :func:`_iou` of two random draws from ``count`` components."""
    top = min(TOP, count)
    return float(hypergeom.expect(lambda k: k / (2 * top - k), (count, top, top)))


def methods(rows: pd.DataFrame, tensors: Mapping[tuple[str, str], Mapping[str, np.ndarray]]) -> pd.DataFrame:
    """Compute the accuracy of each method, and the differences between methods that the paper discusses.

    Args:
        rows: Tables of the study ``components`` for one or more models and tasks.
        tensors: Tensors of the study, by model and task.

    Returns:
        One row per model, task (then the mean of tasks) and method (then differences, named ``a - b``): model, task, method,
        labels (number of labels that the method uses, a range over tasks; empty for a difference), value, the columns of
        :meth:`~icl_lens.statistics.resampling.Estimate.columns` and of :func:`icl_lens.statistics.answers.balanced_columns`
        (without a majority baseline for a difference), sd (population, over runs, averaged over tasks), epochs and zeros (for
        re-weighting methods: number of steps, and share of weights at 0).
    """
    kept = rows[rows["template"] != CONTRAST].assign(correct=lambda table: table["gold"] == table["prediction"])
    found = []
    for model, of_model in kept.groupby("model", sort=False):
        tasks = list(dict.fromkeys(of_model["task"]))
        names = list(dict.fromkeys(of_model["method"]))
        units = of_model.pivot_table(
            index=[*unit_index(of_model), "template", "gold"], columns="method", values="correct", aggfunc="first", sort=False
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
            both = accuracies_of(part, names)  # (2, M)
            estimate, recall = both[0], both[1]
            baseline = majority_baseline(part)
            sd = part.groupby(["task", "seed", "template"])[names].mean().groupby("task").std(ddof=0).mean()
            common = {"model": model, "task": task}
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
                        **estimate[place].columns(),
                        **balanced_columns(recall[place], baseline),
                        "sd": float(sd[name]),
                        "epochs": float(np.mean([np.mean(each) for each in steps])) if trained else np.nan,
                        "zeros": float(np.mean([np.mean(each == 0) for each in weights])) if trained else np.nan,
                    }
                )
            for first, second in differences:
                gain, of_recall = (each[names.index(first)] - each[names.index(second)] for each in (estimate, recall))
                row = {**common, "method": f"{first} - {second}", "labels": "", "value": float(gain.value)}
                found.append({**row, **gain.columns(), **balanced_columns(of_recall, np.nan)})
    return pd.DataFrame(found)


def anchor_heads(answers: Sequence[Answers], plan: Bootstrap | None = None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Test whether the heads that attend to label words, reconstruct the model's answer, and answer correctly are the same.

    Returns:
        Two tables. The first has one row per model, task and head: model, task, layer, head and :data:`HEAD_MEASURES`,
        averaged over runs.

        The second has one row per model, task (then the mean of tasks) and pair (:data:`CORRELATIONS`): model, task, pair,
        value (Spearman's correlation of the two measures over heads), the columns of
        :meth:`~icl_lens.statistics.resampling.Estimate.columns`, null_low and null_high (central 95 % interval of the
        correlation when the heads of one measure are shuffled), heads.
    """
    plan = plan or Bootstrap()
    dots, rows = [], []
    for model in dict.fromkeys(each.model for each in answers):
        own = [each for each in answers if each.model == model]
        estimates, nulls = [], []
        for each in own:
            heads = each.components["kind"].to_numpy() == "head"
            measures = _head_measures(each, heads, plan)  # (measures, heads)
            estimates.append(measures.apply(_head_correlations, (-1.0, 1.0)))  # (pairs,)
            generator = np.random.default_rng(plan.seed)
            orders = np.argsort(generator.random((plan.resamples, int(heads.sum()))), axis=-1)  # (R, heads)
            one, other = (measures.value[list(places)] for places in zip(*_CORRELATED, strict=True))  # (pairs, heads) each
            nulls.append(ranks.spearman(one[:, orders], other[:, None]))  # (pairs, R)
            places = each.components.loc[heads, ["layer", "head"]].reset_index(drop=True)
            dots.append(places.assign(model=model, task=each.task, **dict(zip(HEAD_MEASURES, measures.value, strict=True))))
        over = over_tasks(estimates, (-1.0, 1.0)), mean_of_known(nulls)
        for task, estimate, null in [*zip([each.task for each in own], estimates, nulls, strict=True), (OVER_TASKS, *over)]:
            for place, pair in enumerate(CORRELATIONS):
                one = _unbiased(estimate[place])
                known = null[place][~np.isnan(null[place])]
                low, high = np.quantile(known, [0.025, 0.975]) if len(known) else (np.nan, np.nan)
                row = {"model": model, "task": task, "pair": pair, "value": float(one.value), **one.columns()}
                rows.append({**row, "null_low": float(low), "null_high": float(high), "heads": int(heads.sum())})
    return pd.concat(dots, ignore_index=True), pd.DataFrame(rows)


# The two measures of each of CORRELATIONS, by their place in HEAD_MEASURES.
_CORRELATED = [tuple(map(HEAD_MEASURES.index, pair.split(" ~ "))) for pair in CORRELATIONS]


def _head_correlations(measures: np.ndarray) -> np.ndarray:
    """Correlate the measures of heads, shape (..., measures, heads), for each of :data:`CORRELATIONS`; shape (..., pairs)."""
    return np.stack([ranks.spearman(measures[..., one, :], measures[..., other, :]) for one, other in _CORRELATED], -1)


def _head_measures(answers: Answers, heads: np.ndarray, plan: Bootstrap) -> Estimate:
    """Estimate each measure of :data:`HEAD_MEASURES` for each head as the mean over runs, shape (measures, heads)."""
    values = {
        template: np.stack(
            [
                answers.attention[template][:, heads],
                answers.reconstruction[template][:, heads],
                answers.correct(template)[:, heads],
            ]
        ).astype(float)
        for template in answers.main_templates
    }
    over_templates = np.mean(list(values.values()), axis=0)  # (measures, N, heads)

    def statistic(weights: np.ndarray) -> np.ndarray:
        of_seeds = []
        for seed in answers.seeds:
            in_seed = answers.seed == seed
            own = weights[:, in_seed]  # (K, n)
            total = own.sum(1, keepdims=True)  # (K, 1)
            own = np.divide(own, total, out=np.full_like(own, np.nan), where=total > 0)
            of_seeds.append(np.stack([own @ measure[in_seed] for measure in over_templates], 1))  # (K, measures, heads)
        return mean_of_known(of_seeds)

    return of_weights(answers.units.set_index(unit_index(answers.units)), statistic, plan)


def template_accuracies(answers: Answers, first: str = OWN, second: str = CONTRAST) -> pd.DataFrame:
    """Compare each component, and the full model, under two templates.

    Returns:
        One row per component, and one for the full model: model, task, kind (``head``, ``mlp``, or ``full`` for the full
        model), layer, head (NA for the full model, and for the head of an MLP), ``first`` and ``second`` (accuracies under the
        two templates, averaged over seeds), majority_baseline, prompts.
    """
    means = []
    for template in (first, second):
        runs = [answers.accuracy(template, seed) for seed in answers.seeds]
        full = [(answers.full[template] == answers.gold)[answers.seed == seed].mean() for seed in answers.seeds]
        means.append([*np.mean(runs, axis=0), np.mean(full)])
    components = answers.components
    table = components.reindex(range(len(components) + 1))  # layer and head of the full model are missing
    table["kind"] = [*components["kind"], FULL]
    table = table.assign(first=means[0], second=means[1], majority_baseline=majority_baseline(answers.full_model()))
    return table.assign(model=answers.model, task=answers.task, prompts=len(answers.gold))


def accuracy_map(answers: Answers, template: str = OWN) -> np.ndarray:
    """Arrange accuracies as a map, shape (L, H + 1): one row per layer, its heads first and then its MLP.

    Accuracies are averaged over seeds.
    """
    accuracy = np.mean([answers.accuracy(template, seed) for seed in answers.seeds], axis=0)  # (M,)
    return accuracy.reshape(int(answers.components["layer"].max()) + 1, -1)


def over_training(answers: Sequence[Answers], steps: Mapping[str, int], plan: Bootstrap | None = None) -> pd.DataFrame:
    """Compute the accuracies of the full model and of the best component of each run at several training steps.

    The best component is chosen at each step, on other texts than those on which it is scored.

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
