"""Chaos: actors, raylets and the driver are killed at seeded moments of a sweep; the end is always one and the same.

`REWARDSWEEP_CHAOS=30` runs thirty seeds; `REWARDSWEEP_CHAOS_FIRST=7 REWARDSWEEP_CHAOS=1` runs the seed 7 again.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests import sweeps
from tests.cluster import Machines
from tests.sweeps import Sweep

FIRST, SEEDS = int(os.environ.get("REWARDSWEEP_CHAOS_FIRST", "0")), int(os.environ.get("REWARDSWEEP_CHAOS", "1"))
NODES = 3
ROWS = 200
FAULTS = ("actor", "actor", "raylet", "raylet", "drain", "driver", "driver")
DRAIN_SECONDS = 3
RUN_SECONDS = 240
TAIL = 4000
"""Characters of what drivers said that a failure shows."""

pytestmark = [pytest.mark.ray, pytest.mark.timeout(2 * RUN_SECONDS)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Machines]:
    with Machines() as machines:
        yield machines


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory, checkpoint: Callable[..., Path]) -> Sweep:
    """Baselines, one of them slow so that there is time for faults, and a tiny llama, undisturbed in one process."""
    folder = tmp_path_factory.mktemp("chaos")
    sweeps.write_pairs(folder / "pairs.jsonl", ROWS)
    words = (
        "model=[longest,random]",
        "+models.slow.family=baseline",
        "+models.slow.engine=tests.chaotic_engine",
        "+models.slow.options.pause=0.4",
        f"+models.llama.path={checkpoint('llama')}",
        "+models.llama.family=scalar",
        "benchmarks=[pairs]",
        f"data.pairs={folder / 'pairs.jsonl'}",
        "shard_rows=16",
    )
    sweeps.output("run", *words, "pool=local", f"store={folder / 'store'}")
    return Sweep(words, 4 * 2 * ROWS, sweeps.results(folder / "store"))


@dataclass
class Chaos:
    """One sweep and its seeded faults; `done` are those that met something alive."""

    cluster: Machines
    line: list[str]
    draws: random.Random
    log: Path
    done: list[str] = field(default_factory=list)

    def run(self) -> None:
        """Start the sweep, do it harm, start it again whenever it has died, until it ends by itself."""
        plan = [self.draws.choice(FAULTS) for _ in range(self.draws.randint(3, 5))]
        deadline = time.monotonic() + RUN_SECONDS
        driver = self._start()
        try:
            while driver.poll() is None or driver.returncode:
                assert time.monotonic() < deadline, f"not done after {self.done}"
                if driver.poll() is not None:
                    said = self.log.read_text(encoding="utf-8", errors="replace")[-TAIL:]
                    assert driver.returncode == -signal.SIGKILL, f"{driver.returncode} after {self.done}: {said}"
                    driver = self._start()
                _sleep(driver, self.draws.uniform(1.0, 4.0))
                if plan and driver.poll() is None:
                    self._harm(plan.pop(), driver)
        finally:
            driver.kill()
            driver.wait()

    def _start(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(self.line, env=sweeps.environment(), stdout=subprocess.DEVNULL, stderr=log)

    def _harm(self, fault: str, driver: subprocess.Popen[bytes]) -> None:
        node = self.draws.choice(sorted(self.cluster.nodes))
        match fault:
            case "actor":
                actors = self.cluster.actors()
                if not actors:
                    return
                os.kill(self.draws.choice(actors), signal.SIGKILL)
            case "raylet":
                self.cluster.kill(node)
                self.cluster.add()
            case "drain":
                self.cluster.drain(node, DRAIN_SECONDS)
                self.cluster.add()
                _sleep(driver, DRAIN_SECONDS)
                self.cluster.kill(node)
            case "driver":
                driver.kill()
        self.done.append(fault)


def _sleep(driver: subprocess.Popen[bytes], seconds: float) -> None:
    """At most until the driver ends."""
    try:
        driver.wait(seconds)
    except subprocess.TimeoutExpired:
        return


@pytest.mark.parametrize("seed", range(FIRST, FIRST + SEEDS))
def test_whatever_is_killed_the_end_is_the_same(cluster: Machines, sweep: Sweep, tmp_path: Path, seed: int) -> None:
    while len(cluster.nodes) < NODES:
        cluster.add()
    store = tmp_path / "store"
    line = sweeps.command("run", *sweep.words, f"ray.address={cluster.address}", f"store={store}")
    chaos = Chaos(cluster, line, random.Random(seed), tmp_path / "driver.log")
    chaos.run()
    print(f"seed {seed}: {', '.join(chaos.done)}")  # noqa: T201 - what a run of thirty is quoted by
    assert chaos.done, "nothing was harmed"
    sweeps.check(sweep, store)
