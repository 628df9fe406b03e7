"""Cached results of checks of a network that several processes share.

A process that loads a model for others (:mod:`icl_lens.cli.model_server`) runs the checks before it forks, so that its forks
reuse the results. Otherwise a check runs on each call, because a caller may change a network between two calls.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from torch import nn

T = TypeVar("T")

_RESULTS: WeakKeyDictionary[nn.Module, dict[str, Any]] = WeakKeyDictionary()


def remember(network: nn.Module) -> None:
    """Cache the results of checks of this network from now on."""
    _RESULTS[network] = {}


def cached_check(check: Callable[[Any], T]) -> Callable[[Any], T]:
    """Decorator for a check that takes a network. A check that raises is not cached, so it raises again."""

    @wraps(check)
    def cached(network: Any) -> T:
        results = _RESULTS.get(network)
        if results is None:
            return check(network)
        if check.__name__ not in results:
            results[check.__name__] = check(network)
        return results[check.__name__]

    return cached
