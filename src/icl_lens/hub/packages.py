"""Optional packages: the error that names those that are not installed, and the command that installs them."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from importlib.util import find_spec

from icl_lens.artifacts.code import PACKAGE
from icl_lens.errors import InputError

# Pinned versions of the packages of each extra in pyproject.toml.
_PINS = {extra: PACKAGE.parents[1] / "envs" / f"{extra}.txt" for extra in ("gemma", "quantized")}


def missing(names: Sequence[str]) -> list[str]:
    """Return the packages that are not installed, without importing them."""
    return [name for name in names if find_spec(name) is None]


def require(names: Sequence[str], purpose: str, extra: str) -> None:
    """Require that optional packages are installed.

    Args:
        names: Names of the packages.
        purpose: What needs the packages, as the beginning of the error message, for example "converting a GGUF file needs".
        extra: The extra in pyproject.toml that contains the packages: gemma or quantized.

    Raises:
        InputError: A package is not installed. The message contains the installation command.
    """
    absent = missing(names)
    if absent:
        verb = "is" if len(absent) == 1 else "are"
        raise InputError(f"{purpose} {' and '.join(absent)}, which {verb} not installed; run `{install_command(names, extra)}`")


def install_command(names: Sequence[str], extra: str) -> str:
    """Return the command that installs packages for this Python, from any working folder and in the pinned versions."""
    pinned = ["-c", str(_PINS[extra])] if _PINS[extra].is_file() else []
    return shlex.join([sys.executable, "-m", "pip", "install", *pinned, *names])
