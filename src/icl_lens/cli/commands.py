"""Entry point of the ``icl-lens`` command, for the workflow rules and for users."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence

from icl_lens.errors import InputError

# Commands that may use the network.
FETCHING = ("fetch-model", "fetch-dataset")

# Default environment variables for the libraries, which read them on import. By default, waiting GNU OpenMP threads spin for
# milliseconds before they sleep. This makes small models many times slower on a machine with any other load, so the spin time
# is reduced to microseconds. The second variable disables the telemetry of huggingface_hub.
LIBRARIES_TOLD = {"GOMP_SPINCOUNT": "10000", "HF_HUB_DISABLE_TELEMETRY": "1"}


def main(arguments: list[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: The command-line arguments; ``sys.argv[1:]`` by default.

    Returns:
        The exit status: 0 on success, 1 for invalid input (with a one-sentence error on standard error), 130 if interrupted, or
        the status that the command returns.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        parser = _parser(_plugins(arguments))
    except InputError as error:
        print(f"icl-lens: {error}", file=sys.stderr)
        return 1
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        from icl_lens.cli.options import require_place

        for name in ("out", "facts") if options.command == "training" else ("out",):
            if name in options:
                require_place(f"--{name}", getattr(options, name))
        os.environ.update({**LIBRARIES_TOLD, **os.environ})
        if options.command not in FETCHING:
            if "model" in options:
                from icl_lens.hub import fetch

                options.model = fetch.resolve(options.model, options.revision, options.downloads)
            # huggingface_hub reads this variable once, on import, so it is set first. (Another process downloads the model.)
            os.environ["HF_HUB_OFFLINE"] = "1"
        return options.run(options) or 0
    except InputError as error:
        print(f"icl-lens {options.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"icl-lens {options.command}: interrupted", file=sys.stderr)
        return 130


def _plugins(arguments: Sequence[str]) -> list[str]:
    """Return the folders given by ``--plugin`` before the command. They determine which commands are available."""
    parser = argparse.ArgumentParser(prog="icl-lens", add_help=False)
    _add_plugin(parser)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    return parser.parse_known_args(arguments)[0].plugin


def _add_plugin(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--plugin",
        action="append",
        default=[],
        metavar="FOLDER",
        help="the folder of a study of your own, with its study.py; its command is added; may be given several times",
    )


def _parser(plugins: Sequence[str]) -> argparse.ArgumentParser:
    """Build the parser of all commands, including those of the studies in the plugin folders.

    Raises:
        InputError: See :func:`icl_lens.studies.registry.add_plugins`; or a study has the same name as another command.
    """
    # Imported here because the import can also fail, if a plugin named in the environment is invalid.
    from icl_lens.cli import data, results, studies, tools, training
    from icl_lens.studies import registry

    registry.add_plugins(plugins)
    parser = argparse.ArgumentParser(prog="icl-lens", description="Studies of in-context learning, step by step.")
    _add_plugin(parser)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run, help: str) -> argparse.ArgumentParser:
        if name in commands.choices:
            raise InputError(f"plugins: icl-lens has a command {name} already; rename the folder of the study")
        added = commands.add_parser(name, help=help.replace("%", "%%"), description=help)
        added.set_defaults(run=run)
        return added

    for room in (data, studies, tools, training, results):
        room.add(command)
    return parser
