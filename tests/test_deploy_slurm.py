"""`deploy/slurm/sweep.sbatch` under real Slurm daemons: two nodes, a requeue midway, a signal, a preemption."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import slurm_cluster
from tests.conftest import ROOT, Cli
from tests.slurm_cluster import Slurm, wait_until

pytestmark = [
    pytest.mark.deploy,
    pytest.mark.ray,
    pytest.mark.timeout(600),
    pytest.mark.skipif(bool(slurm_cluster.missing()), reason=slurm_cluster.missing()),
]

SCRIPT = ROOT / "deploy" / "slurm" / "sweep.sbatch"
ROWS = 200
SHARD_ROWS = 4
QUICK, SLOW = "0.1", "0.3"
"""Seconds for each of 400 responses: with two workers a sweep takes 20 seconds, or 60."""
ENOUGH = 8
"""Parts in the store when a job is disturbed."""


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    with slurm_cluster.running(tmp_path_factory.mktemp("slurm")) as cluster:
        yield cluster


class Sweep:
    """One sweep and its store."""

    def __init__(self, slurm: Slurm, pairs: Path, folder: Path, cli: Cli) -> None:
        self.slurm, self.folder, self.cli = slurm, folder, cli
        self.store = folder / "store"
        self.words = [
            "run",
            "+models.sleepy.family=baseline",
            "+models.sleepy.engine=tests.dozing_engine",
            "benchmarks=[pairs]",
            f"data.pairs={pairs}",
            f"shard_rows={SHARD_ROWS}",
        ]

    def submit(self, *words: str, options: tuple[str, ...] = ("--nodes=2",), pace: str = QUICK) -> str:
        given = words or (*self.words, f"store={self.store}")
        command = ["sbatch", "--parsable", *options, str(SCRIPT), *given]
        settings = {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "REWARDSWEEP_TEST_SLEEP": pace}
        return self.slurm.run(*command, cwd=self.folder, **settings)

    def parts(self) -> int:
        return len(list(self.store.glob("measurements/*/*.parquet")))

    def log(self, job: str) -> str:
        return (self.folder / f"rewardsweep-{job}.log").read_text(encoding="utf-8")

    def await_midway(self, job: str) -> None:
        wait_until(lambda: self.parts() >= ENOUGH, 120, lambda: f"{self.slurm.job(job)}{self.log(job)}")
        assert self.parts() < 2 * ROWS / SHARD_ROWS, "the sweep was over before it could be disturbed"

    def check_resumed(self, job: str) -> None:
        """The job completed after at least one restart, and its result is that of a run nobody disturbed."""
        ended = self.slurm.await_state(job, ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL"), 240)
        assert (ended["JobState"], ended["ExitCode"]) == ("COMPLETED", "0:0"), self.log(job)
        assert int(ended["Restarts"]) >= 1
        runs = json.loads(self.cli("status", f"store={self.store}", "output=json").stdout)["runs"]
        last = runs[-1]["account"]
        assert len(runs) >= 2
        assert last["asked"] == last["scored"] + last["reused"] == 2 * ROWS
        assert last["reused"] >= ENOUGH * SHARD_ROWS
        assert last["scored"] > 0
        undisturbed = self.folder / "undisturbed"
        done = self.cli(*self.words, f"store={undisturbed}", "pool=local")
        assert done.returncode == 0, done.stderr
        boards = [self.cli("leaderboard", f"store={store}", "output=json") for store in (self.store, undisturbed)]
        assert boards[0].stdout == boards[1].stdout


@pytest.fixture
def sweep(slurm: Slurm, write_pairs: Callable[..., Path], tmp_path: Path, cli: Cli) -> Iterator[Sweep]:
    rows = [{"prompt": f"q {row}", "chosen": f"long {row} xx", "rejected": f"short {row}"} for row in range(ROWS)]
    yield Sweep(slurm, write_pairs(rows), tmp_path, cli)
    slurm.run("scancel", "--user=root")
    wait_until(lambda: not slurm.run("squeue", "--noheader"), 60, slurm.logs)


def test_two_nodes_score_one_sweep_that_a_requeue_interrupts(sweep: Sweep, slurm: Slurm) -> None:
    job = sweep.submit()
    sweep.await_midway(job)
    slurm.run("scontrol", "requeue", job)
    sweep.check_resumed(job)
    assert sweep.log(job).count("2 of 2 nodes joined") == 2
    assert "restart 1" in sweep.log(job)


def test_the_warning_before_the_time_limit_sends_the_job_back_to_the_queue(sweep: Sweep, slurm: Slurm) -> None:
    """The signal is Slurm's own, sent two minutes before the end: the limit is three minutes, then cut to two."""
    job = sweep.submit(options=("--nodes=1", "--time=3"), pace=SLOW)
    sweep.await_midway(job)
    slurm.run("scontrol", "update", f"jobid={job}", "timelimit=2")
    wait_until(lambda: slurm.job(job)["Restarts"] == "1", 60, lambda: sweep.log(job))
    slurm.run("scontrol", "update", f"jobid={job}", "timelimit=30")
    sweep.check_resumed(job)
    assert "back to the queue" in sweep.log(job)


def test_a_preempted_job_comes_back_and_ends(sweep: Sweep, slurm: Slurm) -> None:
    """With a time of grace, Slurm first ends the steps under the script; the sweep must not count as failed."""
    job = sweep.submit(options=("--nodes=1", "--nodelist=n1"))
    sweep.await_midway(job)
    urgent = slurm.run(
        "sbatch", "--parsable", "--partition=urgent", "--nodelist=n1", "--exclusive", "--wrap=sleep 3", cwd=sweep.folder
    )
    slurm.await_state(urgent, ("COMPLETED",), 90)
    sweep.check_resumed(job)
    assert "Ray is being ended under the sweep" in sweep.log(job)


def test_a_ray_that_cannot_start_fails_once(sweep: Sweep, slurm: Slurm, tmp_path: Path) -> None:
    """A `ray` that fails stands before the real one on the PATH: no endless round of requeues."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "ray").write_text("#!/bin/sh\necho this ray cannot start >&2\nexit 1\n")
    (tmp_path / "bin" / "ray").chmod(0o755)
    path = f"ALL,PATH={tmp_path / 'bin'}:{slurm_cluster.path()}"
    job = sweep.submit(options=("--nodes=1", f"--export={path}"))
    ended = slurm.await_state(job, ("FAILED", "COMPLETED"), 90)
    assert (ended["ExitCode"], ended["Restarts"]) == ("1:0", "0"), sweep.log(job)
    assert "Ray failed" in sweep.log(job)


def test_a_wrong_command_fails_with_its_code_and_is_not_repeated(sweep: Sweep, slurm: Slurm) -> None:
    job = sweep.submit("run", "model=[no-such-model]", f"store={sweep.store}", options=("--nodes=1",))
    ended = slurm.await_state(job, ("FAILED", "COMPLETED"), 90)
    assert (ended["ExitCode"], ended["Restarts"]) == ("2:0", "0"), sweep.log(job)
    assert "no-such-model" in sweep.log(job)


def test_a_cancelled_job_stays_cancelled(sweep: Sweep, slurm: Slurm) -> None:
    job = sweep.submit(options=("--nodes=1",))
    sweep.await_midway(job)
    slurm.run("scancel", job)
    slurm.await_state(job, ("CANCELLED",), 60)
    time.sleep(5)
    assert slurm.job(job)["JobState"] == "CANCELLED"
    assert sweep.parts() >= ENOUGH


def test_nothing_of_ray_is_left_behind(sweep: Sweep, slurm: Slurm) -> None:
    job = sweep.submit(options=("--nodes=1",))
    sweep.await_midway(job)
    (port,) = re.findall(r"Ray at [\d.]+:(\d+)", sweep.log(job))[:1]
    slurm.run("scancel", job)
    wait_until(lambda: not slurm.run("squeue", "--noheader"), 60, slurm.logs)
    wait_until(lambda: not _with(f"/tmp/ray-{job}"), 30, lambda: f"port {port}: {_with(f'/tmp/ray-{job}')}")


def _with(words: str) -> list[str]:
    """The processes whose command line holds these words."""
    done = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True, check=True)
    return [line for line in done.stdout.splitlines() if words in line and str(os.getpid()) not in line.split()[:1]]
