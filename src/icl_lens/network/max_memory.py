"""The key ``max_memory``: how much memory of each device the layers of a model may use.

This module does not import torch, because the config is read before torch is needed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from icl_lens.errors import InputError

UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}


def parse(max_memory: Mapping[str, str]) -> dict[int | str, int]:
    """Convert memory limits to bytes.

    Args:
        max_memory: ``cpu`` or the number of a card -> size, for example ``20GB``.

    Returns:
        ``cpu`` or the number of a card -> bytes.

    Raises:
        InputError: A device or a size is invalid.
    """
    found: dict[int | str, int] = {}
    for device, size in max_memory.items():
        if device != "cpu" and not re.fullmatch(r"\d{1,4}", device):
            raise InputError(f"max_memory: unknown device {device!r}; use the number of a card (0, 1, ...) or cpu")
        match = re.fullmatch(rf"(\d+(?:\.\d+)?) ?({'|'.join(UNITS)})", size)
        if match is None:
            raise InputError(f"max_memory: {device}: {size!r} is not a size; write a number and a unit, for example 20GB")
        found[device if device == "cpu" else int(device)] = int(float(match[1]) * UNITS[match[2]])
    return found


def from_json(text: str) -> dict[str, str]:
    """Read memory limits from the value of ``--max-memory``, for example ``{"0": "20GB", "cpu": "60GB"}``.

    Raises:
        InputError: The value is not an object of strings, or :func:`parse` rejects it.
    """
    try:
        limits = json.loads(text)
    except ValueError:
        limits = None
    if not isinstance(limits, dict) or not all(isinstance(size, str) for size in limits.values()):
        raise InputError(
            f'--max-memory must be a JSON object of sizes, for example {{"0": "20GB", "cpu": "60GB"}}, got {text!r}'
        )
    parse(limits)
    return limits
