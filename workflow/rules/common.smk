# What the rules share: the validated config, and functions from it to paths. Nothing here computes a result.

import contextlib
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

from snakemake.logging import logger
from snakemake.settings.types import DeploymentMethod

from icl_lens.artifacts.code import code_hash, notebook_hash
from icl_lens.artifacts.hashes import HASHES as HASHES_VARIABLE
from icl_lens.cli import commands, preloaded
from icl_lens.config.parse import parse as parse_config
from icl_lens.corpora.files import FORMATS
from icl_lens.corpora.hub import DATASETS, of_own_task
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
    """The function's value; a fault in what the user gave stops the workflow with its sentence."""
    try:
        return function(*arguments)
    except InputError as error:
        # Not a WorkflowError: Snakemake would add this file's lines, as if the fault were here.
        logger.error(str(error))
        sys.exit(1)


def forget_stale_locks():
    """Remove the locks of a killed Snakemake, so that the same command goes on; returns the file that keeps ours.

    Every run holds a shared lock of the operating system, which dies with its process. Whoever can get it exclusively is
    alone in this folder, and any lock that Snakemake finds there is a dead run's.
    """
    Path(".snakemake").mkdir(exist_ok=True)
    held = open(".snakemake/icl-lens.lock", "a+")
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Some network file systems keep such locks on one machine only: locks from another machine are left alone.
        held.seek(0)
        if held.read() in ("", platform.node()):
            for lock in Path(".snakemake/locks").glob("*.lock"):
                lock.unlink()
            held.truncate(0)
            held.write(platform.node())
            held.flush()
        fcntl.flock(held, fcntl.LOCK_SH)
    except OSError:
        # Another run is alive (Snakemake's own locks then rule), or the file system has no such locks.
        with contextlib.suppress(OSError):
            fcntl.flock(held, fcntl.LOCK_SH | fcntl.LOCK_NB)
    return held


LOCK = forget_stale_locks()
CONFIG = checked(parse_config, config).with_checkpoints()
ITEMS = checked(registry.items)
# organism.smk has that one's rule.
GROUPS = [group for group in registry.groups() if group != "organism"]
WALKED = [study.name for study in registry.studies().values() if study.walked]
RUN = "icl_lens.studies.run"
RUN_SYNTHETIC = "icl_lens.studies.run_synthetic"


def dataset_of(task):
    """The data set on the hub that a task's texts come from, if they come from there."""
    own = CONFIG.own_tasks.get(task)
    if own:
        return of_own_task(own) if own.hub else None
    if CONFIG.data.source != "hub":
        return None
    return DATASETS[task].at(CONFIG.data.revisions.get(task, DATASETS[task].revision))


def fetched_dataset(task):
    """What tells that a task's data set was fetched."""
    dataset = dataset_of(task)
    folder = fetch.dataset_folder(
        CONFIG.downloads, dataset.hub, dataset.revision, dataset.config
    )
    return f"{folder}/{RECORD}"


def data_files(task):
    """The files of a task's two splits; none for the built-in texts and for those from the hub."""
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
    """The files that a task's texts are read from."""
    return [fetched_dataset(task)] if dataset_of(task) else data_files(task).values()


def corpus_module(task):
    """The module that reads or generates a task's texts."""
    if dataset_of(task):
        return "icl_lens.corpora.hub"
    if task in CONFIG.own_tasks:
        return "icl_lens.corpora.columns"
    return f"icl_lens.corpora.{CONFIG.data.source}"


def definition_option(task):
    """The option of `icl-lens` that says what a task is that is none of the paper's four."""
    own = CONFIG.definition(task)
    if not own:
        return ""
    return f"--definition {shlex.quote(own.model_dump_json(exclude_unset=True))}"


def corpus_options(task):
    """Options of `icl-lens corpora` that say where the texts come from."""
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
    """The hash of what some modules run: as a rule's parameter, it reruns what an edit can change.

    (As inputs they would be dozens of files a job, and Snakemake looks at the inputs of all ready jobs whenever it starts one.)
    """
    return code_hash(*modules)


@cache
def code_of_notebook(notebook):
    """The hash of the package's sources that a notebook runs."""
    return notebook_hash(notebook)


def is_trained_here(path):
    """Whether a model's folder is the one that `organism` makes with this config."""
    return Path(path) == Path(CONFIG.results) / "training" / "model"


def model_folder(name):
    """The folder of a model: the user's own, or the one that it is fetched or converted to."""
    return CONFIG.model(name).folder(CONFIG.downloads)


def model_files(name):
    """A model's files, as a study's input; for one fetched or converted its record, with the hashes of all files.

    A model that this config trains is named by its absolute path, which Snakemake takes for a file of the user's: to study it
    must never be to train it.
    """
    path = model_folder(name)
    if CONFIG.model(name).gguf is not None:
        return [f"{path}/{converted.RECORD}"]
    if CONFIG.model(name).hub is not None:
        return [f"{path}/{RECORD}"]
    return checkpoint_files(Path(path).absolute() if is_trained_here(path) else path)


def is_small(name):
    """Whether a model is so small that a study of it takes as long as its imports: its files lie here and hold less than 100 MB."""
    model = CONFIG.model(name)
    files = Path(model.path).glob("*") if model.path else []
    return (
        model.path is not None
        and sum(path.stat().st_size for path in files if path.is_file()) < 100e6
    )


def model_job_threads(wildcards):
    """One thread for a small model: several such jobs side by side are faster."""
    return 1 if is_small(wildcards.model) else workflow.cores


def model_job_gpus(wildcards):
    """One of the profile's places for model jobs, of which there is one at a time; none for a small model on a CPU."""
    return (
        1
        if accelerators.expected(CONFIG.device) or not is_small(wildcards.model)
        else 0
    )


def fetched_model_options(record):
    """Options of `icl-lens fetch-model` for the model, or the encoder, whose record that is."""
    for model in CONFIG.every_model:
        if model.hub and model_files(model.name) == [record]:
            return shlex.join(
                ["--hub", model.hub, "--revision", model.revision or "main"]
            )
    # An encoder is named by its folder alone, which is named after it and its revision.
    hub, revision = (name.replace("--", "/") for name in Path(record).parts[-3:-1])
    return shlex.join(["--hub", hub, "--revision", revision])


def converted_model(folder):
    """The model whose GGUF file is converted to a folder."""
    return next(
        model
        for model in CONFIG.every_model
        if model.gguf and Path(model_folder(model.name)) == Path(folder)
    )


def gguf_folder(wildcards):
    """The folder that the rule `convert_gguf` fills."""
    parts = (wildcards.source, wildcards.place, wildcards.file, fetch.CONVERTED)
    return str(Path(CONFIG.downloads, "gguf", *parts))


def gguf_file(folder):
    """The GGUF file that is converted to a folder."""
    model = converted_model(folder)
    if model.hub is None:
        return model.gguf
    return str(Path(folder).parent / model.gguf)


def gguf_inputs(folder):
    """What a conversion waits for: the file, or for one from the hub what tells that it was fetched."""
    if converted_model(folder).hub is None:
        return [gguf_file(folder)]
    return [f"{Path(folder).parent}/{RECORD}"]


def gguf_options(folder):
    """Options of `icl-lens convert-gguf` that say which file is converted."""
    options = ["--gguf", gguf_file(folder)]
    if converted_model(folder).hub is not None:
        options += ["--fetched", str(Path(folder).parent)]
    return shlex.join(options)


def gguf_stamp(folder):
    """Size and time of a file here: another file in its place is converted, whichever of the two is older."""
    if converted_model(folder).hub is not None:
        return ""
    found = Path(gguf_file(folder)).stat()
    return f"{found.st_size} bytes, {found.st_mtime_ns}"


def fetched_gguf_options(record):
    """Options of `icl-lens fetch-model` for the GGUF file whose record that is."""
    model = converted_model(Path(record).parent / fetch.CONVERTED)
    options = ["--hub", model.hub, "--revision", model.revision or "main"]
    return shlex.join([*options, "--gguf", model.gguf])


def encoder_files(folder):
    """An encoder's files, as a study's input: those in the folder, or what tells that it was fetched."""
    if Path(folder).is_relative_to(Path(CONFIG.downloads) / "models"):
        return [f"{folder}/{RECORD}"]
    return checked(checkpoint_files, folder)


def fetched_dataset_options(record):
    """Options of `icl-lens fetch-dataset` for the data set whose record that is: the splits that any task reads of it."""
    tasks = [task for task in CONFIG.tasks if dataset_of(CONFIG.texts_of(task))]
    found = [
        dataset_of(CONFIG.texts_of(task))
        for task in tasks
        if fetched_dataset(CONFIG.texts_of(task)) == record
    ]
    splits = sorted({split for dataset in found for split in dataset.splits.values()})
    return shlex.join(
        [
            *("--hub", found[0].hub, "--revision", found[0].revision),
            *("--config", found[0].config, "--splits", *splits),
        ]
    )


def model_options(name):
    """Options of a study's command that say how a model is run and prompted."""
    model = CONFIG.model(name)
    options = [
        "--dtype {} --matmul {}".format(*CONFIG.precision(name)),
        "" if model.bos == "auto" else f"--bos {'yes' if model.bos else 'no'}",
        "--chat" if model.chat else "",
    ]
    return " ".join(option for option in options if option)


def settings_option(study, task):
    """The option of a study's command that says what it does, if it has one."""
    settings = CONFIG.settings(study, task)
    return f"--settings {shlex.quote(settings.model_dump_json())}" if settings else ""


def study_code(study):
    """The hash of what a study runs."""
    return code_of(study.module, RUN if study.reads else RUN_SYNTHETIC)


def prompts_constraints(study):
    """What the wildcards of a study can be that reads no prompts of a corpus: the sets of its prompts, and the tasks of its figures."""
    if study.reads is PROMPTS:
        return {}
    tasks = sorted({re.escape(task) for item in study.items for task in item.tasks})
    return {
        "set": "|".join(map(re.escape, study.reads.sets)),
        **({"task": "|".join(tasks)} if tasks else {}),
    }


def study_settings(study):
    """A study's settings, the same for every task; None where it has none."""
    return getattr(CONFIG.studies, study.settings.name) if study.settings else None


def further_prompts(study):
    """The further prompts tables that a study reads, by the names of their options."""
    return {
        each.option: f"<results>/prompts/{{task}}/{each.set_name(study_settings(study))}.parquet"
        for each in study.further
    }


def further_options(study):
    """The options of a study's command that name its further prompts tables, as a function of a job's wildcards and inputs."""

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
    """The files of the further checkpoints that a study runs."""
    if study.checkpoints is None:
        return []
    folders = study.checkpoints(study_settings(study)).values()
    return [file for folder in folders for file in encoder_files(folder)]


def tensors_beside(study):
    """The file of tensors that a study writes beside its table, if it does."""
    if not study.tensors:
        return {}
    return {
        "tensors": f"<results>/studies/{{model}}/{{task}}/{{set}}/{study.name}.safetensors"
    }


def require_convertible(model):
    """A GGUF file here can be used, and what converts it is installed, before anything runs."""
    if model.hub is None:
        gguf_files.check(model.gguf)
    if DeploymentMethod.CONDA not in workflow.deployment_settings.deployment_method:
        gguf_conversion.require_packages()


def require_inputs():
    """What the config names is there or can be fetched, or the workflow stops with a sentence that says what is not."""
    for model in CONFIG.every_model:
        if model.gguf is not None:
            if not Path(model_files(model.name)[0]).is_file():
                require_convertible(model)
            continue
        if model.hub is not None:
            # Refuses a name that no repository or revision can have.
            model_folder(model.name)
            continue
        if is_trained_here(model.path) and not Path(model.path).is_dir():
            # Asked for, or a job of such a run on a cluster.
            if {"organism", "organism_learning_curve", "--target-jobs"} & set(sys.argv):
                continue
            raise InputError(
                f"model {model.name}: {model.path} is not trained yet; `snakemake organism` with this config trains it"
            )
        checkpoint_files(model.path)
    for task in CONFIG.tasks:
        corpus = CONFIG.texts_of(task)
        if dataset_of(corpus):
            fetched_dataset(corpus)
        for split, path in data_files(corpus).items():
            if not path.is_file():
                key = "own_tasks" if corpus in CONFIG.own_tasks else "data.files"
                raise InputError(
                    f"task {task}: its {split} file {path} does not exist; put it there, name another under "
                    f"{key}.{corpus}.{split}, or leave {task} out of tasks"
                )


def require_items():
    """Every item or group that is asked for by name shows something."""
    # Snakemake itself tells its targets only when the rules are read.
    for name in sys.argv[1:]:
        asked = [item for item in ITEMS if name in (item, ITEMS[item].group)]
        if not asked or set(asked) & set(shown_items()):
            continue
        if ITEMS[asked[0]].hubs and not CONFIG.shown(asked[0])[0]:
            raise InputError(
                f"{asked[0]} is about {' or '.join(ITEMS[asked[0]].hubs)}, and no such model is in models; "
                "config/kernel_regression.yaml names one"
            )
        if ITEMS[asked[0]].over_training and not CONFIG.shown(asked[0])[0]:
            raise InputError(
                f"{asked[0]} shows accuracy over training, and there are no checkpoints: `snakemake organism` saves them in "
                f"{CONFIG.results}/training, or name models with a step, as config/training-dynamics.yaml does"
            )
        if not CONFIG.shown(asked[0])[0]:
            raise InputError(
                f"{asked[0]} compares number formats, and no model is in models both in float32 (matmul: exact) and in another "
                "dtype or with matmul: fast (alike in all else but its name); config/precision.yaml names the embedded model so"
            )
        raise InputError(
            f"{asked[0]} shows {', '.join(map(CONFIG.texts_of, ITEMS[asked[0]].tasks))}, and none of them is in tasks; add one, or name other tasks "
            f"under items.{asked[0]}.tasks"
        )


def require_trainable():
    """What `organism` trains on are texts of the paper's tasks: its episodes and measures know their classes."""
    own = [task for task in CONFIG.tasks if task in CONFIG.own_tasks]
    if own and {"organism", "organism_learning_curve"} & set(sys.argv[1:]):
        raise InputError(
            f"organism trains on the paper's tasks only; leave {own[0]} out of tasks to train, and name it there again to study"
        )


def shown_items():
    """The items that show something of what is configured."""
    return [item for item in ITEMS if all(CONFIG.shown(item))]


def group_items(group):
    """The shown items of a group."""
    return [item for item in shown_items() if ITEMS[item].group == group]


def reported_items():
    """The items on the page: all that `all` makes."""
    return [
        item
        for item in shown_items()
        if ITEMS[item].in_all
        and (
            ITEMS[item].group in CONFIG.groups or registry.is_plugin(ITEMS[item].group)
        )
    ]


def reported_claims():
    """The claims files of the papers on the page."""
    files = [REPOSITORY / f"resources/claims/{group}.yaml" for group in CONFIG.groups]
    return [file for file in files if file.exists()]


def start_jobs_freely(workflow):
    """Take off Snakemake's limit of jobs per second where jobs run on this machine.

    The limit is for clusters. With it Snakemake looks at all ready jobs again a second after each time that it did, so every job
    that ends adds one more such look a second until the run is over.
    """
    if workflow.local_exec:
        workflow.scheduler.job_rate_limiter = None


def missing_items(dag, failed):
    """The reported items that a failed run did not make, each with the log of the failed job behind it.

    The log is empty for an item that was only not started.
    """
    found = {}
    for job in dag.jobs:
        item = getattr(job.wildcards, "item", None)
        if item in reported_items() and not dag.noneedrun_finished(job):
            behind = dag.bfs(dag.dependencies, job)
            found[item] = next(
                (str(each.log[0]) for each in behind if each in failed), ""
            )
    return found


def report_what_is_there(workflow):
    """After a failed run: write the report with what was made, and say what is missing.

    Nothing is written where the report was not asked for, where no job failed (an interrupted run), or where no item was made.
    """
    dag, failed = workflow.dag, workflow.scheduler.failed
    pages = [job for job in dag.jobs if job.rule.name == "report"]
    missing = missing_items(dag, failed)
    shown = [item for item in reported_items() if item not in missing]
    if not (workflow.is_main_process and pages and failed and missing and shown):
        return
    unmade = {str(file) for job in dag.needrun_jobs() for file in job.output}
    walks = [
        folder
        for folder in walked_folders()
        if not {f"{folder}/{study}.parquet" for study in WALKED} & unmade
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
        f"{page.output.page} shows what was made; it says why these are missing: {', '.join(missing)}."
    )


def walked_folders():
    """The studies whose prompts can be walked: those of every model that Figure 1 shows, on every task."""
    if "anchors" not in CONFIG.groups:
        return []
    return [
        f"{CONFIG.results}/studies/{model}/{task}/shared-1shot"
        for model in CONFIG.shown("figure_1")[0]
        for task in CONFIG.tasks
    ]


def item_names(kind):
    """A pattern of the names of all figures, or of all tables."""
    return "|".join(item.name for item in ITEMS.values() if item.kind == kind)


def item_studies(item):
    """The folders of studies that an item reads, in the order of its panels: model by model, task by task."""
    models, tasks = CONFIG.shown(item)
    if not ITEMS[item].studies:
        return []
    return [
        f"{CONFIG.results}/studies/{model}/{task}/{ITEMS[item].set}"
        for model in models
        for task in tasks
    ]


def item_inputs(item):
    """The tables that an item reads."""
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
    """Every file that an item's target makes."""
    endings = {
        "figure": ("pdf", "svg", "png", "csv", "json"),
        "table": ("csv", "md", "tex", "json"),
    }[ITEMS[item].kind]
    folder = f"{CONFIG.results}/{ITEMS[item].kind}s"
    return [
        *(f"{folder}/{item}.{ending}" for ending in endings),
        f"{CONFIG.results}/notebooks/{item}.ipynb",
    ]


def item_notebook(item):
    """The notebook that draws an item; that of a study outside the package lies in its folder."""
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
    """The notebook's parameters, as YAML."""
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
    """The notebook of every item is there."""
    for item in ITEMS:
        item_notebook(item)


def item_description(item):
    """What a picture says of an item beside its title."""
    shown = ITEMS[item]
    return [shown.paper_models, *shown.stand_in_note(CONFIG.shown(item)[1])]


checked(require_notebooks)
checked(require_inputs)
checked(require_items)
checked(require_trainable)

# Rules call `icl-lens` and `papermill`. Without --sdm conda these are those of the environment that runs Snakemake, whether
# or not it is activated; with it, conda's environment has the libraries and this repository has the package.
PRELOADED = None
# Jobs of this run, on this machine, keep the hashes of large files there, so that each file is hashed once.
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
    or all(is_small(model.name) for model in CONFIG.every_model)
):
    # Loading torch, and a model, takes seconds: one process has the libraries loaded, which `onstart` starts, one more for
    # each model has that too, and every job's command is a fork. Of such jobs benchmarks/ has the time, and the memory of
    # the short client only.
    PRELOADED = tempfile.TemporaryDirectory(prefix="icl-lens-")
    client = shlex.join(preloaded.client(PRELOADED.name))
    shell.prefix(
        f"{shared}{own_path}"
        f"export JUPYTER_PATH={PRELOADED.name}:${{{{JUPYTER_PATH:-}}}}; "
        # What is fetched is fetched by itself: the libraries were told when they were loaded that there is no network.
        f'icl-lens() {{{{ if [[ $1 = fetch-* ]]; then command icl-lens "$@"; else {client} icl_lens "$@"; fi; }}}}; '
        f'papermill() {{{{ {client} papermill "$@"; }}}}; '
    )
else:
    shell.prefix(f"{shared}{own_path}")
