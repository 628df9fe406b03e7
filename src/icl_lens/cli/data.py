"""Commands that prepare the inputs of studies: corpora, prompts, and models and data sets from the Hub."""

from __future__ import annotations

import argparse
from pathlib import Path

from icl_lens.cli.options import Add, add_task, positive, quieten_transformers, seed
from icl_lens.errors import InputError
from icl_lens.prompts.sets import AUXILIARY


def add(command: Add) -> None:
    """Add the data commands."""
    corpora = command("corpora", _corpora, "write one task's texts and labels as a table")
    add_task(corpora)
    corpora.add_argument("--seed", type=seed, help="generate the built-in look-alike from this seed")
    corpora.add_argument("--train", type=Path, help="the original release's training file, or a table of a task of your own")
    corpora.add_argument("--test", type=Path, help="the original release's test file (SST-2: the dev file), or a table")
    corpora.add_argument("--fetched", type=Path, help="the folder of a data set fetched from the hub")
    corpora.add_argument("--out", required=True, type=Path)

    prompts = command("prompts", _prompts, "draw and write one task's prompts")
    add_task(prompts)
    prompts.add_argument("--corpus", required=True, type=Path, help="a corpora table")
    prompts.add_argument("--set", required=True, help="the protocol: fresh-1shot, shared-5shot, ...")
    prompts.add_argument("--seeds", required=True, type=seed, nargs="+")
    prompts.add_argument("--queries", required=True, type=positive, help="test texts per seed, at most")
    prompts.add_argument(
        "--auxiliary", type=positive, default=AUXILIARY, help="in a set named ...-auxiliary, training texts per class"
    )
    prompts.add_argument("--out", required=True, type=Path)

    paired = command("representation-prompts", _representation_prompts, "write one task's prompts with and without examples")
    paired.add_argument("--task", required=True, choices=("lines", "reading"))
    paired.add_argument(
        "--settings", default="{}", help="the keys under `studies: representation_change` in the config, as YAML"
    )
    paired.add_argument("--out", required=True, type=Path)

    fetch_model = command("fetch-model", _fetch_model, "fetch a model of the hub: configuration, tokenizer and weights")
    fetch_dataset = command("fetch-dataset", _fetch_dataset, "fetch the Parquet files of a data set of the hub")
    fetch_dataset.add_argument("--config", default="default", help="the configuration")
    fetch_dataset.add_argument("--splits", required=True, nargs="+")
    fetch_model.add_argument("--gguf", metavar="FILE", help="fetch this one file of the repository, for convert-gguf")
    for added in (fetch_model, fetch_dataset):
        added.add_argument("--hub", required=True, help="its name on the hub: owner/name")
        added.add_argument("--revision", default="main", help="a branch, a tag or a commit")
        added.add_argument("--attempts", type=positive, default=6, help="tries in a row that may bring nothing")
        added.add_argument("--out", required=True, type=Path, help="fetched.json in the folder to fill")

    convert = command("convert-gguf", _convert_gguf, "convert a GGUF file into a model folder that studies read")
    convert.add_argument("--gguf", required=True, type=Path, help="the file")
    convert.add_argument("--fetched", type=Path, help="the folder that `icl-lens fetch-model --gguf` fetched it to")
    convert.add_argument("--out", required=True, type=Path, help="converted.json in the folder to fill")


def _corpora(options: argparse.Namespace) -> None:
    from icl_lens.config import parse
    from icl_lens.corpora import hub, tables
    from icl_lens.corpora.columns import Columns

    task, own = parse.parse_task(options.task, options.definition)
    files = (options.train, options.test)
    if [options.seed is not None, any(files), options.fetched is not None].count(True) != 1 or (any(files) and None in files):
        raise InputError("give one of --seed (the built-in texts), --train and --test (files), --fetched (from the hub)")
    if options.fetched is not None:
        if own and own.hub is None:
            raise InputError(f"--definition of {options.task} names no data set on the hub, so --fetched says nothing")
        tables.write_hub(task, hub.of_own_task(own) if own else hub.DATASETS[options.task], options.fetched, options.out)
    elif own and any(files):
        tables.write_columns(task, Columns(tuple(own.text), own.label, task.classes), *files, options.out)
    elif own:
        raise InputError(f"{options.task} is a task of your own: there are no built-in texts of it")
    elif options.seed is not None:
        tables.write_builtin(options.task, options.seed, options.out)
    else:
        tables.write_files(options.task, *files, options.out)


def _prompts(options: argparse.Namespace) -> None:
    from icl_lens.config import parse
    from icl_lens.prompts import protocol

    task, _ = parse.parse_task(options.task, options.definition)
    if len(set(options.seeds)) < len(options.seeds):
        raise InputError("--seeds names a seed twice, which would count its prompts twice")
    protocol.write(task, options.corpus, options.set, options.seeds, options.queries, options.out, options.auxiliary)


def _representation_prompts(options: argparse.Namespace) -> None:
    from icl_lens.config import parse
    from icl_lens.studies.representation_change import paired_prompts

    settings = parse.parse_settings("representation_change", options.settings)
    paired_prompts.write(options.task, settings, options.out)


def _fetch_model(options: argparse.Namespace) -> None:
    from icl_lens.hub import fetch
    from icl_lens.hub.download import Patience

    if options.gguf is not None:
        fetch.gguf(options.hub, options.revision, options.gguf, options.out, Patience(options.attempts))
    else:
        fetch.model(options.hub, options.revision, options.out, Patience(options.attempts))


def _fetch_dataset(options: argparse.Namespace) -> None:
    from icl_lens.hub import fetch
    from icl_lens.hub.download import Patience

    fetch.dataset(options.hub, options.revision, options.config, options.splits, options.out, Patience(options.attempts))


def _convert_gguf(options: argparse.Namespace) -> None:
    from icl_lens.hub import gguf_conversion, gguf_files

    gguf_files.check(options.gguf)  # fail before the slow imports
    gguf_conversion.require_packages()
    quieten_transformers()
    gguf_conversion.convert(options.gguf, options.out, options.fetched)
