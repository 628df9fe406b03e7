"""Facts about a model on the prompts of a study, which are necessary to interpret each result."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from icl_lens.models.batching import batches
from icl_lens.models.language_model import LanguageModel
from icl_lens.prompts.positions import TokenizedPrompt

logger = logging.getLogger(__name__)

# A model counts as untrained if its mean loss per token is not more than this margin (in nats) below the loss of a uniform
# distribution. Random weights give a loss within about 0.1 nats of the uniform loss. A trained model is several nats below it.
UNTRAINED_MARGIN = 0.5

MAX_LOGITS = 2**26
"""Maximum number of logits that :func:`observe` computes.

This number covers 256 tokens with a vocabulary of 262,144, or eight typical prompts with a vocabulary of 50,257. The logits use
a quarter of :data:`icl_lens.network.memory.LIMIT`, and their log-probabilities another quarter.
"""


@torch.inference_mode()
def observe(model: LanguageModel, prompts: Sequence[TokenizedPrompt], sample: int = 8) -> dict[str, Any]:
    """Measure facts about the model on these prompts that are necessary to interpret each result.

    The loss is measured on the first tokens of the first ``sample`` prompts, as many as :data:`MAX_LOGITS` logits cover.

    Returns:
        A dictionary with the keys ``next_token_loss`` and ``uniform_loss`` in nats per token, ``untrained``, and
        ``unknown_tokens``, the fraction of unknown tokens in all prompts. ``untrained`` is True if the first loss is not
        clearly below the second, that is, if the model predicts these texts no better than a uniform distribution.
    """
    losses = []
    excerpts, remaining = [], max(1, MAX_LOGITS // model.sizes.vocabulary)  # number of tokens left to measure
    for prompt in prompts[:sample]:
        if remaining > 0:
            excerpts.append(replace(prompt, ids=prompt.ids[: remaining + 1]))
            remaining -= len(excerpts[-1].ids) - 1
    for batch in batches(model, excerpts, budget=1):  # one prompt at a time, because the logits of all positions are large
        logits = model.network(**batch.inputs()).logits  # (1, T, V)
        losses.append(torch.nn.functional.cross_entropy(logits[0, :-1].float(), batch.ids[0, 1:], reduction="none"))
    loss = torch.cat(losses).mean().item()
    uniform = math.log(len(model.tokenizer))
    untrained = not loss < uniform - UNTRAINED_MARGIN
    unknown = sum(p.unknown for p in prompts) / sum(len(p.ids) for p in prompts)
    if untrained:
        logger.warning(
            "model %s is untrained or does not model these texts: its loss is %.2f nats per token (uniform distribution: %.2f)",
            model.name,
            loss,
            uniform,
        )
    if unknown:
        logger.warning("tokenizer of %s: %.1f %% of the tokens in the prompts are unknown tokens", model.name, 100 * unknown)
    return {"next_token_loss": loss, "uniform_loss": uniform, "untrained": untrained, "unknown_tokens": unknown}
