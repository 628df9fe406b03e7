# Shared by all rules: the validated config, and functions that map it to paths. This file computes no results.

import fcntl
import json
import os
import platform
import re
import shlex
import subprocess
import sys
import tempfile
from dataclasses import asdict
from functools import cache
from pathlib import Path
from urllib.parse import quote

from snakemake.logging import logger
from snakemake.settings.types import DeploymentMethod

from icl_lens.artifacts.code import code_hash, notebook_hash
from icl_lens.artifacts.hashes import HASHES as HASHES_VARIABLE
from icl_lens.cli import commands, preloaded
from icl_lens.config.parse import parse as parse_config
from icl_lens.corpora.files import FORMATS
from icl_lens.corpora.hub import DATASETS, own_task_dataset
from icl_lens.errors import InputError
from icl_lens.hub import converted, fetch, gguf_conversion, gguf_files
from icl_lens.hub.checkpoints import checkpoint_files
from icl_lens.hub.fetched import RECORD
from icl_lens.network import accelerators
from icl_lens.organism.code import training_code
from icl_lens.prompts.schema import PROMPTS
from icl_lens.studies import plugins, registry
from icl_lens.tasks.own import VARIANTS

REPOSITORY = Path(workflow.current_basedir.get_path_or_uri(secret_free=True)).parents[1]

NOTEBOOKS = REPOSITORY / "notebooks"


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


CONFIG = checked(parse_config, config).with_checkpoints()
ITEMS = checked(registry.items)
# organism.smk has the rule for this group.
GROUPS = [group for group in registry.groups() if group != "organism"]
WALKED = [study.name for study in registry.studies().values() if study.walked]
# Open files of the locks that this run holds.
LOCKS = []
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
    return [fetched_dataset(task)] if dataset_of(task) else data_files(task).values()


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
    return " ".join(options) or f"--seed {CONFIG.data.seed}"


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


def model_folder(name):
    """Return the folder of a model: the user's folder, or the folder that it is fetched or converted to."""
    return CONFIG.model(name).folder(CONFIG.downloads)


def model_files(name):
    """Return a model's files as a study's input; for a fetched or converted model, its record with the hashes of all files.

    A model that this config trains is given by its absolute path, so that Snakemake treats it as a user's file. Studying a model
    must never trigger its training.
    """
    path = model_folder(name)
    if CONFIG.model(name).gguf is not None:
        return [f"{path}/{converted.RECORD}"]
    if CONFIG.model(name).hub is not None:
        return [f"{path}/{RECORD}"]
    if not is_trained_here(path):
        return checkpoint_files(path)
    if not Path(path).is_dir():
        stop(
            f"model {name}: {path} is not trained yet; `snakemake organism` with this config trains it"
        )
    return checkpoint_files(Path(path).absolute())


def is_small(name):
    """Return whether a model is small: its files are local and less than 100 MB, so a study takes about as long as its imports."""
    model = CONFIG.model(name)
    files = Path(model.path).glob("*") if model.path else []
    return (
        model.path is not None
        and sum(path.stat().st_size for path in files if path.is_file()) < 100e6
    )


def model_job_threads(wildcards):
    """Return one thread for a small model, because it is faster to run several such jobs in parallel."""
    return 1 if is_small(wildcards.model) else workflow.cores


def model_job_gpus(wildcards):
    """Return 1, so that the profile runs one model job at a time; 0 for a small model on a CPU."""
    return (
        1
        if accelerators.expected(CONFIG.device) or not is_small(wildcards.model)
        else 0
    )


def fetched_model_options(record):
    """Return the options of `icl-lens fetch-model` for the model or encoder of a record."""
    for model in CONFIG.all_models:
        if model.hub and model_files(model.name) == [record]:
            return shlex.join(
                ["--hub", model.hub, "--revision", model.revision or "main"]
            )
    # An encoder is given only by its folder, whose name contains its repository and revision.
    hub, revision = (name.replace("--", "/") for name in Path(record).parts[-3:-1])
    return shlex.join(["--hub", hub, "--revision", revision])


def converted_model(folder):
    """Return the model whose GGUF file is converted to a folder."""
    return next(
        model
        for model in CONFIG.all_models
        if model.gguf and Path(model_folder(model.name)) == Path(folder)
    )


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
        return [gguf_file(folder)]
    return [f"{Path(folder).parent}/{RECORD}"]


def gguf_options(folder):
    """Return the options of `icl-lens convert-gguf` that select the file."""
    options = ["--gguf", gguf_file(folder)]
    if converted_model(folder).hub is not None:
        options += ["--fetched", str(Path(folder).parent)]
    return shlex.join(options)


def gguf_stamp(folder):
    """Return the size and modification time of a local file, so that a replaced file is converted even if it is older."""
    if converted_model(folder).hub is not None:
        return ""
    found = Path(gguf_file(folder)).stat()
    return f"{found.st_size} bytes, {found.st_mtime_ns}"


def fetched_gguf_options(record):
    """Return the options of `icl-lens fetch-model` for the GGUF file of a record."""
    model = converted_model(Path(record).parent / fetch.CONVERTED)
    options = ["--hub", model.hub, "--revision", model.revision or "main"]
    return shlex.join([*options, "--gguf", model.gguf])


def encoder_files(folder):
    """Return an encoder's files as a study's input: the files in its folder, or the record that it was fetched."""
    if Path(folder).is_relative_to(Path(CONFIG.downloads) / "models"):
        return [f"{folder}/{RECORD}"]
    return checked(checkpoint_files, folder)


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


def model_options(name):
    """Return the options of a study's command that set how a model is run and prompted."""
    model = CONFIG.model(name)
    options = [
        "--dtype {} --matmul {}".format(*CONFIG.precision(name)),
        "" if model.bos == "auto" else f"--bos {'yes' if model.bos else 'no'}",
        "--chat" if model.chat else "",
    ]
    return " ".join(option for option in options if option)


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


def further_checkpoint_files(study):
    """Return the files of the additional checkpoints that a study runs."""
    if study.checkpoints is None:
        return []
    folders = study.checkpoints(study_settings(study)).values()
    return [file for folder in folders for file in encoder_files(folder)]


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


def require_inputs():
    """Check that all inputs in the config exist or can be fetched; otherwise stop with a one-line error that names the missing one."""
    for model in CONFIG.all_models:
        if model.gguf is not None:
            if not Path(model_files(model.name)[0]).is_file():
                require_convertible(model)
            continue
        if model.hub is not None:
            # Rejects an invalid repository name or revision.
            model_folder(model.name)
            continue
        if not is_trained_here(model.path):
            checkpoint_files(model.path)
    for task in CONFIG.tasks:
        corpus = CONFIG.text_source(task)
        if dataset_of(corpus):
            fetched_dataset(corpus)
        for split, path in data_files(corpus).items():
            if not path.is_file():
                key = "own_tasks" if corpus in CONFIG.own_tasks else "data.files"
                raise InputError(
                    f"task {task}: its {split} file {path} does not exist; add it, set another file in "
                    f"{key}.{corpus}.{split}, or remove {task} from tasks"
                )


def require_shown(item):
    """Check that an item has something to show with this config."""
    models, tasks = CONFIG.shown(item)
    if models and tasks:
        return
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


def shown_items():
    """Return the items that have something to show with this config."""
    return [item for item in ITEMS if all(CONFIG.shown(item))]


def group_items(group):
    """Return the shown items of a group."""
    return [item for item in shown_items() if ITEMS[item].group == group]


def reported_items():
    """Return the items in the report: all items that `all` makes."""
    return [
        item
        for item in shown_items()
        if ITEMS[item].in_all
        and (
            ITEMS[item].group in CONFIG.groups or registry.is_plugin(ITEMS[item].group)
        )
    ]


def reported_claims():
    """Return the claims files of the papers in the report."""
    files = [REPOSITORY / f"resources/claims/{group}.yaml" for group in CONFIG.groups]
    return [file for file in files if file.exists()]


def lock_folders(workflow):
    """Lock the folders that this run writes to, and return the open lock files; stop if another run is writing to one of them.

    The operating system releases the locks when this process ends, even if it is killed. Snakemake's own locks are files that a
    killed run leaves behind, so the default profile disables them.
    """
    folders = [CONFIG.results]
    if any(job.rule.name in DOWNLOADING for job in workflow.dag.needrun_jobs()):
        folders.append(CONFIG.downloads)
    return [checked(lock_folder, folder) for folder in folders]


def lock_folder(folder):
    """Lock one folder for this process, and return the open lock file."""
    path = Path(".snakemake/icl-lens", quote(str(Path(folder).absolute()), safe=""))
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
    file.truncate(0)
    file.write(f"{os.getpid()} on {platform.node()}")
    file.flush()
    return file


def remove_job_rate_limit(workflow):
    """Remove Snakemake's limit of jobs per second if jobs run on this machine.

    The limit is meant for clusters. With it, Snakemake schedules another check of all ready jobs one second after each check, so
    each finished job adds one more check per second until the run ends.
    """
    if workflow.local_exec:
        workflow.scheduler.job_rate_limiter = None


def missing_items(dag, failed):
    """Return the reported items that a failed run did not make, each with the log of the failed job that caused it.

    The log is empty for an item that was not started.
    """
    found = {}
    for job in dag.jobs:
        item = getattr(job.wildcards, "item", None)
        if item in reported_items() and not dag.noneedrun_finished(job):
            jobs = dag.bfs(dag.dependencies, job)
            found[item] = next(
                (str(each.log[0]) for each in jobs if each in failed), ""
            )
    return found


def write_incomplete_report(workflow):
    """Write the report after a failed run, with the items that were made and a list of the missing items.

    Nothing is written if the report was not requested, if no job failed (an interrupted run), or if no item was made.
    """
    dag, failed = workflow.dag, workflow.scheduler.failed
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


def walked_folders():
    """Return the study folders for the report's interactive prompt view: each model in Figure 1, on each task."""
    if "anchors" not in CONFIG.groups:
        return []
    return [
        f"{CONFIG.results}/studies/{model}/{task}/shared-1shot"
        for model in CONFIG.shown("figure_1")[0]
        for task in CONFIG.tasks
    ]


def item_names(kind):
    """Return a pattern that matches the names of all figures, or of all tables."""
    return "|".join(item.name for item in ITEMS.values() if item.kind == kind)


def item_studies(item):
    """Return the study folders that an item reads, in the order of its panels: by model, then by task."""
    models, tasks = CONFIG.shown(item)
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
    """Return the input of a group's target: the files of its items, or a function that refuses a group with nothing to show."""
    if group_items(group):
        return [files for item in group_items(group) for files in item_files(item)]
    first = next(item for item in ITEMS if ITEMS[item].group == group)
    return lambda wildcards: checked(require_shown, first)


def item_inputs(item):
    """Return the tables that an item reads."""
    checked(require_shown, item)
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
        "figure": ("pdf", "svg", "png", "csv", "txt", "json"),
        "table": ("csv", "md", "tex", "json"),
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
        shown = {"tasks": [asdict(CONFIG.task(task)) for task in CONFIG.shown(item)[1]]}
    if ITEMS[item].over_training:
        shown["steps"] = {
            model: CONFIG.model(model).step for model in CONFIG.shown(item)[0]
        }
    if ITEMS[item].one_prompt and item in CONFIG.items:
        choice = CONFIG.items[item].model_dump(include={"prompt", "layers"})
        shown |= {key: value for key, value in choice.items() if value is not None}
    out = f"{CONFIG.results}/{ITEMS[item].kind}s/{item}"
    return json.dumps({"item": item, "out": out, **shown})


def require_notebooks():
    """Check that the notebook of every item exists."""
    for item in ITEMS:
        item_notebook(item)


def item_description(item):
    """Return the text that a figure shows in addition to its title."""
    shown = ITEMS[item]
    return [shown.paper_models, *shown.stand_in_note(CONFIG.shown(item)[1])]


checked(require_notebooks)
checked(require_inputs)

# Rules call `icl-lens` and `papermill`. Without --sdm conda, these come from the environment that runs Snakemake, even if it is
# not activated. With --sdm conda, the libraries come from conda's environment and the package from this repository.
PRELOADED = None
# Local jobs of this run cache the hashes of large files in this folder, so that each file is hashed once.
HASHES = tempfile.TemporaryDirectory(prefix="icl-lens-hashes-")
shared = f"set -euo pipefail; export {HASHES_VARIABLE}={HASHES.name}; "
own_path = f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH; "
if DeploymentMethod.CONDA in workflow.deployment_settings.deployment_method:
    shell.prefix(
        f"{shared}export PYTHONPATH={shlex.quote(str(REPOSITORY / 'src'))}; "
        'icl-lens() {{ python -m icl_lens "$@"; }}; '
    )
elif sys.platform == "linux" and (
    not accelerators.expected(CONFIG.device)
    or all(is_small(model.name) for model in CONFIG.all_models)
):
    # Loading torch and a model takes seconds. `onstart` therefore starts one process that has the libraries loaded, and there is
    # one more process for each loaded model. The command of each job is a fork of one of them. For these jobs, benchmarks/
    # contains the time, and the memory of the client process only.
    PRELOADED = tempfile.TemporaryDirectory(prefix="icl-lens-")
    client = shlex.join(preloaded.client(PRELOADED.name))
    shell.prefix(
        f"{shared}{own_path}"
        f"export JUPYTER_PATH={PRELOADED.name}:${{{{JUPYTER_PATH:-}}}}; "
        # Fetch commands run in a new process, because the preloaded libraries were loaded in offline mode.
        f'icl-lens() {{{{ if [[ $1 = fetch-* ]]; then command icl-lens "$@"; else {client} icl_lens "$@"; fi; }}}}; '
        f'papermill() {{{{ {client} papermill "$@"; }}}}; '
    )
else:
    shell.prefix(f"{shared}{own_path}")
