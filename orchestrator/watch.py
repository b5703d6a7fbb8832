"""A sweep under the eyes of all who follow it: the terminal, the event log, Prometheus."""

from __future__ import annotations

import math
from collections.abc import Mapping

from orchestrator import cluster, driver
from orchestrator.config import Settings
from orchestrator.driver import Pool
from orchestrator.eventlog import Publish, Recorder
from orchestrator.events import Event
from orchestrator.faults import Limits
from orchestrator.plan import Plan
from orchestrator.progress import Progress, say
from orchestrator.scheduler import Scheduler
from orchestrator.stores import Store


def drive(
    settings: Settings, store: Store, run_id: str, todo: Plan, pool: Pool, priorities: Mapping[str, int] | None = None
) -> tuple[str, Scheduler]:
    """Drive the pool until nothing is owed, or the user stops it; how it ended."""
    state = "done"
    limits = Limits(deadline=settings.deadline or math.inf)
    scheduler = Scheduler(todo.streams.values(), pool.capacity(), limits, priorities)
    prices = {name: gpu.dollars for name, gpu in cluster.priced(settings.dollars).items()}
    recorder = Recorder(store, run_id, todo, scheduler, _publisher(settings), prices)
    with Progress(todo, scheduler) as progress, recorder as events:

        def observe(event: Event | None) -> None:
            events.observe(event)
            progress.observe(event)

        try:
            driver.run(scheduler, events.watching(pool), observe)
        except KeyboardInterrupt:
            state = "interrupted"
        if scheduler.aborted is not None:
            state = "aborted"
        elif state == "done" and scheduler.over and any(stream.left_rows for stream in scheduler.streams.values()):
            state = "deadline"
        events.state = state
    if scheduler.aborted is not None:
        say(f"error: {scheduler.aborted}")
    return state, scheduler


def _publisher(settings: Settings) -> Publish:
    """Who is shown how the run stands: Prometheus, through Ray where there is one."""
    if settings.pool == "local":
        return lambda snapshot: None
    from orchestrator.ray_metrics import RayMetrics

    return RayMetrics().publish
