"""Items of *When Parts Are Greater Than Sums* (Chang et al., EMNLP 2024).

A run is a template and a demonstration set (a seed), as in the paper. Source of each aggregation:

    Figure 1, Table 1    section 3: accuracies of components in a run; means and population deviations over runs
    Figure 2, Table 2    section 4: correlations and overlaps of two runs, over all pairs of a type
    Table 3              section 5 and the released code: the weights, and the baselines with the same number of labels
    kinds of components  section 3 in prose; the thresholds are the project's
    anchors              the project's
"""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import torch

from .. import components, kernel_regression
from . import draws
from .anchors import TITLES
from .averages import (
    OVER_TASKS,
    balanced_accuracy,
    deviation,
    largest_share,
    majority,
    mean,
    nested,
    on_other_half,
    pearson,
    quantile,
    spearman,
    tied,
)
from .inputs import Prompt, Run, answer, tokenized

SET = "labelled-24"
TOP = 5

# The task's own template, two further ones and the contrast (icl_lens.studies.component_reweighting.templates).
TEMPLATES = {
    "sst2": {
        "f1": "Review: {text}\nSentiment:{label}",
        "f2": "Text: {text}\nFeeling:{label}",
        "f3": "Input: {text}\nOutput:{label}",
        "contrast": "Review: {text}\n\nSentiment:{label}",
    },
    "trec": {
        "f1": "Question: {text}\nAnswer Type:{label}",
        "f2": "Text: {text}\nAbout:{label}",
        "f3": "Input: {text}\nOutput:{label}",
        "contrast": "Question: {text} Answer Type:{label}",
    },
    "agnews": {
        "f1": "Article: {text}\nAnswer:{label}",
        "f2": "News: {text}\nTopic:{label}",
        "f3": "Input: {text}\nOutput:{label}",
        "contrast": "Article: {text}\n\nAnswer:{label}",
    },
}
MAIN = ("f1", "f2", "f3")


# Prompts


def written(run: Run, row: dict, template: str, chosen: list[int], query: str | None = None, gold: int | None = None) -> Prompt:
    """Write a prompt with a template and some demonstrations of a row, and with another query if one is given."""
    before, between = template.removesuffix("{label}").split("{text}")
    start, end = row["query_span"]
    texts = [row["text"][slice(*row["text_spans"][i])] for i in chosen] + [query or row["text"][start:end]]
    words = [row["label_words"][row["demo_labels"][i]] for i in chosen] + [""]
    text, label_spans, text_spans, prefix_spans = "", [], [], []
    for number, (one, word) in enumerate(zip(texts, words, strict=True)):
        text += "\n" if number else ""
        prefix_spans.append([len(text), len(text) + len(before.rstrip())])
        text += before
        text_spans.append([len(text), len(text) + len(one)])
        text += one
        prefix_spans.append([len(text) + len(between) - len(between.lstrip()), len(text) + len(between)])
        text += between
        label_spans.append([len(text), len(text) + len(word)])
        text += word
    changed = {"text": text, "label_spans": label_spans[:-1], "text_spans": text_spans[:-1], "query_span": text_spans[-1]}
    changed |= {"prefix_spans": prefix_spans, "demo_labels": [row["demo_labels"][i] for i in chosen]}
    return tokenized({**row, **changed, "gold": row["gold"] if gold is None else gold}, run.tokenizer)


def first_per_class(labels: list[int], count: int) -> list[int]:
    """Return the first demonstrations of each class, in order."""
    return [i for i, label in enumerate(labels) if labels[:i].count(label) < count]


def shots_of(row: dict) -> int:
    """Number of demonstrations per class of the main prompts: 4 in total, at least one per class."""
    return max(1, 4 // len(row["label_words"]))


def alternating(labels: list[int], indices: list[int]) -> list[int]:
    """Order indices by their turn within their class, then by class."""
    turn = {i: sum(labels[j] == labels[i] for j in indices if j < i) for i in indices}
    return sorted(indices, key=lambda i: (turn[i], labels[i], i))


def decomposed(run: Run, prompt: Prompt) -> tuple[np.ndarray, np.ndarray]:
    """Return the logits of the heads and MLPs (M, C), and all parts (K, C)."""
    parts, _ = components.component_logits(run.network, prompt.ids, prompt.label_ids)
    return parts[1:-1], parts


def first_largest(values) -> int:
    """Return the index of the largest value; the first one in a tie."""
    values = list(values)
    return values.index(max(values))


class Study:
    """What is measured for one task.

    Attributes:
        prompts: Rows of the test prompts.
        runs: (template, seed) of each run, without the contrast.
        parts: Template -> logits of all parts of each prompt, (K, C) each.
        right: Template -> whether each component predicts each prompt correctly.
        predicted: Template -> prediction of each component for each prompt.
        full: Template -> prediction of the model for each prompt.
    """

    def __init__(self, run: Run, task: str) -> None:
        self.run, self.task = run, task
        self.settings = run.settings("components")
        self.rows = []
        for row in run.rows(task, SET):
            if sum(row["seed"] == other["seed"] for other in self.rows) < self.settings["queries"]:
                self.rows.append(row)
        self.classes = len(self.rows[0]["label_words"])
        self.seeds = sorted({row["seed"] for row in self.rows})
        self.runs = [(template, seed) for template in MAIN for seed in self.seeds]
        shots = shots_of(self.rows[0])
        self.prompts, self.parts, self.predicted, self.full = {}, {}, {}, {}
        for name, template in TEMPLATES[task].items():
            self.prompts[name] = [written(run, row, template, first_per_class(row["demo_labels"], shots)) for row in self.rows]
            both = [decomposed(run, p) for p in self.prompts[name]]
            self.parts[name] = [parts for _, parts in both]
            self.predicted[name] = [[first_largest(g) for g in own] for own, _ in both]
            self.full[name] = [first_largest(parts.sum(0)) for parts in self.parts[name]]
        self.demonstrations = shots * self.classes

    def members(self, seed: int) -> list[int]:
        """Indices of the prompts of a seed."""
        return [i for i, row in enumerate(self.rows) if row["seed"] == seed]

    def accuracy(self, template: str, seed: int) -> list[float]:
        """Accuracy of each component in a run."""
        own = self.members(seed)
        right = [[y == self.rows[i]["gold"] for y in self.predicted[template][i]] for i in own]
        return [sum(column) / len(own) for column in zip(*right, strict=True)]

    def full_accuracy(self, template: str, seed: int) -> float:
        """Accuracy of the model in a run."""
        own = self.members(seed)
        return sum(self.full[template][i] == self.rows[i]["gold"] for i in own) / len(own)

    def kind(self, template: str, seed: int, component: int) -> str:
        """Kind of a component in a run."""
        own = self.members(seed)
        said = [self.predicted[template][i][component] for i in own]
        gold = [self.rows[i]["gold"] for i in own]
        right, n, m = sum(map(int.__eq__, said, gold)), len(own), len(self.predicted[template][0])
        chance = max(1 / self.classes, max(map(gold.count, gold)) / n)
        if max(map(said.count, said)) / n >= 0.99:
            return "label-biased"
        if right / n >= self.full_accuracy(template, seed) and chance < 1 and at_least(right, n, chance) < 0.01 / m:
            return "good"
        if right / n < 1 / self.classes - 0.1 and 1 - at_least(right + 1, n, 1 / self.classes) < 0.01 / m:
            return "bad"
        return "other"


def at_least(k: int, n: int, p: float) -> float:
    """Compute P(X >= k) of a binomial distribution."""
    return sum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k, n + 1))


def study(run: Run, task: str) -> Study:
    """Return what is measured for a task."""
    return run.once(("components", task), lambda: Study(run, task))


def names(run: Run) -> list[dict]:
    """Return kind, layer and head of each component, in order."""
    found = []
    for layer in range(run.layers):
        found += [{"kind": "head", "layer": layer, "head": head} for head in range(run.heads)]
        found.append({"kind": "mlp", "layer": layer})
    return found


# Figure 1


def figure_1(run: Run) -> list[dict]:
    """Accuracy of each component, and how often it predicts the second label, under the task's own template."""
    rows = []
    for task in run.tasks:
        each = study(run, task)
        for seed in each.seeds:
            own, accuracy = each.members(seed), each.accuracy("f1", seed)
            for number, name in enumerate(names(run)):
                share = mean(each.predicted["f1"][i][number] == 1 for i in own)
                right = [(each.rows[i]["gold"], float(each.predicted["f1"][i][number] == each.rows[i]["gold"])) for i in own]
                values = {"share": share, "accuracy": accuracy[number], "full": each.full_accuracy("f1", seed)}
                values["balanced_accuracy"] = balanced_accuracy(right)
                values["majority_baseline"] = majority([gold for gold, _ in right])
                key = {"model": run.model, "task": task, "template": "f1", "seed": seed, **name}
                rows.append({**key, **values, "type": each.kind("f1", seed, number), "prompts": len(own)})
    return rows


# Table 1


def recall(each: Study, values: dict[tuple, dict[int, float]]) -> float:
    """Compute the balanced accuracy of the mean over templates of each prompt.

    Args:
        each: The study.
        values: Run -> index of a prompt -> whether its prediction is correct.
    """
    found = []
    for seed in each.seeds:
        pairs = []
        for i in each.members(seed):
            of_prompt = [of[i] for key, of in values.items() if key[1] == seed and i in of]
            if of_prompt:
                pairs.append((each.rows[i]["gold"], mean(of_prompt)))
        found.append(balanced_accuracy(pairs))
    return mean(found)


def table_1(run: Run) -> list[dict]:
    """Accuracies of the model, the best and the worst component, and the numbers of components of each kind."""
    rows, found = [], {}
    is_head = [float(name["kind"] == "head") for name in names(run)]
    for task in run.tasks:
        each = study(run, task)
        gold = [row["gold"] for row in each.rows]
        half = draws.halves(each.rows, gold)
        scored: dict[str, dict[tuple, dict[int, float]]] = {}
        heads: dict[str, list[float]] = {"best": [], "best (in sample)": []}
        for template, seed in each.runs:
            own = each.members(seed)
            right = {i: [float(y == gold[i]) for y in each.predicted[template][i]] for i in own}

            def chosen(of, sign, own=own, right=right):
                return first_largest(sign * mean(right[own[i]][m] for i in of) for m in range(len(is_head)))

            def add(measure, values, key=(template, seed), scored=scored):
                scored.setdefault(measure, {})[key] = values

            full = {i: float(each.full[template][i] == gold[i]) for i in own}
            add("full", full)
            for name, sign in (("best", 1), ("worst", -1)):
                picked = dict(zip(own, on_other_half([half[i] for i in own], lambda of, s=sign: chosen(of, s)), strict=True))
                add(name, {i: right[i][m] for i, m in picked.items() if m is not None})
                in_sample = chosen(range(len(own)), sign)
                add(f"{name} (in sample)", {i: right[i][in_sample] for i in own})
                if name == "best":
                    add("best - full", {i: right[i][m] - full[i] for i, m in picked.items() if m is not None})
                    heads["best"].append(mean(is_head[m] for m in picked.values() if m is not None))
                    heads["best (in sample)"].append(is_head[in_sample])
        values = {}
        for measure, of_runs in scored.items():
            means = [mean(of.values()) for of in of_runs.values()]
            values[measure] = {"value": mean(means), "balanced_accuracy": recall(each, of_runs)}
            if measure != "best - full":
                values[measure] |= {"sd": deviation(means), "majority_baseline": majority(gold)}
            if measure in heads:
                values[measure]["heads"] = mean(heads[measure])
        chances, by_chance = [], []
        for _, seed in each.runs:
            n = len(each.members(seed))
            none_above = [(1 - at_least(k, n, 1 / each.classes)) ** len(is_head) for k in range(1, n + 1)]
            by_chance.append(sum(1 - p for p in none_above) / n)
            chances.append(max(1 / each.classes, majority([gold[i] for i in each.members(seed)])))
        values |= {"chance": {"value": mean(chances)}, "chance_best": {"value": mean(by_chance)}}
        for kind in ("good", "bad", "label-biased"):
            counts = [sum(each.kind(*key, number) == kind for number in range(len(is_head))) for key in each.runs]
            values[kind] = {"value": mean(counts)}
        found[task] = values, len(each.rows)
    for task, tasks in [*((task, [task]) for task in run.tasks), (OVER_TASKS, run.tasks)]:
        for measure, columns in found[tasks[0]][0].items():
            means = {column: mean(found[name][0][measure][column] for name in tasks) for column in columns}
            size = sum(found[name][1] for name in tasks)
            rows.append({"model": run.model, "task": TITLES.get(task, task), "measure": measure, **means, "prompts": size})
    return rows


# Figure 2 and Table 2


def pairs_of(each: Study, pair: str) -> list[tuple]:
    """Return the pairs of runs of a type."""
    if pair == "demonstrations":
        return [((name, a), (name, b)) for name in MAIN for a, b in combinations(each.seeds, 2)]
    if pair == "contrast":
        return [(("f1", seed), ("contrast", seed)) for seed in each.seeds]
    return [((a, seed), (b, seed)) for seed in each.seeds for a, b in combinations(MAIN, 2)]


def best_components(accuracies: list[float]) -> set[int]:
    """Return the best components; among equal ones, the first."""
    rounded = tied(accuracies)
    return set(sorted(range(len(rounded)), key=lambda i: (-rounded[i], i))[:TOP])


def similarity(each: Study, pair: str) -> dict[str, float]:
    """Compute how similar the accuracies of components are in two runs, over all pairs of a type."""
    found = {"r": [], "r_apart": [], "iou": [], "full": []}
    for a, b in pairs_of(each, pair):
        one, other = each.accuracy(*a), each.accuracy(*b)
        apart = abs(each.full_accuracy(*a) - each.full_accuracy(*b))
        found["r"].append(pearson(one, other))
        found["r_apart"].append(found["r"][-1] if apart > 0.1 else math.nan)
        first, second = best_components(one), best_components(other)
        found["iou"].append(len(first & second) / len(first | second))
        found["full"].append(apart)
    return {measure: mean(values) for measure, values in found.items()}


def overlap_by_chance(count: int) -> float:
    """Compute the expected overlap of two random draws of the best components."""
    ways = math.comb(count, TOP)
    return sum(
        math.comb(TOP, k) * math.comb(count - TOP, TOP - k) / ways * k / (2 * TOP - k)
        for k in range(TOP + 1)
        if TOP - k <= count - TOP
    )


def table_2(run: Run) -> list[dict]:
    """Similarity of two runs with other demonstrations, another template or its contrast."""
    rows = []
    null = {"r": 0.0, "r_apart": 0.0, "iou": overlap_by_chance(len(names(run))), "full": math.nan}
    for pair in ("demonstrations", "contrast", "templates"):
        found = {task: similarity(study(run, task), pair) for task in run.tasks}
        for task, tasks in [*((task, [task]) for task in run.tasks), (OVER_TASKS, run.tasks)]:
            for measure in null:
                key = {"model": run.model, "task": TITLES.get(task, task), "pair": pair, "measure": measure}
                rows.append(
                    {**key, "value": mean(found[name][measure] for name in tasks), "null": null[measure]}
                    | {"pairs": sum(len(pairs_of(study(run, name), pair)) for name in tasks)}
                    | {"prompts": sum(len(study(run, name).rows) for name in tasks)}
                )
    return rows


def figure_2(run: Run) -> list[dict]:
    """Accuracy of each component and of the model under the task's own template and under its contrast."""
    rows = []
    for task in run.tasks:
        each = study(run, task)
        key = {"model": run.model, "task": task, "prompts": len(each.rows)}
        key["majority_baseline"] = majority([row["gold"] for row in each.rows])
        key |= {f"pair_{measure}": value for measure, value in similarity(each, "contrast").items()}
        for number, name in enumerate(names(run)):
            accuracy = [mean(each.accuracy(template, seed)[number] for seed in each.seeds) for template in ("f1", "contrast")]
            rows.append({**key, **name, "first": accuracy[0], "second": accuracy[1]})
        accuracy = [mean(each.full_accuracy(template, seed) for seed in each.seeds) for template in ("f1", "contrast")]
        rows.append({**key, "kind": "full", "first": accuracy[0], "second": accuracy[1]})
    return rows


# Table 3


def labelled(each: Study, template: str, seed: int) -> tuple[list[np.ndarray], list[int]]:
    """Return the parts of the other labelled texts of a seed, in the order in which budgets take them, and their classes."""
    row = next(row for row in each.rows if row["seed"] == seed)
    labels = row["demo_labels"]
    demonstrations = first_per_class(labels, shots_of(row))
    order = alternating(labels, [i for i in range(len(labels)) if i not in demonstrations])
    texts = [row["text"][slice(*row["text_spans"][i])] for i in order]
    prompts = [
        written(each.run, row, TEMPLATES[each.task][template], demonstrations, text, labels[i])
        for i, text in zip(order, texts, strict=True)
    ]
    return [decomposed(each.run, p)[1] for p in prompts], [p["gold"] for p in prompts]


def score(logits: np.ndarray, gold: list[int]) -> tuple[int, float]:
    """Return the number of correct predictions and the negative loss; logits have shape (n, C)."""
    log_probs = torch.log_softmax(torch.tensor(logits, dtype=torch.float32), -1)
    right = sum(int(first_largest(z)) == y for z, y in zip(logits.tolist(), gold, strict=True))
    return right, -mean(-float(p[y]) for p, y in zip(log_probs, gold, strict=True))


def methods(each: Study) -> tuple[dict, dict, dict]:
    """Predict the test prompts with each method.

    Returns:
        Method -> (template, seed) -> predictions of the seed's prompts; method -> number of labels; and for the methods with
        trained weights, (number of epochs, share of weights at 0) of each run.
    """
    run, settings, budgets = each.run, each.settings, each.settings["budgets"]
    texts = {key: labelled(each, *key) for key in each.runs}
    said: dict[str, dict] = {}
    labels = {"icl": each.demonstrations}
    trained: dict[str, list] = {}

    def test(template, seed):
        return np.stack([each.parts[template][i] for i in each.members(seed)])  # (n, K, C)

    def add(method, key, scores):
        said.setdefault(method, {})[key] = [first_largest(z) for z in np.asarray(scores).tolist()]

    for template, seed in each.runs:
        add("icl", (template, seed), test(template, seed).sum(1))
    for budget in budgets:
        shots = max(shots_of(each.rows[0]), budget // each.classes)
        labels[f"few_shot-{budget}"] = shots * each.classes
        for template, seed in each.runs:
            wording, own = TEMPLATES[each.task][template], [each.rows[i] for i in each.members(seed)]
            prompts = [written(run, row, wording, first_per_class(row["demo_labels"], shots)) for row in own]
            assert max(len(p.ids) for p in prompts) <= run.network.config.max_position_embeddings
            said.setdefault(f"few_shot-{budget}", {})[template, seed] = [answer(run.logits(p), p.label_ids) for p in prompts]
    for budget in budgets:
        for method in ("prompt_selection", "best_component", "calib+", "calib_log"):
            labels[f"{method}-{budget}"] = each.demonstrations + budget
        for template, seed in each.runs:
            ranked = {}
            for name in MAIN:
                parts, gold = texts[name, seed]
                ranked[name] = score(np.stack([p.sum(0) for p in parts[:budget]]), gold[:budget])
            selected = max(MAIN, key=ranked.get)
            add(f"prompt_selection-{budget}", (template, seed), test(selected, seed).sum(1))
            parts, gold = texts[template, seed]
            stacked = np.stack(parts[:budget])  # (n, K, C)
            best = max(range(1, stacked.shape[1] - 1), key=lambda part: score(stacked[:, part], gold[:budget]))
            add(f"best_component-{budget}", (template, seed), test(template, seed)[:, best])
            for method, proper in (("calib+", False), ("calib_log", True)):
                weights, _ = components.calibrated(
                    stacked.sum(1), gold[:budget], proper, settings["learning_rate"], settings["calibration_epochs"],
                    settings["patience"], settings["check"],
                )  # fmt: skip
                z = torch.tensor(test(template, seed).sum(1), dtype=torch.float32)
                scores = z.log_softmax(-1) + weights if proper else z.softmax(-1) * weights
                add(f"{method}-{budget}", (template, seed), scores.numpy())
    most = budgets[-1]
    plans = [(f"comprw-{budget}", budget, settings["l1"], {}) for budget in budgets]
    if most > each.demonstrations:
        plans.append((f"comprw_strict-{most}", most - each.demonstrations, settings["l1"], {}))
    plans.append((f"comprw_with_rest-{most}", most, settings["l1"], {"rest": True}))
    plans.append((f"comprw_unstopped-{most}", most, settings["l1"], {"stops": False}))
    plans += [(f"comprw_l1={l1:g}-{most}", most, l1, {}) for l1 in settings["sweep"]]
    for method, count, l1, more in plans:
        labels[method] = each.demonstrations + count
        for template, seed in each.runs:
            parts, gold = texts[template, seed]
            stacked = np.stack(parts[:count])
            rest = stacked[:, 0] + stacked[:, -1] if "rest" in more else None
            weights, epochs = components.reweighted(
                stacked[:, 1:-1], gold[:count], settings["learning_rate"], l1, settings["epochs"], settings["patience"],
                settings["check"], more.get("stops", True), rest,
            )  # fmt: skip
            own = test(template, seed)
            z = np.einsum("nmc,m->nc", own[:, 1:-1], weights.astype(float))
            add(method, (template, seed), z + own[:, 0] + own[:, -1] if "rest" in more else z)
            trained.setdefault(method, []).append((epochs, mean(w == 0 for w in weights)))
    return said, labels, trained


def table_3(run: Run) -> list[dict]:
    """Accuracy of each method, and the differences that the paper discusses."""
    rows, found = [], {}
    for task in run.tasks:
        each = study(run, task)
        said, labels, trained = methods(each)
        accuracy = {
            method: {
                key: [float(y == each.rows[i]["gold"]) for y, i in zip(of_run, each.members(key[1]), strict=True)]
                for key, of_run in runs.items()
            }
            for method, runs in said.items()
        }
        recalls = {
            method: recall(each, {key: dict(zip(each.members(key[1]), of, strict=True)) for key, of in runs.items()})
            for method, runs in accuracy.items()
        }
        baseline = majority([row["gold"] for row in each.rows])
        found[task] = accuracy, labels, trained, len(each.rows), recalls, baseline
    budgets = run.settings("components")["budgets"]
    differences = []
    for budget in budgets:
        differences += [(f"comprw-{budget}", f"few_shot-{budget}"), (f"comprw-{budget}", f"calib+-{budget}")]
    strict = f"comprw_strict-{budgets[-1]}"
    if strict in found[run.tasks[0]][0]:
        differences.append((strict, f"few_shot-{budgets[-1]}"))
    differences.append((f"comprw-{budgets[-1]}", "icl"))
    for task, tasks in [*((task, [task]) for task in run.tasks), (OVER_TASKS, run.tasks)]:
        key = {"model": run.model, "task": TITLES.get(task, task), "prompts": sum(found[name][3] for name in tasks)}
        values, recalls = {}, {}
        for method in found[tasks[0]][0]:
            of_tasks, spread = {}, []
            for name in tasks:
                runs = found[name][0][method]
                for seed in sorted({seed for _, seed in runs}):
                    of_prompt = zip(*(runs[template, seed] for template in MAIN), strict=True)
                    of_tasks.setdefault(name, {})[seed] = [mean(templates) for templates in of_prompt]
                spread.append(deviation([mean(part) for part in runs.values()]))
            values[method] = nested(of_tasks)
            counts = sorted({found[name][1][method] for name in tasks})
            row = {**key, "method": method, "value": values[method], "sd": mean(spread)}
            row["balanced_accuracy"] = recalls[method] = mean(found[name][4][method] for name in tasks)
            row["majority_baseline"] = mean(found[name][5] for name in tasks)
            row["labels"] = " to ".join(map(str, sorted({counts[0], counts[-1]})))
            if method in found[tasks[0]][2]:
                trained = [found[name][2][method] for name in tasks]
                row |= {"epochs": mean(mean(epochs for epochs, _ in each) for each in trained)}
                row |= {"zeros": mean(mean(zeros for _, zeros in each) for each in trained)}
            rows.append(row)
        for a, b in differences:
            rows.append(
                {**key, "method": f"{a} - {b}", "value": values[a] - values[b], "labels": ""}
                | {"balanced_accuracy": recalls[a] - recalls[b]}
            )
    return rows


# Attention, reconstruction and accuracy of the same heads

MEASURES = ("attention", "reconstruction", "accuracy")
CORRELATIONS = (("attention", "accuracy"), ("reconstruction", "accuracy"), ("reconstruction", "attention"))


def figure_anchors(run: Run) -> list[dict]:
    """Attention to label words, reconstruction and accuracy of each head, and their rank correlations."""
    rows, correlations = [], {}
    prompts_of = {task: len(study(run, task).rows) for task in run.tasks}
    numbers = [number for number, name in enumerate(names(run)) if name["kind"] == "head"]
    for task in run.tasks:
        each = study(run, task)
        of_runs = {measure: [] for measure in MEASURES}
        for template, seed in each.runs:
            read = {"attention": [], "reconstruction": []}
            for i in each.members(seed):
                prompt = each.prompts[template][i]
                weights, _ = kernel_regression.last_rows(run.network, prompt.ids)
                tokens = list(zip(prompt.ids, prompt.offsets, strict=True))
                demonstrations = kernel_regression.demonstration_tokens(prompt.row, tokens, 0, True)
                flat = [row for layer in weights for row in layer]
                read["attention"].append([sum(row[a] for a in prompt.anchors) for row in flat])
                best = [
                    largest_share(kernel_regression.pooled(row, demonstrations)["max"], prompt["demo_labels"], each.classes)
                    for row in flat
                ]
                said = each.full[template][i]
                read["reconstruction"].append([1 / len(classes) if said in classes else 0.0 for classes in best])
            for measure, values in read.items():
                of_runs[measure].append([mean(column) for column in zip(*values, strict=True)])
            accuracy = each.accuracy(template, seed)
            of_runs["accuracy"].append([accuracy[number] for number in numbers])
        means = {measure: [mean(column) for column in zip(*values, strict=True)] for measure, values in of_runs.items()}
        for place, number in enumerate(numbers):
            name = names(run)[number]
            row = {"model": run.model, "task": task, "layer": name["layer"], "head": name["head"]}
            rows.append({**row, **{measure: values[place] for measure, values in means.items()}})
        orders = np.argsort(np.random.default_rng(0).random((1000, len(numbers))), axis=-1).tolist()
        for pair in CORRELATIONS:
            one, other = (means[measure] for measure in pair)
            null = [spearman([one[i] for i in order], other) for order in orders]
            correlations.setdefault(pair, []).append((spearman(one, other), null))
    for pair, found in correlations.items():
        parts = [(task, [part], prompts_of[task]) for task, part in zip(run.tasks, found, strict=True)]
        for task, part, prompts in [*parts, (OVER_TASKS, found, sum(prompts_of.values()))]:
            null = [mean(values) for values in zip(*(values for _, values in part), strict=True)]
            rows.append(
                {"model": run.model, "task": task, "pair": " ~ ".join(pair), "value": mean(value for value, _ in part)}
                | {"null_low": quantile(null, 0.025), "null_high": quantile(null, 0.975)}
                | {"heads": len(numbers), "prompts": prompts}
            )
    return rows
