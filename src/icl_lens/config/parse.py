"""Parsers that turn the user's YAML into a config; each error is one sentence that names the key."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from icl_lens import yaml_text
from icl_lens.config import user_paths
from icl_lens.config.keys import Config, config_type, section_of, suggest
from icl_lens.errors import InputError
from icl_lens.organism.recipe import Recipe
from icl_lens.reader_organism.recipe import Recipe as ReaderRecipe
from icl_lens.section import Section
from icl_lens.short_repr import one_line, short_list, short_repr
from icl_lens.studies import registry
from icl_lens.tasks.own import OwnTask
from icl_lens.tasks.task import Task

# An error message has at most this number of sentences, each with at most this number of characters.
_SENTENCES, _SENTENCE = 10, 1000


def parse(mapping: Mapping[str, Any]) -> Config:
    """Build a config from a mapping loaded from YAML.

    Raises:
        InputError: The config is invalid. The message has one sentence per error, with the key, its value, the expected value
            and the closest valid key.
    """
    mapping = user_paths.expand(_whole_characters(mapping, []))
    plugins = mapping.get("plugins")
    if isinstance(plugins, list) and all(isinstance(folder, str) for folder in plugins):
        try:
            registry.add_plugins(plugins)
        except InputError as error:
            raise InputError(f"config: {error}") from None
    try:
        return user_paths.with_included_models(config_type().model_validate(mapping))
    except ValidationError as error:
        raise InputError(sentences(error)) from None


def sentences(
    error: ValidationError,
    location: str = "config",
    section: type[BaseModel] | None = None,
    names: Mapping[str, str] | None = None,
) -> str:
    """Return one sentence per fault of invalid keys.

    Args:
        error: The error of pydantic.
        location: Beginning of each sentence.
        section: The section with the keys; the whole config by default.
        names: Key of the section -> its name in the sentences, if it has another one.
    """
    details = error.errors()
    found = [
        one_line(_sentence(detail, location, section or config_type(), names or {}), _SENTENCE)
        for detail in details[:_SENTENCES]
    ]
    more = [f"{len(details) - _SENTENCES} more errors"] if len(details) > _SENTENCES else []
    return "; ".join(found + more)


def _whole_characters(value: Any, parents: list[int]) -> Any:
    r"""Join the surrogate pairs in all strings. JSON writes characters such as emojis as pairs, which YAML does not join.

    Raises:
        InputError: A string contains a lone surrogate, or a list or mapping contains itself.
    """
    if isinstance(value, str):
        try:
            return value.encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            raise InputError(
                f"config: {short_repr(value)} contains a lone surrogate (half of a character); remove it"
            ) from None
    if not isinstance(value, Mapping | list):
        return value
    if id(value) in parents:
        raise InputError(f"config: {short_repr(value)} contains itself; remove the alias")
    within = [*parents, id(value)]
    if isinstance(value, list):
        return [_whole_characters(entry, within) for entry in value]
    return {_whole_characters(key, within): _whole_characters(entry, within) for key, entry in value.items()}


def parse_recipe(text: str) -> Recipe:
    """Parse the keys under ``organism``, given as YAML.

    Raises:
        InputError: See :func:`parse`.
    """
    return parse({"organism": yaml_text.loads("--recipe", text)}).organism


def parse_reader_recipe(text: str) -> ReaderRecipe:
    """Parse the keys under ``reader_organism``, given as YAML.

    Raises:
        InputError: See :func:`parse`.
    """
    return parse({"reader_organism": yaml_text.loads("--recipe", text)}).reader_organism


def parse_settings(study: str, text: str) -> Section:
    """Parse the settings of a study: its keys under ``studies``, given as YAML.

    Raises:
        InputError: The study has no settings, or :func:`parse` rejects them.
    """
    keys = registry.study(study).settings
    if keys is None:
        raise InputError(f"study {study} has no settings; remove --settings")
    key = keys.name
    return getattr(parse({"studies": {key: yaml_text.loads("--settings", text)}}).studies, key)


def parse_task(name: str, definition: str | None) -> tuple[Task, OwnTask | None]:
    """Return the task with the given name and, if it is the user's own, its definition.

    Args:
        name: The name of the task.
        definition: For the user's own task, its keys under ``own_tasks`` as YAML.

    Raises:
        InputError: See :func:`parse`; or the name is unknown.
    """
    config = parse({"tasks": [name], "own_tasks": {name: yaml_text.loads("--definition", definition)} if definition else {}})
    return config.task(name), config.own_tasks.get(name)


def load(*paths: Path | str) -> Config:
    """Load the config from one or more YAML files. Each file overrides the previous ones, as in Snakemake.

    An empty file changes nothing.

    Raises:
        InputError: A file is missing or is not valid YAML, or :func:`parse` rejects the merged config.
    """
    merged: dict[str, Any] = {}
    for path in paths:
        merged = _merge(merged, _mapping(path))
    return parse(merged)


def _merge(base: Mapping[str, Any], override: Mapping[str, Any]) -> dict[str, Any]:
    """Merge two mappings recursively, key by key; values in ``override`` replace all other values in ``base``."""
    nested = {
        key: _merge(base[key], override[key])
        for key in base.keys() & override.keys()
        if isinstance(base[key], Mapping) and isinstance(override[key], Mapping)
    }
    return {**base, **override, **nested}


def _mapping(path: Path | str) -> Mapping[str, Any]:
    mapping = yaml_text.read(path)
    if mapping is None:  # an empty file, or only comments
        return {}
    if not isinstance(mapping, Mapping):
        raise InputError(f"{path} is not a config; it must contain `key: value` lines")
    return mapping


def _sentence(detail: ErrorDetails, source: str, section: type[BaseModel], names: Mapping[str, str]) -> str:
    """Format a pydantic error as one sentence for the user."""
    location = detail["loc"]
    valid = _keys_at(location[:-1], section)
    location = (names.get(str(location[0]), location[0]), *location[1:]) if location else ()
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{short_list([part])}" for part in location).lstrip(".")
    value = short_repr(detail.get("input"))
    match detail["type"]:
        case "extra_forbidden":
            return f"{source}: unknown key {key!r} (= {value}); {suggest(str(location[-1]), valid)}"
        case "missing":
            return f"{source}: {key!r} is missing; add it"
        case "value_error":
            fault = str(detail["ctx"]["error"])
            # The message of a section may lack its key, because all sections in a mapping or list share the same validator.
            return f"{source}: {fault}" if fault.startswith(key.split(".")[0].split("[")[0]) else f"{source}: {key}: {fault}"
        case "model_type" | "dict_type":
            return f"{source}: {key!r} must be a mapping of keys to values, got {value}"
        case "string_pattern_mismatch":
            form = "a name (owner/name)" if location[-1] == "hub" else "a name"
            return (
                f"{source}: {key!r} must be {form} of letters, digits, dots, underscores and hyphens that starts with a letter "
                f"or digit, got {value}"
            )
        case "invalid_key":
            return f"{source}: {key}: a key must be text, got {value}; put it in quotes"
        case "list_type":
            return f"{source}: {key!r} must be a list, such as {_example_list(location, detail['input'])}, got {value}"
        case "literal_error":
            return f"{source}: {key!r} must be {detail['ctx']['expected']}, got {value}"
        case _:
            message = re.sub("^[A-Za-z]+ should | after validation, not .*$", "", detail["msg"])
            return f"{source}: {key!r} must {message}, got {value}"


def _example_list(location: tuple[int | str, ...], value: Any) -> str:
    """Return a list in the form that a key expects: of mappings, or of the values that the user gave without brackets."""
    if location in (("models",), ("representation_models",)):
        return "[{name: my-model, path: my/folder}]"
    values = [part.strip() for part in value.split(",")] if isinstance(value, str) else [value]
    return f"[{', '.join(map(repr, values))}]"


def _keys_at(location: tuple[int | str, ...], section: type[BaseModel]) -> list[str]:
    """Return the valid keys of the section at a location inside a section."""
    for part in location:
        if isinstance(part, str) and part in section.model_fields:
            section = section_of(section.model_fields[part].annotation) or section
    return list(section.model_fields)
