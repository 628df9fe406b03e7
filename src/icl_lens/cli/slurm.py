"""Checks of a Slurm cluster, for the profile ``profiles/slurm`` and for the workflow before it submits a job.

Snakemake reads a profile before the workflow. Without these checks, it answers a missing plugin with all its options, and an
unknown partition with one error per job.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from collections.abc import Iterable, Mapping

from icl_lens.errors import InputError

PLUGIN = "snakemake_executor_plugin_slurm"

_TIMEOUT_SECONDS = 60


def require() -> None:
    """Check that Snakemake can submit jobs to Slurm; otherwise stop with one sentence.

    Raises:
        SystemExit: The plugin or Slurm is not installed. (Snakemake adds its own text to any other exception in a profile.)
    """
    if importlib.util.find_spec(PLUGIN) is None:
        raise SystemExit(
            f"profiles/slurm needs {PLUGIN.replace('_', '-')}, which is not installed; install it with "
            "`.venv/bin/python -m pip install --no-deps -r envs/slurm.txt`"
        )
    missing = [name for name in ("sbatch", "squeue", "sinfo", "scontrol") if shutil.which(name) is None]
    if missing:
        raise SystemExit(
            f"profiles/slurm needs Slurm, and this machine has no command {missing[0]!r}; run Snakemake on a login node of the "
            "cluster, or without --workflow-profile"
        )


def status_command() -> str:
    """Return the command that tells Snakemake which jobs have ended: ``sacct``, or ``squeue`` on a cluster without accounting.

    On such a cluster, ``sacct`` exists but never reports that a job has ended, so Snakemake would wait forever.

    Raises:
        SystemExit: Slurm does not answer.
    """
    try:
        settings = _output("scontrol", "show", "config")
    except InputError as error:
        raise SystemExit(f"profiles/slurm: {error}") from error
    without = any(
        key.strip() == "AccountingStorageType" and value.strip() in ("accounting_storage/none", "(null)", "")
        for key, _, value in (line.partition("=") for line in settings.splitlines())
    )
    return "squeue" if without or shutil.which("sacct") is None else "sacct"


def partitions() -> list[str]:
    """Return the names of the cluster's partitions.

    Raises:
        InputError: Slurm does not answer.
    """
    return list(dict.fromkeys(_output("sinfo", "--all", "--noheader", "--format", "%R").split()))


def require_partitions(requested: Mapping[str, str | None]) -> None:
    """Check that each requested partition exists.

    Args:
        requested: The partition by the name of the rule that requests it; several partitions are separated by commas. None is
            the default partition of the cluster.

    Raises:
        InputError: A partition does not exist, or Slurm does not answer.
    """
    if not any(requested.values()):
        return
    known = partitions()
    for rule, names in requested.items():
        for name in _split(names):
            if name not in known:
                raise InputError(
                    f"slurm_partition: {name!r} (requested by the rule {rule}) is not a partition of this cluster (available: "
                    f"{', '.join(known)}); set another in profiles/slurm/profile.yaml or with --default-resources"
                )


def _split(names: str | None) -> Iterable[str]:
    return [name.strip() for name in str(names).split(",") if name.strip()] if names else []


def _output(*command: str) -> str:
    """Return the standard output of one of Slurm's commands."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise InputError(f"`{' '.join(command)}` did not answer within {_TIMEOUT_SECONDS} s; try again later") from None
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise InputError(f"`{' '.join(command)}` failed ({reason}); check that Slurm is running and configured on this machine")
    return done.stdout
