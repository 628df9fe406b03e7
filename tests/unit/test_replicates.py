"""Replicates: estimates that are written next to a CSV, and combined after reading."""

import numpy as np
import pandas as pd
import pytest

from icl_lens.errors import InputError
from icl_lens.report import figures, replicates
from icl_lens.statistics import resampling
from icl_lens.statistics.resampling import Estimate
from tests.coverage import table


def rows(crossed=False):
    generator = np.random.default_rng(0)
    effect, gain = generator.normal(size=(2, 6, 1))
    one = table(effect + generator.normal(size=(6, 20)), tasks=2)
    found = one.assign(y=one["x"] + 0.1 * np.repeat(gain.ravel(), 20) + 0.1 * generator.normal(size=len(one)) + 0.5)
    return found.assign(query_index=found["prompt_id"] % 1000) if crossed else found


def summary(found):
    parts = [found[0], found[1], found[1] - found[0]]
    return pd.DataFrame(
        [{"of": of, "value": float(part.value), **part.columns()} for of, part in zip("abc", parts, strict=True)]
    )


@pytest.mark.parametrize("crossed", [False, True])
def test_a_difference_of_rows_has_the_interval_of_the_paired_difference(tmp_path, crossed):
    shown = summary(resampling.mean(rows(crossed), ["x", "y"]))
    figures.save_table(shown, tmp_path / "table_9")
    csv = pd.read_csv(tmp_path / "table_9.csv")
    assert "replicates" not in csv
    found = replicates.read(tmp_path / f"table_9{replicates.ENDING}")
    difference = found[1, "low"] - found[0, "low"]
    assert difference.value == pytest.approx(csv["value"][2])
    tolerance = 0.15 if crossed else 1e-9  # of the width; the file has fewer resamples
    width = csv["high"][2] - csv["low"][2]
    assert float(difference.low) == pytest.approx(csv["low"][2], abs=tolerance * width)
    unpaired = (csv["high"][1] - csv["low"][0]) - (csv["low"][1] - csv["high"][0])
    assert float(difference.high - difference.low) < unpaired / 3


def test_a_mean_of_rows_has_an_interval_of_the_mean():
    found = resampling.mean(rows(), ["x", "y"])
    mean = Estimate.combine(lambda *values: np.mean(values, axis=0), found[0], found[1])
    direct = resampling.mean(rows().assign(z=lambda t: (t["x"] + t["y"]) / 2), ["z"])
    assert (float(mean.low), float(mean.high)) == pytest.approx((direct.low[0], direct.high[0]))


def test_prompts_with_their_own_demonstrations_keep_their_interval(tmp_path):
    own = rows().assign(demonstrations=lambda t: t["prompt_id"])
    estimate = resampling.mean(own, ["x"])
    replicates.write(pd.DataFrame([{"value": 0.0, **estimate[0].columns("accuracy_")}]), tmp_path / "t")
    found = replicates.read(tmp_path / f"t{replicates.ENDING}")[0, "accuracy_low"]
    assert float(found.low) == pytest.approx(estimate.low[0], abs=0.2 * (estimate.high[0] - estimate.low[0]))


def test_an_item_without_intervals_has_an_empty_file(tmp_path):
    figures.save_table(pd.DataFrame({"a": [1, 2]}), tmp_path / "table_4")
    assert replicates.read(tmp_path / f"table_4{replicates.ENDING}") == {}


def test_a_corrupted_file_is_rejected(tmp_path):
    path = tmp_path / f"t{replicates.ENDING}"
    path.write_bytes(b"x")
    with pytest.raises(InputError, match="truncated or corrupted"):
        replicates.read(path)


@pytest.mark.parametrize(("sets", "note"), [(1, "Only one demonstration set"), (5, "from only 5 demonstration sets"), (10, "")])
def test_a_table_with_few_demonstration_sets_has_a_note(tmp_path, sets, note):
    found = resampling.mean(table(np.random.default_rng(0).random((sets, 4))), ["x"])
    figures.save_table(pd.DataFrame({"value": found.value, **found.columns()}), tmp_path / "table_9")
    text = (tmp_path / "table_9.md").read_text()
    assert (note in text) if note else ("demonstration set" not in text)
