"""Reference of the Python API: each name of ``icl_lens.__all__``.

mkdocstrings documents what it finds in the source. Objects that are created when they are first used, such as the function of
each study, have no source of their own; their signature and docstring are read from the object.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Sequence
from importlib import import_module
from types import ModuleType
from typing import Any

import griffe

import icl_lens
from icl_lens.studies import registry

from . import markdown

ADDRESS = "reference/api.md"

# As docstring_options in mkdocs.yml.
_OPTIONS = {"returns_multiple_items": False, "returns_named_value": False, "warnings": False}
_LINE_LENGTH = 80


class MissingDocstringError(Exception):
    """A public name has no docstring."""


def public_names() -> list[str]:
    """Return the public names of the package."""
    return sorted(getattr(icl_lens, "__all__", []), key=str.lower)


def page() -> str:
    """Return the reference of all public names.

    Raises:
        MissingDocstringError: A public name, or a public member of a public class or module, has no docstring.
    """
    names = public_names()
    missing = [name for name in names for name in _without_docstring(f"icl_lens.{name}", getattr(icl_lens, name))]
    if missing:
        raise MissingDocstringError(f"public names without a docstring: {', '.join(missing)}; write one for each")
    parts = []
    of_studies = {study.name for study in registry.studies().values()}
    values = {name: getattr(icl_lens, name) for name in names}
    modules = [name for name in names if inspect.ismodule(values[name])]
    studies = [name for name in names if name in of_studies or (callable(values[name]) and _source(values[name]) is None)]
    others = [name for name in names if name not in {*modules, *studies}]
    sections = {"Models, prompts and tools": others, "Studies": studies}
    for heading, members in sections.items():
        if members:
            parts.append(f"## {heading}")
            parts += [_entry(f"icl_lens.{name}", values[name]) for name in members]
    for name in modules:
        parts += [f"## icl_lens.{name}", _docstring(values[name])]
        parts += [_entry(f"icl_lens.{name}.{member}", value) for member, value in _members(values[name])]
    return "\n\n".join(parts) + "\n"


def _members(module: ModuleType) -> list[tuple[str, Any]]:
    """Return the public functions and classes of a module: those in its ``__all__``, or those that it defines."""
    names: Sequence[str] = getattr(module, "__all__", None) or [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", "") == module.__name__
    ]
    return [(name, getattr(module, name)) for name in names]


def _without_docstring(path: str, value: Any) -> Iterator[str]:
    """Yield the path of a value and of its public members that have no docstring."""
    if isinstance(value, str | int | float | tuple):
        return  # a constant
    if not inspect.getdoc(value):
        yield path
    if inspect.ismodule(value):
        for name, member in _members(value):
            yield from _without_docstring(f"{path}.{name}", member)
    elif inspect.isclass(value):
        for name, member in vars(value).items():
            function = member.__func__ if isinstance(member, classmethod | staticmethod) else member
            is_public = not name.startswith("_") and (inspect.isfunction(function) or isinstance(function, property))
            if is_public and not inspect.getdoc(function):
                yield f"{path}.{name}"


def _entry(path: str, value: Any) -> str:
    source = _source(value)
    if source is None:
        label = path.removeprefix("icl_lens.")
        symbol = '<code class="doc-symbol doc-symbol-heading doc-symbol-function"></code> ' if callable(value) else ""
        heading = f'### {symbol}{markdown.text(path)} {{#{path} data-toc-label="{label}"}}'
        return f"{heading}\n\n{markdown.block(_signature(label, value), 'python')}\n\n{_docstring(value)}"
    # The anchor is the public name; the identifier is where the object is defined.
    anchor = f"[](){{ #{path} }}\n\n" if path != source else ""
    return f"{anchor}::: {source}\n    options:\n      heading: {path}\n      toc_label: {path.removeprefix('icl_lens.')}"


def _source(value: Any) -> str | None:
    """Return the dotted path under which the source of a function or class is found; None if it has no source of its own."""
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", "")
    if not (inspect.isfunction(value) or inspect.isclass(value)) or not module or "<locals>" in name:
        return None
    found: Any = import_module(module)
    for part in name.split("."):
        found = vars(found).get(part)
        if found is None:
            return None
    return f"{module}.{name}" if found is value else None


def _signature(name: str, value: Any) -> str:
    """Return a call with its parameters, in one line per parameter if it is long. Types have no modules."""
    if not callable(value):
        return f"{name} = {value!r}"
    try:
        signature = inspect.signature(value)
    except ValueError:
        return f"{name}(...)"
    line = _without_modules(f"{name}{signature}")
    if len(line) <= _LINE_LENGTH:
        return line
    parameters: list[str] = []
    kinds = [parameter.kind for parameter in signature.parameters.values()]
    for number, parameter in enumerate(signature.parameters.values()):
        if parameter.kind is parameter.KEYWORD_ONLY and not {parameter.KEYWORD_ONLY, parameter.VAR_POSITIONAL} & {
            *kinds[:number]
        }:
            parameters.append("*")
        parameters.append(_without_modules(str(parameter)))
    returned = line[line.rindex(")") :] if signature.return_annotation is not signature.empty else ")"
    return "\n".join([f"{name}(", *(f"    {parameter}," for parameter in parameters), returned])


def _without_modules(annotated: str) -> str:
    return re.sub(r"(?<![\w'\"])(?:[a-z_]\w*\.)+(?=[A-Z])", "", annotated)


def _docstring(value: Any) -> str:
    """Return the docstring of an object, in Google style, as Markdown."""
    if isinstance(value, str | int | float | tuple):
        return ""
    parts = []
    for section in griffe.Docstring(inspect.getdoc(value) or "").parse("google", **_OPTIONS):
        if section.kind is griffe.DocstringSectionKind.text:
            parts.append(section.value)
        elif section.kind is griffe.DocstringSectionKind.examples:
            parts.append("**Examples:**")
            parts += [
                markdown.block(text, "python") if kind is griffe.DocstringSectionKind.examples else text
                for kind, text in section.value
            ]
        elif section.kind is griffe.DocstringSectionKind.admonition:
            parts.append(f"**{section.title}:**\n\n{section.value.contents}")
        else:
            rows = [_described(entry) for entry in section.value]
            parts.append(f"**{section.title or section.kind.value.capitalize()}:**\n\n" + "\n".join(rows))
    return "\n\n".join(parts)


def _described(entry: Any) -> str:
    """Return a line for a parameter, a returned value or an exception."""
    name = getattr(entry, "name", "") or str(entry.annotation or "")
    description = " ".join(entry.description.split())
    return f"- {markdown.code(name)}: {description}" if name else f"- {description}"
