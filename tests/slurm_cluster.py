"""A Slurm of its own on loopback: munge, slurmctld and two slurmd that are "nodes" of this machine. Needs root."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

DAEMONS = ("munged", "slurmctld", "slurmd")
CONF = """
ClusterName=rewardsweep-test
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/linuxproc
JobAcctGatherType=jobacct_gather/none
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2,sched_min_interval=100000
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=8
ReturnToService=2
NodeName=n1 NodeHostname=localhost NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2 State=UNKNOWN
NodeName=n2 NodeHostname=localhost NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2 State=UNKNOWN
PartitionName=batch Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=5
PartitionName=urgent Nodes=n1,n2 MaxTime=INFINITE State=UP PriorityTier=9 PreemptMode=OFF
"""


def missing() -> str:
    """Why no Slurm can be started here; empty where one can."""
    absent = [name for name in (*DAEMONS, "sbatch") if shutil.which(name, path=path()) is None]
    if absent:
        return f"{', '.join(absent)} not installed (apt-get install slurmctld slurmd slurm-client munge)"
    return "" if os.geteuid() == 0 else "slurmd needs root"


def path() -> str:
    """PATH with this environment first and the daemons' folder last."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"], "/usr/sbin"])


@dataclass(frozen=True)
class Slurm:
    """A running cluster, seen through its commands."""

    folder: Path

    def run(self, *words: str, cwd: Path | None = None, **settings: str) -> str:
        """A Slurm command's output; it must succeed."""
        environment = {**os.environ, "PATH": path(), "SLURM_CONF": str(self.folder / "slurm.conf"), **settings}
        done = subprocess.run(words, env=environment, cwd=cwd, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, f"{words}: {done.stderr}\n{self.logs()}"
        return done.stdout.strip()

    def job(self, number: str) -> dict[str, str]:
        """What `scontrol show job` says: JobState, Restarts, ExitCode and others."""
        words = self.run("scontrol", "show", "job", number).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def await_state(self, number: str, wanted: Sequence[str], seconds: float) -> dict[str, str]:
        """The job's description as soon as its state is one of those wanted."""
        wait_until(lambda: self.job(number)["JobState"] in wanted, seconds, lambda: f"{self.job(number)}{self.logs()}")
        return self.job(number)

    def logs(self) -> str:
        """The ends of the daemons' logs."""
        return "\n".join(f"--- {path.name}\n{path.read_text()[-3000:]}" for path in self.folder.glob("*.log"))


def wait_until(true: Callable[[], bool], seconds: float, otherwise: Callable[[], str]) -> None:
    """Return as soon as the condition holds; fail after so many seconds."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, otherwise()
        time.sleep(0.3)


def _free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports


@contextmanager
def running(folder: Path) -> Iterator[Slurm]:
    """Start the daemons in the foreground as children of this process, and end them."""
    folder.chmod(0o755)
    for name in ("state", "n1", "n2"):
        (folder / name).mkdir()
    (folder / "munge.key").write_bytes(os.urandom(64))
    (folder / "munge.key").chmod(0o600)
    (folder / "slurm.conf").write_text(CONF.format(folder=folder, ports=_free_ports(3)))
    version = "v2" if Path("/sys/fs/cgroup/cgroup.controllers").exists() else "v1"  # Slurm refuses the two together
    (folder / "cgroup.conf").write_text(f"CgroupPlugin=cgroup/{version}\nIgnoreSystemd=yes\n")
    munge = {name: folder / f"munge.{name}" for name in ("socket", "pid", "seed", "log")}
    options = {"key-file": folder / "munge.key", "socket": munge["socket"], "pid-file": munge["pid"]}
    options |= {"seed-file": munge["seed"], "log-file": munge["log"], "num-threads": 2}
    conf = ["-f", str(folder / "slurm.conf"), "-D"]
    commands = [
        ["munged", "--foreground", "--force", *(f"--{name}={value}" for name, value in options.items())],
        ["slurmctld", "-c", "-i", *conf],
        *(["slurmd", "-N", name, *conf] for name in ("n1", "n2")),
    ]
    environment = {**os.environ, "PATH": path(), "SLURM_CONF": str(folder / "slurm.conf")}
    slurm = Slurm(folder)
    started: list[subprocess.Popen[bytes]] = []
    try:
        for command in commands:
            output = (folder / f"{len(started)}-{command[0]}.log").open("wb")
            started.append(subprocess.Popen(command, env=environment, stdout=output, stderr=output))
            if command[0] == "munged":
                wait_until(munge["socket"].exists, 20, slurm.logs)
        wait_until(lambda: _idle(slurm) == 2, 60, slurm.logs)
        yield slurm
    finally:
        for process in reversed(started):
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _idle(slurm: Slurm) -> int:
    try:
        return slurm.run("sinfo", "--noheader", "--Node", "--partition=batch", "--format=%T").splitlines().count("idle")
    except AssertionError:  # slurmctld does not answer yet
        return 0
