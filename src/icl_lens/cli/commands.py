"""Entry point of the ``icl-lens`` command, for the workflow rules and for users."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from typer.models import CommandInfo

from icl_lens.cli import streams
from icl_lens.cli.preloaded import WORKFLOW_STDERR
from icl_lens.errors import InputError

# Default environment variables for the libraries, which read them on import. By default, waiting GNU OpenMP threads spin for
# milliseconds before they sleep. This makes small models many times slower on a machine with any other load, so the spin time
# is reduced to microseconds. The second variable disables the telemetry of huggingface_hub.
ENV_DEFAULTS = {"GOMP_SPINCOUNT": "10000", "HF_HUB_DISABLE_TELEMETRY": "1"}

EXIT_STATUS = {
    0: "success",
    1: "invalid input, or audit found a fault",
    2: "invalid arguments",
    130: "interrupted (Ctrl-C)",
}
"""Exit status of each command -> its meaning."""


def main(arguments: list[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: The command-line arguments; ``sys.argv[1:]`` by default.

    Returns:
        The exit status, see :data:`EXIT_STATUS`. Errors are one line on standard error.
    """
    try:
        streams.prepare()
        plugins, verbose, arguments = _split_shared_options(sys.argv[1:] if arguments is None else arguments)
        configure_logging(verbose)
        command = typer.main.get_command(_app(plugins, arguments))
    except InputError as error:
        print_error(f"icl-lens: {error}")
        return 1
    except KeyboardInterrupt:
        print_error("icl-lens: interrupted")
        return 130
    try:
        with streams.printing():
            return command.main(arguments, prog_name="icl-lens", standalone_mode=False) or 0
        return 0
    except InputError as error:
        print_error(f"icl-lens: {error}")
        return 1
    except KeyboardInterrupt:
        print_error("icl-lens: interrupted")
        return 130
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


def configure_logging(verbose: bool) -> None:
    """Write log messages to standard error: warnings and progress; if verbose, also details, and the time of each message."""
    logger = logging.getLogger("icl_lens")
    if not verbose:
        logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
        logger.setLevel(logging.NOTSET)
        return
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s", stream=sys.stderr, force=True)
    logger.setLevel(logging.DEBUG)


def _split_shared_options(arguments: list[str]) -> tuple[list[str], bool, list[str]]:
    """Return the folders given by ``--plugin``, whether ``--verbose`` is given, and the other arguments.

    These two options can be before or after the command. The folders determine which commands exist, so they are needed before
    the other arguments can be parsed.

    Raises:
        InputError: An option ``--plugin`` has no value.
    """
    folders, verbose, command_arguments = [], False, []
    remaining = iter(arguments)
    for argument in remaining:
        if argument == "--plugin":
            folder = next(remaining, "")
            if not folder:
                raise InputError("--plugin has no value; specify the folder of a study")
            folders.append(folder)
        elif argument.startswith("--plugin="):
            folders.append(argument.partition("=")[2])
        elif argument in ("-v", "--verbose"):
            verbose = True
        else:
            command_arguments += [argument, *(remaining if argument == "--" else ())]
    return folders, verbose, command_arguments


def _app(plugins: list[str], arguments: list[str]) -> typer.Typer:
    """Build the called command, or all commands, including those of the studies in the plugin folders.

    Raises:
        InputError: See :func:`icl_lens.studies.registry.add_plugins`; or a study has the same name as another command.
    """
    # Imported here because the import can also fail, if a plugin named in the environment is invalid.
    from icl_lens.studies import registry

    registry.add_plugins(plugins)
    app = typer.Typer(
        callback=_options,
        help="Run studies of in-context learning, step by step.",
        epilog=f"Exit status: {'; '.join(f'{status} {meaning}' for status, meaning in EXIT_STATUS.items())}.",
        context_settings={"help_option_names": ["-h", "--help"]},
        pretty_exceptions_enable=False,
    )
    commands = _commands()
    names = [command.name for command in commands]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"plugins: the name {name!r} is taken by a command of icl-lens; rename the folder of the study")
    # Typer needs about a millisecond for each command.
    app.registered_commands = [command for command in commands if [command.name] == arguments[:1]] or commands
    return app


def _commands() -> list[CommandInfo]:
    """Return all commands, including those of the registered plugins."""
    from icl_lens.cli import data, results, studies, tools, training, walk

    groups = (data.app, studies.app(), tools.app, walk.app, training.app, results.app)
    return [command for group in groups for command in group.registered_commands]


def command_names() -> list[str]:
    """Return the names of all commands."""
    return [command.name for command in _commands() if command.name]


def version() -> str:
    """Return the name and version of the installed package."""
    from importlib import metadata

    return f"icl-lens {metadata.version('icl-lens')}"


def _print_version(requested: bool) -> None:
    if requested:
        print(version())
        raise typer.Exit


def _options(
    plugin: Annotated[
        list[Path] | None,
        typer.Option(
            help="The folder of your own study, with its study.py. Adds the command of the study. May be repeated, also after "
            "the command."
        ),
    ] = None,
    verbose: Annotated[
        bool,
        typer.Option(
            "--verbose",
            "-v",
            help="Write details to standard error: versions, options, the cause of an error, time in seconds and memory. Also "
            "after the command.",
        ),
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Declare the options of ``icl-lens`` itself; :func:`main` handles ``--plugin`` and ``--verbose``."""
