"""Check of how a model's last layer can compute only the rows whose logits are needed."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Literal, get_args

import torch
from torch import Tensor
from transformers import PreTrainedModel

from icl_lens.attention.block import block
from icl_lens.attention.last_layer import last_layer_at
from icl_lens.errors import InputError
from icl_lens.models import prefixes
from icl_lens.network import model_cache, vocabulary
from icl_lens.network.forward_inputs import forward_inputs
from icl_lens.network.layers import attention_modules
from icl_lens.network.placement import device_of
from icl_lens.network.precision import exact_products

LastRowMode = Literal["rows_only", "in_place"]


@exact_products()
@torch.no_grad()
@model_cache.cached_check
def last_row_mode(network: PreTrainedModel) -> LastRowMode | None:
    """Return how the last layer of a model can compute only one row per prompt (see
    :func:`~icl_lens.attention.last_layer.last_layer_at`).

    The check runs short inputs in each way, with the arguments and caches that studies use, and compares the logits. The inputs
    are whole prompts and, of another length, tails after a shared prefix.

    Returns:
        ``rows_only`` if the model can return only these rows, ``in_place`` if its output must keep its length, and None if the
        last layer needs all rows.
    """
    length, prefix_length = 8, 3
    ids = torch.arange(1, 1 + 2 * length, device=device_of(network)).view(2, length)  # (2, T)
    ids %= network.get_input_embeddings().num_embeddings
    ids[1, :prefix_length] = ids[0, :prefix_length]
    positions = torch.arange(length, device=ids.device).expand(2, -1)  # (2, T)
    rows, prompts = torch.tensor([5, 7], device=ids.device), torch.arange(2, device=ids.device)  # (2,) each
    try:
        layers = len(attention_modules(network))
    except InputError:  # such a model can make predictions, but studies cannot access its attention
        return None
    edges = torch.zeros(2, length, length, dtype=torch.bool, device=ids.device)  # (2, T, T)
    edges[:, 4, :3] = edges[:, 5, 2] = True

    def logits(blocked: bool, prefix: prefixes.Prefix | None, mode: LastRowMode | None) -> Tensor:
        cache = prefix.cache(2) if prefix else prefixes.discarding_cache(network)
        start = prefix.length if prefix else 0
        with ExitStack() as stack:
            stack.enter_context(vocabulary.restrict_tokens(network, ids.flatten()))
            if blocked:
                stack.enter_context(block(network, dict.fromkeys(range(layers), edges[:, start:])))
            if mode:
                stack.enter_context(last_layer_at(network, rows - start, cache, mode == "in_place"))
            found = network(**forward_inputs(ids[:, start:], positions[:, start:], cache)).logits.float()  # (2, 1 or Q, 16)
        return found[:, 0] if mode == "rows_only" else found[prompts, rows - start]  # (2, 16)

    tolerance = 1e-4 if network.dtype in (torch.float32, torch.float64) else 0.05  # see prefixes.is_shareable
    try:
        inputs = [
            (blocked, prefix)
            for prefix in (None, prefixes.read(network, ids[0, :prefix_length].cpu().numpy()))
            for blocked in (False, True)
        ]
        plain = [logits(*each, None) for each in inputs]
    except Exception:  # a model that does not support such a cache can raise any exception
        return None
    for mode in get_args(LastRowMode):
        try:
            found = [logits(*each, mode) for each in inputs]
        except Exception:  # layers with other arguments that depend on all positions can raise any exception
            continue
        if all((a - b).abs().max() <= tolerance * a.abs().max() for a, b in zip(plain, found, strict=True)):
            return mode
    return None
