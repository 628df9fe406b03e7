"""Latency of a query with compressed demonstrations, compared with a forward pass over the full prompt.

*Label Words are Anchors*, section 3.2 and appendix I (Tables 3 and 6). Three methods compute the logits at the same position:

    full            the full prompt in one forward pass (the paper's baseline)
    hidden_anchor   the query with the K kept positions of its demonstrations as prefix
    shared          the query with all P positions of its demonstrations as prefix; this is exact, and the prefix is also
                    computed once

Only the forward pass up to the logits at the last position is timed, with the model's own attention kernel. The inputs are
already on the device, there is no decoding, and the device is synchronized before the timer starts and before it stops. As in
the paper, the time does not include the pass over the demonstrations, which runs once for all queries. Each pass runs once
before it is timed, and the methods alternate. The paper compares one prompt at a time. Batches of all prompts of a seed
additionally measure the throughput.

Times vary between machines and between runs. If weights are read from main memory or the disk for each pass, the times are
mostly those of reading them. Therefore the metadata of the table has the devices of layers that are not all on one device.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import torch

from icl_lens.models import batching
from icl_lens.models.batching import Batch
from icl_lens.models.language_model import LanguageModel
from icl_lens.models.logits import predictive_logits
from icl_lens.network.placement import describe, is_placed
from icl_lens.prompts.positions import TokenizedPrompt
from icl_lens.studies.anchors import compressed_demonstrations
from icl_lens.studies.anchors.compressed_demonstrations import Compressed
from icl_lens.studies.anchors.latency.study import METHODS, Method, Settings
from icl_lens.studies.inputs import Given, Inputs, of_table


def prepare(given: Given) -> Inputs:
    """Return the prompts that fit the model's context and, as a fact, the devices of layers that are not all on one device.

    Raises:
        InputError: No prompt fits.
    """
    network = given.model.network
    return replace(of_table(given), facts={"placement": describe(network)} if is_placed(network) else {})


@torch.inference_mode()
def compute(
    model: LanguageModel,
    prompts: Sequence[TokenizedPrompt],
    batch_tokens: int,
    progress: Callable[[int], object] = lambda done: None,
    settings: Settings | None = None,
) -> pd.DataFrame:
    """Measure the time of each repeat, and the lengths that it depends on.

    Args:
        prompts, batch_tokens, settings: Arguments common to all studies, see :mod:`icl_lens.studies.study`.
        model: Any model with a KV cache that supports kept positions.
        progress: Called after each set of demonstrations with its number of prompts, including prompts that are not timed.

    Raises:
        InputError: A prompt has no demonstration, or the model's family does not support compression.

    Returns:
        One row per timed pass, method and repeat: prompt_id (of the first prompt for a batch), method, prompts (number of
        prompts timed together; 1 for the paper's comparison), repeat, seconds, prompt_tokens (mean length of the full prompts),
        cache_tokens (number of tokens in the KV cache: 0, K or P), query_tokens (mean length of the queries, including the
        template), demo_words and query_words (numbers of whitespace-separated words of the raw texts, L_demo and L_x in Table
        6).
    """
    settings = settings or Settings()
    groups = compressed_demonstrations.group_by_demonstrations(prompts)
    compressed_demonstrations.require_compressible(model)
    rows: list[dict] = []
    timed: dict[int, int] = {}
    for index in groups:
        first = prompts[index[0]]
        remaining = settings.prompts - timed.get(first.seed, 0)
        chosen = index[: max(0, remaining)]
        timed[first.seed] = timed.get(first.seed, 0) + len(chosen)
        if chosen:
            ids = first.ids[: compressed_demonstrations.query_start(first)]
            full = compressed_demonstrations.read(model, first)
            anchored = compressed_demonstrations.kept_positions(first)
            demonstrations: dict[Method, Compressed | None] = {
                "full": None,
                "hidden_anchor": compressed_demonstrations.keep(full, ids, anchored),
                "shared": compressed_demonstrations.keep(full, ids, np.arange(len(ids))),
            }
            for members in [*([i] for i in chosen), *([chosen] if len(chosen) > 1 else [])]:
                pass_columns = {
                    "prompt_id": first.prompt_id if len(members) > 1 else prompts[members[0]].prompt_id,
                    "prompts": len(members),
                    "prompt_tokens": np.mean([len(prompts[i].ids) for i in members]),
                    "query_tokens": np.mean([len(prompts[i].ids) - len(ids) for i in members]),
                    "demo_words": sum(_words(first, span) for span in first.text_spans),
                    "query_words": np.mean([_words(prompts[i], prompts[i].query_span) for i in members]),
                }
                passes = {method: _pass(model, prompts, batch_tokens, members, demonstrations[method]) for method in METHODS}
                seconds = _time(model, passes, settings.repeats)
                cached = {"full": 0, "hidden_anchor": len(anchored), "shared": len(ids)}
                for method in METHODS:
                    rows += [
                        {**pass_columns, "method": method, "cache_tokens": cached[method], "repeat": repeat, "seconds": value}
                        for repeat, value in enumerate(seconds[method])
                    ]
        progress(len(index))
    return pd.DataFrame(rows)


def _pass(
    model: LanguageModel,
    prompts: Sequence[TokenizedPrompt],
    batch_tokens: int,
    index: list[int],
    compressed: Compressed | None,
) -> Callable[[], None]:
    """Prepare the batches of some prompts on the device, and return a function that runs the forward pass over them."""
    if compressed is None:
        prepared = list(batching.batches(model, prompts, batch_tokens, index, score=True))
    else:
        prepared = list(compressed_demonstrations.batches(model, prompts, batch_tokens, compressed, index=index))

    def logits(batch: Batch) -> torch.Tensor:
        return (
            predictive_logits(model, batch)
            if compressed is None
            else compressed_demonstrations.query_logits(model, batch, compressed)
        )

    def run() -> None:
        for batch in prepared:
            logits(batch)

    return run


def _time(model: LanguageModel, passes: dict[Method, Callable[[], None]], repeats: int) -> dict[Method, list[float]]:
    """Return the times of each method's repeats, in seconds, without its first run."""
    seconds: dict[Method, list[float]] = {method: [] for method in passes}
    for repeat in range(-1, repeats):
        for method, run in passes.items():
            _finish(model)
            start = time.perf_counter()
            run()
            _finish(model)
            if repeat >= 0:
                seconds[method].append(time.perf_counter() - start)
    return seconds


def _finish(model: LanguageModel) -> None:
    """Wait until the device has completed all queued work."""
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)
    elif model.device.type == "mps":
        torch.mps.synchronize()


def _words(prompt: TokenizedPrompt, span: np.ndarray) -> int:
    """Return the number of whitespace-separated words in a span of a prompt's text."""
    start, end = span
    return len(prompt.text[start:end].split())
