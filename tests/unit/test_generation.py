"""Tests that an answer does not depend on the other prompts of its batch."""

import numpy as np
import pytest
import torch
from transformers import DynamicCache

from icl_lens.models import batching, generation
from icl_lens.models.logits import last_output

from ..families import FAMILIES, WINDOWS
from ..reference import representation_change as reference
from .test_prefixes import prompt

# Largest allowed difference of log-likelihoods in float32, as a share of the largest.
TOLERANCE = 1e-4


@pytest.mark.parametrize("family", FAMILIES)
def test_an_answer_does_not_depend_on_its_batch(language_model, family):
    """The longest prompts are longer than each window, and the shortest is shorter."""
    model, generator = language_model(family), np.random.default_rng(0)
    lengths, answer_lengths = (60, 7, 40, 52), (2, 5, 3, 4)
    assert all(size < max(lengths) for windows in WINDOWS.values() for size in windows.values())
    tokens = len(model.tokenizer)
    prompts = [prompt(generator.integers(1, tokens, length), number=i) for i, length in enumerate(lengths)]
    candidates = [generator.integers(1, tokens, length) for length in answer_lengths]
    with torch.inference_mode():
        (batch,) = batching.batches(model, prompts, 10**6, kept="states")
        cache = DynamicCache()
        first, _ = last_output(model, batch, use_cache=True, past_key_values=cache)
        continuations = generation.Continuations(model, batch, cache, first)
        answers = continuations.greedy(6).tolist()
        found = continuations.log_likelihood([candidates[i] for i in batch.index])
        assert continuations.greedy(6).tolist() == answers  # the cache was cropped after the candidates
    order = [prompts[i].ids.tolist() for i in batch.index]
    assert answers == [reference.greedy(model.network, ids, 6) for ids in order]
    plain = torch.tensor(
        [reference.log_likelihood(model.network, ids, candidates[i]) for i, ids in zip(batch.index, order, strict=True)]
    )
    assert (found - plain).abs().max() <= TOLERANCE * plain.abs().max()
