"""Named tensors that belong to a table, in safetensors format, with the metadata of the table in the header."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from icl_lens import json_text
from icl_lens.artifacts.files import unreadable, whole_file
from icl_lens.errors import InputError


def write(path: Path | str, tensors: Mapping[str, np.ndarray], metadata: dict[str, Any]) -> None:
    """Write named tensors atomically in safetensors format, with the metadata in the header."""
    from safetensors.numpy import save_file

    packed = json.dumps(metadata, sort_keys=True, ensure_ascii=False)
    with whole_file(path) as temporary:
        save_file({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, temporary, {"icl_lens": packed})


def read(path: Path | str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read named tensors and their metadata.

    Raises:
        InputError: The file is missing or truncated, or :func:`write` did not write it.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} does not exist; expected a safetensors file")
    try:
        with safe_open(path, framework="numpy") as stored:
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 - not a mapping
            metadata = json_text.loads(stored.metadata()["icl_lens"])
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            unreadable(error, path)
            or f"{path} is not a valid safetensors file of icl-lens (truncated or corrupted); delete it with `icl-lens audit "
            "--repair` and rerun the command that made it"
        ) from error
    return tensors, metadata
