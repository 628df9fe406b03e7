"""Paths in the config: their keys, and the expansion of the user's paths.

A relative path is relative to the working folder. ``~`` and environment variables (``$HOME``, ``${DATA}``) are expanded. The
folders of the models that are included in the package can be given as in ``config.yaml`` from any working folder.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from icl_lens.artifacts.code import PACKAGE
from icl_lens.config.keys import EMBEDDED_MODEL, READER_MODEL, Config, Model
from icl_lens.errors import InputError

# Each key whose value is a path; * matches each entry of a list or mapping.
KEYS: tuple[tuple[str, ...], ...] = (
    ("results",),
    ("downloads",),
    ("models", "*", "path"),
    ("models", "*", "gguf"),
    ("models", "*", "adapter"),
    ("representation_models", "*", "path"),
    ("representation_models", "*", "gguf"),
    ("representation_models", "*", "adapter"),
    ("own_tasks", "*", "train"),
    ("own_tasks", "*", "test"),
    ("data", "root"),
    ("data", "files", "*", "train"),
    ("data", "files", "*", "test"),
    ("plugins", "*"),
    ("studies", "kernel_regression", "encoders", "*"),
)

_VARIABLE = re.compile(r"\$(?:\{([^{}]*)\}|([A-Za-z_][A-Za-z0-9_]*))")


def expand(mapping: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config, loaded from YAML, with all its paths expanded. Values of another type are unchanged.

    Raises:
        InputError: A path names a user or an environment variable that does not exist, or contains a character that Snakemake
            reads as the start of a wildcard or path variable.
    """
    expanded: Any = mapping
    for keys in KEYS:
        expanded = _replace(expanded, keys, "", _expand)
    return dict(expanded)


def _replace(value: Any, keys: tuple[str, ...], location: str, function: Callable[[str, str], str]) -> Any:
    """Return a value in which the strings at some keys are replaced by a function of the string and its location."""
    if not keys:
        return function(value, location) if isinstance(value, str) else value
    key, rest = keys[0], keys[1:]
    if key == "*" and isinstance(value, list):
        return [_replace(entry, rest, f"{location}[{number}]", function) for number, entry in enumerate(value)]
    if not isinstance(value, Mapping):
        return value
    chosen = value.keys() if key == "*" else value.keys() & {key}
    changed = {name: _replace(value[name], rest, f"{location}.{name}".lstrip("."), function) for name in chosen}
    return {**value, **changed}


def _expand(path: str, location: str) -> str:
    def variable(match: re.Match) -> str:
        name = match[1] if match[1] is not None else match[2]
        if name not in os.environ:
            raise InputError(
                f"config: {location!r} (= {path!r}) names the environment variable {name}, which is not set; set it, or write "
                "the path without it"
            )
        return os.environ[name]

    expanded = os.path.expanduser(_VARIABLE.sub(variable, path))
    if path.startswith("~") and expanded.startswith("~"):
        user = path.partition("/")[0]
        raise InputError(
            f"config: {location!r} (= {path!r}) names the home folder {user}, which does not exist; write the full path"
        )
    if wildcard := re.search(r"[{}<>]", expanded):
        raise InputError(
            f"config: {location!r} (= {path!r}) contains {wildcard[0]!r}, which Snakemake reads as part of a wildcard; rename "
            "the file or folder"
        )
    return expanded


def with_included_models(config: Config) -> Config:
    """Return the config with the folders of the included models in the package, if the working folder does not contain them."""
    updated = {key: [_included(model) for model in getattr(config, key)] for key in ("models", "representation_models")}
    changed = {key: models for key, models in updated.items() if models != getattr(config, key)}
    return config.model_copy(update=changed) if changed else config


def _included(model: Model) -> Model:
    if model.path is None or Path(model.path).exists() or str(Path(model.path)) not in (EMBEDDED_MODEL, READER_MODEL):
        return model
    folder = PACKAGE / Path(model.path).relative_to("src/icl_lens")
    return model.model_copy(update={"path": str(folder)})
