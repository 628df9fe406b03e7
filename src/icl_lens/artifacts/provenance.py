"""What decides an artifact's content, and nothing else: hashes of inputs and code, settings, versions.

Time, memory and host are left to the rule's benchmark file, so that the same run gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import metadata
from typing import Any

from icl_lens.artifacts.code import code_hash
from icl_lens.artifacts.schema import Schema

# The libraries whose version can change a number or a picture.
LIBRARIES = (
    "matplotlib",
    "numpy",
    "pandas",
    "pyarrow",
    "safetensors",
    "seaborn",
    "tokenizers",
    "torch",
    "transformers",
)


def describe(
    schema: Schema,
    modules: Sequence[str],
    inputs: dict[str, str],
    settings: dict[str, Any],
    seeds: list[int],
    observed: dict[str, Any] | None = None,
    **more: Any,
) -> dict[str, Any]:
    """The metadata of an artifact.

    Args:
        schema: Of the table.
        modules: Dotted names of the modules that made the table.
        inputs: Name of each input (relative to ``results/``) -> SHA-256 of its content.
        settings: Every setting that decides the content.
        seeds: Every seed that decides the content.
        observed: What was seen while computing that a reader of the table must know.
        more: Further facts that decide the content: model, device, dtype.
    """
    return {
        "schema": schema.kind,
        "version": schema.version,
        "columns": {name: str(kind) for name, kind in schema.columns.items()},
        "inputs": dict(sorted(inputs.items())),
        "settings": settings,
        "seeds": seeds,
        **more,
        "modules": list(modules),
        "code": code_hash(*modules),
        "libraries": library_versions(),
        "observed": observed or {},
    }


def library_versions() -> dict[str, str]:
    """The installed versions of the libraries that can change a result; torch's says which build (CPU or CUDA)."""
    return {name: metadata.version(name) for name in LIBRARIES}
