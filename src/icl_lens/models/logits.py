"""Next-token logits of a batch, over the whole vocabulary or over the label words only, and the scores of the classes.

The score of a class is the logit of the first token of its label word, or the log-probability of the whole label word
(:mod:`icl_lens.prompts.label_words`). Both predict the class with the highest score, and the softmax of the scores is the
distribution over the label words. A study gets the scores of a batch in one of two ways:

    scores = class_logits(model, batch)                 # only the scores, (B, C)

    logits = predictive_logits(model, batch)            # (E, V), the first B at the last positions of the prompts
    scores = class_scores(batch, logits)                # (B, C)

The batch must be made with ``score=True``. Rows of the same prompt have the same scores. With first tokens, E is B.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch

from icl_lens.attention.last_layer import last_layer_at
from icl_lens.models import prefixes
from icl_lens.models.batching import Batch
from icl_lens.models.language_model import LanguageModel
from icl_lens.network import vocabulary
from icl_lens.network.placement import logits_to_keep
from icl_lens.network.precision import at_least_float32

# The last positions of the prompts in a batch may differ. Up to this number of logits, one product computes the logits of each
# prompt at all of these positions. Above it, only the logits at the prompt's own last position are computed.
_LOGITS = 2**25


def last_logits(model: LanguageModel, batch: Batch) -> torch.Tensor:
    """Return the next-token logits at the last position of each prompt, in at least float32, shape (B, V).

    The vocabulary matrix is applied only to these positions. If the model family allows it, the last layer also computes its
    queries and feed-forward part only at these positions.
    """
    rows = batch.last - batch.start  # (B,)
    if batch.ids.shape[1] == 1:
        return at_least_float32(model.network(**batch.inputs()).logits[:, 0])  # (B, V)
    mode = None if torch.is_grad_enabled() else model.last_row_mode
    if not mode:
        return last_output(model, batch)[0]
    inputs = batch.inputs()
    cache = inputs.get("past_key_values") or prefixes.discarding_cache(model.network)
    cache_arguments = {"past_key_values": cache, "use_cache": True}
    if mode == "rows_only":
        with last_layer_at(model.network, rows, cache):
            return at_least_float32(model.network(**{**inputs, **cache_arguments}).logits[:, 0])  # (B, V)
    with last_layer_at(model.network, rows, cache, full_length=True):
        return last_output(model, batch, **cache_arguments)[0]


def predictive_logits(model: LanguageModel, batch: Batch) -> torch.Tensor:
    """Return the next-token logits at all predicting positions, in at least float32, shape (E, V).

    The first B are those of :func:`last_logits`. The others, at the appended tokens of label words
    (:class:`icl_lens.models.batching.Appended`), exist only if classes are predicted by their whole label words.
    """
    if batch.appended is None or len(batch.appended.rows) == len(batch.index):
        return last_logits(model, batch)
    return predictive_output(model, batch)[0]


def predictive_output(model: LanguageModel, batch: Batch, **arguments: Any) -> tuple[torch.Tensor, Any]:
    """Return the result of :func:`predictive_logits` and the output of the model. Do not use the logits in this output.

    Args:
        model: The model.
        batch: The prompts.
        arguments: See :func:`last_output`.
    """
    if batch.appended is None:
        return last_output(model, batch, **arguments)
    rows = batch.appended.rows  # (E,)
    positions, index = torch.unique(batch.appended.positions - batch.start, return_inverse=True)  # (U,), (E,)
    restricted = vocabulary.size(model.network) > 0
    with vocabulary.restrict_positions(model.network, rows, index) if restricted else nullcontext():
        output = model.network(**{**batch.inputs(), **arguments}, logits_to_keep=logits_to_keep(model.network, positions))
    return at_least_float32(output.logits[:, 0] if restricted else output.logits[rows, index]), output  # (E, V)


def class_scores(batch: Batch, logits: torch.Tensor) -> torch.Tensor:
    """Return the scores of the classes, shape (B, C).

    Args:
        batch: A batch for scores.
        logits: The result of :func:`predictive_logits`, shape (E, V).
    """
    if batch.appended is None:
        if batch.whole_words:  # a bug in the caller
            raise ValueError("the batch has no appended label words; make it with score=True")
        return logits.gather(1, batch.label_ids)
    appended = batch.appended
    normaliser = logits.logsumexp(-1)  # (E,)
    values = logits[appended.entries, appended.tokens] - normaliser[appended.entries]  # (M,): log p of each token
    return torch.cat([values, values.new_zeros(1)])[appended.terms].sum(-1)  # (B, C)


def last_output(model: LanguageModel, batch: Batch, **arguments: Any) -> tuple[torch.Tensor, Any]:
    """Return the result of :func:`last_logits` and the output of the model. Do not use the logits in this output.

    Args:
        model: The model.
        batch: The prompts.
        arguments: Further arguments of the forward pass, which override those of the batch.
    """
    positions, index = torch.unique(batch.last - batch.start, return_inverse=True)  # (U,), (B,)
    single = len(index) * len(positions) * vocabulary.size(model.network) > _LOGITS
    every_row = torch.arange(len(index), device=index.device)  # (B,)
    rows = vocabulary.restrict_positions(model.network, every_row, index) if single else nullcontext()
    with rows:
        output = model.network(**{**batch.inputs(), **arguments}, logits_to_keep=logits_to_keep(model.network, positions))
    logits = output.logits[:, 0] if single else output.logits[torch.arange(len(index), device=index.device), index]  # (B, V)
    return at_least_float32(logits), output


def class_logits(model: LanguageModel, batch: Batch) -> torch.Tensor:
    """Return the scores of the classes, shape (B, C)."""
    if batch.whole_words:
        return class_scores(batch, predictive_logits(model, batch))
    return first_token_logits(model, batch)


def first_token_logits(model: LanguageModel, batch: Batch) -> torch.Tensor:
    """Return the logits of the first tokens of the label words at the last position, shape (B, C).

    Only the rows of the vocabulary matrix for these tokens are used, if the matrix is a plain linear layer.
    """
    tokens, column = torch.unique(batch.label_ids, return_inverse=True)  # (M,), (B, C)
    with vocabulary.restrict_tokens(model.network, tokens) as restricted:
        return last_logits(model, batch).gather(1, column if restricted else batch.label_ids)
