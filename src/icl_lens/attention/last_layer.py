"""Compute only one position per prompt in the last layer, for a loss or logits that need no other position.

The layer runs twice. The first run covers all positions and stops as soon as the attention has their keys and values. The
second run covers one position per prompt.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, CacheLayerMixin

from icl_lens.attention.kernels import EDITS, ROWS, CustomAttention, Edit, ForwardStopped
from icl_lens.attention.masks import causal_mask
from icl_lens.attention.record import Rows
from icl_lens.network.layers import attention_modules, layer_of


class LastLayerState(ABC):
    """State that a last layer keeps between its two runs.

    Attributes:
        full_length: Whether the output of the layer has all positions, with zeros at those that are not computed.
        stops: Whether the layer stops as soon as its keys and values are known.
        last: In the second run, the keys and values, shape (B, H_kv, K, d) each, and the position per prompt, shape (B,).
    """

    full_length: bool
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
        network: A model for which :func:`icl_lens.models.last_row.last_row_mode` is not None.
        rows: Index of the position of each prompt among the queries of the forward pass, shape (B,). There must be at least two
            queries.
        cache: The ``past_key_values`` of the forward pass, with an entry for each layer.
        full_length: Whether the model returns all positions. The outputs at the other positions are then meaningless.
    """
    with computed_at(network, rows, _CachedState(cache.layers[-1], full_length)):
        yield


class _CachedState(LastLayerState):
    """State of a last layer that keeps its keys and values in its cache entry."""

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
        if len(edits) == 1 and isinstance(edits[0], CustomAttention):
            return False
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
    # The arguments after `self` and the hidden states. The class is asked, because a wrapper may hide the names.
    names = list(inspect.signature(type(layer).forward).parameters)[2:]

    def forward_rows(state: Tensor, *args: object, **kwargs: object) -> object:  # (B, T, D)
        if memory.needs_matrices(getattr(attention, EDITS, ())):
            output = original_forward(state, *args, **kwargs)
            if memory.full_length:
                return output
            states = output[0] if isinstance(output, tuple) else output  # (B, T, D)
            row = states[_index(rows, states.device)][:, None]  # (B, 1, D)
            return (row, *output[1:]) if isinstance(output, tuple) else row

        memory.stops = True
        try:
            original_forward(state, *args, **kwargs)
        except ForwardStopped as stopped:
            memory.last = stopped.key, stopped.value, rows.to(stopped.key.device)
        finally:
            memory.stops = False
        setattr(attention, ROWS, rows)
        add_mask = partial(add_causal_mask, memory.last[0].shape[-2], state.shape[1])
        handle = attention.register_forward_pre_hook(add_mask, with_kwargs=True, prepend=True)
        try:
            output = original_forward(
                state[_index(rows, state.device)][:, None],  # (B, 1, D)
                *(_select_rows(name, x, rows, state.shape[1]) for name, x in zip(names[: len(args)], args, strict=True)),
                **{name: _select_rows(name, x, rows, state.shape[1]) for name, x in kwargs.items()},
            )
        finally:
            handle.remove()
            delattr(attention, ROWS)
            memory.last = None
        row = output[0] if isinstance(output, tuple) else output  # (B, 1, D)
        if memory.full_length:
            empty = torch.zeros_like(state, device=row.device)  # (B, T, D)
            row = empty.index_put(_index(rows, row.device), row[:, 0])  # (B, T, D)
        return (row, *output[1:]) if isinstance(output, tuple) else row

    def add_causal_mask(keys: int, queries: int, module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        """Add a causal mask for the rows if the layer gets no mask: the kernel would mask nothing for a single query."""
        if kwargs.get("attention_mask") is not None:
            return None
        mask = causal_mask(queries, keys, rows.device)[0, :, rows]  # (1, B, K)
        return args, {**kwargs, "attention_mask": mask.view(len(rows), 1, 1, keys)}

    instance_forward = vars(layer).get("forward")  # a library that distributes layers over devices may have set it
    layer.forward = forward_rows
    try:
        yield
    finally:
        if instance_forward is None:
            del layer.forward  # restores the method of the class
        else:
            layer.forward = instance_forward


def _index(rows: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the index of one position per prompt in a tensor of shape (B, T, ...) on a device, shape (B,) each."""
    return torch.arange(len(rows), device=device), rows.to(device)


# Arguments of a layer with an entry per query, apart from the hidden states: name -> (number of axes, axis of the queries).
_QUERY_AXES = {
    "attention_mask": (4, 2),  # (B or 1, 1, T, K)
    "position_ids": (2, 1),  # (B or 1, T)
    "position_embeddings": (3, 1),  # (B or 1, T, d): cosines and sines
    "per_layer_input": (3, 1),  # (B or 1, T, d), Gemma 3n
}


def _select_rows(name: str, argument: object, rows: Tensor, length: int) -> object:
    """Select one position per prompt from an argument of a layer.

    The name determines the axis of the positions. Its length alone would not: the width of another argument may be equal.

    Args:
        name: Name of the argument in the layer's forward function.
        argument: The argument.
        rows: Index of the position of each prompt, shape (B,).
        length: Number of positions, T.

    Raises:
        TypeError: The argument contains a tensor, but its name is not known, or its shape is not that of its name. A check
            (:func:`icl_lens.models.last_row.last_row_mode`) finds such a layer before a study uses it.
    """
    if isinstance(argument, tuple | list):
        return type(argument)(_select_rows(name, element, rows, length) for element in argument)
    if isinstance(argument, dict) and any(isinstance(value, Tensor) for value in argument.values()):
        raise TypeError(f"layer argument {name!r} is a dictionary of tensors")
    if not isinstance(argument, Tensor):
        return argument
    axes, axis = _QUERY_AXES.get(name, (0, 0))
    if argument.ndim != axes or argument.shape[axis] != length or len(argument) not in (1, len(rows)):
        raise TypeError(f"layer argument {name!r} of shape {tuple(argument.shape)} has no known axis of {length} positions")
    prompts, rows = _index(rows, argument.device)  # (B,) each
    argument = argument.expand(len(rows), *argument.shape[1:])  # (B, ...)
    if axis == 2:
        return argument[prompts, :, rows][:, :, None]  # (B, 1, 1, K)
    return argument[prompts, rows][:, None]  # (B, 1) or (B, 1, d)
