"""Command that shows one prompt of the user on one page."""

from __future__ import annotations

import logging
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from icl_lens.cli import options
from icl_lens.cli.tools import PANEL
from icl_lens.errors import InputError
from icl_lens.models.options import LoadOptions, RunOptions
from icl_lens.tasks.task import TASKS

logger = logging.getLogger(__name__)

app = typer.Typer()


@app.command("walk", cls=options.Command, rich_help_panel=PANEL)
@options.with_model_options("untrained")
def _walk(
    *,
    model: options.Model,
    out: Annotated[Path, typer.Option(help="The page to write, an HTML file that needs no other file.")],
    task: Annotated[str | None, typer.Option(help=f"{', '.join(TASKS)}, or any name with --definition.")] = None,
    demos: Annotated[
        Path | None, typer.Option(help="With --task, the demonstrations: .jsonl, .csv, .tsv or .parquet with text and label.")
    ] = None,
    query: Annotated[str | None, typer.Option(help="With --task, the text whose label the model predicts.")] = None,
    definition: options.Definition = None,
    prompt: Annotated[
        Path | None,
        typer.Option(
            help="Instead of --task, a text file with the whole prompt, which ends where the label of the query would begin; - "
            "means standard input."
        ),
    ] = None,
    label_words: Annotated[
        list[str] | None, typer.Option(help="With --prompt, the label words, for example Positive Negative.")
    ] = None,
    gold: Annotated[
        str | None,
        typer.Option(help="The correct label of the query. Without it, the information flow is that of the predicted label."),
    ] = None,
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in the default browser.")] = False,
    load_options: LoadOptions,
    run_options: RunOptions,
) -> None:
    """Show one prompt on one page: information flow, attention, isolated label words, cuts of attention, answers by layer."""
    given = {"--task": task, "--demos": demos, "--query": query, "--definition": definition}
    _require_one_source(given, prompt, label_words)
    from icl_lens.api.prompt import Prompt
    from icl_lens.config import parse
    from icl_lens.corpora import records
    from icl_lens.tools import text_files

    if prompt is not None:
        try:
            parsed = Prompt.parse(records.read_text(prompt), label_words, gold=gold)
        except InputError as error:
            raise InputError(f"--prompt {prompt}: {str(error).removeprefix('text: ')}") from None
    else:
        described, _ = parse.parse_task(task, definition)
        texts, labels = text_files.demonstrations(demos, described)
        parsed = Prompt.from_examples(described, list(zip(texts, labels, strict=True)), query, gold=gold)
    options.quieten_transformers()
    from icl_lens.api.tables import prompts_table
    from icl_lens.models import loading
    from icl_lens.report import prompt_page

    page = prompt_page.compute(loading.load(model, load_options), prompts_table(parsed), run_options)
    page.save(out)
    logger.info("wrote %s", out)
    if open_page and not webbrowser.open(out.resolve().as_uri()):
        logger.warning("--open: no browser was found; open %s in a browser", out)


def _require_one_source(given: dict[str, object], prompt: Path | None, label_words: list[str] | None) -> None:
    """Check that the options describe a prompt in exactly one way.

    Args:
        given: The options for a prompt that is written from a task, with their values.
        prompt: File with a whole prompt.
        label_words: The label words of the prompt in this file.

    Raises:
        InputError: They do not.
    """
    present = [option for option, value in given.items() if value is not None]
    if prompt is not None:
        if present:
            raise InputError(f"--prompt contains the demonstrations and the query; remove {' and '.join(present)}, or --prompt")
        if not label_words:
            raise InputError(
                "--label-words is missing; --prompt needs the label words, for example --label-words Positive Negative"
            )
        return
    if label_words:
        raise InputError(
            "--label-words describes the text of --prompt, and a task has its own label words; remove --label-words"
        )
    needed = {"--task": "the task", "--demos": "the file with the demonstrations", "--query": "the text to classify"}
    if not present:
        raise InputError("no prompt is given; specify --task, --demos and --query, or --prompt and --label-words")
    missing = next((option for option in needed if given[option] is None), None)
    if missing:
        raise InputError(f"{missing} is missing; specify {needed[missing]}, or --prompt with a whole prompt")
