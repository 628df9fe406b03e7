"""Commands that apply a model to the user's own texts: compress, reweight-components and classify."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated, Literal

import typer

from icl_lens.cli import options
from icl_lens.models.options import LoadOptions, RunOptions

PANEL = "Tools for your own texts"

app = typer.Typer()


@app.command("compress", cls=options.Command, rich_help_panel=PANEL)
@options.with_model_options("batch_tokens", "untrained", "label_anchor")
def _compress(
    *,
    model: options.Model,
    task: options.Task,
    demos: Annotated[Path, typer.Option(help="The demonstrations: .jsonl, .csv, .tsv or .parquet with text and label.")],
    out: Annotated[Path, typer.Option(help="The cache to write, a safetensors file.")],
    definition: options.Definition = None,
    keep: Annotated[
        Literal["anchors", "all"],
        typer.Option(help="The positions to keep: template and label words (anchors), or all."),
    ] = "anchors",
    load_options: LoadOptions,
    run_options: RunOptions,
) -> None:
    """Run the model on demonstrations once, and write a subset of their keys and values to a file."""
    from icl_lens.config import parse
    from icl_lens.tools import text_files

    parsed, _ = parse.parse_task(task, definition)
    texts, labels = text_files.demonstrations(demos, parsed)
    options.quieten_transformers()
    from icl_lens.tools.compress import compress

    compress(model, parsed, texts, labels, out, keep, load_options, run_options)


@app.command("reweight-components", cls=options.Command, rich_help_panel=PANEL)
@options.with_model_options("untrained", "label_score", "label_anchor")
def _reweight_components(
    *,
    model: options.Model,
    task: options.Task,
    train: Annotated[Path, typer.Option(help="Labelled texts: .jsonl, .csv, .tsv or .parquet with text and label.")],
    out: Annotated[Path, typer.Option(help="The component weights to write, a safetensors file.")],
    definition: options.Definition = None,
    demonstrations: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Number of labelled texts in the prompt, from the start of the file; by default 4 (3 for 3 classes, 6 for 6).",
        ),
    ] = None,
    settings: Annotated[
        str | None,
        typer.Option(help="How to train the component weights: the keys under `studies: components` in the config, as YAML."),
    ] = None,
    load_options: LoadOptions,
    run_options: RunOptions,
) -> None:
    """Train one weight per attention head and MLP on a few labelled texts, and write them to a file."""
    from icl_lens.config import parse
    from icl_lens.prompts.sets import DEMONSTRATIONS, per_class
    from icl_lens.tools import text_files

    parsed, _ = parse.parse_task(task, definition)
    section = parse.parse_settings("components", settings) if settings is not None else None
    texts, labels = text_files.demonstrations(train, parsed)
    classes = len(parsed.label_words)
    options.quieten_transformers()
    from icl_lens.tools.reweight import reweight

    reweight(
        model,
        parsed,
        texts,
        labels,
        demonstrations or per_class(DEMONSTRATIONS, classes) * classes,
        out,
        section,
        load_options,
        run_options,
    )


@app.command("classify", cls=options.Command, rich_help_panel=PANEL)
@options.with_model_options("name", "dtype", "bos", "chat", "chat_turns", "untrained", "label_score", "label_anchor")
def _classify(
    *,
    model: options.Model,
    texts: Annotated[str, typer.Argument(metavar="FILE", help="The texts; - means standard input.")] = "-",
    cache: Annotated[
        Path | None, typer.Option(help="A file that `icl-lens compress` wrote with the same model. Not with --components.")
    ] = None,
    components: Annotated[
        Path | None,
        typer.Option(help="A file that `icl-lens reweight-components` wrote with the same model. Not with --cache."),
    ] = None,
    format: Annotated[
        Literal["lines", "jsonl", "csv", "tsv", "parquet"] | None,
        typer.Option(
            help='One text per line, one object with "text" per line, or a table with a column text; by default the format '
            "follows from the extension of FILE."
        ),
    ] = None,
    load_options: LoadOptions,
    run_options: RunOptions,
) -> None:
    """Classify texts with compressed demonstrations or with re-weighted components, and print JSON lines."""
    import json

    from icl_lens.tools import text_files

    lines = text_files.texts(texts, format)
    options.quieten_transformers()
    from icl_lens.tools import classify

    predict = classify.with_components if components else classify.with_cache
    predictions = predict(model, components or cache, lines, load_options, run_options)
    with contextlib.suppress(BrokenPipeError):  # the reader, for example `head`, closed the pipe early
        for prediction in predictions:
            print(json.dumps(prediction._asdict(), ensure_ascii=False))
