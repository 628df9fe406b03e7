"""Generators of ``config.yaml`` with all defaults, its JSON schema, and a reference table of all keys."""

from __future__ import annotations

import json
import textwrap

import yaml
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from icl_lens.config.keys import config_type, section_of


def default_yaml() -> str:
    """Return the text of ``config.yaml``: each key with its meaning and default."""
    lines = [
        "# yaml-language-server: $schema=workflow/schemas/config.schema.json",
        "# The default run: the embedded model on the built-in texts, a few minutes on a laptop.",
        "# Printed by `make config` from src/icl_lens/config and the studies. Override keys in a file of your own:",
        "#     snakemake --cores all --configfile my.yaml",
        "# Mappings are merged key by key; a list replaces the list here.",
    ]
    config = config_type()
    defaults = config().model_dump(exclude_none=True)
    for key in ("models", "representation_models"):
        defaults[key] = [model.model_dump(exclude_defaults=True) for model in getattr(config(), key)]
    for key, field in config.model_fields.items():
        lines += ["", *(f"# {line}" for line in textwrap.wrap(field.description or "", 100))]
        flow = None if isinstance(defaults[key], dict | list) else False  # a list of scalars stays on one line
        value = yaml.safe_dump({key: defaults[key]}, sort_keys=False, default_flow_style=flow, width=100)
        lines += value.rstrip("\n").splitlines()
    return "\n".join(lines) + "\n"


def schema_json() -> str:
    """Return the text of the JSON schema of the config, for use in editors."""
    return json.dumps(config_type().model_json_schema(), indent=2) + "\n"


def reference_markdown() -> str:
    """Return the text of ``config/reference.md``: all keys, including nested ones, with default and meaning."""
    rows = ["| key | default | meaning |", "|---|---|---|", *_reference_rows(config_type(), "")]
    return "# Every key\n\nPrinted by `make config` from `src/icl_lens/config` and the studies.\n\n" + "\n".join(rows) + "\n"


def _reference_rows(section: type[BaseModel], prefix: str) -> list[str]:
    rows = []
    for name, field in section.model_fields.items():
        default = field.get_default(call_default_factory=True)
        inner = section_of(field.annotation)
        plain = not inner and default is not None and default is not PydanticUndefined
        shown = f"`{json.dumps(default)}`" if plain else ""
        meaning = (field.description or "").replace("|", "\\|")
        rows.append(f"| `{prefix}{name}` | {shown} | {meaning} |")
        if inner:
            below = {list: "[].", dict: ".*."}.get(type(default), ".")
            rows += _reference_rows(inner, f"{prefix}{name}{below}")
    return rows
