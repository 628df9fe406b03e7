"""The class of all commands, and the options that several commands share."""

from __future__ import annotations

import errno
import logging
import os
import stat
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperCommand

from icl_lens.artifacts import files
from icl_lens.cli import streams
from icl_lens.cli.commands import ENV_DEFAULTS, print_error
from icl_lens.config import keys
from icl_lens.errors import InputError
from icl_lens.tasks.task import TASKS

# Commands that may use the network.
ONLINE_COMMANDS = ("fetch-model", "fetch-dataset")

# Options, apart from --out, with a file or folder that the command writes.
OUTPUT_OPTIONS = {
    "training": ("facts", "work", "checkpoints"),
    "reader-training": ("checkpoints",),
    "card": ("folder",),
    "reader-card": ("folder",),
    "record": ("json",),
}

# Commands that read each of their files once, so that a file may be a pipe.
READ_ONCE = ("compress", "reweight-components")

# The values of --bos and the corresponding argument of icl_lens.prompts.positions.tokenize.
BOS = {"auto": "auto", "yes": True, "no": False}

Model = Annotated[str, typer.Option(help="A folder with a checkpoint and its tokenizer, or the id of a Hub model.")]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit of a Hub model; main by default.")]
Downloads = Annotated[Path, typer.Option(help="The folder for downloaded Hub models.")]
Device = Annotated[keys.Device, typer.Option(help="The device that runs the model.")]
Gpus = Annotated[
    int,
    typer.Option(
        min=0,
        help="Number of GPUs to reserve: the command waits until so many are free, and runs on these. By default it does not "
        "reserve any and runs on the first. The workflow sets it.",
    ),
]
Placement = Annotated[
    keys.Placement,
    typer.Option(help="device: the model is on one device. auto: its layers are on all cards, in main memory and on the disk."),
]
MaxMemory = Annotated[
    str | None,
    typer.Option(
        help='With --placement auto: how much memory the layers may use, as JSON, for example {"0": "60GB", "cpu": "200GB"}.'
    ),
]
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
Untrained = Annotated[
    int | None,
    typer.Option(min=0, max=2**32 - 1, help="Replace the weights by random weights drawn with this seed (an untrained copy)."),
]
Adapter = Annotated[
    Path | None,
    typer.Option(help="The folder of a LoRA adapter (written by peft) that is merged into the weights of the model."),
]
BatchTokens = Annotated[int, typer.Option(min=1, help="Number of tokens per batch, including padding.")]
Shard = Annotated[
    str | None,
    typer.Option(
        metavar="I/N", help="Run only the I-th of N parts of the prompts, and write a part of the table; see merge-shards."
    ),
]
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
            print_error(f"{ctx.command_path}: {error}")
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            print_error(f"{ctx.command_path}: interrupted")
            raise typer.Exit(130) from None
        except Exception as error:  # libraries raise many types of exceptions, see files.error_number
            sentence = files.refusal_elsewhere(error)
            if sentence is None:
                raise
            print_error(f"{ctx.command_path}: {sentence}")
            streams.discard_output()
            raise typer.Exit(1) from None

    def _prepare(self, options: dict[str, Any]) -> None:
        """Check the output files, set the environment of the libraries and download the model if needed."""
        for name in ("out", *OUTPUT_OPTIONS.get(self.name or "", ())):
            if name in options:
                require_separate(f"--{name}", options[name], options)
                require_writable(f"--{name}", options[name], folder=name in ("work", "checkpoints", "folder"))
        if self.name not in READ_ONCE:
            for name, value in options.items():
                if isinstance(value, Path) and name != "out":
                    require_rereadable(f"--{name}", value)
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


def require_separate(option: str, out: Path, options: dict[str, Any]) -> None:
    """Check that an output replaces neither an input of the command nor a device, socket or named pipe.

    Args:
        option: The option of the output.
        out: The output.
        options: All options of the command by name. The files and model folders among their values are inputs.

    Raises:
        InputError: The output is an input, a file in a model folder, or a device, socket or named pipe.
    """
    try:
        if not out.exists() or out.is_dir():
            return
    except OSError:  # no permission to read the folder: :func:`require_writable` reports it
        return
    if not out.is_file():
        raise InputError(f"{option} {out} is not a regular file, and writing would replace it; specify another file")
    for name, value in options.items():
        values = value if isinstance(value, list | tuple) else [value]
        for path in (Path(each) for each in values if isinstance(each, str | Path) and str(each) and "\0" not in str(each)):
            named = f"--{name.replace('_', '-')}"
            if named != option and path.is_file() and path.samefile(out):
                raise InputError(f"{option} {out} is also {named}, and writing would replace it; specify another file")
            if name in ("model", "adapter") and path.is_dir() and out.resolve().parent == path.resolve():
                raise InputError(f"{option} {out} is a file of the {name} folder; specify a file in another folder")


def require_rereadable(option: str, path: Path) -> None:
    """Check that an input is not a pipe, device or socket, because it is read more than once, for example for its hash.

    Raises:
        InputError: The input is neither a file nor a folder, or it is a link to itself. A missing input is not an error.
    """
    try:
        mode = path.stat().st_mode
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise InputError(f"{option} {path} cannot be read ({error.strerror}); replace it by a file") from error
        return
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise InputError(f"{option} {path} is a pipe, device or socket; save its content in a file and specify this file")


def require_writable(option: str, out: Path, folder: bool = False) -> None:
    """Check that the output can be written, before a long computation starts.

    Args:
        option: The option, for the error.
        out: The output.
        folder: Whether the output is a folder. It is not created.

    Raises:
        InputError: The output cannot be written, or it is a folder and should be a file.
    """
    try:
        if folder:
            files.require_writable_folder(out if out.is_dir() else out.parent)
        else:
            files.require_writable(out)
    except InputError as error:
        raise InputError(f"{option}: {error}") from error


def memory_limits(max_memory: str | None) -> dict[str, str] | None:
    """Return the value of ``--max-memory``.

    Raises:
        InputError: See :func:`icl_lens.network.max_memory.from_json`.
    """
    from icl_lens.network.max_memory import from_json

    return None if max_memory is None else from_json(max_memory)


def quieten_transformers() -> None:
    """Disable the log messages and progress bars of transformers."""
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
