# Shared by all rules: the validated config, and functions that map it to paths. This file computes no results.

import difflib
import fcntl
import json
import logging
import os
import platform
import re
import shlex
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import asdict
from functools import cache
from pathlib import Path

from snakemake.dag import DAG
from snakemake.logging import logger
from snakemake.settings.types import DeploymentMethod

from icl_lens import resources, yaml_text
from icl_lens.artifacts import code, hashes, shards
from icl_lens.results import inputs, nulls
from icl_lens.artifacts.code import code_hash, notebook_hash
from icl_lens.artifacts.files import (
    require_writable_folder,
    temporary_folder,
    writing,
)
from icl_lens.cli import commands, gpu_slots, preloaded
from icl_lens.config import panels_per_figure, shortage
from icl_lens.config.parse import parse as parse_config
from icl_lens.corpora import counts
from icl_lens.corpora.builtin import class_counts
from icl_lens.corpora.files import FORMATS
from icl_lens.corpora.hub import DATASETS, own_task_dataset
from icl_lens.errors import InputError
from icl_lens.hub import (
    adapters,
    converted,
    fetch,
    fetched,
    gguf_conversion,
    gguf_files,
    quantization,
)
from icl_lens.hub.checkpoints import checkpoint_files, checkpoint_hash
from icl_lens.hub.fetched import RECORD
from icl_lens.network import accelerators
from icl_lens.organism.code import training_code
from icl_lens.prompts.schema import PROMPTS
from icl_lens.studies import plugins, registry
from icl_lens.tasks.own import VARIANTS

# Show messages of the package, such as the progress of reading a large file, next to those of Snakemake.
logging.getLogger("icl_lens").setLevel(logging.INFO)
logging.getLogger("icl_lens").addHandler(logging.StreamHandler())

REPOSITORY = Path(workflow.current_basedir.get_path_or_uri(secret_free=True)).parents[1]

NOTEBOOKS = REPOSITORY / "notebooks"
# Folders of the repository that are not for outputs.
PROJECT_FOLDERS = (
    "benchmarks config docs envs examples notebooks profiles src tests workflow".split()
)


def checked(function, *arguments):
    """Return the function's value. An error in the user's input stops the workflow with a one-line message."""
    try:
        return function(*arguments)
    except InputError as error:
        stop(str(error))


def stop(sentence):
    """Stop the workflow with a one-line message."""
    # Not a WorkflowError: Snakemake would add line numbers of this file, although the error is in the input.
    logger.error(sentence)
    sys.exit(1)


# Snakemake keeps the last value of a duplicate key. Reading the files again reports it.
for config_file in workflow.configfiles:
    checked(yaml_text.read, config_file)


def name_nearest_target(record):
    """Replace Snakemake's message about an unknown target by one sentence with the nearest target, and keep all other messages.

    This is a filter of Snakemake's logger, because Snakemake gives the targets to the workflow only after this file is read.
    """
    found = re.search(r"No rule to produce (.*) \(if you use", str(record.msg))
    if getattr(record, "exception", "") == "MissingRuleException" and found:
        record.msg = unknown_target(found[1])
    return True


def unknown_target(name):
    """Return the error sentence for a target that no rule makes."""
    if name.endswith((".yaml", ".yml")):
        return f"{name} is not a target; to use it as config, write --configfile {name}"
    targets = sorted(rule.name for rule in workflow.rules if not rule.has_wildcards())
    wanted = Path(name)
    nearest = difflib.get_close_matches(wanted.stem, targets, n=1, cutoff=0.5)
    if nearest and nearest[0] == wanted.stem and name != nearest[0]:
        hint = f"write {nearest[0]}, which makes all files of this item"
    elif nearest:
        hint = f"did you mean {nearest[0]!r}?"
    else:
        hint = "use a figure, a table, a paper or a file of the results"
    return f"{name!r} is not a target; {hint}; `snakemake --list` lists all targets; the key plugins adds those of your own studies"


def require_own_folder(key, folder):
    """Check that a folder for outputs is neither a file nor a folder with the project's own files."""
    path = Path(folder).resolve()
    if path.exists() and not path.is_dir():
        raise InputError(f"config: {key}: {folder} is a file; set {key} to a folder")
    if path == REPOSITORY.resolve() or (
        path.is_relative_to(REPOSITORY.resolve())
        and path.relative_to(REPOSITORY.resolve()).parts[0] in PROJECT_FOLDERS
    ):
        raise InputError(
            f"config: {key}: {folder} contains files of this project; set {key} to another folder"
        )


CONFIG = checked(parse_config, config).with_checkpoints()
for key in ("results", "downloads"):
    checked(require_own_folder, key, getattr(CONFIG, key))
ITEMS = checked(registry.items)
# organism.smk has the rule for this group.
GROUPS = [group for group in registry.groups() if group != "organism"]
WALKED = [study.name for study in registry.studies().values() if study.walked]
# Open files of the locks that this run holds.
LOCKS = []
# Set when Snakemake has planned all jobs and starts to run them.
STARTED = threading.Event()
# Name of a lock file.
LOCK = ".lock"
# The folder where this run and its jobs cache the hashes of input files. It is kept, so that a later run reads only changed files.
HASHES = os.environ.setdefault(hashes.HASHES, str(hashes.CACHE.absolute()))
with suppress(OSError):
    Path(HASHES).mkdir(parents=True, exist_ok=True)
# Rules that write to the folder of downloads.
DOWNLOADING = {"fetch_model", "fetch_dataset", "fetch_gguf", "convert_gguf"}
RUN = "icl_lens.studies.run"
RUN_SYNTHETIC = "icl_lens.studies.run_synthetic"


def dataset_of(task):
    """Return the Hub data set of a task's texts, or None if they have another source."""
    own = CONFIG.own_tasks.get(task)
    if own:
        return own_task_dataset(own) if own.hub else None
    if CONFIG.data.source != "hub":
        return None
    return DATASETS[task].at(CONFIG.data.revisions.get(task, DATASETS[task].revision))


def fetched_dataset(task):
    """Return the record that is written when a task's data set is fetched."""
    dataset = dataset_of(task)
    folder = fetch.dataset_folder(
        CONFIG.downloads, dataset.hub, dataset.revision, dataset.config
    )
    return f"{folder}/{RECORD}"


def data_files(task):
    """Return the files of a task's two splits; empty for built-in texts and for texts from the Hub."""
    own = CONFIG.own_tasks.get(task)
    if own:
        return {} if own.hub else {"train": Path(own.train), "test": Path(own.test)}
    if CONFIG.data.source != "files":
        return {}
    named = CONFIG.data.files.get(task)
    root = Path(CONFIG.data.root)
    return {
        split: root
        / ((named and getattr(named, split)) or getattr(FORMATS[task], split))
        for split in ("train", "test")
    }


def corpus_inputs(task):
    """Return the files that a task's texts are read from."""
    checked(require_texts, task)
    if dataset_of(task):
        return [fetched_dataset(task)]
    return external_files(data_files(task).values())


def corpus_content(task):
    """Return a hash of the content of the files that a task's texts are read from."""
    if dataset_of(task):
        return recorded_content(fetched_dataset(task))
    return content(data_files(task).values())


def corpus_module(task):
    """Return the module that reads or generates a task's texts."""
    if dataset_of(task):
        return "icl_lens.corpora.hub"
    if task in CONFIG.own_tasks:
        return "icl_lens.corpora.columns"
    return f"icl_lens.corpora.{CONFIG.data.source}"


def definition_option(task):
    """Return the option of `icl-lens` that defines a task other than the paper's four."""
    own = CONFIG.definition(task)
    if not own:
        return ""
    return f"--definition {shlex.quote(own.model_dump_json(exclude_unset=True))}"


def corpus_options(task):
    """Return the options of `icl-lens corpora` that set the source of the texts."""
    if dataset_of(task):
        folder = str(Path(fetched_dataset(task)).parent)
        options = [f"--fetched {shlex.quote(folder)}"]
    else:
        options = [
            f"--{split} {shlex.quote(str(path))}"
            for split, path in data_files(task).items()
        ]
    options = options or [f"--seed {CONFIG.data.seed}"]
    if CONFIG.data.drop_test_duplicates:
        options.append("--drop-test-duplicates")
    if CONFIG.data.shuffle_labels is not None:
        options.append(f"--shuffle-labels {CONFIG.data.shuffle_labels}")
    return " ".join(options)


def external_file(path):
    """Return a file that no rule makes, as the input of a rule.

    Its date does not determine which jobs run, because a date does not depend on the content: `mv` keeps an old date, and `touch`
    sets a new one. Each rule with such an input also has the parameter `content`, a hash of the content.
    """
    return ancient(str(path))


def external_files(paths):
    """Return files that no rule makes, as the input of a rule; see `external_file`."""
    return [external_file(path) for path in paths]


def content(paths):
    """Return a hash of the names and the content of some files. As a rule's parameter, it triggers a rerun when these change."""
    return checked(hashes.files_hash, [Path(path) for path in paths])


def recorded_content(record):
    """Return a hash of the content of a fetched data set: of its record and of all files that the record lists; "" before it exists."""
    path = Path(record)
    if not path.is_file():
        return ""
    listed = checked(fetched.read, path.parent).files
    return content([path, *(path.parent / name for name in listed)])


def any_of(names):
    """Return a pattern that matches any of some names. It tests each character once, however many names there are."""
    by_first = {}
    for name in dict.fromkeys(names):
        by_first.setdefault(name[:1], []).append(name[1:])
    optional = by_first.pop("", None)
    branches = [
        re.escape(first) + any_of(rest) for first, rest in sorted(by_first.items())
    ]
    if not optional and len(branches) == 1:
        return branches[0]
    return f"(?:{'|'.join(branches)}){'?' if optional else ''}" if branches else ""


def once_per_plan(function):
    """Cache a function that reads files, until the first job runs. Each of a model's hundreds of jobs asks for the same values.

    Snakemake asks again when a job runs. The function is then called, because other jobs write files.
    """
    cached = cache(function)

    def current(*arguments):
        return function(*arguments) if STARTED.is_set() else cached(*arguments)

    return current


@once_per_plan
def files_of_checkpoint(folder):
    """Return the files of a local checkpoint. They are not annotated, so that jobs can share them."""
    return tuple(checked(checkpoint_files, folder))


@once_per_plan
def checkpoint_content(folder, record):
    """Return a hash of the content of a checkpoint; "" if it is not fetched or converted yet.

    `record` is the record of a fetched or converted model, or any other file of a checkpoint.
    """
    record = Path(record)
    if record.name in (RECORD, converted.RECORD) and not record.is_file():
        return ""
    return checked(checkpoint_hash, folder)


@cache
def code_of(*modules):
    """Return the hash of the code that some modules run. As a rule's parameter, it triggers a rerun when this code changes.

    (As inputs, these would be dozens of files per job. Snakemake checks the inputs of all ready jobs whenever it starts one.)
    """
    return code_hash(*modules)


@cache
def code_of_notebook(notebook):
    """Return the hash of the package's sources that a notebook runs."""
    return notebook_hash(notebook)


def is_trained_here(path):
    """Return whether a model's folder is the one that `organism` creates with this config."""
    return Path(path) == Path(CONFIG.results) / "training" / "model"


@cache
def model_folder(name):
    """Return the folder of a model: the user's folder, or the folder that it is fetched or converted to."""
    return CONFIG.model(name).folder(CONFIG.downloads)


def model_files(name):
    """Return a model's files as a study's input; for a fetched or converted model, its record with the hashes of all files.

    A model that this config trains is given by its absolute path, so that Snakemake treats it as a user's file. Studying a model
    must never trigger its training.
    """
    checked(require_model, name)
    path = model_folder(name)
    if CONFIG.model(name).gguf is not None:
        return [f"{path}/{converted.RECORD}"]
    if CONFIG.model(name).hub is not None:
        return [f"{path}/{RECORD}"]
    if not is_trained_here(path):
        return external_files(files_of_checkpoint(path))
    if not Path(path).is_dir():
        stop(
            f"model {name}: {path} is not trained yet; `snakemake organism` with this config trains it"
        )
    return external_files(files_of_checkpoint(Path(path).absolute()))


def adapter_files(name):
    """Return the files of a model's adapter as a study's input; empty if it has none."""
    adapter = CONFIG.model(name).adapter
    return external_files(files_of_adapter(adapter)) if adapter else []


@once_per_plan
def files_of_adapter(folder):
    """Return the files of an adapter. They are not annotated, so that jobs can share them."""
    return tuple(checked(adapters.adapter_files, folder))


@once_per_plan
def model_content(name):
    """Return a hash of the content of a model, followed by that of its adapter; "" before the model is fetched or converted."""
    adapter = CONFIG.model(name).adapter
    parts = [checkpoint_content(model_folder(name), str(model_files(name)[0]))]
    return "-".join(
        parts + ([checked(adapters.adapter_hash, adapter)] if adapter else [])
    )


@cache
def is_small(name):
    """Return whether a model is small: its files are local and less than 100 MB, so a study takes about as long as its imports."""
    model = CONFIG.model(name)
    files = Path(model.path).glob("*") if model.path else []
    return (
        model.path is not None
        and sum(path.stat().st_size for path in files if path.is_file()) < 100e6
    )


def is_distributed(name):
    """Return whether the layers of a model are distributed over devices."""
    return CONFIG.placement_of(name)[0] != "device"


def gpu_limit():
    """Return how many model jobs run at a time: `--resources gpu=N`, or else as many as this machine has GPUs, and at least one."""
    limit = getattr(workflow.global_resources.get("gpu"), "value", None)
    if limit is not None:
        return limit
    return max(1, len(gpu_slots.visible())) if CONFIG.device in ("auto", "cuda") else 1


def model_job_threads(wildcards):
    """Return one thread for a small model, because it is faster to run several such jobs in parallel.

    The jobs of other models share the cores if each has its own GPU. On a cluster, a job with a GPU uses all cores of its
    allocation. Snakemake then runs the jobs of a group one after another on one GPU, and does not request one for each.
    """
    if on_cluster() and cluster_gpus(wildcards.model):
        return workflow.cores
    if is_small(wildcards.model):
        return 1
    if accelerators.expected(CONFIG.device):
        return max(1, workflow.cores // max(1, gpu_limit()))
    return workflow.cores


def model_job_gpus(wildcards):
    """Return the number of GPUs of a model job, see `limit_gpus`: 1, also on a CPU; 0 for a small model on a CPU.

    A model whose layers are distributed over all GPUs (`placement: auto`) uses them all.
    """
    if on_cluster():
        return cluster_gpus(wildcards.model)
    if accelerators.expected(CONFIG.device) and is_distributed(wildcards.model):
        return max(1, gpu_limit())
    return (
        1
        if accelerators.expected(CONFIG.device) or not is_small(wildcards.model)
        else 0
    )


@cache
def fetched_models():
    """Return the models that are fetched without a conversion, by the path of their record; the first one of each record."""
    found = {}
    for model in CONFIG.all_models:
        # A model with an invalid repository name is reported when a job needs it.
        with suppress(InputError):
            if model.hub and model.gguf is None:
                found.setdefault(f"{model_folder(model.name)}/{RECORD}", model)
    return found


@cache
def converted_models():
    """Return the models that are converted from a GGUF file, by their folder; the first one of each folder."""
    found = {}
    for model in CONFIG.all_models:
        with suppress(InputError):
            if model.gguf:
                found.setdefault(Path(model_folder(model.name)), model)
    return found


def fetched_model_options(record):
    """Return the options of `icl-lens fetch-model` for the model or encoder of a record."""
    model = fetched_models().get(str(record))
    if model:
        return shlex.join(["--hub", model.hub, "--revision", model.revision or "main"])
    # An encoder is given only by its folder, whose name contains its repository and revision.
    hub, revision = (name.replace("--", "/") for name in Path(record).parts[-3:-1])
    return shlex.join(["--hub", hub, "--revision", revision])


def converted_model(folder):
    """Return the model whose GGUF file is converted to a folder."""
    return converted_models()[Path(folder)]


def gguf_folder(wildcards):
    """Return the output folder of the rule `convert_gguf`."""
    parts = (wildcards.source, wildcards.place, wildcards.file, fetch.CONVERTED)
    return str(Path(CONFIG.downloads, "gguf", *parts))


def gguf_file(folder):
    """Return the GGUF file that is converted to a folder."""
    model = converted_model(folder)
    if model.hub is None:
        return model.gguf
    return str(Path(folder).parent / model.gguf)


def gguf_inputs(folder):
    """Return the input of a conversion: the file, or for a file from the Hub the record that it was fetched."""
    if converted_model(folder).hub is None:
        return external_files([gguf_file(folder)])
    return [f"{Path(folder).parent}/{RECORD}"]


def gguf_options(folder):
    """Return the options of `icl-lens convert-gguf` that select the file."""
    options = ["--gguf", gguf_file(folder)]
    if converted_model(folder).hub is not None:
        options += ["--fetched", str(Path(folder).parent)]
    return shlex.join(options)


def gguf_content(folder):
    """Return a hash of the content of the file that is converted to a folder, or for a file from the Hub of its record."""
    return (
        content([gguf_file(folder)])
        if converted_model(folder).hub is None
        else recorded_content(gguf_inputs(folder)[0])
    )


def fetched_gguf_options(record):
    """Return the options of `icl-lens fetch-model` for the GGUF file of a record."""
    model = converted_model(Path(record).parent / fetch.CONVERTED)
    options = ["--hub", model.hub, "--revision", model.revision or "main"]
    return shlex.join([*options, "--gguf", model.gguf])


def encoder_files(folder):
    """Return an encoder's files as a study's input: the files in its folder, or the record that it was fetched."""
    if Path(folder).is_relative_to(Path(CONFIG.downloads) / "models"):
        return [f"{folder}/{RECORD}"]
    checked(quantization.require_float, Path(folder))
    return external_files(files_of_checkpoint(folder))


def fetched_dataset_options(record):
    """Return the options of `icl-lens fetch-dataset` for the data set of a record: all splits that the tasks read."""
    tasks = [task for task in CONFIG.tasks if dataset_of(CONFIG.text_source(task))]
    found = [
        dataset_of(CONFIG.text_source(task))
        for task in tasks
        if fetched_dataset(CONFIG.text_source(task)) == record
    ]
    splits = sorted({split for dataset in found for split in dataset.splits.values()})
    return shlex.join(
        [
            *("--hub", found[0].hub, "--revision", found[0].revision),
            *("--config", found[0].config, "--splits", *splits),
        ]
    )


@cache
def model_options(name):
    """Return the options of a study's command that set how a model is run and prompted."""
    model = CONFIG.model(name)
    options = [
        "--dtype {} --matmul {}".format(*CONFIG.precision(name)),
        "" if model.bos == "auto" else f"--bos {'yes' if model.bos else 'no'}",
        {"turns": "--chat-turns", True: "--chat", False: ""}[model.chat],
        "" if model.untrained is None else f"--untrained {model.untrained}",
        "" if model.adapter is None else f"--adapter {shlex.quote(model.adapter)}",
        *(f"--label-{key} {value}" for key, value in CONFIG.labels.options.items()),
        *placement_options(name),
    ]
    return " ".join(option for option in options if option)


def placement_options(name):
    """Return the options of a study's command that distribute the layers of a model over devices, if they are distributed."""
    placement, max_memory = CONFIG.placement_of(name)
    if placement == "device":
        return []
    limits = (
        []
        if max_memory is None
        else [f"--max-memory {shlex.quote(json.dumps(max_memory))}"]
    )
    return [f"--placement {placement}", *limits]


@cache
def settings_option(study, task):
    """Return the option of a study's command that passes its settings, if it has any."""
    settings = CONFIG.settings(study, task)
    return f"--settings {shlex.quote(settings.model_dump_json())}" if settings else ""


def study_code(study):
    """Return the hash of the code that a study runs."""
    return code_of(study.module, RUN if study.reads else RUN_SYNTHETIC)


def prompts_constraints(study):
    """Return the wildcard values of a study that reads no corpus prompts: the sets of its prompts and the tasks of its figures."""
    if study.reads is PROMPTS:
        return {}
    tasks = sorted({re.escape(task) for item in study.items for task in item.tasks})
    return {
        "set": "|".join(map(re.escape, study.reads.sets)),
        **({"task": "|".join(tasks)} if tasks else {}),
    }


def study_settings(study):
    """Return a study's settings, which are the same for every task; None if it has none."""
    return getattr(CONFIG.studies, study.settings.name) if study.settings else None


def further_prompts(study):
    """Return the additional prompts tables that a study reads, keyed by option name."""
    return {
        each.option: f"<results>/prompts/{{task}}/{each.set_name(study_settings(study))}.parquet"
        for each in study.further
    }


def further_options(study):
    """Return a function of a job's wildcards and inputs that gives the options for the study's additional prompts tables."""

    def options(wildcards, input):
        return shlex.join(
            part
            for each in study.further
            for part in (
                f"--{each.option.replace('_', '-')}",
                str(input[each.option]),
            )
        )

    return options


def shard_count(study):
    """Return the number of jobs that a study of one model, task and prompt set is split into: at most one per prompt."""
    if study.shards is None or CONFIG.shards == 1:
        return 1
    limit = study.cost.queries
    queries = min(
        CONFIG.queries, limit(study_settings(study)) if limit else CONFIG.queries
    )
    return min(CONFIG.shards, len(CONFIG.seeds) * queries)


def table_path(study):
    """Return the path of a study's table, without its ending."""
    return f"studies/{{model}}/{{task}}/{{set}}/{study.name}"


def study_path(study):
    """Return the path of the table that a study's job writes, without its ending: the study's table, or a shard of it."""
    count = shard_count(study)
    if count == 1:
        return table_path(study)
    return f"studies/{{model}}/{{task}}/{{set}}/{shards.FOLDER}/{study.name}.{{shard}}-of-{count}"


def shard_option(study, wildcards):
    """Return the option of a study's command that selects a shard, if its jobs are shards."""
    count = shard_count(study)
    return "" if count == 1 else f"--shard {wildcards.shard}/{count}"


def shard_title(study):
    """Return the number of a job's shard for its message, if its jobs are shards."""
    count = shard_count(study)
    return "" if count == 1 else f" (shard {{wildcards.shard}} of {count})"


def further_checkpoint_files(study):
    """Return the files of the additional checkpoints that a study runs."""
    if study.checkpoints is None:
        return []
    folders = study.checkpoints(study_settings(study)).values()
    return [file for folder in folders for file in encoder_files(folder)]


def further_content(study):
    """Return hashes of the content of the additional checkpoints that a study runs."""
    if study.checkpoints is None:
        return []
    folders = study.checkpoints(study_settings(study)).values()
    return [
        checkpoint_content(folder, str(encoder_files(folder)[0])) for folder in folders
    ]


def tensor_outputs(study):
    """Return the tensor file that a study writes in addition to its table, if any."""
    if not study.tensors:
        return {}
    return {
        "tensors": f"<results>/studies/{{model}}/{{task}}/{{set}}/{study.name}.safetensors"
    }


def require_convertible(model):
    """Check, before any job runs, that a local GGUF file is usable and that the packages for its conversion are installed."""
    if model.hub is None:
        gguf_files.check(model.gguf)
    if DeploymentMethod.CONDA not in workflow.deployment_settings.deployment_method:
        gguf_conversion.require_packages()


@cache
def require_model(name):
    """Check that a model exists or can be fetched or converted; otherwise raise an error that names what is missing.

    It is called when Snakemake plans the first job that needs the model, so before any job runs. A model that no requested job
    needs is not checked.
    """
    model = CONFIG.model(name)
    if model.gguf is not None:
        if not Path(model_folder(name), converted.RECORD).is_file():
            require_convertible(model)
    elif model.hub is not None:
        # Rejects an invalid repository name or revision, and fetched weights that are quantised by an unsupported method.
        quantization.require_supported(Path(model_folder(name)))
    elif not is_trained_here(model.path):
        checkpoint_files(model.path)
    if model.adapter is not None:
        adapters.adapter_files(model.adapter)
    if DeploymentMethod.CONDA not in workflow.deployment_settings.deployment_method:
        quantization.require_packages(Path(model_folder(name)))
        if model.adapter is not None:
            adapters.require_packages()


@cache
def require_texts(task):
    """Check that the files with a task's texts exist or can be fetched; called like `require_model`."""
    if dataset_of(task):
        fetched_dataset(task)
    for split, path in data_files(task).items():
        if not path.is_file():
            key = "own_tasks" if task in CONFIG.own_tasks else "data.files"
            raise InputError(
                f"task {task}: its {split} file {path} {'is a folder' if path.is_dir() else 'does not exist'}; add it, set another file in {key}.{task}.{split}, or "
                f"remove {task} from tasks"
            )


@cache
def text_counts(task):
    """Return the number of texts of each class per split, or None if they are not known before the texts are read."""
    source = CONFIG.text_source(task)
    if dataset_of(source):
        return None
    if data_files(source):
        code, folder = code_of(corpus_module(source)), Path(
            ".snakemake/icl-lens/counts"
        )
        own = CONFIG.own_tasks.get(source)
        return counts.of_files(
            CONFIG.task(source), own, data_files(source), code, folder
        )
    return class_counts(source)


@cache
def too_few_texts(item):
    """Return the configured tasks that an item cannot show because they have too few texts, each with the reason."""
    tasks = CONFIG.shown(item)[1] if not ITEMS[item].own_tasks else []
    found = {
        task: shortage.of_item(CONFIG, item, task, text_counts(task)) for task in tasks
    }
    return {task: reason for task, reason in found.items() if reason}


@cache
def panels(item):
    """Return the names of the models and of the tasks that an item shows, without the tasks that have too few texts for it."""
    models, tasks = CONFIG.shown(item)
    return models, [task for task in tasks if task not in too_few_texts(item)]


def left_out():
    """Return one sentence per task and reason for the tasks that have too few texts for some items of the report."""
    return [sentence for sentence, items in left_out_items()]


@cache
def left_out_items():
    """Return the sentences of `left_out`, each with the items that it is about."""
    return shortage.summary({item: too_few_texts(item) for item in requested_items()})


@cache
def warn(sentence):
    """Print a warning once."""
    if workflow.is_main_process:
        logger.warning(sentence)


def warn_left_out(item):
    """Warn, before any job runs, about the tasks that an item does not show because they have too few texts."""
    reported = [sentence for sentence, items in left_out_items() if item in items]
    own = [sentence for sentence, _ in shortage.summary({item: too_few_texts(item)})]
    for sentence in reported or own:
        warn(sentence)


def require_shown(item):
    """Check that an item has something to show with this config."""
    models, tasks = panels(item)
    if models and tasks:
        return
    if reason := next(iter(too_few_texts(item).values()), ""):
        raise InputError(f"{item} cannot be made: {reason}")
    about = ITEMS[item]
    if about.hubs and not models:
        raise InputError(
            f"{item} requires {' or '.join(about.hubs)}, and models has none of these; "
            "config/kernel_regression.yaml has one"
        )
    if about.over_training and not models:
        raise InputError(
            f"{item} shows accuracy over training, and there are no checkpoints: run `snakemake organism` to save them in "
            f"{CONFIG.results}/training, or configure models with a step, as in config/training-dynamics.yaml"
        )
    if not models:
        raise InputError(
            f"{item} compares number formats, but models has no two entries that differ only in dtype or matmul, one of them "
            "float32 with matmul: exact; config/precision.yaml has such entries"
        )
    raise InputError(
        f"{item} shows {', '.join(map(CONFIG.text_source, about.tasks))}, but tasks has none of them; add one, or set other tasks in "
        f"items.{item}.tasks"
    )


def require_trainable():
    """Check that `organism` trains on the paper's tasks, because its episodes and metrics depend on their classes."""
    own = [task for task in CONFIG.tasks if task in CONFIG.own_tasks]
    if own:
        raise InputError(
            f"organism trains only on the paper's tasks; remove {own[0]} from tasks for the training, and add it again afterwards"
        )


def training_corpora(wildcards):
    """Return the corpora that `organism` trains on."""
    checked(require_trainable)
    return [f"{CONFIG.results}/corpora/{task}.parquet" for task in CONFIG.tasks]


@cache
def shown_items():
    """Return the items that have something to show with this config."""
    return [item for item in ITEMS if all(panels(item))]


def group_items(group):
    """Return the shown items of a group."""
    return [item for item in shown_items() if ITEMS[item].group == group]


@cache
def reported_items():
    """Return the items in the report: all items that `all` makes."""
    return [item for item in requested_items() if all(panels(item))]


@cache
def requested_items():
    """Return the items that `all` would make if each task had enough texts."""
    return [
        item
        for item in ITEMS
        if all(CONFIG.shown(item))
        and ITEMS[item].in_all
        and (
            ITEMS[item].group in CONFIG.groups or registry.is_plugin(ITEMS[item].group)
        )
    ]


def reported_files(wildcards):
    """Return the files of all items in the report; warn about tasks that are left out, and stop if no item can be made."""
    for item in requested_items():
        warn_left_out(item)
    if requested_items() and not reported_items():
        checked(require_shown, requested_items()[0])
    return [files for item in reported_items() for files in item_files(item)]


def reported_claims():
    """Return the claims files of the papers in the report."""
    files = [resources.CLAIMS / f"{group}.yaml" for group in CONFIG.groups]
    return [file for file in files if file.exists()]


def null_scorecards():
    """Return the existing scorecards of the null runs in this results folder, by the name of the null run."""
    return nulls.scorecards(CONFIG.results)


def null_options():
    """Return the options of `icl-lens report` that name the scorecards of the null runs."""
    return [f"{name}={path}" for name, path in null_scorecards().items()]


def report_page():
    """Return the template, style sheet and scripts of the report page."""
    return sorted(resources.REPORT.iterdir())


def lock_folders(workflow):
    """Lock the folders that this run writes to, and return the open lock files; stop if another run is writing to one of them.

    The operating system releases the locks when this process ends, even if it is killed. Snakemake's own locks are files that a
    killed run leaves behind, so the default profile disables them.
    """
    locks = {"results": (CONFIG.results, Path(CONFIG.results, "logs", LOCK))}
    if any(job.rule.name in DOWNLOADING for job in workflow.dag.needrun_jobs()):
        locks["downloads"] = (CONFIG.downloads, Path(CONFIG.downloads, LOCK))
    checked(require_writable, "Snakemake cannot run in this folder", ".snakemake")
    for key, (folder, _) in locks.items():
        checked(require_writable, key, folder)
    return [checked(lock_folder, folder, path) for folder, path in locks.values()]


def require_snakemake_folder():
    """Check that Snakemake may write to its own folder, which even a dry run does."""
    # `onstart` also checks that the device has space left, which a dry run does not need.
    if not os.access(".snakemake", os.W_OK):
        require_writable("Snakemake cannot run in this folder", ".snakemake")


def require_writable(key, folder):
    """Check that files can be written to a folder, before any job runs. The error begins with the config key of the folder."""
    try:
        require_writable_folder(Path(folder).absolute())
    except InputError as error:
        raise InputError(f"{key}: {error}") from error


def lock_folder(folder, path):
    """Lock one folder for this process, and return the open lock file.

    The lock file is in the folder, so that runs that were started in different working folders, or that specify the folder by a
    link, use the same lock.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        raise InputError(
            f"another run (process {file.read()}) is writing to {folder}; wait until it ends, or set another folder in the config"
        ) from None
    except OSError as error:
        logger.warning(
            f"{path.parent} cannot be locked ({error.strerror}); do not start a second run in this folder"
        )
    with writing(path):
        file.truncate(0)
        file.write(f"{os.getpid()} on {platform.node()}")
        file.flush()
    return file


def write_input_paths():
    """Write the paths of the inputs outside the results folder, so that the audit can compare their content."""
    studies = [study for study in registry.studies().values() if study.checkpoints]
    texts = {
        task: (
            {f"fetched: {RECORD}": fetched_dataset(task)}
            if dataset_of(task)
            else {
                f"{split}: {path.name}": path
                for split, path in data_files(task).items()
            }
        )
        for task in map(CONFIG.text_source, CONFIG.tasks)
    }
    paths = inputs.ExternalInputs(
        models={model.name: model_folder(model.name) for model in CONFIG.all_models},
        adapters={
            model.name: model.adapter for model in CONFIG.all_models if model.adapter
        },
        encoders={
            name: folder
            for study in studies
            for name, folder in study.checkpoints(study_settings(study)).items()
        },
        texts={task: files for task, files in texts.items() if files},
        notebooks={item: item_notebook(item) for item in ITEMS},
        page={
            **{path.name: path for path in (*reported_claims(), *report_page())},
            **{f"null/{name}": path for name, path in null_scorecards().items()},
        },
    )
    checked(inputs.write, CONFIG.results, paths)


def remove_job_rate_limit(workflow):
    """Remove Snakemake's limit of jobs per second if jobs run on this machine.

    The limit is meant for clusters. With it, Snakemake schedules another check of all ready jobs one second after each check, so
    each finished job adds one more check per second until the run ends.
    """
    if workflow.local_exec:
        workflow.scheduler.job_rate_limiter = None


def allow_termination(workflow):
    """Let Snakemake end when it receives SIGTERM, for example from a cluster.

    Its signal handler acquires the lock of the scheduler. The main thread can hold this lock when the signal arrives, and would
    then wait for itself forever.
    """
    workflow.scheduler._lock = threading.RLock()


def limit_gpus(workflow):
    """Let at most `gpu_limit` model jobs run at a time, and stop if this machine has fewer GPUs.

    Jobs on a cluster are not limited: its scheduler assigns the GPUs.
    """
    if not workflow.local_exec:
        return
    limit = gpu_limit()
    checked(gpu_slots.require, limit, "the resource gpu", CONFIG.device)
    scheduler = workflow.scheduler
    if "gpu" not in scheduler.global_resources:
        scheduler.global_resources["gpu"] = scheduler.resources["gpu"] = limit
    if limit > 1:
        logger.info(f"At most {limit} model jobs run at a time.")


async def accept_any_dates(dag, job, outputs):
    """Accept outputs that are dated before an input, because the clock was set back or the date of a data file is in the future.

    Snakemake would delete such outputs and fail, so the run could not be finished. The dates cause no rerun, because inputs of up
    to `max-checksum-file-size` (see the profile) are compared by content.
    """


DAG.check_output_mtime = accept_any_dates


def missing_items(dag, failed):
    """Return the reported items that a failed run did not make, each with the log of the failed job that caused it.

    The log is empty for an item that was not started.
    """
    found, reported = {}, set(reported_items())
    for job in dag.jobs:
        item = getattr(job.wildcards, "item", None)
        if item in reported and not dag.noneedrun_finished(job):
            jobs = dag.bfs(dag.dependencies, job)
            found[item] = next(
                (str(each.log[0]) for each in jobs if each in failed), ""
            )
    return found


def write_incomplete_report(workflow):
    """Write the report after a failed run, with the items that were made and a list of the missing items.

    Nothing is written if the report was not requested, if no job failed (an interrupted run), or if no item was made.
    """
    dag, failed = workflow.dag, failed_jobs(workflow.scheduler.failed)
    pages = [job for job in dag.jobs if job.rule.name == "report"]
    missing = missing_items(dag, failed)
    shown = [item for item in reported_items() if item not in missing]
    if not (workflow.is_main_process and pages and failed and missing and shown):
        return
    missing_files = {str(file) for job in dag.needrun_jobs() for file in job.output}
    walks = [
        folder
        for folder in walked_folders()
        if not {f"{folder}/{study}.parquet" for study in WALKED} & missing_files
    ]
    page = pages[0]
    arguments = [
        *("--results", str(page.params.results), "--page", str(page.params.page)),
        *("--items", *shown),
        *("--missing", *(f"{item}={log}" for item, log in missing.items())),
        *("--claims", *map(str, page.input.claims)),
        *("--left-out", *left_out()),
        *("--nulls", *null_options()),
        *("--walks", *walks, "--out", str(page.output.page)),
    ]
    Path(page.log[0]).parent.mkdir(parents=True, exist_ok=True)
    try:
        shell(
            "icl-lens report {arguments:q} 2> {log:q}",
            arguments=arguments,
            log=str(page.log[0]),
        )
    except subprocess.CalledProcessError:
        logger.error(f"The report could not be written; see {page.log[0]}.")
        return
    logger.error(
        f"{page.output.page} shows the items that were made and the reason for each missing item: {', '.join(missing)}."
    )


@cache
def walked_folders():
    """Return the study folders for the report's interactive prompt view: each model in Figure 1, on each task."""
    if "anchors" not in CONFIG.groups:
        return []
    return [
        f"{CONFIG.results}/studies/{model}/{task}/shared-1shot"
        for model in panels("figure_1")[0]
        for task in CONFIG.tasks
        if not shortage.of_set(CONFIG, "shared-1shot", task, text_counts(task))
    ]


def item_names(kind):
    """Return a pattern that matches the names of all figures, or of all tables."""
    return "|".join(item.name for item in ITEMS.values() if item.kind == kind)


@cache
def item_studies(item):
    """Return the study folders that an item reads, in the order of its panels: by model, then by task."""
    models, tasks = panels(item)
    if not ITEMS[item].studies:
        return []
    return [
        f"{CONFIG.results}/studies/{model}/{task}/{ITEMS[item].set}"
        for model in models
        for task in tasks
    ]


def item_target(item):
    """Return the input of an item's target: its files, or a function that refuses an item with nothing to show."""
    if item in shown_items():
        return item_files(item)
    return lambda wildcards: checked(require_shown, item)


def group_target(group):
    """Return the input of a group's target: a function that returns the files of its items, or stops if the group has none."""
    if group_items(group):
        return lambda wildcards: group_files(group)
    first = next(item for item in ITEMS if ITEMS[item].group == group)
    return lambda wildcards: checked(require_shown, first)


def group_files(group):
    """Return the files of a group's items, and warn about tasks that are left out."""
    for item in ITEMS:
        if ITEMS[item].group == group and all(CONFIG.shown(item)):
            warn_left_out(item)
    return [files for item in group_items(group) for files in item_files(item)]


def item_inputs(item):
    """Return the tables that an item reads; warn about tasks that are left out, and stop if the item cannot be made."""
    checked(require_shown, item)
    checked(panels_per_figure.require, CONFIG, item)
    warn_left_out(item)
    return item_tables(item)


def study_tables(wildcards):
    """Return the tables that the items of `all` read, each once, for any number of models."""
    for item in requested_items():
        warn_left_out(item)
    files = (file for item in reported_items() for file in item_tables(item))
    return list(dict.fromkeys(files))


def item_tables(item):
    """Return the tables that an item reads, without checks."""
    return [
        *(f"{CONFIG.results}/{table}" for table in ITEMS[item].reads),
        *(
            f"{folder}/{study}.parquet"
            for folder in item_studies(item)
            for study in ITEMS[item].studies
        ),
        *(
            f"{folder}/{study}.safetensors"
            for folder in item_studies(item)
            for study in ITEMS[item].tensors
        ),
    ]


def item_files(item):
    """Return all files that an item's target makes."""
    endings = {
        "figure": ("pdf", "svg", "png", "csv", "txt", "json", "replicates.safetensors"),
        "table": ("csv", "md", "tex", "json", "replicates.safetensors"),
    }[ITEMS[item].kind]
    folder = f"{CONFIG.results}/{ITEMS[item].kind}s"
    return [
        *(f"{folder}/{item}.{ending}" for ending in endings),
        f"{CONFIG.results}/notebooks/{item}.ipynb",
    ]


def item_notebook(item):
    """Return the notebook that draws an item; for a study outside the package, the notebook is in the study's folder."""
    group = ITEMS[item].group
    if registry.is_plugin(group):
        path = plugins.FOLDERS[group] / f"{ITEMS[item].notebook}.ipynb"
        if not path.is_file():
            raise InputError(
                f"plugins: {group}: {item} is drawn by {path.name}, which is not in {path.parent}"
            )
        return path
    return NOTEBOOKS / f"{ITEMS[item].notebook}.ipynb"


def item_parameters(item):
    """Return the notebook's parameters as YAML."""
    if ITEMS[item].reads:
        shown = {"tables": item_inputs(item)}
    elif ITEMS[item].studies:
        shown = {"studies": item_studies(item)}
    else:
        shown = {"tasks": [asdict(CONFIG.task(task)) for task in panels(item)[1]]}
    if ITEMS[item].over_training:
        shown["steps"] = {model: CONFIG.model(model).step for model in panels(item)[0]}
    if ITEMS[item].one_prompt and item in CONFIG.items:
        choice = CONFIG.items[item].model_dump(include={"prompt", "layers"})
        shown |= {key: value for key, value in choice.items() if value is not None}
    out = f"{CONFIG.results}/{ITEMS[item].kind}s/{item}"
    return json.dumps({"item": item, "out": out, **shown})


def require_notebooks():
    """Check that the notebook of every item exists."""
    for item in ITEMS:
        item_notebook(item)


def folder_of_package():
    """Return a folder that contains the package and none of the libraries: that of the repository, or one with a link.

    The folder of an installed package also contains the libraries of the environment that runs Snakemake.
    """
    if code.PACKAGE.parent == REPOSITORY.resolve() / "src":
        return code.PACKAGE.parent
    link = Path(".snakemake/icl-lens/package", code.PACKAGE.name).absolute()
    with writing(link):
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.exists() or link.resolve() != code.PACKAGE:
            link.unlink(missing_ok=True)
            link.symlink_to(code.PACKAGE)
    return link.parent


def item_description(item):
    """Return the text that a figure shows in addition to its title."""
    shown = ITEMS[item]
    return [shown.paper_models, *shown.stand_in_note(panels(item)[1])]


checked(require_notebooks)
logger.addFilter(name_nearest_target)
checked(require_snakemake_folder)

# Rules call `icl-lens`. Without --sdm conda, it comes from the environment that runs Snakemake, even if it is
# not activated. With --sdm conda, the libraries come from conda's environment and the package from `folder_of_package`.
PRELOADED = None
# The standard error of a command is the log of its job. If the log cannot be written, the command reports this to file
# descriptor 19, the standard error of Snakemake.
shared = (
    f"set -euo pipefail; export {hashes.HASHES}={shlex.quote(HASHES)}; "
    f"exec 19>&2; export {preloaded.WORKFLOW_STDERR}=19; "
)
own_path = f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH; "
if DeploymentMethod.CONDA in workflow.deployment_settings.deployment_method:
    shell.prefix(
        f"{shared}export PYTHONPATH={shlex.quote(str(checked(folder_of_package)))}; "
        'icl-lens() {{ python -m icl_lens "$@"; }}; '
    )
elif (
    sys.platform == "linux"
    # A job on a node of a cluster runs its command directly.
    and not workflow.remote_exec
    and (
        not accelerators.expected(CONFIG.device)
        or all(is_small(model.name) for model in CONFIG.all_models)
    )
):
    # Loading torch and a model takes seconds. `onstart` therefore starts one process that has the libraries loaded, and there is
    # one more process for each loaded model. The command of each job is a fork of one of them. For these jobs, benchmarks/
    # contains the time, and the memory of the client process only.
    PRELOADED = checked(temporary_folder, "icl-lens-")
    client = shlex.join(preloaded.client(PRELOADED.name))
    shell.prefix(
        f"{shared}{own_path}"
        f"export JUPYTER_PATH={PRELOADED.name}:${{{{JUPYTER_PATH:-}}}}; "
        # Fetch commands run in a new process, because the preloaded libraries were loaded in offline mode.
        f'icl-lens() {{{{ if [[ $1 = fetch-* ]]; then command icl-lens "$@"; else {client} icl_lens "$@"; fi; }}}}; '
    )
else:
    shell.prefix(f"{shared}{own_path}")
