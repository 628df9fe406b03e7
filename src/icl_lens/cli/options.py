"""Command-line options shared by several commands, and checks of their values."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import get_args

from icl_lens.config.keys import Device, Dtype, Matmul
from icl_lens.errors import InputError
from icl_lens.tasks.task import TASKS

# A function that adds a command, given its name, the function that runs it and its help. The function that runs it returns the
# exit status, where None means 0.
Add = Callable[[str, Callable[[argparse.Namespace], int | None], str], argparse.ArgumentParser]

# The values of --bos and the corresponding argument of icl_lens.prompts.positions.tokenize.
BOS = {"auto": "auto", "yes": True, "no": False}


def add_model(command: argparse.ArgumentParser) -> None:
    """Add the options that select the model, its device and its matrix multiplication mode."""
    command.add_argument("--model", required=True, help="a folder with a checkpoint and its tokenizer, or a model of the hub")
    command.add_argument("--revision", help="of a model of the hub: a branch, a tag or a commit; main by default")
    command.add_argument("--downloads", default="downloads", type=Path, help="the folder that models of the hub are fetched to")
    command.add_argument("--device", default="auto", choices=get_args(Device))
    command.add_argument(
        "--matmul",
        default="exact",
        choices=get_args(Matmul),
        help="products of float32 matrices: exact, or fast (TF32 on CUDA, bfloat16 on CPUs that have it in hardware)",
    )


def add_reading(command: argparse.ArgumentParser) -> None:
    """Add the options for the number format, the BOS token and the chat template."""
    command.add_argument("--dtype", default="float32", choices=get_args(Dtype))
    command.add_argument("--bos", default="auto", choices=BOS, help="put a beginning-of-sequence token before each prompt")
    command.add_argument("--chat", action="store_true", help="write each prompt as a chat, by the tokenizer's template")


def add_batch_tokens(command: argparse.ArgumentParser) -> None:
    """Add the option that sets the batch size."""
    command.add_argument("--batch-tokens", type=positive, default=4096, help="tokens per batch, padding included")


def add_task(command: argparse.ArgumentParser) -> None:
    """Add the options that select the task."""
    command.add_argument("--task", required=True, help=f"{', '.join(TASKS)}, or any name with --definition")
    command.add_argument("--definition", help="a task of your own: its keys under `own_tasks` in the config, as YAML")


def seed(text: str) -> int:
    """Parse the value of an option as a seed in the range that all random generators accept.

    Raises:
        ArgumentTypeError: The value is outside this range.
    """
    value = int(text)
    if not 0 <= value < 2**32:
        raise argparse.ArgumentTypeError(f"{value} is no seed; it must lie between 0 and {2**32 - 1}")
    return value


def positive(text: str) -> int:
    """Parse the value of an option as a positive integer.

    Raises:
        ArgumentTypeError: The value is less than 1.
    """
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is too few; at least 1 is needed")
    return value


def require_place(option: str, out: Path) -> None:
    """Check that the output can be written, before a long computation starts.

    Raises:
        InputError: The output is a folder or cannot be written.
    """
    if out.is_dir():
        raise InputError(f"{option} {out} is a folder; name a file")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out.parent):
            pass
    except OSError as error:
        raise InputError(f"{option} {out} cannot be written there ({error.strerror})") from error


def quieten_transformers() -> None:
    """Disable the log messages and progress bars of transformers."""
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
