"""A pool in this process: one thing at a time, for debugging and tests. The twin of `ray_pool`."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from orchestrator.cost import CPU
from orchestrator.events import (
    Assign,
    Capacity,
    Command,
    Done,
    Event,
    Failed,
    Fetch,
    Lint,
    Linted,
    Load,
    Node,
    Ready,
    Start,
    Stop,
    Want,
)
from workers.actor import Sink, Worker
from workers.errors import EngineError, SweepError, boundary
from workers.fetch import fetch
from workers.protocol import Request


class LocalPool:
    """Runs each command when its result is asked for; `gpus` is what the models may count on."""

    def __init__(self, sink: Sink, requests: Mapping[str, Sequence[Request]], gpus: int) -> None:
        self._sink = sink
        self._requests = requests
        self._gpus = gpus
        self._workers: dict[int, Worker] = {}
        self._tasks: deque[tuple[int, Callable[[], Event]]] = deque()
        self._fetching = ThreadPoolExecutor(max_workers=1)

    def perform(self, command: Command | Fetch | Want) -> None:
        """Queue the command; `Start` and `Stop` act at once. Nothing is lost here or grows: no checks, no wants."""
        match command:
            case Start(number, spec, placement):
                self._workers[number] = Worker(spec, self._sink, gpus=placement.gpus)
            case Lint(number, stream):
                worker, requests = self._workers[number], self._requests[stream]
                self._tasks.append((number, lambda: Linted(number, tuple(worker.lint(requests)))))
            case Load(number):
                worker = self._workers[number]
                self._tasks.append((number, lambda: Ready(number, worker.load())))
            case Assign(number, shard):
                worker = self._workers[number]
                self._tasks.append((number, lambda: Done(number, shard.id, worker.score(shard))))
            case Stop(number):
                self._workers.pop(number).close()
                self._tasks = deque(task for task in self._tasks if task[0] != number)
            case Fetch(spec):
                self._fetching.submit(fetch, spec)  # what it cannot fetch, the load will miss and say

    def next_event(self, timeout: float) -> Event | None:
        """Run the oldest queued command and report how it ended; without one, wait: a model rests."""
        if not self._tasks:
            time.sleep(timeout)
            return None
        number, task = self._tasks.popleft()
        try:
            with boundary(EngineError, f"worker {number}"):
                return task()
        except SweepError as error:
            return Failed(number, error)

    def capacity(self) -> Capacity:
        """One CPU slot, and the GPUs it was given; whatever the number of workers, one command runs at a time."""
        return Capacity((Node("local", 1, self._gpus, "" if self._gpus else CPU),))

    def close(self) -> None:
        """Drop all weights."""
        self._fetching.shutdown(wait=False, cancel_futures=True)
        for worker in self._workers.values():
            worker.close()
        self._workers.clear()
        self._tasks.clear()
