"""Interventions of one's own: block or scale attention edges, record attention weights, and read the answers.

The context managers change a model only inside the ``with`` block, and can be nested. All forward passes inside are affected,
also those that call the model of transformers directly:

    positions = prompt.positions(model)
    with icl_lens.block(model, queries=positions.label_words, keys=range(positions.last), layers=range(3)):
        answer = icl_lens.run(model, prompt)

Positions count from 0 and include the BOS token if there is one. In a batch, ``queries`` and ``keys`` can be one collection of
positions for all prompts, or one collection per prompt. An edge goes from a key to a query, which is the same or a later
position. Studies cannot run inside the context managers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import wraps
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from icl_lens.api import tables
from icl_lens.api.model import Model
from icl_lens.api.positions import Positions, positions_of
from icl_lens.api.prompt import Prompt
from icl_lens.attention.block import block as block_edges
from icl_lens.attention.kernels import edited
from icl_lens.attention.opened import is_open, opened
from icl_lens.attention.record import record as record_weights
from icl_lens.attention.supported import require_supported
from icl_lens.errors import InputError
from icl_lens.models.batching import one_batch
from icl_lens.models.logits import class_scores, predictive_output
from icl_lens.models.tokenizing import tokenize_table
from icl_lens.network import precision
from icl_lens.network.layers import replaced_forwards
from icl_lens.prompts.positions import TokenizedPrompt
from icl_lens.prompts.schema import PROMPTS
from icl_lens.short_repr import short_repr

Chosen = int | Iterable[int] | Iterable[Iterable[int]] | None
"""Positions: one, several, several for each prompt of a batch, or None for all."""

Indices = int | Iterable[int] | None
"""Indices of layers or heads: one, several, or None for all."""


class _Rows(NamedTuple):
    """Rows of the forward pass of :func:`run`.

    Attributes:
        lengths: Number of tokens of the prompt of each row, without padding and without appended tokens of label words.
        prompts: Number of the prompt of each row.
    """

    lengths: tuple[int, ...]
    prompts: tuple[int, ...]


_ROWS: ContextVar[_Rows | None] = ContextVar("rows", default=None)


@contextmanager
def block(model: Model, queries: Chosen, keys: Chosen, layers: Indices = None) -> Iterator[None]:
    """Block attention edges before the softmax, in all heads: the queries cannot attend to the keys inside this context.

    The other weights of a query are renormalised and sum to 1. A query always attends to itself, so only keys before it are
    blocked.

    Args:
        model: The model.
        queries: Positions that cannot attend to the keys; None for all.
        keys: Positions that they cannot attend to; None for all earlier positions.
        layers: Layers, from 0; None for all.

    Raises:
        InputError: A layer does not exist, a position is invalid, no key is before a query, or the model's attention cannot be
            edited. In a forward pass: a position is not in a prompt, or the number of prompts does not match.
    """
    _require_model("block", model)
    network = model.language_model.network
    edges = _Edges("block", queries, keys)
    chosen = _indices("block", "layer", layers, model.language_model.layers)
    edges.require_earlier_key()

    def replace(forward: Callable) -> Callable:
        @wraps(forward)
        def blocked(*args: Any, **kwargs: Any) -> Any:
            tokens = next(t for t in (*args[:1], kwargs.get("input_ids"), kwargs.get("inputs_embeds")) if t is not None)
            cache = kwargs.get("past_key_values")
            earlier = 0 if cache is None else int(cache.get_seq_length())
            batch, length = tokens.shape[:2]
            mask = edges.mask(batch, length, earlier + length, tokens.device).tril(earlier - 1)  # (B, Q, K)
            with block_edges(network, dict.fromkeys(chosen, mask)):
                return forward(*args, **kwargs)

        return blocked

    with _opened(model, "block"), replaced_forwards([network], replace):
        yield


@contextmanager
def scale(
    model: Model, factor: float, layers: Indices = None, heads: Indices = None, queries: Chosen = None, keys: Chosen = None
) -> Iterator[None]:
    """Multiply attention weights by a factor after the softmax, without renormalisation, inside this context.

    A factor of 0 for all keys removes the output of a head.

    Args:
        model: The model.
        factor: The factor.
        layers: Layers, from 0; None for all.
        heads: Heads of these layers, from 0; None for all.
        queries: Positions whose weights are scaled; None for all.
        keys: Positions to which the scaled weights belong; None for all.

    Raises:
        InputError: The factor is not a finite number, a layer or head does not exist, a position is invalid, or the model's
            attention cannot be edited. In a forward pass: a position is not in a prompt, or the number of prompts does not
            match.
    """
    _require_model("scale", model)
    if isinstance(factor, bool) or not isinstance(factor, int | float | np.number) or not math.isfinite(factor):
        raise InputError(f"scale: factor must be a finite number, got {short_repr(factor)}")
    edges = _Edges("scale", queries, keys)
    chosen = set(_indices("scale", "layer", layers, model.language_model.layers))
    count = model.language_model.network.config.get_text_config().num_attention_heads
    of_heads = _indices("scale", "head", heads, count)

    def multiply(layer: int, weights: Tensor) -> Tensor:  # (B, H, Q, K)
        if layer not in chosen:
            return weights
        mask = edges.mask(weights.shape[0], *weights.shape[-2:], weights.device)  # (B, Q, K)
        factors = torch.ones_like(weights)
        factors[:, of_heads] = torch.where(mask[:, None], float(factor), 1.0).to(weights)  # (B, 1, Q, K)
        return weights * factors

    with _opened(model, "scale"), edited(model.language_model.network, multiply):
        yield


@contextmanager
def record(model: Model) -> Iterator[dict[int, Tensor]]:
    """Record the attention weights of the last forward pass inside this context.

    The weights include the edits of :func:`block`, and of :func:`scale` contexts outside this one.

    Args:
        model: The model.

    Yields:
        Layer (from 0) -> weights of shape (B, H, T, T): for each of B prompts and H heads, how much each of T positions (third
        dimension) attends to each position (last dimension). It is empty before the first forward pass.

    Raises:
        InputError: The model's attention cannot be read.
    """
    _require_model("record", model)
    with _opened(model, "record"), record_weights(model.language_model.network) as weights:
        yield weights


@dataclass(frozen=True, repr=False)
class Answer:
    """Answer of a model to a prompt.

    Attributes:
        log_probs: Label word -> log-probability among the label words (log-softmax over their scores, see
            ``Model.label_score``).
        top_tokens: The most probable next tokens of the whole vocabulary with their log-probabilities, most probable first.
        gold: Label word of the query; None if it is unknown.
        positions: Positions of the parts of the prompt.
    """

    log_probs: dict[str, float]
    top_tokens: tuple[tuple[str, float], ...]
    gold: str | None
    positions: Positions

    @property
    def prediction(self) -> str:
        """The label word with the highest probability."""
        return max(self.log_probs, key=self.log_probs.__getitem__)

    @property
    def probabilities(self) -> dict[str, float]:
        """Label word -> probability among the label words."""
        return {word: math.exp(value) for word, value in self.log_probs.items()}

    @property
    def correct(self) -> bool | None:
        """Whether the prediction is the gold label; None if this is unknown."""
        return None if self.gold is None else self.prediction == self.gold

    def __repr__(self) -> str:
        shown = ", ".join(f"{word} {value:.3f}" for word, value in self.probabilities.items())
        gold = "" if self.gold is None else f", gold {self.gold}"
        return f"Answer({self.prediction}: {shown}{gold})"


def run(model: Model, prompts: Prompt | Sequence[Prompt] | Any, top: int = 10) -> Answer | list[Answer]:
    """Run one forward pass and read the answers, inside or outside the context managers of this module.

    All prompts are one batch, padded on the right, in the given order. A batch of long prompts can exceed the memory. With
    ``label_score="whole"``, tokens of label words are appended to each prompt. They are also queries if ``queries`` is None.

    Args:
        model: The model.
        prompts: A prompt, a list of prompts with the same number of classes, a prompts table, or the path of one.
        top: Number of most probable tokens to return.

    Returns:
        The answer, or a list of answers if ``prompts`` is not a single prompt.

    Raises:
        InputError: The prompts are invalid, are longer than the context of the model, or have different numbers of classes; or
            ``top`` is not a positive number.
    """
    if isinstance(top, bool) or not isinstance(top, int) or top < 1:
        raise InputError(f"run: top must be a positive number of tokens, got {short_repr(top)}")
    _require_model("run", model)
    language_model = model.language_model
    table = tables.read("prompts", prompts, PROMPTS)
    gold = [None if pd.isna(label) else int(label) for label in table["gold"]]
    found = _tokenized(model, table)
    _require_one_batch(model, found)
    with model.evaluation(), torch.no_grad(), precision.products(model.matmul, language_model.device):
        batch = one_batch(language_model, found, score=True)
        rows = batch.first_rows
        token = _ROWS.set(_Rows(tuple(len(found[i].ids) for i in batch.index), tuple(batch.index)))
        try:
            logits = predictive_output(language_model, batch)[0]  # (E, V)
        finally:
            _ROWS.reset(token)
        log_probs = class_scores(batch, logits)[rows].cpu().double().log_softmax(-1).tolist()  # (N, C)
        best = logits[rows].log_softmax(-1).topk(min(top, logits.shape[-1]), dim=-1)  # (N, top) each
        best_ids, best_values = best.indices.tolist(), best.values.tolist()
    answers = []
    for number, (prompt, label_words) in enumerate(zip(found, table["label_words"], strict=True)):
        words = [word.strip() for word in label_words]
        decoded = [language_model.tokenizer.decode([i]) for i in best_ids[number]]
        answers.append(
            Answer(
                dict(zip(words, log_probs[number], strict=True)),
                tuple(zip(decoded, best_values[number], strict=True)),
                None if gold[number] is None else words[gold[number]],
                positions_of(prompt, language_model.tokenizer),
            )
        )
    return answers[0] if isinstance(prompts, Prompt) else answers


def positions(model: Model, prompt: Prompt) -> Positions:
    """Return the token positions of the parts of a prompt, as the model reads it.

    Args:
        model: The model, whose tokenizer, ``bos`` and ``chat`` determine the tokens.
        prompt: The prompt.

    Raises:
        InputError: The prompt cannot be tokenized, see :func:`icl_lens.prompts.positions.tokenize`.
    """
    _require_model("positions", model)
    table = tables.read("prompt", prompt, PROMPTS)
    (found,) = _tokenized(model, table)
    return positions_of(found, model.language_model.tokenizer)


def _tokenized(model: Model, table: pd.DataFrame) -> list[TokenizedPrompt]:
    """Tokenize a prompts table, in which gold labels can be missing."""
    table = table.assign(gold=table["gold"].fillna(0).astype("int64"))
    return tokenize_table(table, model.language_model.tokenizer, model.options)


def _require_model(name: str, model: Any) -> None:
    if not isinstance(model, Model):
        raise InputError(f"{name}: model must be the result of icl_lens.load or icl_lens.wrap, got {short_repr(model)}")


def _require_one_batch(model: Model, prompts: Sequence[TokenizedPrompt]) -> None:
    """Check that prompts fit the context of the model and can be one batch."""
    context = model.language_model.context
    longest = max(prompts, key=lambda prompt: len(prompt.ids) + prompt.appended)
    tokens = len(longest.ids) + longest.appended
    if context is not None and tokens > context:
        raise InputError(
            f"run: prompt {longest.prompt_id} has {tokens} tokens, but the context of {model.name} is {context} "
            "tokens; shorten the prompt"
        )
    classes = sorted({len(prompt.label_ids) for prompt in prompts})
    if len(classes) > 1:
        raise InputError(
            f"run: the prompts have {classes[0]} to {classes[-1]} classes, but one batch needs the same number; run them in "
            "groups"
        )


@contextmanager
def _opened(model: Model, name: str) -> Iterator[None]:
    """Check that the model's attention can be edited, and mark the intervention as open."""
    network = model.language_model.network
    if not is_open(network):  # the check runs the model, which an open intervention would change
        with model.evaluation():
            require_supported(network)
    with opened(network, name):
        yield


def _indices(name: str, kind: str, given: Indices, count: int) -> list[int]:
    """Return the indices of layers or heads.

    Raises:
        InputError: One of them does not exist.
    """
    if given is None:
        return list(range(count))
    listed = _listed(given)
    if not listed or not all(_is_index(each) for each in listed):
        raise InputError(f"{name}: {kind}s must be one or more numbers from 0 to {count - 1}, got {short_repr(given)}")
    wrong = [each for each in listed if not 0 <= each < count]
    if wrong:
        raise InputError(f"{name}: {kind} {wrong[0]} does not exist; the model has {kind}s 0 to {count - 1}")
    return sorted({int(each) for each in listed})


def _listed(given: Any) -> list[Any]:
    """Return a collection as a list, and a single value as a list of it."""
    if hasattr(given, "tolist"):  # an array or a tensor
        given = given.tolist()
    return list(given) if isinstance(given, Iterable) and not isinstance(given, str | dict) else [given]


def _is_index(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


class _Edges:
    """Edges from keys to queries of a forward pass, given by positions.

    Args:
        name: Name of the context manager, for error messages.
        queries: Positions of the queries.
        keys: Positions of the keys.
    """

    def __init__(self, name: str, queries: Chosen, keys: Chosen) -> None:
        self.name = name
        self.positions = {"queries": self._positions("queries", queries), "keys": self._positions("keys", keys)}
        self._masks: tuple[Any, Tensor] | None = None

    def _positions(self, argument: str, given: Chosen) -> list[int] | list[list[int]] | None:
        """Return positions of all prompts, or a list of positions for each prompt."""
        if given is None:
            return None
        listed = [_listed(each) if isinstance(each, Iterable) else each for each in _listed(given)]
        nested = [isinstance(each, list) for each in listed]
        flat = [position for each in listed for position in (each if isinstance(each, list) else [each])]
        if not flat or not all(_is_index(each) for each in flat) or (any(nested) and not all(nested)):
            raise InputError(
                f"{self.name}: {argument} must be positions such as [3, 9], or a list of positions for each prompt, got "
                f"{short_repr(given)}"
            )
        if min(flat) < 0:
            raise InputError(f"{self.name}: {argument}: position {min(flat)} does not exist; positions count from 0")
        return listed

    def require_earlier_key(self) -> None:
        """Require that a key is before a query.

        Raises:
            InputError: No key is.
        """
        queries, keys = self.positions["queries"], self.positions["keys"]
        for number in range(min((len(each) for each in (queries, keys) if _is_nested(each)), default=1)):
            of_queries, of_keys = (_of_prompt(each, number) for each in (queries, keys))
            latest = math.inf if of_queries is None else max(of_queries, default=-1)
            earliest = 0 if of_keys is None else min(of_keys, default=math.inf)
            if earliest < latest:
                return
        raise InputError(
            f"{self.name}: no key is before a query (queries {short_repr(queries)}, keys {short_repr(keys)}), and a position "
            "attends only to earlier positions; check the order of queries and keys"
        )

    def mask(self, batch: int, queries: int, keys: int, device: torch.device) -> Tensor:
        """Return which entries of an attention matrix are edges, shape (B, Q, K). The queries are the last Q of K positions.

        Raises:
            InputError: A position is not in a prompt, or the number of prompts does not match.
        """
        rows = _ROWS.get() or _Rows((keys,) * batch, tuple(range(batch)))
        shape = (batch, queries, keys, device, rows)
        if self._masks is None or self._masks[0] != shape:
            of_queries, of_keys = (self._chosen(argument, keys, rows) for argument in ("queries", "keys"))  # (B, K)
            mask = of_queries[:, keys - queries :, None] & of_keys[:, None]  # (B, Q, K)
            self._masks = shape, mask.to(device)
        return self._masks[1]

    def _chosen(self, argument: str, width: int, rows: _Rows) -> Tensor:
        """Return which positions are chosen in each row, shape (B, K)."""
        given, batch = self.positions[argument], len(rows.prompts)
        if given is None:
            return torch.ones(batch, width, dtype=torch.bool)
        prompts = len(set(rows.prompts))
        if _is_nested(given) and len(given) != prompts:
            raise InputError(
                f"{self.name}: {argument} has positions of {len(given)} prompts, but the forward pass has {prompts}; pass one "
                "list of positions per prompt"
            )
        chosen = torch.zeros(batch, width, dtype=torch.bool)
        for row, (length, number) in enumerate(zip(*rows, strict=True)):
            positions = _of_prompt(given, number)
            beyond = [position for position in positions if position >= length]
            if beyond:
                prompt = f"prompt {number}" if prompts > 1 else "the prompt"
                raise InputError(
                    f"{self.name}: {argument}: position {beyond[0]} does not exist; {prompt} has positions 0 to {length - 1}"
                )
            chosen[row, positions] = True
        return chosen


def _is_nested(given: list | None) -> bool:
    return bool(given) and isinstance(given[0], list)


def _of_prompt(given: list | None, number: int) -> list[int] | None:
    """Return the positions of one prompt; None for all."""
    return given[number] if _is_nested(given) else given
