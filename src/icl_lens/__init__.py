"""icl-lens: reproduce, audit and challenge studies of in-context learning.

The names in ``__all__`` are the public Python API. Each of them is imported on first use, so that ``import icl_lens`` imports
neither torch nor pandas. The API is not safe to use in several threads at the same time.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from icl_lens.api import plot
    from icl_lens.api import studies as _studies
    from icl_lens.api.interventions import Answer, block, record, run, scale
    from icl_lens.api.listing import add_study, list_studies
    from icl_lens.api.model import Model, load, wrap
    from icl_lens.api.positions import Positions
    from icl_lens.api.predicted import with_predicted_gold
    from icl_lens.api.prompt import Prompt
    from icl_lens.api.results import Result
    from icl_lens.api.studies import *  # noqa: F403
    from icl_lens.api.tables import prompts_table
    from icl_lens.api.walking import walk
    from icl_lens.errors import InputError
    from icl_lens.tasks.task import Task

    __all__ = [
        "Answer",
        "InputError",
        "Model",
        "Positions",
        "Prompt",
        "Result",
        "Task",
        "add_study",
        "block",
        "list_studies",
        "load",
        "plot",
        "prompts_table",
        "record",
        "run",
        "scale",
        "walk",
        "with_predicted_gold",
        "wrap",
    ]
    __all__ += _studies.__all__
else:  # type checkers would accept any name

    def __getattr__(name: str) -> Any:
        # All code of the package needs this module, so its names are in another one: a new name must not change a code hash.
        if name == "__all__" or not name.startswith("__"):
            return import_module(".api", __name__).public(name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *import_module(".api", __name__).names()})
