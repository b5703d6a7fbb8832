"""The driver is killed with SIGKILL at seeded moments; the same command resumes, and the result is one and the same."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from orchestrator.stores import open_store
from orchestrator.stores.parts import read_part
from tests.conftest import ROOT

LOCAL_SEEDS = 20
RAY_SEEDS = int(os.environ.get("REWARDSWEEP_RAY_KILLS", "3"))
SHARD_ROWS = 16
WORKERS = 2


@dataclass(frozen=True)
class Sweep:
    """One command over one data set, and what it gives when nobody disturbs it."""

    words: tuple[str, ...]
    rows: int
    seconds: float
    leaderboard: str
    scores: str


def command(*words: str) -> list[str]:
    return [sys.executable, "-P", "-m", "orchestrator", *words]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}


def output(*words: str) -> str:
    done = subprocess.run(command(*words), env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def undisturbed(words: tuple[str, ...], rows: int, store: Path) -> Sweep:
    started = time.monotonic()
    output("run", *words, f"store={store}")
    return Sweep(words, rows, time.monotonic() - started, *results(store))


def results(store: Path) -> tuple[str, str]:
    return output("leaderboard", f"store={store}", "output=json"), output("scores", f"store={store}", "output=jsonl")


def kill_and_resume(sweep: Sweep, store: Path, seed: int) -> int:
    """Kill one or two runs at seeded moments, let a last one finish; the number of kills that hit a living driver."""
    moments = random.Random(seed)
    hits = 0
    for _ in range(moments.choice((1, 2))):
        process = subprocess.Popen(
            command("run", *sweep.words, f"store={store}"),
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(moments.uniform(0.2, 0.95) * sweep.seconds)
        hits += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
    output("run", *sweep.words, f"store={store}")
    return hits


def check(sweep: Sweep, store: Path, kills: int) -> None:
    assert results(store) == (sweep.leaderboard, sweep.scores)
    opened = open_store(str(store))
    parts = [read_part(opened.load(path) or b"", path)[0] for path in opened.list("measurements")]
    keys = [row.key for part in parts for row in part]
    assert len(set(keys)) == sweep.rows
    assert len(keys) - len(set(keys)) <= kills * WORKERS * SHARD_ROWS, (
        "more than the shards in flight were scored twice"
    )


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("kill") / "pairs.jsonl"
    rows = [
        {"prompt": f"question {row}", "chosen": f"answer {row} " * 3, "rejected": f"reply {row} " * 2, "subset": "s"}
        for row in range(400)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def local_sweep(pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    words = (
        "model=[longest,random]",
        "benchmarks=[pairs]",
        f"data.pairs={pairs}",
        "pool=local",
        f"shard_rows={SHARD_ROWS}",
    )
    return undisturbed(words, 1600, tmp_path_factory.mktemp("local") / "store")


@pytest.mark.parametrize("seed", range(LOCAL_SEEDS))
def test_a_killed_local_run_resumes_to_the_same_leaderboard(local_sweep: Sweep, tmp_path: Path, seed: int) -> None:
    kills = kill_and_resume(local_sweep, tmp_path / "store", seed)
    check(local_sweep, tmp_path / "store", kills)


@pytest.fixture(scope="module")
def ray_sweep(pairs: Path, checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    words = (
        "model=[longest]",
        f"+models.llama.path={checkpoint('llama')}",
        "+models.llama.family=scalar",
        f"+models.bert.path={checkpoint('bert')}",
        "+models.bert.family=scalar",
        "benchmarks=[pairs]",
        f"data.pairs={pairs}",
        f"workers={WORKERS}",
        f"shard_rows={SHARD_ROWS}",
    )
    return undisturbed(words, 2400, tmp_path_factory.mktemp("ray") / "store")


@pytest.mark.ray
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(RAY_SEEDS))
def test_a_killed_ray_driver_resumes_to_the_same_leaderboard(ray_sweep: Sweep, tmp_path: Path, seed: int) -> None:
    kills = kill_and_resume(ray_sweep, tmp_path / "store", seed)
    check(ray_sweep, tmp_path / "store", kills)
