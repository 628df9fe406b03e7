from itertools import combinations
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot

from icl_lens.report import component_panels
from icl_lens.statistics.resampling import OVER_TASKS, Bootstrap
from icl_lens.studies.component_reweighting.components import summary
from icl_lens.studies.component_reweighting.components.summary import BAD, BIASED, GOOD, OTHER, Answers

PLAN = Bootstrap(resamples=200)


def tensors(seed=0, texts=40, layers=2, heads=2, classes=2, skill=(0, 0, 1, 0, 3, 0), shift=0.0):
    """Return a study's tensors for two seeds; each head and MLP knows the answer with a probability of skill / 3."""
    generator = np.random.default_rng(seed)
    gold = np.tile(np.arange(classes), 2 * texts // classes)
    count = layers * (heads + 1)
    found = {
        "layer": np.array([-1, *np.repeat(np.arange(layers), heads + 1), -1]),
        "head": np.array([-1, *([*range(heads), -1] * layers), -1]),
        "gold": gold,
        "seed": np.repeat([42, 43], texts),
        "prompt_id": np.arange(2 * texts),
    }
    for number, name in enumerate(("f1", "f2", "contrast")):
        g = generator.normal(size=(2 * texts, count + 2, classes))
        for part, knows in enumerate(skill, 1):
            right = generator.random(2 * texts) < knows / 3
            g[right, part, gold[right]] += 100
        g[:, 2] = [1.0, 0.0] if classes == 2 else 0.0  # the second head always predicts one label
        found[f"parts_{name}"] = g.astype(np.float32)
        logits = generator.normal(size=(2 * texts, classes))
        logits[np.arange(2 * texts), gold] += 0.5 - shift * number
        found[f"logits_{name}"] = logits.astype(np.float32)
        attention = np.zeros((2 * texts, layers, heads))
        attention[:, 1, 0] = 0.9  # the head with skill 1 in layer 1 (the MLP of this layer is a separate part)
        found[f"attention_{name}"] = attention.astype(np.float32)
        reconstruction = np.zeros((2 * texts, layers, heads))
        reconstruction[:, 0, 1] = 1.0  # the second head, which always predicts one label
        found[f"reconstruction_{name}"] = reconstruction.astype(np.float32)
    return found


def answers_of(made, model="m", task="t", texts=None):
    """Return the answers of a study's tensors; each prompt has its own text unless ``texts`` has one for each prompt."""
    rows = pd.DataFrame({"prompt_id": made["prompt_id"], "query_index": made["prompt_id"] if texts is None else texts})
    return Answers.of(model, task, made, rows)


@pytest.fixture(scope="module")
def answers():
    return answers_of(tensors())


def test_kinds_follow_thresholds_and_the_correction_for_many_components():
    gold = np.arange(100) % 2
    right = gold.copy()
    wrong = 1 - gold
    always = np.zeros(100, dtype=int)

    def correct(count):
        return np.where(np.arange(100) < count, gold, 1 - gold)

    columns = [right, wrong, always, correct(64), correct(36), correct(45)]
    assert summary.kinds(np.stack(columns, 1), gold, 0.6, 2).tolist() == [GOOD, BAD, BIASED, OTHER, OTHER, OTHER]
    # 64 of 100 correct answers have a probability of .0033 by chance. This is significant for one component, but not for six,
    # and not if the accuracy of the full model is higher.
    assert summary.kinds(correct(64)[:, None], gold, 0.6, 2).tolist() == [GOOD]
    assert summary.kinds(correct(64)[:, None], gold, 0.7, 2).tolist() == [OTHER]
    assert summary.kinds(correct(36)[:, None], gold, 0.6, 2).tolist() == [BAD]
    almost = always.copy()
    almost[:1] = 1
    assert summary.kinds(almost[:, None], gold, 1, 2).tolist() == [BIASED]
    almost[:2] = 1
    assert summary.kinds(almost[:, None], gold, 1, 2).tolist() == [OTHER]


def test_a_component_at_the_majority_baseline_is_not_good():
    gold = np.array([0] * 85 + [1] * 15)
    mostly = np.zeros(100, dtype=int)
    mostly[:5] = 1
    assert summary.kinds(mostly[:, None], gold, 0.5, 4).tolist() == [OTHER]


def test_components_are_heads_and_mlps_in_their_order(answers):
    assert answers.components["kind"].tolist() == ["head", "head", "mlp"] * 2
    assert answers.components["layer"].tolist() == [0, 0, 0, 1, 1, 1]
    assert answers.components["head"].fillna(9).tolist() == [0, 1, 9] * 2  # the head of an MLP is missing
    assert answers.templates == ("f1", "f2", "contrast")
    assert answers.main_templates == ("f1", "f2")
    accuracy = answers.accuracy("f1", 42)
    assert accuracy[4] == 1
    assert summary.accuracy_map(answers).shape == (2, 3)
    assert summary.accuracy_map(answers)[1, 1] == 1
    assert np.isnan(answers.attention["f1"][:, 2]).all()
    assert answers.attention["f1"][0, 3] == pytest.approx(0.9)


def test_the_in_sample_best_and_worst_component_are_chosen_per_run(answers):
    table = summary.best_and_worst([answers], PLAN).set_index(["task", "measure"])
    accuracies = [answers.accuracy(t, s) for t in ("f1", "f2") for s in (42, 43)]
    assert table.loc[("t", "best (in sample)"), "value"] == pytest.approx(np.mean([a.max() for a in accuracies]))
    assert table.loc[("t", "worst (in sample)"), "value"] == pytest.approx(np.mean([a.min() for a in accuracies]))
    assert table.loc[("t", "worst (in sample)"), "sd"] == pytest.approx(np.std([a.min() for a in accuracies]))
    assert table.loc[("t", "best (in sample)"), "heads"] == 1
    assert table.loc[("t", ["best (in sample)", "worst (in sample)"]), ["low", "high"]].isna().all(axis=None)
    full = np.mean([(answers.full[t] == answers.gold).mean() for t in ("f1", "f2")])
    assert table.loc[("t", "full"), "value"] == pytest.approx(full)
    assert table.loc[("t", BIASED), "value"] == 1
    assert table.loc[("t", "chance"), "value"] == 0.5
    assert table.loc[(OVER_TASKS, "full"), "value"] == table.loc[("t", "full"), "value"]


def test_the_best_component_is_chosen_on_one_half_of_the_texts_and_scored_on_the_other(answers):
    table = summary.best_and_worst([answers], PLAN).set_index(["task", "measure"])
    expected = {"best": [], "worst": [], "full": []}
    for template in ("f1", "f2"):
        correct = answers.predictions[template] == answers.gold[:, None]
        for seed in (42, 43):
            scores = {"best": [], "worst": [], "full": []}
            for half in (0, 1):
                scored, other = ((answers.seed == seed) & (answers.half == number) for number in (half, 1 - half))
                assert scored.sum() == other.sum() == 20
                accuracy = correct[other].mean(0)
                scores["best"] += correct[scored, accuracy.argmax()].tolist()
                scores["worst"] += correct[scored, accuracy.argmin()].tolist()
                scores["full"] += (answers.full[template] == answers.gold)[scored].tolist()
            for measure, values in scores.items():
                expected[measure].append(np.mean(values))
    for measure in ("best", "worst"):
        assert table.loc[("t", measure), "value"] == pytest.approx(np.mean(expected[measure]))
        assert table.loc[("t", measure), "sd"] == pytest.approx(np.std(expected[measure]))
    gain = table.loc[("t", "best - full")]
    assert gain["value"] == pytest.approx(np.mean(expected["best"]) - np.mean(expected["full"]))
    assert gain["low"] < gain["value"] < gain["high"]
    assert table.loc[("t", "best"), "heads"] == 1


def test_the_best_of_many_guessers_gains_nothing():
    """No component knows anything: the best of 42 is far above chance in sample, and not on texts that did not choose it."""
    gains, in_sample = [], []
    for seed in range(8):
        guessing = answers_of(tensors(seed=seed, texts=20, layers=6, heads=6, skill=[0] * 42))
        table = summary.best_and_worst([guessing], Bootstrap(resamples=2)).set_index(["task", "measure"])["value"]
        gains.append(table["t", "best"] - 0.5)
        in_sample.append(table["t", "best (in sample)"] - 0.5)
    assert np.mean(in_sample) > 0.15
    assert abs(np.mean(gains)) < 0.05


def test_components_that_always_predict_one_class_score_at_chance_and_not_below():
    """If the halves had other shares of the classes, the class of one half would be the wrong class of the other."""
    made = tensors(texts=20, skill=[0] * 6)
    for name in ("f1", "f2", "contrast"):
        made[f"parts_{name}"][:, 1:7] = np.eye(2)[[0, 1, 0, 1, 0, 1]]
    generator = np.random.default_rng(0)
    made["gold"] = np.concatenate([generator.permutation(made["gold"][:20]) for _ in range(2)])
    table = summary.best_and_worst([answers_of(made)], PLAN).set_index(["task", "measure"])["value"]
    assert table["t", "best"] == table["t", "worst"] == 0.5


def test_a_text_that_recurs_in_another_seed_never_chooses_the_component_that_it_scores():
    made = tensors()
    texts = np.tile(np.arange(40), 2)  # both seeds have the same 40 texts
    half = answers_of(made, texts=texts).half
    assert (half[:40] == half[40:]).all()
    assert half[:40].sum() == 20


def test_no_component_is_chosen_with_a_single_text():
    made = {name: values if name in ("layer", "head") else values[[0, 40]] for name, values in tensors().items()}
    table = summary.best_and_worst([answers_of(made)], PLAN).set_index(["task", "measure"])
    assert table.loc[("t", ["best", "worst", "best - full"]), "value"].isna().all()
    assert table.loc[("t", "full"), "prompts"] == 2


def test_the_expected_best_accuracy_by_chance_agrees_with_a_simulation():
    drawn = np.random.default_rng(0).binomial(40, 0.5, size=(20000, 6)).max(1).mean() / 40
    assert summary.best_by_chance(40, 0.5, 6) == pytest.approx(drawn, abs=0.005)


def test_transfer_is_pearsons_r_and_the_overlap_of_the_best_components_over_all_pairs(answers):
    table = summary.transfer([answers], PLAN).set_index(["task", "pair", "measure"])
    runs = {(t, s): answers.accuracy(t, s) for t in answers.templates for s in (42, 43)}

    def mean(pairs):
        return np.mean([np.corrcoef(runs[a], runs[b])[0, 1] for a, b in pairs])

    demonstrations = [((t, 42), (t, 43)) for t in ("f1", "f2")]
    assert table.loc[("t", "demonstrations", "r"), "value"] == pytest.approx(mean(demonstrations))
    assert table.loc[("t", "contrast", "r"), "value"] == pytest.approx(mean([(("f1", s), ("contrast", s)) for s in (42, 43)]))
    assert table.loc[("t", "templates", "r"), "value"] == pytest.approx(mean([(("f1", s), ("f2", s)) for s in (42, 43)]))
    tops = {run: set(np.argsort(-a, kind="stable")[:5].tolist()) for run, a in runs.items()}
    overlap = np.mean([len(tops[a] & tops[b]) / len(tops[a] | tops[b]) for a, b in demonstrations])
    assert table.loc[("t", "demonstrations", "iou"), "value"] == pytest.approx(overlap)
    assert (table["pairs"].to_numpy() > 0).all()
    far = [
        (a, b)
        for a, b in demonstrations
        if abs(np.subtract(*[(answers.full[t] == answers.gold)[answers.seed == s].mean() for t, s in (a, b)]))
        > summary.LARGE_DIFFERENCE
    ]
    apart = table.loc[("t", "demonstrations", "r_apart"), "value"]
    assert np.isnan(apart) if not far else apart == pytest.approx(mean(far))
    known = table.dropna(subset=["low"])
    assert (known["low"] <= known["value"] + 1e-9).all()
    assert (known["high"] >= known["value"] - 1e-9).all()
    # Two draws of 5 from 6 components: enumerate all pairs.
    every = [len(set(a) & set(b)) / len(set(a) | set(b)) for a in combinations(range(6), 5) for b in combinations(range(6), 5)]
    assert table.loc[("t", "templates", "iou"), "null"] == pytest.approx(np.mean(every))


def test_pairs_with_a_large_difference_of_the_full_model_have_a_separate_correlation():
    wide = answers_of(tensors(shift=1.5))
    table = summary.transfer([wide], PLAN).set_index(["task", "pair", "measure"])
    assert table.loc[("t", "contrast", "full"), "value"] > 0.3
    assert table.loc[("t", "contrast", "r_apart"), "value"] == table.loc[("t", "contrast", "r"), "value"]
    same = {name: wide.full["f1"] for name in wide.templates}
    alike = Answers(**{**vars(wide), "full": same})
    table = summary.transfer([alike], PLAN).set_index(["task", "pair", "measure"])
    assert np.isnan(table.loc[("t", "contrast", "r_apart"), "value"])
    assert np.isnan(table.loc[(OVER_TASKS, "contrast", "r_apart"), "value"])


def test_equally_good_components_have_no_correlation():
    constant = np.ones((2, 6))
    assert np.isnan(summary._pearson(constant, constant)).all()


def method_rows():
    generator = np.random.default_rng(0)
    rows = []
    names = {"icl": 4, "few_shot-12": 12, "calib+-12": 16, "comprw-12": 16, "comprw_strict-12": 12}
    for task in ("a", "b"):
        for seed in (42, 43):
            for template in ("f1", "f2"):
                for prompt in range(20):
                    for place, (name, labels) in enumerate(names.items()):
                        right = generator.random() < 0.4 + 0.1 * place
                        common = {"model": "m", "task": task, "seed": seed, "prompt_id": 100 * seed + prompt}
                        rows.append(
                            {
                                **common,
                                "template": template,
                                "method": name,
                                "labels": labels,
                                "gold": 1,
                                "prediction": int(right),
                            }
                        )
    rows.append({**rows[0], "template": "contrast", "prediction": 0})
    return pd.DataFrame(rows)


def test_methods_are_means_over_runs_with_paired_differences_and_the_spread_over_runs():
    rows = method_rows()
    beside = {
        ("m", task): {"epochs_comprw-12": np.array([[1, 3], [100, 0]]), "weights_comprw-12": np.array([[[0, 1.0]] * 2] * 2)}
        for task in ("a", "b")
    }
    table = summary.methods(rows, beside).set_index(["task", "method"])
    right = (rows["gold"] == rows["prediction"])[rows["template"] != "contrast"]
    kept = rows[rows["template"] != "contrast"].assign(right=right)
    means = kept.groupby(["task", "method", "template", "seed"])["right"].mean()
    assert table.loc[("a", "comprw-12"), "value"] == pytest.approx(means["a"]["comprw-12"].mean())
    assert table.loc[("a", "comprw-12"), "sd"] == pytest.approx(np.std(means["a"]["comprw-12"]))
    over = np.mean([np.std(means[task]["comprw-12"]) for task in ("a", "b")])
    assert table.loc[(OVER_TASKS, "comprw-12"), "sd"] == pytest.approx(over)
    assert table.loc[("a", "comprw-12"), "epochs"] == 26
    assert table.loc[("a", "comprw-12"), "zeros"] == 0.5
    assert np.isnan(table.loc[("a", "icl"), "epochs"])
    gain = table.loc[(OVER_TASKS, "comprw_strict-12 - few_shot-12")]
    values = table.loc[OVER_TASKS]["value"]
    assert gain["value"] == pytest.approx(values["comprw_strict-12"] - values["few_shot-12"])
    assert gain["low"] < gain["value"] < gain["high"]
    assert table.loc[("a", "few_shot-12"), "labels"] == "12"


def test_attention_to_label_words_correlates_with_accuracy_over_heads(answers):
    dots, table = summary.anchor_heads([answers], PLAN)
    assert dots[["layer", "head"]].to_numpy().tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert dots["attention"].tolist() == pytest.approx([0, 0, 0.9, 0])
    assert dots["reconstruction"].tolist() == pytest.approx([0, 1, 0, 0])
    knowing = answers_of(tensors(skill=(0, 0, 0, 3, 0, 0)))
    _, found = summary.anchor_heads([knowing], PLAN)
    assert found.loc[0, "value"] > 0.7
    assert found.loc[0, "null_low"] < 0 < found.loc[0, "null_high"]
    assert table["task"].tolist() == ["t"] * 3 + [OVER_TASKS] * 3
    assert table["pair"].tolist() == list(summary.CORRELATIONS) * 2


def test_each_pair_correlates_two_measures_and_tasks_are_averaged():
    """Use four heads without noise: attention ranks them 1 2 3 4, reconstruction 4 3 2 1 and accuracy 2 1 3 4."""
    made = tensors()
    right = {(0, 0): 0.4, (0, 1): 0.2, (1, 0): 0.6, (1, 1): 0.8}
    for name in ("f1", "f2", "contrast"):
        for (layer, head), share in right.items():
            part = 1 + layer * 3 + head
            found = made[f"parts_{name}"][:, part]
            found[:] = 0
            knows = np.arange(80) % 10 < 10 * share
            found[np.arange(80), np.where(knows, made["gold"], 1 - made["gold"])] = 1
        made[f"attention_{name}"][:] = np.array([[0.1, 0.2], [0.3, 0.4]])
        made[f"reconstruction_{name}"][:] = np.array([[0.8, 0.6], [0.4, 0.2]])
    backwards = {name: 1 - values if name.startswith("reconstruction") else values for name, values in made.items()}
    every = [answers_of(made, task="one"), answers_of(backwards, task="two")]
    dots, table = summary.anchor_heads(every, PLAN)
    assert dots["accuracy"].tolist() == pytest.approx([*right.values()] * 2)
    value = table.set_index(["task", "pair"])["value"]
    assert value["one"].to_dict() == pytest.approx(dict(zip(summary.CORRELATIONS, (0.8, -0.8, -1), strict=True)))
    assert value["two"].to_dict() == pytest.approx(dict(zip(summary.CORRELATIONS, (0.8, 0.8, 1), strict=True)))
    assert value[OVER_TASKS].to_dict() == pytest.approx(dict(zip(summary.CORRELATIONS, (0.8, 0, 0), strict=True)))


def test_each_component_and_the_full_model_have_an_accuracy_under_both_templates(answers):
    table = summary.template_accuracies(answers)
    assert table["kind"].tolist() == [*answers.components["kind"], "full"]
    assert table.loc[table["kind"] == "full", ["layer", "head"]].isna().all(axis=None)
    assert table["second"].iloc[4] == 1
    assert table["first"].iloc[-1] == pytest.approx((answers.full["f1"] == answers.gold).mean())


def test_checkpoints_are_grouped_by_training_run_in_the_order_of_their_steps():
    names = {"run-step-000200": 200, "run-step-000000": 0, "run-step-000400": 400}
    every = [answers_of(tensors(seed=step), model=name) for name, step in names.items()]
    table = summary.over_training(every, names, PLAN)
    assert table["model"].unique().tolist() == ["run"]
    line = table[(table["task"] == "t") & (table["measure"] == "full") & (table["step"] >= 0)]
    assert line["step"].tolist() == [0, 200, 400]
    late = table[(table["task"] == "t") & (table["measure"] == "sd full")]["value"].iloc[0]
    assert late == pytest.approx(np.std(line["value"].iloc[1:]))


def test_scatter_has_label_share_accuracy_and_kind(answers):
    dots = summary.scatter(answers, "f1")
    assert len(dots) == 12
    biased = dots[(dots["layer"] == 0) & (dots["head"] == 1)]
    assert biased["share"].tolist() == [0, 0]
    assert biased["type"].tolist() == [BIASED, BIASED]
    assert (dots["prompts_low"] <= dots["accuracy"]).all()
    assert (dots["accuracy"] <= dots["prompts_high"]).all()


def test_the_accuracy_of_the_full_model_is_the_mean_over_runs(answers):
    of_runs = [(answers.full["f2"] == answers.gold)[answers.seed == seed].mean() for seed in answers.seeds]
    assert answers.full_accuracy("f2") == pytest.approx(np.mean(of_runs))


@pytest.mark.parametrize(
    ("value", "low", "high", "text"),
    [(0.1234, 0.1, 0.2, "0.12 [0.10, 0.20]"), (7.25, np.nan, np.nan, "7.25"), (np.nan, np.nan, np.nan, "-")],
)
def test_a_cell_is_a_value_with_its_interval(value, low, high, text):
    assert component_panels.cell({"value": value, "low": low, "high": high}, digits=2) == text


def test_numbers_and_names_of_a_caption():
    assert component_panels.span([250, 250]) == "250"
    assert component_panels.span([1000, 50, 250]) == "50 to 1,000"
    assert component_panels.joined(["SST-2"]) == "SST-2"
    assert component_panels.joined(["SST-2", "TREC", "AGNews"]) == "SST-2, TREC and AGNews"


def parts_of(models, tasks):
    """Return parts with the attributes that the arrangement of panels reads."""
    observed = {"observed": {"untrained": False}}
    return [
        SimpleNamespace(answers=SimpleNamespace(model=model, task=task), task_title=task, metadata=observed)
        for model in models
        for task in tasks
    ]


def test_six_tasks_are_arranged_in_two_lines_of_three_columns():
    figure, columns = component_panels.panels(parts_of(["m"], "abcdef"), rows=2, height=1.5)
    assert len(figure.axes) == 2 * 2 * 3
    assert [column.left for column in columns] == [True, False, False] * 2
    assert [column.title for column in columns] == [(task,) for task in "abcdef"]
    pyplot.close(figure)


def test_each_model_starts_on_a_new_line_and_is_named():
    figure, columns = component_panels.panels(parts_of(["m", "n$"], "ab"), rows=1, height=1.5)
    assert [column.left for column in columns] == [True, False] * 2
    assert columns[2].title == ("n\\$", "a")
    pyplot.close(figure)


def test_many_tasks_have_more_columns_so_that_the_figure_fits_on_a_page():
    figure, columns = component_panels.panels(parts_of("mnop", "abcdefg"), rows=1, height=1.9)
    assert [column.left for column in columns] == [True, *[False] * 6] * 4
    assert figure.get_figheight() <= 8
    pyplot.close(figure)


def test_accuracies_have_balanced_accuracy_and_the_majority_baseline():
    unbalanced = tensors()
    kept = np.flatnonzero((unbalanced["gold"] == 0) | (np.arange(80) % 4 == 1))  # 20 texts of class 0, 10 of class 1 per seed
    per_text = {name: value for name, value in unbalanced.items() if name not in ("layer", "head")}
    unbalanced |= {name: value[kept] for name, value in per_text.items()}
    answers = answers_of(unbalanced)
    table = summary.best_and_worst([answers], PLAN).set_index(["task", "measure"])
    recalls = [
        np.mean([(answers.full[name] == answers.gold)[(answers.seed == seed) & (answers.gold == c)].mean() for c in (0, 1)])
        for name in ("f1", "f2")
        for seed in (42, 43)
    ]
    full = table.loc[("t", "full")]
    assert full["balanced_accuracy"] == pytest.approx(np.mean(recalls))
    assert full["balanced_accuracy_low"] <= full["balanced_accuracy"] <= full["balanced_accuracy_high"]
    assert full["majority_baseline"] == pytest.approx(2 / 3)
    gain = table.loc[("t", "best - full")]
    best = table.loc[("t", "best")]
    assert gain["balanced_accuracy"] == pytest.approx(best["balanced_accuracy"] - full["balanced_accuracy"])
    assert np.isnan(gain["majority_baseline"])
    assert np.isnan(table.loc[("t", GOOD), "balanced_accuracy"])
    points = summary.scatter(answers, "f1")
    biased = points[points["type"] == BIASED]
    assert len(biased)
    assert biased["balanced_accuracy"].tolist() == [0.5] * len(biased)
    assert (points["majority_baseline"] == 2 / 3).all()
    shown = component_panels.by_score(table.reset_index())
    assert shown["score"].value_counts().to_dict() == {"accuracy": len(table), "balanced accuracy": 12}
