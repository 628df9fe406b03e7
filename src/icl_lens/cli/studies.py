"""One command per study, including the studies of plugins."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from icl_lens.artifacts import shards
from icl_lens.cli import gpu_slots, options
from icl_lens.errors import InputError
from icl_lens.models.options import LoadOptions, RunOptions
from icl_lens.section import Section
from icl_lens.studies import registry
from icl_lens.studies.study import Study

PANEL = "Studies"


def app() -> typer.Typer:
    """Build one command per study, including the studies of the plugins that are registered now.

    Raises:
        InputError: See :func:`icl_lens.studies.registry.studies`; or a further table of a study has the name of another option.
    """
    group = typer.Typer()
    for study in registry.studies().values():
        group.command(study.command, cls=options.Command, help=_sentence(study.help), rich_help_panel=PANEL)(_command(study))
    return group


def _command(study: Study) -> Callable[..., None]:
    """Return the function of a study's command. Typer reads the options from its signature."""
    run = _run_synthetic if study.reads is None else _run
    parameters = dict(inspect.signature(run, eval_str=True).parameters)
    del parameters["study"], parameters["further"], parameters["settings"]
    tables = {f"further_{table.option}": table for table in study.further}  # the prefix avoids name collisions
    for name, table in tables.items():
        if table.option in (*parameters, "settings", "plugin", "verbose", "help"):
            raise InputError(f"study {study.name}: further: the command already has an option --{table.option}; rename it")
        option = typer.Option(f"--{table.option.replace('_', '-')}", help=_sentence(table.help))
        parameters[name] = inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=Annotated[Path, option])
    if study.settings is not None:
        option = typer.Option(
            help=f"The keys under `studies: {study.settings.name}` in the config, as YAML; a missing key has its default."
        )
        parameters["settings"] = inspect.Parameter(
            "settings", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[str | None, option]
        )

    def command(**values: Any) -> None:
        further = {table.option: values.pop(name) for name, table in tables.items()}
        run(study, further, _settings(study, values.pop("settings", None)), **values)

    command.__signature__ = inspect.Signature(list(parameters.values()))  # type: ignore[attr-defined]
    return command


def _settings(study: Study, text: str | None) -> Section | None:
    from icl_lens.config import parse

    return parse.parse_settings(study.name, text) if text is not None else None


def _sentence(text: str) -> str:
    """Return a description from a study as a sentence for the help, which must not interpret its brackets as markup."""
    if "[" in text:
        from rich.markup import escape

        text = escape(text)
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith(('.', '?')) else '.'}"


@options.with_model_options()
def _run(
    study: Study,
    further: Mapping[str, Path],
    settings: Section | None,
    /,
    *,
    model: options.Model,
    prompts: Annotated[Path, typer.Option(help="A prompts table.")],
    out: Annotated[Path, typer.Option(help="The table to write.")],
    load_options: LoadOptions,
    run_options: RunOptions,
    gpus: options.Gpus = 0,
    shard: options.Shard = None,
) -> None:
    chosen = shards.parse(shard) if shard is not None else None
    gpu_slots.reserve(gpus, load_options.device)
    options.quieten_transformers()
    from icl_lens.studies.run import run

    run(study, model, prompts, out, settings, further, chosen, load_options, run_options)


def _run_synthetic(
    study: Study,
    further: Mapping[str, Path],
    settings: Section | None,
    *,
    out: Annotated[Path, typer.Option(help="The table to write.")],
) -> None:
    from icl_lens.studies.run_synthetic import run_synthetic

    run_synthetic(study, out, settings)
