"""Record of the interventions that a user has opened on a model, so that a study does not run inside them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

from torch import nn

from icl_lens.errors import InputError

_OPEN: WeakKeyDictionary[nn.Module, list[str]] = WeakKeyDictionary()


@contextmanager
def opened(network: nn.Module, name: str) -> Iterator[None]:
    """Mark an intervention as open on a model inside this context.

    Args:
        network: The model.
        name: Name of the context manager, for :func:`require_closed`.
    """
    names = _OPEN.setdefault(network, [])
    names.append(name)
    try:
        yield
    finally:
        names.pop()


def is_open(network: nn.Module) -> bool:
    """Return whether any intervention is open on a model."""
    return bool(_OPEN.get(network))


def require_closed(network: nn.Module, study: str) -> None:
    """Require that no intervention is open on a model.

    A study sorts prompts into batches, splits them into prefixes and tails, and opens interventions of its own. An open
    intervention at fixed positions would then change other positions than the user means.

    Raises:
        InputError: An intervention is open.
    """
    if is_open(network):
        raise InputError(
            f"study {study}: cannot run inside icl_lens.{_OPEN[network][-1]}, because a study forms its own batches; call it "
            "after the with block, or call icl_lens.run inside the block"
        )
