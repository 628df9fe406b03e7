"""Next-token logits of a batch, over the whole vocabulary or over the label words only."""

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


def last_output(model: LanguageModel, batch: Batch, **arguments: Any) -> tuple[torch.Tensor, Any]:
    """Return the result of :func:`last_logits` and the output of the model. Do not use the logits in this output.

    Args:
        model: The model.
        batch: The prompts.
        arguments: Further arguments of the forward pass, which override those of the batch.
    """
    positions, index = torch.unique(batch.last - batch.start, return_inverse=True)  # (U,), (B,)
    single = len(index) * len(positions) * vocabulary.size(model.network) > _LOGITS
    rows = vocabulary.restrict_positions(model.network, index) if single else nullcontext()
    with rows:
        output = model.network(**{**batch.inputs(), **arguments}, logits_to_keep=logits_to_keep(model.network, positions))
    logits = output.logits[:, 0] if single else output.logits[torch.arange(len(index), device=index.device), index]  # (B, V)
    return at_least_float32(logits), output


def class_logits(model: LanguageModel, batch: Batch) -> torch.Tensor:
    """Return the logits of the label words at the last position, shape (B, C).

    Only the rows of the vocabulary matrix for these label words are used, if the matrix is a plain linear layer.
    """
    tokens, column = torch.unique(batch.label_ids, return_inverse=True)  # (M,), (B, C)
    with vocabulary.restrict_tokens(model.network, tokens) as restricted:
        return last_logits(model, batch).gather(1, column if restricted else batch.label_ids)
