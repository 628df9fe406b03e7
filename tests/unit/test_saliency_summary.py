"""Tests of the shares of S_wp, S_pq and S_ww: the released aggregation, its intervals and paired differences."""

import numpy as np
import pandas as pd
import pytest

from icl_lens.errors import InputError
from icl_lens.statistics.resampling import Bootstrap, shares
from icl_lens.studies.anchors.saliency.summary import METRICS, summarise


@pytest.fixture
def rows():
    generator = np.random.default_rng(0)
    keys = [(seed, 10 * seed + prompt, layer) for seed in (1, 2, 3) for prompt in range(5) for layer in range(2)]
    table = pd.DataFrame(keys, columns=["seed", "prompt_id", "layer"]).assign(model="m", task="sst2", set="fresh-1shot")
    return table.assign(**{metric: generator.exponential(size=len(table)) for metric in METRICS})


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
    assert np.abs(found.loc["s_wp - s_pq", ["share", "low", "high"]].to_numpy()).max() < 1e-12
    assert found.loc[("s_wp", 0), "high"] - found.loc[("s_wp", 0), "low"] > 0.01


def test_the_order_of_rows_changes_nothing(rows):
    shuffled = summarise(rows.sample(frac=1, random_state=0))
    pd.testing.assert_frame_equal(shuffled, summarise(rows))


def test_a_prompt_that_stands_twice_is_refused(rows):
    wide = rows[rows["layer"] == 0]
    with pytest.raises(InputError, match="one row per prompt"):
        shares(pd.concat([wide, wide]), [METRICS], Bootstrap(resamples=2))
