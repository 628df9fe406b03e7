"""Entry point of the ``icl-lens`` command, for the workflow rules and for users."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from icl_lens.cli import streams
from icl_lens.cli.preloaded import WORKFLOW_STDERR
from icl_lens.errors import InputError

# Default environment variables for the libraries, which read them on import. By default, waiting GNU OpenMP threads spin for
# milliseconds before they sleep. This makes small models many times slower on a machine with any other load, so the spin time
# is reduced to microseconds. The second variable disables the telemetry of huggingface_hub.
ENV_DEFAULTS = {"GOMP_SPINCOUNT": "10000", "HF_HUB_DISABLE_TELEMETRY": "1"}


def main(arguments: list[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: The command-line arguments; ``sys.argv[1:]`` by default.

    Returns:
        The exit status: 0 on success, 1 for invalid input, 2 for invalid arguments, 130 if interrupted, or the status that the
        command returns. Errors are one line on standard error.
    """
    try:
        streams.prepare()
        plugins, arguments = _split_plugins(sys.argv[1:] if arguments is None else arguments)
        command = typer.main.get_command(_app(plugins, arguments))
    except InputError as error:
        print_error(f"icl-lens: {error}")
        return 1
    try:
        with streams.printing():
            return command.main(arguments, prog_name="icl-lens", standalone_mode=False) or 0
        return 0
    except InputError as error:
        print_error(f"icl-lens: {error}")
        return 1
    except typer.TyperException as error:
        context = getattr(error, "ctx", None)
        path = context.command_path if context else "icl-lens"
        message = " ".join(error.format_message().split()).replace("Value error, ", "")  # a prefix of pydantic
        print_error(f"{path}: {message} (see `{path} --help`)")
        return error.exit_code


def print_error(sentence: str) -> None:
    """Write one line to standard error; if this fails, to the standard error of the workflow.

    See :data:`icl_lens.cli.preloaded.WORKFLOW_STDERR`.
    """
    try:
        print(sentence, file=sys.stderr, flush=True)
    except OSError:
        with contextlib.suppress(OSError, KeyError, ValueError):
            os.write(int(os.environ[WORKFLOW_STDERR]), f"{sentence}\n".encode())


def _split_plugins(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Return the folders given by ``--plugin``, before or after the command, and the other arguments.

    These folders determine which commands exist, so they are needed before the other arguments can be parsed.

    Raises:
        InputError: An option ``--plugin`` has no value.
    """
    folders, command_arguments = [], []
    remaining = iter(arguments)
    for argument in remaining:
        if argument == "--plugin":
            folder = next(remaining, "")
            if not folder:
                raise InputError("--plugin has no value; specify the folder of a study")
            folders.append(folder)
        elif argument.startswith("--plugin="):
            folders.append(argument.partition("=")[2])
        else:
            command_arguments += [argument, *(remaining if argument == "--" else ())]
    return folders, command_arguments


def _app(plugins: list[str], arguments: list[str]) -> typer.Typer:
    """Build the called command, or all commands, including those of the studies in the plugin folders.

    Raises:
        InputError: See :func:`icl_lens.studies.registry.add_plugins`; or a study has the same name as another command.
    """
    # Imported here because the import can also fail, if a plugin named in the environment is invalid.
    from icl_lens.cli import data, results, studies, tools, training
    from icl_lens.studies import registry

    registry.add_plugins(plugins)
    app = typer.Typer(
        callback=_options,
        help="Run studies of in-context learning, step by step.",
        context_settings={"help_option_names": ["-h", "--help"]},
        pretty_exceptions_enable=False,
    )
    groups = (data.app, studies.app(), tools.app, training.app, results.app)
    commands = [command for group in groups for command in group.registered_commands]
    names = [command.name for command in commands]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"plugins: the name {name!r} is taken by a command of icl-lens; rename the folder of the study")
    # Typer needs about a millisecond for each command.
    app.registered_commands = [command for command in commands if [command.name] == arguments[:1]] or commands
    return app


def _print_version(requested: bool) -> None:
    if requested:
        from importlib import metadata

        print(f"icl-lens {metadata.version('icl-lens')}")
        raise typer.Exit


def _options(
    plugin: Annotated[
        list[Path] | None,
        typer.Option(
            help="The folder of your own study, with its study.py. Adds the command of the study. May be repeated, also after "
            "the command."
        ),
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Declare the options of ``icl-lens`` itself; :func:`main` handles ``--plugin``."""
