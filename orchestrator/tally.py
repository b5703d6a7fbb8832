"""Pure: what a run has done so far, from what the driver told the workers and what they answered.

Counts a stream and the living workers only, so its size is that of the cluster, not of the sweep. Rows and failures are
the scheduler's own; time, work and money are counted here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from orchestrator import bills
from orchestrator.events import (
    Assign,
    Check,
    Command,
    Done,
    Event,
    Failed,
    Fetch,
    GpuChecked,
    Linted,
    Lost,
    NodeDraining,
    NodeJoined,
    NodeLost,
    Ready,
    Start,
    Stop,
)
from orchestrator.plan import Plan, StreamPlan
from orchestrator.scheduler import Scheduler

Phase = Literal["load", "compute", "idle"]
PHASES: tuple[Phase, ...] = ("load", "compute", "idle")
CPU, GPU = "cpu", "gpu"
REASON_CHARACTERS = 300
RECENT = 60
"""Snapshots behind the rate of rows a second: minutes, where one is taken every few seconds."""


@dataclass(frozen=True)
class WorkerNow:
    """A living worker: its phase since when, its shard, one more `ahead`; `gpus` of a `kind` are its own meanwhile."""

    worker: int
    stream: str
    model: str
    kind: str
    gpus: float
    phase: Phase
    since: float
    shard: str | None = None
    ahead: str | None = None


@dataclass
class StreamCount:
    """A stream of measurements so far.

    `queue` counts shards that wait; `possible` is the FLOPs that its devices could have done while it computed;
    `gpu_seconds` are by kind of device and phase; `dollars` is None where a price is not known.
    """

    model: str
    fingerprint: str
    total: int
    owed: int
    done: int = 0
    failed: int = 0
    quarantined: int = 0
    reason: str | None = None
    queue: int = 0
    tokens: int = 0
    flops: float = 0.0
    possible: float = 0.0
    seconds: float = 0.0
    ooms: int = 0
    retries: int = 0
    written: int = 0
    dollars: float | None = 0.0
    gpu_seconds: dict[str, dict[str, float]] = field(default_factory=dict)

    @property
    def left(self) -> int:
        """Rows that are still owed."""
        return max(0, self.owed - self.done - self.failed - self.quarantined)


@dataclass(frozen=True)
class Snapshot:
    """A run at a moment (seconds since 1970), the next within `every` seconds; `rate`: rows a second, if any."""

    run: str
    state: str
    started: float
    at: float
    every: float
    rate: float | None
    streams: tuple[StreamCount, ...]
    workers: tuple[WorkerNow, ...]

    def sum(self, name: str) -> float:
        """A count over all streams."""
        found: float = sum(getattr(stream, name) for stream in self.streams)
        return found

    @property
    def dollars(self) -> float | None:
        """The cost so far, None where a price is not known."""
        known = [stream.dollars for stream in self.streams if stream.dollars is not None]
        return sum(known) if len(known) == len(self.streams) else None

    @property
    def gpu_seconds(self) -> float:
        """Seconds of all GPUs that workers held."""
        return sum(sum(phases.values()) for stream in self.streams for phases in stream.gpu_seconds.values())

    @property
    def seconds_left(self) -> float | None:
        """By the rate of late; None where there is none, 0 where nothing is left."""
        left = self.sum("left")
        return 0.0 if not left else left / self.rate if self.rate else None

    def to_json(self) -> dict[str, Any]:
        """All of it as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Snapshot:
        """The snapshot that `to_json` described."""
        streams = tuple(StreamCount(**stream) for stream in values["streams"])
        workers = tuple(WorkerNow(**worker) for worker in values["workers"])
        return cls(**{**values, "streams": streams, "workers": workers})


class Tally:
    """Told everything in order, with the time; answers with the row that the event log keeps of it.

    `prices` are dollars an hour by kind of device.
    """

    def __init__(self, plan: Plan, started: float, prices: Mapping[str, float]) -> None:
        self._started = started
        self._prices = prices
        self._plans = plan.streams
        self._streams = {
            name: StreamCount(stream.spec.name, name, stream.total, len(stream.owed), queue=len(stream.shards))
            for name, stream in plan.streams.items()
        }
        self._workers: dict[int, WorkerNow] = {}
        self._counted: dict[int, float] = {}
        self._recent: deque[tuple[float, int]] = deque([(started, 0)], maxlen=RECENT)

    def command(self, command: Command | Fetch, at: float) -> dict[str, Any]:
        """The driver tells a worker to do something."""
        if isinstance(command, Check):
            return self._row(_name(command), at, {"node": command.node})
        if isinstance(command, Fetch):
            about = {"node": command.node, "model": command.spec.name, "stream": command.spec.fingerprint}
            return self._row(_name(command), at, about)
        found: dict[str, Any] = {"worker": command.worker}
        match command:
            case Start(number, spec, placement, nodes):
                kind, gpus = placement.kind or (GPU if placement.gpus else CPU), placement.gpus
                self._workers[number] = WorkerNow(number, spec.fingerprint, spec.name, kind, gpus, "load", at)
                found["node"] = " ".join(nodes)
                self._counted[number] = at
            case Assign(number, shard):
                found |= {"shard": shard.id, "rows": len(shard.requests)}
                worker = self._workers.get(number)
                if worker is not None and worker.shard is not None:
                    self._workers[number] = replace(worker, ahead=shard.id)
                else:
                    self._turn(number, "compute", at, shard.id)
        row = self._row(_name(command), at, found)
        if isinstance(command, Stop):
            self._end(command.worker, at)
        return row

    def event(self, event: Event, at: float) -> dict[str, Any]:
        """Something happened; that of a worker which is gone is kept as a row, and counts for nothing."""
        number = getattr(event, "worker", None)
        worker = self._workers.get(number) if number is not None else None
        found: dict[str, Any] = {"worker": number, "shard": worker.shard if worker else None}
        match event:
            case Linted():
                found["rows"] = len(event.findings)
            case Ready():
                found["seconds"] = event.seconds
            case Done():
                found |= {name: getattr(event.report, name) for name in ("rows", "tokens", "seconds", "flops", "ooms")}
            case Failed():
                found["reason"] = str(event.error)[:REASON_CHARACTERS]
            case Lost():
                found["reason"] = ("preempted: " if event.preempted else "") + event.reason[:REASON_CHARACTERS]
            case _:
                found |= _of_node(event)
        row = self._row(_name(event), at, found)
        if worker is not None:
            self._count(event, worker, at)
        return row

    def snapshot(self, run: str, state: str, at: float, every: float, scheduler: Scheduler) -> Snapshot:
        """Everything as it stands; work that is under way is counted up to this moment."""
        for number in self._workers:
            self._settle(number, at)
        for name, count in self._streams.items():
            state_of = scheduler.streams.get(name)
            if state_of is not None:
                count.done, count.tokens, count.seconds = state_of.done, state_of.tokens, state_of.seconds
                count.failed, count.quarantined = state_of.failed_rows, len(state_of.quarantined)
                count.queue = state_of.waiting
                lost = (*state_of.failures[:1], *state_of.quarantined[:1])
                count.reason = state_of.failed or next((why for _, why in lost), None)
            count.dollars = self._dollars(self._plans[name], count)
        done = sum(count.done for count in self._streams.values())
        self._recent.append((at, done))
        since, before = self._recent[0]
        rate = (done - before) / (at - since) if done > before and at > since else None
        kept = tuple(replace(count, gpu_seconds=deepcopy(count.gpu_seconds)) for count in self._streams.values())
        return Snapshot(run, state, self._started, at, every, rate, kept, tuple(self._workers.values()))

    def _count(self, event: Event, worker: WorkerNow, at: float) -> None:
        """What an event of a living worker adds to its stream."""
        stream = self._streams[worker.stream]
        match event:
            case Ready():
                self._turn(worker.worker, "idle", at)
            case Done():
                report = event.report
                self._turn(worker.worker, "compute" if worker.ahead else "idle", at, worker.ahead)
                stream.ooms += report.ooms
                stream.written += report.written
                if report.peak:
                    stream.flops += report.flops
                    stream.possible += report.peak * report.seconds * max(worker.gpus, 1)
            case Failed():
                stream.retries += 1
                self._turn(worker.worker, "idle", at)
            case Lost():
                stream.retries += 1
                self._end(worker.worker, at)

    def _row(self, event: str, at: float, found: Mapping[str, Any]) -> dict[str, Any]:
        worker = self._workers.get(found["worker"]) if found.get("worker") is not None else None
        about = {name: getattr(worker, name) for name in ("model", "stream", "kind", "gpus")} if worker else {}
        return {"at": at, "event": event, **about, **found}

    def _turn(self, number: int, phase: Phase, at: float, shard: str | None = None) -> None:
        """A worker enters a phase."""
        if number in self._workers:
            self._settle(number, at)
            self._workers[number] = replace(self._workers[number], phase=phase, since=at, shard=shard, ahead=None)

    def _settle(self, number: int, at: float) -> None:
        """Count the GPU seconds of a living worker up to now."""
        worker = self._workers[number]
        if worker.gpus:
            seconds = self._streams[worker.stream].gpu_seconds.setdefault(worker.kind, dict.fromkeys(PHASES, 0.0))
            seconds[worker.phase] += max(0.0, at - self._counted[number]) * worker.gpus
        self._counted[number] = at

    def _end(self, number: int, at: float) -> None:
        if number in self._workers:
            self._settle(number, at)
            del self._workers[number], self._counted[number]

    def _dollars(self, plan: StreamPlan, count: StreamCount) -> float | None:
        """GPU hours at their price, tokens of an endpoint at its own."""
        if plan.spec.endpoint:
            return bills.dollars(plan.spec.endpoint, count.tokens, count.written)
        hours = {kind: sum(phases.values()) / 3600 for kind, phases in count.gpu_seconds.items()}
        if hours.keys() - self._prices.keys():
            return None
        return sum(self._prices[kind] * spent for kind, spent in hours.items())


def _of_node(event: Event) -> dict[str, Any]:
    """What an event of a machine says."""
    match event:
        case NodeJoined():
            return {"node": event.node.id}
        case NodeDraining():
            return {"node": event.node, "seconds": event.seconds}
        case NodeLost():
            return {"node": event.node, "reason": event.reason[:REASON_CHARACTERS]}
        case GpuChecked():
            return {"node": event.node, "reason": "well" if event.healthy else "broken"}
        case _:
            return {}


def _name(said: Command | Fetch | Event) -> str:
    return type(said).__name__.lower()
