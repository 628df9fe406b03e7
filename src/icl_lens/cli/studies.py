"""One command per study, including the studies of plugins."""

from __future__ import annotations

import argparse
from pathlib import Path

from icl_lens.cli.options import BOS, Add, add_batch_tokens, add_model, add_reading, quieten_transformers
from icl_lens.errors import InputError
from icl_lens.section import Section
from icl_lens.studies import registry
from icl_lens.studies.study import Study


def add(command: Add) -> None:
    """Add one command per study.

    Raises:
        InputError: See :func:`icl_lens.studies.registry.studies`; or an additional table of a study has the name of another
            option.
    """
    for study in registry.studies().values():
        try:
            (_add_synthetic if study.reads is None else _add_study)(command, study)
        except argparse.ArgumentError as error:
            raise InputError(f"study {study.name}: further: {error}; rename the option") from error


def _add_study(command: Add, study: Study) -> None:
    added = command(study.command, _study, study.help)
    added.set_defaults(study=study, settings=None)
    add_model(added)
    added.add_argument("--prompts", required=True, type=Path, help="a prompts table")
    for further in study.further:
        named = {"dest": _destination(further.option), "metavar": further.option.upper()}
        option, meaning = f"--{further.option.replace('_', '-')}", further.help.replace("%", "%%")
        added.add_argument(option, required=True, type=Path, help=meaning, **named)
    added.add_argument("--out", required=True, type=Path)
    added.add_argument("--name", help="the model's name in the table; by default the folder's own, or the hub's")
    add_batch_tokens(added)
    add_reading(added)
    _add_settings(added, study)


def _add_synthetic(command: Add, study: Study) -> None:
    added = command(study.command, _synthetic, study.help)
    added.set_defaults(study=study, settings=None)
    _add_settings(added, study)
    added.add_argument("--out", required=True, type=Path, help=f"the {study.name} table")


def _add_settings(added: argparse.ArgumentParser, study: Study) -> None:
    if study.settings is not None:
        added.add_argument("--settings", help=f"the keys under `studies: {study.settings.name}` in the config, as YAML")


def _destination(option: str) -> str:
    """Return the attribute name of an additional table's path in the parsed options. The prefix avoids name collisions."""
    return f"further {option}"


def _settings(options: argparse.Namespace) -> Section | None:
    from icl_lens.config import parse

    return parse.parse_settings(options.study.name, options.settings) if options.settings is not None else None


def _study(options: argparse.Namespace) -> None:
    settings = _settings(options)
    quieten_transformers()
    from icl_lens.studies.run import run

    run(
        options.study,
        options.model,
        options.prompts,
        options.out,
        name=options.name,
        device=options.device,
        dtype=options.dtype,
        matmul=options.matmul,
        batch_tokens=options.batch_tokens,
        bos=BOS[options.bos],
        as_chat=options.chat,
        settings=settings,
        further={each.option: getattr(options, _destination(each.option)) for each in options.study.further},
    )


def _synthetic(options: argparse.Namespace) -> None:
    settings = _settings(options)
    from icl_lens.studies.run_synthetic import run_synthetic

    run_synthetic(options.study, options.out, settings)
