"""Shared prefixes: the model reads the common prefix of several prompts once.

In a causal model the keys and values of a prefix do not depend on later tokens. Therefore the model reads the prefix once, and
then only the tails of the prompts. The queries of a tail attend to the cached keys and values and to those of the tail:

    for group in group_by_prefix(model, prompts):
        prefix = prefixes.read(model.network, group.ids)
        for batch in batches(model, prompts, budget, group.index, prefix):
            logits = last_logits(model, batch)

An intervention that is open while a prefix is read (blocked edges, scaled weights) affects its keys and values. Open the same
intervention for the tails.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from icl_lens.network import memory, model_cache, vocabulary
from icl_lens.network.forward_inputs import forward_inputs
from icl_lens.network.placement import device_of, logits_to_keep
from icl_lens.network.precision import exact_products
from icl_lens.prompts.positions import TokenizedPrompt


@dataclass(frozen=True)
class Group:
    """Prompts with a shared prefix.

    Attributes:
        index: Indices of the prompts in the list of prompts, ascending.
        ids: Token ids of the prefix, shape (P,). P is 0 for the group of all prompts without a shared prefix.
    """

    index: list[int]
    ids: np.ndarray


def groups(prompts: Sequence[TokenizedPrompt], min_size: int = 2) -> list[Group]:
    """Group the prompts by shared prefixes.

    Prompts are in the same group if their tokens, anchors and classes are equal up to the label word of the last demonstration.
    The prefix of a group is the longest common prefix of its prompts, at most all but the last token of the shortest prompt.

    Args:
        prompts: Any prompts.
        min_size: Minimum number of prompts in a group.

    Returns:
        The groups in the order of their first prompts, with each prompt in one group. The prompts without a shared prefix are
        in the last group, which has an empty prefix.
    """
    candidates: dict[tuple[bytes, ...], list[int]] = {}
    unshared = []
    for i, prompt in enumerate(prompts):
        if len(prompt.anchors):
            key = (prompt.ids[: prompt.anchors[-1] + 1].tobytes(), prompt.anchors.tobytes(), prompt.demo_labels.tobytes())
            candidates.setdefault(key, []).append(i)
        else:
            unshared.append(i)
    found = []
    for index in candidates.values():
        if len(index) >= min_size:
            found.append(Group(index, _common_prefix([prompts[i].ids for i in index])))
        else:
            unshared += index
    if unshared:
        found.append(Group(sorted(unshared), np.empty(0, dtype=np.int64)))
    return found


@dataclass(frozen=True)
class Prefix:
    """The keys and values of a prefix.

    Attributes:
        keys: Keys in each layer, shape (1, H_kv, P, d), or (B, H_kv, P, d) for a batch of several prefixes.
        values: Values in each layer, of the same shape as the keys.
        length: Number of tokens P.
        parent: The prefix that this one extends, if any. ``keys`` and ``values`` then contain only the tokens after it.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    length: int
    parent: Prefix | None = None

    def cache(self, rows: int, growing: bool = False) -> DynamicCache:
        """Return the ``past_key_values`` of a forward pass over the tails of ``rows`` prompts.

        The cache contains views, without copies. The exception is a prefix that extends another one: it is concatenated with
        the other prefix here. Unless ``growing`` is true, a forward pass does not change the cache, so the concatenated keys
        and values of a layer are freed when the layer is done. The cache has no config. Therefore a layer with a sliding window
        also keeps all keys, and its mask hides the keys outside the window.
        """
        cache = DynamicCache()
        for keys, values in self._all_keys_and_values():
            layer = _GrowingLayer() if growing else _FixedLayer()
            layer.set_prefix(keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1))  # (B, H_kv, P, d)
            cache.layers.append(layer)
        return cache

    def _all_keys_and_values(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the keys and values of all P tokens, layer by layer, shape (1, H_kv, P, d) each."""
        if self.parent is None:
            yield from zip(self.keys, self.values, strict=True)
            return
        for (parent_keys, parent_values), keys, values in zip(
            self.parent._all_keys_and_values(), self.keys, self.values, strict=True
        ):
            yield torch.cat([parent_keys, keys], dim=-2), torch.cat([parent_values, values], dim=-2)


def read(network: PreTrainedModel, ids: np.ndarray, parent: Prefix | None = None) -> Prefix | None:
    """Read a prefix in one forward pass, with the open attention contexts and without the vocabulary matrix.

    The forward pass stops as soon as the last layer has its keys and values. If an open
    :func:`icl_lens.network.layer_states.resume` skips layers, the keys and values of these layers are zeros, which use no
    memory.

    A prefix read inside ``torch.inference_mode`` can be used only in this mode. Gradients flow through a prefix if they are
    enabled and a tensor in an open context requires them.

    Args:
        network: A model for which :func:`is_shareable` is true.
        ids: Token ids, shape (P,). With ``parent``, the token ids after it.
        parent: A prefix that was already read and that this one extends. It is stored once for all prefixes that extend it.

    Returns:
        The keys and values of the prefix. For empty ``ids``, ``parent`` (None without ``parent``).
    """
    return read_each(network, [ids], parent)[0]


def read_each(
    network: PreTrainedModel, continuations: Sequence[np.ndarray], parent: Prefix | None = None, budget: int | None = None
) -> list[Prefix | None]:
    """Read several prefixes as in :func:`read`. They may all extend the same prefix.

    Args:
        network: A model for which :func:`is_shareable` is true.
        continuations: Token ids of each of the N prefixes.
        parent: The prefix that they all extend.
        budget: Tokens per forward pass (:meth:`icl_lens.network.memory.Sizes.max_rows`); by default, one pass reads all.

    Returns:
        The prefixes in the given order. For empty token ids, ``parent``.
    """
    found: list[Prefix | None] = [parent] * len(continuations)  # the result for empty continuations
    start = parent.length if parent else 0
    order = sorted((i for i, ids in enumerate(continuations) if len(ids)), key=lambda i: (-len(continuations[i]), i))
    sizes = None if budget is None else memory.sizes(network)
    while order:
        longest = len(continuations[order[0]])
        size = len(order) if sizes is None else sizes.max_rows(budget, longest, start, "states")
        selected, order = order[:size], order[size:]
        # Pad on the right, because a causal model does not attend to later positions.
        padded = np.stack([np.pad(continuations[i], (0, longest - len(continuations[i]))) for i in selected])  # (B, Q)
        tokens = torch.from_numpy(padded).to(device_of(network))
        cache = parent.cache(len(selected), growing=True) if parent else None
        positions = torch.arange(start, start + longest, device=tokens.device).expand(len(selected), -1)  # (B, Q)
        filled = fill(network, tokens, positions, cache)
        for row, i in enumerate(selected):
            end = start + len(continuations[i])
            keys, values = (tuple(_copy_range(x, row, start, end) for x in xs) for xs in filled)
            found[i] = Prefix(keys, values, end, parent)
    return found


def fill(
    network: PreTrainedModel, tokens: Tensor, positions: Tensor, cache: DynamicCache | None = None, mask: Tensor | None = None
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Read tokens, and return the keys and values of the cache and of these tokens, shape (B, H_kv, K, d) for each layer.

    Args:
        network: Any causal language model.
        tokens: Token ids, shape (B, Q).
        positions: Their positions, shape (B, Q).
        cache: The keys and values of earlier tokens, to which those of the tokens are appended (``Prefix.cache(rows,
            growing=True)``); None if there are none.
        mask: See :func:`icl_lens.network.forward_inputs.forward_inputs`.
    """
    cache = cache or _empty_cache(network)
    _stop_after(cache.layers[-1])
    with suppress(_CacheFilled):
        network(**forward_inputs(tokens, positions, cache, mask), logits_to_keep=logits_to_keep(network))
    keys, values = zip(*_keys_and_values(cache), strict=True)
    return keys, values


class _CacheFilled(Exception):  # noqa: N818 - not an error: it stops a forward pass once the last keys and values are stored
    pass


def _empty_cache(network: PreTrainedModel) -> DynamicCache:
    cache = DynamicCache()
    cache.layers = [DynamicLayer() for _ in range(network.config.get_text_config().num_hidden_layers)]
    return cache


def _stop_after(layer: DynamicLayer) -> None:
    """Make a forward pass stop when it has filled this layer of its cache."""
    update = layer.update

    def fill(*args: object, **kwargs: object) -> None:
        update(*args, **kwargs)
        raise _CacheFilled

    layer.update = fill


def _keys_and_values(cache: DynamicCache) -> Iterator[tuple[Tensor, Tensor]]:
    last = cache.layers[-1]
    for layer in cache.layers:
        if layer.is_initialized:
            yield layer.keys, layer.values
        else:  # skipped
            yield tuple(x.new_zeros(1).expand(x.shape) for x in (last.keys, last.values))


def discarding_cache(network: PreTrainedModel) -> DynamicCache:
    """Return an empty cache that stores nothing, for a forward pass without a prefix."""
    cache = DynamicCache()
    cache.layers = [_DiscardingLayer() for _ in range(network.config.get_text_config().num_hidden_layers)]
    return cache


def _copy_range(tensor: Tensor, row: int, start: int, end: int) -> Tensor:
    """Return a range of positions of one row, shape (1, H_kv, P, d), copied so that the rest can be freed."""
    complete = len(tensor) == 1 and not start and end == tensor.shape[-2]
    return tensor if complete else tensor[row : row + 1, :, start:end].clone()


def stack_prefixes(beginnings: Sequence[Prefix]) -> Prefix:
    """Combine several prefixes into a batch of B rows, padded on the left to the length of the longest prefix.

    With this padding, each prefix ends where its tail begins. This is necessary because a sliding window counts indices and not
    positions. The padding consists of zeros, and an attention mask must hide it.
    """
    longest = max(prefix.length for prefix in beginnings)
    padded = [
        [[nn.functional.pad(x, (0, 0, longest - prefix.length, 0)) for x in layer] for layer in prefix._all_keys_and_values()]
        for prefix in beginnings
    ]
    layers = [[torch.cat(parts) for parts in zip(*layer, strict=True)] for layer in zip(*padded, strict=True)]
    return Prefix(tuple(keys for keys, _ in layers), tuple(values for _, values in layers), longest)  # (B, H_kv, P, d) each


def align_right(cache: DynamicCache, lengths: Tensor) -> Tensor:
    """Move the padding of a cache from the right to the left, so that each row ends where its next token is appended.

    This is necessary for the same reason as in :func:`stack_prefixes`.

    Args:
        cache: Keys and values of B rows that are padded on the right to K positions, with a rotary embedding of the original
            positions. They are replaced.
        lengths: Number of tokens in each row, shape (B,).

    Returns:
        The mask of the moved rows, 1 for a token and 0 for padding, shape (B, K). Each later forward pass must receive it.
    """
    width = cache.get_seq_length()
    indices = torch.arange(width, device=lengths.device)  # (K,)
    padding = (width - lengths)[:, None]  # (B, 1)
    source = (indices - padding) % width  # (B, K)
    for layer in cache.layers:
        layer.keys, layer.values = (
            x.gather(2, source[:, None, :, None].to(x.device).expand(-1, x.shape[1], -1, x.shape[3]))
            for x in (layer.keys, layer.values)
        )  # (B, H_kv, K, d) each
    return (indices >= padding).long()


@exact_products()
@torch.no_grad()
@model_cache.cached_check
def is_shareable(network: PreTrainedModel) -> bool:
    """Return whether prompts of this model can share a prefix.

    The check runs a short input in each way that the studies use, with the same arguments
    (:mod:`icl_lens.network.forward_inputs`), and compares the logits of the tails: tails after one prefix, without a mask, and
    the last tokens of prompts of different lengths, after prefixes that are padded on the left and masked
    (:func:`icl_lens.models.batching.last_tokens`). A model with a state other than keys and values (a state-space model) cannot
    share a prefix.
    """
    prefix_length, length, shorter = 16, 24, 21
    ids = torch.arange(1, 1 + 2 * length, device=device_of(network)).view(2, length)  # (2, T)
    ids %= network.get_input_embeddings().num_embeddings
    ids[1, :prefix_length] = ids[0, :prefix_length]
    positions = torch.arange(length, device=ids.device).expand(2, -1)  # (2, T)
    lasts = torch.tensor([length - 1, shorter - 1], device=ids.device)  # (2,)
    rows = torch.arange(2, device=ids.device)  # (2,)
    mask = (positions >= (length - 1 - lasts)[:, None]).long()  # (2, T)

    def logits(*arguments: Any) -> Tensor:
        with vocabulary.restrict_tokens(network, ids.flatten()):  # 2 T tokens' logits, for speed
            return network(**forward_inputs(*arguments)).logits.float()  # (2, Q, 2 T)

    plain = logits(ids)  # (2, T, 2 T)
    try:
        prefix = read(network, ids[0, :prefix_length].cpu().numpy())
        tails = logits(ids[:, prefix_length:], positions[:, prefix_length:], prefix.cache(2))  # (2, T - P, 2 T)
        middles = [row[prefix_length:last].cpu().numpy() for row, last in zip(ids, lasts.tolist(), strict=True)]
        beginnings = stack_prefixes(read_each(network, middles, prefix))
        last = logits(ids[rows, lasts][:, None], lasts[:, None], beginnings.cache(2), mask)  # (2, 1, 2 T)
    except Exception:  # a model that does not support such a cache can raise any exception
        return False
    # In half precision the two computations round differently. A wrong position or a missing key changes the logits far more.
    tolerance = (1e-4 if network.dtype in (torch.float32, torch.float64) else 0.05) * plain.abs().max()
    differences = [(plain[:, prefix_length:] - tails).abs().max(), (plain[rows, lasts] - last[:, 0]).abs().max()]
    return all(bool(difference <= tolerance) for difference in differences)


class _GrowingLayer(DynamicLayer):
    """Keys and values of a prefix in one layer. Those of later tokens are appended."""

    def set_prefix(self, keys: Tensor, values: Tensor) -> None:
        self.lazy_initialization(keys, values)
        self.keys, self.values = keys, values


class _FixedLayer(_GrowingLayer):
    """Keys and values of a prefix in one layer. They never change: those of each tail are concatenated in a copy."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object) -> tuple[Tensor, Tensor]:
        # The prefix of a tool's cache is on one device, and the layers may be on several.
        keys, values = self.keys.to(key_states.device), self.values.to(value_states.device)  # (B, H_kv, P, d) each
        return torch.cat([keys, key_states], dim=-2), torch.cat([values, value_states], dim=-2)  # (B, H_kv, K, d)


class _DiscardingLayer(DynamicLayer):
    """One layer of a cache that stores nothing."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object) -> tuple[Tensor, Tensor]:
        return key_states, value_states


def _common_prefix(sequences: Iterable[np.ndarray]) -> np.ndarray:
    """Return the longest common prefix that leaves at least one token of each sequence."""
    sequences = list(sequences)
    shortest = min(len(ids) for ids in sequences) - 1
    first = sequences[0][:shortest]
    length = min(int(np.append(first != ids[:shortest], True).argmax()) for ids in sequences)
    return first[:length]
