"""Summary of prediction similarity: how it correlates with the attention to a demonstration, for each head.

*In-context learning as kernel regression* (Han et al., TMLR 2025), Figure 4: the Pearson correlation, over pairs of a query and
a demonstration, between s (eq. 9, :mod:`icl_lens.studies.kernel_regression.prediction_similarity.compute`) and a, the attention
of the last position to that demonstration (:mod:`icl_lens.studies.kernel_regression.kernel_regression.compute`). The paper does
not say over which pairs. This module computes the correlation over all pairs of all prompts together (``pooled``), and the mean
of each prompt's own correlation over its demonstrations (``per_prompt``). The pooled correlation also reflects that prompts
differ in the level of both quantities.

The paper compares the map by eye with that of the heads that reconstruct the prediction, and says that they resemble each
other. This module measures the resemblance by the Spearman correlation over heads, and reports how often randomly permuted
heads agree as well. For the correlations, it also reports the largest correlation of all heads, which is chosen in sample, and
compares it with the largest one when the similarities are permuted among a prompt's demonstrations.

Intervals are those of :mod:`icl_lens.statistics.resampling`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from icl_lens.errors import InputError
from icl_lens.statistics.ranks import spearman
from icl_lens.statistics.resampling import Bootstrap, Estimate, of_weights, unit_index
from icl_lens.statistics.weighted_votes import agreement, votes

WAYS = {"pooled": "over all pairs", "per_prompt": "mean over prompts"}
"""Ways to compute a correlation, and their names in notes."""

_KEY = ["model", "set", "task"]

# Numbers of random orders for the two null distributions: of the heads, and of the similarities within prompts.
_PERMUTATIONS = 1000
_SHUFFLES = 200


@dataclass(frozen=True)
class Pairs:
    """Similarity and attention for each prompt of one model, set and task.

    Entries are NaN for demonstrations that a prompt does not have.

    Attributes:
        similarity: Shape (N, D).
        attention: Shape (N, L, H, D).
        agrees: Whether the class that a head reconstructs is the model's prediction, shape (N, L, H).
        units: Columns of :func:`~icl_lens.statistics.resampling.unit_index`, one row per prompt, in the order of seed and
            prompt_id.
    """

    similarity: np.ndarray
    attention: np.ndarray
    agrees: np.ndarray
    units: pd.DataFrame


def pair(similarity: pd.DataFrame, attention: pd.DataFrame, column: str = "max") -> Pairs:
    """Align the rows of both tables for one model, set and task.

    Args:
        similarity: A prediction_similarity table.
        attention: A kernel_regression table: one row per prompt, layer and head with ``column`` and demo_labels (one value per
            demonstration each), and prediction.
        column: Column with the lists of attention values to use.

    Raises:
        InputError: The tables have different prompts or demonstrations, or rows are missing or duplicated.
    """
    similarity = similarity.sort_values(["seed", "prompt_id"], kind="stable")
    ids = similarity["prompt_id"].tolist()
    if similarity["prompt_id"].duplicated().any() or attention.duplicated(["prompt_id", "layer", "head"]).any():
        raise InputError("the tables contain duplicate prompts; pass the rows of one model, task and prompt set")
    if set(attention["prompt_id"]) != set(ids):
        raise InputError("the prediction_similarity and kernel_regression tables have different prompts; create both again")
    layers, heads = (attention[name].nunique() for name in ("layer", "head"))
    if len(attention) != len(ids) * layers * heads:
        raise InputError(
            "the kernel_regression table lacks a layer or head for some prompt; delete the table and create it again"
        )
    place = {prompt_id: number for number, prompt_id in enumerate(ids)}
    attention = attention.assign(place=attention["prompt_id"].map(place)).sort_values(["place", "layer", "head"])
    counts = similarity["similarity"].map(len).to_numpy()  # (N,)
    if (attention[column].map(len).to_numpy() != np.repeat(counts, layers * heads)).any():
        raise InputError(
            "the prediction_similarity and kernel_regression tables have different demonstrations; create both again"
        )
    width = counts.max()

    def padded(lists: pd.Series, fill: float) -> np.ndarray:
        return np.stack([np.pad(np.asarray(v, dtype=float), (0, width - len(v)), constant_values=fill) for v in lists])

    weights = padded(attention[column], np.nan)  # (N * L * H, D)
    per_prompt = attention.iloc[:: layers * heads]
    labels, answers = padded(per_prompt["demo_labels"], -1), per_prompt["prediction"].to_numpy()  # (N, D), (N,)
    by_head = np.nan_to_num(weights).reshape(len(ids), layers * heads, width)  # (N, L * H, D)
    agrees = agreement(votes(by_head, labels, int(max(labels.max(), answers.max())) + 1), answers)  # (N, L * H)
    return Pairs(
        padded(similarity["similarity"], np.nan),
        weights.reshape(len(ids), layers, heads, width),
        agrees.reshape(len(ids), layers, heads),
        similarity[unit_index(similarity)].reset_index(drop=True),
    )


def correlate(pairs: Pairs, plan: Bootstrap | None = None) -> dict[str, Estimate]:
    """Compute the correlations of similarity and attention, and the share of agreement.

    Args:
        pairs: N prompts.
        plan: How to resample.

    Returns:
        ``pooled`` and ``per_prompt`` (see :data:`WAYS`) and ``agreement``, each of shape (L, H); NaN if a correlation is
        undefined (one side is constant). Also ``resemblance: WAY``, the Spearman correlation over heads between each of the two
        and agreement, shape (); it leaves out heads without a correlation.
    """
    shape, count = pairs.attention.shape[1:3], len(pairs.units)
    moments = _moments(pairs.similarity, pairs.attention)  # (N, L * H, 6)
    flat = moments.reshape(count, -1)
    each = _pearson(moments)  # (N, L * H)
    agrees = pairs.agrees.reshape(count, -1).astype(float)

    def statistic(weights: np.ndarray) -> np.ndarray:
        pooled = _pearson((weights @ flat).reshape(len(weights), -1, 6))
        agreed = weights @ agrees / weights.sum(1, keepdims=True)
        return np.stack([pooled, _mean_of_known(each, weights), agreed], 1)  # (K, 3, L * H)

    units = pairs.units.set_index(unit_index(pairs.units))
    together = of_weights(units, statistic, plan or Bootstrap())
    place = {"pooled": 0, "per_prompt": 1, "agreement": 2}
    found = {
        name: together.apply(
            lambda v, n=number: v[..., n, :].reshape(*v.shape[:-2], *shape), (0.0 if name == "agreement" else -1.0, 1.0)
        )
        for name, number in place.items()
    }
    for way in WAYS:
        resemblance = together.apply(lambda v, n=place[way]: _over_heads(v[..., n, :], v[..., 2, :]), (-1.0, 1.0))
        found[f"resemblance: {way}"] = resemblance
    return found


def _over_heads(correlation: np.ndarray, agreement: np.ndarray) -> np.ndarray:
    """Compute the Spearman correlation along the last axis, over the heads that have a correlation in each row."""
    known = ~np.isnan(correlation).reshape(-1, correlation.shape[-1]).any(0)
    if known.sum() < 2:
        return np.full(correlation.shape[:-1], np.nan)
    return spearman(correlation[..., known], agreement[..., known])


def largest_by_chance(pairs: Pairs, plan: Bootstrap | None = None) -> dict[str, float]:
    """Estimate how large the largest correlation of all heads is by chance.

    The similarities s are permuted among the pairs of each prompt. For each way, the result is the value that the largest
    correlation stays below in 95 % of the permutations.
    """
    plan = plan or Bootstrap()
    generator = np.random.default_rng(plan.seed)
    known, similarity, attention = _centred(pairs.similarity, pairs.attention)  # (N, D), (N, D), (N, M, D)
    moments = _moments(pairs.similarity, pairs.attention)  # (N, M, 6)
    found: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(_SHUFFLES):
        # Padding sorts last, so that only existing pairs are permuted.
        order = np.where(known, generator.random(known.shape), 2.0).argsort(1)
        shuffled = np.take_along_axis(similarity, order, 1)  # (N, D)
        moments[..., 5] = (attention @ shuffled[..., None])[..., 0]  # only the product of both changes
        for way, values in (("pooled", _pearson(moments.sum(0))), ("per_prompt", _mean_of_known(_pearson(moments)))):
            found[way].append(values[~np.isnan(values)].max(initial=-1))
    return {way: float(np.quantile(values, plan.level)) for way, values in found.items()}


def agree_by_chance(correlation: np.ndarray, agreement: np.ndarray, plan: Bootstrap | None = None) -> float:
    """Return the share of random orders of the heads that resemble the correlations at least as well as the real order.

    The real order is one of the orders.

    Args:
        correlation: Shape (L, H).
        agreement: Shape (L, H).
        plan: Only its seed is used.
    """
    plan = plan or Bootstrap()
    generator = np.random.default_rng(plan.seed)
    known = ~np.isnan(correlation.ravel())
    one, other = correlation.ravel()[known], agreement.ravel()[known]
    if len(one) < 2:
        return float("nan")
    dealt = np.stack([other, *(generator.permutation(other) for _ in range(_PERMUTATIONS - 1))])
    values = spearman(one, dealt)
    return float((values >= values[0] - 1e-12).mean()) if not np.isnan(values[0]) else float("nan")


def summarise(similarity: pd.DataFrame, attention: pd.DataFrame, plan: Bootstrap | None = None) -> pd.DataFrame:
    """Return all values that the figure shows, as tidy rows.

    Args:
        similarity: prediction_similarity tables for one or more models and tasks.
        attention: kernel_regression tables for the same models and tasks.
        plan: How to resample.

    Raises:
        InputError: A kernel_regression table is missing, or the tables do not match; see :func:`pair`.

    Returns:
        One row per model, set, task, metric, layer and head (both from 0): value, the columns of
        :meth:`~icl_lens.statistics.resampling.Estimate.columns`, by_chance, beyond (value minus by_chance). The metrics are
        ``pooled``, ``per_prompt`` and ``agreement`` (with by_chance and beyond empty); ``largest: WAY``, a second row for the
        head with the largest correlation, chosen in sample and therefore without an interval, with by_chance from
        :func:`largest_by_chance` over all heads; and ``resemblance: WAY``, with layer and head missing and by_chance from
        :func:`agree_by_chance` (a share of orders, so beyond is empty).
    """
    rows = []
    by_key = dict(list(attention.groupby(_KEY)))
    for key, part in similarity.groupby(_KEY, sort=False):
        if key not in by_key:
            raise InputError(f"the kernel_regression table of {key[0]} on {key[2]}, {key[1]} is missing; create it first")
        pairs = pair(part, by_key[key])
        found = correlate(pairs, plan)
        named = dict(zip(_KEY, key, strict=True))
        largest = largest_by_chance(pairs, plan)
        for metric, estimate in found.items():
            of_metric = [_row(metric, estimate, place) for place in np.ndindex(estimate.value.shape)]
            way = metric.removeprefix("resemblance: ")
            if way != metric:
                of_metric[0]["by_chance"] = agree_by_chance(found[way].value, found["agreement"].value, plan)
            known = [row for row in of_metric if not np.isnan(row["value"])]
            if metric in WAYS and known:
                most = max(known, key=lambda row: row["value"])
                of_metric.append(
                    {name: most[name] for name in ("layer", "head", "value", "prompts")}
                    | {"metric": f"largest: {metric}", "by_chance": largest[metric]}
                    | {"beyond": most["value"] - largest[metric]}
                )
            rows += [{**named, **row} for row in of_metric]
    return pd.DataFrame(rows).astype({"layer": "Int64", "head": "Int64"})


def _row(metric: str, estimate: Estimate, place: tuple[int, ...]) -> dict:
    """Build the row of one head, or the row of all heads together if ``place`` is empty."""
    layer, head = place or (None, None)
    one = estimate[place] if place else estimate
    found = {"metric": metric, "layer": layer, "head": head, "value": float(one.value), **one.columns()}
    return {**found, "by_chance": np.nan, "beyond": np.nan}


def _moments(similarity: np.ndarray, attention: np.ndarray) -> np.ndarray:
    """Compute the number of pairs and the sums of s, a, s^2, a^2 and s a, for each prompt and head; shape (N, L * H, 6)."""
    known, s, a = _centred(similarity, attention)
    known, s = known[:, None], s[:, None]  # (N, 1, D)
    parts = [np.broadcast_to(known, a.shape), np.broadcast_to(s, a.shape), a, np.broadcast_to(s * s, a.shape), a * a, s * a]
    return np.stack([part.sum(-1) for part in parts], -1)


def _mean_of_known(values: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Compute weighted means over prompts, without NaN.

    Args:
        values: Shape (N, M).
        weights: Shape (R, N); None for equal weights.

    Returns:
        Shape (R, M), or (M,) for equal weights.
    """
    known = ~np.isnan(values)
    weights = np.ones(len(values)) if weights is None else weights
    total = weights @ known
    return np.divide(weights @ np.where(known, values, 0), total, out=np.full(total.shape, np.nan), where=total > 0)


def _centred(similarity: np.ndarray, attention: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a mask of the existing pairs, and both quantities minus their means over all pairs.

    Centring avoids sums of squares that are differences of large numbers. The shapes are (N, D) for the mask, and (N, D) and
    (N, L * H, D) for the quantities, which are 0 for padding.
    """
    count, width = similarity.shape
    attention = attention.reshape(count, -1, width)  # (N, M, D)
    known = ~np.isnan(similarity)  # (N, D)
    s = np.where(known, similarity - np.nanmean(similarity), 0)  # (N, D)
    a = np.where(known[:, None], attention - np.nanmean(attention, axis=(0, 2))[:, None], 0)  # (N, M, D)
    return known, s, a


def _pearson(moments: np.ndarray) -> np.ndarray:
    """Compute the Pearson correlation from :func:`_moments`, shape (...); NaN if a side is constant."""
    n, s, a, ss, aa, sa = np.moveaxis(moments, -1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        spread_s, spread_a, shared = ss - s * s / n, aa - a * a / n, sa - s * a / n
        # A constant side has a tiny nonzero spread because of rounding.
        varies = (spread_s > 1e-12 * ss) & (spread_a > 1e-12 * aa)
        return np.where(varies, shared / np.sqrt(spread_s * spread_a), np.nan)
