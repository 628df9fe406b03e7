"""Statistics behind the figures of representation change.

The statistics are answers, alignments, probes and attention by condition, and correlations between them. Each number refers to
one model, task and number of distractors. Conditions are paired by their queries, and so are resamples: a query has the same
weight in all conditions, so the interval of a difference is an interval of paired differences. An alignment is resampled as a
weighted correlation of the ranks of the full sample, with weight w_i w_j on pair (i, j), where w_i is the weight of query i. A
query that is drawn twice is never paired with itself.

The column ``contrast`` names a condition (``none``, ``examples``, ``control``) or a difference between two conditions.

The column ``layer`` counts from 0 and is missing in means over layers. For alignments and probes it is the index of a hidden
state: 0 is the embeddings, and l is the output of the l-th of L layers. For attention it is the index of a layer: 0 is the
first of L layers. Means over layers omit the embeddings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd

from icl_lens.artifacts.schema import DEMONSTRATIONS
from icl_lens.statistics import similarity
from icl_lens.statistics.ranks import spearman
from icl_lens.statistics.resampling import Bootstrap, Estimate, of_weights
from icl_lens.statistics.significance import benjamini_hochberg, paired_t, spearman_test, wilcoxon
from icl_lens.studies.representation_change import hypotheses
from icl_lens.studies.representation_change.paired_answers import judged
from icl_lens.studies.representation_change.settings import POOLINGS, SETS, condition_name, probed

# Significance level of q in the share of layers, for claim C4 of the study's checklist.
_LEVEL = 0.05
# Maximum number of entries in a matrix of resampled pairs, to limit memory.
_MAX_ENTRIES = 20_000_000

Condition = tuple[int, bool]
Difference = Callable[[Condition, Condition], Estimate]


def cells(rows: pd.DataFrame) -> list[tuple[dict, pd.DataFrame]]:
    """Return the rows of each model, task and number of distractors, with these three values as a dict."""
    keys = ["model", "task", "distractors"]
    return [(dict(zip(keys, key, strict=True)), part) for key, part in rows.groupby(keys, sort=False)]


def conditions(rows: pd.DataFrame) -> dict[Condition, pd.DataFrame]:
    """Return the rows of each condition, by (examples, control), with queries in order."""
    grouped = rows.groupby(["examples", "control"], sort=True)
    return {(int(k), bool(control)): part.sort_values("query_id") for (k, control), part in grouped}


Bounds = tuple[float, float] | None


def means(values: np.ndarray, rows: pd.DataFrame, plan: Bootstrap, bounds: Bounds = None) -> Estimate:
    """Estimate the mean over queries, ignoring queries without a value.

    Args:
        values: Values of the queries, shape (P, ...).
        rows: Rows of the queries, in the same order.
        plan: How to resample.
        bounds: Smallest and largest possible value.
    """
    values = np.asarray(values, dtype=float)
    flat = values.reshape(len(values), -1)  # (P, X)
    known = ~np.isnan(flat)  # (P, X)
    filled = np.where(known, flat, 0.0)  # (P, X)

    def mean(weights: np.ndarray) -> np.ndarray:
        total = weights @ known  # (R, X)
        found = np.divide(weights @ filled, total, out=np.full(total.shape, np.nan), where=total > 0)  # (R, X)
        return found.reshape(-1, *values.shape[1:])

    return of_weights(_units(rows), mean, plan, bounds)


def _units(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the index of the queries, which is the same in all conditions. Each query has its own examples."""
    task, seeds = f"{rows['task'].iloc[0]} {rows['distractors'].iloc[0]}", rows["seed"].to_numpy()
    index = {"task": task, "seed": seeds[0], "prompt_id": range(len(rows)), DEMONSTRATIONS: range(len(rows))}
    return pd.DataFrame(index=pd.MultiIndex.from_frame(pd.DataFrame(index)))


def differences(
    values: Mapping[Condition, np.ndarray], rows: pd.DataFrame, plan: Bootstrap, bounds: Bounds = None
) -> Difference:
    """Return a function that estimates the difference of two conditions over the queries that have a value in both.

    Args:
        values: Values of the queries in each condition, shape (P, ...).
        rows: Rows of the queries of one condition.
        plan: How to resample.
        bounds: Smallest and largest possible value of a condition.
    """
    of_difference = None if bounds is None else (bounds[0] - bounds[1], bounds[1] - bounds[0])
    return lambda one, other: means(values[one] - values[other], rows, plan, of_difference)


def contrasts(
    by_condition: Mapping[Condition, Estimate], axes: Sequence[tuple[str, Sequence]], difference: Difference | None = None
) -> pd.DataFrame:
    """Arrange conditions and their paired differences as rows.

    Args:
        by_condition: Estimates of all conditions, with the same shape.
        axes: Name and labels of each axis of that shape.
        difference: Function that estimates the difference of two conditions, if some queries have no value in one of them
            (:func:`differences`); by default, the estimates are subtracted.

    Returns:
        One row per number of examples, contrast and cell: examples, contrast, the axes, value and the columns of
        :meth:`~icl_lens.statistics.resampling.Estimate.columns`.
    """
    difference = difference or (lambda one, other: by_condition[one] - by_condition[other])
    tables = []
    for (examples, control), estimate in by_condition.items():
        if not examples:
            shown = {"none": estimate}
        elif control:
            shown = {"control": estimate, "control - none": difference((examples, True), (0, False))}
        else:
            shown = {
                "examples": estimate,
                "examples - none": difference((examples, False), (0, False)),
                "examples - control": difference((examples, False), (examples, True)),
            }
        for contrast, each in shown.items():
            table = pd.DataFrame(product(*(labels for _, labels in axes)), columns=[name for name, _ in axes])
            tables.append(
                table.assign(
                    examples=examples,
                    contrast=contrast,
                    **(Estimate.columns(each.apply(np.atleast_1d, each.bounds)) | {"value": np.ravel(each.value)}),
                )
            )
    return pd.concat(tables, ignore_index=True)


def marked(table: pd.DataFrame) -> pd.DataFrame:
    """Add a column ``which``: ``none``, ``most`` or ``fewer``.

    ``most`` marks the largest number of examples of a model, task and number of distractors.
    """
    most = table.groupby(["model", "task", "distractors"])["examples"].transform("max")
    return table.assign(which=np.where(table["examples"] == 0, "none", np.where(table["examples"] == most, "most", "fewer")))


def over_layers(by_condition: dict[Condition, Estimate]) -> dict[Condition, Estimate]:
    """Compute means over the last axis without its first entry: over layers without the embeddings."""
    return {key: estimate.apply(over_outputs, estimate.bounds) for key, estimate in by_condition.items()}


def over_outputs(values: np.ndarray) -> np.ndarray:
    """Compute the mean over the last axis without its first entry, which is the embeddings."""
    return values[..., 1:].mean(-1)


def behaviour(rows: pd.DataFrame, plan: Bootstrap | None = None) -> pd.DataFrame:
    """Compute the errors of answers.

    Args:
        rows: representation_change tables.
        plan: How to resample.

    Returns:
        One row per cell, measure (error, relative_error, likelihood_error, log_prob, unparsed), number of examples and
        contrast, with value, the columns of ``Estimate.columns``, and for differences t, p_t (paired t-test) and p_wilcoxon.
        For the error rates of the task reading, baseline_error is the error of always answering the most frequent correct
        activity.
    """
    plan, tables = plan or Bootstrap(), []
    for names, part in cells(rows):
        by_condition = {key: judged(each) for key, each in conditions(part).items()}
        for measure in ("error", "relative_error", "likelihood_error", "log_prob", "unparsed"):
            values = {key: _measure(each, measure) for key, each in by_condition.items()}
            share = measure in ("likelihood_error", "unparsed") or (names["task"] == "reading" and measure != "log_prob")
            bounds = (0.0, 1.0) if share else None
            estimates = {key: means(value, by_condition[key], plan, bounds) for key, value in values.items()}
            table = contrasts(estimates, (), differences(values, next(iter(by_condition.values())), plan, bounds))
            tests = [_tests(values, row.examples, row.contrast) for row in table.itertuples()]
            rate = names["task"] == "reading" and measure.endswith("error")
            table["baseline_error"] = 1 - part["truth"].value_counts(normalize=True).max() if rate else np.nan
            tables.append(table.assign(**names, measure=measure, **{k: [t[k] for t in tests] for k in tests[0]}))
    return pd.concat(tables, ignore_index=True)


def _measure(rows: pd.DataFrame, measure: str) -> np.ndarray:
    """Return a measure of answers, shape (P,)."""
    return (~rows["parsed"] if measure == "unparsed" else rows[measure]).to_numpy(dtype=float)


def _tests(values: dict[Condition, np.ndarray], examples: int, contrast: str) -> dict[str, float]:
    """Compute the paired tests of a difference; NaN for a single condition."""
    if " - " not in contrast:
        return {"t": np.nan, "p_t": np.nan, "p_wilcoxon": np.nan}
    conditions_of = {"none": (0, False), "examples": (examples, False), "control": (examples, True)}
    one, other = (values[conditions_of[side]] for side in contrast.split(" - "))
    differences = (one - other)[~np.isnan(one - other)]
    t, p = paired_t(differences)
    return {"t": t, "p_t": p, "p_wilcoxon": wilcoxon(differences)}


def log_ratios(rows: pd.DataFrame, kind: str = "mean", below: str = "irrelevant") -> np.ndarray:
    """Compute log A_l of each prompt and layer, shape (P, L); NaN where a set is empty or gets no attention.

    Args:
        rows: Rows of one condition.
        kind: ``mean``, attention per token as in the definition of A, or ``sum``, attention to all tokens of a set.
        below: The set t that the relevant tokens are compared with.
    """
    averages = []
    for name in ("relevant", below):
        attention = np.stack([np.asarray(each, dtype=float) for each in rows[name]])  # (P, L)
        count = rows[f"{name}_tokens"].to_numpy(dtype=float)[:, None]  # (P, 1)
        averages.append(np.where(count > 0, attention * (count if kind == "sum" else 1.0), np.nan))
    known = (averages[0] > 0) & (averages[1] > 0)
    ratio = np.divide(averages[0], averages[1], out=np.full_like(averages[0], np.nan), where=known)
    return np.log(ratio, out=np.full_like(ratio, np.nan), where=known)


def ratios(rows: pd.DataFrame, plan: Bootstrap | None = None) -> pd.DataFrame:
    """Compute the attention ratio for each layer.

    Returns:
        One row per cell, kind (mean, sum), below (irrelevant; context, the examples' answers), layer, number of examples and
        contrast: value (mean of log A) and the columns of ``Estimate.columns``. ``layer`` 0 is the first layer. ``of`` is
        ``layer`` or ``mean of layers``. A cell without distractors has no irrelevant tokens, so it has no such rows.
    """
    plan, tables = plan or Bootstrap(), []
    for names, part in cells(rows):
        by_condition = conditions(part)
        for below in ("irrelevant", "context"):
            shown = {key: each for key, each in by_condition.items() if (each[f"{below}_tokens"] > 0).any()}
            for kind in ("mean", "sum"):
                values = {key: log_ratios(each, kind, below) for key, each in shown.items()}  # (P, L) each
                estimates = {key: means(value, shown[key], plan) for key, value in values.items()}
                if not estimates or (below == "context" and (0, False) in estimates):
                    continue
                layers = range(len(next(iter(estimates.values())).value))
                if below == "context":  # without examples there is no context, so there are no differences
                    table = pd.concat([_condition_rows(*key, e, layers) for key, e in estimates.items()])
                else:
                    mean = {key: e.apply(lambda v: v.mean(-1)) for key, e in estimates.items()}
                    by_layer = differences(values, next(iter(shown.values())), plan)
                    table = _with_means(
                        contrasts(estimates, [("layer", layers)], by_layer),
                        contrasts(mean, (), lambda one, other, d=by_layer: d(one, other).apply(lambda v: v.mean(-1))),
                    )
                tables.append(table.assign(**names, kind=kind, below=below))
    return pd.concat(tables, ignore_index=True)


def _condition_rows(examples: int, control: bool, estimate: Estimate, layers: Sequence[int]) -> pd.DataFrame:
    """Return the rows of a single condition, one per layer."""
    tables = {"layer": layers, "value": estimate.value, **estimate.columns()}
    name = "control" if control else "examples"
    return pd.DataFrame(tables).assign(examples=examples, contrast=name, of="layer")


def without_interval(estimate: Estimate) -> Estimate:
    """Return an estimate whose intervals are missing."""
    return replace(estimate, over_prompts=np.full((1, *estimate.value.shape), np.nan), left_out=None, over_texts=None)


def _with_means(by_layer: pd.DataFrame, mean: pd.DataFrame) -> pd.DataFrame:
    """Concatenate rows of layers and rows of their means, distinguished by ``of``."""
    return _with_integer_layers(pd.concat([by_layer.assign(of="layer"), mean.assign(of="mean of layers")], ignore_index=True))


def _with_integer_layers(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table whose column ``layer`` has integers and missing values."""
    return table.astype({"layer": "Int64"})


def alignments(rows: pd.DataFrame, tensors: dict[str, np.ndarray], plan: Bootstrap | None = None) -> pd.DataFrame:
    """Compute the alignment with each hypothesis for each layer.

    Args:
        rows: The representation_change table of one model and task.
        tensors: Tensors of the same study.
        plan: How to resample.

    Returns:
        One row per number of distractors, hypothesis, pooling, layer, number of examples and contrast: value (Spearman), the
        columns of ``Estimate.columns`` (intervals of the first pooling only), pearson, partial, cka, mantel_p and its q over
        layers (Benjamini and Hochberg), null_high. ``layer`` 0 is the embeddings. ``of`` is ``layer`` or
        ``mean of layers``. For a contrast that is a difference, pearson, partial and cka are differences too.
    """
    plan, tables = plan or Bootstrap(), []
    for names, part in cells(rows):
        by_condition = conditions(part)
        own = {name: tensors[f"d{names['distractors']}.{name}"].astype(float) for name in _COMPARED_TENSORS}
        labels = hypotheses.names(names["task"], names["distractors"])
        layers = range(own["spearman"].shape[1])
        first = next(iter(by_condition.values()))
        matrices = hypotheses.matrices(first)
        cosine = own["cosine"][:, :, 0]  # (C, L + 1, M)

        def weighted(weights: np.ndarray, cosine=cosine, matrices=matrices) -> np.ndarray:
            return _resampled(cosine, list(matrices.values()), weights).swapaxes(0, 1)  # (R, C, L + 1, H)

        exact = of_weights(_units(first), weighted, plan, (-1.0, 1.0))  # (C, L + 1, H)
        for place, pooling in enumerate(POOLINGS):
            plain = {key: own["spearman"][number, :, place] for number, key in enumerate(by_condition)}  # (L + 1, H) each
            estimates = {
                # The alignment of the other poolings, and of all but the mean over tokens, has no interval.
                key: replace(exact[number] if not place else without_interval(exact[number]), value=value)
                for number, (key, value) in enumerate(plain.items())
            }
            axes = [("layer", layers), ("hypothesis", labels)]
            table = contrasts(estimates, axes)
            for name in ("pearson", "partial", "cka"):
                fixed = {
                    key: replace(without_interval(exact[n]), value=own[name][n, :, place]) for n, key in enumerate(by_condition)
                }
                table[name] = contrasts(fixed, axes)["value"]
            for name in ("mantel_p", "null_high"):
                condition_values = {condition_name(*key): own[name][n, :, place] for n, key in enumerate(by_condition)}
                table[name] = _condition_values(table, condition_values, labels)
            single = table["mantel_p"].notna()
            keys = ["examples", "contrast", "hypothesis"]
            table.loc[single, "mantel_q"] = (
                table[single].groupby(keys)["mantel_p"].transform(lambda p: benjamini_hochberg(p.to_numpy()))
            )
            swapped = {key: e.apply(lambda v: np.swapaxes(v, -1, -2), e.bounds) for key, e in estimates.items()}
            mean = contrasts(over_layers(swapped), [("hypothesis", labels)])
            table = _with_means(table, mean)
            tables.append(table.assign(**names, pooling=pooling))
    return pd.concat(tables, ignore_index=True)


_COMPARED_TENSORS = ("cosine", "spearman", "pearson", "partial", "cka", "mantel_p", "null_high")


def _condition_values(table: pd.DataFrame, values: dict[str, np.ndarray], labels: Sequence[str]) -> list[float]:
    """Return a value for each row that is a single condition; NaN for a difference."""
    place = {name: number for number, name in enumerate(labels)}
    return [
        np.nan
        if " - " in row.contrast
        else values[condition_name(row.examples, row.contrast == "control")][row.layer, place[row.hypothesis]]
        for row in table.itertuples()
    ]


def _resampled(cosine: np.ndarray, matrices: Sequence[np.ndarray], weights: np.ndarray) -> np.ndarray:
    """Compute alignments on resamples of the queries.

    Args:
        cosine: Cosines, shape (C, L + 1, M).
        matrices: H hypotheses, shape (P, P) each.
        weights: Weights of the queries, shape (R, P).

    Returns:
        Alignments, shape (C, R, L + 1, H).
    """
    shape = cosine.shape[:2]
    ranks = similarity.unit_ranks(cosine.reshape(-1, cosine.shape[-1]))  # (S, M); NaN where constant
    hypotheses_ = np.stack([similarity.unit_ranks(similarity.condensed(matrix)) for matrix in matrices])  # (H, M)
    rows, columns = np.triu_indices(weights.shape[1], 1)
    chunks, size = [], max(1, _MAX_ENTRIES // len(rows))
    for start in range(0, len(weights), size):
        pairs = weights[start : start + size, rows] * weights[start : start + size, columns]  # (r, M)
        pairs /= pairs.sum(1, keepdims=True)
        mean, own = pairs @ ranks.T, pairs @ hypotheses_.T  # (r, S), (r, H)
        spread = np.sqrt(np.maximum(pairs @ (ranks**2).T - mean**2, 0))
        wide = np.sqrt(np.maximum(pairs @ (hypotheses_**2).T - own**2, 0))
        shared = np.stack([pairs @ (ranks * h).T for h in hypotheses_], -1) - mean[..., None] * own[:, None]  # (r, S, H)
        norms = spread[..., None] * wide[:, None]
        chunks.append(np.divide(shared, norms, out=np.full_like(shared, np.nan), where=norms > 0))
    drawn = np.concatenate(chunks)  # (R, S, H)
    return drawn.reshape(len(drawn), *shape, -1).swapaxes(0, 1)


def probe_accuracies(rows: pd.DataFrame, tensors: dict[str, np.ndarray], plan: Bootstrap | None = None) -> pd.DataFrame:
    """Compute the accuracy of probes for each layer.

    Returns:
        One row per number of distractors, component, layer, number of examples and contrast: value, the columns of
        ``Estimate.columns``, ``commonest`` (majority baseline). ``layer`` and ``of`` are as in :func:`alignments`.
    """
    plan, tables = plan or Bootstrap(), []
    for names, part in cells(rows):
        by_condition = conditions(part)
        labels = probed(names["task"], names["distractors"])
        correct = tensors[f"d{names['distractors']}.probe"].astype(float)  # (C, L + 1, T, P)
        baselines = dict(zip(labels, tensors[f"d{names['distractors']}.probe_commonest"].astype(float), strict=True))
        values = {key: np.moveaxis(correct[n], -1, 0) for n, key in enumerate(by_condition)}  # (P, L + 1, T) each
        estimates = {key: means(value, by_condition[key], plan, (0.0, 1.0)) for key, value in values.items()}  # (L + 1, T) each
        by_layer = differences(values, next(iter(by_condition.values())), plan, (0.0, 1.0))
        table = contrasts(estimates, [("layer", range(correct.shape[1])), ("component", labels)], by_layer)

        def mean_of_layers(estimate: Estimate) -> Estimate:
            return estimate.apply(lambda v: over_outputs(np.swapaxes(v, -1, -2)), estimate.bounds)

        mean = contrasts(
            {key: mean_of_layers(e) for key, e in estimates.items()},
            [("component", labels)],
            lambda one, other, by_layer=by_layer: mean_of_layers(by_layer(one, other)),
        )
        table = _with_means(table, mean)
        tables.append(table.assign(**names, commonest=table["component"].map(baselines)))
    return pd.concat(tables, ignore_index=True)


def query_alignment(cosine: np.ndarray, hypothesis: np.ndarray) -> np.ndarray:
    """Compute how well each query's similarities to the other queries agree with a hypothesis (Spearman's correlation).

    Args:
        cosine: Condensed cosines, shape (..., M).
        hypothesis: Matrix of the hypothesis, shape (P, P).

    Returns:
        Correlations, shape (..., P); NaN for a query with a constant row of the hypothesis.
    """
    matrix = similarity.square(cosine)  # (..., P, P)
    size = matrix.shape[-1]
    others = ~np.eye(size, dtype=bool)
    to_others = matrix[..., others].reshape(*matrix.shape[:-2], size, size - 1)  # (..., P, P - 1)
    return spearman(to_others, hypothesis[others].reshape(size, size - 1))


def correlations(rows: pd.DataFrame, tensors: dict[str, np.ndarray], permutations: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Correlate, over queries, the improvement of answers with the rise of alignment or of the attention ratio, by layer.

    The largest number of examples is compared with no examples and with its control. For each query, the improvement is the
    decrease of its error or the increase of the log-probability of its correct answer. The change is the increase of its own
    alignment with the task's hypothesis (:func:`query_alignment`) or of its log A.

    Args:
        rows: The representation_change table of one model and task.
        tensors: Tensors of the same study.
        permutations: Number of permutations of the queries for p (two-sided).
        seed: Seed of the permutations.

    Returns:
        One row per number of distractors, contrast (examples - none, examples - control), improvement (error, log_prob), change
        (alignment, attention) and layer: value (Spearman's correlation), p, q (Benjamini and Hochberg over layers), prompts;
        ``of`` is ``layer``. ``layer`` 0 is the embeddings if the change is alignment, and the first layer if it is
        attention. One further row has ``share of layers`` in ``of``: the share of layers, without the embeddings, in which the
        correlation is positive with q below 0.05. The value is empty if all queries improve equally.
    """
    tables = []
    for names, part in cells(rows):
        by_condition = conditions(part)
        most = max(k for k, _ in by_condition)
        cosine = tensors[f"d{names['distractors']}.cosine"][:, :, 0].astype(float)  # (C, L + 1, M)
        matrix = next(iter(hypotheses.matrices(next(iter(by_condition.values()))).values()))
        place = {key: number for number, key in enumerate(by_condition)}
        answers = {key: judged(by_condition[key]) for key in ((0, False), (most, False), (most, True))}
        own = {key: query_alignment(cosine[place[key]], matrix) for key in answers}  # (L + 1, P) each
        ratio = {key: log_ratios(by_condition[key]).T for key in answers}  # (L, P) each
        for contrast, base in (("examples - none", (0, False)), ("examples - control", (most, True))):
            after, before = answers[most, False], answers[base]
            better = {
                "error": (before["error"].to_numpy() - after["error"].to_numpy()).astype(float),
                "log_prob": after["log_prob"].to_numpy() - before["log_prob"].to_numpy(),
            }
            changes = {
                "alignment": own[most, False] - own[base],
                "attention": ratio[most, False] - ratio[base],
            }
            for improvement, gain in better.items():
                for change, values in changes.items():
                    tests = [_correlation(gain, layer, permutations, seed) for layer in values]
                    p = np.array([test[1] for test in tests])
                    by_layer = pd.DataFrame(
                        {
                            "layer": np.arange(len(tests)),
                            "value": [test[0] for test in tests],
                            "p": p,
                            "q": benjamini_hochberg(p),
                            "prompts": [test[2] for test in tests],
                            "of": "layer",
                        }
                    )
                    counted = by_layer.iloc[1:] if change == "alignment" else by_layer  # without the embeddings
                    positive = ((counted["value"] > 0) & (counted["q"] < _LEVEL)).mean()
                    share = {"of": "share of layers", "prompts": by_layer["prompts"].max()}
                    share["value"] = positive if counted["value"].notna().any() else np.nan
                    table = _with_integer_layers(pd.concat([by_layer, pd.DataFrame([share])], ignore_index=True))
                    tables.append(
                        table.assign(**names, examples=most, contrast=contrast, improvement=improvement, change=change)
                    )
    return pd.concat(tables, ignore_index=True)


def _correlation(first: np.ndarray, second: np.ndarray, permutations: int, seed: int) -> tuple[float, float, int]:
    """Compute Spearman's correlation over queries with both values, its p, and the number of these queries."""
    known = ~(np.isnan(first) | np.isnan(second))
    if known.sum() < 4:
        return np.nan, np.nan, int(known.sum())
    return (*spearman_test(first[known], second[known], permutations, seed), int(known.sum()))


def condition_changes(behaviour_: pd.DataFrame, alignments_: pd.DataFrame, ratios_: pd.DataFrame) -> pd.DataFrame:
    """Compute the changes of error, alignment and log A of each condition with examples, averaged over queries and layers.

    Args:
        behaviour_: Result of :func:`behaviour`.
        alignments_: Result of :func:`alignments`.
        ratios_: Result of :func:`ratios`.

    Returns:
        One row per cell, number of examples and contrast (examples - none, control - none): error, alignment, attention.
    """
    keys = ["model", "task", "distractors", "examples", "contrast"]
    wanted = ("examples - none", "control - none")
    own = {task: names[0] for task, names in hypotheses.TASKS.items()}
    error = behaviour_[(behaviour_["measure"] == "error") & behaviour_["contrast"].isin(wanted)]
    aligned = alignments_[
        (alignments_["of"] == "mean of layers")
        & (alignments_["pooling"] == POOLINGS[0])
        & (alignments_["hypothesis"] == alignments_["task"].map(own))
        & alignments_["contrast"].isin(wanted)
    ]
    attended = ratios_[
        (ratios_["of"] == "mean of layers")
        & (ratios_["kind"] == "mean")
        & (ratios_["below"] == SETS[1])
        & ratios_["contrast"].isin(wanted)
    ]
    changes = error[[*keys, "value"]].rename(columns={"value": "error"})
    for name, table in (("alignment", aligned), ("attention", attended)):
        changes = changes.merge(table[[*keys, "value"]].rename(columns={"value": name}), on=keys, how="left")
    return changes
