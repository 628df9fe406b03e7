# Jobs on a cluster: what they request, which of them are submitted together, and what is checked before the first is submitted.
# On one machine, nothing in this file has an effect.

from pathlib import PurePosixPath

from snakemake.jobs import Job

from icl_lens.cli import slurm
from icl_lens.config import model_sizes, prediction, requests

# Key of all groups of short jobs in the option --group-components, and the number of jobs of one model and task in one group.
SHORT_JOBS = "short_jobs"
UNLIMITED = 10_000


def on_cluster():
    """Return whether the jobs of this run are submitted to a cluster; true also in a dry run, and in the processes on the nodes.

    The executor is not known while the rules are read.
    """
    # A dry run has the executor of a dry run. Snakemake sets this flag for any executor that submits jobs.
    settings = workflow.execution_settings
    return workflow.remote_exec or (settings is not None and settings.use_threads)


def cluster_gpus(model):
    """Return the number of GPUs that a job of a model requests; more than one if its layers are distributed."""
    return requests.gpus(
        CONFIG.device,
        is_small(model),
        weight_bytes(model) if is_distributed(model) else 0,
    )


@cache
def weight_bytes(model):
    """Return the bytes of a model's weights; 0 if it is not fetched or converted yet, and its size unknown."""
    dtype, _ = CONFIG.precision(model)
    try:
        parameters = model_sizes.size(CONFIG, CONFIG.model(model)).parameters
    except InputError:
        return 0
    return parameters * prediction.BYTES[dtype]


@cache
def predicted(study, model, task, prompt_set, threads):
    """Return the predicted cost of a job; raise an error if the size of the model is unknown."""
    path = PurePosixPath(
        f"{study_path(registry.study(study))}.parquet".format(
            model=model, task=task, set=prompt_set, shard=1
        )
    )
    card = requests.card(cluster_gpus(model))
    return prediction.predict(CONFIG, path, card, threads)


def job_prediction(study, wildcards, threads):
    """Return the predicted cost of a job of a study; None if its model is not fetched or converted yet, and its size unknown."""
    try:
        return predicted(study, wildcards.model, wildcards.task, wildcards.set, threads)
    except InputError:
        return None


def study_memory(study):
    """Return a function of a study's job that returns the memory that it requests, in MB; 0 on one machine."""

    def memory(wildcards, threads, attempt):
        if not on_cluster():
            return 0
        continue_after_failure()
        predicted = job_prediction(study.name, wildcards, threads)
        return requests.memory_mb(predicted, attempt)

    return memory


def continue_after_failure():
    """Let the other jobs of a group run on the node after one has failed.

    Snakemake does not pass --keep-going to the node. It calculates the resources of all jobs before it starts the first, but
    after it has read its settings.
    """
    if workflow.remote_exec and workflow.scheduler is not None:
        workflow.scheduler.keepgoing = True


def study_minutes(study):
    """Return a function of a study's job that returns the time that it requests, in minutes; 0 on one machine."""
    return lambda wildcards, threads, attempt: (
        requests.minutes(job_prediction(study.name, wildcards, threads), attempt)
        if on_cluster()
        else 0
    )


def cluster_only(value):
    """Return a function of a job that returns a multiple of a number for each attempt; 0 on one machine."""
    return lambda wildcards, attempt: value * attempt if on_cluster() else 0


def study_group(study):
    """Return a function of a study's job that returns the name of its group, if it has one.

    Short jobs of one model on one task are submitted as one job, because each would wait longer in the queue than it runs. If
    one of them fails, `retries` repeats all, so a group has only short jobs.
    """

    def group(wildcards):
        threads = model_job_threads(wildcards)
        if workflow.local_exec or not requests.is_short(
            job_prediction(study.name, wildcards, threads)
        ):
            return None
        name = f"{SHORT_JOBS}-{wildcards.model}-{wildcards.task}"
        # The plugin does not pass --group-components to the node, where the same jobs must be one group.
        workflow.parent_groupids[name] = SHORT_JOBS
        components = workflow.group_settings.group_components
        workflow.group_settings.group_components = {
            SHORT_JOBS: UNLIMITED,
            **components,
        }
        return name

    # Snakemake mentions groups in each run of a workflow that has some, so on one machine there are none.
    submits = workflow.remote_exec or workflow.resource_settings.nodes is not None
    return group if submits else None


remove_outputs = Job.cleanup


async def keep_finished_outputs(job, skip_outputs):
    """Remove the outputs of a failed job, except of a job in a group.

    If one job of a group fails, Snakemake would remove the outputs of all. The process on the node has already removed those of
    the jobs that failed, and the other files are complete, because a study writes each file in one step.
    """
    if job.dag.get_job_group(job) is None:
        await remove_outputs(job, skip_outputs)


Job.cleanup = keep_finished_outputs


def failed_jobs(failed):
    """Return the failed jobs of a run. A group fails as a whole, so of its jobs, those with missing outputs have failed."""
    return {
        job
        for each in failed
        for job in (each.jobs if each.is_group() else [each])
        if not (each.is_group() and all(Path(path).exists() for path in job.output))
    }


def require_cluster(workflow):
    """Check, before any job is submitted, that the partitions of all jobs exist."""
    if not on_cluster():
        return
    submitted = [job for job in workflow.dag.needrun_jobs() if not job.is_local]
    checked(
        slurm.require_partitions,
        {job.rule.name: job.resources.get("slurm_partition") for job in submitted},
    )
    limit = workflow.global_resources.get("gpu")
    if submitted and limit is not None and limit.value is not None:
        warn(
            f"at most {limit.value} GPU jobs run at a time on the whole cluster, because of `resources: gpu`; with --workflow-profile "
            "slurm (not --profile), profiles/default and its limit are not used"
        )


def conversion_memory(wildcards, attempt):
    """Return the memory that a conversion of a GGUF file requests, in MB: twice the float32 weights; 0 on one machine."""
    if not on_cluster():
        return 0
    path = gguf_file(gguf_folder(wildcards))
    weights = gguf_files.check(path).parameters * 4 if Path(path).is_file() else 0
    return requests.conversion_mb(weights, attempt)


# Not every cluster restricts a job to the cores that it has requested, so Snakemake would count all cores of the node.
allocated = os.environ.get("SLURM_CPUS_PER_TASK", "")
if workflow.remote_exec and allocated.isdecimal():
    workflow.global_resources["_cores"] = min(workflow.cores, int(allocated))
