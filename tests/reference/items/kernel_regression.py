"""Items of *In-context learning as kernel regression* (Han et al., TMLR 2025).

Source of each aggregation:

    Figures 2, 6       section 5.1: mean row over a seed's prompts, then seeds; a text has the same number of positions
    Figures 3, 7       section 5.2: how often each head reconstructs the prediction or the gold label, over all prompts
    Figure 4           eq. 9, and its correlation with attention over pairs; the null distributions are the project's
    Figures 5, 8       ridge regression with penalty .01; the folds, and the accuracy over all folds, are the project's
    Table 1            accuracy with rewritten test texts, and its drop on the same prompts
    Table 2            sections 5.2 and 5.5: a head is chosen on the prompts that are not held out, and scored on the others
    Table 3            appendix C
    controls, anchors  the project's
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections import Counter
from itertools import combinations

import numpy as np

from .. import deep_attention, hidden_markov, kernel_regression, label_probes, single_texts
from . import draws
from .anchors import accuracies, with_over_tasks
from .anchors import scores as answer_scores
from .averages import deviation, largest_share, majority, mean, nested, on_other_half, pearson, quantile, spearman, tied
from .inputs import Prompt, Run, answer

SET = "fresh-4shot"
PARTS = ("first", "texts", "labels", "rest", "query", "end")


# What is read of each prompt


def places(prompt: Prompt) -> list[tuple[list[int], list[int]]]:
    """Return the tokens of each demonstration, without position 0, and those of its label word."""
    tokens = list(zip(prompt.ids, prompt.offsets, strict=True))
    return kernel_regression.demonstration_tokens(prompt.row, tokens, 0, True)


def read(run: Run, prompt: Prompt) -> dict:
    """Read the attention of a prompt's last position.

    Returns:
        The prediction; the rows [layer][head][position]; and for each pooling, the attention to each demonstration of each head
        (layer, head).
    """
    assert prompt.first_text_token == 0
    rows, logits = kernel_regression.last_rows(run.network, prompt.ids)
    demonstrations = places(prompt)
    pooled = {
        (layer, head): kernel_regression.pooled(row, demonstrations)
        for layer, heads in enumerate(rows)
        for head, row in enumerate(heads)
    }
    return {"prediction": answer(logits, prompt.label_ids), "rows": rows, "pooled": pooled}


def measured(run: Run, task: str) -> list[tuple[Prompt, dict]]:
    """Return the prompts of a task, each with its prediction and the attention of its heads (see `read`)."""
    return run.once(("attention", task), lambda: [(p, read(run, p)) for p in run.prompts(task, SET)])


def classes_of(prompt: Prompt) -> int:
    """Number of classes of a prompt's task."""
    return len(prompt["label_words"])


def agreement(weights, labels, target: int, classes: int) -> float:
    """Return 1 if the reconstruction is the target, 0 if not, and 1 / k if the target is one of k tied classes."""
    best = largest_share(weights, labels, classes)
    return 1 / len(best) if target in best else 0.0


def heads(run: Run) -> list[tuple[int, int]]:
    """Return (layer, head) of each head, in order."""
    return [(layer, head) for layer in range(run.layers) for head in range(run.heads)]


def targets(prompts) -> dict[str, list[int]]:
    """Return the model's predictions and the gold labels."""
    return {"model": [found["prediction"] for _, found in prompts], "truth": [p["gold"] for p, _ in prompts]}


def scores(prompts, target, key, pooling="max", labels=None) -> list[float]:
    """Return the agreement of one head's reconstruction with a target, for each prompt."""
    labels = labels or [p["demo_labels"] for p, _ in prompts]
    return [
        agreement(found["pooled"][key][pooling], y, t, classes_of(p))
        for (p, found), y, t in zip(prompts, labels, target, strict=True)
    ]


def class_correlation(prompts, target, key, pooling="max") -> float:
    """Compute Pearson's correlation of a class's share and the indicator of the target, mean over classes; -1 if undefined."""
    shares = [kernel_regression.reconstruction(f["pooled"][key][pooling], p["demo_labels"], classes_of(p)) for p, f in prompts]
    found = []
    for c in range(classes_of(prompts[0][0])):
        one, other = [share[c] for share in shares], [float(t == c) for t in target]
        if deviation(one) * deviation(other) > 1e-12:
            found.append(pearson(one, other))
    return mean(found) if found else -1.0


def choose(run: Run, prompts, target, pooling="max") -> tuple[int, int]:
    """Return the head that agrees best; ties go to the largest correlation, then to the first head."""
    agreed = dict(zip(heads(run), tied([mean(scores(prompts, target, key, pooling)) for key in heads(run)]), strict=True))
    best = [key for key in heads(run) if agreed[key] == max(agreed.values())]
    return max(best, key=lambda key: class_correlation(prompts, target, key, pooling))


def nulls(run: Run, prompts, held: set[int]) -> tuple[dict, dict]:
    """Repeat the choice and the scoring with the demonstrations' labels shuffled within each prompt.

    Returns:
        For each target, the agreement in each permutation: on the held-out prompts, of the head that is chosen on the others;
        on all prompts, of the head that agrees best with the model there; and of the head that agrees best with the target.
    """
    settings = run.settings("kernel_regression")
    generator = np.random.default_rng([settings["seed"], 1])
    held_out, in_sample, best = ({"model": [], "truth": []} for _ in range(3))
    scored = [pair for pair in prompts if pair[0]["prompt_id"] in held]
    chosen_on = [pair for pair in prompts if pair[0]["prompt_id"] not in held]
    for _ in range(settings["permutations"]):
        labels = draws.shuffled_within([p["demo_labels"] for p, _ in prompts], generator)
        of = {p["prompt_id"]: own for (p, _), own in zip(prompts, labels, strict=True)}
        everything, first, second = (
            [(dataclasses.replace(p, row={**p.row, "demo_labels": of[p["prompt_id"]]}), f) for p, f in part]
            for part in (prompts, chosen_on, scored)
        )
        head = choose(run, first, targets(first)["model"])
        like_model = choose(run, everything, targets(everything)["model"])
        for name in best:
            own = choose(run, everything, targets(everything)[name])
            held_out[name].append(averaged(second, scores(second, targets(second)[name], head)))
            in_sample[name].append(averaged(everything, scores(everything, targets(everything)[name], like_model)))
            best[name].append(averaged(everything, scores(everything, targets(everything)[name], own)))
    return held_out, in_sample, best


def by_seed(prompts, values) -> dict[int, list[float]]:
    """Return values by the seeds of their prompts."""
    found: dict[int, list[float]] = {}
    for (p, _), value in zip(prompts, values, strict=True):
        found.setdefault(p["seed"], []).append(value)
    return found


def averaged(prompts, values) -> float:
    """Compute the mean over the prompts of a seed, then over seeds."""
    return nested({"": by_seed(prompts, values)})


# Figures 2 and 6: the attention map


def map_rows(run: Run, task: str) -> list[dict]:
    """Rows of Figure 2: the map by bin, and the share of each part of the prompt."""
    prompts, bins = measured(run, task), run.settings("kernel_regression")["bins"]
    about = accuracies({task: [(p, found["prediction"]) for p, found in prompts]})[task]
    rows = []
    key = {"model": run.model, "set": SET, "task": task}
    mapped: dict[tuple, dict[int, list[float]]] = {}
    shares: dict[tuple, list[float]] = {}
    for p, found in prompts:
        demonstrations = places(p)
        query_token = p.query_start()
        while p["text"][slice(*p.offsets[query_token])].isspace():
            query_token += 1
        end = next(place for place, (_, stop) in enumerate(p.offsets) if stop > p["query_span"][1])
        part = dict.fromkeys(range(len(p.ids)), "rest")
        for tokens, label in demonstrations:
            part |= dict.fromkeys(tokens, "texts") | dict.fromkeys(label, "labels")
        part |= dict.fromkeys(range(query_token, end), "query") | dict.fromkeys(range(end, len(p.ids)), "end") | {0: "first"}
        for layer, of_layer in enumerate(found["rows"]):
            of_heads = []
            for head, row in enumerate(of_layer):
                for number, (tokens, label) in enumerate(demonstrations, 1):
                    text = [row[t] for t in tokens if t not in label]
                    for position, value in enumerate(kernel_regression.resampled(text, bins), 1):
                        mapped.setdefault((layer, head, number, "text", position), {}).setdefault(p["seed"], []).append(value)
                    summed = sum(row[t] for t in label)
                    mapped.setdefault((layer, head, number, "label", 1), {}).setdefault(p["seed"], []).append(summed)
                for position, value in enumerate(kernel_regression.resampled(row[query_token:], bins), 1):
                    mapped.setdefault((layer, head, 0, "query", position), {}).setdefault(p["seed"], []).append(value)
                of_heads.append({name: sum(v for t, v in enumerate(row) if part[t] == name) for name in PARTS})
            for name in PARTS:
                shares.setdefault((layer, name), []).append(mean(each[name] for each in of_heads))
    for (layer, head, place, name, position), seeds in mapped.items():
        value = nested({task: seeds})
        rows.append(
            {**key, "metric": "attention", "layer": layer, "head": head, "place": place, "part": name, "position": position}
            | {"value": value, **about}
        )
    for (layer, name), values in shares.items():
        size = {"prompts": len(prompts), "seeds": len({p["seed"] for p, _ in prompts})}
        rows.append(
            {**key, "metric": "share", "layer": layer, "part": name, "value": averaged(prompts, values), **size, **about}
        )
    size = {"prompts": len(prompts), "seeds": len({p["seed"] for p, _ in prompts})}
    half = draws.halves([p for p, _ in prompts])
    of_layer = {name: [shares[layer, name] for layer in range(run.layers)] for name in PARTS}
    best_of = {
        "labels - texts": [
            [a - b for a, b in zip(*of, strict=True)] for of in zip(of_layer["labels"], of_layer["texts"], strict=True)
        ],
        "first": of_layer["first"],
        "end": of_layer["end"][: int(0.2 * run.layers)],
    }
    for part_name, layers in best_of.items():
        if layers:

            def largest(of, layers=layers):
                means = [mean(values[i] for i in of) for values in layers]
                return means.index(max(means))

            chosen = on_other_half(half, largest)
            values = [layers[layer][i] for i, layer in enumerate(chosen)]
            rows.append({**key, "metric": "best layer", "part": part_name, "value": averaged(prompts, values), **size, **about})
    return rows


# Figures 3 and 7: heads


def head_rows(run: Run, task: str) -> list[dict]:
    """Rows of Figure 3: the agreement of each head, of the best one, and its depth."""
    prompts = measured(run, task)
    about = accuracies({task: [(p, found["prediction"]) for p, found in prompts]})[task]
    key = {"model": run.model, "set": SET, "task": task, "prompts": len(prompts), "seeds": len({p["seed"] for p, _ in prompts})}
    held = draws.held_out([p for p, _ in prompts], run.settings("kernel_regression"))
    _, _, largest = nulls(run, prompts, held)
    scored = [pair for pair in prompts if pair[0]["prompt_id"] in held]
    chosen_on = [pair for pair in prompts if pair[0]["prompt_id"] not in held]
    rows = []
    for name, target in targets(prompts).items():
        values = {head: averaged(prompts, scores(prompts, target, head)) for head in heads(run)}
        commonest = majority(target)
        for (layer, head), value in values.items():
            rows.append({**key, "metric": f"vs {name}", "layer": layer, "head": head, "value": value, "commonest": commonest})
        best = choose(run, chosen_on, targets(chosen_on)[name])
        of = targets(scored)[name]
        rows.append(
            {**key, "metric": f"best head vs {name}", "layer": best[0], "head": best[1], "prompts": len(scored)}
            | {"value": averaged(scored, scores(scored, of, best)), "commonest": majority(of)}
        )
        best = choose(run, prompts, target)
        of_best = {**key, "layer": best[0], "head": best[1]}
        level = quantile(largest[name], 0.95)
        for metric, value in (("best head in sample", values[best]), ("best head in sample minus null", values[best] - level)):
            row = {**of_best, "metric": f"{metric} vs {name}", "value": value, "commonest": commonest, "null_95": level}
            rows.append(row)
        if name == "model":
            rounded = tied(list(values.values()))
            depths = [(layer + 1) / run.layers for (layer, _), v in zip(values, rounded, strict=True) if v == max(rounded)]
            rows.append({**of_best, "metric": "depth of the best heads", "value": mean(depths)})
    return [{**row, **about} for row in rows]


# Figure 4: prediction similarity


def text_ids(prompt: Prompt, span) -> list[int]:
    """Return the tokens that end inside a text."""
    return [i for i, (_, stop) in zip(prompt.ids, prompt.offsets, strict=True) if span[0] < stop <= span[1]]


def distribution(run: Run, ids) -> np.ndarray:
    """Compute P(o | x) after a text."""
    return run.once(("next token", *ids), lambda: single_texts.next_token(run.network, ids))


def correlations(prompts, pairs) -> tuple[float, float]:
    """Compute the correlation over all pairs of all prompts, and the mean of each prompt's own."""
    both = [list(zip(*each, strict=True)) for each in pairs]
    pooled = [pair for each in both for pair in each]
    each = [pearson(*zip(*own, strict=True)) if len(own) > 1 else math.nan for own in both]
    return pearson(*zip(*pooled, strict=True)), mean(each)


def similarity_rows(run: Run, task: str) -> list[dict]:
    """Rows of Figure 4: the correlation of similarity and attention for each head."""
    prompts = sorted(measured(run, task), key=lambda pair: (pair[0]["seed"], pair[0]["prompt_id"]))
    key = {"model": run.model, "set": SET, "task": task, "prompts": len(prompts)}
    similar = []
    for p, _ in prompts:
        query = distribution(run, text_ids(p, p["query_span"]))
        similar.append([float(query @ distribution(run, text_ids(p, span))) for span in p["text_spans"]])
    attention = {head: [found["pooled"][head]["max"] for _, found in prompts] for head in heads(run)}
    found = {head: correlations(prompts, list(zip(similar, attention[head], strict=True))) for head in heads(run)}
    agreed = {head: mean(scores(prompts, targets(prompts)["model"], head)) for head in heads(run)}
    columns = {
        "pooled": {h: v[0] for h, v in found.items()},
        "per_prompt": {h: v[1] for h, v in found.items()},
        "agreement": agreed,
    }
    rows = [
        {**key, "metric": metric, "layer": layer, "head": head, "value": value}
        for metric, values in columns.items()
        for (layer, head), value in values.items()
    ]
    generator = np.random.default_rng(0)
    chance = {"pooled": [], "per_prompt": []}
    for _ in range(200):
        orders = generator.random((len(similar), len(similar[0]))).argsort(1)
        mixed = [[s[i] for i in order] for s, order in zip(similar, orders, strict=True)]
        drawn = [correlations(prompts, list(zip(mixed, attention[head], strict=True))) for head in heads(run)]
        for number, way in enumerate(chance):
            chance[way].append(max(each[number] for each in drawn))
    for way, values in chance.items():
        best = max(heads(run), key=columns[way].get)
        limit = quantile(values, 0.95)
        rows.append(
            {**key, "metric": f"largest: {way}", "layer": best[0], "head": best[1], "value": columns[way][best]}
            | {"by_chance": limit, "beyond": columns[way][best] - limit}
        )
        one, other = [columns[way][head] for head in heads(run)], [agreed[head] for head in heads(run)]
        value = spearman(one, other)
        generator = np.random.default_rng(0)
        dealt = [value, *(spearman(one, generator.permutation(other).tolist()) for _ in range(999))]
        rows.append(
            {**key, "metric": f"resemblance: {way}", "value": value, "by_chance": mean(v >= value - 1e-12 for v in dealt)}
        )
    return rows


# Figures 5 and 8: probes

PROBES = (("key", "token"), ("turned_key", "token"), ("value", "label"))


def probe_rows(run: Run, task: str) -> list[dict]:
    """Rows of Figure 5: the accuracy of each probe by offset, layer and head."""
    settings, family = run.settings("label_probes"), run.network.config.model_type
    prompts = []
    for p in run.prompts(task, SET):
        if sum(p["seed"] == other["seed"] for other in prompts) < settings["queries"]:
            prompts.append(p)
    texts, tokens, labels, owners, places_of = [], [], [], [], []
    for number, p in enumerate(prompts):
        for anchor, label, span in zip(p.anchors, p["demo_labels"], p["text_spans"], strict=True):
            texts.append(tuple(text_ids(p, span)))
            tokens.append(int(np.argmax(distribution(run, texts[-1]))))
            labels.append(label)
            owners.append(number)
            places_of.append(anchor)
    counted = Counter(tokens)
    frequent = sorted(counted, key=lambda token: (-counted[token], token))[: settings["tokens"]]
    target_of = {"token": [token if token in frequent else None for token in tokens], "label": labels}
    vectors: dict[tuple, list] = {}
    for layer in range(run.layers):
        for number, p in enumerate(prompts):
            keys, values = label_probes.projected(run.network, family, p.ids, layer)
            turned, _ = label_probes.cached(run.network, p.ids, layer)
            vectors[layer, number] = {"key": keys, "turned_key": turned, "value": values}
    folds = np.random.default_rng(settings["seed"]).permutation(len(prompts)) % settings["folds"]
    rows = []
    for feature, target in PROBES:
        key = {"model": run.model, "set": SET, "task": task, "feature": feature, "target": target}
        accuracy, facts = {}, {}
        for offset in settings["offsets"]:
            there = [
                i
                for i, (place, y) in enumerate(zip(places_of, target_of[target], strict=True))
                if y is not None and 0 <= place + offset <= prompts[owners[i]].last
            ]
            right, fitted_counts, classes_counts, majorities = Counter(), [], [], 0
            for fold in range(settings["folds"]):
                tested = [i for i in there if folds[owners[i]] == fold]
                unseen = {texts[i] for i in tested}
                fitted = [i for i in there if folds[owners[i]] != fold and texts[i] not in unseen]
                known = [target_of[target][i] for i in fitted]
                most = min(c for c in set(known) if known.count(c) == max(map(known.count, set(known))))
                majorities += sum(target_of[target][i] == most for i in tested)
                fitted_counts.append(len(fitted))
                classes_counts.append(len(set(known)))
                for layer, head in heads(run):

                    def vector(i, feature=feature, layer=layer, head=head, offset=offset):
                        return vectors[layer, owners[i]][feature][places_of[i] + offset, head]

                    said = label_probes.ridge(
                        [vector(i) for i in fitted], known, [vector(i) for i in tested], settings["ridge"]
                    )
                    right[layer, head] += sum(y == target_of[target][i] for y, i in zip(said, tested, strict=True))
            facts[offset] = {
                "majority": majorities / len(there),
                "classes": max(classes_counts),
                "fitted": mean(fitted_counts),
                "demonstrations": len(there),
                "prompts": len({owners[i] for i in there}),
            }
            accuracy[offset] = {head: right[head] / len(there) for head in heads(run)}
        # Each probe counts the prompts that have a tested demonstration at any offset.
        size = len({owners[i] for i, y in enumerate(target_of[target]) if y is not None})
        for offset, values in accuracy.items():
            of = {**facts[offset], "prompts": size, "offset": offset, **key}
            for (layer, head), value in values.items():
                rows.append({**of, "metric": "accuracy", "layer": layer, "head": head, "value": value})
            for layer in range(run.layers):
                value = mean(v for (each, _), v in values.items() if each == layer)
                rows.append({**of, "metric": "layer", "layer": layer, "value": value})
            rows.append({**of, "metric": "mean", "value": mean(values.values())})
        means = {offset: mean(values.values()) for offset, values in accuracy.items()}
        for offset in means:
            if offset:
                of = {**facts[offset], "prompts": size, "offset": offset, **key}
                rows.append({**of, "metric": "peak", "value": means[0] - means[offset]})
    return rows


# Table 1: rewritten texts


def table_1(run: Run, task: str = "sst2") -> list[dict]:
    """Accuracy with rewritten test texts, and its drop."""
    rows, right = [], {}
    original = [p for p in run.prompts(task, SET)]
    chosen = []
    for p in original:
        if sum(p["seed"] == other["seed"] for other in chosen) < run.settings("rewritten")["queries"]:
            chosen.append(p)
    replaced = draws.replaceable_share(chosen)
    for rewriting, prompts in draws.rewritten(run, chosen).items():
        said = [answer(run.logits(p), p.label_ids) for p in prompts]
        right[rewriting] = [float(p["gold"] == y) for p, y in zip(prompts, said, strict=True)]
        facts = {
            **{"model": run.model, "set": SET, "task": task, "rewriting": rewriting},
            "tokens": mean(len(text_ids(p, p["query_span"])) for p in prompts),
            "replaced": mean(replaced),
            "commonest_answer": majority(said),
            "prompts": len(prompts),
        }
        pairs = [(p, None) for p in prompts]
        beside = answer_scores({task: list(zip(prompts, right[rewriting], strict=True))})
        rows.append({**facts, "metric": "accuracy", "value": averaged(pairs, right[rewriting]), **beside})
        if rewriting == "original":
            first = beside["balanced_accuracy"]
        else:
            lost = [before - after for before, after in zip(right["original"], right[rewriting], strict=True)]
            recall = first - beside["balanced_accuracy"]
            rows.append({**facts, "metric": "drop", "value": averaged(pairs, lost), "balanced_accuracy": recall})
    return rows


# Table 2: held-out prompts and text kernels


def tf_idf_cosines(prompts, held: set[int]) -> list[list[float]]:
    """Compute the cosines of TF-IDF vectors of the query's text and each demonstration's text."""

    def words(text: str) -> Counter:
        return Counter(re.findall(r"\w+", text.lower()))

    def texts(p: Prompt) -> list[str]:
        return [p["text"][slice(*span)] for span in (p["query_span"], *p["text_spans"])]

    corpus = [set(words(text)) for p, _ in prompts if p["prompt_id"] not in held for text in texts(p)]

    def vector(text: str) -> dict[str, float]:
        weights = {
            word: count * (math.log((1 + len(corpus)) / (1 + sum(word in each for each in corpus))) + 1)
            for word, count in words(text).items()
        }
        norm = math.sqrt(sum(weight**2 for weight in weights.values()))
        return {word: weight / norm for word, weight in weights.items()}

    found = []
    for p, _ in prompts:
        query, *others = map(vector, texts(p))
        found.append([sum(weight * query.get(word, 0) for word, weight in other.items()) for other in others])
    return found


def table_2(run: Run) -> list[dict]:
    """Rows of Table 2 for each task."""
    return [row for task in run.tasks for row in held_out_rows(run, task)]


def held_out_rows(run: Run, task: str) -> list[dict]:
    """Rows of Table 2."""
    prompts, settings = measured(run, task), run.settings("kernel_regression")
    held = draws.held_out([p for p, _ in prompts], settings)
    scored = [pair for pair in prompts if pair[0]["prompt_id"] in held]
    chosen_on = [pair for pair in prompts if pair[0]["prompt_id"] not in held]
    key = {"model": run.model, "set": SET, "task": task}
    size = {"prompts": len(scored), "chosen_on": len(chosen_on), "seeds": len({p["seed"] for p, _ in prompts})}
    target, all_targets = targets(scored), targets(prompts)
    commonest = {name: majority(values) for name, values in target.items()}
    held_null, largest, _ = nulls(run, prompts, held)
    rows = []

    def add(quantity, against, how, values, of=None, part=None, minus=None, **more):
        """Add the mean of values, or of their differences from others, and the balanced accuracy against the truth."""
        part = part or scored
        value = averaged(part, values) - (averaged(part, minus) if minus else 0)
        row = {**key, "quantity": quantity, "against": against, "how": how, "value": value, "commonest": commonest[against]}
        if against == "truth":
            recall = answer_scores({task: [(p, v) for (p, _), v in zip(part, values, strict=True)]})
            if minus:
                other = answer_scores({task: [(p, v) for (p, _), v in zip(part, minus, strict=True)]})
                recall = {"balanced_accuracy": recall["balanced_accuracy"] - other["balanced_accuracy"]}
            row |= recall
        rows.append(row | (of or size) | more)
        return value

    def p_value(value, drawn):
        return (1 + sum(each >= value - 1e-12 for each in drawn)) / (1 + len(drawn))

    icl = [float(f["prediction"] == p["gold"]) for p, f in scored]
    add("ICL accuracy", "truth", "", icl)
    reconstructed = {}
    for name in ("model", "truth"):
        for pooling in ("max", "mean", "label"):
            head = choose(run, chosen_on, targets(chosen_on)["model"], pooling)
            values = reconstructed[name, pooling] = scores(scored, target[name], head, pooling)
            more = {"layer": head[0], "head": head[1]}
            if pooling == "max":
                by_pearson = max(heads(run), key=lambda each: class_correlation(chosen_on, targets(chosen_on)["model"], each))
                more |= {"null_95": quantile(held_null[name], 0.95), "same_head": by_pearson == head}
                more |= {"p_value": p_value(averaged(scored, values), held_null[name])}
            add("reconstruction", name, pooling, values, **more)
        top = min(c for c in set(target[name]) if target[name].count(c) == max(map(target[name].count, set(target[name]))))
        same = [float(t == top) for t in target[name]]
        add("reconstruction - commonest answer", name, "max", reconstructed[name, "max"], minus=same)
    add("reconstruction - ICL accuracy", "truth", "max", reconstructed["truth", "max"], minus=icl)
    cosines = tf_idf_cosines(prompts, held)
    for name in ("model", "truth"):

        def agreed(weights, name=name):
            return [
                agreement(weights(c), p["demo_labels"], t, classes_of(p))
                for c, (p, _), t in zip(cosines, prompts, all_targets[name], strict=True)
            ]

        taus = [10 ** (-2 + 3 * i / 12) for i in range(13)]
        of_tau = {tau: agreed(lambda c, tau=tau: [math.exp((v - max(c)) / tau) for v in c]) for tau in taus}
        tuned = {
            tau: mean(v for v, (p, _) in zip(values, prompts, strict=True) if p["prompt_id"] not in held)
            for tau, values in of_tau.items()
        }
        tau = max(taus, key=tuned.get)
        for how, values, used in (("exp", of_tau[tau], tau), ("relu", agreed(lambda c: [max(v, 0) for v in c]), math.nan)):
            own = [v for v, (p, _) in zip(values, prompts, strict=True) if p["prompt_id"] in held]
            add("text kernel", name, f"TF-IDF {how}", own, tau=used)
            if name == "truth":
                add("reconstruction - text kernel", name, f"TF-IDF {how}", reconstructed[name, "max"], minus=own)
    for encoder in ("all-MiniLM-L6-v2", "bert-base-nli-mean-tokens"):
        rows.append({**key, "quantity": "text kernel", "against": "truth", "how": encoder})
    rows.append({**key, "quantity": "reconstruction - best encoder", "against": "truth", "how": ""})
    best = choose(run, prompts, all_targets["model"])
    for name in ("model", "truth"):
        values = scores(prompts, all_targets[name], best)
        of = {"prompts": len(prompts), "chosen_on": len(prompts), "seeds": size["seeds"]}
        of["commonest"] = majority(all_targets[name])
        more = {"null_95": quantile(largest[name], 0.95), "p_value": p_value(averaged(prompts, values), largest[name])}
        add("best head in sample", name, "max", values, of, prompts, layer=best[0], head=best[1], **more)
    return rows


# Controls


def figure_controls(run: Run) -> list[dict]:
    """Predictions and reconstructions with permuted inputs, flipped labels and other orders."""
    settings, rows = run.settings("kernel_regression"), []
    for task in (task for task in run.tasks if task in ("sst2", "trec")):
        prompts = measured(run, task)
        held = draws.held_out([p for p, _ in prompts], settings)
        chosen_on = [pair for pair in prompts if pair[0]["prompt_id"] not in held]
        head = choose(run, chosen_on, targets(chosen_on)["model"])
        classes = classes_of(prompts[0][0])
        changed = {
            name: [(p, read(run, p)) for p in each]
            for name, each in draws.kernel_regression_controls(run, task, SET, settings).items()
        }
        plain = changed[("none", 0)]

        def said(pairs, head=head, classes=classes):
            return [largest_share(f["pooled"][head]["max"], p["demo_labels"], classes)[0] for p, f in pairs]

        key = {"model": run.model, "set": SET, "task": task, "layer": head[0], "head": head[1]}
        key |= {"prompts": len(plain), "seeds": len({p["seed"] for p, _ in plain})}
        values: dict[tuple, list[list[float]]] = {}
        for (control, _), pairs in changed.items():
            step = int(control == "labels_flipped")
            moved = [f["prediction"] != (g["prediction"] + step) % classes for (_, f), (_, g) in zip(pairs, plain, strict=True)]
            other = [a != (b + step) % classes for a, b in zip(said(pairs), said(plain), strict=True)]
            correct = [f["prediction"] == (p["gold"] + step) % classes for p, f in pairs]
            agreed = scores(pairs, [f["prediction"] for _, f in pairs], head)
            for metric, each in (
                ("accuracy", correct),
                ("agreement", agreed),
                ("answer_changed", moved),
                ("reconstruction_changed", other),
            ):
                values.setdefault((control, metric), []).append(list(map(float, each)))
        for (control, metric), each in values.items():
            per_prompt = [mean(v) for v in zip(*each, strict=True)]
            row = {**key, "control": control, "metric": metric, "value": averaged(plain, per_prompt)}
            if metric == "accuracy":
                row |= answer_scores({task: [(p, v) for (p, _), v in zip(plain, per_prompt, strict=True)]})
            if metric == "agreement":
                generator, drawn = np.random.default_rng([settings["seed"], 2]), []
                for _ in range(settings["permutations"]):
                    of_draws = []
                    for (name, _), pairs in changed.items():
                        if name == control:
                            labels = draws.shuffled_within([p["demo_labels"] for p, _ in pairs], generator)
                            of_draws.append(mean(scores(pairs, [f["prediction"] for _, f in pairs], head, labels=labels)))
                    drawn.append(mean(of_draws))
                row["null_95"] = quantile(drawn, 0.95)
            rows.append(row)
        for metric in ("answer_changed", "reconstruction_changed"):
            any_order = [max(v) for v in zip(*values["order", metric], strict=True)]
            rows.append({**key, "control": "any_order", "metric": metric, "value": averaged(plain, any_order)})
    return rows


# Both studies of the same heads


def figure_anchors(run: Run) -> list[dict]:
    """Reconstruction, attention to label words and AUCROC of each head, and their rank correlations."""
    rows, tasks = [], {task: measured(run, task) for task in run.tasks}
    for task, names in with_over_tasks(run.tasks):
        key = {"model": run.model, "set": SET, "task": task}
        measures: dict[str, dict] = {"reconstruction": {}, "label_attention": {}, "auc": {}}
        for head in heads(run):
            agreed, attended, curves = {}, {}, []
            for name in names:
                prompts = tasks[name]
                agreed[name] = by_seed(prompts, scores(prompts, targets(prompts)["model"], head))
                attended[name] = by_seed(prompts, [sum(f["pooled"][head]["label"]) for _, f in prompts])
                aucs = []
                for seed in agreed[name]:
                    own = [(p, f) for p, f in prompts if p["seed"] == seed]
                    predicted = [f["prediction"] for _, f in own]
                    if len(set(predicted)) > 1:
                        sums = [
                            [
                                sum(a for a, y in zip(f["pooled"][head]["label"], p["demo_labels"], strict=True) if y == c)
                                for c in range(classes_of(p))
                            ]
                            for p, f in own
                        ]
                        aucs.append(deep_attention.one_versus_one(sums, predicted))
                curves.append(mean(aucs))
            measures["reconstruction"][head] = nested(agreed)
            measures["label_attention"][head] = nested(attended)
            measures["auc"][head] = mean(curves)
        for metric, values in measures.items():
            for (layer, head), value in values.items():
                size = sum(len(tasks[name]) for name in names)
                rows.append({**key, "metric": metric, "layer": layer, "head": head, "value": value, "prompts": size})
        for first, second in combinations(measures, 2):
            value = spearman(list(measures[first].values()), list(measures[second].values()))
            rows.append(
                {**key, "metric": "spearman", "first": first, "second": second, "value": value, "heads": len(heads(run))}
                | {"prompts": sum(len(tasks[name]) for name in names)}
                | {"seeds": len({p["seed"] for name in names for p, _ in tasks[name]})}
            )
    return rows


# Table 3: hidden Markov models

PAPER_TABLE_3 = {1: (1.322, 0.337), 2: (0.942, 0.532), 4: (0.519, 0.745), 8: (0.218, 0.901), 16: (0.163, 0.926)}
PAPER_TABLE_3 |= {32: (0.085, 0.968), 64: (0.093, 0.961), 128: (0.083, 0.964)}


def compare_on_hidden_markov(model, inverse, query, demonstrations) -> dict[str, float]:
    """Compare kernel regression with the posterior on one prompt.

    Args:
        model: Transitions and emissions.
        inverse: Inverse of the second moment.
        query: Tokens of the query and its label.
        demonstrations: Tokens and label of each demonstration.
    """
    transitions, emissions = model
    tasks, block, tokens = len(transitions), len(transitions[0]), len(emissions[0][0])

    def start_rows(sequence):
        found = hidden_markov.operator(transitions, emissions, sequence)
        return [found[g * block, g * block : (g + 1) * block] for g in range(tasks)]

    logs = [0.0] * tasks
    for sequence in demonstrations:
        for g, row in enumerate(start_rows(sequence)):
            logs[g] += math.log(row.sum()) if row.sum() > 0 else -math.inf
    joint = np.zeros(tokens)
    for g, row in enumerate(start_rows(query[:-1])):
        joint += math.exp(logs[g] - max(logs)) * (row @ emissions[g])
    exact = joint / joint.sum()
    vectors = [hidden_markov.vec(transitions, emissions, sequence[:-1]) for sequence in demonstrations]
    labels = [sequence[-1] for sequence in demonstrations]
    x = np.array(hidden_markov.vec(transitions, emissions, query[:-1]))
    kernel = [max(float(x @ inverse @ np.array(v)), 0.0) for v in vectors]
    total = sum(kernel)
    voted = [0.0] * tokens
    for k, y in zip(kernel, labels, strict=True):
        voted[y] += k / total if total else 1 / len(kernel)
    said, best = voted.index(max(voted)), int(np.argmax(exact))
    return {
        "distance": sum(abs(a - b) for a, b in zip(voted, exact, strict=True)),
        "accuracy": float(said == best),
        "right": float(said == query[-1]),
        "posterior_right": float(best == query[-1]),
        "weightless": float(total == 0),
    }


def table_3(run: Run) -> list[dict]:
    """Distance and agreement of kernel regression and the posterior by number of demonstrations."""
    settings = run.settings("hidden_markov")
    found: dict[tuple[str, int], dict[int, list[float]]] = {}
    counts = sorted(settings["demonstrations"])
    for seed in settings["seeds"]:
        model, pretraining, prompts, shared = draws.hidden_markov(settings, seed)
        vectors = [hidden_markov.vec(*model, sequence) for sequence in pretraining]
        inverse = hidden_markov.inverse(vectors, settings["ridge"])
        for task, query, demonstrations in prompts:
            for n in [*counts, settings["limit"]]:
                own = shared[task] if n == settings["limit"] else demonstrations[:n]
                for metric, value in compare_on_hidden_markov(model, inverse, query, own).items():
                    found.setdefault((metric, n), {}).setdefault(seed, []).append(value)
    key = {"model": "hidden Markov models", "models": len(settings["seeds"])}
    key["prompts"] = len(settings["seeds"]) * settings["trials"]
    means = {of: nested({"": seeds}) for of, seeds in found.items()}
    limit, rows = settings["limit"], []
    for (metric, n), value in means.items():
        paper = dict(zip(("distance", "accuracy"), PAPER_TABLE_3.get(n, ()), strict=False)).get(metric, math.nan)
        rows.append({**key, "metric": metric, "n": n, "limit": n == limit, "value": value, "paper": paper})
    distances = [means["distance", n] for n in counts]
    paper = spearman(counts, [PAPER_TABLE_3[n][0] for n in counts])
    rows.append({**key, "metric": "trend", "n": limit, "limit": True, "value": spearman(counts, distances), "paper": paper})
    left = means["distance", limit] - math.sqrt(counts[-1] / limit) * distances[-1]
    rows.append({**key, "metric": "beyond_sampling", "n": limit, "limit": True, "value": left})
    return rows
