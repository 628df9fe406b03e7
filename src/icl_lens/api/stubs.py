"""Write ``studies.pyi``: the signature and the docstring of each study's function, for type checkers and for the documentation.

Run it after a change of a study's declaration, settings or documentation::

    python -m icl_lens.api.stubs
"""

from __future__ import annotations

import inspect
import textwrap
import types
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from icl_lens import api
from icl_lens.api import documentation, studies
from icl_lens.artifacts.files import whole_file
from icl_lens.section import Section
from icl_lens.studies import registry
from icl_lens.studies.study import Study

FILE = Path(__file__).with_name("studies.pyi")

_HEAD = '''"""One function per study. `python -m icl_lens.api.stubs` writes this file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from icl_lens.api.model import Model
from icl_lens.api.results import Result
from icl_lens.api.tables import Prompts
'''


def text() -> str:
    """Return the content of the file: the studies of this package, in the order of the registry."""
    declared = [study for study in registry.studies().values() if not registry.is_plugin(study.name)]
    names = sorted([*api.SHORT_NAMES, *(study.name for study in declared)])
    exported = "\n".join(f'    "{name}",' for name in names)
    short = "\n".join(f"{name} = {study}" for name, study in api.SHORT_NAMES.items())
    functions = "\n\n".join(map(_function, declared))
    return f"{_HEAD}\n__all__ = [\n{exported}\n]\n\n{functions}\n\n{short}\n"


def _function(study: Study) -> str:
    signature = studies.signature(study)
    arguments, keyword_only = [], False
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and not keyword_only:
            keyword_only = True
            arguments.append("*")
        # The alias has no name at run time.
        kind = "Prompts" if parameter.annotation == studies.Prompts else _type(parameter.annotation)
        default = "" if parameter.default is parameter.empty else f" = {_default(parameter.default)}"
        arguments.append(f"{parameter.name}: {kind}{default}")
    result = "Result" if study.tensors else "pd.DataFrame"
    lines = ",\n    ".join(arguments)
    docstring = documentation.docstring(study, studies.setting_arguments(study)).replace("\\", "\\\\")
    body = textwrap.indent(f'"""{docstring}\n"""', "    ", lambda line: bool(line.strip()))
    return f"def {study.name}(\n    {lines},\n) -> {result}:\n{body}\n    ..."


def _type(annotation: Any) -> str:
    """Return a type as source text, without the constraints of pydantic."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(arguments[0])
    if origin is Literal:
        return f"Literal[{', '.join(map(_quoted, arguments))}]"
    if origin in (Union, types.UnionType):
        return " | ".join(map(_type, arguments))
    if origin is not None:
        return f"{origin.__name__}[{', '.join(map(_type, arguments))}]"
    if annotation is inspect.Parameter.empty or annotation is Any:
        return "Any"
    if annotation is type(None):
        return "None"
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return "Mapping[str, Any]"
    module = annotation.__module__.split(".")[0]
    return f"pd.{annotation.__name__}" if module == "pandas" else annotation.__name__


def _default(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_quoted, value))}]"
    return _quoted(value)


def _quoted(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else repr(value)


if __name__ == "__main__":
    with whole_file(FILE) as temporary:
        temporary.write_text(text(), encoding="utf-8")
