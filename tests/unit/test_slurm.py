"""The checks of a Slurm cluster before a run, with a pretended cluster."""

import subprocess

import pytest
from snakemake.profiles import ProfileConfigFileParser

from icl_lens.cli import slurm
from icl_lens.errors import InputError

from ..conftest import REPOSITORY

PROFILE = REPOSITORY / "profiles/slurm/profile.yaml"


@pytest.fixture
def cluster(monkeypatch):
    """Pretend that the plugin and Slurm are installed; the answers of Slurm's commands can be changed."""
    answers = {
        "sinfo": (0, "debug\ngpu\ndebug\n", ""),
        "scontrol": (0, "AccountingStorageType = accounting_storage/none\n", ""),
    }
    monkeypatch.setattr(slurm.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(slurm.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(
        slurm.subprocess, "run", lambda command, **options: subprocess.CompletedProcess(command, *answers[command[0]])
    )
    return answers


def read_profile():
    """Read the profile as Snakemake does."""
    with PROFILE.open() as stream:
        return ProfileConfigFileParser().parse(stream)


def one_sentence(text):
    """Return whether a text is one line, and none of Python's."""
    return "\n" not in text.strip() and "Traceback" not in text


def test_the_profile_uses_squeue_on_a_cluster_without_accounting(cluster):
    assert read_profile()["slurm-status-command"] == "squeue"
    cluster["scontrol"] = (0, "AccountingStorageType   = accounting_storage/slurmdbd\n", "")
    assert read_profile()["slurm-status-command"] == "sacct"


def test_the_profile_sets_no_limit_of_gpus(cluster):
    """A global limit would apply to the whole cluster; profiles/default has one for one machine."""
    profile = read_profile()
    assert profile["executor"] == "slurm"
    assert "resources" not in profile
    shared = ("rerun-incomplete", "nolock", "keep-going", "show-failed-logs", "max-checksum-file-size", "quiet")
    with (REPOSITORY / "profiles/default/profile.yaml").open() as stream:
        default = ProfileConfigFileParser().parse(stream)
    assert {key: profile[key] for key in shared} == {key: default[key] for key in shared}


def test_a_missing_plugin_is_one_sentence(cluster, monkeypatch):
    monkeypatch.setattr(slurm.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit) as error:
        read_profile()
    assert "snakemake-executor-plugin-slurm" in str(error.value)
    assert "envs/slurm.txt" in str(error.value)
    assert one_sentence(str(error.value))


def test_a_machine_without_slurm_is_one_sentence(cluster, monkeypatch):
    monkeypatch.setattr(slurm.shutil, "which", lambda name: None if name == "sbatch" else f"/usr/bin/{name}")
    with pytest.raises(SystemExit, match="no command 'sbatch'"):
        read_profile()


def test_a_cluster_that_does_not_answer_is_one_sentence(cluster):
    cluster["scontrol"] = (1, "", "slurm_load_ctl_conf error: Unable to contact slurm controller (connect failure)\n")
    with pytest.raises(SystemExit, match=r"profiles/slurm: `scontrol show config` failed \(slurm_load_ctl_conf error"):
        read_profile()


def test_an_unknown_partition_is_named_with_those_of_the_cluster(cluster):
    slurm.require_partitions({"icl": "gpu", "flow": "debug,gpu", "report": None})
    with pytest.raises(InputError, match=r"'gpus' \(requested by the rule icl\) .* \(available: debug, gpu\)"):
        slurm.require_partitions({"icl": "gpus"})


def test_without_partitions_slurm_is_not_asked(cluster):
    del cluster["sinfo"]
    slurm.require_partitions({"icl": None})
