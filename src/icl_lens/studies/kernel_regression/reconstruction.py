"""Scores of what heads reconstruct, on prompts that were not used to choose the heads.

*In-context learning as kernel regression* (Han et al., TMLR 2025), sections 5.2 and 5.5. Let a_i be a head's attention to
demonstration i (:mod:`icl_lens.studies.kernel_regression.kernel_regression.compute`). The reconstruction

    y~ = argmax_c  sum_i a_i 1[y_i = c] / sum_i a_i

is compared with the model's prediction and with the gold label. If several classes share the largest sum, the score is the
probability that a uniform draw among them gives the target class. A head without information therefore scores at the chance
level.

**Held-out prompts.** The best of all heads scores too high on the prompts that were used to choose it. The head is therefore
chosen on the prompts that are not held out, and scored on the held-out prompts. It is chosen by its agreement with the model's
predictions (our reading of the paper's "correlation"). Ties go to the larger Pearson correlation between a class's share of the
sum and the indicator that this class is the prediction. For two classes, this correlation is probably the paper's statistic;
for more classes, it is the mean over classes. The best head in sample is reported separately, under that name; compare it with
its own null only.

**The null.** The labels of the demonstrations are shuffled within each prompt and the whole procedure is repeated: a head is
chosen by the same function (:func:`choose`), with the same rule for ties, and scored on the held-out prompts. The chance level
therefore accounts for the choice among this number of heads. For the best head in sample, the head is chosen and scored on all
prompts.

**Text kernels** (eq. 6 with K = exp(cos / tau) or K = max(cos, 0), both our choice): tau is tuned, and the best encoder is
chosen, on the same prompts that choose the head.

Intervals are those of :mod:`icl_lens.statistics.resampling`. The chosen head and tau are the same in each resample.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import softmax

from icl_lens.errors import InputError
from icl_lens.statistics.answers import balanced_columns, scores
from icl_lens.statistics.halves import texts_of
from icl_lens.statistics.ranks import without_rounding_errors
from icl_lens.statistics.resampling import Bootstrap, Estimate, unit_index
from icl_lens.statistics.weighted_votes import agreement, votes
from icl_lens.studies.kernel_regression.settings import ENCODERS, POOLINGS, TF_IDF, Settings, held_out

# Temperatures of the exponential kernel. At the smallest, nearly all weight is on the nearest demonstration; at the largest,
# the weights are nearly equal.
TEMPERATURES = np.logspace(-2, 1, 13)

AGAINST = ("model", "truth")
"""Targets that a reconstruction is compared with: the model's own prediction, or the gold label."""

# Values of the table's column `quantity`. Differences are paired. All quantities but the last use held-out prompts.
ICL = "ICL accuracy"
RECONSTRUCTION = "reconstruction"
MINUS_COMMONEST = "reconstruction - commonest answer"
MINUS_ICL = "reconstruction - ICL accuracy"
KERNEL = "text kernel"
MINUS_KERNEL = "reconstruction - text kernel"
MINUS_ENCODER = "reconstruction - best encoder"
IN_SAMPLE = "best head in sample"


@dataclass(frozen=True)
class Attention:
    """Attention of one model to the demonstrations in the prompts of one task.

    Attributes:
        key: Model, set and task.
        layers: Number of layers of the model.
        heads: Layer and head, from 0, for each of H heads.
        ids: The prompt_id of each prompt, shape (N,), in ascending order.
        seeds: The run's seed for each prompt, shape (N,).
        units: One row per prompt, with the columns of :func:`~icl_lens.statistics.resampling.unit_index`.
        gold: Gold class, shape (N,).
        prediction: The model's prediction, shape (N,).
        labels: Class of each demonstration, shape (N, D); -1 for padding if a prompt has fewer than D.
        weights: For each pooling, a_i for each head, shape (N, H, D); 0 for padding if a prompt has fewer than D.
        classes: Number of classes, C.
    """

    key: dict[str, str]
    layers: int
    heads: list[tuple[int, int]]
    ids: np.ndarray
    seeds: np.ndarray
    units: pd.DataFrame
    gold: np.ndarray
    prediction: np.ndarray
    labels: np.ndarray
    weights: dict[str, np.ndarray]
    classes: int

    @property
    def texts(self) -> np.ndarray:
        """The test text of each prompt, shape (N,)."""
        return texts_of(self.units)

    @property
    def targets(self) -> dict[str, np.ndarray]:
        """For each of :data:`AGAINST`, the class that a reconstruction should equal, shape (N,)."""
        return {"model": self.prediction, "truth": self.gold}


def attention(rows: pd.DataFrame) -> Attention:
    """Convert the rows of one model, set and task to arrays.

    Raises:
        InputError: The rows are for several models, sets or tasks, or a prompt lacks a head that another prompt has.
    """
    keys = rows[["model", "set", "task"]].drop_duplicates()
    rows = rows.sort_values(["prompt_id", "layer", "head"])
    heads = list(rows[["layer", "head"]].drop_duplicates().sort_values(["layer", "head"]).itertuples(index=False, name=None))
    prompts = rows.drop_duplicates("prompt_id")
    if len(keys) != 1 or len(rows) != len(heads) * len(prompts) or rows.duplicated(["prompt_id", "layer", "head"]).any():
        raise InputError(
            "the kernel_regression table has missing or duplicate rows; it must have one row per prompt, layer and head of one "
            "model, set and task"
        )
    most = max(map(len, prompts["demo_labels"]))

    def padded(cells: pd.Series, fill: float) -> np.ndarray:
        full = [np.pad(cell, (0, most - len(cell)), constant_values=fill) for cell in cells]
        return np.stack(full)

    labels = padded(prompts["demo_labels"], -1).astype(int)
    gold, prediction = prompts["gold"].to_numpy(), prompts["prediction"].to_numpy()
    return Attention(
        key=keys.iloc[0].to_dict(),
        layers=int(rows["layer"].max()) + 1,
        heads=heads,
        ids=prompts["prompt_id"].to_numpy(),
        seeds=prompts["seed"].to_numpy(),
        units=prompts[unit_index(prompts)].reset_index(drop=True),
        gold=gold,
        prediction=prediction,
        labels=labels,
        weights={name: padded(rows[name], 0).astype(float).reshape(len(prompts), len(heads), most) for name in POOLINGS},
        classes=int(max(labels.max(), gold.max(), prediction.max())) + 1,
    )


def pearson(shares: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Compute the Pearson correlation between a class's share and the indicator that the class is the target.

    The result is the mean over classes. For two classes, both correlations are the same.

    Args:
        shares: Shape (N, H, C).
        target: Shape (N,).

    Returns:
        Shape (H,). The mean is over the classes for which both the share and the indicator vary. It is -1 (the worst value) if
        there are no such classes.
    """
    wanted = (target[:, None] == np.arange(shares.shape[-1])).astype(float)[:, None]  # (N, 1, C)
    one, other = shares - shares.mean(0), wanted - wanted.mean(0)
    spread = np.sqrt((one**2).sum(0) * (other**2).sum(0))  # (H, C)
    known = spread > 1e-12 * len(target)
    each = np.divide((one * other).sum(0), spread, out=np.zeros_like(spread), where=known)
    return np.divide(each.sum(-1), known.sum(-1), out=np.full(len(spread), -1.0), where=known.any(-1))


def choose(shares: np.ndarray, target: np.ndarray, agreed: np.ndarray | None = None) -> int:
    """Return the head that agrees best; ties go to the largest Pearson correlation, then to the first head.

    Args:
        shares: Share of each class, shape (N, H, C).
        target: Shape (N,).
        agreed: The agreement of the shares with the target, shape (N, H), if it is known.

    Raises:
        InputError: There is no prompt.
    """
    if not len(target):
        raise InputError("a head cannot be chosen, because all prompts are held out; use at least two prompts per task")
    mean = without_rounding_errors((agreement(shares, target) if agreed is None else agreed).mean(0))  # (H,)
    best = np.flatnonzero(mean == mean.max())
    return int(best[np.argmax(pearson(shares[:, best], target))])


def shuffled(labels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Shuffle the labels within each row, shape (N, D); padding (-1 at the end of a row) keeps its position."""
    drawn = generator.random(labels.shape)  # (N, D)
    drawn[labels < 0] = 2
    return np.take_along_axis(labels, np.argsort(drawn, 1), 1)


@dataclass(frozen=True)
class Null:
    """Agreement under B permutations of the labels; all arrays have shape (B,).

    A head is chosen in each permutation by :func:`choose`. All values are means over the prompts of a seed, then over seeds, as
    the real ones.

    Attributes:
        held_out: For each of :data:`AGAINST`, the agreement on the held-out prompts of the head that agrees best with the model
            on the other prompts.
        in_sample: For each of :data:`AGAINST`, the agreement on all prompts of the head that agrees best with the model on
            these prompts.
        best: For each of :data:`AGAINST`, the agreement on all prompts of the head with the best agreement with this target on
            these prompts.
    """

    held_out: dict[str, np.ndarray]
    in_sample: dict[str, np.ndarray]
    best: dict[str, np.ndarray]


def null(found: Attention, scored: np.ndarray, settings: Settings) -> Null:
    """Repeat the choice and the scoring with the demonstrations' labels shuffled within each prompt.

    Args:
        found: Attention of the model; only its largest weights (``max``) are used.
        scored: Mask of the held-out prompts, shape (N,).
        settings: Settings with the number of permutations and the seed.
    """
    generator = np.random.default_rng([settings.seed, 1])
    weights, targets = found.weights["max"], found.targets
    chosen, everything = ~scored, np.ones_like(scored)
    drawn = Null(*({name: np.empty(settings.permutations) for name in AGAINST} for _ in range(3)))
    for draw in range(settings.permutations):
        shares = votes(weights, shuffled(found.labels, generator), found.classes)  # (N, H, C)
        agreed = {name: agreement(shares, target) for name, target in targets.items()}
        head = choose(shares[chosen], found.prediction[chosen], agreed["model"][chosen])
        in_sample = choose(shares, found.prediction, agreed["model"])
        for name, target in targets.items():
            best = in_sample if name == "model" else choose(shares, target, agreed[name])
            drawn.held_out[name][draw] = _seed_mean(found, agreed[name][:, head], scored)
            drawn.in_sample[name][draw] = _seed_mean(found, agreed[name][:, in_sample], everything)
            drawn.best[name][draw] = _seed_mean(found, agreed[name][:, best], everything)
    return drawn


def _seed_mean(found: Attention, values: np.ndarray, of: np.ndarray) -> float:
    """Compute the mean of the values, shape (N,), over the selected prompts of a seed, then over seeds."""
    return float(np.mean([values[of & (found.seeds == seed)].mean() for seed in np.unique(found.seeds[of])]))


def p_value(observed: float, drawn: np.ndarray) -> float:
    """Return the share of draws that are at least as large as the observed value, which itself counts as one draw."""
    return float((1 + (drawn >= observed - 1e-12).sum()) / (1 + len(drawn)))


def kernels(cosines: np.ndarray, labels: np.ndarray, target: np.ndarray, chosen: np.ndarray, classes: int) -> dict[str, tuple]:
    """Compute kernel regression (eq. 6) on cosines between texts.

    Args:
        cosines: Shape (N, D); NaN if a prompt has fewer demonstrations.
        labels: Shape (N, D).
        target: Shape (N,).
        chosen: Mask of the prompts on which tau is tuned, shape (N,).
        classes: Number of classes.

    Returns:
        For each kernel, ``exp`` and ``relu``: its agreement with the target, shape (N,), and tau (None for ``relu``).
    """
    known = np.nan_to_num(cosines, nan=-np.inf)[:, None]  # (N, 1, D)
    agreed = [agreement(votes(softmax(known / tau, -1), labels, classes), target)[:, 0] for tau in TEMPERATURES]
    best = int(np.argmax([each[chosen].mean() for each in agreed]))
    relu = agreement(votes(np.maximum(known, 0), labels, classes), target)[:, 0]
    return {"exp": (agreed[best], float(TEMPERATURES[best])), "relu": (relu, None)}


def summarise(
    rows: pd.DataFrame, tensors: Mapping[str, np.ndarray], settings: Settings, plan: Bootstrap | None = None
) -> pd.DataFrame:
    """Compute Table 2 for one model and task.

    Args:
        rows: Rows of the study kernel_regression.
        tensors: Tensors that are stored with the rows.
        settings: Settings of the study.
        plan: How to resample.

    Raises:
        InputError: The rows are invalid (see :func:`attention`), or the tensors belong to other prompts.

    Returns:
        One row per ``quantity``, ``against`` (:data:`AGAINST`) and ``how`` (a pooling or a text kernel): model, set, task,
        these columns, layer and head (from 0; missing if no head is chosen), value and the columns of
        :meth:`~icl_lens.statistics.resampling.Estimate.columns` (except for :data:`IN_SAMPLE`, which has no interval, because
        an interval would have to account for the choice), those of :func:`icl_lens.statistics.answers.balanced_columns` (only
        against the truth, without a majority baseline for a difference), ``commonest`` (share of the most frequent class among
        the model's predictions or the gold labels, on the same prompts), null_95 and p_value (see :func:`null`), same_head
        (whether the Pearson correlation alone chooses the same head), tau, prompts (number of scored prompts), chosen_on
        (number of prompts on which the head is chosen), seeds and note (why there is no value).
    """
    found = attention(rows)
    if not np.array_equal(np.sort(tensors["prompt_id"]), found.ids):
        raise InputError(
            "the tensors of the kernel_regression table belong to other prompts; delete both files and create them again"
        )
    order = np.argsort(tensors["prompt_id"])
    scored = held_out(found.seeds, found.texts, settings)  # (N,)
    chosen = ~scored
    chance = null(found, scored, settings)
    agreements, heads = {}, {}
    for pooling in POOLINGS:
        shares = votes(found.weights[pooling], found.labels, found.classes)
        heads[pooling] = choose(shares[chosen], found.prediction[chosen])
        for name, target in found.targets.items():
            agreements[pooling, name] = agreement(shares, target)  # (N, H)
        if pooling == "max":
            by_pearson = int(np.argmax(pearson(shares[chosen], found.prediction[chosen])))
            in_sample = choose(shares, found.prediction)
    columns = {(ICL, "truth", ""): (found.prediction == found.gold).astype(float)}
    commonest = {}
    for name, target in found.targets.items():
        top = np.bincount(target[scored]).argmax()
        columns["commonest", name] = (target == top).astype(float)
        commonest[name] = float((target[scored] == top).mean())
        for pooling in POOLINGS:
            columns[RECONSTRUCTION, name, pooling] = agreements[pooling, name][:, heads[pooling]]
    taus = {}
    encoders = [name.removeprefix("cosine: ") for name in tensors if name.startswith("cosine: ")]
    for encoder in encoders:
        for name, target in found.targets.items():
            cosines = tensors[f"cosine: {encoder}"][order]
            for kernel, (agreed, tau) in kernels(cosines, found.labels, target, chosen, found.classes).items():
                columns[KERNEL, name, f"{encoder} {kernel}"] = agreed
                taus[name, f"{encoder} {kernel}"] = tau
    estimates, recalls = _means(found, columns, scored, plan)
    table = _Table(found, scored, commonest)
    table.add(ICL, "truth", "", estimates[ICL, "truth", ""], recall=recalls[ICL, "truth", ""])
    for name in AGAINST:
        for pooling in POOLINGS:
            one = estimates[RECONSTRUCTION, name, pooling]
            more = {"head": heads[pooling]}
            if pooling == "max":
                drawn = chance.held_out[name]
                p = p_value(float(one.value), drawn)
                more |= {"null_95": float(np.quantile(drawn, 0.95)), "p_value": p, "same_head": by_pearson == heads[pooling]}
            table.add(RECONSTRUCTION, name, pooling, one, recall=recalls.get((RECONSTRUCTION, name, pooling)), **more)
        table.subtract(MINUS_COMMONEST, name, "max", estimates, recalls, ("commonest", name))
    table.subtract(MINUS_ICL, "truth", "max", estimates, recalls, (ICL, "truth", ""))
    for (name, how), tau in taus.items():
        table.add(KERNEL, name, how, estimates[KERNEL, name, how], recall=recalls.get((KERNEL, name, how)), tau=tau)
    for how in [how for name, how in taus if name == "truth"]:
        table.subtract(MINUS_KERNEL, "truth", how, estimates, recalls, (KERNEL, "truth", how))
    for encoder in ENCODERS:
        if encoder not in encoders:
            table.absent(KERNEL, "truth", encoder, f"not run: no folder of {encoder} is named under {_SETTING}")
    sentence = [how for name, how in taus if name == "truth" and not how.startswith(f"{TF_IDF} ")]
    if sentence:
        best = max(sentence, key=lambda how: _seed_mean(found, columns[KERNEL, "truth", how], chosen))
        table.subtract(MINUS_ENCODER, "truth", best, estimates, recalls, (KERNEL, "truth", best))
    else:
        table.absent(MINUS_ENCODER, "truth", "", f"not run: no sentence encoder is named under {_SETTING}")
    all_prompts = np.ones_like(scored)
    best = {(IN_SAMPLE, name): agreements["max", name][:, in_sample] for name in AGAINST}
    values, recalls = _means(found, best, all_prompts, plan)
    for (_, name), one in values.items():
        drawn = chance.in_sample[name]
        p = p_value(float(one.value), drawn)
        more = {"head": in_sample, "null_95": float(np.quantile(drawn, 0.95)), "p_value": p, "of": all_prompts}
        table.add(IN_SAMPLE, name, "max", one, recall=recalls.get((IN_SAMPLE, name)), **more)
    return table.frame()


_SETTING = "studies.kernel_regression.encoders"


class _Table:
    """Collector for the rows of :func:`summarise`."""

    def __init__(self, found: Attention, scored: np.ndarray, commonest: Mapping[str, float]) -> None:
        self.found, self.scored, self.commonest = found, scored, commonest
        self.rows: list[dict] = []

    def add(
        self,
        quantity: str,
        against: str,
        how: str,
        estimate: Estimate,
        head: int | None = None,
        of: np.ndarray | None = None,
        recall: Estimate | None = None,
        difference: bool = False,
        **more: object,
    ) -> None:
        layer, number = self.found.heads[head] if head is not None else (None, None)
        target = self.found.targets[against]
        prompts = self.scored if of is None else of
        commonest = self.commonest[against] if of is None else float(np.bincount(target).max() / len(target))
        beside = {} if recall is None else balanced_columns(recall, np.nan if difference else commonest)
        if of is not None:  # without an interval
            beside = {name: beside[name] for name in ("balanced_accuracy", "majority_baseline") if name in beside}
        self.rows.append(
            {
                **self.found.key,
                "quantity": quantity,
                "against": against,
                "how": how,
                "layer": layer,
                "head": number,
                "value": float(estimate.value),
                **(estimate.columns() if of is None else {}),
                **beside,
                "commonest": commonest,
                "null_95": None,
                "p_value": None,
                "same_head": None,
                "tau": None,
                "prompts": int(prompts.sum()),
                "chosen_on": int((~self.scored).sum() if of is None else of.sum()),
                "seeds": len(np.unique(self.found.seeds)),
                "note": "",
                **more,
            }
        )

    def subtract(
        self,
        quantity: str,
        against: str,
        how: str,
        estimates: Mapping[tuple, Estimate],
        recalls: Mapping[tuple, Estimate],
        other: tuple,
    ) -> None:
        """Add the paired difference of the reconstruction from the largest weights and another quantity."""
        first = (RECONSTRUCTION, against, "max")
        recall = recalls[first] - recalls[other] if against == "truth" else None
        self.add(quantity, against, how, estimates[first] - estimates[other], recall=recall, difference=True)

    def absent(self, quantity: str, against: str, how: str, note: str) -> None:
        self.rows.append({**self.found.key, "quantity": quantity, "against": against, "how": how, "note": note})

    def frame(self) -> pd.DataFrame:
        whole = dict.fromkeys(("layer", "head", "sets", "prompts", "chosen_on", "seeds"), "Int64")
        return pd.DataFrame(self.rows).astype({**whole, "same_head": "boolean"})


def _means(
    found: Attention, columns: Mapping[tuple, np.ndarray], of: np.ndarray, plan: Bootstrap | None
) -> tuple[dict[tuple, Estimate], dict[tuple, Estimate]]:
    """Estimate the mean of each column over the selected prompts, and its mean recall over the gold classes, as scalars.

    The second entry of a key says what the column agrees with; the recalls are of the columns that agree with the truth.
    """
    names = [str(number) for number in range(len(columns))]
    units = found.units.assign(gold=found.gold)
    rows = units.join(pd.DataFrame(dict(zip(names, columns.values(), strict=True))))[of]
    both = scores(rows, names, plan)  # (2, columns)
    return {key: both[0, n] for n, key in enumerate(columns)}, {
        key: both[1, n] for n, key in enumerate(columns) if key[1] == "truth"
    }
