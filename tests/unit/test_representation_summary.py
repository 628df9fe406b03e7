import math

import numpy as np
import pandas as pd
import pytest

from icl_lens.statistics.resampling import Bootstrap
from icl_lens.statistics.similarity import condensed
from icl_lens.studies.representation_change import paired_answers, reading
from icl_lens.studies.representation_change.hypotheses import matrices
from icl_lens.studies.representation_change.representation_change import summary
from icl_lens.studies.representation_change.settings import Reading

from ..reference import representation_change as reference

PLAN = Bootstrap(resamples=200)


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ("13.8)\n", 13.8),
        (" -2.5", -2.5),
        ("7", 7.0),
        ("13.8.2", 13.8),
        (".5)", None),
        ("(3,4)", None),
        ("about 3", None),
        ("", None),
    ],
)
def test_a_number_is_read_at_the_beginning_or_not_at_all(answer, value):
    found = paired_answers.parse_number(answer)
    assert math.isnan(found) if value is None else found == value


def test_error_rates_have_intervals_between_their_ends_with_a_width_if_all_queries_agree():
    found = summary.behaviour(told(lambda row: row.truth), PLAN)
    rates = found[found["measure"] == "error"].set_index("contrast")
    beyond = 1 - 0.025 ** (1 / 20)
    assert tuple(rates.loc["examples", ["value", "low", "high"]]) == pytest.approx((0, 0, beyond))
    assert tuple(rates.loc["examples - none", ["value", "low", "high"]]) == pytest.approx((0, -beyond, beyond))


def test_an_activity_is_read_in_the_first_line():
    assert paired_answers.mentions(" Reading a book.\nNora is baking", "reading a book")
    assert not paired_answers.mentions("Hannah.\nNora is reading a book", "reading a book")


def told(answers):
    """Return rows for a single number of distractors, with an answer for each condition."""
    table = reading.build(Reading(queries=20, distractors=[1], examples=[0, 1]), 42)
    rng = np.random.default_rng(0)
    attention = rng.uniform(0.1, 1, size=(len(table), 3, 2))
    return table.assign(
        model="m",
        answer=[answers(row) for row in table.itertuples()],
        candidate_log_probs=[[-1.0 - abs(i - row.truth_candidate) for i in range(10)] for row in table.itertuples()],
        relevant=[list(a) for a in attention[:, 0]],
        irrelevant=[list(a) for a in attention[:, 1]],
        context=[list(a) for a in attention[:, 2]],
        relevant_tokens=3,
        irrelevant_tokens=2,
        context_tokens=table["examples"] * 3,
    )


def test_an_answer_is_correct_if_it_names_the_target_and_no_distractor():
    rows = told(lambda row: row.truth).head(4).copy()
    rows["answer"] = [
        rows["truth"].iloc[0],
        rows["competing"].iloc[1][0],
        f"{rows['truth'].iloc[2]} and {rows['competing'].iloc[2][0]}",
        "Hannah.",
    ]
    found = paired_answers.judged(rows)
    assert found["error"].tolist() == [0, 1, 1, 1]
    assert found["parsed"].tolist() == [True, True, True, False]
    assert found["likelihood_error"].tolist() == [0] * 4


def test_the_error_of_a_list_is_a_distance_and_missing_without_a_number():
    rows = pd.DataFrame(
        {
            "task": "lines",
            "answer": ["12.5)", "x"],
            "truth": ["10.0", "3.0"],
            "candidate_log_probs": [[-1, -2]] * 2,
            "truth_candidate": 0,
        }
    )
    found = paired_answers.judged(rows)
    assert found["error"].iloc[0] == 2.5
    assert found["relative_error"].iloc[0] == 0.25
    assert math.isnan(found["error"].iloc[1])
    assert found["parsed"].tolist() == [True, False]


def test_differences_are_paired_by_query():
    rows = told(lambda row: row.truth if row.examples and not row.control else row.competing[0])
    found = summary.behaviour(rows, PLAN)
    error = found[found["measure"] == "error"].set_index(["examples", "contrast"])["value"]
    assert error[0, "none"] == 1
    assert error[1, "examples"] == 0
    assert error[1, "examples - none"] == error[1, "examples - control"] == -1
    assert error[1, "control - none"] == 0
    assert set(summary.marked(found)["which"]) == {"none", "most"}


def test_error_rates_of_stories_have_the_error_of_the_most_frequent_activity():
    rows = told(lambda row: row.truth)
    rows["truth"] = ["swam"] * (len(rows) // 4) + rows["truth"].tolist()[len(rows) // 4 :]
    found = summary.behaviour(rows, PLAN).groupby("measure")["baseline_error"].first()
    expected = 1 - max(rows["truth"].tolist().count(each) for each in set(rows["truth"])) / len(rows)
    assert found["error"] == found["likelihood_error"] == pytest.approx(expected)
    assert found[["log_prob", "unparsed"]].isna().all()


def test_a_paired_interval_is_narrower_than_that_of_its_sides():
    rows = told(lambda row: row.truth)
    noise = np.random.default_rng(1).normal(size=20)
    rows["candidate_log_probs"] = [[noise[row.query_id] + row.examples] * 10 for row in rows.itertuples()]
    found = summary.behaviour(rows, PLAN)
    of = found[found["measure"] == "log_prob"].set_index("contrast")
    assert of.loc["examples - none", "high"] - of.loc["examples - none", "low"] < 1e-9
    assert of.loc["none", "high"] - of.loc["none", "low"] > 0.1


def test_log_ratios_are_per_token_and_sums_are_of_all():
    rows = told(lambda row: "")
    mean, total = summary.log_ratios(rows), summary.log_ratios(rows, "sum")
    first = rows.iloc[0]
    assert mean[0] == pytest.approx(np.log(np.array(first["relevant"]) / np.array(first["irrelevant"])))
    assert total - mean == pytest.approx(math.log(3 / 2))
    assert summary.log_ratios(rows.assign(irrelevant=rows["relevant"])) == pytest.approx(0)
    assert np.isnan(summary.log_ratios(rows.assign(irrelevant_tokens=0))).all()


def tensors_of(rows, seed=0):
    """Return random similarities for three conditions, two layers and three poolings."""
    count = rows["query_id"].nunique()
    rng = np.random.default_rng(seed)
    cosine = rng.normal(size=(3, 2, 3, count * (count - 1) // 2))
    found = {
        f"d1.{name}": rng.uniform(size=(3, 2, 3, 4))
        for name in ("spearman", "pearson", "partial", "cka", "mantel_p", "null_high")
    }
    return {
        "d1.cosine": cosine,
        **found,
        "d1.probe": rng.integers(0, 2, (3, 2, 3, count)),
        "d1.probe_commonest": np.array([0.1, 0.2, 0.5]),
    }


def test_alignments_have_the_layer_and_hypothesis_of_their_tensor():
    rows = told(lambda row: "")
    tensors = tensors_of(rows)
    found = summary.alignments(rows, tensors, PLAN)
    one = found[
        (found["of"] == "layer") & (found["layer"] == 1) & (found["pooling"] == "max") & (found["hypothesis"] == "name")
    ]
    value = one.set_index("contrast")["value"]
    expected = tensors["d1.spearman"][:, 1, 1, 1]
    assert value[["none", "examples", "control"]].tolist() == pytest.approx(expected.tolist())
    assert value["examples - control"] == pytest.approx(expected[1] - expected[2])
    assert one.set_index("contrast")["mantel_p"]["control"] == tensors["d1.mantel_p"][2, 1, 1, 1]
    mean = found[(found["of"] == "mean of layers") & (found["pooling"] == "max") & (found["hypothesis"] == "name")]
    assert mean.set_index("contrast")["value"]["none"] == pytest.approx(expected[0])  # one of the two layers is the embeddings


def test_resampled_alignments_are_those_of_the_drawn_queries():
    rng = np.random.default_rng(0)
    cosine, groups = rng.normal(size=(1, 1, 15)), np.arange(6) % 2
    hypothesis = (groups[:, None] == groups).astype(float)
    weights = np.array([[1.0] * 6, [1, 1, 0, 1, 1, 1]])
    found = summary._resampled(cosine, [hypothesis], weights)[0, :, 0, 0]
    square = np.eye(6)
    square[np.triu_indices(6, 1)] = cosine[0, 0]
    assert found[0] == pytest.approx(reference.alignment(square, hypothesis))
    ranked = np.zeros((2, 6, 6))
    for place, matrix in enumerate((square, hypothesis)):
        ranked[place][np.triu_indices(6, 1)] = reference.ranks(matrix[np.triu_indices(6, 1)].tolist())
    kept = [(i, j) for i in range(6) for j in range(i + 1, 6) if 2 not in (i, j)]
    assert found[1] == pytest.approx(reference.pearson(*([ranked[k][i, j] for i, j in kept] for k in (0, 1))))


def test_a_querys_own_alignment_is_that_of_its_row():
    rng = np.random.default_rng(0)
    hypothesis = matrices(told(lambda row: "").query("examples == 0"))["activity"]
    cosine = rng.normal(size=len(condensed(hypothesis)))
    found = summary.query_alignment(cosine, hypothesis)
    square = np.zeros_like(hypothesis)
    square[np.triu_indices(len(hypothesis), 1)] = cosine
    square += square.T
    for query, row in enumerate(hypothesis):
        others = [i for i in range(len(row)) if i != query]
        if len({row[i] for i in others}) == 1:
            assert math.isnan(found[query])
            continue
        plain = reference.pearson(*(reference.ranks([m[query][i] for i in others]) for m in (square, hypothesis)))
        assert found[query] == pytest.approx(plain)


def test_a_correlation_is_found_where_attention_rises_with_improvement():
    rows = told(lambda row: "")
    gain = np.linspace(0.1, 2, 20)
    right = rows["examples"].eq(1) & ~rows["control"]
    rows["relevant"] = [[math.exp(gain[q]), 1.0] if r else [1.0, 1.0] for q, r in zip(rows["query_id"], right, strict=True)]
    rows["irrelevant"] = [[1.0, 1.0]] * len(rows)
    rows["candidate_log_probs"] = [[gain[q] if r else 0.0] * 10 for q, r in zip(rows["query_id"], right, strict=True)]
    found = summary.correlations(rows, tensors_of(rows), permutations=99)
    of = found[
        (found["change"] == "attention") & (found["improvement"] == "log_prob") & (found["contrast"] == "examples - none")
    ]
    by_layer = of[of["of"] == "layer"].set_index("layer")
    assert by_layer.index.tolist() == [0, 1]
    assert by_layer.loc[0, "value"] == pytest.approx(1)
    assert by_layer.loc[0, "q"] <= 0.02
    assert math.isnan(by_layer.loc[1, "value"])  # the attention does not change in this layer
    assert of[of["of"] == "share of layers"]["value"].iloc[0] == 0.5
    error = found[(found["improvement"] == "error") & (found["of"] == "share of layers")]
    assert error["value"].isna().all()  # the errors of all answers stay the same


def test_probe_accuracies_have_the_layer_and_component_of_their_tensor():
    rows = told(lambda row: "")
    tensors = tensors_of(rows)
    found = summary.probe_accuracies(rows, tensors, PLAN)
    one = found[(found["of"] == "layer") & (found["layer"] == 1) & (found["component"] == "position")].set_index("contrast")
    assert one.loc["control", "value"] == pytest.approx(tensors["d1.probe"][2, 1, 2].mean())
    assert one.loc["control", "commonest"] == 0.5


def test_conditions_are_compared_by_their_means():
    rows = told(lambda row: row.truth if row.examples else "")
    tables = summary.behaviour(rows, PLAN), summary.alignments(rows, tensors_of(rows), PLAN), summary.ratios(rows, PLAN)
    found = summary.condition_changes(*tables).set_index("contrast")
    assert found.loc["examples - none", "error"] == -1
    assert found["alignment"].notna().all()
    assert found["attention"].notna().all()


def test_layers_of_attention_ratios_count_from_0_and_means_have_no_layer():
    found = summary.ratios(told(lambda row: ""), PLAN)
    assert set(found.loc[found["of"] == "layer", "layer"]) == {0, 1}
    assert found.loc[found["of"] == "mean of layers", "layer"].isna().all()
