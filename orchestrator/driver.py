"""The loop between the scheduler and a pool. It holds no scores: killed anywhere, only shards in flight are lost."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from orchestrator.ahead import Ahead
from orchestrator.demand import wanted
from orchestrator.events import Capacity, Command, Event, Fetch, Tick, Want
from orchestrator.scheduler import Scheduler

TICK_SECONDS = 0.5
WANT_SECONDS = 2.0
"""A pool is told so often what the run could use."""


class Pool(Protocol):
    """Where workers run. Two methods carry a run; `close` ends every worker that is left."""

    def perform(self, command: Command | Fetch | Want) -> None:
        """Do what the scheduler said, without waiting for it."""

    def next_event(self, timeout: float) -> Event | None:
        """The next thing that happened, None when nothing did within `timeout` seconds."""

    def capacity(self) -> Capacity:
        """The resources that workers can take."""

    def close(self) -> None:
        """End everything."""


def run(scheduler: Scheduler, pool: Pool, observe: Callable[[Event | None], None]) -> None:
    """Drive the scheduler to its end; `observe` sees every event after the scheduler has handled it.

    The caller closes the pool, also when this raises.
    """
    scheduler.handle(Tick(time.monotonic()))
    commands, ahead = scheduler.begin(), Ahead()
    told = -WANT_SECONDS
    while True:
        if scheduler.now - told >= WANT_SECONDS:
            told = scheduler.now
            pool.perform(wanted(scheduler.streams.values(), scheduler.now))
        for command in (*commands, *ahead.watch(commands, scheduler)):
            pool.perform(command)
        if scheduler.finished:
            return
        event = pool.next_event(TICK_SECONDS)
        commands = scheduler.handle(event) if event is not None else []
        commands += scheduler.handle(Tick(time.monotonic()))
        observe(event)
