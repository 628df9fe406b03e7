"""Provenance of an artifact: only the facts that determine its content (hashes of inputs and code, settings, versions).

Time, memory and host are not included, so that the same run gives the same bytes. The benchmark file of each workflow rule
records them.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import metadata
from typing import Any

from icl_lens.artifacts.code import code_hash
from icl_lens.artifacts.schema import Schema

# A new version of these libraries can change a number or a figure.
LIBRARIES = (
    "matplotlib",
    "numpy",
    "pandas",
    "pyarrow",
    "safetensors",
    "scikit-learn",
    "scipy",
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
    """Return the metadata of an artifact.

    Args:
        schema: Schema of the table.
        modules: Dotted names of the modules that made the table.
        inputs: Name of each input (relative to ``results/``) -> SHA-256 of its content.
        settings: All settings that determine the content.
        seeds: All seeds that determine the content.
        observed: Observations from the computation that readers of the table must know.
        more: Further facts that determine the content: model, device, dtype.
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
    """Return the installed versions of the libraries that can change a result.

    The version of torch includes its build (CPU or CUDA).
    """
    return {name: metadata.version(name) for name in LIBRARIES}
