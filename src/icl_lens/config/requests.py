"""What a job asks a cluster for, from its predicted cost (:mod:`icl_lens.config.prediction`).

A scheduler ends a job that exceeds its request, so a request is larger than the prediction. A job that failed for this reason
is submitted again and asks for more.
"""

from __future__ import annotations

from math import ceil

from icl_lens.config.prediction import CARDS, Card, Prediction

# The card of a cluster is not known before a job runs. This one is slower in float32 than most cards in use.
GPU = CARDS["a100-40gb"]
CPU = CARDS["cpu"]

# Requested per predicted byte and second.
MEMORY_FACTOR, TIME_FACTOR = 1.3, 3.0

# Bytes on several cards per byte of the weights.
SPREAD_FACTOR = 1.25

# Bytes of the three Snakemake processes of a job, which count as its memory, and the minutes that they need to start.
SNAKEMAKE_BYTES, START_MINUTES = 10**9, 5

# Jobs that need at most this time wait longer in the queue than they run.
SHORT_SECONDS = 300.0

# Minutes that a longer job asks for at least: the time of a slow file system or a busy node.
LEAST_MINUTES = 30

# The request of a job whose model is not available yet, so that its size is unknown.
UNKNOWN_MEMORY_MB, UNKNOWN_MINUTES = 32_000, 240


def card(gpus: int) -> Card:
    """Return the card that a request is computed for."""
    return GPU if gpus else CPU


def is_short(prediction: Prediction | None) -> bool:
    """Return whether a job is so short that several of them should share one job of the cluster."""
    return prediction is not None and prediction.seconds <= SHORT_SECONDS


def memory_mb(prediction: Prediction | None, attempt: int) -> int:
    """Return the memory of the machine that a job asks for, in MB.

    Args:
        prediction: The predicted cost; None if it is unknown.
        attempt: The number of this attempt, from 1; each asks for that multiple.
    """
    if prediction is None:
        return UNKNOWN_MEMORY_MB * attempt
    return ceil((SNAKEMAKE_BYTES + MEMORY_FACTOR * prediction.host_bytes) / 10**6) * attempt


def minutes(prediction: Prediction | None, attempt: int) -> int:
    """Return the time that a job asks for, in minutes; see :func:`memory_mb`."""
    if prediction is None:
        return UNKNOWN_MINUTES * attempt
    needed = START_MINUTES + ceil(TIME_FACTOR * prediction.seconds / 60)
    return (needed if is_short(prediction) else max(LEAST_MINUTES, needed)) * attempt


def conversion_mb(weights: int, attempt: int) -> int:
    """Return the memory that the conversion of a GGUF file asks for, in MB; see :func:`memory_mb`.

    Args:
        weights: The bytes of the float32 weights; 0 if the file is not fetched yet.
        attempt: The number of this attempt, from 1.
    """
    return ceil((SNAKEMAKE_BYTES + 2.5 * weights) / 10**6) * attempt if weights else UNKNOWN_MEMORY_MB * attempt


def gpus(device: str, small: bool, spread: int = 0) -> int:
    """Return the number of GPUs that a job of a model asks for.

    Args:
        device: The device from the config. With ``auto``, a small model runs on the CPU, and any other on a GPU.
        small: Whether the model is so small that a study takes about as long as its imports.
        spread: The bytes of the weights of a model whose layers are on several cards; 0 for a model on one card.
    """
    if device == "cpu" or (device == "auto" and small):
        return 0
    return max(1, ceil(SPREAD_FACTOR * spread / (GPU.memory or 1)))
