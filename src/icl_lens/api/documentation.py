"""Documentation of the functions of the studies, from their declarations and from the docstrings of their ``compute``.

The docstrings are read from the files, because importing ``compute.py`` imports torch.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Mapping
from functools import cache

import pyarrow as pa

from icl_lens.artifacts.code import module_file
from icl_lens.artifacts.schema import STUDY_COLUMNS, UNIT_COLUMNS
from icl_lens.prompts.schema import PROMPTS
from icl_lens.section import Section
from icl_lens.studies import registry
from icl_lens.studies.study import Study

WIDTH = 110

_COMMON = {
    "model": "name of the model",
    "task": "name of the task",
    "set": "name of the prompt set",
    "seed": "seed with which the prompt was drawn",
    "prompt_id": "id of the prompt; in a list of prompts, its position",
    "query_index": "number of the query's text",
    "demonstrations": "number of the demonstration set",
}


def docstring(study: Study, arguments: Mapping[str, str]) -> str:
    """Return the docstring of a study's function.

    Args:
        study: The study.
        arguments: Name of the argument for each setting of the study.
    """
    about = _plain(_module_docstring(study.module))
    sections = _sections(study.module, "compute")
    parts = [_sentence(study.help), about, _args(study, arguments), _returns(study, sections.get("Returns", ""))]
    faults = "InputError: An argument is invalid, or the study cannot be run on this model or these prompts."
    if "Raises" in sections:
        own = _plain(sections["Raises"]).removeprefix("InputError: ")
        faults = f"InputError: An argument is invalid, or: {own[:1].lower()}{own[1:]}"
    parts.append("Raises:\n" + _indented(_wrapped(faults)))
    return "\n\n".join(part for part in parts if part)


def _args(study: Study, arguments: Mapping[str, str]) -> str:
    entries = []
    if study.reads is not None:
        prompts = "A prompt, a list of prompts, a prompts table (a DataFrame), or the path of a prompts table."
        if study.reads is not PROMPTS:
            prompts = f"A {study.reads.kind} table (a DataFrame, or the path of a file)."
        entries += ["model: The model, from `icl_lens.load` or `icl_lens.wrap`.", f"prompts: {prompts}"]
        entries += [f"{each.option}: {_sentence(each.help)} Accepts the same as `prompts`." for each in study.further]
    if study.settings is not None:
        for name, field in study.settings.section.model_fields.items():
            meaning = _resolved(field.description or "")
            default = field.get_default(call_default_factory=True)
            if isinstance(default, Section):
                keys = [
                    f"`{key}` ({_resolved(each.description or '').rstrip('.')})"
                    for key, each in type(default).model_fields.items()
                ]
                meaning += f" A mapping; missing keys have their defaults: {'; '.join(keys)}."
            entries.append(f"{arguments[name]}: {meaning}")
    return "Args:\n" + _indented("\n".join(_wrapped(entry) for entry in entries)) if entries else ""


def _returns(study: Study, text: str) -> str:
    common = [name for name in (*STUDY_COLUMNS, *UNIT_COLUMNS) if name in study.schema.columns and study.reads is not None]
    own = [f"`{name}` ({_type(kind)})" for name, kind in study.schema.columns.items() if name not in common]
    shared = [f"`{name}` ({_COMMON[name]})" for name in common]
    table = f"A table with the columns {', '.join([*shared, *own])}."
    unknown = ""
    if study.gold_columns:
        names = " and ".join(f"`{name}`" for name in study.gold_columns)
        unknown = f" For a query without a gold label, {names} is missing (NA)."
    kind = "A pair of the table and the tensors by name, `Result(rows, tensors)`. " if study.tensors else ""
    paragraphs = [_wrapped(f"{kind}{table}{unknown}"), _plain(text)]
    for name in dict.fromkeys(re.findall(r":func:`~?([\w.]+)`", text)):
        module, _, function = name.rpartition(".")
        further = _sections(module, function).get("Returns") if module_file(module) else None
        if further:
            paragraphs.append(_wrapped(f"`{function}` returns:") + "\n" + _plain(further))
    return "Returns:\n" + _indented("\n\n".join(part for part in paragraphs if part))


def _type(kind: pa.DataType) -> str:
    """Return the name of a column's type."""
    if pa.types.is_list(kind):
        return f"list of {_type(kind.value_type)}s"
    if pa.types.is_boolean(kind):
        return "boolean"
    return "integer" if pa.types.is_integer(kind) else "float" if pa.types.is_floating(kind) else "string"


@cache
def _tree(module: str) -> ast.Module:
    return ast.parse(module_file(module).read_text(encoding="utf-8"))


def _module_docstring(module: str) -> str:
    return ast.get_docstring(_tree(module)) or ""


def _sections(module: str, function: str) -> dict[str, str]:
    """Return the sections of a function's docstring, such as ``Returns``: name -> text, without its indentation."""
    node = next((each for each in _tree(module).body if isinstance(each, ast.FunctionDef) and each.name == function), None)
    text = ast.get_docstring(node) or "" if node else ""
    found = re.split(r"^(Args|Returns|Raises|Yields):\n", text, flags=re.MULTILINE)
    return {name: inspect.cleandoc(body) for name, body in zip(found[1::2], found[2::2], strict=True)}


def _resolved(description: str) -> str:
    """Return the description of a setting. One that only refers to another setting is replaced by that one's."""

    def other(match: re.Match[str]) -> str:
        keys = registry.settings().get(match[1])
        field = keys.section.model_fields.get(match[2]) if keys else None
        return (field.description or match[0]) if field else match[0]

    return re.sub(r"^See `studies\.(\w+)\.(\w+)`\.", other, description)


def _plain(text: str) -> str:
    """Replace the cross-references of reStructuredText by plain names."""
    text = re.sub(r":\w+:`~(?:[\w]+\.)*([\w]+)`", r"`\1`", text)
    return re.sub(r":\w+:`([^`]+)`", r"`\1`", text)


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith(('.', '?')) else '.'}"


def _wrapped(text: str) -> str:
    return textwrap.fill(
        text,
        WIDTH,
        subsequent_indent="    " if re.match(r"\w+: ", text) else "",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _indented(text: str) -> str:
    return textwrap.indent(text, "    ")
