"""Cache for the results of model checks, for a model that several processes share.

A process that loads a model for other processes (:mod:`icl_lens.cli.model_server`) runs the checks before it forks, so that its
forks reuse the results. Otherwise a check runs on each call, because a caller may change the model between two calls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from torch import nn

T = TypeVar("T")

_RESULTS: WeakKeyDictionary[nn.Module, dict[str, Any]] = WeakKeyDictionary()


def remember(network: nn.Module) -> None:
    """Start to cache the results of checks of this model."""
    _RESULTS[network] = {}


@contextmanager
def remembered(network: nn.Module) -> Iterator[None]:
    """Cache the results of checks of a model inside this context, in which nothing changes the model."""
    if network in _RESULTS:
        yield
        return
    remember(network)
    try:
        yield
    finally:
        del _RESULTS[network]


def cached_check(check: Callable[[Any], T]) -> Callable[[Any], T]:
    """Decorate a check of a model so that its result can be cached. Exceptions are not cached: a failing check runs again."""

    @wraps(check)
    def cached(network: Any) -> T:
        results = _RESULTS.get(network)
        if results is None:
            return check(network)
        if check.__name__ not in results:
            results[check.__name__] = check(network)
        return results[check.__name__]

    return cached
