"""The command line: what the workflow's rules call, and what a person can call."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
from pathlib import Path
from typing import get_args

from icl_lens.config import Device, Dtype, Matmul, Studies, settings_key
from icl_lens.errors import InputError
from icl_lens.reweighting_plan import AUXILIARY
from icl_lens.tasks import TASKS

# The commands that may use a network.
FETCHING = ("fetch-model", "fetch-dataset")

# By their names in paths; a command has hyphens where these have underscores.
STUDIES = {
    "icl": "what the model answers to each prompt",
    "saliency": "S_wp, S_pq and S_ww of each prompt and layer",
    "isolation": "whether each answer survives when label words, or others in their place, see nothing before them",
    "compression": "whether each answer survives when of its demonstrations a few keys and values are kept",
    "latency": "how long a query takes behind whole and behind compressed demonstrations",
    "deep_attention": "how much each layer's last position attends to each class's label words",
    "flow": "the information flow of a few prompts along every edge",
    "tokens": "the tokens of each prompt, where they stand, and which are label words",
    "diagnosis": "which classes the keys of their label words say are confused",
    "isolated_words": "the likeliest next tokens with label words isolated, for one prompt a class",
    "isolation_controls": "isolation again with shuffled labels and on an untrained copy of the model",
    "attention_controls": "deep attention and answers again with shuffled labels and on an untrained copy of the model",
    "reweighting": "answers with trained factors on the attention to label words, without, and with more demonstrations",
    # Kernel regression: attention of the last position.
    "kernel_regression": "how much each head's last position attends to each demonstration, and how alike their texts are",
    "kernel_regression_controls": "the same with inputs permuted, labels flipped, and demonstrations reordered",
    #
    # Kernel regression: texts alone, probes, hidden Markov models.
    "rewritten": "answers to test texts with rare words, with more complex syntax, and with typos",
    "label_probes": "what linear probes tell from keys and values around label words, head by head",
    "prediction_similarity": "how alike the next tokens are that the query's and each demonstration's text announce alone",
    #
    # Components.
    "components": "what every head and MLP alone answers, and answers of weighted sums of them, under several templates",
    #
    # Representation change.
    "representation_change": "how answers, representations and attention change with examples, on paired prompts",
}

# Further prompts tables that a study reads, by option.
FURTHER_PROMPTS = {
    "diagnosis": {"pooled": "a prompts table of the same queries under demonstrations that change (pooled-1shot)"},
    "reweighting": {
        "train": "a prompts table whose queries are training texts, with the same demonstrations (shared-1shot-auxiliary)",
        "baseline": "a prompts table of the same queries with more demonstrations (shared-5shot)",
    },
}

# What libraries read when they are loaded, unless the environment says otherwise. Threads that wait for each other should spin
# for microseconds and then sleep: GNU OpenMP's default, milliseconds, makes small models many times slower on a machine that
# does anything else beside. And the hub's library tells, and asks, more than it needs.
LIBRARIES_TOLD = {"GOMP_SPINCOUNT": "10000", "HF_HUB_DISABLE_TELEMETRY": "1"}

# What --bos says, and what it means: see icl_lens.positions.tokenize.
BOS = {"auto": "auto", "yes": True, "no": False}


def main(arguments: list[str] | None = None) -> int:
    """Run one command; 0 when it did its work, 1 for input that cannot be used (one sentence on standard error)."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        for name in ("out", "facts") if options.command == "training" else ("out",):
            if name in options:
                _require_place(f"--{name}", getattr(options, name))
        os.environ.update({**LIBRARIES_TOLD, **os.environ})
        if options.command not in FETCHING:
            if "model" in options:
                from icl_lens import fetch

                options.model = fetch.resolve(options.model, options.revision, options.downloads)
            # Said before anything imports the hub's library, which reads it once. (A model is fetched by another process.)
            os.environ["HF_HUB_OFFLINE"] = "1"
        return options.run(options) or 0
    except InputError as error:
        print(f"icl-lens {options.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"icl-lens {options.command}: interrupted", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="icl-lens", description="Studies of in-context learning, step by step.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run, help: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=help, description=help)
        added.set_defaults(run=run)
        return added

    corpora = command("corpora", _corpora, "write one task's texts and labels as a table")
    _add_task(corpora)
    corpora.add_argument("--seed", type=_seed, help="generate the built-in look-alike from this seed")
    corpora.add_argument("--train", type=Path, help="the original release's training file, or a table of a task of your own")
    corpora.add_argument("--test", type=Path, help="the original release's test file (SST-2: the dev file), or a table")
    corpora.add_argument("--fetched", type=Path, help="the folder of a data set fetched from the hub")
    corpora.add_argument("--out", required=True, type=Path)

    prompts = command("prompts", _prompts, "draw and write one task's prompts")
    _add_task(prompts)
    prompts.add_argument("--corpus", required=True, type=Path, help="a corpora table")
    prompts.add_argument("--set", required=True, help="the protocol: fresh-1shot, shared-5shot, ...")
    prompts.add_argument("--seeds", required=True, type=_seed, nargs="+")
    prompts.add_argument("--queries", required=True, type=_positive, help="test texts per seed, at most")
    prompts.add_argument(
        "--auxiliary", type=_positive, default=AUXILIARY, help="in a set named ...-auxiliary, training texts per class"
    )
    prompts.add_argument("--out", required=True, type=Path)

    paired = command("representation-prompts", _representation_prompts, "write one task's prompts with and without examples")
    paired.add_argument("--task", required=True, choices=("lines", "reading"))
    paired.add_argument(
        "--settings", default="{}", help="the keys under `studies: representation_change` in the config, as YAML"
    )
    paired.add_argument("--out", required=True, type=Path)

    for study, help_text in STUDIES.items():
        added = command(study.replace("_", "-"), _study, help_text)
        added.set_defaults(study=study, settings=None)
        _add_model(added)
        added.add_argument("--prompts", required=True, type=Path, help="a prompts table")
        for key, meaning in FURTHER_PROMPTS.get(study, {}).items():
            added.add_argument(f"--{key.replace('_', '-')}", required=True, type=Path, help=meaning)
        added.add_argument("--out", required=True, type=Path)
        added.add_argument("--name", help="the model's name in the table; by default the folder's own, or the hub's")
        added.add_argument("--batch-tokens", type=_positive, default=4096, help="tokens per batch, padding included")
        _add_reading(added)
        if settings_key(study) in Studies.model_fields:
            added.add_argument("--settings", help=f"the keys under `studies: {settings_key(study)}` in the config, as YAML")

    hidden_markov = command("hidden-markov", _hidden_markov, "compare kernel regression with the posterior of random models")
    hidden_markov.add_argument(
        "--settings", default="{}", help="the keys under `studies: hidden_markov` in the config, as YAML"
    )
    hidden_markov.add_argument("--out", required=True, type=Path, help="the hidden_markov table")

    compress = command("compress", _compress, "read demonstrations once, and keep a few of their keys and values in a file")
    _add_model(compress)
    _add_task(compress)
    compress.add_argument("--demos", required=True, type=Path, help="the demonstrations: .jsonl or .csv with text and label")
    compress.add_argument("--out", required=True, type=Path, help="the cache to write, a safetensors file")
    compress.add_argument(
        "--keep", default="anchors", choices=("anchors", "all"), help="template and label words, or every position"
    )
    compress.add_argument("--name", help="the model's name in the cache; by default the folder's own, or the hub's")
    _add_reading(compress)

    reweight = command(
        "reweight-components",
        _reweight_components,
        "weigh a model's heads and MLPs on a few labelled texts, and keep the weights",
    )
    _add_model(reweight)
    _add_task(reweight)
    reweight.add_argument("--train", required=True, type=Path, help="labelled texts: .jsonl or .csv with text and label")
    reweight.add_argument(
        "--demonstrations", type=_positive, help="the first so many stand in the prompt; by default 4 (3 classes: 3, 6: 6)"
    )
    reweight.add_argument(
        "--settings", help="how weights are trained: the keys under `studies: components` in the config, as YAML"
    )
    reweight.add_argument("--out", required=True, type=Path, help="the weights to write, a safetensors file")
    reweight.add_argument("--name", help="the model's name in the file; by default the folder's own, or the hub's")
    reweight.add_argument("--batch-tokens", type=_positive, default=4096, help="tokens per batch, padding included")
    _add_reading(reweight)

    classify = command(
        "classify", _classify, "classify texts behind compressed demonstrations, or by re-weighted components, as JSON lines"
    )
    _add_model(classify)
    made = classify.add_mutually_exclusive_group(required=True)
    made.add_argument("--cache", type=Path, help="what `icl-lens compress` wrote, with the same model")
    made.add_argument("--components", type=Path, help="what `icl-lens reweight-components` wrote, with the same model")
    classify.add_argument("texts", nargs="?", default="-", metavar="FILE", help="the texts; standard input by default, or -")
    classify.add_argument(
        "--format",
        choices=("lines", "jsonl", "csv"),
        help='a text a line, an object with "text" a line, or a table with a column text; by default by the ending of FILE',
    )
    classify.add_argument("--batch-tokens", type=_positive, default=4096, help="tokens per batch, padding included")

    fetch_model = command("fetch-model", _fetch_model, "fetch a model of the hub: configuration, tokenizer and weights")
    fetch_dataset = command("fetch-dataset", _fetch_dataset, "fetch the Parquet files of a data set of the hub")
    fetch_dataset.add_argument("--config", default="default", help="the configuration")
    fetch_dataset.add_argument("--splits", required=True, nargs="+")
    fetch_model.add_argument("--gguf", metavar="FILE", help="fetch this one file of the repository, for convert-gguf")
    for added in (fetch_model, fetch_dataset):
        added.add_argument("--hub", required=True, help="its name on the hub: owner/name")
        added.add_argument("--revision", default="main", help="a branch, a tag or a commit")
        added.add_argument("--attempts", type=_positive, default=6, help="tries in a row that may bring nothing")
        added.add_argument("--out", required=True, type=Path, help="fetched.json in the folder to fill")

    convert = command("convert-gguf", _convert_gguf, "convert a GGUF file into a model folder that studies read")
    convert.add_argument("--gguf", required=True, type=Path, help="the file")
    convert.add_argument("--fetched", type=Path, help="the folder that `icl-lens fetch-model --gguf` fetched it to")
    convert.add_argument("--out", required=True, type=Path, help="converted.json in the folder to fill")

    training = command("training", _training, "train a model that learns in context, from scratch")
    training.add_argument("--corpora", required=True, type=Path, nargs="+", help="corpora tables, each named after its task")
    training.add_argument("--recipe", default="{}", help="the keys under `organism` in the config, as YAML")
    training.add_argument("--device", default="auto", choices=get_args(Device))
    training.add_argument("--work", required=True, type=Path, help="a folder for what an interrupted training goes on from")
    training.add_argument("--checkpoints", required=True, type=Path, help="the folder of checkpoints to make")
    training.add_argument("--facts", required=True, type=Path, help="a JSON file: what decided the weights, what they cost")
    training.add_argument("--out", required=True, type=Path, help="the training table")

    evaluation = command("evaluation", _evaluation, "measure what a trained model can do")
    evaluation.add_argument("--checkpoints", required=True, type=Path, help="a training's checkpoints, or one of them")
    evaluation.add_argument("--facts", required=True, type=Path, help="what the training wrote, or a model card")
    evaluation.add_argument("--corpora", required=True, type=Path, nargs="+", help="corpora tables, each named after its task")
    evaluation.add_argument("--prompts", type=_positive, default=1000, help="prompts in each cell, at the last checkpoint")
    evaluation.add_argument("--curve-prompts", type=_positive, default=200, help="the same at the others")
    evaluation.add_argument("--out", required=True, type=Path, help="the evaluation table")

    card = command("card", _card, "put the last checkpoint and its model card into a folder")
    card.add_argument("--checkpoints", required=True, type=Path, help="a training's checkpoints")
    card.add_argument("--facts", required=True, type=Path, help="what the training wrote")
    card.add_argument("--evaluation", required=True, type=Path, help="the evaluation table")
    card.add_argument("--folder", required=True, type=Path, help="the folder to make")

    reader = command("reader-training", _reader_training, "train the second model, which reads lists and stories, from scratch")
    reader.add_argument("--recipe", default="{}", help="the keys under `reader_organism` in the config, as YAML")
    reader.add_argument("--checkpoints", required=True, type=Path, help="the folder of checkpoints to make")
    reader.add_argument("--out", required=True, type=Path, help="a JSON file: what decided the weights, what they cost")

    reader_card = command(
        "reader-card", _reader_card, "measure the second model's checkpoints, and put the last and its card into a folder"
    )
    reader_card.add_argument("--checkpoints", required=True, type=Path, help="its training's checkpoints")
    reader_card.add_argument("--facts", required=True, type=Path, help="what the training wrote")
    reader_card.add_argument("--folder", required=True, type=Path, help="the folder to make")

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
    return parser


def _add_model(command: argparse.ArgumentParser) -> None:
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


def _add_reading(command: argparse.ArgumentParser) -> None:
    """Options that decide what a model reads, and in which number format."""
    command.add_argument("--dtype", default="float32", choices=get_args(Dtype))
    command.add_argument("--bos", default="auto", choices=BOS, help="put a beginning-of-sequence token before each prompt")
    command.add_argument("--chat", action="store_true", help="write each prompt as a chat, by the tokenizer's template")


def _add_task(command: argparse.ArgumentParser) -> None:
    command.add_argument("--task", required=True, help=f"{', '.join(TASKS)}, or any name with --definition")
    command.add_argument("--definition", help="a task of your own: its keys under `own_tasks` in the config, as YAML")


def _seed(text: str) -> int:
    """An option's value as a seed that every generator takes."""
    value = int(text)
    if not 0 <= value < 2**32:
        raise argparse.ArgumentTypeError(f"{value} is no seed; it must lie between 0 and {2**32 - 1}")
    return value


def _positive(text: str) -> int:
    """An option's value as a number of things, at least one."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is too few; at least 1 is needed")
    return value


def _require_place(option: str, out: Path) -> None:
    """The output can be written, before hours are spent on it."""
    if out.is_dir():
        raise InputError(f"{option} {out} is a folder; name a file")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out.parent):
            pass
    except OSError as error:
        raise InputError(f"{option} {out} cannot be written there ({error.strerror})") from error


# The commands import what they run only when they run it: `icl-lens --help` need not wait for torch.


def _corpora(options: argparse.Namespace) -> None:
    from icl_lens import config
    from icl_lens.corpora import hub, tables
    from icl_lens.corpora.columns import Columns

    task, own = config.parse_task(options.task, options.definition)
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
    from icl_lens import config, prompts

    task, _ = config.parse_task(options.task, options.definition)
    if len(set(options.seeds)) < len(options.seeds):
        raise InputError("--seeds names a seed twice, which would count its prompts twice")
    prompts.write(task, options.corpus, options.set, options.seeds, options.queries, options.out, options.auxiliary)


def _representation_prompts(options: argparse.Namespace) -> None:
    from icl_lens import config, paired_prompts

    settings = config.parse_settings("representation_change", options.settings)
    paired_prompts.write(options.task, settings, options.out)


def _fetch_model(options: argparse.Namespace) -> None:
    from icl_lens import fetch
    from icl_lens.download import Patience

    if options.gguf is not None:
        fetch.gguf(options.hub, options.revision, options.gguf, options.out, Patience(options.attempts))
    else:
        fetch.model(options.hub, options.revision, options.out, Patience(options.attempts))


def _fetch_dataset(options: argparse.Namespace) -> None:
    from icl_lens import fetch
    from icl_lens.download import Patience

    fetch.dataset(options.hub, options.revision, options.config, options.splits, options.out, Patience(options.attempts))


def _convert_gguf(options: argparse.Namespace) -> None:
    from icl_lens import gguf_conversion, gguf_files

    gguf_files.check(options.gguf)  # before the libraries are loaded
    gguf_conversion.require_packages()
    _quieten_transformers()
    gguf_conversion.convert(options.gguf, options.out, options.fetched)


def _quieten_transformers() -> None:
    """What transformers need not say."""
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def _study(options: argparse.Namespace) -> None:
    from icl_lens import config

    settings = config.parse_settings(options.study, options.settings) if options.settings is not None else None
    _quieten_transformers()
    from icl_lens import studies

    studies.run(
        options.study,
        options.model,
        options.prompts,
        options.out,
        name=options.name,
        device=options.device,
        dtype=options.dtype,
        matmul=options.matmul,
        batch_tokens=options.batch_tokens,
        bos=BOS[options.bos],
        as_chat=options.chat,
        settings=settings,
        others={key: getattr(options, key) for key in FURTHER_PROMPTS.get(options.study, {})},
    )


def _hidden_markov(options: argparse.Namespace) -> None:
    from icl_lens import config

    settings = config.parse_settings("hidden_markov", options.settings)
    from icl_lens import hidden_markov

    hidden_markov.write(settings, options.out)


def _compress(options: argparse.Namespace) -> None:
    from icl_lens import config, text_files

    task, _ = config.parse_task(options.task, options.definition)
    texts, labels = text_files.demonstrations(options.demos, task)
    _quieten_transformers()
    from icl_lens import classifying

    classifying.compress(
        options.model,
        task,
        texts,
        labels,
        options.out,
        keep=options.keep,
        name=options.name,
        device=options.device,
        dtype=options.dtype,
        matmul=options.matmul,
        bos=BOS[options.bos],
        as_chat=options.chat,
    )


def _reweight_components(options: argparse.Namespace) -> None:
    from icl_lens import config, text_files
    from icl_lens.components_plan import DEMONSTRATIONS, per_class

    task, _ = config.parse_task(options.task, options.definition)
    settings = config.parse_settings("components", options.settings) if options.settings is not None else None
    texts, labels = text_files.demonstrations(options.train, task)
    classes = len(task.label_words)
    _quieten_transformers()
    from icl_lens import component_classifying

    component_classifying.reweight(
        options.model,
        task,
        texts,
        labels,
        options.demonstrations or per_class(DEMONSTRATIONS, classes) * classes,
        options.out,
        settings,
        name=options.name,
        device=options.device,
        dtype=options.dtype,
        matmul=options.matmul,
        bos=BOS[options.bos],
        as_chat=options.chat,
        batch_tokens=options.batch_tokens,
    )


def _classify(options: argparse.Namespace) -> None:
    import json

    from icl_lens import text_files

    texts = text_files.texts(options.texts, options.format)
    _quieten_transformers()
    if options.components:
        from icl_lens import component_classifying

        answers = component_classifying.classify(
            options.model, options.components, texts, options.device, options.batch_tokens, options.matmul
        )
    else:
        from icl_lens import classifying

        answers = classifying.classify(
            options.model, options.cache, texts, options.device, options.batch_tokens, options.matmul
        )
    try:
        for answer in answers:
            print(json.dumps(answer._asdict(), ensure_ascii=False))
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads has enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _training(options: argparse.Namespace) -> None:
    from icl_lens import config

    recipe = config.parse_recipe(options.recipe)
    _quieten_transformers()
    from icl_lens.organism import training

    training.run(
        recipe,
        options.corpora,
        work=options.work,
        checkpoints=options.checkpoints,
        table=options.out,
        facts=options.facts,
        device=options.device,
    )


def _evaluation(options: argparse.Namespace) -> None:
    _quieten_transformers()
    from icl_lens.organism import evaluation

    evaluation.run(
        options.checkpoints,
        options.facts,
        options.corpora,
        options.out,
        prompts=options.prompts,
        curve_prompts=options.curve_prompts,
    )


def _card(options: argparse.Namespace) -> None:
    _quieten_transformers()
    from icl_lens.organism import card

    card.write(options.checkpoints, options.facts, options.evaluation, options.folder)


def _reader_training(options: argparse.Namespace) -> None:
    from icl_lens import config

    recipe = config.parse_reader_recipe(options.recipe)
    _quieten_transformers()
    from icl_lens.reader_organism import training

    training.run(recipe, checkpoints=options.checkpoints, facts=options.out)


def _reader_card(options: argparse.Namespace) -> None:
    _quieten_transformers()
    from icl_lens.reader_organism import card

    card.write(options.checkpoints, options.facts, options.folder)


def _record(options: argparse.Namespace) -> None:
    from icl_lens import notebooks

    notebooks.record(options.source, options.executed, options.out, options.json, options.inputs, options.outputs)


def _audit(options: argparse.Namespace) -> int:
    from icl_lens import audit

    if options.repair:
        for path in audit.repair(options.results):
            print(f"deleted {path}")
    checked, faults = audit.audit(options.results)
    for fault in faults:
        print(fault.sentence)
    print(f"{checked} artifacts checked in {options.results}: {len(faults) or 'no'} fault{'' if len(faults) == 1 else 's'}")
    if faults:
        print("`icl-lens audit --repair` deletes what is at fault; the snakemake command that made it makes it anew")
    return 1 if faults else 0


def _report(options: argparse.Namespace) -> None:
    from icl_lens import report

    missing = {}
    for named in options.missing:
        name, _, log = named.partition("=")
        missing[name] = report.failure(Path(log)) if log else "the run ended before it was made"
    report.write(options.results, options.items, options.claims, options.page, options.out, options.walks, missing)


def _publish(options: argparse.Namespace) -> int:
    from icl_lens import publish
    from icl_lens.items import PAPERS

    places = {name: place for place, name in enumerate(PAPERS)}
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
    from icl_lens import config, plan

    for line in plan.report(config.load(*options.config).with_checkpoints(), sys.stdin):
        print(line)


def _config(options: argparse.Namespace) -> None:
    from icl_lens import config

    if options.schema:
        sys.stdout.write(config.schema_json())
    else:
        sys.stdout.write(config.reference_markdown() if options.reference else config.default_yaml())
