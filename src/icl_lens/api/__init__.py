"""Public Python API: the names in ``icl_lens.__all__``, and the modules that define them.

This module imports no library, so that ``import icl_lens`` is fast.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Any

from icl_lens.studies import folders

PLACES = {
    "Answer": "api.interventions",
    "InputError": "errors",
    "Model": "api.model",
    "Positions": "api.positions",
    "Prompt": "api.prompt",
    "Result": "api.results",
    "Task": "tasks.task",
    "add_study": "api.listing",
    "block": "api.interventions",
    "list_studies": "api.listing",
    "load": "api.model",
    "plot": "api.plot",
    "prompts_table": "api.tables",
    "record": "api.interventions",
    "run": "api.interventions",
    "scale": "api.interventions",
    "walk": "api.walking",
    "with_predicted_gold": "api.predicted",
    "wrap": "api.model",
}
"""Public name -> module in the package that defines it (or is it). The studies are public, too, see :func:`names`."""

SHORT_NAMES = {"compress": "compression", "reweight": "reweighting"}
"""Short name of a study's function -> name of the study."""


def names() -> list[str]:
    """Return all public names, sorted: those in :data:`PLACES`, and the studies with their short names.

    A study of the user with another public name is not one of them (:func:`icl_lens.api.listing.add_study` rejects it).
    """
    return sorted({*PLACES, *SHORT_NAMES, *folders.packages(), *_plugins()})


def public(name: str) -> Any:
    """Return the object with a public name, or the list of names for ``__all__``.

    Raises:
        AttributeError: There is no such name.
    """
    if name == "__all__":
        return names()
    if name in PLACES:
        module = import_module(f"icl_lens.{PLACES[name]}")
        return module if PLACES[name] == f"api.{name}" else getattr(module, name)
    study = SHORT_NAMES.get(name, name)
    if study in folders.packages() or study in _plugins():
        return import_module("icl_lens.api.studies").of_study(study)
    raise AttributeError(f"module 'icl_lens' has no attribute {name!r}")


def _plugins() -> list[str]:
    """Return the names of the user's studies that are registered in this process."""
    # Registering is expensive, so the module is imported only if there can be such studies.
    module = "icl_lens.studies.plugins"
    if module not in sys.modules and not os.environ.get("ICL_LENS_PLUGINS"):
        return []
    return list(import_module(module).FOLDERS)
