"""A Slurm cluster of one node: this machine, with a fake GPU. Its daemons run in the foreground and end with the test.

Slurm's commands read /etc/slurm/slurm.conf, and Snakemake removes the variable ``SLURM_CONF`` from the environment of a job.
Therefore each daemon and each command runs in a mount namespace of its own in which /etc/slurm is another folder
(:meth:`Cluster.command`). The machine's own /etc/slurm is neither read nor changed, and nothing is left there if the test is
killed.
"""

from __future__ import annotations

import contextlib
import os
import platform
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

ETC = Path("/etc/slurm")
PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "squeue", "scontrol", "scancel", "unshare", "setpriv")
PARTITION = "debug"

# The host name must be that of the machine. The node accepts its configured size, whatever the machine has. The file of the GPU
# exists on every machine. Finished jobs are remembered longer than Snakemake waits between two status checks.
CONFIG = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CryptoType=crypto/munge
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmdParameters=config_overrides
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
ReturnToService=2
SchedulerType=sched/backfill
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
MinJobAge=300
KillWait=5
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=64000 Gres=gpu:1 State=UNKNOWN
PartitionName={partition} Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def reason_to_skip() -> str | None:
    """Return why no cluster can be started on this machine; None if one can be."""
    missing = [name for name in PROGRAMS if _path(name) is None]
    if missing:
        return f"{missing[0]} is not installed (Debian: slurmctld slurmd slurm-client munge)"
    if os.geteuid() != 0:
        return "slurmctld is started as root only"
    if not ETC.is_dir():
        return f"{ETC} does not exist"
    probe = subprocess.run([*_private(ETC), "true"], capture_output=True, text=True, check=False)
    return f"no mount namespace can be created ({probe.stderr.strip()})" if probe.returncode else None


def _path(program: str) -> str | None:
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def _private(folder: Path) -> list[str]:
    """Return the start of a command line that runs a program in a namespace where /etc/slurm is another folder.

    The program replaces the process of the command line, so it has its process ID.
    """
    script = 'mount --bind "$0" /etc/slurm && exec "$@"'
    return ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, str(folder)]


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


class Cluster:
    """The cluster; a context manager that starts the daemons and ends them by their process IDs.

    Attributes:
        folder: Its configuration, state and logs. The path is short, because that of a socket is limited to 107 bytes.
    """

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="slurm-"))
        self._daemons: list[subprocess.Popen] = []

    def __enter__(self) -> Cluster:
        self._configure()
        munge = self.folder / "munge"
        files = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        options = [f"--{option}={munge / name}" for option, name in files.items()]
        try:
            self._start("munged", "--foreground", "--force", *options)
            self._wait(lambda: (munge / "socket").exists(), "munged")
            self._start("slurmctld", "-D", "-i")
            self._start("slurmd", "-D", "-N", platform.node())
            self._wait(lambda: self.run("sinfo", "--noheader", "--format=%T").stdout.strip() == "idle", "slurmctld")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._daemons:
            self.run("scancel", "--user=root")
            deadline = time.monotonic() + 15
            while self.jobs() and time.monotonic() < deadline:
                time.sleep(0.5)
        for daemon in reversed(self._daemons):
            daemon.terminate()
            try:
                daemon.wait(timeout=10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _configure(self) -> None:
        for name in ("etc", "munge", "state", "spool"):
            (self.folder / name).mkdir(mode=0o755)
        self.folder.chmod(0o755)
        key = self.folder / "munge/key"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o400)
        host, etc = platform.node(), self.folder / "etc"
        ports = {"controller_port": _free_port(), "node_port": _free_port()}
        (etc / "slurm.conf").write_text(CONFIG.format(host=host, folder=self.folder, partition=PARTITION, **ports))
        (etc / "gres.conf").write_text(f"NodeName={host} Name=gpu File=/dev/zero\n")
        (etc / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")

    def _start(self, program: str, *arguments: str) -> None:
        """Start a daemon that the kernel kills if this process ends without ending it."""
        with (self.folder / f"{program}.out").open("w") as out:
            daemon = subprocess.Popen(
                [*self.command("setpriv", "--pdeathsig", "KILL", _path(program), *arguments)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        self._daemons.append(daemon)

    def _wait(self, ready, program: str) -> None:
        deadline = time.monotonic() + 60
        while not ready():
            ended = [daemon.args for daemon in self._daemons if daemon.poll() is not None]
            if ended or time.monotonic() > deadline:
                raise RuntimeError(f"{program} did not start:\n{self.logs()}")
            time.sleep(0.3)

    def command(self, *arguments: str) -> list[str]:
        """Return a command line that runs a program as a user of this cluster."""
        return [*_private(self.folder / "etc"), *map(str, arguments)]

    def run(self, *arguments: str) -> subprocess.CompletedProcess:
        """Run one of Slurm's commands."""
        return subprocess.run(self.command(*arguments), capture_output=True, text=True, timeout=60, check=False)

    def jobs(self, *states: str) -> list[str]:
        """Return the IDs of the jobs in the queue, optionally only of those in some states."""
        option = [f"--states={','.join(states)}"] if states else []
        return self.run("squeue", "--noheader", "--format=%i", *option).stdout.split()

    def request(self, job: str) -> dict[str, str]:
        """Return the description of a job, by field."""
        described = self.run("scontrol", "--oneliner", "show", "job", job).stdout
        return dict(field.split("=", 1) for field in described.split() if "=" in field)

    def logs(self) -> str:
        """Return the ends of the daemons' logs."""
        paths = [*sorted(self.folder.glob("*.out")), *sorted(self.folder.glob("*.log")), self.folder / "munge/log"]
        return "\n".join(f"{path.name}: {path.read_text(errors='replace')[-1500:]}" for path in paths if path.is_file())

    @property
    def processes(self) -> list[int]:
        """The process IDs of the daemons."""
        return [daemon.pid for daemon in self._daemons]


def end(process: subprocess.Popen) -> None:
    """Kill a process and the processes of its group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
