"""Reference of the command line, from the commands themselves."""

from __future__ import annotations

import inspect
from typing import Any

import typer

from icl_lens.cli import commands

from . import markdown


def page() -> str:
    """Return each command with its options."""
    app = typer.main.get_command(commands._app([], []))
    context = app.make_context("icl-lens", [], resilient_parsing=True)
    parts = _options(app, context)
    panels: dict[str, list[str]] = {}
    for name in app.list_commands(context):
        panels.setdefault(getattr(app.get_command(context, name), "rich_help_panel", None) or "Commands", []).append(name)
    for panel, names in panels.items():
        parts.append(f"## {markdown.text(panel)}")
        for name in names:
            command = app.get_command(context, name)
            own = type(context)(command, info_name=name, parent=context)
            usage = f"icl-lens {name} {' '.join(command.collect_usage_pieces(own))}"
            parts += [f"### {name}", _prose(command.help or ""), markdown.block(usage), *_options(command, own)]
    return "\n\n".join(parts) + "\n"


def _prose(help_text: str) -> str:
    """Return a help text with its paragraphs."""
    paragraphs = inspect.cleandoc(help_text).replace("\b", "").split("\n\n")
    return "\n\n".join(markdown.prose(paragraph) for paragraph in paragraphs)


def _options(command: Any, context: Any) -> list[str]:
    records = [parameter.get_help_record(context) for parameter in command.get_params(context)]
    rows = [[markdown.code(name), markdown.prose(meaning)] for name, meaning in filter(None, records)]
    return [markdown.table(["option", "meaning"], rows)] if rows else []
