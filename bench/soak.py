"""Whether the driver's CPU and memory stay flat: its whole loop over a pool that answers at once, without Ray.

    python -m bench.soak                    # 100,000 shards, 16 workers

Scheduler, event log, snapshots and progress are those of a sweep; every answer is there as soon as it is asked for, so
the seconds are the driver's own. `python -m bench.overhead --shards 100000 --seconds 0.05` is the same with Ray.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import deque
from dataclasses import dataclass, field

from bench.overhead import REPORTS, ROWS, plan, resident
from orchestrator import watch
from orchestrator.config import Settings
from orchestrator.events import (
    Assign,
    Capacity,
    Command,
    Done,
    Event,
    Fetch,
    Lint,
    Linted,
    Load,
    Node,
    Ready,
    Stop,
    Want,
)
from orchestrator.stores import open_store
from workers.protocol import ShardReport

SECONDS = 0.05
"""What every shard is said to take: short, so that workers have one ahead."""


@dataclass
class Instant:
    """A pool whose workers answer at once; notes the driver's CPU and memory now and then."""

    gpus: int
    every: int
    done: int = 0
    marks: list[tuple[float, float]] = field(default_factory=list)
    _answers: deque[Event] = field(default_factory=deque)

    def perform(self, command: Command | Fetch | Want) -> None:
        """Answer it; a worker that ends is heard of no more."""
        match command:
            case Lint(worker):
                self._answers.append(Linted(worker, ()))
            case Load(worker):
                self._answers.append(Ready(worker, 1.0))
            case Assign(worker, shard):
                self._answers.append(Done(worker, shard.id, ShardReport(len(shard.requests), 100, SECONDS, 0)))
            case Stop(worker):
                self._answers = deque(one for one in self._answers if getattr(one, "worker", None) != worker)

    def next_event(self, timeout: float) -> Event | None:
        """The next answer."""
        event = self._answers.popleft() if self._answers else None
        if isinstance(event, Done):
            self.done += 1
            if self.done % self.every == 0:
                self.marks.append((time.process_time(), resident()))
        return event

    def capacity(self) -> Capacity:
        """One machine."""
        return Capacity((Node("here", 0, self.gpus, ""),))

    def close(self) -> None:
        """Holds nothing."""


def main() -> int:
    """Drive the shards and print what each twentieth of them took."""
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("--gpus", type=int, default=16)
    words.add_argument("--shards", type=int, default=100_000)
    asked = words.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        soak(asked.gpus, asked.shards, folder)
    return 0


def soak(gpus: int, shards: int, folder: str) -> Instant:
    """The pool after a sweep of so many shards; every row has been counted."""
    store = open_store(f"{folder}/store", {"run": "bench"})
    store.prepare()
    todo = plan(shards, SECONDS)
    settings = Settings("run", {}, None, {}, None, store.uri, "text", "ray", "", None, "cuda", ROWS, "text")
    pool = Instant(gpus, max(1, shards // REPORTS))
    pool.marks.append((time.process_time(), resident()))
    _, scheduler = watch.drive(settings, store, "bench", todo, pool)
    assert sum(stream.done for stream in scheduler.streams.values()) == todo.owed
    each = [1000 * (end - start) / pool.every for (start, _), (end, _) in zip(pool.marks, pool.marks[1:], strict=False)]
    sizes = [size for _, size in pool.marks]
    print(f"{pool.done} shards, {todo.owed} rows, {gpus} workers; ms of CPU a shard in each {pool.every}:")
    print(" ".join(f"{one:.3f}" for one in each))
    first, last = sizes[1], sizes[-1]
    print(f"resident MB: {sizes[0]:.0f} before, {first:.0f} after the first, {max(sizes):.0f} at most, {last:.0f} last")
    return pool


if __name__ == "__main__":
    raise SystemExit(main())
