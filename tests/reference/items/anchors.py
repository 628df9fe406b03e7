"""Items of *Label Words are Anchors* (Wang et al., EMNLP 2023), and the example of a study in ``examples/recency``.

Source of each aggregation:

    Figures 1, 2          section 2.1, eq. 1
    Figures 3, 7, 9       released ``attention_attr_ana.ipynb``: means over a seed's prompts, then shares of a layer, then seeds
    Figures 4, 8, 10, 12  section 2.2: loyalties, means over prompts, seeds and tasks; the random control averages its draws
    Figures 5, 11, 13     section 2.3, appendix E, eq. 5 and the released notebook: AUC per seed, means, then R_l
    Figures 6, 14         section 3.3 and the released ``Error_analysis.ipynb``; the rank correlation is the project's
    Table 1               section 3.1 and appendix H
    Table 2               section 3.2: Hidden_random-top is the draw with the highest label loyalty
    Tables 3, 6           section 3.2 and appendix I: lengths only, because times differ between runs
    Table 5               section 2.2, appendix D
    controls              the project's: the same definitions with shuffled labels and with an untrained copy
"""

from __future__ import annotations

import math
from itertools import combinations, permutations

import torch

from .. import compression, deep_attention, diagnosis, isolation, recency, reweighting, saliency
from . import draws
from .averages import OVER_TASKS, balanced_accuracy, majority, mean, nested, of_seeds, on_other_half, spearman
from .inputs import Prompt, Run, answer, next_token_logits, top

TITLES = {"sst2": "SST-2", "trec": "TREC", "agnews": "AGNews", "emoc": "EmoC"}


def predictions(run: Run, task: str, name: str) -> list[int]:
    """Return the predicted class of each prompt."""
    prompts = run.prompts(task, name)
    return run.once(("predictions", task, name), lambda: [answer(run.logits(p), p.label_ids) for p in prompts])


def scores(answered: dict[str, list[tuple[Prompt, float]]]) -> dict[str, float]:
    """Compute balanced accuracy and majority baseline: over the prompts of a seed, then seeds, then tasks.

    Args:
        answered: Task -> each prompt, and whether (or how likely) its prediction is correct.
    """
    seeds = {task: of_seeds_of(each) for task, each in answered.items()}
    return {
        "balanced_accuracy": nested(seeds, balanced_accuracy),
        "majority_baseline": mean(majority([p["gold"] for p, _ in each]) for each in answered.values()),
    }


def of_seeds_of(answered: list[tuple[Prompt, float]]) -> dict[int, list[tuple[int, float]]]:
    """Return (gold class, value) of each prompt, by seed."""
    found: dict[int, list[tuple[int, float]]] = {}
    for prompt, value in answered:
        found.setdefault(prompt["seed"], []).append((prompt["gold"], float(value)))
    return found


def accuracies(answered: dict[str, list[tuple[Prompt, int]]]) -> dict[str, dict[str, float]]:
    """Compute accuracy, balanced accuracy and baselines of each task, and their means over tasks.

    Args:
        answered: Task -> each prompt and its prediction.
    """
    found = {}
    for task, each in answered.items():
        right = [(p, float(p["gold"] == predicted)) for p, predicted in each]
        gold = [p["gold"] for p, _ in each]
        most = min(c for c in set(gold) if gold.count(c) == max(map(gold.count, set(gold))))
        found[task] = {
            "accuracy": nested({task: of_seeds_of(right)}, lambda part: mean(value for _, value in part)),
            **scores({task: right}),
            "chance": 1 / len(each[0][0]["label_words"]),
            "majority_predicted": mean(predicted == most for _, predicted in each),
        }
    over = {name: mean(each[name] for each in found.values()) for name in next(iter(found.values()))}
    return {**found, OVER_TASKS: over}


def accuracy_columns(run: Run, tasks, name: str) -> dict[str, dict[str, float]]:
    """Compute :func:`accuracies` of a prompt set."""
    return accuracies({task: list(zip(run.prompts(task, name), predictions(run, task, name), strict=True)) for task in tasks})


def with_over_tasks(tasks) -> list[tuple[str, list[str]]]:
    """Return each task, and the mean of tasks, with the tasks that it is computed from."""
    return [(OVER_TASKS, list(tasks)), *((task, [task]) for task in tasks)]


# Figures 3, 7 and 9: saliency

KINDS = ("s_wp", "s_pq", "s_ww")


def saliency_shares(run: Run, tasks, name: str) -> list[dict]:
    """Rows of Figures 3, 7 and 9."""
    rows = []
    about = accuracy_columns(run, tasks, name)
    for task in tasks:
        prompts = run.prompts(task, name)
        measured = of_seeds(prompts, lambda p: saliency.saliency(run.network, p.ids, p.anchors, p.label_ids, p["gold"]))
        for layer in range(run.layers):
            of_seed = []
            for each in measured.values():
                means = [mean(one[kind][layer] for one in each) for kind in range(3)]
                of_seed.append([value / sum(means) for value in means])
            quantities = {kind: [shares[i] for shares in of_seed] for i, kind in enumerate(KINDS)}
            for (i, first), (j, second) in combinations(enumerate(KINDS), 2):
                quantities[f"{first} - {second}"] = [shares[i] - shares[j] for shares in of_seed]
            for metric, values in quantities.items():
                rows.append(
                    {
                        **{"model": run.model, "task": task, "set": name, "metric": metric, "layer": layer},
                        "share": mean(values),
                        "lowest_seed": min(values),
                        "highest_seed": max(values),
                        "seeds": len(values),
                        "prompts": len(prompts),
                        **about[task],
                    }
                )
    return rows


def figure_3(run: Run) -> list[dict]:
    """Shares of S_wp, S_pq and S_ww with one demonstration per class."""
    return saliency_shares(run, [task for task in run.tasks if task in ("sst2", "agnews")], "fresh-1shot")


def figure_7(run: Run) -> list[dict]:
    """The same for the other two tasks."""
    return saliency_shares(run, [task for task in run.tasks if task in ("trec", "emoc")], "fresh-1shot")


def figure_9(run: Run) -> list[dict]:
    """The same with two demonstrations per class."""
    return saliency_shares(run, run.tasks, "fresh-2shot")


# Figures 4, 8 and 10: isolation

LOYALTIES = ("label_loyalty", "word_loyalty_5", "word_loyalty_10")


def main_layers(depth: int) -> int:
    """Number of isolated layers of Figure 4: 5, or a fifth of the depth, rounded up, below 14 layers."""
    return 5 if depth >= 14 else math.ceil(depth / 5)


def isolated_positions(run: Run, prompt: Prompt, target: str, draw: int, settings: dict) -> list[int]:
    """Return the isolated positions of a target."""
    if target == "label":
        return prompt.anchors
    if target == "random":
        return draws.isolated_at_random(run, prompt, draw, settings)
    if target == "template":
        return [anchor - 1 for anchor in prompt.anchors]
    found = []
    for anchor in prompt.anchors:
        place = anchor + 1
        while "\n" not in prompt["text"][slice(*prompt.offsets[place])]:
            place += 1
        found.append(place)
    return found


def loyalties(run: Run, model, prompt: Prompt, conditions, settings: dict) -> dict[tuple, tuple[float, float, float]]:
    """Compare the isolated runs of a prompt with its plain run.

    Args:
        run: The run.
        model: The model, or its untrained copy.
        prompt: The prompt.
        conditions: (target, draw, side, k) of each isolated run.
        settings: Settings of the random target.

    Returns:
        The three loyalties of each condition.
    """
    plain = next_token_logits(model, prompt.ids)
    found = {}
    for target, draw, side, k in conditions:
        layers = range(k) if side == "first" else range(run.layers - k, run.layers)
        positions = isolated_positions(run, prompt, target, draw, settings)
        logits, _ = isolation.isolated_logits(model, prompt.ids, positions, set(layers), "before_softmax")
        same = float(answer(logits, prompt.label_ids) == answer(plain, prompt.label_ids))
        words = [isolation.jaccard(top(logits, size), top(plain, size)) for size in (5, 10)]
        found[target, draw, side, k] = (same, *words)
    return found


def loyalty_rows(run: Run, name: str, measured: dict[str, list], targets, n_draws: int, counts) -> list[dict]:
    """Average loyalties over prompts, seeds and tasks.

    Args:
        run: The run.
        name: The prompt set.
        measured: Task -> (prompt, result of :func:`loyalties`) of each prompt.
        targets: The isolated targets.
        n_draws: Number of draws of the random target.
        counts: Numbers of layers k.
    """
    rows = []
    for task, tasks in with_over_tasks(measured):

        def average(number, target, draw, side, k, tasks=tasks):
            found = {}
            for each in tasks:
                seeds = found.setdefault(each, {})
                for prompt, result in measured[each]:
                    seeds.setdefault(prompt["seed"], []).append(result[target, draw, side, k][number])
            return nested(found)

        for side in ("first", "last"):
            for k in counts:
                for number, metric in enumerate(LOYALTIES):
                    of_draws = {
                        target: [average(number, target, draw, side, k) for draw in range(n_draws if target == "random" else 1)]
                        for target in targets
                    }
                    if {"label", "random"} <= set(targets):
                        of_draws["label - random"] = [of_draws["label"][0] - value for value in of_draws["random"]]
                    for target, values in of_draws.items():
                        rows.append(
                            {
                                **{"model": run.model, "set": name, "task": task, "target": target, "side": side},
                                **{"layers": k, "metric": metric, "value": mean(values)},
                                **{"lowest_draw": min(values), "highest_draw": max(values), "draws": len(values)},
                                "prompts": sum(len(measured[each]) for each in tasks),
                                "seeds": len({p["seed"] for each in tasks for p, _ in measured[each]}),
                            }
                        )
    return rows


def isolation_rows(run: Run, name: str, tasks=None) -> list[dict]:
    """Rows of Figures 8, 10 and 12."""
    tasks, settings = tasks or run.tasks, run.settings("isolation")
    counts = sorted({*range(1, run.layers // 2 + 1), main_layers(run.layers)})
    assert run.layers < 14
    conditions = [
        (target, draw, side, k)
        for target in ("label", "random")
        for draw in range(settings["draws"] if target == "random" else 1)
        for side in ("first", "last")
        for k in counts
    ]
    measured = {
        task: [(p, loyalties(run, run.network, p, conditions, settings)) for p in run.prompts(task, name)] for task in tasks
    }
    about = accuracy_columns(run, tasks, name)
    rows = loyalty_rows(run, name, measured, ("label", "random"), settings["draws"], counts)
    return [{**row, **about[row["task"]]} for row in rows]


def figure_8(run: Run) -> list[dict]:
    """Loyalties by number of isolated layers, one demonstration per class."""
    return run.once("figure_8", lambda: isolation_rows(run, "shared-1shot"))


def figure_4(run: Run) -> list[dict]:
    """The rows of Figure 8 with its main number of layers."""
    return [row for row in figure_8(run) if row["layers"] == main_layers(run.layers)]


def figure_10(run: Run) -> list[dict]:
    """Loyalties with two demonstrations per class."""
    return isolation_rows(run, "shared-2shot")


def figure_12(run: Run) -> list[dict]:
    """Loyalties with meaningless labels."""
    rows = isolation_rows(run, "shared-8shot", ["sst2_ab"])
    return [row for row in rows if row["layers"] == main_layers(run.layers)]


# Figures 5 and 11: deep attention


def curve_rows(run: Run, name: str, measured: dict[str, list], methods=("normalised", "raw")) -> list[dict]:
    """Compute AUCROC_l and R_l of each task, and over tasks.

    Args:
        run: The run.
        name: The prompt set.
        measured: Task -> (prompt, prediction, class attention (L, C)) of each prompt.
        methods: How to score two classes.
    """
    rows = []
    for task, tasks in with_over_tasks(measured):
        seeds = {}
        for each in tasks:
            for prompt, predicted, attention in measured[each]:
                seeds.setdefault((each, prompt["seed"]), []).append((predicted, attention, len(prompt["label_words"])))
        kept = {key: len({y for y, _, _ in prompts}) for key, prompts in seeds.items()}
        used = [key for key in seeds if kept[key] > 1]
        facts = {
            "prompts": sum(len(seeds[key]) for key in used),
            "seeds": len({seed for _, seed in used}),
            "seeds_missing": len(seeds) - len(used),
            "classes_dropped": sum(seeds[key][0][2] - kept[key] for key in seeds),
        }
        for method in methods:
            curve = []
            for layer in range(run.layers):
                of_task = []
                for each in tasks:
                    of_seed = []
                    for key in used:
                        if key[0] == each:
                            scores = [list(map(float, attention[layer])) for _, attention, _ in seeds[key]]
                            predicted = [y for y, _, _ in seeds[key]]
                            of_seed.append(deep_attention.one_versus_one(scores, predicted, raw=method == "raw"))
                    of_task.append(mean(of_seed))
                curve.append(mean(of_task))
            excess = [value - 0.5 for value in curve]
            total = sum(excess)
            shares = [sum(excess[: layer + 1]) / total for layer in range(run.layers)]
            for metric, values in (("auc", curve), ("r", shares)):
                for layer, value in enumerate(values):
                    key = {
                        "model": run.model,
                        "set": name,
                        "task": task,
                        "two_classes": method,
                        "metric": metric,
                        "layer": layer,
                    }
                    rows.append({**key, "value": value, **facts})
    return rows


def deep_attention_rows(run: Run, name: str, tasks=None) -> list[dict]:
    """Rows of Figures 5, 11 and 13."""
    tasks = tasks or run.tasks
    measured = {
        task: [
            (
                p,
                y,
                deep_attention.class_attention(run.network, p.ids, p.anchors, p["demo_labels"], len(p["label_words"])),
            )
            for p, y in zip(run.prompts(task, name), predictions(run, task, name), strict=True)
        ]
        for task in tasks
    }
    about = accuracy_columns(run, tasks, name)
    return [{**row, **about[row["task"]]} for row in curve_rows(run, name, measured)]


def figure_5(run: Run) -> list[dict]:
    """AUCROC_l and R_l with one demonstration per class."""
    return deep_attention_rows(run, "shared-1shot")


def figure_11(run: Run) -> list[dict]:
    """AUCROC_l and R_l with two demonstrations per class."""
    return deep_attention_rows(run, "shared-2shot")


def figure_13(run: Run) -> list[dict]:
    """AUCROC_l and R_l with meaningless labels."""
    return deep_attention_rows(run, "shared-8shot", ["sst2_ab"])


# Table 1 and the figure of re-weighting


def reweighting_answers(run: Run) -> dict[str, tuple[list[Prompt], dict[str, list[int]], dict[int, torch.Tensor]]]:
    """Train beta for each task and seed, and predict each prompt with each method.

    Returns:
        Task -> prompts, the predictions of each method, and beta of each seed.
    """

    def compute():
        settings = run.settings("reweighting")
        found = {}
        for task in run.tasks:
            prompts, more = run.prompts(task, "shared-1shot"), run.prompts(task, "shared-5shot")
            assert max(len(p.ids) for p in more) <= run.network.config.max_position_embeddings
            betas = {}
            for seed in sorted({p["seed"] for p in prompts}):
                texts = [p for p in run.prompts(task, "shared-1shot-auxiliary") if p["seed"] == seed]
                examples = [(p.ids, p.anchors, p.label_ids, p["gold"]) for p in texts]
                orders = draws.training_orders(settings, seed, len(examples))
                betas[seed], _ = reweighting.train(run.network, examples, orders, run.heads, settings["learning_rate"])
            answers = {"vanilla": predictions(run, task, "shared-1shot"), "few_shot": predictions(run, task, "shared-5shot")}
            answers["reweighted"] = []
            for p in prompts:
                with torch.no_grad():
                    logits = reweighting.class_logits(run.network, p.ids, p.anchors, p.label_ids, betas[p["seed"]])
                answers["reweighted"].append(answer(logits, range(len(p.label_ids))))
            found[task] = prompts, answers, betas
        return found

    return run.once("reweighting", compute)


def recall_and_f1(pairs: list[tuple[int, int]]) -> tuple[float, float]:
    """Compute the macro averages of recall and F1 over the classes of the gold labels."""
    recalls, scores = [], []
    for c in sorted({gold for gold, _ in pairs}):
        right = sum(gold == predicted == c for gold, predicted in pairs)
        of_class, said = sum(gold == c for gold, _ in pairs), sum(predicted == c for _, predicted in pairs)
        recalls.append(right / of_class)
        scores.append(2 * right / (of_class + said))
    return mean(recalls), mean(scores)


def table_1(run: Run) -> list[dict]:
    """Accuracy, balanced accuracy and macro F1 of each method."""
    answered = reweighting_answers(run)
    rows = []
    for task, tasks in [*((task, [task]) for task in run.tasks), (OVER_TASKS, run.tasks)]:
        scores_ = {}
        for method in ("vanilla", "few_shot", "reweighted"):
            pairs = {}
            for each in tasks:
                prompts, answers, _ = answered[each]
                for p, predicted in zip(prompts, answers[method], strict=True):
                    pairs.setdefault(each, {}).setdefault(p["seed"], []).append((p["gold"], predicted))
            scores_[method] = {
                "accuracy": nested(pairs, lambda part: mean(gold == predicted for gold, predicted in part)),
                "balanced_accuracy": nested(pairs, lambda part: recall_and_f1(part)[0]),
                "macro_f1": nested(pairs, lambda part: recall_and_f1(part)[1]),
            }
        difference = {name: scores_["reweighted"][name] - scores_["vanilla"][name] for name in scores_["vanilla"]}
        for method, each in [*scores_.items(), ("reweighted - vanilla", difference)]:
            rows.append(
                {
                    **{"model": run.model, "task": TITLES.get(task, task), "method": method, **each},
                    "shots": {"few_shot": "5", "reweighted - vanilla": ""}.get(method, "1"),
                    "majority_baseline": mean(majority([p["gold"] for p in answered[each][0]]) for each in tasks)
                    if method in scores_
                    else math.nan,
                    "prompts": sum(len(answered[each][0]) for each in tasks),
                    "seeds": len({p["seed"] for each in tasks for p in answered[each][0]}),
                }
            )
    return rows


def figure_reweighting(run: Run) -> list[dict]:
    """Beta of each head, averaged over demonstrations, seeds and tasks, and the predicted classes of each method."""
    answered = reweighting_answers(run)
    rows = []
    for layer in range(run.layers):
        for head in range(run.heads):
            of_tasks = [mean(mean(beta[layer, head].tolist()) for beta in betas.values()) for _, _, betas in answered.values()]
            rows.append({"model": run.model, "layer": layer, "head": head, "beta": mean(of_tasks)})
    for task, (prompts, answers, _) in answered.items():
        for method, classes in {"gold": [p["gold"] for p in prompts], **answers}.items():
            for c in range(len(prompts[0]["label_words"])):
                seeds = {}
                for p, y in zip(prompts, classes, strict=True):
                    seeds.setdefault(p["seed"], []).append(float(y == c))
                rows.append({"model": run.model, "task": task, "method": method, "class": c, "share": nested({task: seeds})})
    return rows


# Table 2: compression


def kept_positions(prompt: Prompt) -> list[int]:
    """Positions of the demonstrations without their texts and the spaces before these."""
    texts = set()
    for start, end in prompt["text_spans"]:
        while start and prompt["text"][start - 1] == " ":
            start -= 1
        texts |= {i for i, (a, b) in enumerate(prompt.offsets[: prompt.query_start()]) if a < end and start < b <= end}
    return [place for place in range(prompt.query_start()) if place not in texts]


def text_anchor(run: Run, prompt: Prompt) -> list[int]:
    """Token ids of the prompt without the demonstrations' texts and the spaces before these."""
    text, done = "", 0
    for start, end in prompt["text_spans"]:
        text += prompt["text"][done:start].rstrip(" ")
        done = end
    return list(run.tokenizer(text + prompt["text"][done:])["input_ids"])


METRICS = ("label_loyalty", "word_loyalty", "accuracy")


def mean_of_draws(values: tuple) -> tuple[int, float]:
    """Return the gold class of a prompt, and the mean accuracy of its draws."""
    return values[0][3], mean(value[2] for value in values)


def table_2(run: Run) -> list[dict]:
    """Loyalties and accuracy of each way to compress the demonstrations."""
    settings = run.settings("compression")
    logits_of = {"continued": compression.compressed_logits, "restarted": compression.restarted_logits}
    rows, measured = [], {}  # (method, positions) -> draw -> task -> seed -> (label loyalty, word loyalty, accuracy) per prompt
    for task in run.tasks:
        for prompt in run.prompts(task, "shared-1shot"):
            full, length, kept = run.logits(prompt), prompt.query_start(), kept_positions(prompt)
            found = {
                ("full", "own", 0): full,
                ("text_anchor", "own", 0): next_token_logits(run.network, text_anchor(run, prompt)),
            }
            for positions in settings["positions"]:
                compressed = logits_of[positions]
                found["hidden_anchor", positions, 0] = compressed(run.network, prompt.ids, length, kept)
                for draw in range(settings["draws"]):
                    changed = [place for place in kept if place not in prompt.anchors]
                    changed += draws.kept_at_random(run, prompt, draw)
                    found["hidden_random", positions, draw] = compressed(run.network, prompt.ids, length, changed)
            for (method, positions, draw), logits in found.items():
                prediction = answer(logits, prompt.label_ids)
                of_draw = measured.setdefault((method, positions), {}).setdefault(draw, {}).setdefault(task, {})
                of_draw.setdefault(prompt["seed"], []).append(
                    (
                        float(prediction == answer(full, prompt.label_ids)),
                        isolation.jaccard(top(logits, 5), top(full, 5)),
                        float(prediction == prompt["gold"]),
                        prompt["gold"],
                    )
                )
    for positions in settings["positions"]:
        in_sample = measured.setdefault(("hidden_random_top_in_sample", positions), {0: {}})[0]
        best = measured.setdefault(("hidden_random_top", positions), {0: {}})[0]
        for task in run.tasks:
            prompts = run.prompts(task, "shared-1shot")
            half = draws.halves(prompts, predictions(run, task, "shared-1shot"))
            for seed in measured["hidden_random", positions][0][task]:
                of_draws = [measured["hidden_random", positions][draw][task][seed] for draw in range(settings["draws"])]

                def most_loyal(of, of_draws=of_draws):
                    loyalty = [mean(each[i][0] for i in of) for each in of_draws]
                    return loyalty.index(max(loyalty))

                size = range(len(of_draws[0]))
                in_sample.setdefault(task, {})[seed] = of_draws[most_loyal(size)]
                of_seed = [h for h, p in zip(half, prompts, strict=True) if p["seed"] == seed]
                chosen = on_other_half(of_seed, most_loyal)
                best.setdefault(task, {})[seed] = [of_draws[draw][i] for i, draw in enumerate(chosen) if draw is not None]
    for task, tasks in with_over_tasks(run.tasks):
        for (method, positions), of_draws in measured.items():
            parts = [{each: part[each] for each in tasks} for part in of_draws.values()]
            row = {"model": run.model, "set": "shared-1shot", "task": task, "method": method, "positions": positions}
            for number, metric in enumerate(METRICS):
                values = [nested(part, lambda each, n=number: mean(one[n] for one in each)) for part in parts]
                row |= {metric: mean(values), f"{metric}_lowest_draw": min(values), f"{metric}_highest_draw": max(values)}
            pooled = {
                each: {seed: [mean_of_draws(v) for v in zip(*(part[each][seed] for part in parts), strict=True)] for seed in of}
                for each, of in parts[0].items()
            }
            row["balanced_accuracy"] = nested(pooled, balanced_accuracy)
            row["majority_baseline"] = mean(
                majority([gold for seed in of.values() for gold, _ in seed]) for of in pooled.values()
            )
            seeds = {seed for of in pooled.values() for seed in of}
            size = sum(len(seed) for of in pooled.values() for seed in of.values())
            rows.append({**row, "draws": len(parts), "prompts": size, "seeds": len(seeds)})
    return rows


# Tables 3 and 6: latency


def table_3(run: Run) -> list[dict]:
    """Lengths of what is timed."""
    rows = []
    for task in run.tasks:
        chosen = {}
        for p in run.prompts(task, "shared-1shot"):
            chosen.setdefault(p["seed"], []).append(p)
        chosen = {seed: prompts[: run.settings("latency")["prompts"]] for seed, prompts in chosen.items()}
        lengths = {
            "demo_tokens": lambda p: p.query_start(),
            "cache_tokens": lambda p: len(kept_positions(p)),
            "query_tokens": lambda p: len(p.ids) - p.query_start(),
            "demo_words": lambda p: sum(len(p["text"][a:b].split()) for a, b in p["text_spans"]),
            "query_words": lambda p: len(p["text"][slice(*p["query_span"])].split()),
        }
        means = {name: nested({task: chosen}, lambda each, f=length: mean(map(f, each))) for name, length in lengths.items()}
        for together in (False, True):
            passes = len(chosen) if together else sum(map(len, chosen.values()))
            key = {"model": run.model, "set": "shared-1shot", "task": task, "together": together}
            rows.append({**key, **means, "passes": passes, "seeds": len(chosen)})
    return rows


# Figures 6 and 14: diagnosis


def confusion_rows(run: Run, counts) -> list[dict]:
    """Predicted and real confusion of each pair of classes, and their rank correlation."""
    task, name, layer = "trec", "ordered-1shot", 2 * run.layers // 3
    family = run.network.config.model_type
    prompts, pooled = run.prompts(task, name), run.prompts(task, "pooled-1shot")
    classes = range(len(prompts[0]["label_words"]))
    pairs = list(combinations(classes, 2))

    def vectors(prompt):
        queries, keys = diagnosis.projections(run.network, family, prompt.ids, layer)
        by_class = dict(zip(prompt["demo_labels"], prompt.anchors, strict=True))
        return queries[prompt.last], [keys[by_class[c]] for c in classes]

    real, items, predicted, sets = {}, {}, {}, {}
    for seed in sorted({p["seed"] for p in prompts}):
        own = [p for p in prompts if p["seed"] == seed]
        logits = [run.logits(p)[p.label_ids].double().tolist() for p in own]
        for a, b in pairs:
            both = [(z[a] - z[b], p["gold"] == a) for z, p in zip(logits, own, strict=True) if p["gold"] in (a, b)]
            right = [is_a for _, is_a in both]
            # p_a / (p_a + p_b) increases with the difference of the logits.
            known = any(right) and not all(right)
            real[seed, a, b] = deep_attention.auc_by_counting([z for z, _ in both], right) if known else math.nan
        items[seed] = [sum(p["gold"] == c for p in own) for c in classes]
        read = [vectors(p) for p in pooled if p["seed"] == seed]
        of_set = {}
        for p, (_, keys) in zip((p for p in pooled if p["seed"] == seed), read, strict=True):
            of_set[tuple(p.ids[: p.anchors[-1] + 1])] = keys
        for source, all_keys in (("first", [vectors(own[0])[1]]), ("pool", list(of_set.values()))):
            sets[seed, source] = len(all_keys)
            for count in counts:
                matrices = [diagnosis.predicted([q for q, _ in read], keys, count) for keys in all_keys]
                predicted[seed, source, count] = {pair: mean(m[pair] for m in matrices) for pair in pairs}
    rows = []
    for source in ("first", "pool"):
        for count in counts:
            agreed = {}
            for seed in items:
                known = [pair for pair in pairs if not math.isnan(real[seed, *pair])]

                def correlation(order, seed=seed, known=known, source=source, count=count):
                    found = predicted[seed, source, count]
                    moved = [found[tuple(sorted((order[a], order[b])))] for a, b in known]
                    return spearman(moved, [real[seed, *pair] for pair in known]) if len(known) > 1 else math.nan

                agreed[seed] = len(known), correlation(classes), correlation
            defined = [seed for seed in agreed if not math.isnan(agreed[seed][1])]
            relabelled = math.nan
            if defined:
                orders = [mean(agreed[seed][2](order) for seed in defined) for order in permutations(classes)]
                relabelled = mean(value >= orders[0] - 1e-12 for value in orders)
            for seed in items:
                there = min(count, sum(p["seed"] == seed for p in pooled) - 1)
                for a, b in pairs:
                    rows.append(
                        {
                            **{
                                "model": run.model,
                                "task": task,
                                "set": name,
                                "seed": seed,
                                "keys": source,
                                "components": count,
                            },
                            **{"class_i": a, "class_j": b, "key_sets": sets[seed, source], "layer": layer},
                            **{"components_there": there, "predicted": predicted[seed, source, count][a, b]},
                            **{"real": real[seed, a, b], "items_i": items[seed][a], "items_j": items[seed][b]},
                            **{"correlation": mean(agreed[each][1] for each in agreed), "seeds": len(defined)},
                            **{"pairs": min(number for number, _, _ in agreed.values()), "relabelled": relabelled},
                        }
                    )
    return rows


def figure_6(run: Run) -> list[dict]:
    """Predicted and real confusion with the paper's number of directions."""
    return confusion_rows(run, [run.settings("diagnosis")["directions"]])


def figure_14(run: Run) -> list[dict]:
    """Predicted and real confusion by number of directions."""
    return confusion_rows(run, run.settings("diagnosis")["sweep"])


# Controls


def figure_controls(run: Run) -> list[dict]:
    """Isolation and deep attention with shuffled labels and with an untrained copy."""
    settings, name = run.settings("controls"), "shared-1shot"
    targets, k = ("label", "random", "newline", "template"), main_layers(run.layers)
    conditions = [
        (target, draw, side, k)
        for target in targets
        for draw in range(settings["draws"] if target == "random" else 1)
        for side in ("first", "last")
    ]
    copy = draws.untrained(run.network, settings["seed"])
    first = {}
    for task in (task for task in run.tasks if task in ("sst2", "trec")):
        for p in run.prompts(task, name):
            if sum(p["seed"] == other["seed"] for other in first.setdefault(task, [])) < settings["queries"]:
                first[task].append(p)
    shuffled = {task: draws.shuffled_labels(run, prompts, settings["seed"]) for task, prompts in first.items()}
    rows = []
    for control, model, of_task in (
        ("none", run.network, first),
        ("shuffled", run.network, shuffled),
        ("untrained", copy, first),
    ):
        measured, attended, pairs = {}, {}, {}
        for task, prompts in of_task.items():
            measured[task] = [(p, loyalties(run, model, p, conditions, settings)) for p in prompts]
            attended[task] = []
            for p in prompts:
                predicted = answer(next_token_logits(model, p.ids), p.label_ids)
                attention = deep_attention.class_attention(model, p.ids, p.anchors, p["demo_labels"], len(p["label_words"]))
                attended[task].append((p, predicted, attention))
            pairs[task] = [(p, y) for p, y, _ in attended[task]]
        about = accuracies(pairs)
        found = loyalty_rows(run, name, measured, targets, settings["draws"], [k])
        found += [row for row in curve_rows(run, name, attended, ("normalised",)) if row["metric"] == "auc"]
        rows += [{"control": control, **row, **about[row["task"]]} for row in found]
    return rows


# Figures 1 and 2: the information flow of one prompt


def flow_of_first_prompt(run: Run, task: str) -> tuple[Prompt, list, list]:
    """Return the first prompt of a task, its information flow and its mean attention over heads, by layer."""

    def compute():
        prompt = run.prompts(task, "fresh-1shot")[0]
        flow = saliency.information_flow(run.network, prompt.ids, prompt.label_ids, prompt["gold"])
        with torch.inference_mode():
            output = run.network(input_ids=torch.tensor([prompt.ids]), output_attentions=True, use_cache=False)
        return prompt, flow, [layer[0].double().mean(0).tolist() for layer in output.attentions]

    return run.once(("flow", task), compute)


def named_layers(run: Run) -> dict[int, str]:
    """Return the layers that the figures show, and their names."""
    return {int(run.layers / 5): "shallow", int(4 * run.layers / 5): "deep"}


def edges(run: Run, task: str, layer: int) -> tuple[dict[tuple[int, int], tuple[float, float]], float]:
    """Return the edges (query, key) with a large share of the layer's flow or attention, and the flow of all edges."""
    prompt, flow, attention = flow_of_first_prompt(run, task)
    settings, found = run.settings("flow"), {}
    below = {(i, j): float(flow[layer][i][j]) for i in range(len(prompt.ids)) for j in range(i)}
    for (i, j), value in below.items():
        strong = value > 0 and value >= settings["least"] * max(below.values())
        if strong or attention[layer][i][j] >= settings["least_attention"]:
            found[i, j] = value, attention[layer][i][j]
    return found, sum(below.values())


def figure_1(run: Run, task: str = "sst2") -> list[dict]:
    """Edges of one prompt."""
    rows = []
    prompt = flow_of_first_prompt(run, task)[0]
    key = {"model": run.model, "task": task, "set": "fresh-1shot", "seed": prompt["seed"], "prompt_id": prompt["prompt_id"]}
    means = saliency.saliency(run.network, prompt.ids, prompt.anchors, prompt.label_ids, prompt["gold"])
    words = [prompt["text"][a:b].strip(" ").encode("unicode_escape").decode() for a, b in prompt.offsets]
    for layer, name in named_layers(run).items():
        shown, _ = edges(run, task, layer)
        largest = max(value for value, _ in shown.values())
        for (i, j), (value, attention) in shown.items():
            kind = "wp" if i in prompt.anchors else "pq" if i == prompt.last and j in prompt.anchors else "ww"
            rows.append(
                {**key, "layer": layer, "name": name, "query": i, "key": j, "saliency": value, "attention": attention}
                | {"relative": value / largest, "kind": kind, "to_word": words[i], "from_word": words[j]}
                | {kind: float(means[number][layer]) for number, kind in enumerate(KINDS)}
            )
    return rows


def figure_2(run: Run, task: str = "sst2") -> list[dict]:
    """Shares of the flow of one prompt, by path."""
    rows = []
    prompt = flow_of_first_prompt(run, task)[0]
    key = {"model": run.model, "task": task, "set": "fresh-1shot", "seed": prompt["seed"], "prompt_id": prompt["prompt_id"]}
    for layer, name in named_layers(run).items():
        shown, total = edges(run, task, layer)
        sums = {("query", -1): 0.0}
        for number, anchor in enumerate(prompt.anchors):
            sums |= {("own_text", number): 0.0, ("other_text", number): 0.0, ("label_word", number): 0.0}
            start = prompt.anchors[number - 1] + 1 if number else 0
            for (i, j), (value, _) in shown.items():
                if i == anchor:
                    sums["own_text" if j >= start else "other_text", number] += value
                if i == prompt.last and j == anchor:
                    sums["label_word", number] += value
        for (i, j), (value, _) in shown.items():
            if i == prompt.last and j > prompt.anchors[-1]:
                sums["query", -1] += value
        shares = {path: value / total for path, value in sums.items()}
        shares["rest", -1] = max(0.0, 1 - sum(shares.values()))
        for (path, demonstration), share in shares.items():
            rows.append({**key, "layer": layer, "name": name, "path": path, "demonstration": demonstration, "share": share})
    return rows


# Table 5: the most likely words with isolated label words


def table_5(run: Run, task: str = "agnews") -> list[dict]:
    """The most likely next tokens of one prompt, with and without isolated label words."""
    prompts = [p for p in run.prompts(task, "shared-1shot") if p["label_words"][p["gold"]] == " World"]
    plain = {id(p): run.logits(p) for p in prompts}
    prompt = next((p for p in prompts if answer(plain[id(p)], p.label_ids) == p["gold"]), prompts[0])
    k, rows = main_layers(run.layers), []
    for name, layers in (
        ("no", set()),
        (f"in the first {k} layers", set(range(k))),
        (f"in the last {k} layers", set(range(run.layers - k, run.layers))),
    ):
        logits, _ = isolation.isolated_logits(run.network, prompt.ids, prompt.anchors, layers, "before_softmax")
        probabilities = torch.softmax(logits.double(), 0)
        best = torch.argsort(logits, descending=True, stable=True)[:5].tolist()
        words = [run.tokenizer.decode([i]).encode("unicode_escape").decode() for i in best]
        rows.append(
            {
                **{"model": run.model, "task": TITLES[task], "label words isolated": name},
                "predicted label": prompt["label_words"][answer(logits, prompt.label_ids)].strip(),
                "top 5 tokens": ", ".join(f'"{word}"' for word in words),
                "their probabilities": ", ".join(f"{float(probabilities[i]):.3f}" for i in best),
            }
        )
    return rows


# The example of a study in examples/recency


def figure_recency(run: Run) -> list[dict]:
    """Share of the attention to demonstrations that goes to each place."""
    rows, name = [], "fresh-4shot"
    about = accuracy_columns(run, run.tasks, name)
    for task in run.tasks:
        prompts = run.prompts(task, name)
        tokens = {id(p): recency.demonstration_tokens(p.row, p.offsets, p.first_text_token, False) for p in prompts}
        attention = of_seeds(prompts, lambda p, t=tokens: recency.attention_to_places(run.network, p.ids, t[id(p)]))
        # As many tokens per place as with uniform attention; the reference's shares take one layer of them.
        sizes = of_seeds(prompts, lambda p, t=tokens: [[len(place) for place in t[id(p)]]])
        for layer in range(run.layers):
            shares = [recency.shares(each, layer) for each in attention.values()]
            uniform = [recency.shares(each, 0) for each in sizes.values()]
            for place in range(len(shares[0])):
                key = {"model": run.model, "set": name, "task": task, "layer": layer, "place": place + 1}
                size = {"prompts": len(prompts), "seeds": len(attention)}
                value = {"share": mean(each[place] for each in shares), "uniform": mean(each[place] for each in uniform)}
                rows.append({**key, **value, **size, **about[task]})
    return rows
