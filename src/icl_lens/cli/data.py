"""Commands that prepare the inputs of studies: corpora, prompts, and models and data sets from the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from icl_lens.cli.options import Command, Definition, Task, quieten_transformers
from icl_lens.errors import InputError
from icl_lens.prompts.sets import AUXILIARY

PANEL = "Data"

Hub = Annotated[str, typer.Option(help="The id on the Hub: owner/name.")]
Revision = Annotated[str, typer.Option(help="Branch, tag or commit.")]
Attempts = Annotated[int, typer.Option(min=1, help="Maximum number of consecutive attempts that receive no data.")]
Record = Annotated[Path, typer.Option(help="The file fetched.json in the folder to create.")]

app = typer.Typer()


@app.command("corpora", cls=Command, rich_help_panel=PANEL)
def _corpora(
    task: Task,
    out: Annotated[Path, typer.Option(help="The corpora table to write.")],
    definition: Definition = None,
    seed: Annotated[int | None, typer.Option(min=0, max=2**32 - 1, help="Generate the built-in texts from this seed.")] = None,
    train: Annotated[
        Path | None, typer.Option(help="The training file of the original release, or a table of your own task.")
    ] = None,
    test: Annotated[
        Path | None, typer.Option(help="The test file of the original release (SST-2: the dev file), or a table.")
    ] = None,
    fetched: Annotated[Path | None, typer.Option(help="The folder of a data set downloaded from the Hub.")] = None,
    drop_test_duplicates: Annotated[
        bool, typer.Option("--drop-test-duplicates", help="Remove test texts that are also training texts.")
    ] = False,
    shuffle_labels: Annotated[
        int | None,
        typer.Option(min=0, max=2**32 - 1, help="Permute the labels among the texts of each split, with this seed."),
    ] = None,
) -> None:
    """Write the texts and labels of one task as a table."""
    from icl_lens.config import parse
    from icl_lens.corpora import hub, tables
    from icl_lens.corpora.columns import Columns

    parsed, own_task = parse.parse_task(task, definition)
    files = (train, test)
    if [seed is not None, any(files), fetched is not None].count(True) != 1 or (any(files) and None in files):
        raise InputError("give one of --seed (the built-in texts), --train and --test (files), --fetched (from the Hub)")
    if fetched is not None:
        if own_task and own_task.hub is None:
            raise InputError(f"--definition of {task} names no data set on the Hub; add its key `hub`, or omit --fetched")
        dataset = hub.own_task_dataset(own_task) if own_task else hub.DATASETS[task]
        tables.write_hub(parsed, dataset, fetched, out, drop_test_duplicates, shuffle_labels)
    elif own_task and any(files):
        layout = Columns(tuple(own_task.text), own_task.label, parsed.classes)
        tables.write_columns(parsed, layout, *files, out, drop_test_duplicates, shuffle_labels)
    elif own_task:
        raise InputError(f"{task} is your own task, and has no built-in texts; give --train and --test, or --fetched")
    elif seed is not None:
        tables.write_builtin(task, seed, out, drop_test_duplicates, shuffle_labels)
    else:
        tables.write_files(task, *files, out, drop_test_duplicates, shuffle_labels)


@app.command("prompts", cls=Command, rich_help_panel=PANEL)
def _prompts(
    task: Task,
    corpus: Annotated[Path, typer.Option(help="A corpora table.")],
    set_name: Annotated[str, typer.Option("--set", help="The prompt set: fresh-1shot, shared-5shot, shared-0shot, ...")],
    seeds: Annotated[list[int], typer.Option(min=0, max=2**32 - 1, help="One or more seeds.")],
    queries: Annotated[int, typer.Option(min=1, help="Maximum number of test texts per seed.")],
    out: Annotated[Path, typer.Option(help="The prompts table to write.")],
    definition: Definition = None,
    auxiliary: Annotated[
        int, typer.Option(min=1, help="Number of training texts per class in a set named ...-auxiliary.")
    ] = AUXILIARY,
) -> None:
    """Sample the prompts of one task."""
    from icl_lens.config import parse
    from icl_lens.prompts import protocol

    parsed, _ = parse.parse_task(task, definition)
    if len(set(seeds)) < len(seeds):
        raise InputError("--seeds contains a duplicate seed; give each seed once")
    protocol.write(parsed, corpus, set_name, seeds, queries, out, auxiliary)


@app.command("representation-prompts", cls=Command, rich_help_panel=PANEL)
def _representation_prompts(
    task: Annotated[Literal["lines", "reading"], typer.Option(help="The task.")],
    out: Annotated[Path, typer.Option(help="The prompts table to write.")],
    settings: Annotated[
        str,
        typer.Option(
            help="The keys under `studies: representation_change` in the config, as YAML; a missing key has its default."
        ),
    ] = "{}",
) -> None:
    """Write the prompts of one task with and without examples."""
    from icl_lens.config import parse
    from icl_lens.studies.representation_change import paired_prompts

    paired_prompts.write(task, parse.parse_settings("representation_change", settings), out)


@app.command("fetch-model", cls=Command, rich_help_panel=PANEL)
def _fetch_model(
    hub: Hub,
    out: Record,
    revision: Revision = "main",
    gguf: Annotated[str | None, typer.Option(help="Download only this file of the repository, for convert-gguf.")] = None,
    attempts: Attempts = 6,
) -> None:
    """Download a model from the Hub: configuration, tokenizer and weights."""
    from icl_lens.hub import fetch
    from icl_lens.hub.download import RetryPolicy

    if gguf is not None:
        fetch.gguf(hub, revision, gguf, out, RetryPolicy(attempts))
    else:
        fetch.model(hub, revision, out, RetryPolicy(attempts))


@app.command("fetch-dataset", cls=Command, rich_help_panel=PANEL)
def _fetch_dataset(
    hub: Hub,
    splits: Annotated[list[str], typer.Option(help="One or more splits.")],
    out: Record,
    revision: Revision = "main",
    config: Annotated[str, typer.Option(help="The configuration of the data set.")] = "default",
    attempts: Attempts = 6,
) -> None:
    """Download the Parquet files of a data set from the Hub."""
    from icl_lens.hub import fetch
    from icl_lens.hub.download import RetryPolicy

    fetch.dataset(hub, revision, config, splits, out, RetryPolicy(attempts))


@app.command("convert-gguf", cls=Command, rich_help_panel=PANEL)
def _convert_gguf(
    gguf: Annotated[Path, typer.Option(help="The GGUF file.")],
    out: Annotated[Path, typer.Option(help="The file converted.json in the folder to create.")],
    fetched: Annotated[
        Path | None, typer.Option(help="The folder that `icl-lens fetch-model --gguf` downloaded it to.")
    ] = None,
) -> None:
    """Convert a GGUF file into a model folder for studies."""
    from icl_lens.hub import gguf_conversion, gguf_files

    gguf_files.check(gguf)  # fail before the slow imports
    gguf_conversion.require_packages()
    quieten_transformers()
    gguf_conversion.convert(gguf, out, fetched)
