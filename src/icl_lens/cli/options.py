"""The class of all commands, and the options that several commands share."""

from __future__ import annotations

import errno
import functools
import inspect
import logging
import os
import platform
import re
import resource
import stat
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import typer
from typer.core import TyperCommand

from icl_lens.artifacts import files
from icl_lens.cli import streams
from icl_lens.cli.commands import ENV_DEFAULTS, print_error, version
from icl_lens.config import keys
from icl_lens.errors import InputError
from icl_lens.models.options import LoadOptions, RunOptions, merge
from icl_lens.progress import amount
from icl_lens.prompts.forms import Anchor, Score
from icl_lens.tasks.task import TASKS

logger = logging.getLogger(__name__)

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
READ_ONCE = ("compress", "reweight-components", "walk")

# Commands that need exactly one of several options. This is checked before a model is downloaded.
ONE_OF = {"classify": ("cache", "components")}

# The values of --bos and the corresponding values of RunOptions.bos.
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
        help="With --placement auto: how much memory the layers may use on each device, as JSON with units, for example "
        '{"0": "60GB", "cpu": "200GB"}; by default, 80 % of the free memory.'
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
ChatTurns = Annotated[
    bool,
    typer.Option(
        "--chat-turns",
        help="Like --chat, but each demonstration is a turn of the user (its text) and a turn of the assistant (its label).",
    ),
]
LabelScore = Annotated[
    Score,
    typer.Option(
        help="How a class is predicted: by the first token of its label word, or by the sum of the log-probabilities of all "
        "its tokens (whole)."
    ),
]
LabelAnchor = Annotated[
    Anchor, typer.Option(help="Which tokens of each label word are isolated, read and re-weighted: first, last or all.")
]
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
        start = time.monotonic()
        self._log_versions(ctx.params)
        try:
            self._prepare(ctx.params)
            return super().invoke(ctx)
        except InputError as error:
            if error.__cause__ is not None:
                logger.debug("the error was caused by %r", error.__cause__)
            print_error(f"{ctx.command_path}: {self._with_option(ctx, str(error))}")
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
        finally:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
            logger.debug("%s took %.1f s and at most %s of memory", self.name, time.monotonic() - start, amount(peak))

    def _log_versions(self, options: dict[str, Any]) -> None:
        """Log the versions of icl-lens, Python and the libraries, and the options of the command, if the command is verbose."""
        if not logger.isEnabledFor(logging.DEBUG):
            return
        from icl_lens.artifacts.provenance import library_versions

        libraries = ", ".join(f"{name} {version}" for name, version in library_versions().items())
        logger.debug("%s, Python %s, %s", version(), platform.python_version(), libraries)
        given = {name: value for name, value in options.items() if value not in (None, ())}
        logger.debug("%s: %s", self.name, ", ".join(f"{name} = {value}" for name, value in given.items()))

    def _with_option(self, ctx: typer.Context, sentence: str) -> str:
        """Return an error with the option of the file or folder that it is about. An error that names an option is unchanged.

        The code that finds an error in a file does not know which option names the file.
        """
        # The text of one of these options is a part of a config, and an error names its key.
        texts = [name for name in ("settings", "recipe", "definition") if ctx.params.get(name)]
        if sentence.startswith("config: ") and (texts or "task" in ctx.params):
            if "task" in ctx.params and sentence.startswith("config: tasks: "):
                return sentence.replace("config: tasks: ", "--task: ", 1)
            return sentence.replace("config: ", f"--{texts[0]}: ") if len(texts) == 1 else sentence
        parameters = self.get_params(ctx)
        if any(_mentions(sentence, option) for parameter in parameters for option in parameter.opts):
            return sentence
        found: dict[str, str] = {}
        for parameter in parameters:
            value = ctx.params.get(parameter.name or "")
            for path in value if isinstance(value, list | tuple) else [value]:
                is_path = isinstance(path, Path) or parameter.name == "model"
                if is_path and path is not None and parameter.opts[0].startswith("--") and _mentions(sentence, str(path)):
                    found[parameter.opts[0]] = str(path)
        longest = max(map(len, found.values()), default=0)
        named = [option for option, path in found.items() if len(path) == longest]
        return f"{named[0]}: {sentence}" if len(named) == 1 else sentence

    def _prepare(self, options: dict[str, Any]) -> None:
        """Check the options and the output files, set the environment of the libraries, and download the model if needed."""
        alternatives = ONE_OF.get(self.name or "", ())
        if alternatives and (given := sum(options[name] is not None for name in alternatives)) != 1:
            names = " or ".join(f"--{name}" for name in alternatives)
            raise InputError(f"give either {names}{', not both' if given else ''}")
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


def _mentions(sentence: str, path: str) -> bool:
    """Return whether a sentence contains a path, and not only as a part of another path or word."""
    return re.search(rf"(?<![\w./-]){re.escape(path)}(?![\w/-]|\.\w)", sentence) is not None


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


class ModelOption(NamedTuple):
    """An option of each command that runs a model, unless the command leaves it out.

    Attributes:
        annotation: Type and help of the option.
        default: Its default.
    """

    annotation: Any
    default: Any


# The options with which a command loads and runs a model, by the name of the parameter, in the order of the help. They are
# fields of LoadOptions and RunOptions, apart from those that :func:`_from_command_line` converts.
MODEL_OPTIONS = {
    "name": ModelOption(ModelName, LoadOptions.name),
    "revision": ModelOption(Revision, None),
    "downloads": ModelOption(Downloads, Path("downloads")),
    "device": ModelOption(Device, LoadOptions.device),
    "dtype": ModelOption(Dtype, LoadOptions.dtype),
    "matmul": ModelOption(Matmul, RunOptions.matmul),
    "batch_tokens": ModelOption(BatchTokens, RunOptions.batch_tokens),
    "bos": ModelOption(Bos, "auto"),
    "chat": ModelOption(Chat, False),
    "chat_turns": ModelOption(ChatTurns, False),
    "label_score": ModelOption(LabelScore, RunOptions.label_score),
    "label_anchor": ModelOption(LabelAnchor, RunOptions.label_anchor),
    "untrained": ModelOption(Untrained, LoadOptions.untrained_seed),
    "adapter": ModelOption(Adapter, LoadOptions.adapter),
    "placement": ModelOption(Placement, LoadOptions.placement),
    "max_memory": ModelOption(MaxMemory, None),
}


def with_model_options(*without: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator for the function of a command that loads and runs a model.

    The decorated function takes :data:`MODEL_OPTIONS` as keyword arguments, in place of the parameters ``load_options`` and
    ``run_options`` of the original function. Typer reads the options of the command from its signature.

    Args:
        without: Names of the options that the command does not have.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        chosen = {name: option for name, option in MODEL_OPTIONS.items() if name not in without}

        @functools.wraps(function)
        def command(*arguments: Any, **values: Any) -> None:
            given = {name: values.pop(name) for name in chosen}
            load_options, run_options = merge(None, None, **_from_command_line(given))
            function(*arguments, **values, load_options=load_options, run_options=run_options)

        new = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=option.default, annotation=option.annotation)
            for name, option in chosen.items()
        ]
        parameters: list[inspect.Parameter] = []
        for name, parameter in inspect.signature(function, eval_str=True).parameters.items():
            if name != "run_options":
                parameters += new if name == "load_options" else [parameter]
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return command

    return decorate


def _from_command_line(given: dict[str, Any]) -> dict[str, Any]:
    """Convert values of :data:`MODEL_OPTIONS` to fields of :class:`LoadOptions` and :class:`RunOptions`.

    Raises:
        InputError: ``--chat`` and ``--chat-turns`` are combined, or see :func:`icl_lens.network.max_memory.from_json`.
    """
    from icl_lens.network.max_memory import from_json

    fields = dict(given)
    for name in ("revision", "downloads"):  # Command has resolved the model with them
        fields.pop(name, None)
    if "bos" in fields:
        fields["bos"] = BOS[fields["bos"]]
    if "chat" in fields:
        as_chat, turns = fields.pop("chat"), fields.pop("chat_turns")
        if as_chat and turns:
            raise InputError("--chat and --chat-turns cannot be combined; remove one of them")
        fields["as_chat"] = "turns" if turns else as_chat
    if "untrained" in fields:
        fields["untrained_seed"] = fields.pop("untrained")
    if fields.get("max_memory") is not None:
        fields["max_memory"] = from_json(fields["max_memory"])
    return fields


def quieten_transformers() -> None:
    """Disable the log messages, progress bars and notices of deprecation of transformers."""
    import warnings

    import transformers

    # Versions from 5.24 rename this argument, and accept the old name until 5.40 (see pyproject.toml).
    warnings.filterwarnings("ignore", message=".*past_key_values.* is deprecated", category=FutureWarning)

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
