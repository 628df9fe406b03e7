"""The class of all commands, and the options that several commands share."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperCommand

from icl_lens.cli.commands import ENV_DEFAULTS
from icl_lens.config import keys
from icl_lens.errors import InputError
from icl_lens.tasks.task import TASKS

# Commands that may use the network.
ONLINE_COMMANDS = ("fetch-model", "fetch-dataset")

# The values of --bos and the corresponding argument of icl_lens.prompts.positions.tokenize.
BOS = {"auto": "auto", "yes": True, "no": False}

Model = Annotated[str, typer.Option(help="A folder with a checkpoint and its tokenizer, or the id of a Hub model.")]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit of a Hub model; main by default.")]
Downloads = Annotated[Path, typer.Option(help="The folder for downloaded Hub models.")]
Device = Annotated[keys.Device, typer.Option(help="The device that runs the model.")]
Matmul = Annotated[
    keys.Matmul,
    typer.Option(
        help="How to multiply float32 matrices: exact, or fast (TF32 on CUDA, bfloat16 on CPUs that support it in hardware)."
    ),
]
Dtype = Annotated[keys.Dtype, typer.Option(help="The number format of the weights and activations.")]
Bos = Annotated[
    Literal["auto", "yes", "no"],
    typer.Option(help="Whether to prepend the BOS token to each prompt; auto does what the tokenizer does."),
]
Chat = Annotated[bool, typer.Option("--chat", help="Format each prompt with the chat template of the tokenizer.")]
BatchTokens = Annotated[int, typer.Option(min=1, help="Number of tokens per batch, including padding.")]
Task = Annotated[str, typer.Option(help=f"{', '.join(TASKS)}, or any name with --definition.")]
Definition = Annotated[str | None, typer.Option(help="Your own task: its keys under `own_tasks` in the config, as YAML.")]
ModelName = Annotated[
    str | None, typer.Option(help="The name of the model in the output; by default the name of the folder or the Hub model.")
]


class Command(TyperCommand):
    """A command that prepares the environment and reports errors in one line."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:
        """Parse the arguments. An option that may be repeated also accepts several values: ``--seeds 1 2``."""
        return super().parse_args(ctx, self._one_value_per_option(ctx, args))

    def _one_value_per_option(self, ctx: typer.Context, args: list[str]) -> list[str]:
        """Return the arguments with ``--seeds 1 --seeds 2`` instead of ``--seeds 1 2``, which typer cannot parse.

        A repeatable option without values is omitted.
        """
        options = {name: option for option in self.get_params(ctx) for name in option.opts}
        expanded: list[str] = []
        incomplete = ""  # the preceding option, if it still needs its value
        repeatable = ""  # the option that the next values belong to
        for position, argument in enumerate(args):
            if argument == "--":
                return expanded + args[position:]
            if not _is_option(argument):
                expanded += [repeatable, argument] if repeatable else [argument]
                incomplete = ""
                continue
            option = options.get(argument)
            if option and incomplete and not ctx.resilient_parsing:  # typer would use the name of the option as the value
                ctx.fail(f"Option {incomplete!r} requires an argument.")
            repeatable = argument if option and option.multiple else ""
            incomplete = argument if option and not option.multiple and not option.is_flag else ""
            expanded += [] if repeatable else [argument]
        return expanded

    def invoke(self, ctx: typer.Context) -> Any:
        """Run the command."""
        logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
        try:
            self._prepare(ctx.params)
            return super().invoke(ctx)
        except InputError as error:
            print(f"{ctx.command_path}: {error}", file=sys.stderr)
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            print(f"{ctx.command_path}: interrupted", file=sys.stderr)
            raise typer.Exit(130) from None

    def _prepare(self, options: dict[str, Any]) -> None:
        """Check the output files, set the environment of the libraries and download the model if needed."""
        for name in ("out", "facts") if self.name == "training" else ("out",):
            if name in options:
                require_writable(f"--{name}", options[name])
        os.environ.update({**ENV_DEFAULTS, **os.environ})
        if self.name not in ONLINE_COMMANDS:
            if "model" in options:
                from icl_lens.hub import fetch

                options["model"] = fetch.resolve(options["model"], options["revision"], options["downloads"])
            # huggingface_hub reads this variable once, on import, so it is set first. (Another process downloads the model.)
            os.environ["HF_HUB_OFFLINE"] = "1"


def _is_option(argument: str) -> bool:
    """Return whether an argument is an option, and not a value such as ``-1`` or ``-`` (standard input)."""
    return argument.startswith("-") and argument != "-" and not argument[1:].isdigit()


def require_writable(option: str, out: Path) -> None:
    """Check that the output can be written, before a long computation starts.

    Raises:
        InputError: The output is a folder or cannot be written.
    """
    if out.is_dir():
        raise InputError(f"{option} {out} is a folder; specify a file")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out.parent):
            pass
    except OSError as error:
        raise InputError(f"{option} {out} cannot be written ({error.strerror}); specify a file in a writable folder") from error


def quieten_transformers() -> None:
    """Disable the log messages and progress bars of transformers."""
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
