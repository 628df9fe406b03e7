"""Facts about a model on the prompts of a study, which are necessary to interpret each result."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from icl_lens.models.batching import batches
from icl_lens.models.language_model import LanguageModel
from icl_lens.network.memory import MAX_LOGITS, SAMPLE
from icl_lens.prompts.positions import TokenizedPrompt

logger = logging.getLogger(__name__)

# A model counts as untrained if its mean loss per token is not more than this margin (in nats) below the loss of a uniform
# distribution. Random weights give a loss within about 0.1 nats of the uniform loss. A trained model is several nats below it.
UNTRAINED_MARGIN = 0.5

# The BOS token, or its absence, is reported if it increases the loss per token by more than this margin (in nats). Without the
# BOS token, the loss of models that were trained with it is higher by one to several nats, that of others by less than 0.2.
BOS_MARGIN = 0.5


@torch.inference_mode()
def observe(model: LanguageModel, prompts: Sequence[TokenizedPrompt], sample: int = SAMPLE) -> dict[str, Any]:
    """Measure facts about the model on these prompts that are necessary to interpret each result.

    The loss is measured on the first tokens of the first ``sample`` prompts, as many as
    :data:`~icl_lens.network.memory.MAX_LOGITS` logits cover.

    Returns:
        A dictionary with these keys:

        - ``next_token_loss`` and ``uniform_loss``, in nats per token.
        - ``untrained``: True if the first loss is not clearly below the second, that is, if the model predicts these texts no
          better than a uniform distribution.
        - ``bos``: see :func:`_bos_facts`; None if the tokenizer has no BOS token.
        - ``unknown_tokens``: the fraction of unknown tokens in all prompts.
        - ``control_tokens``: control token -> number of prompts in which a text contains it, as plain text
          (:mod:`icl_lens.prompts.plain_text`).
    """
    excerpts, remaining = [], max(1, MAX_LOGITS // model.sizes.vocabulary)  # number of tokens left to measure
    for prompt in prompts[:sample]:
        if remaining > 0:
            excerpts.append(replace(prompt, ids=prompt.ids[: remaining + 1]))
            remaining -= len(excerpts[-1].ids) - 1
    losses = _token_losses(model, excerpts)
    loss = torch.cat(list(losses.values())).mean().item()
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
    control = Counter(token for p in prompts for token in dict.fromkeys(p.control))
    for token, number in sorted(control.items()):
        logger.warning(
            "the texts of %d of %d prompts contain the control token %s of the tokenizer of %s; it is tokenized as plain text",
            number,
            len(prompts),
            token,
            model.name,
        )
    return {
        "next_token_loss": loss,
        "uniform_loss": uniform,
        "untrained": untrained,
        "bos": _bos_facts(model, prompts, excerpts, losses),
        "unknown_tokens": unknown,
        "control_tokens": dict(sorted(control.items())),
    }


def repeated_queries(prompts: Sequence[TokenizedPrompt]) -> int:
    """Return the number of prompts in which the query is also a demonstration, and log a warning if there are any.

    Texts are equal if they have the same characters, apart from whitespace at both ends.
    """
    count = 0
    for prompt in prompts:
        demonstrations = {prompt.text[start:end].strip() for start, end in prompt.text_spans}
        count += prompt.text[slice(*prompt.query_span)].strip() in demonstrations
    if count:
        logger.warning("in %d of %d prompts, the query is also a demonstration", count, len(prompts))
    return count


def _token_losses(model: LanguageModel, prompts: Sequence[TokenizedPrompt]) -> dict[int, torch.Tensor]:
    """Return the loss of each token but the first of each prompt, in nats: index of the prompt -> shape (T - 1,).

    The longest prompt comes first.
    """
    losses = {}
    for batch in batches(model, prompts, budget=1):  # one prompt at a time, because the logits of all positions are large
        logits = model.network(**batch.inputs()).logits  # (1, T, V)
        losses[batch.index[0]] = torch.nn.functional.cross_entropy(
            logits[0, :-1].float(), batch.ids[0, 1:], reduction="none"
        )  # (T - 1,)
    return losses


def _bos_facts(
    model: LanguageModel,
    prompts: Sequence[TokenizedPrompt],
    excerpts: Sequence[TokenizedPrompt],
    losses: Mapping[int, torch.Tensor],
) -> dict[str, Any] | None:
    """Compare the loss with and without the BOS token at the beginning of the prompts.

    The excerpts are read a second time: without the BOS token if they begin with it, and with it otherwise. The two losses are
    means over the same tokens of the text: all but the first, and, if the BOS token is added, all but the last, because no
    excerpt gets longer.

    Args:
        model: The model.
        prompts: The prompts.
        excerpts: The beginnings of some of the prompts.
        losses: Losses of the tokens of these excerpts, see :func:`_token_losses`.

    Returns:
        A dictionary with the keys ``token``; ``prompts``, the number of prompts that begin with it; ``loss`` and
        ``other_loss``, the loss of the excerpts and of their other form, in nats per token (None if the excerpts have no two
        tokens of text); and ``costly``, whether the first is higher by more than :data:`BOS_MARGIN`. The result is None if the
        tokenizer has no BOS token.
    """
    bos = model.tokenizer.bos_token_id
    if bos is None or bos >= model.network.get_input_embeddings().num_embeddings:
        return None
    has_bos = [prompt.ids[0] == bos for prompt in excerpts]
    others = [
        replace(prompt, ids=prompt.ids[1:] if starts else np.concatenate([[bos], prompt.ids[:-1]]))
        for prompt, starts in zip(excerpts, has_bos, strict=True)
    ]
    long_enough = [index for index, prompt in enumerate(others) if len(prompt.ids) > (1 if has_bos[index] else 2)]
    number = sum(bool(prompt.ids[0] == bos) for prompt in prompts)
    facts = {"token": model.tokenizer.bos_token, "prompts": number, "loss": None, "other_loss": None, "costly": False}
    if not long_enough:
        return facts
    other_losses = _token_losses(model, [others[index] for index in long_enough])
    used, other = [], []
    for place, index in enumerate(long_enough):
        # In both forms, the second and later tokens of the text have a loss.
        used.append(losses[index][1:] if has_bos[index] else losses[index][:-1])
        other.append(other_losses[place] if has_bos[index] else other_losses[place][1:])
    loss, other_loss = torch.cat(used).mean().item(), torch.cat(other).mean().item()
    costly = not loss <= other_loss + BOS_MARGIN
    if costly:
        logger.warning(
            "model %s: %s the BOS token %s the loss is %.2f nats per token instead of %.2f; set bos: %s",
            model.name,
            "with" if number else "without",
            facts["token"],
            loss,
            other_loss,
            "no" if number else "yes",
        )
    return facts | {"loss": loss, "other_loss": other_loss, "costly": costly}
