"""Items of *In-Context Learning in Large Language Models* (Yousefi et al., arXiv 2310.00313). No code was published.

Source of each aggregation:

    behaviour          the paper's error of an answer: means over queries and paired differences; t-test as in its reviews
    attention ratio    definition of A: mean of log A over queries, per layer and over layers
    RSA                section 3: correlation of the entries above the diagonal of two matrices; Mantel's test, partial
                       correlation and CKA are the project's
    probes             logistic regression on held-out folds; the folds are the project's
    correlations       over queries: improvement of the answer and change of the alignment or of log A

Differences of two conditions are differences of means over the same queries.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from functools import partial
from itertools import product

import numpy as np
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold

from .. import representation_change as reference
from .averages import mean, pearson, quantile, ranks, spearman
from .inputs import Prompt, Run, load, tokenized

POOLINGS = ("mean", "max", "last")
SETS = ("relevant", "irrelevant", "context")
COMPONENTS = {"lines": ("slope", "intercept"), "reading": ("name", "activity")}
OWN = {"lines": "line", "reading": "activity"}

Condition = tuple[int, bool]


def tokens_of(prompt: Prompt, spans) -> list[int]:
    """Return the tokens that contain at least one character of the spans that is not whitespace."""
    characters = {i for start, end in spans for i in range(start, end) if not prompt["text"][i].isspace()}
    return [place for place, (start, end) in enumerate(prompt.offsets) if characters & set(range(start, end))]


@dataclass
class Cell:
    """Prompts of one task and number of distractors, by condition, and what is read of them.

    Attributes:
        names: Model, task and number of distractors.
        prompts: Condition -> prompts in the order of the queries.
        vectors: Condition -> pooling -> layer -> vector of each query.
        attention: Condition -> set -> query -> layer -> mean attention to the set.
        answers: Condition -> measure -> value of each query.
    """

    names: dict
    prompts: dict[Condition, list[Prompt]]
    vectors: dict[Condition, np.ndarray] = field(default_factory=dict)
    attention: dict[Condition, list] = field(default_factory=dict)
    sizes: dict[Condition, list] = field(default_factory=dict)
    answers: dict[Condition, dict[str, list[float]]] = field(default_factory=dict)
    kept: dict = field(default_factory=dict)

    @property
    def task(self) -> str:
        """Name of the task."""
        return self.names["task"]

    @property
    def first(self) -> list[Prompt]:
        """Prompts without examples."""
        return self.prompts[0, False]

    @property
    def most(self) -> int:
        """Largest number of examples."""
        return max(examples for examples, _ in self.prompts)

    def cosines(self, condition: Condition, layer: int, pooling: int) -> np.ndarray:
        """Return the cosine of each pair of queries, (P, P)."""
        key = (condition, layer, pooling)
        if key not in self.kept:
            vectors = self.vectors[condition][:, pooling, layer]
            constant = not standardised(vectors).any()  # all queries have the same vector
            self.kept[key] = np.full((len(vectors), len(vectors)), math.nan) if constant else reference.cosines(vectors)
        return self.kept[key]


def judge(task: str, prompt: Prompt, answer: str, log_probs: list[float]) -> dict[str, float]:
    """Score the answer to one query."""
    truth = prompt["truth_candidate"]
    found = {"likelihood_error": float(log_probs.index(max(log_probs)) != truth), "log_prob": log_probs[truth]}
    if task == "lines":
        number = re.match(r"\s*(-?\d+(?:\.\d+)?)", answer)
        error = abs(float(number[1]) - float(prompt["truth"])) if number else math.nan
        relative = error / max(abs(float(prompt["truth"])), 1.0)
        return {**found, "error": error, "relative_error": relative, "unparsed": float(not number)}
    line = (answer.strip().splitlines() or [""])[0].lower()
    known = {prompt["truth"], *prompt["competing"], *(candidate.strip(" .") for candidate in prompt["candidates"])}
    named = {activity for activity in known if activity.lower() in line}
    error = float(prompt["truth"] not in named or bool(named & set(prompt["competing"])))
    return {**found, "error": error, "relative_error": error, "unparsed": float(not named)}


def cells(run: Run) -> list[Cell]:
    """Read the prompts of both tasks."""
    return run.once("representation_change", lambda: [cell for task in ("lines", "reading") for cell in _cells(run, task)])


def _cells(run: Run, task: str) -> list[Cell]:
    name, folder = run.readers
    model, tokenizer = load(folder)
    by_cell: dict[int, dict[Condition, list[Prompt]]] = {}
    for row in run.rows(task, "paired"):
        prompt = tokenized(row, tokenizer)
        by_cell.setdefault(row["distractors"], {}).setdefault((row["examples"], row["control"]), []).append(prompt)
    found = []
    for distractors, conditions in sorted(by_cell.items()):
        ordered = {key: sorted(conditions[key], key=lambda p: p["query_id"]) for key in sorted(conditions)}
        cell = Cell({"model": name, "task": task, "distractors": distractors}, ordered)
        for key, prompts in ordered.items():
            pooled, attended, sizes, judged = [], [], [], []
            for prompt in prompts:
                sets = [tokens_of(prompt, prompt[f"{each}_spans"]) for each in SETS]
                vectors, attention = reference.read(model, prompt.ids, tokens_of(prompt, [prompt["query_span"]]), sets)
                pooled.append(vectors)
                attended.append(dict(zip(SETS, attention.tolist(), strict=True)))
                sizes.append(dict(zip(SETS, map(len, sets), strict=True)))
                ids = reference.greedy(model, prompt.ids, run.settings("representation_change")["new_tokens"])
                if tokenizer.eos_token_id in ids:
                    ids = ids[: ids.index(tokenizer.eos_token_id)]
                log_probs = [
                    reference.log_likelihood(
                        model, prompt.ids, tokenizer(prompt["text"] + each)["input_ids"][len(prompt.ids) :]
                    )
                    for each in prompt["candidates"]
                ]
                judged.append(judge(task, prompt, tokenizer.decode(ids, skip_special_tokens=True), log_probs))
            cell.vectors[key], cell.attention[key], cell.sizes[key] = np.stack(pooled), attended, sizes
            cell.answers[key] = {measure: [each[measure] for each in judged] for measure in judged[0]}
        found.append(cell)
    return found


def contrasts(conditions) -> list[tuple[int, str, Condition, Condition | None]]:
    """Return (examples, contrast, condition, condition that is subtracted) of each row."""
    found = []
    for examples, control in conditions:
        if not examples:
            found.append((0, "none", (0, False), None))
        elif control:
            found += [(examples, "control", (examples, True), None), (examples, "control - none", (examples, True), (0, False))]
        else:
            found += [
                (examples, "examples", (examples, False), None),
                (examples, "examples - none", (examples, False), (0, False)),
                (examples, "examples - control", (examples, False), (examples, True)),
            ]
    return found


def contrast_rows(cell: Cell, value, conditions=None) -> list[dict]:
    """Return the value of each condition and difference.

    Args:
        cell: The cell.
        value: Function of a condition that returns a number.
        conditions: The conditions; all by default.
    """
    of = {key: value(key) for key in conditions or cell.prompts}
    rows = []
    for examples, contrast, one, other in contrasts(of):
        number = of[one] - (of[other] if other is not None else 0)
        which = "none" if not examples else "most" if examples == cell.most else "fewer"
        row = {**cell.names, "examples": examples, "contrast": contrast, "value": number, "which": which}
        rows.append({**row, "prompts": len(cell.first)})
    return rows


def over_layers(values) -> float:
    """Compute the mean over layers; NaN if one of them is."""
    return sum(values) / len(values)


# Answers


def wilcoxon(differences) -> float:
    """Compute the exact two-sided p value of Wilcoxon's signed-rank test, without differences of 0."""
    known = [round(d, 12) for d in differences if round(d, 12)]
    if not known:
        return math.nan
    doubled = [round(2 * rank) for rank in ranks([abs(d) for d in known])]
    ways = {0: 1}  # sum of the doubled ranks of the positive differences -> number of sign patterns
    for rank in doubled:
        longer = dict(ways)
        for total, count in ways.items():
            longer[total + rank] = longer.get(total + rank, 0) + count
        ways = longer
    observed = sum(rank for rank, d in zip(doubled, known, strict=True) if d > 0)
    smaller = min(observed, sum(doubled) - observed)
    return min(1.0, 2 * sum(count for total, count in ways.items() if total <= smaller) / 2 ** len(known))


def behaviour(run: Run) -> list[dict]:
    """Errors of answers by number of examples."""
    rows = []
    for cell in cells(run):
        for measure in ("error", "relative_error", "likelihood_error", "log_prob", "unparsed"):
            values = {key: answers[measure] for key, answers in cell.answers.items()}
            found = contrast_rows(cell, lambda key, values=values: mean(values[key]))
            truths = [p["truth"] for prompts in cell.prompts.values() for p in prompts]
            commonest = max(map(truths.count, truths)) / len(truths)
            for row, (_, _, one, other) in zip(found, contrasts(values), strict=True):
                row["measure"] = measure
                row["baseline_error"] = 1 - commonest if cell.task == "reading" and measure.endswith("error") else math.nan
                if other is not None:
                    differences = [a - b for a, b in zip(values[one], values[other], strict=True)]
                    differences = [d for d in differences if not math.isnan(d)]
                    row["p_wilcoxon"] = wilcoxon(differences) if differences else math.nan
                    spread = np.std(differences, ddof=1) if len(differences) > 1 else 0
                    if spread > 1e-12 * max(map(abs, differences), default=0):
                        row["t"] = mean(differences) / (spread / math.sqrt(len(differences)))
                        row["p_t"] = 2 * float(stats.t.sf(abs(row["t"]), len(differences) - 1))
                rows.append(row)
    return rows


# Attention ratio


def log_ratio(cell: Cell, key: Condition, below: str, kind: str) -> list[list[float]]:
    """Compute log A of each layer and query; NaN where a set is empty or gets no attention."""
    layers = len(cell.attention[key][0]["relevant"])
    found = [[] for _ in range(layers)]
    for attention, size in zip(cell.attention[key], cell.sizes[key], strict=True):
        for layer in range(layers):
            one, other = (attention[name][layer] * (size[name] if kind == "sum" else 1) for name in ("relevant", below))
            known = size["relevant"] and size[below] and one > 0 and other > 0
            found[layer].append(math.log(one / other) if known else math.nan)
    return found


def attention_ratio(run: Run) -> list[dict]:
    """Mean of log A by layer and condition."""
    rows = []
    for cell in cells(run):
        for below, kind in product(("irrelevant", "context"), ("mean", "sum")):
            shown = [key for key in cell.prompts if any(size[below] for size in cell.sizes[key])]
            if not shown:
                continue
            logs = {key: [mean(layer) for layer in log_ratio(cell, key, below, kind)] for key in shown}
            more = {"kind": kind, "below": below}
            for layer in range(len(logs[shown[0]])):
                found = (
                    contrast_rows(cell, lambda key, logs=logs, layer=layer: logs[key][layer], shown)
                    if below == "irrelevant"
                    else [
                        {
                            **cell.names,
                            "examples": key[0],
                            "contrast": "control" if key[1] else "examples",
                            "value": logs[key][layer],
                        }
                        | {"which": "most" if key[0] == cell.most else "fewer", "prompts": len(cell.first)}
                        for key in shown
                    ]
                )
                rows += [{**row, **more, "layer": layer, "of": "layer"} for row in found]
            if below == "irrelevant":
                found = contrast_rows(cell, lambda key, logs=logs: over_layers(logs[key]), shown)
                rows += [{**row, **more, "of": "mean of layers"} for row in found]
    return rows


# Hypotheses and alignment


def hypotheses(cell: Cell) -> dict[str, np.ndarray]:
    """Return the similarity of two queries under each hypothesis, (P, P)."""
    components = [p["components"] for p in cell.first]

    def matrix(value) -> np.ndarray:
        return np.array([[float(value(a, b)) for b in range(len(components))] for a in range(len(components))])

    def same(i, a, b):
        return components[a][i] == components[b][i]

    if cell.task == "lines":
        return {
            "line": matrix(lambda a, b: same(0, a, b) and same(1, a, b)),
            "slope": matrix(partial(same, 0)),
            "intercept": matrix(partial(same, 1)),
            "average": matrix(lambda a, b: (same(0, a, b) + same(1, a, b)) / 2),
            "slope distance": matrix(lambda a, b: -abs(float(components[a][0]) - float(components[b][0]))),
            "intercept distance": matrix(lambda a, b: -abs(float(components[a][1]) - float(components[b][1]))),
        }
    found = {
        "activity": matrix(partial(same, 1)),
        "name": matrix(partial(same, 0)),
        "average": matrix(lambda a, b: (same(0, a, b) + same(1, a, b)) / 2),
    }
    if cell.names["distractors"]:
        competing = [set(p["competing"]) for p in cell.first]
        found["distractor"] = matrix(lambda a, b: bool(competing[a] & competing[b]))
    return found


def above(matrix: np.ndarray) -> list[float]:
    """Return the entries above the diagonal, row by row."""
    return [float(matrix[i][j]) for i in range(len(matrix)) for j in range(i + 1, len(matrix))]


def ranked(matrix: np.ndarray) -> np.ndarray:
    """Replace the entries of a symmetric matrix outside the diagonal by the ranks of the pairs."""
    found, values = np.zeros(matrix.shape), iter(ranks(above(matrix)))
    for i in range(len(matrix)):
        for j in range(i + 1, len(matrix)):
            found[i, j] = found[j, i] = next(values)
    return found


def residual(values: list[float], covariates: list[list[float]]) -> np.ndarray:
    """Return values after regressing out covariates and a constant."""
    design = np.array([[1.0, *row] for row in zip(*covariates, strict=True)])
    coefficients, *_ = np.linalg.lstsq(design, np.array(values), rcond=None)
    return np.array(values) - design @ coefficients


def partial_correlation(first: list[float], second: list[float], covariates: list[list[float]]) -> float:
    """Compute Spearman's correlation after regressing out the ranks of covariates."""
    given = [ranks(each) for each in covariates if len(set(ranks(each))) > 1]
    one, other = (residual(ranks(values), given) for values in (first, second))
    spread = math.sqrt(float(one @ one) * float(other @ other))
    return float(one @ other) / spread if spread > 1e-6 * len(one) else math.nan


def centred_alignment(first: np.ndarray, second: np.ndarray) -> float:
    """Compute the alignment of two kernels after centring rows and columns."""
    size = len(first)
    centring = np.eye(size) - 1 / size
    one, other = centring @ first @ centring, centring @ second @ centring
    spread = math.sqrt(float((one * one).sum()) * float((other * other).sum()))
    return float((one * other).sum()) / spread if spread > 1e-12 else math.nan


def adjusted(p: list[float]) -> list[float]:
    """Adjust p values for the false-discovery rate (Benjamini and Hochberg)."""
    known = sorted(range(len(p)), key=lambda i: p[i])
    found, least = [math.nan] * len(p), 1.0
    known = [i for i in known if not math.isnan(p[i])]
    for place in range(len(known), 0, -1):
        least = min(least, p[known[place - 1]] * len(known) / place)
        found[known[place - 1]] = least
    return found


def statistics(run: Run, cell: Cell, condition: Condition, pooling: int, name: str) -> list[dict[str, float]]:
    """Compare the cosines of each layer with a hypothesis."""

    def compute():
        settings, hypothesis = run.settings("representation_change"), hypotheses(cell)[name]
        start = [p["query_span"][0] for p in cell.first]
        tokens = [
            {i for i, (a, _) in zip(p.ids, p.offsets, strict=True) if a >= s} for p, s in zip(cell.first, start, strict=True)
        ]
        overlap = np.array([[len(a & b) / max(1, len(a | b)) for b in tokens] for a in tokens])
        covariates = [above(overlap)]
        if cell.task == "lines":
            covariates.append(above(np.array([[abs(a["place"] - b["place"]) for b in cell.first] for a in cell.first])))
        generator, size = np.random.default_rng(settings["seed"]), len(hypothesis)
        orders = [generator.permutation(size) for _ in range(settings["permutations"])]
        found = []
        for layer in range(cell.vectors[condition].shape[2]):
            cosine = cell.cosines(condition, layer, pooling)
            if np.isnan(cosine).any():
                found.append(dict.fromkeys(("value", "pearson", "partial", "cka", "mantel_p", "null_high"), math.nan))
                continue
            pairs, expected = above(cosine), above(hypothesis)
            value = spearman(pairs, expected)
            # A permutation of the queries moves the ranks of the pairs.
            own, moved = ranks(pairs), ranked(hypothesis)
            null = [pearson(own, above(moved[np.ix_(order, order)])) for order in orders]
            found.append(
                {
                    "value": value,
                    "pearson": pearson(above(cosine), expected),
                    "partial": partial_correlation(pairs, expected, covariates),
                    "cka": centred_alignment(cosine, hypothesis),
                    "mantel_p": (1 + sum(each >= value - 1e-9 for each in null)) / (1 + len(null)),
                    "null_high": quantile(null, 0.95),
                }
            )
        for each, q in zip(found, adjusted([each["mantel_p"] for each in found]), strict=True):
            each["mantel_q"] = q
        return found

    key = ("alignment", cell.task, cell.names["distractors"], condition, pooling, name)
    return run.once(key, compute)


def rsa(run: Run) -> list[dict]:
    """Alignment with each hypothesis by pooling, layer and condition."""
    rows = []
    for cell in cells(run):
        for (place, pooling), name in product(enumerate(POOLINGS), hypotheses(cell)):
            found = {key: statistics(run, cell, key, place, name) for key in cell.prompts}
            more = {"hypothesis": name, "pooling": pooling}
            for layer in range(len(found[0, False])):
                columns = {
                    column: contrast_rows(cell, lambda key, c=column, f=found, i=layer: f[key][i][c])
                    for column in ("value", "pearson", "partial", "cka")
                }
                for number, row in enumerate(columns["value"]):
                    row |= {column: each[number]["value"] for column, each in columns.items()}
                    if " - " not in row["contrast"]:
                        own = found[row["examples"], row["contrast"] == "control"][layer]
                        row |= {column: own[column] for column in ("mantel_p", "null_high", "mantel_q")}
                    rows.append({**row, **more, "layer": layer, "of": "layer"})
            means = contrast_rows(cell, lambda key, f=found: over_layers([each["value"] for each in f[key][1:]]))
            rows += [{**row, **more, "of": "mean of layers"} for row in means]
    return rows


# Probes


def targets(cell: Cell) -> dict[str, list]:
    """Return what probes predict for each query."""
    found = {name: [p["components"][i] for p in cell.first] for i, name in enumerate(COMPONENTS[cell.task])}
    if cell.names["distractors"]:
        found["position"] = [p["position"] for p in cell.first]
    return found


def standardised(vectors: np.ndarray, like: np.ndarray | None = None) -> np.ndarray:
    """Standardise each dimension with the mean and deviation of some vectors; dimensions that are constant there become 0."""
    vectors, like = (np.array(each, dtype=float) for each in (vectors, vectors if like is None else like))
    centred, spread = vectors - like.mean(0), like.std(0)
    varies = spread > 1e-5 * np.abs(like).max()
    return np.where(varies, centred / np.where(varies, spread, 1), 0)


def probe_accuracy(run: Run, cell: Cell, condition: Condition, layer: int, name: str) -> float:
    """Compute the share of queries whose component a probe predicts from the other folds."""

    def compute():
        settings, classes = run.settings("representation_change"), targets(cell)[name]
        coded = np.array([sorted(set(classes)).index(c) for c in classes])
        groups = [p["group"] for p in cell.prompts[condition]]
        vectors = cell.vectors[condition][:, 0, layer]
        right = 0
        splitter = GroupKFold(min(settings["folds"], len(set(groups))), shuffle=True, random_state=settings["seed"])
        for train, test in splitter.split(coded, groups=groups):
            if len(set(coded[train])) == 1:
                said = np.full(len(test), coded[train[0]])
            else:
                probe = LogisticRegression(C=settings["penalty"], solver="newton-cg", tol=1e-6, max_iter=1000)
                fitted, tested = (standardised(vectors[part], vectors[train]) for part in (train, test))
                said = probe.fit(fitted, coded[train]).predict(tested)
            right += int((said == coded[test]).sum())
        return right / len(coded)

    return run.once(("probe", cell.task, cell.names["distractors"], condition, layer, name), compute)


def probes(run: Run) -> list[dict]:
    """Accuracy of probes by layer and condition."""
    rows = []
    for cell in cells(run):
        layers = range(cell.vectors[0, False].shape[2])
        for name, classes in targets(cell).items():
            more = {"component": name, "commonest": max(map(classes.count, classes)) / len(classes)}
            of = {key: [probe_accuracy(run, cell, key, layer, name) for layer in layers] for key in cell.prompts}
            for layer in layers:
                found = contrast_rows(cell, lambda key, of=of, layer=layer: of[key][layer])
                rows += [{**row, **more, "layer": layer, "of": "layer"} for row in found]
            found = contrast_rows(cell, lambda key, of=of: over_layers(of[key][1:]))
            rows += [{**row, **more, "of": "mean of layers"} for row in found]
    return rows


# What figures combine


def controls(run: Run) -> list[dict]:
    """The main quantities, means over layers."""
    rows = []
    for row in behaviour(run):
        if row["measure"] in ("error", "log_prob"):
            rows.append({**row, "quantity": row["measure"]})
    for row in rsa(run):
        if row["of"] == "mean of layers" and row["pooling"] == "mean" and row["hypothesis"] == OWN[row["task"]]:
            rows.append({**row, "quantity": "alignment"})
    for row in probes(run):
        if row["of"] == "mean of layers" and row["component"] == {"lines": "slope", "reading": "activity"}[row["task"]]:
            rows.append({**row, "quantity": "probe"})
    for row in attention_ratio(run):
        if row["of"] == "mean of layers" and (row["kind"], row["below"]) == ("mean", "irrelevant"):
            rows.append({**row, "quantity": "attention"})
    names = ("model", "task", "distractors", "examples", "contrast", "value", "prompts", "quantity", "which")
    return [{name: row[name] for name in names} for row in rows]


def own_alignment(cell: Cell, condition: Condition, layer: int) -> list[float]:
    """Correlate each query's similarities to the other queries with the task's hypothesis."""
    cosine = np.float32(cell.cosines(condition, layer, 0)).astype(float)
    hypothesis, size = hypotheses(cell)[OWN[cell.task]], len(cell.first)
    return [
        spearman([cosine[i][j] for j in range(size) if j != i], [hypothesis[i][j] for j in range(size) if j != i])
        for i in range(size)
    ]


def permutation_test(first: list[float], second: list[float]) -> tuple[float, float]:
    """Compute Spearman's correlation and the share of 1000 random orders with a correlation at least as far from 0."""
    one, other = (np.array(ranks(values)) for values in (first, second))
    if len(set(one.tolist())) < 2 or len(set(other.tolist())) < 2:
        return math.nan, math.nan

    def correlation(values, axis):
        centred, wanted = values - values.mean(axis, keepdims=True), other - other.mean()
        return np.abs((centred * wanted).sum(axis) / np.sqrt((centred**2).sum(axis) * (wanted**2).sum()))

    found = stats.permutation_test(
        (one,), correlation, permutation_type="pairings", vectorized=True, n_resamples=1000, alternative="greater", rng=0
    )
    return pearson(one.tolist(), other.tolist()), float(found.pvalue)


def correlations(run: Run) -> list[dict]:
    """Correlations over queries of the improvement of answers with the change of alignment or of log A."""
    rows = []
    for cell in cells(run):
        after = (cell.most, False)
        layers = range(cell.vectors[after].shape[2])
        alignment = {
            key: [own_alignment(cell, key, layer) for layer in layers] for key in (after, (0, False), (cell.most, True))
        }
        ratio = {key: log_ratio(cell, key, "irrelevant", "mean") for key in alignment}
        for contrast, before in (("examples - none", (0, False)), ("examples - control", (cell.most, True))):
            for improvement, sign in (("error", -1), ("log_prob", 1)):
                one, other = cell.answers[after][improvement], cell.answers[before][improvement]
                gain = [sign * (a - b) for a, b in zip(one, other, strict=True)]
                for change, values in (("alignment", alignment), ("attention", ratio)):
                    tests = []
                    for a, b in zip(values[after], values[before], strict=True):
                        moved = [x - y for x, y in zip(a, b, strict=True)]
                        pairs = [(g, m) for g, m in zip(gain, moved, strict=True) if not (math.isnan(g) or math.isnan(m))]
                        if len(pairs) < 4:
                            tests.append((math.nan, math.nan, len(pairs)))
                        else:
                            tests.append((*permutation_test(*map(list, zip(*pairs, strict=True))), len(pairs)))
                    q = adjusted([p for _, p, _ in tests])
                    key = {
                        **cell.names,
                        "examples": cell.most,
                        "contrast": contrast,
                        "improvement": improvement,
                        "change": change,
                    }
                    for layer, (value, p, size) in enumerate(tests):
                        rows.append(
                            {**key, "of": "layer", "layer": layer, "value": value, "p": p, "q": q[layer], "prompts": size}
                        )
                    counted = [
                        (value, q[layer])
                        for layer, (value, _, _) in enumerate(tests)
                        if layer or change == "attention"  # without the embeddings
                    ]
                    known = any(not math.isnan(value) for value, _ in counted)
                    share = sum(value > 0 and each < 0.05 for value, each in counted) / len(counted)
                    size = max(size for _, _, size in tests)
                    rows.append({**key, "of": "share of layers", "value": share if known else math.nan, "prompts": size})
    changes = [row for row in controls(run) if row["contrast"] in ("examples - none", "control - none")]
    wanted = {"error", "alignment", "attention"}
    seen = set()
    for row in changes:
        if row["quantity"] in wanted:
            key = {name: row[name] for name in ("model", "task", "distractors", "examples", "contrast")}
            rows.append({**key, "change": row["quantity"], "value": row["value"], "of": "mean of layers"})
            seen.add((*key.values(), row["quantity"]))
    for row in changes:  # without distractors there is no log A
        key = {name: row[name] for name in ("model", "task", "distractors", "examples", "contrast")}
        for name in wanted:
            if (*key.values(), name) not in seen:
                rows.append({**key, "change": name, "of": "mean of layers"})
                seen.add((*key.values(), name))
    return rows


def maps(run: Run) -> list[dict]:
    """Hypotheses and cosines of each pair of queries, sorted by component."""
    rows = []
    for task in ("lines", "reading"):
        of_task = [cell for cell in cells(run) if cell.task == task]
        cell = next((cell for cell in of_task if cell.names["distractors"] == 1), of_task[0])
        layer = cell.vectors[0, False].shape[2] // 2
        main, minor = (1, 0) if task == "reading" else (0, 1)
        number = float if task == "lines" else str
        order = sorted(
            range(len(cell.first)),
            key=lambda i: (number(cell.first[i]["components"][main]), number(cell.first[i]["components"][minor])),
        )
        shown = {name: (matrix, None) for name, matrix in hypotheses(cell).items() if " " not in name}
        for name, key in (
            ("no examples", (0, False)),
            (f"{cell.most} examples", (cell.most, False)),
            (f"{cell.most}, control", (cell.most, True)),
        ):
            shown[name] = cell.cosines(key, layer, 0), layer
        labels = [cell.first[i]["components"][main] for i in order]
        for name, (matrix, of_layer) in shown.items():
            for i in range(len(order)):
                for j in range(i + 1, len(order)):
                    rows.append(
                        {**cell.names, "matrix": name, "row": i, "column": j, "value": float(matrix[order[i]][order[j]])}
                        | {"layer": of_layer, "row_label": labels[i], "column_label": labels[j]}
                    )
    return rows
