import numpy as np
import pandas as pd
import pytest

from icl_lens.errors import InputError
from icl_lens.statistics import attention_auc, weighted_votes
from icl_lens.statistics.halves import halves
from icl_lens.statistics.resampling import OVER_TASKS, Bootstrap
from icl_lens.studies.kernel_regression import heads, reconstruction
from icl_lens.studies.kernel_regression.kernel_regression import attention_map
from icl_lens.studies.kernel_regression.kernel_regression_controls import summary as controls
from icl_lens.studies.kernel_regression.settings import PARTS, Settings, held_out

from ..reference import kernel_regression as reference

PLAN = Bootstrap(resamples=50)
FEW = Settings(permutations=20, held_out=0.3)


def rows_of(prompts=60, layers=2, count=2, classes=2, shots=2, seed=0, task="sst2", good=(1, 0), answer=None):
    """Return kernel_regression rows.

    One head attends to the demonstrations with the label that the model predicts. The other heads have random weights.
    """
    generator = np.random.default_rng(seed)
    found = []
    for prompt_id in range(prompts):
        labels = generator.permutation(np.repeat(np.arange(classes), shots))
        gold = int(generator.integers(classes))
        prediction = gold if answer is None else answer(prompt_id, gold)
        for layer in range(layers):
            for head in range(count):
                weights = generator.random(len(labels))
                if (layer, head) == good:
                    weights = 0.1 * weights + (labels == prediction)
                found.append(
                    {
                        "model": "m",
                        "task": task,
                        "set": "fresh-2shot",
                        "seed": 42 + prompt_id % 2,
                        "prompt_id": prompt_id,
                        "demonstrations": prompt_id,
                        "layer": layer,
                        "head": head,
                        "gold": gold,
                        "prediction": prediction,
                        "demo_labels": labels,
                        "max": weights,
                        "mean": weights / 3,
                        "label": weights / 2,
                        **{f"on_{part}": share for part, share in zip(PARTS, (0.1, 0.2, 0.3, 0.05, 0.15, 0.2), strict=True)},
                    }
                )
    return pd.DataFrame(found)


def tensors_of(rows, **more):
    ids = rows["prompt_id"].unique()
    labels = np.stack(rows.drop_duplicates("prompt_id")["demo_labels"])
    return {"prompt_id": ids, "cosine: TF-IDF": np.random.default_rng(1).random(labels.shape), **more}


def test_attention_to_one_demonstration_alone_returns_its_label():
    labels = np.array([[2, 0, 1, 0]])
    for place, label in enumerate(labels[0]):
        weights = np.zeros((1, 1, 4))
        weights[0, 0, place] = 0.3
        shares = weighted_votes.votes(weights, labels, 3)
        assert shares[0, 0].tolist() == [float(c == label) for c in range(3)]
        assert weighted_votes.agreement(shares, np.array([label])) == 1


def test_votes_agree_with_the_plain_reference():
    rows = rows_of(prompts=8, classes=3)
    found = reconstruction.attention(rows)
    shares = weighted_votes.votes(found.weights["max"], found.labels, 3)
    for row in rows.itertuples():
        plain = reference.reconstruction(list(row.max), list(row.demo_labels), 3)
        assert shares[row.prompt_id, row.layer * 2 + row.head] == pytest.approx(plain)


def test_a_tie_counts_by_the_chance_of_a_fair_draw():
    blind = weighted_votes.votes(np.zeros((1, 1, 3)), np.array([[0, 1, 2]]), 3)
    assert weighted_votes.agreement(blind, np.array([2])) == pytest.approx(1 / 3)
    tied = weighted_votes.votes(np.array([[[1.0, 1.0, 0.0]]]), np.array([[0, 1, 2]]), 3)
    assert weighted_votes.agreement(tied, np.array([1])) == 0.5
    assert weighted_votes.agreement(tied, np.array([2])) == 0


def test_a_demonstration_that_is_not_there_counts_for_no_class():
    rows = rows_of(prompts=4)
    one = rows["prompt_id"] == 0
    for name in ("max", "mean", "label", "demo_labels"):
        rows.loc[one, name] = rows.loc[one, name].map(lambda cell: cell[:3])
    found = reconstruction.attention(rows)
    assert found.labels[0, 3] == -1
    assert weighted_votes.votes(found.weights["max"], found.labels, 2)[0].sum(-1) == pytest.approx(1)
    generator = np.random.default_rng(0)
    assert all(reconstruction.shuffled(found.labels, generator)[0, 3] == -1 for _ in range(20))


def test_pearson_s_correlation_is_numpy_s():
    rows = rows_of(prompts=30)
    found = reconstruction.attention(rows)
    shares = weighted_votes.votes(found.weights["max"], found.labels, 2)
    plain = [np.corrcoef(shares[:, h, 1], found.prediction)[0, 1] for h in range(4)]
    assert reconstruction.pearson(shares, found.prediction) == pytest.approx(plain)
    assert (reconstruction.pearson(shares, np.zeros(30, dtype=int)) == -1).all()


def test_the_head_is_chosen_without_the_held_out_prompts_and_scored_on_them_alone():
    rows = rows_of()
    scored = held_out(*(rows.drop_duplicates("prompt_id")[name].to_numpy() for name in ("seed", "prompt_id")), FEW)
    out = set(np.flatnonzero(scored))
    # On the held-out prompts another head is the best one, so a choice on these prompts would select that head.
    other = (rows["layer"] == 0) & (rows["head"] == 0)
    best = (rows["layer"] == 1) & (rows["head"] == 0)
    inside = rows["prompt_id"].isin(out)
    swapped = rows.copy()
    for name in ("max", "mean", "label"):
        swapped.loc[inside & other, name] = rows.loc[inside & best, name].to_numpy()
        swapped.loc[inside & best, name] = rows.loc[inside & best, name].map(lambda a: a.max() - a)
    table = reconstruction.summarise(swapped, tensors_of(rows), FEW, PLAN)
    one = table[(table["quantity"] == reconstruction.RECONSTRUCTION) & (table["against"] == "model") & (table["how"] == "max")]
    assert one[["layer", "head", "value", "prompts", "chosen_on"]].values.tolist() == [[1, 0, 0.0, 18, 42]]
    sample = table[(table["quantity"] == reconstruction.IN_SAMPLE) & (table["against"] == "model")]
    assert sample["value"].item() >= 0.7
    assert sample["prompts"].item() == 60


def test_what_is_scored_changes_nothing_of_the_choice():
    rows = rows_of()
    chosen = reconstruction.summarise(rows, tensors_of(rows), FEW, PLAN)
    rows["gold"] = rows["prediction"] = rows["prediction"].where(
        ~rows["prompt_id"].isin(np.flatnonzero(held_out([42 + i % 2 for i in range(60)], range(60), FEW))), 0
    )
    changed = reconstruction.summarise(rows, tensors_of(rows), FEW, PLAN)
    assert changed["head"].dropna().tolist()[:6] == chosen["head"].dropna().tolist()[:6]
    assert changed.loc[changed["tau"].notna(), "tau"].tolist() == chosen.loc[chosen["tau"].notna(), "tau"].tolist()


def test_a_head_that_follows_the_answer_is_told_from_the_null_and_one_that_does_not_is_not():
    settings = Settings(permutations=100)
    good = reconstruction.summarise(rows_of(prompts=100), tensors_of(rows_of(prompts=100)), settings, PLAN)
    one = good[
        (good["quantity"] == reconstruction.RECONSTRUCTION) & (good["against"] == "model") & (good["how"] == "max")
    ].iloc[0]
    assert one["value"] == 1
    assert 0.5 < one["null_95"] < 0.9
    assert one["p_value"] == pytest.approx(1 / 101)
    assert one["same_head"]
    blind = rows_of(prompts=100, good=(9, 9))
    bad = reconstruction.summarise(blind, tensors_of(blind), settings, PLAN)
    for quantity in (reconstruction.RECONSTRUCTION, reconstruction.IN_SAMPLE):
        one = bad[(bad["quantity"] == quantity) & (bad["against"] == "model") & (bad["how"] == "max")].iloc[0]
        assert one["p_value"] > 0.02
    # The best of all heads in sample has a higher chance level than the average head on prompts that did not select it.
    null = reconstruction.null(
        reconstruction.attention(blind), held_out([42 + i % 2 for i in range(100)], range(100), settings), settings
    )
    assert null.in_sample["model"].mean() > null.held_out["model"].mean()
    assert null.held_out["model"].mean() == pytest.approx(0.5, abs=0.05)


def test_the_null_chooses_heads_as_the_real_choice_does():
    """Two heads tie in each permutation: both reconstruct the same class of two, one of them with another strength."""
    generator = np.random.default_rng(0)
    rows = rows_of(prompts=40, layers=1, shots=1, good=(9, 9), answer=lambda number, gold: gold if number % 3 else 1 - gold)
    weights = generator.random((40, 2)) + 0.1
    scored = held_out([42 + i % 2 for i in range(40)], range(40), FEW)
    for head, power in ((0, 1), (1, 3)):
        of_head = weights**power
        if head:
            of_head[scored] = of_head[scored, ::-1]  # the heads differ only on the held-out prompts
        rows.loc[rows["head"] == head, "max"] = pd.Series(list(of_head), index=rows.index[rows["head"] == head])
    found = reconstruction.attention(rows)
    null = reconstruction.null(found, scored, FEW)
    draw = np.random.default_rng([FEW.seed, 1])
    choices = []
    for number in range(FEW.permutations):
        shares = weighted_votes.votes(found.weights["max"], reconstruction.shuffled(found.labels, draw), 2)
        head = reconstruction.choose(shares[~scored], found.prediction[~scored])
        in_sample = reconstruction.choose(shares, found.prediction)
        choices.append(head)
        for name, target in found.targets.items():
            agreed = weighted_votes.agreement(shares, target)
            best = reconstruction.choose(shares, target)
            for values, of, chosen in (
                (null.held_out, scored, head),
                (null.in_sample, scored | ~scored, in_sample),
                (null.best, scored | ~scored, best),
            ):
                means = [agreed[of & (found.seeds == seed), chosen].mean() for seed in (42, 43)]
                assert values[name][number] == pytest.approx(np.mean(means))
    assert set(choices) == {0, 1}  # without the rule for ties, head 0 would always be chosen


def test_the_encoder_is_chosen_on_the_prompts_that_choose_the_head():
    rows = rows_of(prompts=60)
    first = rows.drop_duplicates("prompt_id")
    scored = held_out([42 + i % 2 for i in range(60)], range(60), FEW)
    right = np.stack([labels == gold for labels, gold in zip(first["demo_labels"], first["gold"], strict=True)]).astype(float)
    near = {"early": np.where(scored[:, None], -right, right), "late": np.where(scored[:, None], right, -right)}
    table = reconstruction.summarise(
        rows, tensors_of(rows, **{f"cosine: {name}": each for name, each in near.items()}), FEW, PLAN
    )
    assert table.loc[table["quantity"] == reconstruction.MINUS_ENCODER, "how"].str.startswith("early ").all()


def test_without_a_prompt_to_choose_on_the_error_says_what_to_do():
    rows = rows_of(prompts=1)
    with pytest.raises(InputError, match="all prompts are held out; use at least two prompts per task"):
        reconstruction.summarise(rows, tensors_of(rows), FEW, PLAN)


def test_a_kernel_on_texts_agrees_with_the_plain_reference():
    generator = np.random.default_rng(3)
    cosines, labels, target = generator.random((40, 4)), np.tile([0, 1, 1, 0], (40, 1)), generator.integers(0, 2, 40)
    chosen = np.arange(40) < 25
    found = reconstruction.kernels(cosines, labels, target, chosen, 2)

    def right(tau):
        shares = [reference.kernel_regression(row, [0, 1, 1, 0], 2, tau) for row in cosines]
        return np.array([float(np.argmax(share) == y) for share, y in zip(shares, target, strict=True)])

    agreed, tau = found["exp"]
    assert tau in reconstruction.TEMPERATURES
    assert agreed.tolist() == right(tau).tolist()
    assert right(tau)[chosen].mean() == max(right(each)[chosen].mean() for each in reconstruction.TEMPERATURES)
    assert found["relu"][1] is None
    nothing = reconstruction.kernels(np.full((4, 4), -0.5), labels[:4], target[:4], chosen[:4], 2)["relu"][0]
    assert nothing.tolist() == [0.5] * 4


def test_an_encoder_that_was_not_run_has_no_number_and_says_why():
    rows = rows_of(prompts=20)
    table = reconstruction.summarise(rows, tensors_of(rows), FEW, PLAN)
    absent = table[table["note"] != ""]
    assert absent["how"].tolist() == ["all-MiniLM-L6-v2", "bert-base-nli-mean-tokens", ""]
    assert absent["value"].isna().all()
    assert absent["note"].str.startswith("not run: no ").all()
    cosines = np.random.default_rng(2).random((20, 4))
    run = reconstruction.summarise(rows, tensors_of(rows, **{"cosine: all-MiniLM-L6-v2": cosines}), FEW, PLAN)
    assert run.loc[run["note"] != "", "how"].tolist() == ["bert-base-nli-mean-tokens"]
    assert run.loc[run["quantity"] == reconstruction.MINUS_ENCODER, "how"].str.startswith("all-MiniLM-L6-v2 ").all()


def test_differences_are_paired():
    rows = rows_of(prompts=40, answer=lambda number, gold: gold if number % 4 else 1 - gold)
    table = reconstruction.summarise(rows, tensors_of(rows), FEW, PLAN).set_index(["quantity", "against", "how"])["value"]
    reconstructed = table[reconstruction.RECONSTRUCTION, "truth", "max"]
    assert table[reconstruction.MINUS_ICL, "truth", "max"] == pytest.approx(
        reconstructed - table[reconstruction.ICL, "truth", ""]
    )
    kernel = table[reconstruction.KERNEL, "truth", "TF-IDF exp"]
    assert table[reconstruction.MINUS_KERNEL, "truth", "TF-IDF exp"] == pytest.approx(reconstructed - kernel)


def test_rows_of_two_tasks_or_without_a_head_are_refused():
    rows = rows_of(prompts=4)
    with pytest.raises(InputError, match="missing or duplicate rows"):
        reconstruction.attention(pd.concat([rows, rows.assign(task="trec")]))
    with pytest.raises(InputError, match="missing or duplicate rows"):
        reconstruction.attention(rows.drop(index=3))
    with pytest.raises(InputError, match="tensors of the kernel_regression table belong to other prompts"):
        reconstruction.summarise(rows, {"prompt_id": np.arange(5)}, FEW, PLAN)


# Heads.


def test_every_head_s_agreement_is_counted_and_the_best_s_depth_is_told():
    rows = rows_of(prompts=30, layers=3, good=(1, 1))
    table = heads.by_head(rows, FEW, PLAN)
    found = reconstruction.attention(rows)
    shares = weighted_votes.votes(found.weights["max"], found.labels, 2)
    plain = [np.mean(shares[:, h].argmax(-1) == found.prediction) for h in range(6)]
    of_model = table[table["metric"] == "vs model"]
    assert of_model["value"].tolist() == pytest.approx(plain)
    assert of_model[["layer", "head"]].values.tolist() == [[layer, head] for layer in (0, 1, 2) for head in (0, 1)]
    best = table[table["metric"] == "best head in sample vs model"]
    assert best[["layer", "head", "value"]].values.tolist() == [[1, 1, 1.0]]
    assert 0.5 < best["null_95"].item() < 1
    beyond = table.loc[table["metric"] == "best head in sample minus null vs model", "value"].item()
    assert beyond == pytest.approx(1 - best["null_95"].item())
    assert best[["low", "high", "replicates"]].isna().all(axis=None)
    assert table.loc[table["metric"] == heads.DEPTH, "value"].item() == pytest.approx(2 / 3)


def test_the_best_head_is_scored_on_prompts_that_did_not_choose_it():
    rows = rows_of(prompts=40, good=(9, 9))  # no head knows the prediction
    table = heads.by_head(rows, Settings(permutations=1, held_out=0.5), PLAN).set_index("metric")
    scored = rows["prompt_id"].isin(
        np.flatnonzero(held_out([42 + i % 2 for i in range(40)], range(40), Settings(held_out=0.5)))
    )
    values = {
        part: heads.by_head(rows[mask], FEW, PLAN).query("metric == 'vs model'").set_index(["layer", "head"])["value"]
        for part, mask in (("chosen", ~scored), ("scored", scored))
    }
    best = table.loc["best head vs model"]
    assert values["chosen"][best["layer"], best["head"]] == values["chosen"].max()
    assert best["value"] == pytest.approx(values["scored"][best["layer"], best["head"]])
    assert best["prompts"] == 20
    assert best["low"] < best["value"] < best["high"]


def test_heads_that_tie_share_their_depth():
    rows = rows_of(prompts=20, layers=3, good=(0, 0))
    same = rows[(rows["layer"] == 0) & (rows["head"] == 0)].assign(layer=2)
    tied = pd.concat([rows[~((rows["layer"] == 2) & (rows["head"] == 0))], same])
    table = heads.by_head(tied, FEW, PLAN)
    assert table.loc[table["metric"] == heads.DEPTH, "value"].item() == pytest.approx((1 / 3 + 1) / 2)


def test_both_studies_measures_are_of_each_head_by_itself():
    rows = pd.concat([rows_of(prompts=40), rows_of(prompts=40, classes=3, task="trec", seed=5)], ignore_index=True)
    found, correlations = heads.compare(rows, PLAN)
    part = rows[(rows["task"] == "trec") & (rows["layer"] == 1) & (rows["head"] == 0)]
    values = {}
    for seed, of_seed in part.groupby("seed"):
        pairs = list(zip(of_seed["label"], of_seed["demo_labels"], strict=True))
        scores = np.array([[sum(a[y == c]) for c in range(3)] for a, y in pairs])
        values[seed] = attention_auc.agreement(scores[None], of_seed["prediction"].to_numpy()).auc[0]
    one = found.set_index(["task", "layer", "head", "metric"])["value"]
    assert one["trec", 1, 0, "auc"] == pytest.approx(np.mean(list(values.values())))
    assert one["trec", 1, 0, "label_attention"] == pytest.approx(np.mean([sum(a) for a in part["label"]]))
    assert one["trec", 1, 0, "reconstruction"] == 1
    mean = np.mean([one[task, 1, 0, "label_attention"] for task in ("sst2", "trec")])
    assert one[OVER_TASKS, 1, 0, "label_attention"] == pytest.approx(mean)
    assert set(correlations["task"]) == {OVER_TASKS, "sst2", "trec"}
    wide = found[found["task"] == "trec"].pivot(index=["layer", "head"], columns="metric", values="value").rank()
    shown = correlations.set_index(["task", "first", "second"]).loc[("trec", "reconstruction", "auc")]
    assert shown["value"] == pytest.approx(wide["reconstruction"].corr(wide["auc"]))
    assert shown["low"] <= shown["high"]


# The attention map.


def test_the_map_s_bins_are_named_in_their_order():
    settings = Settings(bins=2)
    rows = rows_of(prompts=4)
    width = 4 * 3 + 2
    stacked = np.arange(2 * 2 * 2 * width, dtype=float).reshape(2, 2, 2, width)
    tensors = {"map": stacked, "map_first": stacked[0]}
    values, tidy = attention_map.chart(rows, tensors, settings)
    assert np.array_equal(values, stacked.mean(0))
    of_head = tidy[(tidy["layer"] == 1) & (tidy["head"] == 0)]
    assert of_head["part"].tolist() == ["text", "text", "label"] * 4 + ["query"] * 2
    assert of_head["place"].tolist() == [1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4, 0, 0]
    assert of_head["value"].tolist() == values[1, 0].tolist()
    assert np.array_equal(attention_map.chart(rows, tensors, settings, single=True)[0], stacked[0])
    with pytest.raises(InputError, match="has 14 bins, but its settings give 19"):
        attention_map.chart(rows, tensors, Settings(bins=3))


def test_parts_are_means_over_a_layer_s_heads():
    rows = rows_of(prompts=6)
    rows.loc[(rows["layer"] == 1) & (rows["head"] == 0), ["on_labels", "on_query"]] = [0.4, 0.05]
    shares = attention_map.parts(rows, PLAN).query("metric == 'share'").set_index(["layer", "part"])["value"]
    assert shares[0, "labels"] == pytest.approx(0.3)
    assert shares[1, "labels"] == pytest.approx(0.35)
    assert shares.groupby("layer").sum().tolist() == pytest.approx([1, 1])
    assert attention_map.parts(rows, PLAN, single=True)["low"].isna().all()


def test_the_best_layer_is_scored_on_the_other_half_of_the_texts():
    rows = rows_of(prompts=40, layers=3, count=1).assign(query_index=lambda table: table["prompt_id"])
    half = halves([42 + i % 2 for i in range(40)], range(40))
    # The first token gets most attention in layer 0 on one half and in layer 2 on the other half.
    for layer, number in ((0, 0), (2, 1)):
        rows.loc[(rows["layer"] == layer) & rows["prompt_id"].isin(np.flatnonzero(half == number)), "on_first"] = 0.9
    found = attention_map.parts(rows, PLAN).query("metric == 'best layer'").set_index("part")
    assert found.loc["first", "value"] == pytest.approx(0.1)  # in sample it would be 0.5
    assert found.loc["labels - texts", "value"] == pytest.approx(0.1)
    assert found["layer"].isna().all()
    assert "end" not in found.index  # three layers have no first fifth


# Controls.


def controls_of(rows, settings):
    """Return controls in which the prediction follows flipped labels.

    One of the two orders also reverses the reconstruction of the good head.
    """
    first = rows.drop_duplicates("prompt_id")
    chosen = first["prompt_id"][held_out(first["seed"].to_numpy(), first["prompt_id"].to_numpy(), settings)]
    part = rows[rows["prompt_id"].isin(chosen)].drop(columns=[c for c in rows if c.startswith("on_")])
    flipped = part.assign(demo_labels=part["demo_labels"].map(lambda y: (y + 1) % 2), prediction=(part["prediction"] + 1) % 2)
    turned = part.assign(max=part["max"].map(lambda a: a.max() - a))
    return pd.concat(
        [
            part.assign(control="none", draw=0),
            part.assign(control="inputs_permuted", draw=0),
            flipped.assign(control="labels_flipped", draw=0),
            part.assign(control="order", draw=0),
            turned.assign(control="order", draw=1),
        ],
        ignore_index=True,
    )


def test_controls_are_measured_against_the_prompts_as_they_are():
    rows = rows_of()
    table = controls.summarise(rows, controls_of(rows, FEW), FEW, PLAN).set_index(["control", "metric"])
    value = table["value"]
    assert value["none"].tolist() == [1, 1, 0, 0]
    assert value["labels_flipped"].tolist() == [1, 1, 0, 0]
    assert value["order"].tolist() == pytest.approx([1, 0.5, 0, 0.5])
    assert value["any_order"].tolist() == [0, 1]
    assert (table.loc[("none", "agreement"), ["layer", "head"]] == [1, 0]).all()
    assert 0.4 < table.loc[("none", "agreement"), "null_95"] < 1
    assert table["prompts"].unique().tolist() == [18]


def test_controls_on_prompts_that_chose_the_head_are_refused():
    rows = rows_of()
    other = Settings(permutations=20, seed=1)
    with pytest.raises(InputError, match="contains prompts on which a head is chosen"):
        controls.summarise(rows, controls_of(rows, other), FEW, PLAN)
    whole = controls_of(rows, FEW)
    with pytest.raises(InputError, match="lacks a control; delete the table"):
        controls.summarise(rows, whole[whole["control"] != "order"], FEW, PLAN)
