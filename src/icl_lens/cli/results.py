"""Commands for a results folder and the config: record, audit, report, publish, plan and config."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from icl_lens import resources
from icl_lens.cli.commands import command_names, print_error
from icl_lens.cli.options import Command
from icl_lens.errors import InputError

PANEL = "Results and config"

app = typer.Typer()


@app.command("execute", cls=Command, rich_help_panel=PANEL)
def _execute(
    source: Annotated[Path, typer.Option(help="The notebook of the figure or table.")],
    parameters: Annotated[str, typer.Option(help="The parameters of the notebook, as JSON; - reads them from standard input.")],
    out: Annotated[Path, typer.Option(help="The executed notebook to write. If a cell fails, the notebook shows the error.")],
) -> int:
    """Execute the notebook of a figure or table."""
    import json

    from papermill.exceptions import PapermillExecutionError

    from icl_lens.artifacts import execution

    try:
        values = json.loads(sys.stdin.read() if parameters == "-" else parameters)
    except ValueError as error:
        raise InputError(f"--parameters is not valid JSON: {error}; specify a JSON object of parameters") from error
    if not isinstance(values, dict):
        raise InputError('--parameters must be a JSON object, for example {"item": "figure_3"}')
    try:
        execution.execute(source, out, values)
    except PapermillExecutionError as error:
        print_error(str(error))
        return 1
    return 0


@app.command("record", cls=Command, rich_help_panel=PANEL)
def _record(
    source: Annotated[Path, typer.Option(help="The notebook that was executed.")],
    executed: Annotated[Path, typer.Option(help="The executed notebook.")],
    out: Annotated[Path, typer.Option(help="The notebook to write, without execution times.")],
    json: Annotated[Path, typer.Option(help="The JSON file with the hashes to write.")],
    outputs: Annotated[list[Path], typer.Option(help="One or more files that the notebook wrote.")],
    inputs: Annotated[
        list[Path] | None,
        typer.Option(help="The files that the notebook read; - reads their paths from standard input, by line."),
    ] = None,
) -> None:
    """Remove the execution times from an executed notebook, and record the hashes of its figure or table."""
    from icl_lens.artifacts import notebooks

    if inputs == [Path("-")]:
        inputs = [Path(line) for line in sys.stdin.read().splitlines() if line]
    notebooks.record(source, executed, out, json, inputs or [], outputs)


@app.command("merge-shards", cls=Command, rich_help_panel=PANEL)
def _merge_shards(
    shards: Annotated[list[Path], typer.Option(help="All shards of the table, in any order.")],
    out: Annotated[Path, typer.Option(help="The table to write.")],
) -> None:
    """Merge the tables that a study wrote with --shard into its table."""
    from icl_lens.artifacts import parquet
    from icl_lens.results.shards import merge, require_shard
    from icl_lens.studies import registry

    require_shard(shards[0])
    study = registry.study(parquet.read_metadata(shards[0])["schema"])
    merge(out, study.schema, shards)


@app.command("audit", cls=Command, rich_help_panel=PANEL)
def _audit(
    results: Annotated[Path, typer.Argument(help="The results folder.")] = Path("results"),
    repair: Annotated[
        bool, typer.Option("--repair", help="Delete corrupted and stale files, so that a run makes them again.")
    ] = False,
) -> int:
    """Check that all artifacts of a results folder are intact and up to date."""
    from icl_lens.results import audit
    from icl_lens.studies import registry

    schemas = registry.schemas()
    if repair:
        for path in audit.repair(results, schemas):
            print(f"deleted {path}")
    checked, faults = audit.audit(results, schemas)
    for fault in faults:
        print(fault.sentence)
    for sentence in audit.not_compared(results):
        print(f"not compared: {sentence}")
    for library, artifacts in audit.other_versions(results).items():
        print(f"made with another version of a library: {library}, {artifacts} artifact{'' if artifacts == 1 else 's'}")
    print(f"{checked} artifacts checked in {results}: {len(faults) or 'no'} fault{'' if len(faults) == 1 else 's'}")
    if any(fault.remove for fault in faults):
        folder = "" if results == Path("results") else f"{shlex.quote(str(results))} "
        print(
            f"run `icl-lens audit {folder}--repair` to delete the faulty files, then rerun the snakemake command that made them"
        )
    return 1 if faults else 0


@app.command("report", cls=Command, rich_help_panel=PANEL)
def _report(
    results: Annotated[Path, typer.Option(help="The results folder.")],
    items: Annotated[list[str], typer.Option(help="One or more figures and tables to show.")],
    out: Annotated[Path, typer.Option(help="The page to write.")],
    claims: Annotated[
        list[Path] | None,
        typer.Option(help="One or more claims files, one per paper; by default those of icl-lens for the papers of --items."),
    ] = None,
    page: Annotated[
        Path | None,
        typer.Option(help="The folder with the template, style sheet and scripts of the page; by default that of icl-lens."),
    ] = None,
    missing: Annotated[
        list[str] | None,
        typer.Option(
            help="ITEM=LOG: a figure or table that a failed run did not make, and the log of the failed job; ITEM= if the job "
            "did not start.",
        ),
    ] = None,
    left_out: Annotated[
        list[str] | None, typer.Option(help="Sentences about tasks that the figures and tables do not show.")
    ] = None,
    walks: Annotated[
        list[Path] | None, typer.Option(help="Folders of studies of which the page shows prompts step by step.")
    ] = None,
    nulls: Annotated[list[str] | None, typer.Option(help="NAME=FILE: a null run and its scorecard.csv.")] = None,
) -> None:
    """Write the HTML page with the results of all claims, figures and tables."""
    from icl_lens.report import page as report_page
    from icl_lens.studies import registry

    if not claims:
        shown = {registry.items()[name].group for name in items if name in registry.items()}
        claims = [
            path for paper in registry.papers() if paper in shown and (path := resources.CLAIMS / f"{paper}.yaml").is_file()
        ]
    reasons = {}
    for named in missing or []:
        name, _, log = named.partition("=")
        reasons[name] = report_page.failure(Path(log)) if log else "the run ended before it was made"
    if wrong := next((null for null in nulls or [] if "=" not in null), None):
        raise InputError(f"--nulls must be NAME=FILE, got {wrong!r}")
    if wrong := next((each for each in missing or [] if "=" not in each), None):
        raise InputError(f"--missing must be ITEM=LOG, got {wrong!r}; write {wrong}= if there is no log")
    null_files = {name: Path(path) for name, _, path in (null.partition("=") for null in nulls or [])}
    report_page.write(results, items, claims, page or resources.REPORT, out, walks or [], reasons, left_out or [], null_files)


@app.command("publish", cls=Command, rich_help_panel=PANEL)
def _publish(
    results: Annotated[
        list[Path],
        typer.Argument(help="One or more results folders; each item is read from the first folder that contains it."),
    ],
    docs: Annotated[Path, typer.Argument(help="The folder for NAME.md, NAME-scorecard.csv and the folder NAME.")],
    name: Annotated[str | None, typer.Option(help="NAME; by default the name of the model.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Write nothing; list the files that would change.")] = False,
    claims: Annotated[Path | None, typer.Option(help="The folder with the claims files; by default that of icl-lens.")] = None,
    page: Annotated[
        Path | None, typer.Option(help="The folder with the template of the page; by default that of icl-lens.")
    ] = None,
) -> int:
    """Write the page, scorecard and pictures of a run for the repository."""
    from icl_lens.report import publish
    from icl_lens.studies import registry

    claims, page = claims or resources.CLAIMS, page or resources.PUBLISH
    order = {name: position for position, name in enumerate(registry.papers())}
    files = sorted(claims.glob("*.yaml"), key=lambda path: (order.get(path.stem, len(order)), path.stem))
    if not files or not (page / publish.TEMPLATE).is_file():
        problem = (
            f"--page {page} contains no {publish.TEMPLATE}" if files else f"--claims {claims} contains no claims file (.yaml)"
        )
        raise InputError(f"{problem}; specify another folder, or omit the option to use that of icl-lens")
    lines = (publish.check if check else publish.write)(results, docs, name, files, page)
    for line in lines:
        print(line)
    if check:
        print(f"{len(lines) or 'no'} file{'' if len(lines) == 1 else 's'} to rewrite")
    return 1 if check and lines else 0


@app.command("init", cls=Command, rich_help_panel=PANEL)
def _init(
    folder: Annotated[Path, typer.Argument(help="The folder to create: a new or an empty folder.")],
    study: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Add a study of your own with this name, in the folder studies/NAME."),
    ] = None,
) -> None:
    """Create a project that uses the workflow: a config, a Snakefile and a README, without a clone of the repository."""
    from icl_lens import project

    if study is not None and study.replace("_", "-") in command_names():
        raise InputError(f"--study: the name {study!r} is taken; specify another name")
    print(f"created {folder}: {', '.join(project.create(folder, study))}")
    place = "" if folder.resolve() == Path.cwd() else f"cd {shlex.quote(str(folder))} && "
    print(f"edit config.yaml, then run: {place}snakemake --cores all")


@app.command("plan", cls=Command, rich_help_panel=PANEL)
def _plan(
    config: Annotated[list[Path], typer.Option(help="config.yaml, then the configs that override it, in order.")],
    card: Annotated[
        str, typer.Option(help="Device for which to predict time and memory, for example h100-80gb, a100-40gb or cpu.")
    ] = "h100-80gb",
) -> None:
    """Estimate the cost of a run: `snakemake --summary --configfile FILE | icl-lens plan --config FILES`."""
    from icl_lens.config import parse, plan

    for line in plan.report(parse.load(*config).with_checkpoints(), sys.stdin, card):
        print(line)


@app.command("config", cls=Command, rich_help_panel=PANEL)
def _config(
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema instead.")] = False,
    reference: Annotated[bool, typer.Option("--reference", help="Print a Markdown table of all keys instead.")] = False,
    example: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Print an example config instead: config/NAME.yaml, for example gemma, own-task, paper."
        ),
    ] = None,
) -> None:
    """Print the default config, its JSON schema, a table of all keys, or an example config."""
    if [schema, reference, example is not None].count(True) > 1:
        raise InputError("give only one of --schema, --reference and --example")
    if example is not None:
        examples = resources.examples()
        if example not in examples:
            raise InputError(f"--example: there is no example config {example!r}; the examples are {', '.join(examples)}")
        sys.stdout.write(examples[example].read_text(encoding="utf-8"))
        return
    from icl_lens.config import render

    if schema:
        sys.stdout.write(render.schema_json())
    else:
        sys.stdout.write(render.reference_markdown() if reference else render.default_yaml())
