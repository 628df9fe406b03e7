"""What jobs ask a cluster for."""

from pathlib import PurePosixPath

import pytest

from icl_lens.config import prediction, requests
from icl_lens.config.parse import parse
from icl_lens.config.prediction import CARDS, Prediction

HUBS = {"gpt2-xl": "openai-community/gpt2-xl", "gpt-j": "EleutherAI/gpt-j-6b"}


def predicted(seconds, host_bytes=2 * 10**9, device_bytes=0):
    """Return a prediction; the fields that a request does not use are left out."""
    fields = {"seconds": seconds, "host_bytes": host_bytes, "device_bytes": device_bytes}
    return Prediction(**{name: fields.get(name) for name in Prediction._fields})


def test_a_request_exceeds_the_prediction_and_grows_with_each_attempt():
    job = predicted(3600)
    assert requests.memory_mb(job, 1) > 2000
    assert requests.minutes(job, 1) > 60
    for request in (requests.memory_mb, requests.minutes):
        assert [request(job, attempt) for attempt in (1, 2, 3)] == [request(job, 1) * attempt for attempt in (1, 2, 3)]


def test_requests_are_whole_numbers():
    assert isinstance(requests.memory_mb(predicted(1.5, 1_234_567_890), 1), int)
    assert isinstance(requests.minutes(predicted(1.5), 1), int)


@pytest.mark.parametrize(
    ("seconds", "short"), [(10, True), (requests.SHORT_SECONDS, True), (requests.SHORT_SECONDS + 1, False)]
)
def test_only_a_longer_job_has_a_least_time(seconds, short):
    assert requests.is_short(predicted(seconds)) == short
    assert (requests.minutes(predicted(seconds), 1) >= requests.LEAST_MINUTES) == (not short)


def test_a_job_of_unknown_size_is_not_short_and_asks_for_a_fixed_amount():
    assert not requests.is_short(None)
    assert requests.memory_mb(None, 2) == 2 * requests.UNKNOWN_MEMORY_MB
    assert requests.minutes(None, 2) == 2 * requests.UNKNOWN_MINUTES


def test_a_conversion_asks_for_more_than_twice_its_weights():
    assert requests.conversion_mb(10**10, 1) > 20_000
    assert requests.conversion_mb(0, 1) == requests.UNKNOWN_MEMORY_MB


@pytest.mark.parametrize(
    ("device", "small", "gpus"),
    [("cpu", True, 0), ("cpu", False, 0), ("auto", True, 0), ("auto", False, 1), ("cuda", True, 1), ("cuda", False, 1)],
)
def test_a_job_asks_for_a_gpu_if_it_will_use_one(device, small, gpus):
    assert requests.gpus(device, small) == gpus
    assert requests.card(gpus) is (requests.GPU if gpus else CARDS["cpu"])


def test_a_model_on_several_cards_asks_for_as_many_as_hold_its_weights():
    assert requests.gpus("auto", False, spread=10**9) == 1
    assert requests.gpus("auto", False, spread=140 * 10**9) == 5  # of 40 GB
    assert requests.gpus("cpu", False, spread=140 * 10**9) == 0


def test_the_request_of_a_configured_job_follows_from_its_model():
    config = parse({"models": [{"name": name, "hub": hub} for name, hub in HUBS.items()], "tasks": ["sst2"]})
    small, large = (
        prediction.predict(config, PurePosixPath(f"{name}/sst2/shared-1shot/isolation.parquet"), requests.GPU) for name in HUBS
    )
    assert requests.memory_mb(small, 1) < requests.memory_mb(large, 1)
    assert requests.memory_mb(large, 1) > 6_050_882_784 * 4 / 10**6  # the weights pass through the machine's memory
    assert requests.minutes(small, 1) <= requests.minutes(large, 1)
