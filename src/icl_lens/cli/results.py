"""Commands for a results folder and the config: record, audit, report, publish, plan and config."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from icl_lens.cli.options import Add
from icl_lens.errors import InputError


def add(command: Add) -> None:
    """Add the commands for results and the config."""
    record = command("record", _record, "strip an executed notebook of its times and record a figure's or table's hashes")
    record.add_argument("--source", required=True, type=Path, help="the notebook as it stands in the repository")
    record.add_argument("--executed", required=True, type=Path, help="the same as executed")
    record.add_argument("--out", required=True, type=Path, help="where the stripped notebook goes")
    record.add_argument("--json", required=True, type=Path, help="where the hashes go")
    record.add_argument("--inputs", nargs="*", default=[], type=Path)
    record.add_argument("--outputs", nargs="+", required=True, type=Path)

    audit = command("audit", _audit, "check every artifact of a results folder against what it was made from")
    audit.add_argument("results", nargs="?", default="results", type=Path)
    audit.add_argument("--repair", action="store_true", help="delete what is damaged or out of date, so that it is made anew")

    report = command("report", _report, "write the page that says which claims held, with every figure and table")
    report.add_argument("--results", required=True, type=Path)
    report.add_argument("--items", required=True, nargs="+", help="the figures and tables to show")
    report.add_argument(
        "--missing",
        nargs="*",
        default=[],
        metavar="ITEM=LOG",
        help="those that a failed run did not make, with the log of the job that failed, or = for one that was not started",
    )
    report.add_argument("--claims", required=True, nargs="+", type=Path, help="claims files, one a paper")
    report.add_argument("--walks", nargs="*", default=[], type=Path, help="folders of studies whose prompts can be walked")
    report.add_argument("--page", required=True, type=Path, help="the folder with the page's template, style and script")
    report.add_argument("--out", required=True, type=Path)

    publish = command("publish", _publish, "write the page, scorecard and pictures that a repository keeps of a run")
    publish.add_argument("results", nargs="+", type=Path, help="results folders; an item is taken from the first that has it")
    publish.add_argument("docs", type=Path, help="the folder for NAME.md, NAME-scorecard.csv and the folder NAME")
    publish.add_argument("--name", help="NAME; by default the model's")
    publish.add_argument("--check", action="store_true", help="write nothing; say which files differ from a new run")
    publish.add_argument("--claims", default=Path("resources/claims"), type=Path, help="the folder with the claims files")
    publish.add_argument("--page", default=Path("resources/publish"), type=Path, help="the folder with the page's template")

    plan = command(
        "plan", _plan, "say what a run will take: `snakemake --summary --configfile FILE | icl-lens plan --config FILES`"
    )
    plan.add_argument("--config", required=True, type=Path, nargs="+", help="config.yaml, then what is laid over it, in order")

    config = command("config", _config, "print the default config, its JSON schema, or a table of every key")
    config.add_argument("--schema", action="store_true")
    config.add_argument("--reference", action="store_true")


def _record(options: argparse.Namespace) -> None:
    from icl_lens.artifacts import notebooks

    notebooks.record(options.source, options.executed, options.out, options.json, options.inputs, options.outputs)


def _audit(options: argparse.Namespace) -> int:
    from icl_lens.artifacts import audit
    from icl_lens.studies import registry

    schemas = registry.schemas()
    if options.repair:
        for path in audit.repair(options.results, schemas):
            print(f"deleted {path}")
    checked, faults = audit.audit(options.results, schemas)
    for fault in faults:
        print(fault.sentence)
    print(f"{checked} artifacts checked in {options.results}: {len(faults) or 'no'} fault{'' if len(faults) == 1 else 's'}")
    if faults:
        print("`icl-lens audit --repair` deletes what is at fault; the snakemake command that made it makes it anew")
    return 1 if faults else 0


def _report(options: argparse.Namespace) -> None:
    from icl_lens.report import page

    missing = {}
    for named in options.missing:
        name, _, log = named.partition("=")
        missing[name] = page.failure(Path(log)) if log else "the run ended before it was made"
    page.write(options.results, options.items, options.claims, options.page, options.out, options.walks, missing)


def _publish(options: argparse.Namespace) -> int:
    from icl_lens.report import publish
    from icl_lens.studies import registry

    places = {name: place for place, name in enumerate(registry.papers())}
    files = sorted(options.claims.glob("*.yaml"), key=lambda path: (places.get(path.stem, len(places)), path.stem))
    if not files or not (options.page / publish.TEMPLATE).is_file():
        absent = f"{options.page} holds no {publish.TEMPLATE}" if files else f"{options.claims} holds no claims file (.yaml)"
        raise InputError(f"{absent}; run the command in the repository's folder, or give --claims and --page")
    arguments = (options.results, options.docs, options.name, files, options.page)
    found = publish.check(*arguments) if options.check else publish.write(*arguments)
    for line in found:
        print(line)
    if options.check:
        print(f"{len(found) or 'no'} file{'' if len(found) == 1 else 's'} to write again")
    return 1 if options.check and found else 0


def _plan(options: argparse.Namespace) -> None:
    from icl_lens.config import parse, plan

    for line in plan.report(parse.load(*options.config).with_checkpoints(), sys.stdin):
        print(line)


def _config(options: argparse.Namespace) -> None:
    from icl_lens.config import render

    if options.schema:
        sys.stdout.write(render.schema_json())
    else:
        sys.stdout.write(render.reference_markdown() if options.reference else render.default_yaml())
