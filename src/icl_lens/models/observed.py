"""Facts about a model on a study's prompts that every result should be read with."""

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

# A model counts as untrained when its mean loss per token is within this many nats of a uniform guess (or worse). Random
# weights come within about 0.1 of it; a trained model is several nats below.
UNTRAINED_MARGIN = 0.5

OBSERVED = 2**26
"""Most logits that :func:`observe` computes.

They are those of 256 tokens with a vocabulary of 262,144, or of eight usual prompts with one of 50,257. They use a quarter of
:data:`icl_lens.network.memory.LIMIT`, and so do their log-probabilities.
"""


@torch.inference_mode()
def observe(model: LanguageModel, prompts: Sequence[TokenizedPrompt], sample: int = 8) -> dict[str, Any]:
    """Facts about the model on these prompts that every result should be read with, measured on the first ``sample`` prompts.

    The loss is over the first tokens of these prompts, as many as :data:`OBSERVED` logits cover.

    Returns:
        ``next_token_loss`` and ``uniform_loss`` in nats per token, ``untrained`` (the first is not clearly below the second:
        the model predicts these texts no better than a uniform distribution), and ``unknown_tokens``, the share of unknown
        tokens in all prompts.
    """
    losses = []
    read, left = [], max(1, OBSERVED // model.sizes.vocabulary)  # tokens whose loss is still to be measured
    for prompt in prompts[:sample]:
        if left > 0:
            read.append(replace(prompt, ids=prompt.ids[: left + 1]))
            left -= len(read[-1].ids) - 1
    for batch in batches(model, read, budget=1):  # one by one: the logits of all positions are large
        logits = model.network(**batch.inputs()).logits  # (1, T, V)
        losses.append(torch.nn.functional.cross_entropy(logits[0, :-1].float(), batch.ids[0, 1:], reduction="none"))
    loss = torch.cat(losses).mean().item()
    uniform = math.log(len(model.tokenizer))
    untrained = not loss < uniform - UNTRAINED_MARGIN
    unknown = sum(p.unknown for p in prompts) / sum(len(p.ids) for p in prompts)
    if untrained:
        logger.warning(
            "model %s is untrained, or untrained on such text: its loss is %.2f nats per token, that of a uniform guess %.2f",
            model.name,
            loss,
            uniform,
        )
    if unknown:
        logger.warning("the tokenizer of %s does not know %.1f %% of the prompts' tokens", model.name, 100 * unknown)
    return {"next_token_loss": loss, "uniform_loss": uniform, "untrained": untrained, "unknown_tokens": unknown}
