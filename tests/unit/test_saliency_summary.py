"""Tests of the shares of S_wp, S_pq and S_ww: the released aggregation, its intervals and paired differences."""

import numpy as np
import pandas as pd
import pytest

from icl_lens.errors import InputError
from icl_lens.report.replicates import without as without_estimates
from icl_lens.statistics.resampling import Bootstrap, shares
from icl_lens.studies.anchors.saliency.summary import METRICS, notes, summarise


@pytest.fixture
def rows():
    generator = np.random.default_rng(0)
    keys = [(seed, 10 * seed + prompt, layer) for seed in (1, 2, 3) for prompt in range(5) for layer in range(2)]
    table = pd.DataFrame(keys, columns=["seed", "prompt_id", "layer"]).assign(model="m", task="sst2", set="fresh-1shot")
    table = table.assign(**{metric: generator.exponential(size=len(table)) for metric in METRICS})
    same = {f"{metric}_visible": table[metric] for metric in METRICS}
    return table.assign(**same, s_wp_bos=0.0, s_wp_no_bos=table["s_wp"])


def test_a_share_is_the_mean_over_seeds_of_quotients_of_means(rows):
    found = summarise(rows).set_index(["metric", "layer"])
    for layer in (0, 1):
        of_seeds = []
        for seed in (1, 2, 3):
            part = rows[(rows["seed"] == seed) & (rows["layer"] == layer)]
            means = [part[metric].sum() / 5 for metric in METRICS]
            of_seeds.append([mean / sum(means) for mean in means])
        for number, metric in enumerate(METRICS):
            row = found.loc[(metric, layer)]
            values = [shares_of_seed[number] for shares_of_seed in of_seeds]
            assert row["share"] == pytest.approx(sum(values) / 3, rel=1e-12)
            assert (row["lowest_seed"], row["highest_seed"]) == pytest.approx((min(values), max(values)))
            assert row["low"] < row["share"] < row["high"]
            assert (row["seeds"], row["prompts"]) == (3, 15)


def test_differences_are_paired(rows):
    rows["s_pq"] = rows["s_wp"]  # equal for each prompt and therefore in each resample
    found = summarise(rows).set_index(["metric", "layer"])
    assert np.abs(found.loc["s_wp - s_pq", ["share", "prompts_low", "prompts_high"]].to_numpy()).max() < 1e-12
    assert found.loc[("s_wp", 0), "high"] - found.loc[("s_wp", 0), "low"] > 0.01


def test_variants_that_equal_the_papers_means_are_left_out(rows):
    found = summarise(rows)
    assert set(found["metric"]) == {*METRICS, "s_wp - s_pq", "s_wp - s_ww", "s_pq - s_ww"}
    assert notes(found) == []


def test_means_over_edges_that_can_exist_are_aggregated_as_the_papers_are(rows):
    paper = without_estimates(summarise(rows)).set_index(["metric", "layer"])
    windowed = rows.assign(s_pq_visible=7 * rows["s_pq"])
    found = without_estimates(summarise(windowed))
    by_metric = found.set_index(["metric", "layer"])
    pd.testing.assert_frame_equal(by_metric.loc[paper.index], paper)
    expected = without_estimates(summarise(rows.assign(s_pq=7 * rows["s_pq"]))).set_index(["metric", "layer"])
    for metric in (*METRICS, "s_wp - s_pq"):
        suffixed = " - ".join(f"{name}_visible" for name in metric.split(" - "))
        pd.testing.assert_frame_equal(by_metric.loc[suffixed], expected.loc[metric])
    assert len(notes(found)) == 1
    assert "count edges outside an attention window as 0" in notes(found)[0]


def test_the_flow_from_a_bos_token_is_shown_with_and_without_it(rows):
    bos = rows.assign(s_wp_bos=np.where(rows["layer"] == 0, 0.5, 0.05) * rows["s_wp"], s_wp_no_bos=0.8 * rows["s_wp"])
    found = summarise(bos)
    by_metric = found.set_index(["metric", "layer"])["share"]
    assert by_metric["s_wp_bos", 0] == pytest.approx(0.5 * by_metric["s_wp", 0])
    expected = summarise(rows.assign(s_wp=0.8 * rows["s_wp"])).set_index(["metric", "layer"])["share"]
    for metric in METRICS:
        assert by_metric[f"{metric}_no_bos"].tolist() == pytest.approx(expected[metric].tolist())
    assert "is the source of 5 to 50 % of $S_{wp}$" in notes(found)[0]


def test_the_order_of_rows_changes_nothing(rows):
    shuffled = summarise(rows.sample(frac=1, random_state=0))
    pd.testing.assert_frame_equal(without_estimates(shuffled), without_estimates(summarise(rows)))


def test_a_prompt_that_stands_twice_is_refused(rows):
    wide = rows[rows["layer"] == 0]
    with pytest.raises(InputError, match="one row per prompt"):
        shares(pd.concat([wide, wide]), [METRICS], Bootstrap(resamples=2))
