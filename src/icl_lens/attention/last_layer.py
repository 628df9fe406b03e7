"""Compute only one position per prompt in the last layer, for a loss or logits that need no other position.

The layer runs twice. The first run covers all positions and stops as soon as the attention has their keys and values. The
second run covers one position per prompt.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicLayer

from icl_lens.attention.block import block
from icl_lens.attention.kernels import EDITS, ROWS, Edit, ForwardStopped
from icl_lens.attention.record import Rows
from icl_lens.errors import InputError
from icl_lens.network import model_cache, vocabulary
from icl_lens.network.layers import attention_modules, layer_of
from icl_lens.network.precision import exact_products


class LastLayerState(ABC):
    """State that a last layer keeps between its two runs.

    Attributes:
        full_length: Whether the output of the layer has all positions, with zeros at those that are not computed.
        masked: Whether the attention of the layer always gets a mask.
        stops: Whether the layer stops as soon as its keys and values are known.
        last: In the second run, the keys and values, shape (B, H_kv, K, d) each, and the position per prompt, shape (B,).
    """

    full_length: bool
    masked: bool
    stops = False
    last: tuple[Tensor, Tensor, Tensor] | None = None

    @abstractmethod
    def needs_matrices(self, edits: Sequence[Edit]) -> bool:
        """Return whether an open edit needs all rows of the attention weights."""


@contextmanager
def last_layer_at(network: PreTrainedModel, rows: Tensor, cache: Cache, full_length: bool = False) -> Iterator[None]:
    """Compute one position per prompt in the last layer, and make the model return only this position.

    The logits then have shape (B, 1, V). If an open context needs the attention matrices of all rows, the last layer computes
    all rows, and the model still returns one position. Edges that :func:`icl_lens.attention.block.block` blocks are also
    blocked here.

    Args:
        network: A model for which :func:`last_row_mode` is not None.
        rows: Index of the position of each prompt among the queries of the forward pass, shape (B,). There must be at least two
            queries.
        cache: The ``past_key_values`` of the forward pass, with an entry for each layer.
        full_length: Whether the model returns all positions. The outputs at the other positions are then meaningless.
    """
    with computed_at(network, rows, _CachedState(cache.layers[-1], full_length)):
        yield


class _CachedState(LastLayerState):
    """State of a last layer that keeps its keys and values in its cache entry."""

    masked = False

    def __init__(self, entry: CacheLayerMixin, full_length: bool) -> None:
        self.full_length = full_length
        update = entry.update

        def update_once(key: Tensor, value: Tensor, *args: object, **kwargs: object) -> tuple[Tensor, Tensor]:
            if self.last:
                return self.last[:2]
            key, value = update(key, value, *args, **kwargs)  # (B, H_kv, K, d) each
            if self.stops:
                raise ForwardStopped(None, key, value)
            return key, value

        entry.update = update_once

    def needs_matrices(self, edits: Sequence[Edit]) -> bool:
        return any(not isinstance(edit, Rows) for edit in edits)


@contextmanager
def computed_at(network: PreTrainedModel, rows: Tensor, memory: LastLayerState) -> Iterator[None]:
    """Compute one position per prompt in the last layer.

    The output of the layer has only these positions, shape (B, 1, D). If ``memory.full_length`` is true, it has all positions,
    with zeros at those that are not computed.

    Args:
        network: A model with a last layer that supports this.
        rows: Index of the position of each prompt among the queries, shape (B,).
        memory: State that keeps the keys and values of the last layer.
    """
    attention = attention_modules(network)[-1]
    layer = layer_of(network, attention)
    original_forward = layer.forward

    def forward_rows(state: Tensor, *args: object, **kwargs: object) -> object:  # (B, T, D)
        length, prompts = state.shape[1], torch.arange(len(rows), device=rows.device)  # (B,)
        if memory.needs_matrices(getattr(attention, EDITS, ())):
            output = original_forward(state, *args, **kwargs)
            if memory.full_length:
                return output
            states = output[0] if isinstance(output, tuple) else output  # (B, T, D)
            row = states[prompts, rows][:, None]  # (B, 1, D)
            return (row, *output[1:]) if isinstance(output, tuple) else row

        def select_rows(argument: object) -> object:
            """Select the rows from another argument of the layer (a mask, positions, or their cosines and sines)."""
            if isinstance(argument, tuple | list):
                return type(argument)(select_rows(element) for element in argument)
            if not isinstance(argument, Tensor) or argument.ndim < 2:
                return argument
            if argument.ndim == 4 and argument.shape[-2] == length:  # (B or 1, 1, T, K)
                return argument.expand(len(rows), -1, -1, -1)[prompts, :, rows, None]  # (B, 1, 1, K)
            if argument.ndim < 4 and argument.shape[1] == length:  # (B or 1, T) or (B or 1, T, d)
                return argument.expand(len(rows), *argument.shape[1:])[prompts, rows][:, None]  # (B, 1) or (B, 1, d)
            return argument

        memory.stops = True
        try:
            original_forward(state, *args, **kwargs)
        except ForwardStopped as stopped:
            memory.last = stopped.key, stopped.value, rows
        finally:
            memory.stops = False
        setattr(attention, ROWS, rows)
        handle = attention.register_forward_pre_hook(add_causal_mask, with_kwargs=True, prepend=True)
        try:
            output = original_forward(
                state[prompts, rows][:, None], *map(select_rows, args), **{n: select_rows(x) for n, x in kwargs.items()}
            )
        finally:
            handle.remove()
            delattr(attention, ROWS)
            memory.last = None
        row = output[0] if isinstance(output, tuple) else output  # (B, 1, D)
        if memory.full_length:
            row = torch.zeros_like(state).index_put((prompts, rows), row[:, 0])  # (B, T, D)
        return (row, *output[1:]) if isinstance(output, tuple) else row

    def add_causal_mask(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        """Add a causal mask for the rows if the layer gets no mask: the kernel would mask nothing for a single query."""
        if memory.masked or memory.last is None or kwargs.get("attention_mask") is not None:
            return None
        keys = torch.arange(memory.last[0].shape[-2], device=rows.device)  # (K,)
        return args, {**kwargs, "attention_mask": (keys <= rows[:, None])[:, None, None]}  # (B, 1, 1, K)

    instance_forward = vars(layer).get("forward")  # a library that distributes layers over devices may have set it
    layer.forward = forward_rows
    try:
        yield
    finally:
        if instance_forward is None:
            del layer.forward  # restores the method of the class
        else:
            layer.forward = instance_forward


LastRowMode = Literal["rows_only", "in_place"]


@exact_products()
@torch.no_grad()
@model_cache.cached_check
def last_row_mode(network: PreTrainedModel) -> LastRowMode | None:
    """Return how the last layer of a model can compute only one row per prompt (see :func:`last_layer_at`).

    The check runs a short input in each way and compares the logits.

    Returns:
        ``rows_only`` if the model can return only these rows, ``in_place`` if its output must keep its length, and None if the
        last layer needs all rows.
    """
    ids = torch.arange(1, 17, device=network.device).view(2, 8) % network.get_input_embeddings().num_embeddings  # (2, T)
    rows = torch.tensor([5, 7], device=network.device)
    prompts = torch.arange(2, device=network.device)
    try:
        layers = len(attention_modules(network))
    except InputError:  # such a model can make predictions, but studies cannot access its attention
        return None
    edges = torch.zeros(2, 8, 8, dtype=torch.bool, device=network.device)  # (2, Q, K)
    edges[:, 3, :3] = edges[:, 5, 2] = True

    def logits(blocked: bool, mode: LastRowMode | None) -> Tensor:
        cache = DynamicCache()
        cache.layers = [DynamicLayer() for _ in range(layers)]
        with ExitStack() as stack:
            stack.enter_context(vocabulary.restrict_tokens(network, ids.flatten()))
            if blocked:
                stack.enter_context(block(network, dict.fromkeys(range(layers), edges)))
            if mode:
                stack.enter_context(last_layer_at(network, rows, cache, mode == "in_place"))
            found = network(input_ids=ids, past_key_values=cache, use_cache=True).logits.float()  # (2, 1 or T, 16)
        return found[:, 0] if mode == "rows_only" else found[prompts, rows]  # (2, 16)

    tolerance = 1e-4 if network.dtype in (torch.float32, torch.float64) else 0.05  # see prefixes.is_shareable
    plain = [logits(blocked, None) for blocked in (False, True)]
    for mode in get_args(LastRowMode):
        try:
            found = [logits(blocked, mode) for blocked in (False, True)]
        except Exception:  # layers with other arguments that depend on all positions can raise any exception
            continue
        if all((a - b).abs().max() <= tolerance * a.abs().max() for a, b in zip(plain, found, strict=True)):
            return mode
    return None
