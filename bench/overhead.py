"""How busy a sweep keeps its GPUs when they compute nothing: logical GPUs, and an engine that sleeps.

    python -m bench.overhead                                   # 2,000 shards of 0.5 s on 16 GPUs
    python -m bench.overhead --shards 100000 --seconds 0.05    # the soak: is the driver's share of CPU and memory flat?

Everything but the engine is what a sweep runs: scheduler, Ray, store, event log, progress. The cluster is up, with a
process in waiting for every GPU: Ray keeps as many as a machine has cores, and the machine that is played here has one
for each GPU (`--cold`: as many as there really are). *Busy* is the time in the engine; the makespan is counted from the
first command, and from the first worker that is ready: in between the few CPUs import what all workers need.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from collections import defaultdict, deque
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from unittest.mock import patch

from orchestrator import watch
from orchestrator.config import Settings
from orchestrator.cost import Placement
from orchestrator.driver import Pool
from orchestrator.events import Assign, Capacity, Command, Done, Event, Fetch, Ready, Want
from orchestrator.plan import Plan, StreamPlan
from orchestrator.ray_pool import RayPool
from orchestrator.stores import open_store
from workers.protocol import Message, ModelSpec, Request, Shard

# isort: split
# `ray_cluster` sets what Ray reads when it is imported
import ray

MODELS = 16
ROWS = 4
LOAD_SECONDS = 1.0
REPORTS = 20
WAIT_SECONDS, CALM_SECONDS = 60.0, 3.0


@dataclass
class Metered:
    """A pool, and what is seen of a run from its events: engine seconds, the driver's CPU and memory."""

    pool: Pool
    shards: int
    busy: float = 0.0
    done: int = 0
    first: float = 0.0
    last: float = 0.0
    given: dict[int, deque[float]] = field(default_factory=lambda: defaultdict(deque))
    free: dict[int, float] = field(default_factory=dict)
    between: list[float] = field(default_factory=list)

    def perform(self, command: Command | Fetch | Want) -> None:
        """Pass it on; note when a shard is given."""
        if isinstance(command, Assign):
            self.given[command.worker].append(time.perf_counter())
        self.pool.perform(command)

    def next_event(self, timeout: float) -> Event | None:
        """Pass it on, counted."""
        event = self.pool.next_event(timeout)
        now = time.perf_counter()
        if isinstance(event, Ready):
            self.first = self.first or now
        if isinstance(event, Done):
            self.busy += event.report.seconds
            given = self.given[event.worker].popleft()
            before = self.free.setdefault(event.worker, given)
            self.between.append(now - max(given, before) - event.report.seconds)
            self.free[event.worker] = now
            self.done += 1
            self.last = now
            if self.done % max(1, self.shards // REPORTS) == 0:
                print(
                    f"{self.done:7d} shards  driver: {time.process_time():7.1f} s of CPU, {resident():6.0f} MB",
                    flush=True,
                )
        return event

    def capacity(self) -> Capacity:
        """Pass it on."""
        return self.pool.capacity()

    def close(self) -> None:
        """Pass it on."""
        self.pool.close()


def resident() -> float:
    """Megabytes of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def _start(gpus: int, cold: bool) -> None:
    """A cluster of this machine with so many logical GPUs."""
    cores = os.cpu_count() or 1
    with patch("multiprocessing.cpu_count", return_value=cores if cold else gpus):  # Ray's count of processes to start
        ray.init("local", num_gpus=gpus, num_cpus=gpus, include_dashboard=False, log_to_driver=False)
    deadline = time.monotonic() + WAIT_SECONDS
    while len(_waiting(os.getpid())) < min(gpus, cores if cold else gpus) and time.monotonic() < deadline:
        time.sleep(0.2)
    time.sleep(CALM_SECONDS)
    print(
        f"{len(_waiting(os.getpid()))} processes in waiting, load of this machine {os.getloadavg()[0]:.1f}", flush=True
    )


def _waiting(parent: int) -> list[int]:
    """Descendants of a process that are workers of Ray without anything to do."""
    found = []
    for child in map(int, Path(f"/proc/{parent}/task/{parent}/children").read_text().split()):
        with suppress(OSError):
            idle = Path(f"/proc/{child}/cmdline").read_text().startswith("ray::IDLE")
            found += [child] if idle else _waiting(child)
    return found


def plan(shards: int, seconds: float) -> Plan:
    """`MODELS` models over the same texts, each with its part of the shards."""
    each = shards // MODELS
    requests = tuple(
        Request("reward", (Message("user", f"question {row} " * 40),), (f"answer {row} " * 60,))
        for row in range(each * ROWS)
    )
    streams = {}
    for number in range(MODELS):
        spec = ModelSpec(
            f"sleeper-{number}",
            "none",
            "none",
            "baseline",
            "1",
            "bench.sleeping_engine",
            "1",
            (),
            gpus=1,
            options={"seconds": seconds, "number": number},
        )
        mine = tuple(
            Shard(f"{spec.fingerprint[:12]}-{shard:05d}", spec.fingerprint, requests[shard * ROWS : (shard + 1) * ROWS])
            for shard in range(each)
        )
        placement = Placement("", 1, 1, LOAD_SECONDS, (seconds,) * each)
        subsets = ("bench/all",) * len(requests)
        streams[spec.fingerprint] = StreamPlan(spec, len(requests), requests, subsets, "new", mine, (placement,))
    return Plan(streams)


def main() -> int:
    """Run the sweep and print how busy it was."""
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("--gpus", type=int, default=16)
    words.add_argument("--shards", type=int, default=2000)
    words.add_argument("--seconds", type=float, default=0.5)
    words.add_argument("--cold", action="store_true", help="as many processes in waiting as this machine has cores")
    asked = words.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(asked.gpus, asked.shards, asked.seconds, folder, asked.cold)
    return 0


def measure(gpus: int, shards: int, seconds: float, folder: str, cold: bool = False) -> float:
    """The busy share of all GPUs between the first shard and the last."""
    store = open_store(f"{folder}/store", {"run": "bench"})
    store.prepare()
    todo = plan(shards, seconds)
    settings = Settings("run", {}, None, {}, None, store.uri, "text", "ray", "", None, "cuda", ROWS, "text")
    _start(gpus, cold)
    pool = RayPool(store.write, {name: stream.owed for name, stream in todo.streams.items()}, "", None)
    meter = Metered(pool, shards)
    began, cpu = time.perf_counter(), time.process_time()
    try:
        _, scheduler = watch.drive(settings, store, "bench", todo, meter)
    finally:
        pool.close()
    whole, computing = meter.last - began, meter.last - meter.first
    used = time.process_time() - cpu
    print(f"{meter.done} shards of {seconds} s on {gpus} GPUs: {whole:.1f} s, {computing:.1f} s of them with a worker")
    print(
        f"busy: {meter.busy / (gpus * whole):.1%} from the first command, {meter.busy / (gpus * computing):.1%} since"
    )
    lost = sum(meter.between) / (gpus * whole)
    print(f"between shards: {1000 * median(meter.between):.1f} ms (median), {lost:.1%} of the time of all GPUs")
    print(f"driver: {used:.1f} s of CPU, {1000 * used / meter.done:.2f} ms a shard, {resident():.0f} MB")
    assert not any(stream.left_rows for stream in scheduler.streams.values())
    return meter.busy / (gpus * computing)


if __name__ == "__main__":
    raise SystemExit(main())
