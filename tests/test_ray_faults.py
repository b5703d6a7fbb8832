"""Real faults on a real cluster of three nodes: processes, machines and GPUs go; the results stay the same.

`REWARDSWEEP_RAY_FAULTS=1` runs the further ones: memory, stores, two drivers, a client.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import sweeps
from tests.chaotic_engine import MEMORY
from tests.cluster import CLIENT, Machines
from tests.sweeps import Sweep

pytestmark = pytest.mark.ray

ROWS = 120
MODEL = "+models.chaotic"
NODES = 3
further = pytest.mark.skipif("REWARDSWEEP_RAY_FAULTS" not in os.environ, reason="set REWARDSWEEP_RAY_FAULTS=1")
DRAIN_SECONDS = 5.0
CLIENT_ATTEMPTS = 4
"""Ray forks the server of a client beside gRPC's threads, and now and then the child ends at once."""


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    pairs = tmp_path_factory.mktemp("data") / "pairs.jsonl"
    sweeps.write_pairs(pairs, ROWS)
    model = (f"{MODEL}.family=baseline", f"{MODEL}.engine=tests.chaotic_engine")
    return ("model=[shortest]", *model, "benchmarks=[pairs]", f"data.pairs={pairs}", "shard_rows=8")


def alone(words: tuple[str, ...]) -> tuple[str, ...]:
    """Without the other model, whose worker is done in a moment: a machine that nothing runs on just goes."""
    return words[1:]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Machines]:
    with Machines() as machines:
        yield machines


@pytest.fixture
def three(cluster: Machines) -> Machines:
    """The cluster, with three nodes of one CPU slot again."""
    while len(cluster.nodes) < NODES:
        cluster.add()
    return cluster


def undisturbed(words: tuple[str, ...], store: Path) -> Sweep:
    """In this process's own time, without Ray."""
    sweeps.output("run", *words, "pool=local", f"store={store}")
    return Sweep(words, sweeps.stored_rows(store), sweeps.results(store))


def disturbed(sweep: Sweep, cluster: Machines, store: Path, disturb: Callable[[], None], code: int = 0) -> str:
    """Run a sweep on the cluster, do something to it when some of it is in the store; what it said by its end."""
    line = sweeps.command("run", *sweep.words, f"ray.address={cluster.address}", f"store={store}")
    with subprocess.Popen(
        line, env=sweeps.environment(), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    ) as run:
        while not list(store.glob("measurements/*/*.parquet")) and run.poll() is None:
            time.sleep(0.05)
        disturb()
        said = run.communicate()[1]
    assert run.returncode == code, said
    return said


@further
@pytest.mark.skipif(not CLIENT, reason="no client of Ray (rewardsweep[metrics])")
def test_a_client_of_the_cluster_sweeps_too(words: tuple[str, ...], three: Machines, tmp_path: Path) -> None:
    sweep = undisturbed(words, tmp_path / "alone")
    line = sweeps.command("run", *sweep.words, f"ray.address={three.client}", f"store={tmp_path / 'store'}")
    for _ in range(CLIENT_ATTEMPTS):
        done = subprocess.run(line, env=sweeps.environment(), capture_output=True, text=True, check=False)
        if "Initialization failure from server" not in done.stderr:
            break
    assert done.returncode == 0, done.stderr
    sweeps.check(sweep, tmp_path / "store")


def test_a_process_that_is_killed_costs_one_retry(words: tuple[str, ...], three: Machines, tmp_path: Path) -> None:
    said = faulty(words, three, tmp_path, "kill")
    assert "lost" in said


@further
def test_a_process_that_takes_too_much_memory_is_ended_by_ray(words: tuple[str, ...], tmp_path: Path) -> None:
    facts = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    total, free = (int(facts[name].split()[0]) * 1024 for name in ("MemTotal", "MemAvailable"))
    if free < 2 * MEMORY:
        pytest.skip(f"needs {2 * MEMORY / 2**30:.0f} GB of free memory")
    threshold = 1 - (free - 0.75 * MEMORY) / total  # the cluster itself, and others, need some of it
    with Machines(RAY_memory_usage_threshold=f"{threshold:.4f}", RAY_memory_monitor_refresh_ms="100") as machines:
        for _ in range(2):
            machines.add()
        assert "memory" in faulty(words, machines, tmp_path, "memory")


def faulty(words: tuple[str, ...], cluster: Machines, folder: Path, fault: str, *more: str) -> str:
    """Run a sweep in which the first worker to score has a fault; what it said."""
    options = (f"{MODEL}.options.once={folder / 'once'}", f"{MODEL}.options.fault={fault}", *more)
    said = disturbed(Sweep((*words, *options), 4 * ROWS, ("", "")), cluster, folder / "store", lambda: None)
    assert (folder / "once").exists()
    sweeps.check(undisturbed((*words, *options), folder / "alone"), folder / "store")
    return said


def test_a_node_that_is_lost_costs_no_attempt(words: tuple[str, ...], three: Machines, tmp_path: Path) -> None:
    sweep = undisturbed((*alone(words), f"{MODEL}.options.pause=0.5"), tmp_path / "alone")
    names = set(three.nodes)

    def kill() -> None:
        three.kill(three.busy())

    said = disturbed(sweep, three, tmp_path / "store", kill)
    assert len(names - set(three.nodes)) == 1
    assert f"node {(names - set(three.nodes)).pop()} lost" in said
    sweeps.check(sweep, tmp_path / "store")


def test_a_node_that_is_drained_is_left_in_time(words: tuple[str, ...], three: Machines, tmp_path: Path) -> None:
    sweep = undisturbed((*alone(words), f"{MODEL}.options.pause=0.4"), tmp_path / "alone")
    taken: list[str] = []

    def drain() -> None:
        taken.append(three.busy())
        three.drain(taken[0], DRAIN_SECONDS)
        deadline = time.monotonic() + DRAIN_SECONDS - 0.1
        while three.actors(taken[0]) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not three.actors(taken[0]), "a worker is still there when the machine is taken away"
        three.kill(taken[0])

    said = disturbed(sweep, three, tmp_path / "store", drain)
    assert f"node {taken[0]} goes away" in said
    sweeps.check(sweep, tmp_path / "store")


def test_a_gpu_that_fails_is_not_used_again(
    words: tuple[str, ...], three: Machines, tmp_path: Path, checkpoint: Callable[..., Path]
) -> None:
    names = [three.add(cpus=0, gpus=1) for _ in range(2)]
    model = (f"{MODEL}.path={checkpoint('llama')}", "models.chaotic.engine=tests.gpu_engine", f"{MODEL}.dtype=float32")
    try:
        said = faulty(words, three, tmp_path, "cuda", *model, "device=cuda", f"{MODEL}.options.pause=0.3")
    finally:
        for name in names:
            three.kill(name)
    assert "CUDA error" in said
    assert "its GPUs do not work" in said, "this machine has no GPU, so the check must find so"


def test_a_model_that_never_loads_is_reported_and_harms_no_other(
    words: tuple[str, ...], three: Machines, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    line = ("run", *words, f"{MODEL}.options.loads=never", f"ray.address={three.address}", f"store={store}")
    done = subprocess.run(sweeps.command(*line), env=sweeps.environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "the checkpoint is no checkpoint" in done.stderr
    found = sweeps.account(store)
    assert (found["scored"], found["failed"], found["asked"]) == (2 * ROWS, 2 * ROWS, 4 * ROWS)
    board = json.loads(sweeps.output("leaderboard", f"store={store}", "output=json"))
    assert {model["name"]: model["rows_missing"] for model in board["models"]} == {"shortest": 0, "chaotic": ROWS}


def test_a_driver_that_is_killed_leaves_no_actor_and_resumes(
    words: tuple[str, ...], three: Machines, tmp_path: Path
) -> None:
    sweep = undisturbed((*words, f"{MODEL}.options.pause=0.3"), tmp_path / "alone")
    store = tmp_path / "store"
    line = sweeps.command("run", *sweep.words, f"ray.address={three.address}", f"store={store}")
    with subprocess.Popen(line, env=sweeps.environment(), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as run:
        while not list(store.glob("measurements/*/*.parquet")) and run.poll() is None:
            time.sleep(0.05)
        assert run.poll() is None, "it ended by itself"
        os.kill(run.pid, signal.SIGKILL)
    deadline = time.monotonic() + 30
    while three.actors() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not three.actors(), "actors outlive their driver"
    disturbed(sweep, three, store, lambda: None)
    sweeps.check(sweep, store)


@further
def test_a_store_that_refuses_stops_the_run_and_the_next_one_ends_it(
    words: tuple[str, ...], three: Machines, tmp_path: Path
) -> None:
    sweep, store = undisturbed((*words, f"{MODEL}.options.pause=0.1"), tmp_path / "alone"), tmp_path / "store"

    def refuse() -> None:
        (store / "measurements").rename(tmp_path / "aside")
        (store / "measurements").touch()

    said = disturbed(sweep, three, store, refuse, code=1)
    assert "Traceback" not in said
    assert "error: " in said
    (store / "measurements").unlink()
    (tmp_path / "aside").rename(store / "measurements")
    disturbed(sweep, three, store, lambda: None)
    sweeps.check(sweep, store)


@further
def test_a_store_that_is_full_stops_the_run_and_the_next_one_ends_it(
    words: tuple[str, ...], three: Machines, tmp_path: Path
) -> None:
    sweep, store = undisturbed(words, tmp_path / "alone"), tmp_path / "disk" / "store"
    store.parent.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", str(store.parent)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a small file system")
    try:
        said = disturbed(sweep, three, store, lambda: None, code=1)
        assert "Traceback" not in said
        assert "No space left" in said
        subprocess.run(["mount", "-o", "remount,size=100m", str(store.parent)], check=True)
        disturbed(sweep, three, store, lambda: None)
        sweeps.check(sweep, store)
    finally:
        subprocess.run(["umount", str(store.parent)], check=True)


@further
def test_two_drivers_that_score_the_same_do_no_harm(words: tuple[str, ...], three: Machines, tmp_path: Path) -> None:
    sweep, store = undisturbed((*words, f"{MODEL}.options.pause=0.1"), tmp_path / "alone"), tmp_path / "store"
    line = sweeps.command("run", *sweep.words, f"ray.address={three.address}", f"store={store}")
    quiet = {"env": sweeps.environment(), "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    both = [subprocess.Popen(line, **quiet) for _ in range(2)]  # type: ignore[call-overload]
    assert [process.wait() for process in both] == [0, 0]
    assert sweeps.stored_rows(store) > sweep.rows, "nothing was scored twice"
    sweeps.check(sweep, store)
